"""Program + Schedule -> C++: rows in SIMD lanes, columns broadcast, written with vector extensions.

    farfield_reduce   called by every thread; units of (block of rows, split of columns) are drawn from a ticket
    farfield_merge    called once if the columns were split: merges the splits' wide states and finishes

A column tile and a group of rows are laid out component by component, so that both are read with unit stride. A
lane state lives in registers while it fits there, else in memory, where a compiler would put it anyway after long
thought. The text is the same for every instruction set: the width of `V` comes from the compiler's own macros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..expr import INDEX_SHIFT
from ..lower import Level, Program, Value
from ..reductions import Field
from ..schedule import Schedule
from .cpp_pairs import Pairs
from .instructions_cpp import TRANSPOSED, UNZIPPED
from .prelude_cpp import prelude
from .skeletons import CPP
from .statements import block, c_type, fill, finish, functions, indent, out_type, sizes, statements, title

LOW_MASK = (1 << INDEX_SHIFT) - 1
# A lane of a vector of columns meets few terms of a tile: its state is kept until they are 256, then merged.
RUN = """
        const i64 tiles = 256 * LANES / TILE > 1 ? 256 * LANES / TILE : 1;
        const i64 place = (col0 - range[0]) / TILE % tiles;
        const bool is_first = place == 0, is_last = place == tiles - 1 || col0 + TILE >= range[1];"""
# Before registers are given out, the compiler interleaves the chains of neighbouring pairs: 3 to 6 % faster. The
# order of a register tile is better as it is (by 5 to 10 %), and the pass takes long on long blocks.
INTERLEAVED = '#pragma GCC optimize("schedule-insns", "sched-pressure")\n'
SHORT_TEXT = 200  # values per pair
WRITTEN_OUT = 4  # components whose copies are no loop, which takes twice the time


def emit(program: Program, schedule: Schedule) -> str:
    """The C++ source of one kernel."""
    emitter = _Emitter(program, schedule)
    body = CPP.format(
        title=title(program),
        compiler=INTERLEAVED if not emitter.rolls and len(program.at("pair")) <= SHORT_TEXT else "",
        prelude="@PRELUDE@",
        rows=schedule.rows,
        block=schedule.block,
        tile=schedule.tile,
        chunk=schedule.chunk,
        components=len(program.components),
        slots=program.state_size,
        over_rows=int(program.over_rows),
        row_slots=len(emitter.row_slots),
        col_slots=len(emitter.col_slots),
        group_step="1" if emitter.is_across else "GROUP",
        lane_states="BLOCK" if emitter.is_across else "1",
        lane_state="g" if emitter.is_across else "0",
        run=RUN if emitter.is_across else "",
        flush_if="if (is_last) " if emitter.is_across else "",
        buffers=emitter.buffers,
        arguments=emitter.arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        identity=emitter.identity(8),
        identity_merged=emitter.identity(8),
        load_cols=emitter.load_cols(),
        fold=indent(emitter.fold(), 10),
        lane_pointers=emitter.lane_pointers(),
        flush=emitter.flush(),
        finish=emitter.finish("WIDE", 8),
        finish_merged=emitter.finish("1", 6),
        out_pointers=emitter.out_pointers(),
        merge_splits=emitter.merge_splits(),
    )
    return body.replace("@PRELUDE@", prelude(schedule.dtype, functions(body)))


class _Emitter(Pairs):
    """The parts of the template that depend on the program."""

    # -- pointers and parameters

    def arguments(self) -> str:
        lines = []
        for rank, (k, dtype) in enumerate(zip(self.widths, self.schedule.stored, strict=True)):
            kind = c_type(dtype, self.schedule)
            offset = f"(offsets ? offsets[batch * {len(self.widths)} + {rank}] : 0)"
            lines.append(f"const {kind} *const a{k} = (const {kind} *)in[{k}] + {offset};")
        return indent(lines, 4)

    def out_pointers(self) -> str:
        return indent(
            [
                f"{out_type(output, self.schedule)} *const o{k} = ({out_type(output, self.schedule)} *)out[{k}];"
                for k, output in enumerate(self.program.outputs)
            ],
            2,
        )

    def parameters(self) -> str:
        lines = statements(self.program, "constant")
        for number in self.program.at("p"):
            value = self.values[number]
            if value.is_load:
                lines.append(f"const V v{number} = K(a{value.position}[{value.component}]);")
        return indent(lines + statements(self.program, "p"), 4)

    # -- row block and column tile

    def _copy(
        self, slots: dict[int, int], at: Callable[[str, str], str], first: str, count: str, end: str, pitch: str
    ) -> list[str]:
        """Fill the slots that are loaded, of `count` rows or columns from `first` on; slots up to `end` repeat the
        last of them."""
        single, whole, rest = [], [], []
        number = f"{first} + l" if end == count else f"{first} + (l < {count} ? l : {count} - 1)"
        for value, place, length in self._runs(slots):
            lines = self._copy_one(self.values[value], place, length, at, number)
            vectors = self._copy_vector(self.values[value], place, length, at, first, pitch)
            if vectors:
                whole += vectors
                rest += lines
            else:
                single += lines
        whole = block(f"for (; l + LANES <= {count}; l += LANES)", whole)
        rest = block(f"for (; l < {end}; l++)", rest)
        return [
            *block("", ["int l = 0;", *whole, *rest] if whole else []),
            *block(f"for (int l = 0; l < {end}; l++)", single),
        ]

    def _copy_vector(
        self, value: Value, place: int, count: int, at: Callable[[str, str], str], first: str, pitch: str
    ) -> list[str]:
        """Fill the slots of one run for `LANES` rows or columns from `l` on; nothing if that is not faster."""
        if value.half or self.schedule.stored[list(self.widths).index(value.argument)] != self.schedule.dtype:
            return []
        width = self.widths[value.argument]
        if count == width <= UNZIPPED:
            source = f"a{value.position} + ({first} + l) * {width}"
            return [f"unzip_{count}({source}, &{at(str(place), 'l')}, {pitch});"]
        if count < TRANSPOSED:
            return []
        source = f"a{value.position} + ({first} + l) * {width} + {value.component}"
        square = f"transpose({source} + k, {width}, &{at(f'({place} + k)', 'l')}, {pitch});"
        lines = [f"for (int k = 0; k + LANES <= {count}; k += LANES) {square}"]
        if count % TRANSPOSED:
            one = f"{at(f'({place} + k)', '(l + t)')} = a{value.position}[({first} + l + t) * {width} + "
            copy = f"for (int t = 0; t < LANES; t++) {one}{value.component} + k];"
            lines.append(f"for (int k = {count} / LANES * LANES; k < {count}; k++) {copy}")
        return lines

    def _copy_one(
        self, value: Value, place: int, count: int, at: Callable[[str, str], str], number: str
    ) -> list[str]:
        """Fill the slots of one run for row or column `l`, whose number is `number`."""
        if value.half:
            half = f"({number}) >> {INDEX_SHIFT}" if value.half == "high" else f"({number}) & {LOW_MASK}"
            return [f"{at(str(place), 'l')} = (T)({half});"]
        source = f"a{value.position}[({number}) * {self.widths[value.argument]} + {value.component}"
        if count <= WRITTEN_OUT:
            return [f"{at(str(place + k), 'l')} = {source} + {k}];" for k in range(count)]
        return [f"for (int k = 0; k < {count}; k++) {at(f'({place} + k)', 'l')} = {source} + k];"]

    def _runs(self, slots: dict[int, int]) -> Iterable[tuple[int, int, int]]:
        """(first value, its slot, how many follow it in slots and components alike)."""
        runs: list[tuple[int, int, int]] = []
        for number, place in slots.items():
            value = self.values[number]
            if not value.is_load:
                continue
            if runs and not value.half:
                first, start, count = runs[-1]
                before = self.values[first]
                follows = value.position == before.position and value.component == before.component + count
                if follows and place == start + count:
                    runs[-1] = (first, start, count + 1)
                    continue
            runs.append((number, place, 1))
        return runs

    def _compute(self, level: Level, slots: dict[int, int], at: Callable[[str, str], str]) -> list[str]:
        computed = statements(self.program, level)
        read = {arg for n in self.program.at(level) for arg in self.values[n].args}
        loads = [
            f"const V v{number} = *(V *)&{at(str(place), 'l')};"
            for number, place in slots.items()
            if self.values[number].is_load and number in read
        ]
        stores = [
            f"*(V *)&{at(str(place), 'l')} = v{number};"
            for number, place in slots.items()
            if not self.values[number].is_load
        ]
        return loads + computed + stores if computed else []

    def load_rows(self) -> str:
        lines = self._copy(self.row_slots, self.row_at, "row0", "n", "BLOCK", "GROUP")
        computed = self._compute("row", self.row_slots, self.row_at)
        lines += block("for (int l = 0; l < BLOCK; l += LANES)", computed)
        return indent(lines, 4)

    def load_cols(self) -> str:
        lines = self._copy(self.col_slots, self.column_at, "col0", "m", "m", "PITCH")
        # Lanes past the last column hold older values; what is computed from them is never read.
        computed = self._compute("col", self.col_slots, self.column_at)
        lines += block("for (int l = 0; l < m; l += LANES)", computed)
        return indent(lines, 8)

    # -- the wide state

    def wide(self, pitch: str, lane: str) -> tuple[list[str], dict[str, str]]:
        """Declarations that name the wide state of component `o`, and the names."""
        lines, names = [], {}
        for field in self.fields:
            first, _ = self.slots[field.name]
            place = f"wide[o][{first}][{lane}]"
            kind = f"f64 &w_{field.name} = {place};"
            if field.each:
                kind = f"const Entries<f64> w_{field.name} = {{&{place}, {pitch}}};"
            lines.append(kind)
            names[field.name] = f"w_{field.name}"
        return lines, names

    def identity(self, by: int) -> str:
        lines = []
        for field in self.fields:
            first, count = self.slots[field.name]
            value = field.identity.replace("KI(", "(").replace("K(", "(")
            lines.append(f"for (int f = {first}; f < {first + count}; f++) wide[o][f][l] = {value};")
        return indent(lines, by)

    def lane_pointers(self) -> str:
        return indent(
            [
                f"const {'IT' if field.is_integer else 'T'} *const p_{field.name} = "
                f"(const {'IT' if field.is_integer else 'T'} *)lane + (o * SLOTS + {first}) * GROUP;"
                for field in self.fields
                for first, _ in [self.slots[field.name]]
            ],
            12,
        )

    def later(self, read: Callable[[Field, str], str], *, reads: bool = False) -> tuple[list[str], dict[str, str]]:
        """Declarations of the state to merge in, as doubles, and the names; `read` gives one of its numbers.

        With `reads` entries are read from the lane state, where it is their own type that is converted.
        """
        lines, names = [], {}
        for field in self.fields:
            _, count = self.slots[field.name]
            name = f"l_{field.name}"
            if field.each and field.kind == "number" and reads:
                lines.append(f"const Reads {name} = {{p_{field.name} + l, GROUP}};")
            elif field.each:
                copy = f"for (int q = 0; q < {count}; q++) {name}[q] = {read(field, 'q')};"
                lines += [f"f64 {name}[{count}];", copy]
            else:
                lines.append(f"const f64 {name} = {read(field, '0')};")
            names[f"{field.name}2"] = name
        return lines, names

    def merge(self, later: list[str], later_names: dict[str, str], pitch: str, lane: str, by: int) -> str:
        lines, names = self.wide(pitch, lane)
        text = fill(self.program.reduction.merge, sizes(self.program) | names | later_names)
        return indent([*lines, *later, text], by)

    def flush(self) -> str:
        """Merge the lane state into the wide state."""

        def read(field: Field, q: str) -> str:
            element = f"p_{field.name}[{'l' if q == '0' else f'{q} * GROUP + l'}]"
            return f"{element} < 0 ? -1 : f64(col0 + {element})" if field.kind == "column" else f"(f64){element}"

        return self.merge(*self.later(read, reads=True), "WIDE", "g" if self.is_across else "g + l", 14)

    def merge_splits(self) -> str:
        def read(field: Field, q: str) -> str:
            first, _ = self.slots[field.name]
            element = f"later[({first} + {q}) * rows]"
            over_rows = field.kind == "column" and self.program.over_rows
            return f"{element} < 0 ? -1 : f64(row) * f64(cols) + {element}" if over_rows else element

        return self.merge(*self.later(read), "1", "0", 12)

    def finish(self, pitch: str, by: int) -> str:
        lines = []
        declared, names = self.wide(pitch, "l")
        for k, output in enumerate(self.program.outputs):
            body = [
                *declared,
                *finish(self.program, self.schedule, output, f"(o{k} + at_row * {output.width})", names),
            ]
            lines += block(f"for (int o = {output.first}; o < {output.first + output.count}; o++)", body)
        return indent(lines, by)
