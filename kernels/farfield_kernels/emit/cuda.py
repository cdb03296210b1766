"""Program + Schedule -> CUDA C++ for NVRTC: rows in registers of a thread, column tiles in shared memory.

    farfield_reduce   grid (blocks of rows, splits of columns)
    farfield_merge    one thread per row, if the columns were split: merges the splits' wide states and finishes

Strides over threads are written with `blockDim`, so that the same text also runs with one thread per block.
"""

from __future__ import annotations

from ..lower import Output, Program
from ..schedule import Schedule
from .statements import fill, indent, merge, operand, state_name, statements, step

_SOURCE = """\
// Farfield: {title}
typedef long long i64;
typedef double f64;
typedef {T} T;
typedef T V;
typedef int I;
#define K(a) ((T)(a))
#define KI(a) ((I)(a))
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define ROWS {rows}
#define TILE {tile}
#define CHUNK {chunk}
#define COL_SLOTS {col_slots}
#define FIELDS {fields}

static __device__ __forceinline__ i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
static __device__ __forceinline__ T finite_or_zero(T x) {{ return x - x == K(0) ? x : K(0); }}
{finite_wide}
extern "C" __global__ void __launch_bounds__({threads})
farfield_reduce(i64 rows, i64 cols, i64 splits{arguments}, f64 *partial) {{
  __shared__ __align__(16) T tile[TILE][COL_SLOTS];
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 split = blockIdx.y;
  const i64 col_begin = split * span, col_end = smaller(col_begin + span, cols);
  const i64 first_row = (i64)blockIdx.x * blockDim.x * ROWS + threadIdx.x;
{parameters}
{load_rows}
{identity}
  for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {{
    const int m = (int)smaller(col_end - col0, TILE);
    __syncthreads();
    for (int q = threadIdx.x; q < m; q += blockDim.x) {{
      const i64 col = col0 + q;
{load_cols}
    }}
    __syncthreads();
{fold}
{flush}
  }}
{store}
}}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits{out_arguments}, const f64 *partial) {{
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
{first_split}
  for (i64 split = 1; split < splits; split++) {{
{merge_splits}
  }}
{finish}
}}
"""

_FINITE_WIDE = "static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }\n"


def emit(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    emitter = _Emitter(program, schedule)
    return _SOURCE.format(
        title=f"{program.reduction.name} over columns, rows are {program.row_axis}",
        T="float" if schedule.dtype == "float32" else "double",
        rows=schedule.rows,
        tile=schedule.tile,
        chunk=schedule.chunk,
        threads=schedule.block,
        col_slots=max(1, len(emitter.col_slots)),
        fields=emitter.fields_total,
        finite_wide=_FINITE_WIDE if schedule.dtype == "float32" else "",
        arguments=emitter.arguments(),
        out_arguments=emitter.out_arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        identity=emitter.identity(),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        flush=emitter.flush(),
        store=emitter.store(),
        first_split=emitter.first_split(),
        merge_splits=emitter.merge_splits(),
        finish=emitter.finish(0, 2),
    )


class _Emitter:
    """The parts of the template that depend on the program."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program = program
        self.values = program.values
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.fields_total = len(self.fields) * len(program.components)
        self.row_range = range(schedule.rows)
        self.shifted = program.reduction.scheme == "shifted sum"
        self.col_slots = {number: place for place, number in enumerate(program.kept("col"))}
        self.widths = dict(program.widths)

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
        width = self.widths[int(value.position or 0)]
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

    def wide(self, o: int, f: int, r: int) -> str:
        return f"w{o}_{self.fields[f].name}_{r}"

    def identity(self) -> str:
        lines = []
        for r in self.row_range:
            for o, _ in self.components:
                for f, field in enumerate(self.fields):
                    lines.append(f"f64 {self.wide(o, f, r)} = {field.identity};")
        return indent(lines, 2)

    def fold(self) -> str:
        lines = [
            f"{'I' if field.is_index else 'V'} {state_name(field, o, r)} = {field.identity};"
            for r in self.row_range
            for o, _ in self.components
            for field in self.fields
        ]
        lines += self.shifted_loop() if self.shifted else self.fold_loop()
        return indent(lines, 4)

    def column_values(self) -> list[str]:
        return [f"const V v{number} = tile[c][{place}];" for number, place in self.col_slots.items()]

    def fold_loop(self) -> list[str]:
        lines = ["#pragma unroll 4", "for (int c = 0; c < m; c++) {"]
        lines += ["  " + line for line in self.column_values()]
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            body += [
                step(self.program, o, r, operand(self.program, value, r), "c") for o, value in self.components
            ]
            lines += ["  {", *("    " + line for line in body), "  }"]
        return [*lines, "}"]

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk stay in registers while their maximum is found; then each costs one exp."""
        pairs = [(o, r) for o, _ in self.components for r in self.row_range]
        search = ["const int c = c0 + u;", *self.column_values()]
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            for o, value in self.components:
                t = operand(self.program, value, r)
                body += [f"t{o}_{r}[u] = {t};", f"n{o}_{r} = {t} > n{o}_{r} ? {t} : n{o}_{r};"]
            search += ["{", *("  " + line for line in body), "}"]
        shift = [
            f"const V h{o}_{r} = finite_or_zero(n{o}_{r}); "
            f"s{o}_{r} = s{o}_{r} * exp(m{o}_{r} - h{o}_{r}); m{o}_{r} = n{o}_{r};"
            for o, r in pairs
        ]
        add = [step(self.program, o, r, f"t{o}_{r}[u]", "c0 + u") for o, r in pairs]
        return [
            "for (int c0 = 0; c0 < m; c0 += CHUNK) {",
            *(f"  V t{o}_{r}[CHUNK], n{o}_{r} = m{o}_{r};" for o, r in pairs),
            "  #pragma unroll",
            "  for (int u = 0; u < CHUNK; u++) if (c0 + u < m) {",
            *("    " + line for line in search),
            "  }",
            *("  " + line for line in shift),
            "  #pragma unroll",
            "  for (int u = 0; u < CHUNK; u++) if (c0 + u < m) {",
            *("    " + line for line in add),
            "  }",
            "}",
        ]

    def flush(self) -> str:
        """Merge the lane state into the wide state."""
        lines = []
        for r in self.row_range:
            for o, _ in self.components:
                earlier = {field.name: self.wide(o, f, r) for f, field in enumerate(self.fields)}
                declared, later = [], {}
                for field in self.fields:
                    name = state_name(field, o, r)
                    value = f"{name} < 0 ? -1 : col0 + {name}" if field.is_index else name
                    declared.append(f"const f64 l_{field.name} = (f64)({value});")
                    later[field.name] = f"l_{field.name}"
                lines.append("{ " + " ".join(declared) + " " + merge(self.program, earlier, later) + " }")
        return indent(lines, 4)

    # -- results

    def partial(self, place: int, split: str, row: str) -> str:
        return f"partial[({split} * FIELDS + {place}) * rows + {row}]"

    def store(self) -> str:
        lines = []
        for r in self.row_range:
            lines.append(f"if (first_row + {r} * (i64)blockDim.x < rows) {{")
            lines.append(f"  const i64 row = row{r};")
            lines.append("  if (splits == 1) {")
            lines.append(self.finish(r, 4))
            lines.append("  } else {")
            for o, _ in self.components:
                for f, _field in enumerate(self.fields):
                    place = o * len(self.fields) + f
                    lines.append(f"    {self.partial(place, 'split', 'row')} = {self.wide(o, f, r)};")
            lines += ["  }", "}"]
        return indent(lines, 2)

    def first_split(self) -> str:
        lines = []
        for o, _ in self.components:
            for f, _field in enumerate(self.fields):
                place = o * len(self.fields) + f
                lines.append(f"f64 {self.wide(o, f, 0)} = {self.partial(place, '(i64)0', 'row')};")
        return indent(lines, 2)

    def merge_splits(self) -> str:
        lines = []
        for o, _ in self.components:
            earlier = {field.name: self.wide(o, f, 0) for f, field in enumerate(self.fields)}
            declared, later = [], {}
            for f, field in enumerate(self.fields):
                place = o * len(self.fields) + f
                declared.append(f"const f64 l_{field.name} = {self.partial(place, 'split', 'row')};")
                later[field.name] = f"l_{field.name}"
            lines.append("{ " + " ".join(declared) + " " + merge(self.program, earlier, later) + " }")
        return indent(lines, 4)

    def finish(self, r: int, by: int) -> str:
        lines = []
        for k, output in enumerate(self.program.outputs):
            finish = self.program.reduction.results[output.result].finish
            for place in range(output.count):
                o = output.first + place
                names = {field.name: self.wide(o, f, r) for f, field in enumerate(self.fields)}
                value = fill(finish, names)
                lines.append(f"o{k}[row * {output.count} + {place}] = ({self.out_type(output)})({value});")
        return indent(lines, by)
