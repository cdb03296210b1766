"""The loops over pairs of a CUDA thread: its rows in registers against the columns of a tile.

A column's values lie together in shared memory and are read 16 bytes at a time; a column that a thread reads
serves all its rows. In float32, exp of a pair is one instruction of the unit for special functions and a
product, or, for some of several, a polynomial: the units work at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..lower import Program
from ..schedule import Schedule
from .cuda_state import State
from .statements import below, block, fill, indent, operand, sizes, statements

FAST = {"exp($a)": "fast_exp($a)", "exp2($a)": "ex2_approx($a)"}
ON_FMA = {"exp($a)": "polynomial_exp2($a * K(1.4426950408889634))", "exp2($a)": "polynomial_exp2($a)"}
"""What stands for an exp of pairs in float32."""
MAX_UNROLLED = 400  # values of pairs in the text of a loop: more do not stay in the instruction cache
LISTED = 32  # columns whose terms are compared before the best are taken in: one bit each


class Pairs(State):
    """Texts of the loops.

    Args:
        program, schedule: the kernel.
        col_slots: value -> its place among the values of a column.
    """

    def __init__(self, program: Program, schedule: Schedule) -> None:
        super().__init__(program, schedule)
        self.col_slots = {number: place for place, number in enumerate(program.kept("col"))}
        self.weighted = next((field.name for field in self.fields if field.each == "W"), "")
        self.is_fast = schedule.dtype == "float32"
        self.exp = "fast_exp" if self.is_fast else "exp"
        self.of_row = [self._with_fast_exp(r) for r in self.row_range]

    def _with_fast_exp(self, r: int) -> Program:
        """The program as it is computed for row `r`."""
        if not self.is_fast:
            return self.program
        places = [n for n in self.program.at("pair") if self.values[n].code in FAST]
        values = list(self.values)
        total, wanted = len(places) * self.schedule.rows, self.schedule.polynomials
        for k, number in enumerate(places, r * len(places)):
            is_polynomial = (k + 1) * wanted // total > k * wanted // total
            code = (ON_FMA if is_polynomial else FAST)[values[number].code]
            values[number] = replace(values[number], code=code)
        return replace(self.program, values=tuple(values))

    # -- columns

    @property
    def vector(self) -> int:
        """Values that are read at once: 16 bytes."""
        return 4 if self.schedule.dtype == "float32" else 2

    @property
    def slots_of_column(self) -> int:
        """Values of a column, padded to whole vectors."""
        count = max(1, len(self.col_slots))
        return count if count <= 2 else -(-count // self.vector) * self.vector

    def column_values(self, wanted: set[int]) -> list[str]:
        """Read what is wanted of column `c` of the thread."""
        lines, read = ["const T *const y = tile[c * pitch + lane];"], set[int]()
        for number, place in self.col_slots.items():
            if number not in wanted:
                continue
            first = place // self.vector * self.vector
            width = min(self.vector, self.slots_of_column - first)
            if width == 1:
                lines.append(f"const V v{number} = y[{place}];")
                continue
            if first not in read:
                read.add(first)
                lines.append(f"const Vector{width} y{first} = *(const Vector{width} *)(y + {first});")
            lines.append(f"const V v{number} = y{first}.{'xyzw'[place - first]};")
        return lines if len(lines) > 1 else []

    def store_column(self) -> list[str]:
        """Write the values of a column to the tile."""
        names = [f"v{number}" for number in self.col_slots]
        names += ["K(0)"] * (self.slots_of_column - len(names))
        lines = ["T *const y = tile[q % part_tile * pitch + q / part_tile];"]
        for first in range(0, len(names), self.vector):
            part = names[first : first + self.vector]
            width = len(part)
            one = f"y[{first}] = {part[0]};"
            many = f"*(Vector{width} *)(y + {first}) = Vector{width}{{{', '.join(part)}}};"
            lines.append(one if width == 1 else many)
        return lines

    # -- terms

    def computed(self, roots: Sequence[int], r: int) -> list[str]:
        """The pair values that `roots` need."""
        return statements(self.of_row[r], "pair", r, below(self.program, roots))

    def names(self, o: str, r: str) -> dict[str, str]:
        """What the `$` of a step stand for, but for the term."""
        own = {field.name: f"{field.name}[{o}][{r}]" for field in self.fields}
        return sizes(self.program) | own | {"c": "at + c" if self.is_exact else "c"}

    def each_weight(self, o: str, r: int, sums: str) -> list[str]:
        """The reduction's step for each weight, on the field of weights called `sums`."""
        return [
            fill(
                self.program.reduction.step_each,
                {self.weighted: f"{sums}[{o}][{r}][{q}]", "w": operand(self.program, weight, r), "e": "e"},
            )
            for q, weight in enumerate(self.program.weights)
        ]

    def unroll_columns(self, times: int) -> str:
        """The pragma of a loop over columns."""
        values = self.schedule.rows * max(1, len(self.program.at("pair")))
        while times > 1 and times * values > MAX_UNROLLED:
            times //= 2
        return f"#pragma unroll {times if self.in_registers else 1}"

    # -- loops

    def fold(self) -> str:
        """The columns of a tile, taken into the lane state."""
        loops = {"fold": self._fold_loop, "shifted sum": self._shifted_loop, "selection": self._selection_loop}
        lines = [] if self.is_exact else self.new_lanes()
        return indent(lines + loops[self.program.reduction.scheme](), 6)

    def fold_column(self) -> list[str]:
        """Column `c`, taken into the lane states of all rows."""
        roots = [*self.program.components, *self.program.weights]
        body = self.column_values(below(self.program, roots))
        own = self.program.reduction.cuda_step if self.is_fast else ""
        for r in self.row_range:
            lines = self.computed(roots, r)
            for o, value in self.components:
                names = self.names(str(o), str(r)) | {"t": operand(self.program, value, r)}
                step = [fill(own or self.program.reduction.step, names)]
                lines += block("", [*step, *self.each_weight(str(o), r, self.weighted)])
            body += block("", lines)
        return body

    def _fold_loop(self) -> list[str]:
        return [self.unroll_columns(4), *block("for (int c = 0; c < count; c++)", self.fold_column())]

    def _selection_loop(self) -> list[str]:
        """The columns that may be among the best are marked, at the cost of one comparison, then taken in.

        They are compared with the last entry as it was before. Threads of a warp wait for the one that has most to
        take in of a run of columns, not for each that has something of one column.
        """
        reduction, last = self.program.reduction, f"[{self.program.K - 1}]"
        place = next(field.name for field in self.fields if field.kind == "column")
        value = next(field.name for field in self.fields if field.kind == "number")
        # An empty list takes every term: nothing compares with NaN, and no condition of its own is needed.
        limit = f"limit[o][r] = {place}[o][r]{last} < 0 ? K(INF - INF) : {value}[o][r]{last};"
        mark = ["const int c = c0 + u;", *self.column_values(below(self.program, self.program.components))]
        take: list[str] = []
        for r in self.row_range:
            lines = self.computed(self.program.components, r)
            for o, number in self.components:
                term = operand(self.program, number, r)
                names = {place: "0", value: f"limit[{o}][{r}]", "t": term}
                lines.append(f"found[{o}][{r}] |= {fill(reduction.candidate, names)} ? bit : 0u;")
                names = self.names(str(o), str(r)) | {"t": term}
                body = [
                    f"const int c = c0 + __ffs(found[{o}][{r}]) - 1;",
                    f"found[{o}][{r}] &= found[{o}][{r}] - 1;",
                    *self.column_values(below(self.program, [number])),
                    *self.computed([number], r),
                    *block("", [fill(reduction.step, names)]),
                ]
                take += block(f"while (found[{o}][{r}])", body)
            mark += block("", lines)
        head = f"for (int u = 0; u < {LISTED} && c0 + u < count; u++, bit <<= 1)"
        body = [
            "unsigned found[COMPONENTS][ROWS], bit = 1;",
            "V limit[COMPONENTS][ROWS];",
            *self.each(["found[o][r] = 0;", limit]),
            self.unroll_columns(4),
            *block(head, mark),
            *take,
        ]
        return ["#pragma unroll 1", *block(f"for (int c0 = 0; c0 < count; c0 += {LISTED})", body)]

    def _shifted_loop(self) -> list[str]:
        """Whole chunks, then the columns that are left one by one."""
        whole = block("for (; c0 + CHUNK <= count; c0 += CHUNK)", self.shifted_chunk("CHUNK"))
        return ["int c0 = 0;", *whole, *block("for (; c0 < count; c0++)", self.shifted_chunk("1"))]

    def column_of_chunk(self, lines: list[str], missing: list[str]) -> list[str]:
        """`lines` for column `u` of a chunk; `missing` are those for one that is not there."""
        return ["const int c = c0 + u;", *lines]

    def shifted_chunk(self, columns: str) -> list[str]:
        """Terms of a chunk stay in registers while their maximum is found; then each costs one exp.

        The sums of a chunk are made apart and then added: in two levels, rounding errors stay small.
        """
        inside = f"for (int u = 0; u < {columns}; u++)"
        search, missing = self.column_values(below(self.program, self.program.components)), list[str]()
        for r in self.row_range:
            terms = [f"t[{o}][{r}][u] = {operand(self.program, value, r)};" for o, value in self.components]
            search += block("", [*self.computed(self.program.components, r), *terms])
            missing += [f"t[{o}][{r}][u] = K(-INF);" for o, _ in self.components]
        (field,) = (field for field in self.fields if field.name != "m")
        name, entries = field.name, f"[{self.slots[field.name][1]}]" if field.each else ""
        shift = [
            "V n = m[o][r];",
            "#pragma unroll",
            f"{inside} n = fmax(t[o][r][u], n);",
            "h[o][r] = finite_or_zero(n);",
            f"const V a = {self.exp}(m[o][r] - h[o][r]);",
            "m[o][r] = n;",
            self.each_entry(field, f"{name}[o][r]{{0}} = {name}[o][r]{{0}} * a;"),
            self.each_entry(field, "chunk[o][r]{0} = K(0);"),
        ]
        lines = [
            f"V t[COMPONENTS][ROWS][{columns}], h[COMPONENTS][ROWS], chunk[COMPONENTS][ROWS]{entries};",
            "#pragma unroll",
            *block(inside, self.column_of_chunk(search, missing)),
            *self.each(shift),
        ]
        if self.program.weights:
            add = self.column_values(below(self.program, self.program.weights))
            for r in self.row_range:
                power = f"const V e = {self.exp}(t[0][{r}][u] - h[0][{r}]);"
                add += block(
                    "", [*self.computed(self.program.weights, r), power, *self.each_weight("0", r, "chunk")]
                )
            lines += ["#pragma unroll", *block(inside, self.column_of_chunk(add, []))]
        else:
            names = {name: "chunk[o][r]", "e": f"{self.exp}(t[o][r][u] - h[o][r])"}
            lines += self.each(["#pragma unroll", f"{inside} {fill(self.program.reduction.step_each, names)}"])
        lines += self.each([self.each_entry(field, f"{name}[o][r]{{0}} = {name}[o][r]{{0}} + chunk[o][r]{{0}};")])
        return lines
