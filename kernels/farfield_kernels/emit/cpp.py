"""Program + Schedule -> C++: rows in SIMD lanes, columns broadcast, written with vector extensions.

    farfield_reduce   called by every thread; units of (block of rows, split of columns) are drawn from a ticket
    farfield_merge    called once if the columns were split: merges the splits' wide states and finishes

A column tile and a row block are laid out component by component, so that both are read with unit stride. The
text is the same for every instruction set: the width of `V` comes from the compiler's own macros.
"""

from __future__ import annotations

from ..lower import Level, Output, Program
from ..schedule import Schedule
from .prelude_cpp import prelude
from .statements import (
    fill,
    functions,
    indent,
    merge,
    operand,
    state_name,
    statements,
    step,
)

_SOURCE = """\
// Farfield: {title}
{prelude}
enum {{ ROWS = {rows}, GROUP = ROWS * LANES, BLOCK = {block}, TILE = {tile}, CHUNK = {chunk} }};
enum {{ FIELDS = {fields}, ROW_SLOTS = {row_slots}, COL_SLOTS = {col_slots} }};
enum {{ PITCH = TILE + LANES }};  // distance of two column slots; not a power of two, which would share cache sets

HOT i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
HOT V *at(char *memory, i64 element) {{ return (V *)(memory + element * sizeof(T)); }}

extern "C" int farfield_reduce(i64 rows, i64 cols, i64 splits, const void *const *in, void *const *out,
                               f64 *partial, i64 *ticket) {{
{arguments}
  const i64 row_blocks = (rows + BLOCK - 1) / BLOCK;
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 x_bytes = ROW_SLOTS * BLOCK * sizeof(T), y_bytes = COL_SLOTS * PITCH * sizeof(T);
  const i64 wide_bytes = FIELDS * BLOCK * sizeof(f64), chunk_bytes = {chunk_slots} * sizeof(T);
  char *const allocated = (char *)__builtin_malloc(x_bytes + y_bytes + wide_bytes + chunk_bytes + BYTES);
  if (!allocated) return 1;
  char *const X = allocated + (BYTES - (unsigned long)allocated % BYTES);
  char *const Y = X + x_bytes;
  char *const S = Y + y_bytes;
  f64 (*const wide)[BLOCK] = (f64 (*)[BLOCK])(S + chunk_bytes);
{parameters}
  for (;;) {{
    const i64 unit = __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED);
    if (unit >= row_blocks * splits) break;
    const i64 row0 = unit / splits * BLOCK, split = unit % splits;
    const int n = (int)smaller(BLOCK, rows - row0);
    const i64 col_end = smaller(cols, (split + 1) * span);
{load_rows}
{identity}
    for (i64 col0 = split * span; col0 < col_end; col0 += TILE) {{
      const int m = (int)smaller(TILE, col_end - col0);
{load_cols}
      for (int g = 0; g < n; g += GROUP) {{
{fold}
{flush}
      }}
    }}
    if (splits == 1) {{
      for (int l = 0; l < n; l++) {{
        const i64 row = row0 + l;
{finish}
      }}
    }} else {{
      for (int f = 0; f < FIELDS; f++)
        for (int l = 0; l < n; l++) partial[(split * FIELDS + f) * rows + row0 + l] = wide[f][l];
    }}
  }}
  __builtin_free(allocated);
  return 0;
}}

extern "C" int farfield_merge(i64 rows, i64 cols, i64 splits, void *const *out, const f64 *partial) {{
{out_pointers}
  for (i64 row = 0; row < rows; row++) {{
    f64 wide[FIELDS][1];
    for (int f = 0; f < FIELDS; f++) wide[f][0] = partial[f * rows + row];
    for (i64 split = 1; split < splits; split++) {{
      f64 later[FIELDS];
      for (int f = 0; f < FIELDS; f++) later[f] = partial[(split * FIELDS + f) * rows + row];
{merge_splits}
    }}
    const int l = 0;
{finish_merged}
  }}
  return 0;
}}
"""


def emit(program: Program, schedule: Schedule) -> str:
    """The C++ source of one kernel."""
    emitter = _Emitter(program, schedule)
    reduction = program.reduction
    body = _SOURCE.format(
        title=f"{reduction.name} over columns, rows are {program.row_axis}",
        prelude="@PRELUDE@",
        rows=schedule.rows,
        block=schedule.block,
        tile=schedule.tile,
        chunk=schedule.chunk,
        fields=len(reduction.state) * len(program.components),
        row_slots=len(emitter.row_slots),
        col_slots=len(emitter.col_slots),
        chunk_slots=f"CHUNK * GROUP * {len(program.components)}" if emitter.shifted else "0",
        arguments=emitter.arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        identity=emitter.identity(),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        flush=emitter.flush(),
        finish=emitter.finish(8),
        finish_merged=emitter.finish(4),
        out_pointers=emitter.out_pointers(),
        merge_splits=emitter.merge_splits(),
    )
    return body.replace("@PRELUDE@", prelude(schedule.dtype, functions(body)))


class _Emitter:
    """The parts of the template that depend on the program."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program = program
        self.values = program.values
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.row_range = range(schedule.rows)
        self.shifted = program.reduction.scheme == "shifted sum"
        self.row_slots = self.slots("row")
        self.col_slots = self.slots("col")

    def slots(self, level: Level) -> dict[int, int]:
        """Value -> place in the row block or column tile: all that is loaded, and what the pair level reads."""
        kept = set(self.program.kept(level))
        numbers = [n for n in self.program.at(level) if self.values[n].is_load or n in kept]
        return {number: place for place, number in enumerate(numbers)}

    # -- pointers and parameters

    def arguments(self) -> str:
        lines = [f"const T *const a{k} = (const T *)in[{k}];" for k, _ in self.program.widths]
        return indent(lines, 2) + "\n" + self.out_pointers()

    def out_pointers(self) -> str:
        return indent(
            [
                f"{self.out_type(output)} *const o{k} = ({self.out_type(output)} *)out[{k}];"
                for k, output in enumerate(self.program.outputs)
            ],
            2,
        )

    @staticmethod
    def out_type(output: Output) -> str:
        return "i64" if output.is_index else "f64" if output.is_sum else "T"

    def parameters(self) -> str:
        lines = statements(self.program, "constant")
        for number in self.program.at("p"):
            value = self.values[number]
            if value.is_load:
                lines.append(f"const V v{number} = K(a{value.position}[{value.component}]);")
        return indent(lines + statements(self.program, "p"), 2)

    # -- row block and column tile

    def _copy(
        self, slots: dict[int, int], memory: str, pitch: str, index: str, widths: dict[int, int]
    ) -> list[str]:
        lines = []
        for number, place in slots.items():
            value = self.values[number]
            if value.half:
                number_text = f"({index}) >> 20" if value.half == "high" else f"({index}) & 0xfffff"
                lines.append(f"((T *){memory})[{place} * {pitch} + l] = (T)({number_text});")
            elif value.is_load:
                width = widths[int(value.position or 0)]
                source = f"a{value.position}[({index}) * {width} + {value.component}]"
                lines.append(f"((T *){memory})[{place} * {pitch} + l] = {source};")
        return lines

    def _compute(self, level: Level, slots: dict[int, int], memory: str, pitch: str) -> list[str]:
        computed = statements(self.program, level)
        if not computed:
            return []
        read = {arg for n in self.program.at(level) for arg in self.values[n].args}
        loads = [
            f"const V v{number} = *at({memory}, {place} * {pitch} + l);"
            for number, place in slots.items()
            if self.values[number].is_load and number in read
        ]
        stores = [
            f"*at({memory}, {place} * {pitch} + l) = v{number};"
            for number, place in slots.items()
            if not self.values[number].is_load
        ]
        return loads + computed + stores

    def load_rows(self) -> str:
        widths = dict(self.program.widths)
        copies = self._copy(self.row_slots, "X", "BLOCK", "row0 + (l < n ? l : n - 1)", widths)
        lines = []
        if copies:
            lines += ["for (int l = 0; l < BLOCK; l++) {", *("  " + line for line in copies), "}"]
        computed = self._compute("row", self.row_slots, "X", "BLOCK")
        if computed:
            lines += ["for (int l = 0; l < BLOCK; l += LANES) {", *("  " + line for line in computed), "}"]
        return indent(lines, 4)

    def load_cols(self) -> str:
        widths = dict(self.program.widths)
        copies = self._copy(self.col_slots, "Y", "PITCH", "col0 + l", widths)
        lines = []
        if copies:
            lines += ["for (int l = 0; l < m; l++) {", *("  " + line for line in copies), "}"]
        computed = self._compute("col", self.col_slots, "Y", "PITCH")
        if computed:
            # Lanes past the last column hold older values; what is computed from them is never read.
            lines += ["for (int l = 0; l < m; l += LANES) {", *("  " + line for line in computed), "}"]
        return indent(lines, 6)

    # -- the loop over pairs

    def identity(self) -> str:
        lines = []
        for o, _ in self.components:
            for f, field in enumerate(self.fields):
                value = field.identity.replace("KI(", "(").replace("K(", "(")
                place = o * len(self.fields) + f
                lines.append(f"for (int l = 0; l < BLOCK; l++) wide[{place}][l] = {value};")
        return indent(lines, 4)

    def fold(self) -> str:
        lines = []
        for r in self.row_range:
            for number in self.program.kept("row"):
                lines.append(
                    f"const V v{number}_{r} = *at(X, {self.row_slots[number]} * BLOCK + g + {r} * LANES);"
                )
            for o, _ in self.components:
                lines += [
                    f"{'I' if field.is_index else 'V'} {state_name(field, o, r)} = {field.identity};"
                    for field in self.fields
                ]
        lines += self.shifted_loop() if self.shifted else self.fold_loop()
        return indent(lines, 8)

    def column_values(self) -> list[str]:
        return [
            f"const V v{number} = K(((const T *)Y)[{self.col_slots[number]} * PITCH + c]);"
            for number in self.program.kept("col")
        ]

    def fold_loop(self) -> list[str]:
        lines = ["for (int c = 0; c < m; c++) {", *("  " + line for line in self.column_values())]
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            body += [
                step(self.program, o, r, operand(self.program, value, r), "c") for o, value in self.components
            ]
            lines += ["  {", *("    " + line for line in body), "  }"]
        return [*lines, "}"]

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk go to memory while their maximum is found; then each costs one exp."""
        pairs = [(o, r) for o, _ in self.components for r in self.row_range]
        D = len(self.components)

        def term(o: int, r: int) -> str:
            return f"*at(S, (((c - c0) * {D} + {o}) * ROWS + {r}) * LANES)"

        first = [f"V n{o}_{r} = m{o}_{r};" for o, r in pairs]
        search = list(self.column_values())
        for r in self.row_range:
            body = statements(self.program, "pair", r)
            for o, value in self.components:
                t = operand(self.program, value, r)
                body += [f"{term(o, r)} = {t};", f"n{o}_{r} = {t} > n{o}_{r} ? {t} : n{o}_{r};"]
            search += ["{", *("  " + line for line in body), "}"]
        shift = [
            f"const V h{o}_{r} = finite_or_zero(n{o}_{r}); "
            f"s{o}_{r} = s{o}_{r} * exp(m{o}_{r} - h{o}_{r}); m{o}_{r} = n{o}_{r};"
            for o, r in pairs
        ]
        add = [step(self.program, o, r, term(o, r), "c") for o, r in pairs]
        return [
            "for (int c0 = 0; c0 < m; c0 += CHUNK) {",
            "  const int c1 = (int)smaller(m, c0 + CHUNK);",
            *("  " + line for line in first),
            "  for (int c = c0; c < c1; c++) {",
            *("    " + line for line in search),
            "  }",
            *("  " + line for line in shift),
            "  for (int c = c0; c < c1; c++) {",
            *("    " + line for line in add),
            "  }",
            "}",
        ]

    def flush(self) -> str:
        """Merge the lane state into the wide state."""
        lines = []
        for r in self.row_range:
            for o, _ in self.components:
                places = {
                    field.name: f"wide[{o * len(self.fields) + f}][g + {r} * LANES + l]"
                    for f, field in enumerate(self.fields)
                }
                later = {}
                for field in self.fields:
                    name = state_name(field, o, r)
                    if field.is_index:
                        later[field.name] = f"(f64)({name}[l] < 0 ? -1 : col0 + {name}[l])"
                    else:
                        later[field.name] = f"(f64){name}[l]"
                lines += self._merge_lane(places, later)
        return indent(lines, 8)

    def _merge_lane(self, places: dict[str, str], later: dict[str, str]) -> list[str]:
        names = [field.name for field in self.fields]
        return [
            "for (int l = 0; l < LANES; l++) {",
            *(f"  f64 &w_{name} = {places[name]}; const f64 l_{name} = {later[name]};" for name in names),
            "  " + merge(self.program, {n: f"w_{n}" for n in names}, {n: f"l_{n}" for n in names}),
            "}",
        ]

    # -- results

    def merge_splits(self) -> str:
        names = [field.name for field in self.fields]
        lines = []
        for o, _ in self.components:
            places = {name: o * len(names) + f for f, name in enumerate(names)}
            text = merge(
                self.program,
                {name: f"wide[{place}][0]" for name, place in places.items()},
                {name: f"later[{place}]" for name, place in places.items()},
            )
            lines.append("{ " + text + " }")
        return indent(lines, 6)

    def finish(self, by: int) -> str:
        lines = []
        for k, output in enumerate(self.program.outputs):
            finish = self.program.reduction.results[output.result].finish
            for place in range(output.count):
                o = output.first + place
                names = {field.name: f"wide[{o * len(self.fields) + f}][l]" for f, field in enumerate(self.fields)}
                value = fill(finish, names)
                lines.append(f"o{k}[row * {output.count} + {place}] = ({self.out_type(output)})({value});")
        return indent(lines, by)
