"""Program + Schedule -> C++: rows in SIMD lanes, columns broadcast, written with vector extensions.

    farfield_reduce   called by every thread; units of (block of rows, split of columns) are drawn from a ticket
    farfield_merge    called once if the columns were split: merges the splits' wide states and finishes

A column tile and a row block are laid out component by component, so that both are read with unit stride. A lane
state lives in registers while it fits there, else in memory, where a compiler would put it anyway after long
thought. The text is the same for every instruction set: the width of `V` comes from the compiler's own macros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..expr import INDEX_SHIFT
from ..lower import Level, Program
from ..reductions import Field
from ..schedule import Schedule
from .prelude_cpp import prelude
from .skeletons import CPP
from .statements import (
    below,
    block,
    c_type,
    fill,
    finish,
    functions,
    indent,
    operand,
    out_type,
    sizes,
    slots,
    statement,
    statements,
    title,
)

LOW_MASK = (1 << INDEX_SHIFT) - 1


def emit(program: Program, schedule: Schedule) -> str:
    """The C++ source of one kernel."""
    emitter = _Emitter(program, schedule)
    body = CPP.format(
        title=title(program),
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
        chunk_slots="CHUNK * GROUP * COMPONENTS" if emitter.is_shifted else "0",
        arguments=emitter.arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        identity=emitter.identity("BLOCK", 8),
        identity_merged=emitter.identity("1", 8),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        lane_pointers=emitter.lane_pointers(),
        flush=emitter.flush(),
        finish=emitter.finish("BLOCK", 8),
        finish_merged=emitter.finish("1", 6),
        out_pointers=emitter.out_pointers(),
        merge_splits=emitter.merge_splits(),
    )
    return body.replace("@PRELUDE@", prelude(schedule.dtype, functions(body)))


class _Emitter:
    """The parts of the template that depend on the program."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program, self.schedule = program, schedule
        self.values = program.values
        self.widths = dict(program.widths)
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.slots = slots(program)
        self.row_range = range(schedule.rows)
        self.in_registers = schedule.in_registers
        self.is_shifted = program.reduction.scheme == "shifted sum"
        self.row_slots = self.places("row")
        self.col_slots = self.places("col")

    def places(self, level: Level) -> dict[int, int]:
        """Value -> place in the row block or column tile: all that is loaded, and what the pair level reads."""
        kept = set(self.program.kept(level))
        numbers = [n for n in self.program.at(level) if self.values[n].is_load or n in kept]
        return {number: place for place, number in enumerate(numbers)}

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

    def _copy(self, slots: dict[int, int], memory: str, pitch: str, index: str) -> list[str]:
        """Fill the slots that are loaded; consecutive components of one argument are one loop."""
        lines = []
        for first, place, count in self._runs(slots):
            value = self.values[first]
            if value.half:
                half = f"({index}) >> {INDEX_SHIFT}" if value.half == "high" else f"({index}) & {LOW_MASK}"
                lines.append(f"{memory}[{place} * {pitch} + l] = (T)({half});")
                continue
            source = f"a{value.position}[({index}) * {self.widths[value.argument]} + {value.component} + k]"
            target = f"{memory}[({place} + k) * {pitch} + l]"
            lines.append(f"for (int k = 0; k < {count}; k++) {target} = {source};")
        return lines

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

    def _compute(self, level: Level, slots: dict[int, int], memory: str, pitch: str) -> list[str]:
        computed = statements(self.program, level)
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
        return loads + computed + stores if computed else []

    def load_rows(self) -> str:
        copies = self._copy(self.row_slots, "X", "BLOCK", "row0 + (l < n ? l : n - 1)")
        computed = self._compute("row", self.row_slots, "X", "BLOCK")
        lines = block("for (int l = 0; l < BLOCK; l++)", copies)
        lines += block("for (int l = 0; l < BLOCK; l += LANES)", computed)
        return indent(lines, 4)

    def load_cols(self) -> str:
        copies = self._copy(self.col_slots, "Y", "PITCH", "col0 + l")
        # Lanes past the last column hold older values; what is computed from them is never read.
        computed = self._compute("col", self.col_slots, "Y", "PITCH")
        lines = block("for (int l = 0; l < m; l++)", copies)
        lines += block("for (int l = 0; l < m; l += LANES)", computed)
        return indent(lines, 8)

    # -- the lane state

    def state_names(self, o: int, r: int) -> dict[str, str]:
        """Field -> its C variable for one component and row; one with an entry per weight has several."""
        return {field.name: f"{field.name}_{o}_{r}" for field in self.fields}

    def scalars(self, o: int, r: int) -> list[tuple[str, str, Field]]:
        """(C variable, its lanes in memory, field) of all state that is held in variables."""
        found = []
        for field in self.fields:
            first, count = self.slots[field.name]
            if field.each == "K":
                continue
            for q in range(count):
                name = f"{field.name}_{o}_{r}" + (f"_{q}" if field.each == "W" else "")
                kind = "I" if field.is_integer else "V"
                found.append((name, f"*({kind} *)({self.lanes(o, first + q, r)})", field))
        return found

    @staticmethod
    def lanes(o: int, slot: int, r: int) -> str:
        return f"lane + ({o} * SLOTS + {slot}) * GROUP + {r} * LANES"

    def arrays(self, o: int, r: int) -> list[str]:
        """Declarations of the state that is an array in memory."""
        lines = []
        for field in self.fields:
            if field.each == "K":
                kind = "I" if field.is_integer else "V"
                place = self.lanes(o, self.slots[field.name][0], r)
                lines.append(f"const Entries<{kind}> {field.name}_{o}_{r} = {{({kind} *)({place}), ROWS}};")
        return lines

    def read_state(self, o: int, r: int) -> list[str]:
        return [
            f"{'I' if field.is_integer else 'V'} {name} = {place};" for name, place, field in self.scalars(o, r)
        ]

    def write_state(self, o: int, r: int) -> list[str]:
        return [f"{place} = {name};" for name, place, _ in self.scalars(o, r)]

    def begin_state(self) -> list[str]:
        """The identity, in registers or in memory."""
        memory = [
            f"for (int f = {first}; f < {first + count}; f++) "
            f"*({'I' if field.is_integer else 'V'} *)(lane + (o * SLOTS + f) * GROUP + l) = {field.identity};"
            for field in self.fields
            for first, count in [self.slots[field.name]]
            if field.each == "K" or not self.in_registers
        ]
        loops = block(
            "for (int o = 0; o < COMPONENTS; o++)", block("for (int l = 0; l < GROUP; l += LANES)", memory)
        )
        if not self.in_registers:
            return loops
        return loops + [
            f"{'I' if field.is_integer else 'V'} {name} = {field.identity};"
            for r in self.row_range
            for o, _ in self.components
            for name, _, field in self.scalars(o, r)
        ]

    def end_state(self) -> list[str]:
        """Registers go to memory, where the flush finds them."""
        if not self.in_registers:
            return []
        return [line for r in self.row_range for o, _ in self.components for line in self.write_state(o, r)]

    def around(self, o: int, r: int, body: list[str]) -> list[str]:
        """Statements that read and write the lane state of one component of one row."""
        arrays = self.arrays(o, r)
        if self.in_registers:
            return [*arrays, *body]
        return block("", [*arrays, *self.read_state(o, r), *body, *self.write_state(o, r)])

    # -- the loop over pairs

    def fold(self) -> str:
        held = self.program.kept("row") if self.in_registers else []
        preload = [self.row_value(number, r) for r in self.row_range for number in held]
        loop = self.shifted_loop() if self.is_shifted else self.fold_loop()
        return indent([*preload, *self.begin_state(), *loop, *self.end_state()], 10)

    def row_value(self, number: int, r: int) -> str:
        return f"const V v{number}_{r} = *at(X, {self.row_slots[number]} * BLOCK + g + {r} * LANES);"

    def column_value(self, number: int) -> str:
        return f"const V v{number} = K(Y[{self.col_slots[number]} * PITCH + c]);"

    def pair_body(self, uses: Sequence[tuple[Sequence[int], Callable[[int], list[str]]]]) -> list[str]:
        """The values of one column with each row, and for each row the statements of every use, which come as
        soon as the values it needs are there.

        Without registers to hold them, row and column values are read right before their first use: the shorter
        they live, the sooner a compiler is done.
        """
        values = self.values
        wanted = below(self.program, [number for needs, _ in uses for number in needs])
        columns = [number for number in self.program.kept("col") if number in wanted]
        rows = [number for number in self.program.kept("row") if number in wanted]
        pairs = [number for number in self.program.at("pair") if number in wanted]
        lines = [self.column_value(number) for number in columns] if self.in_registers else []
        last = {k: max(needs, default=-1) for k, (needs, _) in enumerate(uses)}
        for r in self.row_range:
            late = set() if self.in_registers else {*columns, *rows}

            def read(numbers: Iterable[int], r: int = r, late: set[int] = late) -> list[str]:
                found = sorted(late.intersection(numbers))
                late.difference_update(found)
                return [self.row_value(n, r) if values[n].level == "row" else self.column_value(n) for n in found]

            body: list[str] = []
            left = list(range(len(uses)))
            for number in [*pairs, len(values)]:
                if number < len(values):
                    body += [*read(values[number].args), statement(self.program, number, r)]
                reached = number
                for k in [k for k in left if last[k] <= reached]:
                    left.remove(k)
                    body += [*read(uses[k][0]), *uses[k][1](r)]
            lines += block("", body)
        return lines

    def names(self, o: int, r: int) -> dict[str, str]:
        """What the `$` of a step stand for, but for the term."""
        return sizes(self.program) | self.state_names(o, r) | {"c": "c"}

    def each_weight(self, o: int, r: int) -> list[str]:
        """The reduction's step for each weight."""
        field = next((field.name for field in self.fields if field.each == "W"), "")
        text = self.program.reduction.step_each
        return [
            fill(text, {field: f"{field}_{o}_{r}_{q}", "w": operand(self.program, weight, r)})
            for q, weight in enumerate(self.program.weights)
        ]

    def fold_loop(self) -> list[str]:
        def use(o: int, number: int) -> Callable[[int], list[str]]:
            def step(r: int) -> list[str]:
                names = self.names(o, r) | {"t": operand(self.program, number, r)}
                text = [fill(self.program.reduction.step, names), *self.each_weight(o, r)]
                return self.around(o, r, block("", text))

            return step

        uses = [((number, *self.program.weights), use(o, number)) for o, number in self.components]
        return block("for (int c = 0; c < m; c++)", self.pair_body(uses))

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk go to memory while their maximum is found; then each costs one exp.

        The sums of a chunk are made apart and then added: in two levels, rounding errors stay small.
        """

        def term(o: int, r: int) -> str:
            return f"*at(S, (((c - c0) * COMPONENTS + {o}) * ROWS + {r}) * LANES)"

        def store(o: int, number: int) -> Callable[[int], list[str]]:
            return lambda r: [f"{term(o, r)} = {operand(self.program, number, r)};"]

        search = self.pair_body([((number,), store(o, number)) for o, number in self.components])
        lines = block("for (int c = c0; c < c1; c++)", search)
        every = [(o, r) for r in self.row_range for o, _ in self.components]
        for o, r in every:
            m = f"m_{o}_{r}"
            shift = [
                f"V n = {m};",
                f"for (int c = c0; c < c1; c++) n = {term(o, r)} > n ? {term(o, r)} : n;",
                f"h_{o}_{r} = finite_or_zero(n);",
                f"const V a = exp({m} - h_{o}_{r});",
                f"{m} = n;",
                *(f"{name} = {name} * a;" for name, _, _ in self.sums(o, r)),
            ]
            lines += [f"V h_{o}_{r};", *block("", self.around(o, r, shift))]
            lines += [f"V chunk_{name} = K(0);" for name, _, _ in self.sums(o, r)]
            if not self.program.weights:
                add = self.add_power(o, r, term(o, r))
                lines += block("for (int c = c0; c < c1; c++)", add)
        if self.program.weights:
            body = self.pair_body([(self.program.weights, lambda r: self.add_power(0, r, term(0, r)))])
            lines += block("for (int c = c0; c < c1; c++)", body)
        for o, r in every:
            add = [f"{name} = {name} + chunk_{name};" for name, _, _ in self.sums(o, r)]
            lines += block("", self.around(o, r, add))
        return block(
            "for (int c0 = 0; c0 < m; c0 += CHUNK)", ["const int c1 = (int)smaller(m, c0 + CHUNK);", *lines]
        )

    def sums(self, o: int, r: int) -> list[tuple[str, str, Field]]:
        """The state of a shifted sum but for its maximum."""
        return [found for found in self.scalars(o, r) if found[2].name != "m"]

    def add_power(self, o: int, r: int, term: str) -> list[str]:
        """Add exp(term - maximum), times each weight, to the sums of the chunk."""
        text, (field, *_) = self.program.reduction.step_each, (f for f in self.fields if f.name != "m")
        lines = [f"const V e = exp({term} - h_{o}_{r});"]
        if not self.program.weights:
            return [*lines, fill(text, {field.name: f"chunk_{field.name}_{o}_{r}", "e": "e"})]
        for q, weight in enumerate(self.program.weights):
            names = {
                field.name: f"chunk_{field.name}_{o}_{r}_{q}",
                "w": operand(self.program, weight, r),
                "e": "e",
            }
            lines.append(fill(text, names))
        return lines

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

    def identity(self, pitch: str, by: int) -> str:
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

    def later(self, read: Callable[[Field, str], str]) -> tuple[list[str], dict[str, str]]:
        """Declarations of the state to merge in, as doubles, and the names; `read` gives one of its numbers."""
        lines, names = [], {}
        for field in self.fields:
            _, count = self.slots[field.name]
            name = f"l_{field.name}"
            if field.each:
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

        return self.merge(*self.later(read), "BLOCK", "g + l", 14)

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
