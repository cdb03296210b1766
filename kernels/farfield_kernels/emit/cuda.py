"""Program + Schedule -> CUDA C++ for NVRTC: rows in registers of a thread, column tiles in shared memory.

    farfield_reduce   one block of threads per unit of work
    farfield_merge    one thread per row, if the columns were split: merges the splits' wide states and finishes;
                      one block per batch element, if both axes are reduced

Strides over threads are written with `blockDim`, so that the same text also runs with one thread per block.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..expr import INDEX_SHIFT
from ..lower import Program
from ..reductions import Field
from ..schedule import Schedule
from .skeletons import CUDA
from .statements import (
    below,
    block,
    c_type,
    carried,
    fill,
    finish,
    indent,
    operand,
    out_type,
    sizes,
    slots,
    statements,
    title,
)

_FINITE_WIDE = "static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }\n"
LOW_MASK = (1 << INDEX_SHIFT) - 1


def emit(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    emitter = _Emitter(program, schedule)
    return CUDA.format(
        title=title(program),
        T="float" if schedule.dtype == "float32" else "double",
        rows=schedule.rows,
        tile=schedule.tile,
        chunk=schedule.chunk,
        threads=schedule.block,
        col_slots=max(1, len(emitter.col_slots)),
        components=len(program.components),
        slots=program.state_size,
        over_rows=int(program.over_rows),
        finite_wide=_FINITE_WIDE if schedule.dtype == "float32" else "",
        arguments=emitter.arguments(),
        out_arguments=emitter.out_arguments(),
        offsets=emitter.offsets(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        declare_wide=emitter.declare_wide(),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        flush=emitter.flush(),
        store=emitter.store(),
        merge_splits=emitter.merge_over_rows() if program.over_rows else emitter.merge_splits(),
    )


class _Emitter:
    """The parts of the template that depend on the program."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program, self.schedule = program, schedule
        self.values = program.values
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.slots = slots(program)
        self.row_range = range(schedule.rows)
        self.is_shifted = program.reduction.scheme == "shifted sum"
        self.col_slots = {number: place for place, number in enumerate(program.kept("col"))}
        self.widths = dict(program.widths)
        self.kinds = [c_type(dtype, schedule) for dtype in schedule.stored]
        self.in_registers = schedule.in_registers
        self.weighted = next((field.name for field in self.fields if field.each == "W"), "")

    # -- pointers and parameters

    def arguments(self) -> str:
        read = (f", const {kind} *__restrict__ b{k}" for k, kind in zip(self.widths, self.kinds, strict=True))
        return "".join(read) + self.out_arguments()

    def offsets(self) -> str:
        count = len(self.widths)
        return indent(
            [
                f"const {kind} *__restrict__ a{k} = b{k} + (offsets ? offsets[batch * {count} + {rank}] : 0);"
                for rank, (k, kind) in enumerate(zip(self.widths, self.kinds, strict=True))
            ],
            2,
        )

    def out_arguments(self) -> str:
        return "".join(
            f", {out_type(output, self.schedule)} *__restrict__ o{k}"
            for k, output in enumerate(self.program.outputs)
        )

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
            half = f"({index}) >> {INDEX_SHIFT}" if value.half == "high" else f"({index}) & {LOW_MASK}"
            return f"const V {name} = K({half});"
        width = self.widths[value.argument]
        return f"const V {name} = a{value.position}[({index}) * {width} + {value.component}];"

    def load_rows(self) -> str:
        lines = []
        for r in self.row_range:
            place = f"row_begin + threadIdx.x + {r} * (i64)blockDim.x"
            lines.append(f"const i64 row{r} = smaller({place}, row_end - 1);")
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
        return indent(lines, 8)

    # -- the state

    def declare(self, kind: str, prefix: str, extent: str) -> list[str]:
        """Arrays that hold the state, lane (`kind` V) or wide (f64), per component and row."""
        lines = []
        for field in self.fields:
            entries = f"[{self.slots[field.name][1]}]" if field.each else ""
            element = "I" if field.is_integer and kind == "V" else kind
            lines.append(f"{element} {prefix}{field.name}{extent}{entries};")
        return lines

    def identities(self, name: str) -> list[str]:
        """Set the state to its identity; `name` is the C text of a field, with its name left open."""
        return [
            self.each_entry(field, f"{name.format(field.name)}{{}} = {field.identity};") for field in self.fields
        ]

    def each_entry(self, field: Field, text: str) -> str:
        """`text` for a field, or for each of its entries."""
        if not field.each:
            return text.format("")
        return f"for (int q = 0; q < {self.slots[field.name][1]}; q++) {text.format('[q]')}"

    def declare_wide(self) -> str:
        """The wide state, at its identity."""
        lines = self.declare("f64", "w_", "[COMPONENTS][ROWS]")
        return indent([*lines, *self.each(self.identities("w_{}[o][r]"))], 2)

    def each(self, body: list[str]) -> list[str]:
        """A loop over components and rows; unrolled, it keeps the arrays in registers."""
        heads = ("for (int o = 0; o < COMPONENTS; o++)", "for (int r = 0; r < ROWS; r++) {")
        return [self.unroll, heads[0], self.unroll, "  " + heads[1], *("    " + line for line in body), "  }"]

    @property
    def unroll(self) -> str:
        return "#pragma unroll" if self.in_registers else "#pragma unroll 1"

    # -- the loop over pairs

    def fold(self) -> str:
        lines = self.declare("V", "", "[COMPONENTS][ROWS]")
        begins = carried(self.program, lambda name: f"w_{name}[o][r]")
        lines += self.each(
            [self.each_entry(field, f"{field.name}[o][r]{{}} = {begins[field.name]};") for field in self.fields]
            if begins
            else self.identities("{}[o][r]")
        )
        lines += self.shifted_loop() if self.is_shifted else self.fold_loop()
        return indent(lines, 6)

    def column_values(self, wanted: set[int]) -> list[str]:
        return [
            f"const V v{number} = tile[c][{place}];"
            for number, place in self.col_slots.items()
            if number in wanted
        ]

    def names(self, o: str, r: str) -> dict[str, str]:
        """What the `$` of a step stand for, but for the term."""
        return sizes(self.program) | {field.name: f"{field.name}[{o}][{r}]" for field in self.fields} | {"c": "c"}

    def each_weight(self, o: str, r: int, sums: str) -> list[str]:
        """The reduction's step for each weight, on the field of weights called `sums`."""
        return [
            fill(
                self.program.reduction.step_each,
                {self.weighted: f"{sums}[{o}][{r}][{q}]", "w": operand(self.program, weight, r), "e": "e"},
            )
            for q, weight in enumerate(self.program.weights)
        ]

    def computed(self, roots: Sequence[int], r: int) -> list[str]:
        """The pair values that `roots` need."""
        return statements(self.program, "pair", r, below(self.program, roots))

    def fold_loop(self) -> list[str]:
        body = self.column_values(below(self.program, [*self.program.components, *self.program.weights]))
        for r in self.row_range:
            lines = self.computed([*self.program.components, *self.program.weights], r)
            for o, value in self.components:
                names = self.names(str(o), str(r)) | {"t": operand(self.program, value, r)}
                step = [fill(self.program.reduction.step, names), *self.each_weight(str(o), r, self.weighted)]
                lines += block(self.condition(names), step)
            body += block("", lines)
        unroll = "#pragma unroll 4" if self.in_registers else "#pragma unroll 1"
        return [unroll, *block("for (int c = 0; c < count; c++)", body)]

    def condition(self, names: dict[str, str]) -> str:
        """Of a selection, what a term must meet to be taken in."""
        candidate = self.program.reduction.candidate
        if not candidate:
            return ""
        last = {field.name: f"{names[field.name]}[{self.program.K - 1}]" for field in self.fields}
        return f"if ({fill(candidate, names | last)})"

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk stay in registers while their maximum is found; then each costs one exp.

        The sums of a chunk are made apart and then added: in two levels, rounding errors stay small.
        """
        inside = "for (int u = 0; u < CHUNK; u++) if (c0 + u < count)"
        search = ["const int c = c0 + u;", *self.column_values(below(self.program, self.program.components))]
        for r in self.row_range:
            terms = [f"t[{o}][{r}][u] = {operand(self.program, value, r)};" for o, value in self.components]
            search += block("", [*self.computed(self.program.components, r), *terms])
        (field,) = (field for field in self.fields if field.name != "m")
        name, entries = field.name, f"[{self.slots[field.name][1]}]" if field.each else ""
        shift = [
            "V n = m[o][r];",
            "#pragma unroll",
            f"{inside} n = t[o][r][u] > n ? t[o][r][u] : n;",
            "h[o][r] = finite_or_zero(n);",
            "const V a = exp(m[o][r] - h[o][r]);",
            "m[o][r] = n;",
            self.each_entry(field, f"{name}[o][r]{{0}} = {name}[o][r]{{0}} * a;"),
            self.each_entry(field, "chunk[o][r]{0} = K(0);"),
        ]
        lines = [
            f"V t[COMPONENTS][ROWS][CHUNK], h[COMPONENTS][ROWS], chunk[COMPONENTS][ROWS]{entries};",
            "#pragma unroll",
            *block(inside, search),
            *self.each(shift),
        ]
        if self.program.weights:
            add = ["const int c = c0 + u;", *self.column_values(below(self.program, self.program.weights))]
            for r in self.row_range:
                power = f"const V e = exp(t[0][{r}][u] - h[0][{r}]);"
                add += block(
                    "", [*self.computed(self.program.weights, r), power, *self.each_weight("0", r, "chunk")]
                )
            lines += ["#pragma unroll", *block(inside, add)]
        else:
            names = {name: "chunk[o][r]", "e": "exp(t[o][r][u] - h[o][r])"}
            lines += self.each(["#pragma unroll", f"{inside} {fill(self.program.reduction.step_each, names)}"])
        lines += self.each([self.each_entry(field, f"{name}[o][r]{{0}} = {name}[o][r]{{0}} + chunk[o][r]{{0}};")])
        return block("for (int c0 = 0; c0 < count; c0 += CHUNK)", lines)

    # -- the wide state

    def flush(self) -> str:
        """Merge the lane state into the wide state."""
        lines = []
        for field in self.fields:
            read = f"{field.name}[o][r]{{0}}"
            value = f"{read} < 0 ? -1 : f64(col0 + {read})" if field.kind == "column" else f"(f64){read}"
            entries = f"[{self.slots[field.name][1]}]" if field.each else ""
            lines += [f"f64 l_{field.name}{entries};", self.each_entry(field, f"l_{field.name}{{0}} = {value};")]
        return indent(self.each([*lines, self.merge("w_{}[o][r]")]), 6)

    def merge(self, earlier: str) -> str:
        """The reduction's merge of the state `l_...` into that whose C text is `earlier`."""
        names = {field.name: earlier.format(field.name) for field in self.fields}
        later = {f"{field.name}2": f"l_{field.name}" for field in self.fields}
        return fill(self.program.reduction.merge, sizes(self.program) | names | later)

    # -- results

    def store(self) -> str:
        lines = []
        for r in self.row_range:
            names = {field.name: f"w_{field.name}[o][{r}]" for field in self.fields}
            whole = ["const i64 at_row = batch * rows + row;", *self.finish(names)]
            parts = [
                self.each_entry(field, f"{self.partial('batch', 'split', field)} = {names[field.name]}{{}};")
                for field in self.fields
            ]
            lines += block(
                f"if (row_begin + threadIdx.x + {r} * (i64)blockDim.x < row_end)",
                [
                    f"const i64 row = row{r};",
                    *block("if (splits == 1 && !OVER_ROWS)", whole),
                    *block("else", [self.unroll, *block("for (int o = 0; o < COMPONENTS; o++)", parts)]),
                ],
            )
        return indent(lines, 2)

    def partial(self, batch: str, split: str, field: Field) -> str:
        slot = f"{self.slots[field.name][0]}" + (" + q" if field.each else "")
        return f"partial[((({batch} * splits + {split}) * COMPONENTS + o) * SLOTS + {slot}) * rows + row]"

    def later(self, batch: str, split: str, *, flat: bool = False) -> list[str]:
        """Read one partial state into `l_...`; `flat` makes column numbers those of pairs."""
        lines = []
        for field in self.fields:
            read = self.partial(batch, split, field)
            if flat and field.kind == "column":
                read = f"{read} < 0 ? -1 : f64(row) * f64(cols) + {read}"
            entries = f"[{self.slots[field.name][1]}]" if field.each else ""
            lines += [f"f64 l_{field.name}{entries};", self.each_entry(field, f"l_{field.name}{{0}} = {read};")]
        return lines

    def merge_splits(self) -> str:
        """One row: its splits one after the other, then its result."""
        merge = [*self.later("batch", "split"), self.merge("w_{}")]
        names = {field.name: f"w_{field.name}" for field in self.fields}
        body = [
            *self.declare("f64", "w_", ""),
            *self.identities("w_{}"),
            *block("for (i64 split = 0; split < splits; split++)", merge),
            *self.finish_one(names),
        ]
        lines = [
            "const i64 at_row = (i64)blockIdx.x * blockDim.x + threadIdx.x;",
            "if (at_row >= batches * rows) return;",
            "const i64 batch = at_row / rows, row = at_row % rows;",
            *block("for (int o = 0; o < COMPONENTS; o++)", body),
        ]
        return indent(lines, 2)

    def merge_over_rows(self) -> str:
        """One batch element: each thread merges a run of rows, then one of them the runs."""
        begin = [*self.declare("f64", "w_", ""), *self.identities("w_{}")]
        names = {field.name: f"w_{field.name}" for field in self.fields}
        keep = [
            self.each_entry(field, f"{self.partial('batch', '(i64)0', field)} = w_{field.name}{{}};")
            for field in self.fields
        ]
        each_split = block(
            "for (i64 split = 0; split < splits; split++)",
            [*self.later("batch", "split", flat=True), self.merge("w_{}")],
        )
        runs = [
            *begin,
            *block("for (i64 row = first; row < last; row++)", each_split),
            *block("if (first < rows)", ["const i64 row = first;", *keep]),
        ]
        merge = [*self.later("batch", "(i64)0"), self.merge("w_{}")]
        whole = [*begin, *block("for (i64 row = 0; row < rows; row += run)", merge), *self.finish_one(names)]
        lines = [
            "const i64 batch = blockIdx.x, at_row = batch;",
            "const i64 run = (rows + blockDim.x - 1) / blockDim.x;",
            "const i64 first = threadIdx.x * run, last = smaller(rows, first + run);",
            *block("for (int o = 0; o < COMPONENTS; o++)", runs),
            "__syncthreads();",
            *block("if (threadIdx.x == 0) for (int o = 0; o < COMPONENTS; o++)", whole),
        ]
        return indent(lines, 2)

    def finish(self, names: dict[str, str]) -> list[str]:
        """Write the results of a row, all components."""
        lines = []
        for k, output in enumerate(self.program.outputs):
            body = finish(self.program, self.schedule, output, f"(o{k} + at_row * {output.width})", names)
            end = output.first + output.count
            lines += [self.unroll, *block(f"for (int o = {output.first}; o < {end}; o++)", body)]
        return lines

    def finish_one(self, names: dict[str, str]) -> list[str]:
        """Write the results of component `o`."""
        lines = []
        for k, output in enumerate(self.program.outputs):
            body = finish(self.program, self.schedule, output, f"(o{k} + at_row * {output.width})", names)
            lines += block(f"if (o >= {output.first} && o < {output.first + output.count})", body)
        return lines
