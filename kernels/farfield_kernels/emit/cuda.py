"""Program + Schedule -> CUDA C++ for NVRTC: rows in registers of a thread, column tiles in shared memory.

    farfield_reduce   grid (blocks of rows, splits of columns)
    farfield_merge    one thread per row, if the columns were split: merges the splits' wide states and finishes

Strides over threads are written with `blockDim`, so that the same text also runs with one thread per block.
"""

from __future__ import annotations

from ..lower import Output, Program
from ..schedule import Schedule
from .skeletons import CUDA
from .statements import fill, indent, merge, operand, statements, step

_FINITE_WIDE = "static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }\n"


def emit(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    emitter = _Emitter(program, schedule)
    return CUDA.format(
        title=f"{program.reduction.name} over columns, rows are {program.row_axis}",
        T="float" if schedule.dtype == "float32" else "double",
        rows=schedule.rows,
        tile=schedule.tile,
        chunk=schedule.chunk,
        threads=schedule.block,
        col_slots=max(1, len(emitter.col_slots)),
        components=len(program.components),
        fields=len(program.reduction.state),
        finite_wide=_FINITE_WIDE if schedule.dtype == "float32" else "",
        arguments=emitter.arguments(),
        out_arguments=emitter.out_arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        declare_wide=emitter.declare_wide(),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        flush=emitter.flush(),
        store=emitter.store(),
        merge_splits=emitter.merge_splits(),
    )


class _Emitter:
    """The parts of the template that depend on the program."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program = program
        self.values = program.values
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.row_range = range(schedule.rows)
        self.is_shifted = program.reduction.scheme == "shifted sum"
        self.col_slots = {number: place for place, number in enumerate(program.kept("col"))}
        self.widths = dict(program.widths)
        self.in_registers = schedule.in_registers

    # -- pointers and parameters

    def arguments(self) -> str:
        inputs = "".join(f", const T *__restrict__ a{k}" for k, _ in self.program.widths)
        return inputs + self.out_arguments()

    def out_arguments(self) -> str:
        return "".join(
            f", {self.out_type(output)} *__restrict__ o{k}" for k, output in enumerate(self.program.outputs)
        )

    @staticmethod
    def out_type(output: Output) -> str:
        return "i64" if output.is_index else "f64" if output.is_sum else "T"

    def parameters(self) -> str:
        lines = statements(self.program, "constant")
        for number in self.program.at("p"):
            value = self.values[number]
            if value.is_load:
                lines.append(f"const V v{number} = a{value.position}[{value.component}];")
        return indent(lines + statements(self.program, "p"), 2)

    def _load(self, number: int, name: str, index: str) -> str:
        value = self.values[number]
        if value.half:
            half = f"({index}) >> 20" if value.half == "high" else f"({index}) & 0xfffff"
            return f"const V {name} = K({half});"
        width = self.widths[value.argument]
        return f"const V {name} = a{value.position}[({index}) * {width} + {value.component}];"

    def load_rows(self) -> str:
        lines = []
        for r in self.row_range:
            lines.append(f"const i64 row{r} = smaller(first_row + {r} * (i64)blockDim.x, rows - 1);")
            lines += [
                self._load(number, f"v{number}_{r}", f"row{r}")
                for number in self.program.at("row")
                if self.values[number].is_load
            ]
            lines += statements(self.program, "row", r)
        return indent(lines, 2)

    def load_cols(self) -> str:
        lines = [
            self._load(number, f"v{number}", "col")
            for number in self.program.at("col")
            if self.values[number].is_load
        ]
        lines += statements(self.program, "col")
        lines += [f"tile[q][{place}] = v{number};" for number, place in self.col_slots.items()]
        return indent(lines, 6)

    # -- the loop over pairs

    def declare_wide(self) -> str:
        """The wide state, at its identity."""
        lines = [f"f64 w_{field.name}[COMPONENTS][ROWS];" for field in self.fields]
        values = [f"w_{field.name}[o][r] = {field.identity};" for field in self.fields]
        return indent([*lines, *self.each(values)], 2)

    def each(self, body: list[str]) -> list[str]:
        """A loop over components and rows; unrolled, it keeps the arrays in registers."""
        unroll = "#pragma unroll" if self.in_registers else "#pragma unroll 1"
        heads = ("for (int o = 0; o < COMPONENTS; o++)", "for (int r = 0; r < ROWS; r++) {")
        return [unroll, heads[0], unroll, "  " + heads[1], *("    " + line for line in body), "  }"]

    def fold(self) -> str:
        lines = [f"{'I' if field.is_index else 'V'} {field.name}[COMPONENTS][ROWS];" for field in self.fields]
        lines += self.each([f"{field.name}[o][r] = {field.identity};" for field in self.fields])
        lines += self.shifted_loop() if self.is_shifted else self.fold_loop()
        return indent(lines, 4)

    def column_values(self) -> list[str]:
        return [f"const V v{number} = tile[c][{place}];" for number, place in self.col_slots.items()]

    def step(self, o: str, r: str, term: str, column: str) -> str:
        names = {field.name: f"{field.name}[{o}][{r}]" for field in self.fields}
        return step(self.program, names, term, column, "h")

    def fold_loop(self) -> list[str]:
        lines = ["#pragma unroll 4" if self.in_registers else "#pragma unroll 1"]
        lines += ["for (int c = 0; c < count; c++) {", *("  " + line for line in self.column_values())]
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            body += [
                self.step(str(o), str(r), operand(self.program, value, r), "c") for o, value in self.components
            ]
            lines += ["  {", *("    " + line for line in body), "  }"]
        return [*lines, "}"]

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk stay in registers while their maximum is found; then each costs one exp."""
        search = ["const int c = c0 + u;", *self.column_values()]
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            body += [f"t[{o}][{r}][u] = {operand(self.program, value, r)};" for o, value in self.components]
            search += ["{", *("  " + line for line in body), "}"]
        add = [
            "V n = m[o][r];",
            "#pragma unroll",
            "for (int u = 0; u < CHUNK; u++) if (c0 + u < count) n = t[o][r][u] > n ? t[o][r][u] : n;",
            "const V h = finite_or_zero(n);",
            "s[o][r] = s[o][r] * exp(m[o][r] - h);",
            "m[o][r] = n;",
            "#pragma unroll",
            "for (int u = 0; u < CHUNK; u++) if (c0 + u < count) " + self.step("o", "r", "t[o][r][u]", "c0 + u"),
        ]
        return [
            "for (int c0 = 0; c0 < count; c0 += CHUNK) {",
            "  V t[COMPONENTS][ROWS][CHUNK];",
            "  #pragma unroll",
            "  for (int u = 0; u < CHUNK; u++) if (c0 + u < count) {",
            *("    " + line for line in search),
            "  }",
            *("  " + line for line in self.each(add)),
            "}",
        ]

    def flush(self) -> str:
        """Merge the lane state into the wide state."""
        lines = []
        for field in self.fields:
            name = f"{field.name}[o][r]"
            value = f"{name} < 0 ? -1 : col0 + {name}" if field.is_index else name
            lines.append(f"const f64 l_{field.name} = (f64)({value});")
        earlier = {field.name: f"w_{field.name}[o][r]" for field in self.fields}
        later = {field.name: f"l_{field.name}" for field in self.fields}
        return indent(self.each([*lines, merge(self.program, earlier, later)]), 4)

    # -- results

    def store(self) -> str:
        lines = []
        for r in self.row_range:
            lines.append(f"if (first_row + {r} * (i64)blockDim.x < rows) {{")
            lines.append(f"  const i64 row = row{r};")
            lines.append("  if (splits == 1) {")
            lines += ["    " + line for line in self.finish(f"w_{{}}[o][{r}]")]
            lines.append("  } else {")
            lines += [f"    {self.unroll}", "    for (int o = 0; o < COMPONENTS; o++) {"]
            lines += [
                f"      {_partial('split', f)} = w_{field.name}[o][{r}];" for f, field in enumerate(self.fields)
            ]
            lines += ["    }", "  }", "}"]
        return indent(lines, 2)

    @property
    def unroll(self) -> str:
        return "#pragma unroll" if self.in_registers else "#pragma unroll 1"

    def merge_splits(self) -> str:
        """One component: its splits one after the other, then its result."""
        lines = [f"f64 w_{field.name} = {_partial('(i64)0', f)};" for f, field in enumerate(self.fields)]
        lines.append("for (i64 split = 1; split < splits; split++) {")
        lines += [f"  const f64 l_{field.name} = {_partial('split', f)};" for f, field in enumerate(self.fields)]
        earlier = {field.name: f"w_{field.name}" for field in self.fields}
        later = {field.name: f"l_{field.name}" for field in self.fields}
        lines += ["  " + merge(self.program, earlier, later), "}"]
        for k, output in enumerate(self.program.outputs):
            end = output.first + output.count
            lines.append(f"if (o >= {output.first} && o < {end}) {self._result(k, output, 'w_{}')}")
        return indent(lines, 4)

    def finish(self, name: str) -> list[str]:
        lines = []
        for k, output in enumerate(self.program.outputs):
            end = output.first + output.count
            lines += [
                self.unroll,
                f"for (int o = {output.first}; o < {end}; o++) {self._result(k, output, name)}",
            ]
        return lines

    def _result(self, k: int, output: Output, name: str) -> str:
        names = {field.name: name.format(field.name) for field in self.fields}
        value = fill(self.program.reduction.results[output.result].finish, names)
        return f"o{k}[row * {output.count} + o - {output.first}] = ({self.out_type(output)})({value});"


def _partial(split: str, field: int) -> str:
    return f"partial[(({split} * COMPONENTS + o) * FIELDS + {field}) * rows + row]"
