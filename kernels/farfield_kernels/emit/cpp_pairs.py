"""The loop over pairs in emitted C++: one column tile with one group of rows.

Straight text visits the columns one by one. What `roll` found are loops over components besides, so a tile is
walked in chunks of columns, and for each chunk

1. folds: a register tile of rows and columns runs over the components, its sums go to a buffer;
2. the straight text, which finds the sums there and leaves what families read in buffers;
3. families: some components at a time in registers, over the columns of the chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from ..reductions import Field
from ..roll import Family
from .cpp_components import ComponentLoops, Update
from .statements import below, block, fill, operand, sizes, statement

IS_COLUMN = "number + KI(c) < KI(m)"  # whether a lane of a vector of columns is one
MAXIMA = 4  # components whose maxima stay in registers while their terms are stored

Use = tuple[Sequence[int], Callable[[int], list[str]]]
"""Values that some statements need, and the statements for a row."""


class Pairs(ComponentLoops):
    """Statements that update the lane state by the pairs of a tile and a group."""

    # -- reading

    def row_value(self, number: int, r: int) -> str:
        """The declaration of a row value."""
        if self.is_across:
            at = f"g / GROUP * X_GROUP + {self.row_slots[number]} * GROUP + g % GROUP"
            return f"const V v{number}_{r} = K(X[{at}]);"
        return f"const V v{number}_{r} = *at(X, g * ROW_SLOTS + {self.row_slots[number]} * GROUP + {r} * LANES);"

    def column_value(self, number: int) -> str:
        """The declaration of a column value."""
        if self.is_across:
            return f"const V v{number} = *at(Y, {self.col_slots[number]} * PITCH + c);"
        return f"const V v{number} = K(Y[{self.col_slots[number]} * PITCH + c]);"

    # -- the tile

    def fold(self) -> list[str]:
        """All statements of one tile and one group."""
        loops = {"fold": self.fold_loop, "shifted sum": self.shifted_loop, "selection": self.selection_loop}
        loop = loops[self.program.reduction.scheme]()
        preload = [self.row_value(number, r) for r in self.row_range for number in self.held_rows()]
        if self.is_across:
            preload.append("I number; for (int l = 0; l < LANES; l++) number[l] = l;")
        return [*preload, *self.begin_state(), *loop, *self.end_state()]

    def columns(self, first: str, end: str, body: list[str]) -> list[str]:
        """A loop over columns, one by one or as many as a vector holds.

        Vectors of columns are visited by one text, inlined twice: the last may reach beyond the last column, and
        without a branch for it the others take 4 % less time (10 rows, 1e6 columns, D = 3).
        """
        if not self.is_across:
            return block(f"for (i64 c = {first}; c < {end}; c++)", body)
        *visit, closing = block("const auto visit = [&](const i64 c, const bool is_whole) INLINE", body)
        loop = [
            f"i64 c = {first};",
            f"for (; c + 2 * LANES <= {end}; c += 2 * LANES) visit(c, true), visit(c + LANES, true);",
            f"for (; c + LANES <= {end}; c += LANES) visit(c, true);",
            f"if (c < {end}) visit(c, false);",
        ]
        return block("", [*visit, f"{closing};", *loop])

    def guarded(self, names: Iterable[str], body: list[str]) -> list[str]:
        """Statements that update variables, but not where a vector reaches beyond the last column."""
        if not self.is_across:
            return body
        before = [f"const V {name}_before = {name};" for name in names]
        after = [f"{name} = {IS_COLUMN} ? {name} : {name}_before;" for name in names]
        return block("if (is_whole)", body) + block("else", [*before, *body, *after])

    def held_rows(self) -> list[int]:
        """Row values that the straight text reads, if they are held in registers."""
        if not self.in_registers:
            return []
        return [number for number in self.program.kept("row") if number in self.straight]

    def needed(self, roots: Sequence[int]) -> set[int]:
        """The values that `roots` are computed from; what is inside a fold is not."""
        return below(self.program, roots, stop=self.folds)

    def chunks(self, body: list[str]) -> list[str]:
        """The columns of the tile, chunk by chunk."""
        head = "for (i64 c0 = 0; c0 < m; c0 += CHUNK)"
        tiles = [line for fold in self.rolls.folds for line in self.register_tile(fold)]
        return block(head, ["const i64 c1 = smaller(m, c0 + CHUNK);", *tiles, *body])

    def pair_body(self, uses: Sequence[Use]) -> list[str]:
        """The values of one column with each row, and for each row the statements of every use, which come as
        soon as the values it needs are there.

        Without registers to hold them, row and column values are read right before their first use: the shorter
        they live, the sooner a compiler is done.
        """
        values = self.values
        wanted = self.needed([number for needs, _ in uses for number in needs])
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
            left = sorted(last, key=last.__getitem__, reverse=True)
            for number in [*pairs, len(values)]:
                if number in self.folds:
                    body.append(f"const V v{number}_{r} = {self.buffer(self.folds[number], r)};")
                elif number < len(values):
                    body += [*read(values[number].args), statement(self.program, number, r)]
                ready = []
                while left and last[left[-1]] <= number:
                    ready.append(left.pop())
                for k in sorted(ready):
                    body += [*read(uses[k][0]), *uses[k][1](r)]
            lines += block("", body)
        return lines

    def kept_for_families(self, families: Sequence[Family]) -> list[Use]:
        """The pair values that families read go to buffers."""

        def store(number: int) -> Callable[[int], list[str]]:
            return lambda r: [f"{self.buffer(self.buffer_of[number], r)} = v{number}_{r};"]

        scalars = dict.fromkeys(n for family in families for n in family.body.scalars())
        wanted = [n for n in scalars if self.values[n].level == "pair" and n not in self.folds]
        return [((number,), store(number)) for number in wanted]

    # -- plain folding

    def names(self, o: int, r: int, prefix: str = "") -> dict[str, str]:
        """What the `$` of a step stand for, but for the term."""
        state = {field: prefix + name for field, name in self.state_names(o, r).items()}
        return sizes(self.program) | state | {"c": "c"}

    def each_weight(self, o: int, r: int) -> list[str]:
        """The reduction's step for each weight."""
        field = next((field.name for field in self.fields if field.each == "W"), "")
        text = self.program.reduction.step_each
        return [
            fill(text, {field: f"{field}_{o}_{r}_{q}", "w": operand(self.program, weight, r)})
            for q, weight in enumerate(self.program.weights)
        ]

    def fold_loop(self) -> list[str]:
        """Each term updates the state by the reduction's step, or first the state of its chunk."""
        by_chunks = self.is_by_chunks and self.in_registers
        state = "chunk_" if by_chunks else ""

        def use(o: int, number: int) -> Callable[[int], list[str]]:
            def step(r: int) -> list[str]:
                names = self.names(o, r, state) | {"t": operand(self.program, number, r)}
                text = [fill(self.program.reduction.step, names), *self.each_weight(o, r)]
                variables = [state + name for name, _, _ in self.scalars(o, r)]
                return self.around(o, r, self.guarded(variables, block("", text)))

            return step

        uses: list[Use] = [((number, *self.program.weights), use(o, number)) for o, number in self.components]
        uses += self.kept_for_families(self.rolls.components)
        if not self.rolls and not by_chunks:
            return self.columns("0", "m", self.pair_body(uses))
        body = self.columns("c0", "c1", self.pair_body(uses))
        if by_chunks:
            body = self.apart(body)
        return self.chunks(body + [line for f in self.rolls.components for line in self.family(f, self.steps)])

    def apart(self, body: list[str]) -> list[str]:
        """Statements that take in the terms of a chunk, by states of the chunk."""
        begin, end = [], []
        for r in self.row_range:
            for o, _ in self.components:
                later = {f"{field.name}2": f"chunk_{name}" for name, _, field in self.scalars(o, r)}
                begin += [f"V chunk_{name} = {field.identity};" for name, _, field in self.scalars(o, r)]
                end.append(fill(self.program.reduction.merge, self.names(o, r) | later))
        return [*begin, *body, *end]

    def steps(self, family: Family, k0: str, width: int) -> Update:
        """The state of `width` components from `k0` on."""
        load, save = [], []
        for d in range(width):
            for field in self.fields:
                kind, slot = "I" if field.is_integer else "V", self.slots[field.name][0]
                for r in self.row_range:
                    component = f"{family.first} + {k0} + {d}"
                    place = f"*({kind} *)(lane + (({component}) * SLOTS + {slot}) * GROUP + {r} * LANES)"
                    name = f"f_{field.name}_{d}_{r}"
                    if self.is_by_chunks:
                        load.append(f"{kind} {name} = {field.identity};")
                        later = {field.name: place, f"{field.name}2": name}
                        save.append(fill(self.program.reduction.merge, later))
                    else:
                        load.append(f"{kind} {name} = {place};")
                        save.append(f"{place} = {name};")

        def step(term: str, d: int, r: int) -> str:
            state = {field.name: f"f_{field.name}_{d}_{r}" for field in self.fields}
            text = fill(self.program.reduction.step, sizes(self.program) | state | {"t": term, "c": "c"})
            return f"{{ {text} }}"

        return load, step, save

    # -- terms of a chunk in memory

    def term(self, o: int, r: int) -> str:
        """A term of the chunk."""
        return self.buffer(self.term_buffers[o], r)

    def terms(self) -> list[str]:
        """All terms of the chunk go to memory, where those that are folds lie already; the maxima of `maxima` are
        found on the way."""

        def store(o: int, number: int) -> Callable[[int], list[str]]:
            chosen = f"{IS_COLUMN} ? {{}} : K(-INF)" if self.is_across else "{}"

            def statements(r: int) -> list[str]:
                term = chosen.format(operand(self.program, number, r))
                if o not in self.maxima:
                    return [f"{self.term(o, r)} = {term};"]
                larger = f"n_{o}_{r} = t > n_{o}_{r} ? t : n_{o}_{r};"
                return block("", [f"const V t = {term};", f"{self.term(o, r)} = t;", larger])

            return statements

        return self.columns("c0", "c1", self.pair_body([((n,), store(o, n)) for o, n in self.stored()]))

    def stored(self) -> list[tuple[int, int]]:
        """The terms that are not folds, as (component, value)."""
        return [(o, number) for o, number in self.components if self.term_buffers[o] != self.folds.get(number)]

    @functools.cached_property
    def maxima(self) -> set[int]:
        """Components of a shifted sum whose maximum is found while their terms are stored: what registers hold."""
        is_shifted = self.program.reduction.scheme == "shifted sum"
        stored = {o for o, _ in self.stored()}
        return stored if is_shifted and self.in_registers and len(stored) <= MAXIMA else set()

    # -- selections

    def selection_loop(self) -> list[str]:
        """The columns that may be among the best are listed without a branch, then taken in one by one.

        They are compared with the last entry as it was before the chunk: too many are listed, which does no harm.
        """
        lines = self.terms()
        reduction = self.program.reduction
        for r in self.row_range:
            for o, _ in self.components:
                state, term = self.state_names(o, r), {"t": self.term(o, r)}
                last = {field.name: f"last_{field.name}" for field in self.fields}
                candidate = fill(reduction.candidate, last | term)
                body = [
                    *self.arrays(o, r),
                    *(
                        f"const {'I' if field.is_integer else 'V'} {last[field.name]} = "
                        f"{state[field.name]}[{self.program.K - 1}];"
                        for field in self.fields
                    ),
                    "i64 found[CHUNK], count = 0;",
                    f"for (i64 c = c0; c < c1; c++) found[count] = c, count += {candidate};",
                    *block(
                        "for (i64 f = 0; f < count; f++)",
                        ["const i64 c = found[f];", fill(reduction.step, self.names(o, r) | term)],
                    ),
                ]
                lines += block("", body)
        return self.chunks(lines)

    # -- shifted sums

    def shifted_loop(self) -> list[str]:
        """Terms of a chunk go to memory while their maximum is found; then each costs one exp.

        The sums of a chunk are made apart and then added: in two levels, rounding errors stay small.
        """

        term = self.term
        every = [(o, r) for r in self.row_range for o, _ in self.components]
        lines = [f"V n_{o}_{r} = m_{o}_{r};" for o, r in every if o in self.maxima]
        lines += self.terms()
        for o, r in every:
            m = f"m_{o}_{r}"
            larger = [f"n = {term(o, r)} > n ? {term(o, r)} : n;"]
            search = [f"V n = {m};", *self.columns("c0", "c1", larger)]
            shift = [
                *([f"const V n = n_{o}_{r};"] if o in self.maxima else search),
                f"h_{o}_{r} = finite_or_zero(n);",
                f"const V a = exp({m} - h_{o}_{r});",
                f"{m} = n;",
                *(f"{name} = {name} * a;" for name, _, _ in self.sums(o, r)),
                *(self.scale(family, r) for family in self.rolls.weights),
            ]
            lines += [f"V h_{o}_{r};", *block("", self.around(o, r, shift))]
            lines += [f"V chunk_{name} = K(0);" for name, _, _ in self.sums(o, r)]
            if not self.program.weights:
                add = self.add_power(o, r, term(o, r))
                lines += self.columns("c0", "c1", add)
        if self.program.weights:
            uses: list[Use] = [([value for _, value in self.weights], lambda r: self.add_power(0, r, term(0, r)))]
            uses += self.kept_for_families(self.rolls.weights)
            lines += self.columns("c0", "c1", self.pair_body(uses))
            lines += [line for family in self.rolls.weights for line in self.family(family, self.weighted)]
        for o, r in every:
            add = [f"{name} = {name} + chunk_{name};" for name, _, _ in self.sums(o, r)]
            lines += block("", self.around(o, r, add))
        return self.chunks(lines)

    def sums(self, o: int, r: int) -> list[tuple[str, str, Field]]:
        """The state of a shifted sum but for its maximum."""
        return [found for found in self.scalars(o, r) if found[2].name != "m"]

    @property
    def sum_field(self) -> str:
        """The field of a shifted sum that is no maximum."""
        return next(field.name for field in self.fields if field.name != "m")

    def add_power(self, o: int, r: int, term: str) -> list[str]:
        """Add exp(term - maximum), times each weight, to the sums of the chunk."""
        text, field = self.program.reduction.step_each, self.sum_field
        lines = [f"const V e = exp({term} - h_{o}_{r});"]
        if not self.program.weights:
            name = f"chunk_{field}_{o}_{r}"
            return [*lines, *self.guarded([name], [fill(text, {field: name, "e": "e"})])]
        if self.rolls.weights:
            lines.append(f"{term} = e;")
        for q, weight in self.weights:
            name = f"chunk_{field}_{o}_{r}_{q}"
            added = fill(text, {field: name, "w": operand(self.program, weight, r), "e": "e"})
            lines += self.guarded([name], [added])
        return lines

    def weight_place(self, family: Family, q: str, r: int) -> str:
        """Where the sum of weight number `q` of a family lies."""
        return f"*at(lane, ({self.slots[self.sum_field][0] + family.first} + {q}) * GROUP + {r} * LANES)"

    def scale(self, family: Family, r: int) -> str:
        """Bring the sums of a family of weights to the new maximum."""
        place = self.weight_place(family, "q", r)
        return f"if (any(a != K(1))) for (int q = 0; q < {family.body.count}; q++) {place} = {place} * a;"

    def weighted(self, family: Family, k0: str, width: int) -> Update:
        """As `steps`, for weights: sums of the chunk, which are added to those in memory."""
        text, field = self.program.reduction.step_each, self.sum_field
        load = [f"V f_{d}_{r} = K(0);" for d in range(width) for r in self.row_range]

        def step(weight: str, d: int, r: int) -> str:
            power = self.buffer(self.term_buffers[0], r)
            return fill(text, {field: f"f_{d}_{r}", "e": power, "w": weight})

        save = []
        for d in range(width):
            for r in self.row_range:
                place = self.weight_place(family, f"{k0} + {d}", r)
                save.append(f"{place} = {place} + f_{d}_{r};")
        return load, step, save
