"""Loops over components in emitted C++: register tiles of folds, and families some components at a time.

What they read of a pair, and the sums of folds, lie in buffers for a chunk of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..lower import Program
from ..roll import Body, Family, Fold, Leaf, straight
from ..schedule import Schedule
from .cpp_state import LaneState
from .statements import block, fill, operand

Update = tuple[list[str], Callable[[str, int, int], str], list[str]]
"""Of some components: the declarations of their state; the statement that takes in a term, for a component and a
row; the state's way back to memory."""

TILE = (2, 6)  # vectors of rows and columns of a register tile: so many sums are under way at a time
TILE_AVX512 = (1, 16)  # so the only use of a column's component is in the operation that broadcasts it from memory
AT_A_TIME = 8  # components of a family
IN_A_ROW = 32  # components of a fold that are added one after another


class ComponentLoops(LaneState):
    """Statements of the loops that `roll` found."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        super().__init__(program, schedule)
        self.is_buffered = program.reduction.scheme != "fold"
        self.folds = {fold.value: place for place, fold in enumerate(self.rolls.folds)}
        families = (*self.rolls.components, *self.rolls.weights)
        pairs = dict.fromkeys(
            n for family in families for n in family.body.scalars() if self.values[n].level == "pair"
        )
        self.straight = straight(program, self.rolls)
        terms = [value for _, value in self.components] if self.is_buffered else []
        later = {arg for number in self.straight for arg in self.values[number].args} | {*program.weights, *pairs}
        buffered = dict.fromkeys([*self.folds, *pairs])
        self.buffer_of = {number: place for place, number in enumerate(buffered)}
        # A term that is a fold and nothing else lies in the fold's buffer already.
        self.term_buffers = [
            self.folds[value] if value in self.folds and value not in later and terms.count(value) == 1 else None
            for value in terms
        ]
        free = len(buffered)
        for o, place in enumerate(self.term_buffers):
            if place is None:
                self.term_buffers[o] = free
                free += 1
        self.buffers = free

    # -- reading

    @staticmethod
    def row_at(place: str, l: str) -> str:
        """Row `l` of the block: groups follow each other, in each component by component."""
        return f"X[({l}) / GROUP * X_GROUP + {place} * GROUP + ({l}) % GROUP]"

    @staticmethod
    def column_at(place: str, l: str) -> str:
        """Column `l` of the tile."""
        return f"Y[{place} * PITCH + {l}]"

    @staticmethod
    def buffer(place: int | None, r: int, c: str = "c") -> str:
        """A pair value of the chunk."""
        return f"*at(S, (({place} * SPAN + {c} - c0) * ROWS + {r}) * LANES)"

    def component(self, leaf: Leaf, k: str, c: str, r: int = 0) -> str:
        """Component `k` of a vector, for a row or a column."""
        if leaf.kind == "row":
            return f"*at(X, g * ROW_SLOTS + ({self.row_slots[leaf.value]} + {k}) * GROUP + {r} * LANES)"
        if leaf.kind == "col":
            return f"K(Y[({self.col_slots[leaf.value]} + {k}) * PITCH + {c}])"
        value = self.values[leaf.value]
        return f"K(a{value.argument}[{value.component} + {k}])"

    def body_steps(self, body: Body, r: int, q: str) -> tuple[list[str], str]:
        """Statements of one component for row `r`, and the name of the result; leaves are `l...`."""

        def name(number: int) -> str:
            if number >= 0:
                return f"s{number}"
            leaf = body.leaves[-1 - number]
            place = f"l{-1 - number}"
            level = self.values[leaf.value].level if leaf.kind == "scalar" else leaf.kind
            if level in ("constant", "p") and leaf.kind == "scalar":
                return operand(self.program, leaf.value, None)
            if level in ("row", "pair"):
                return f"{place}_{r}"
            return place + q if level == "col" else place

        lines = []
        for number, (code, args) in enumerate(body.steps):
            names = dict(zip("abc", map(name, args), strict=False))
            lines.append(f"const V s{number} = {fill(code, names)};")
        return lines, name(body.result)

    # -- families

    def family(
        self,
        family: Family,
        update: Callable[[Family, str, int], Update],
    ) -> list[str]:
        """All components of a family over the columns of the chunk, a few at a time."""
        whole = family.body.count // AT_A_TIME * AT_A_TIME
        lines = []
        if whole:
            few = self.some_components(family, "k0", AT_A_TIME, update)
            lines += block(f"for (int k0 = 0; k0 < {whole}; k0 += {AT_A_TIME})", few)
        if whole < family.body.count:
            lines += block("", self.some_components(family, str(whole), family.body.count - whole, update))
        return lines

    def some_components(
        self,
        family: Family,
        k0: str,
        width: int,
        update: Callable[[Family, str, int], Update],
    ) -> list[str]:
        """`width` components from `k0` on."""
        body = family.body
        load, step, save = update(family, k0, width)
        before, inside = [], []
        for place, leaf in enumerate(body.leaves):
            if leaf.kind != "scalar":
                continue
            level = self.values[leaf.value].level
            for r in self.row_range:
                name = f"l{place}_{r}"
                if level == "row":
                    at = f"g * ROW_SLOTS + {self.row_slots[leaf.value]} * GROUP + {r} * LANES"
                    before.append(f"const V {name} = *at(X, {at});")
                elif level == "pair":
                    buffer = self.buffer(self.buffer_of[leaf.value], r)
                    inside.append(f"const V {name} = {buffer};")
            if level == "col":
                inside.append(f"const V l{place} = K(Y[{self.col_slots[leaf.value]} * PITCH + c]);")
        for d in range(width):
            vectors = [
                f"const V l{place} = {self.component(leaf, f'({k0} + {d})', 'c')};"
                for place, leaf in enumerate(body.leaves)
                if leaf.kind in ("col", "p")
            ]
            for r in self.row_range:
                rows = [
                    f"const V l{place}_{r} = {self.component(leaf, f'({k0} + {d})', 'c', r)};"
                    for place, leaf in enumerate(body.leaves)
                    if leaf.kind == "row"
                ]
                steps, result = self.body_steps(body, r, "")
                vectors += block("", [*rows, *steps, step(result, d, r)])
            inside += block("", vectors)
        return [*load, *before, *block("for (i64 c = c0; c < c1; c++)", inside), *save]

    # -- folds

    def register_tile(self, fold: Fold) -> list[str]:
        """The sums of a fold for the columns of the chunk, several columns at a time."""

        def tiles(vectors: int, columns: int) -> list[str]:
            groups = (self.row_range[r : r + vectors] for r in self.row_range[::vectors])
            return [line for rows in groups for line in self.columns_at_a_time(fold, columns, rows)]

        def whole(columns: int) -> str:
            return f'static_assert(TILE % {columns} == 0 && CHUNK % {columns} == 0, "tiles are whole");'

        (_, many), (_, few) = TILE_AVX512, TILE
        with_avx512, without = [whole(many), *tiles(*TILE_AVX512)], [whole(few), *tiles(*TILE)]
        return ["#if defined(__AVX512F__)", *with_avx512, "#else", *without, "#endif"]

    def columns_at_a_time(self, fold: Fold, width: int, rows: Sequence[int]) -> list[str]:
        """The register tile for so many columns and some of the vectors of rows."""
        body = fold.body
        sums = [f"V t_{r}_{q} = K(-0.0);" for q in range(width) for r in rows]
        held = []
        for place, leaf in enumerate(body.leaves):
            level = self.values[leaf.value].level
            if leaf.kind == "scalar" and level == "row":
                at = f"g * ROW_SLOTS + {self.row_slots[leaf.value]} * GROUP"
                held += [f"const V l{place}_{r} = *at(X, {at} + {r} * LANES);" for r in rows]
            if leaf.kind == "scalar" and level == "col":
                at = f"{self.col_slots[leaf.value]} * PITCH + c"
                held += [f"const V l{place}_c{q} = K(Y[{at} + {q}]);" for q in range(width)]
        inner = []
        for place, leaf in enumerate(body.leaves):
            if leaf.kind == "row":
                inner += [f"const V l{place}_{r} = {self.component(leaf, 'k', '', r)};" for r in rows]
            if leaf.kind == "p":
                inner.append(f"const V l{place} = {self.component(leaf, 'k', '')};")
        for q in range(width):
            columns = [
                f"const V l{place}_c{q} = {self.component(leaf, 'k', f'c + {q}')};"
                for place, leaf in enumerate(body.leaves)
                if leaf.kind == "col"
            ]
            for r in rows:
                steps, result = self.body_steps(body, r, f"_c{q}")
                columns += block("", [*steps, f"t_{r}_{q} = t_{r}_{q} + {result};"])
            inner += block("", columns)
        place = self.folds[fold.value]
        buffers = {f"t_{r}_{q}": self.buffer(place, r, f"c + {q}") for q in range(width) for r in rows}
        if body.count <= IN_A_ROW:
            save = [f"{buffer} = {name};" for name, buffer in buffers.items()]
            loop = [*sums, *block(f"for (int k = 0; k < {body.count}; k++)", inner), *save]
        else:
            save = [f"{buffer} = (k0 ? {buffer} : K(-0.0)) + {name};" for name, buffer in buffers.items()]
            some = block(f"for (int k = k0; k < {body.count} && k < k0 + {IN_A_ROW}; k++)", inner)
            loop = block(f"for (int k0 = 0; k0 < {body.count}; k0 += {IN_A_ROW})", [*sums, *some, *save])
        return block(f"for (i64 c = c0; c < c1; c += {width})", [*held, *loop])
