"""Program + Schedule -> C++: rows in SIMD lanes, columns broadcast, written with vector extensions.

    farfield_reduce   called by every thread; units of (block of rows, split of columns) are drawn from a ticket
    farfield_merge    called once if the columns were split: merges the splits' wide states and finishes

A column tile and a row block are laid out component by component, so that both are read with unit stride. A lane
state lives in registers while it fits there, else in memory, where a compiler would put it anyway after long
thought. The text is the same for every instruction set: the width of `V` comes from the compiler's own macros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..lower import Level, Output, Program
from ..reductions import Field
from ..schedule import Schedule
from .prelude_cpp import prelude
from .skeletons import CPP
from .statements import fill, functions, indent, merge, operand, statement, statements, step


def emit(program: Program, schedule: Schedule) -> str:
    """The C++ source of one kernel."""
    emitter = _Emitter(program, schedule)
    reduction = program.reduction
    body = CPP.format(
        title=f"{reduction.name} over columns, rows are {program.row_axis}",
        prelude="@PRELUDE@",
        rows=schedule.rows,
        block=schedule.block,
        tile=schedule.tile,
        chunk=schedule.chunk,
        components=len(program.components),
        fields=len(reduction.state),
        row_slots=len(emitter.row_slots),
        col_slots=len(emitter.col_slots),
        chunk_slots="CHUNK * GROUP * COMPONENTS" if emitter.is_shifted else "0",
        arguments=emitter.arguments(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        identity=emitter.identity(),
        load_cols=emitter.load_cols(),
        fold=emitter.fold(),
        lane_pointers=emitter.lane_pointers(),
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
        self.widths = dict(program.widths)
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.row_range = range(schedule.rows)
        self.in_registers = schedule.in_registers
        self.is_shifted = program.reduction.scheme == "shifted sum"
        self.row_slots = self.slots("row")
        self.col_slots = self.slots("col")

    def slots(self, level: Level) -> dict[int, int]:
        """Value -> place in the row block or column tile: all that is loaded, and what the pair level reads."""
        kept = set(self.program.kept(level))
        numbers = [n for n in self.program.at(level) if self.values[n].is_load or n in kept]
        return {number: place for place, number in enumerate(numbers)}

    # -- pointers and parameters

    def arguments(self) -> str:
        lines = [f"const T *const a{k} = (const T *)in[{k}];" for k in self.widths]
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

    def _copy(self, slots: dict[int, int], memory: str, pitch: str, index: str) -> list[str]:
        """Fill the slots that are loaded; consecutive components of one argument are one loop."""
        lines = []
        for first, place, count in self._runs(slots):
            value = self.values[first]
            if value.half:
                half = f"({index}) >> 20" if value.half == "high" else f"({index}) & 0xfffff"
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
        lines = _loop("for (int l = 0; l < BLOCK; l++)", copies)
        lines += _loop("for (int l = 0; l < BLOCK; l += LANES)", computed)
        return indent(lines, 4)

    def load_cols(self) -> str:
        copies = self._copy(self.col_slots, "Y", "PITCH", "col0 + l")
        # Lanes past the last column hold older values; what is computed from them is never read.
        computed = self._compute("col", self.col_slots, "Y", "PITCH")
        lines = _loop("for (int l = 0; l < m; l++)", copies)
        lines += _loop("for (int l = 0; l < m; l += LANES)", computed)
        return indent(lines, 6)

    def row_value(self, number: int, r: int) -> str:
        return f"const V v{number}_{r} = *at(X, {self.row_slots[number]} * BLOCK + g + {r} * LANES);"

    def column_value(self, number: int) -> str:
        return f"const V v{number} = K(Y[{self.col_slots[number]} * PITCH + c]);"

    # -- the lane state

    def lane_place(self, o: int, f: int, r: int) -> str:
        """The lanes of one field of one component in memory, as V or I."""
        kind = "I" if self.fields[f].is_index else "V"
        return f"*({kind} *)(lane + ({o} * FIELDS + {f}) * GROUP + {r} * LANES)"

    def read_state(self, o: int, r: int) -> list[str]:
        return [
            f"{'I' if field.is_index else 'V'} {_state(field, o, r)} = {self.lane_place(o, f, r)};"
            for f, field in enumerate(self.fields)
        ]

    def write_state(self, o: int, r: int) -> list[str]:
        return [f"{self.lane_place(o, f, r)} = {_state(field, o, r)};" for f, field in enumerate(self.fields)]

    def begin_state(self) -> list[str]:
        """The identity, in registers or in memory."""
        if self.in_registers:
            return [
                f"{'I' if field.is_index else 'V'} {_state(field, o, r)} = {field.identity};"
                for r in self.row_range
                for o, _ in self.components
                for field in self.fields
            ]
        body = [
            f"*({'I' if field.is_index else 'V'} *)(lane + (o * FIELDS + {f}) * GROUP + l) = {field.identity};"
            for f, field in enumerate(self.fields)
        ]
        return _loop("for (int o = 0; o < COMPONENTS; o++)", _loop("for (int l = 0; l < GROUP; l += LANES)", body))

    def end_state(self) -> list[str]:
        """Registers go to memory, where the flush finds them."""
        if not self.in_registers:
            return []
        return [line for r in self.row_range for o, _ in self.components for line in self.write_state(o, r)]

    def around(self, o: int, r: int, body: list[str]) -> list[str]:
        """Statements that read and write the lane state of one component of one row."""
        if self.in_registers:
            return body
        return ["{", *("  " + line for line in [*self.read_state(o, r), *body, *self.write_state(o, r)]), "}"]

    # -- the loop over pairs

    def fold(self) -> str:
        held = self.program.kept("row") if self.in_registers else []
        preload = [self.row_value(number, r) for r in self.row_range for number in held]
        loop = self.shifted_loop() if self.is_shifted else self.fold_loop()
        return indent([*preload, *self.begin_state(), *loop, *self.end_state()], 8)

    def pair_body(self, use: Callable[[int, int, str], list[str]]) -> list[str]:
        """The values of one column with each row, and `use(component, row, term)` of each component.

        Without registers to hold them, row and column values are read right before their first use: the shorter
        they live, the sooner a compiler is done.
        """
        values = self.values
        columns, rows = self.program.kept("col"), self.program.kept("row")
        lines = [self.column_value(number) for number in columns] if self.in_registers else []
        for r in self.row_range:
            late = set() if self.in_registers else {*columns, *rows}

            def read(numbers: Iterable[int], r: int = r, late: set[int] = late) -> list[str]:
                found = sorted(late.intersection(numbers))
                late.difference_update(found)
                return [self.row_value(n, r) if values[n].level == "row" else self.column_value(n) for n in found]

            terms: dict[int, list[int]] = {}
            for o, number in self.components:
                terms.setdefault(number, []).append(o)
            body: list[str] = []
            for number in dict.fromkeys([*columns, *rows, *self.program.at("pair"), *terms]):
                if values[number].level == "pair":
                    body += [*read(values[number].args), statement(self.program, number, r)]
                for o in terms.pop(number, []):
                    body += [*read([number]), *use(o, r, operand(self.program, number, r))]
            lines += _loop("", body)
        return lines

    def fold_loop(self) -> list[str]:
        def use(o: int, r: int, term: str) -> list[str]:
            return self.around(o, r, [self.step(o, r, term)])

        return _loop("for (int c = 0; c < m; c++)", self.pair_body(use))

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk go to memory while their maximum is found; then each costs one exp."""

        def term(o: int, r: int) -> str:
            return f"*at(S, (((c - c0) * COMPONENTS + {o}) * ROWS + {r}) * LANES)"

        search = self.pair_body(lambda o, r, value: [f"{term(o, r)} = {value};"])
        lines = _loop("for (int c = c0; c < c1; c++)", search)
        for r in self.row_range:
            for o, _ in self.components:
                add = [
                    f"V n = m{o}_{r};",
                    f"for (int c = c0; c < c1; c++) n = {term(o, r)} > n ? {term(o, r)} : n;",
                    f"const V h{o}_{r} = finite_or_zero(n);",
                    f"s{o}_{r} = s{o}_{r} * exp(m{o}_{r} - h{o}_{r});",
                    f"m{o}_{r} = n;",
                    *_loop("for (int c = c0; c < c1; c++)", [self.step(o, r, term(o, r))]),
                ]
                lines += _loop("", self.around(o, r, add))
        return _loop(
            "for (int c0 = 0; c0 < m; c0 += CHUNK)", ["const int c1 = (int)smaller(m, c0 + CHUNK);", *lines]
        )

    def step(self, o: int, r: int, term: str) -> str:
        names = {field.name: _state(field, o, r) for field in self.fields}
        return step(self.program, names, term, "c", f"h{o}_{r}")

    # -- the wide state

    def identity(self) -> str:
        lines = []
        for f, field in enumerate(self.fields):
            value = field.identity.replace("KI(", "(").replace("K(", "(")
            lines.append(f"wide[o][{f}][l] = {value};")
        return indent(lines, 8)

    def lane_pointers(self) -> str:
        return indent(
            [
                f"const {'IT' if field.is_index else 'T'} *const p_{field.name} = "
                f"(const {'IT' if field.is_index else 'T'} *)lane + (o * FIELDS + {f}) * GROUP;"
                for f, field in enumerate(self.fields)
            ],
            10,
        )

    def flush(self) -> str:
        """Merge the lane state into the wide state."""
        lines = []
        for f, field in enumerate(self.fields):
            name = field.name
            value = f"p_{name}[l] < 0 ? -1 : col0 + p_{name}[l]" if field.is_index else f"p_{name}[l]"
            lines.append(f"f64 &w_{name} = wide[o][{f}][g + l]; const f64 l_{name} = (f64)({value});")
        names = [field.name for field in self.fields]
        lines.append(merge(self.program, {n: f"w_{n}" for n in names}, {n: f"l_{n}" for n in names}))
        return indent(lines, 12)

    def merge_splits(self) -> str:
        lines, earlier, later = [], {}, {}
        for f, field in enumerate(self.fields):
            earlier[field.name] = f"wide[o][{f}][0]"
            later[field.name] = f"l_{field.name}"
            lines.append(f"const f64 l_{field.name} = later[{f} * rows];")
        return indent([*lines, merge(self.program, earlier, later)], 8)

    def finish(self, by: int) -> str:
        lines = []
        names = {field.name: f"wide[o][{f}][l]" for f, field in enumerate(self.fields)}
        for k, output in enumerate(self.program.outputs):
            value = fill(self.program.reduction.results[output.result].finish, names)
            end = output.first + output.count
            lines += [
                f"for (int o = {output.first}; o < {end}; o++)",
                f"  o{k}[row * {output.count} + o - {output.first}] = ({self.out_type(output)})({value});",
            ]
        return indent(lines, by)


def _state(field: Field, o: int, r: int) -> str:
    """The C variable of one field of the lane state."""
    return f"{field.name}{o}_{r}"


def _loop(head: str, body: list[str]) -> list[str]:
    """`head { body }`, or nothing around nothing."""
    return [f"{head} {{".strip(), *("  " + line for line in body), "}"] if body else []
