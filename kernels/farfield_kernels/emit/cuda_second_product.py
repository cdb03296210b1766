"""Program + Schedule -> CUDA C++ for tensor cores: values of pairs times vectors of columns, as a product.

A thread has elements of two rows and two columns in every tile of 16 x 8, whether a first product made them or the
thread computes them one by one. The same elements are what it hands in for the second product, so they never
leave its registers. They become two halves after a scaling by a power of two of each row, the vectors in shared
memory after one of each column. What is not finite, and vectors with components of all sizes, are added one by
one. A component whose sum is less than 2^-29 of the largest of its row, as the large terms have zeros there, has
fewer bits. Sums stay in registers as float32 for a tile of columns, then they are merged into doubles in local
memory. In a shifted sum they are rescaled where the maximum of a row moves.

Components of the formula, or weights, that are no part of the vector are summed by each thread over its columns.
"""

from __future__ import annotations

from dataclasses import replace

from ..contractions import Contracted, Group, contracted
from ..lower import Output, Program
from ..reductions import Field
from ..schedule import Schedule
from ..schedule_contraction import passes
from .cuda_contraction import CALLED, Contractions, source
from .cuda_state import OF_SPLIT, State
from .second_product_text import ENTRIES, SECOND_PRODUCT
from .statements import below, block, finish, indent, operand

ENTRIES_OF_THREAD = "for (int u = 0; u < OWN; u++)"


def emit_second_product(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    found = contracted(program)
    assert found is not None
    assert found.group is not None
    return source(SecondProduct(program, found, found.group, schedule), program)


class Share(State):
    """The state of a thread: sums of its components of the vector, then of the others."""

    held = "OWN"

    def each_entry(self, field: Field, text: str) -> str:
        """See `State`; entries stay in registers."""
        loop = super().each_entry(field, text)
        return f'_Pragma("unroll") {loop}' if field.each else loop


class SecondProduct(Contractions):
    """Texts of the loops over tiles.

    Args:
        whole: the program.
        found: what is left of it.
        group: the second product.
        schedule: the kernel's.
    """

    def __init__(self, whole: Program, found: Contracted, group: Group, schedule: Schedule) -> None:
        super().__init__(found.rest, found.contractions, schedule)
        self.whole, self.group = whole, group
        self.is_shifted = bool(whole.weights)
        self.passes = passes(group, schedule)
        self.of_vector = schedule.width // schedule.team
        self.others = self.program.weights if self.is_shifted else self.program.components[1:]
        own = self.of_vector + len(self.others)
        rest, values = self.program, (0,) * own
        share = replace(rest, weights=values) if self.is_shifted else replace(rest, components=values)
        self.share = Share(share, schedule)
        self.share.held = "1" if self.is_shifted else "OWN"
        called = {"larger_or_nan", "half2_bits", "half2_floats", "ldmatrix_x4_trans", "mma_m16n8k16_f16"}
        self.called = called | (CALLED if found.contractions else set())

    # -- what is declared

    def functions(self) -> str:
        """See `Contractions`."""
        own = SECOND_PRODUCT.format(
            width=self.schedule.width,
            passes=self.passes,
            own=self.of_vector + len(self.others),
            first=self.group.first,
            count=self.group.count,
            stride=self.group.col.width,
            entries=ENTRIES if self.is_shifted else "",
            extent="[1][ROWS][OWN]" if self.is_shifted else "[OWN][ROWS]",
            held_q=self.sum_of("q", "r"),
        )
        return super().functions() + own

    def sum_of(self, u: str, r: str, prefix: str = "") -> str:
        """The sum of entry `u` and row `r`."""
        return f"{prefix}s[0][{r}][{u}]" if self.is_shifted else f"{prefix}s[{u}][{r}]"

    def halves(self) -> list[str]:
        """See `Contractions`; vectors of columns lie where columns of the first products did."""
        if not self.contractions:
            return ["__shared__ __align__(16) Values values[CHUNK];", "__shared__ float v_size[CHUNK];"]
        return [
            "__shared__ __align__(16) Halves of_rows[ROWS * QUADS];",
            "__shared__ __align__(16) union { Halves of_cols[CHUNK]; Values values[CHUNK]; } both;",
            "Halves *const of_cols = both.of_cols;",
            "Values *const values = both.values;",
            "__shared__ float v_size[CHUNK];",
        ]

    # -- columns

    def begin(self) -> str:
        """See `State`; passes over the columns begin here."""
        head = "for (int pass = 0; pass < PASSES; pass++) {" if self.passes > 1 else "const int pass = 0;"
        return indent([head, "terms = 0;", *self.share.new_wide()], 2)

    def new_lanes(self) -> list[str]:
        """See `State`."""
        return self.share.new_lanes()

    def elements(self) -> str:
        """See `Contractions`; then vectors become halves, while the first products are read."""
        vector = self.group.col
        lines = [
            *(["__syncthreads();"] if self.contractions else []),
            f"const T *const v = a{vector.position} + first_col * {vector.width} + {vector.first} + pass * WIDTH;",
            "const int wanted = COUNT - pass * WIDTH;",
            *block(
                "for (int c = own; c < CHUNK; c += QUADS)",
                [
                    f"const T *const from = v + smaller(c, count - 1) * {vector.width};",
                    "const float size = halve_values(from, wanted, lane, values[c]);",
                    "if (lane == 0) v_size[c] = size;",
                ],
            ),
            *([] if self.contractions else ["__syncthreads();"]),
        ]
        text = super().elements()
        return f"{text}\n{indent(lines, 8)}" if text else indent(lines, 8)

    def fold(self) -> str:
        """See `Contractions`."""
        lines = [
            "V p[ROWS][CHUNK / TEAM];",
            *(self._powers() if self.is_shifted else self._factors()),
            *(["__syncthreads();"] if self.contractions else []),
            "weigh(s, p, values, v_size, v, count, wanted, lane);",
        ]
        return indent(lines, 8)

    def _each_column(self, present: list[str], missing: list[str]) -> list[str]:
        body = self.column_of_chunk(present, missing)
        return ["#pragma unroll", *block("for (int u = 0; u < CHUNK / TEAM; u++)", body)]

    def _add_others(self, r: int, factor: str) -> list[str]:
        """The components or weights that are no part of the vector; those of a sum have no other factor."""
        return [
            f"{self.sum_of(str(self.of_vector + x), str(r))} += {factor}{operand(self.program, value, r)};"
            for x, value in enumerate(self.others)
        ]

    def _factors(self) -> list[str]:
        """What the vectors of a sum are multiplied with."""
        roots = self.program.components
        lines = self.column_values(below(self.program, roots))
        for r in self.row_range:
            keep = f"p[{r}][u] = {operand(self.program, roots[0], r)};"
            lines += block("", [*self.computed(roots, r), keep, *self._add_others(r, "")])
        return self._each_column(lines, [f"p[{r}][u] = 0;" for r in self.row_range])

    def _powers(self) -> list[str]:
        """Exponentials of the terms, relative to the largest of the row so far."""
        (root,) = self.program.components
        lines = self.column_values(below(self.program, [root]))
        for r in self.row_range:
            keep = f"p[{r}][u] = {operand(self.program, root, r)};"
            lines += block("", [*self.computed([root], r), keep])
        shift = [
            "V n = K(-INF);",
            "#pragma unroll",
            "for (int u = 0; u < CHUNK / TEAM; u++) n = fmax(p[r][u], n);",
            "n = fmax(n, __shfl_xor_sync(0xffffffffu, n, 1));",
            "n = fmax(m[0][r], fmax(n, __shfl_xor_sync(0xffffffffu, n, 2)));",
            "const V h = finite_or_zero(n);",
            f"by[r] = {self.exp}(m[0][r] - h);",
            "is_moved |= by[r] != 1;",
            "m[0][r] = n;",
            "#pragma unroll",
            f"for (int u = 0; u < CHUNK / TEAM; u++) p[r][u] = {self.exp}(p[r][u] - h);",
        ]
        rescale = [
            "#pragma unroll",
            "for (int r = 0; r < ROWS; r++)",
            "#pragma unroll",
            f"  {ENTRIES_OF_THREAD} {self.sum_of('u', 'r')} *= by[r];",
        ]
        return [
            *self._each_column(lines, [f"p[{r}][u] = K(-INF);" for r in self.row_range]),
            "V by[ROWS];",
            "bool is_moved = false;",
            "#pragma unroll",
            *block("for (int r = 0; r < ROWS; r++)", shift),
            *block("if (__any_sync(0xffffffffu, is_moved))", rescale),
            *self._weighted_others(),
        ]

    def _weighted_others(self) -> list[str]:
        if not self.others:
            return []
        lines = self.column_values(below(self.program, self.others))
        for r in self.row_range:
            lines += block("", [*self.computed(self.others, r), *self._add_others(r, f"p[{r}][u] * ")])
        return self._each_column(lines, [])

    # -- states

    def flush(self) -> str:
        """See `State`; a team adds up the others before."""
        lines = []
        for r in self.row_range:
            for x in range(len(self.others)):
                entry = self.sum_of(str(self.of_vector + x), str(r))
                lines.append(f"{entry} = quad_sum({entry});")
        return "\n".join([*([indent(lines, 6)] if lines else []), self.share.flush()])

    def gather(self) -> str:
        """See `State`; no two threads have the same sums."""
        return ""

    def store(self) -> str:
        """See `State`; each thread writes the sums that it has, by the number of their component or weight."""
        lines = []
        for r in self.row_range:
            body = [
                *block("if (splits == 1)", self._results(r)),
                *block("else", self._partials(r)),
            ]
            is_own = f"if (const i64 row = row_begin + own + {r} * own_rows; row < row_end)"
            lines += block(is_own, body)
        return indent([*lines, *(["}"] if self.passes > 1 else [])], 2)

    @staticmethod
    def _each_place(name: str, lines: list[str]) -> list[str]:
        body = block(f"if (const int {name} = place(u, pass, lane); {name} >= 0)", lines)
        return ["#pragma unroll 1", *block(ENTRIES_OF_THREAD, body)]

    def _partials(self, r: int) -> list[str]:
        read = self.sum_of("u", str(r), "w_")
        if not self.is_shifted:
            (field,) = self.fields
            return self._each_place("o", [f"{self._in_partial(field)} = {read};"])
        maximum, sums = self.fields
        keep = f"if (lane == 0 && pass == 0) {self._in_partial(maximum)} = w_m[0][{r}];"
        write = f"{self._in_partial(sums)} = {read};"
        return ["const int o = 0;", keep, *self._each_place("q", [write])]

    def _in_partial(self, field: Field) -> str:
        return self.place(field, "partial", OF_SPLIT, "rows", "row")

    def _results(self, r: int) -> list[str]:
        lines = ["const i64 at_row = batch * rows + row;"]
        if not self.is_shifted:
            names = {"s": self.sum_of("u", str(r), "w_")}
            own = [
                line
                for k, output in enumerate(self.whole.outputs)
                for line in block(
                    f"if (o >= {output.first} && o < {output.first + output.count})",
                    self._written(k, output, names),
                )
            ]
            return [*lines, *self._each_place("o", own)]
        lines += ["const int o = 0;", f"const Entries of_row{{w_s[0][{r}], pass}};"]
        for k, output in enumerate(self.whole.outputs):
            lines += self._weighted_result(k, output, r)
        return lines

    def _written(self, k: int, output: Output, names: dict[str, str]) -> list[str]:
        return finish(self.whole, self.schedule, output, f"(o{k} + at_row * {output.width})", names)

    def _weighted_result(self, k: int, output: Output, r: int) -> list[str]:
        """A result with an entry per weight: a thread writes its own; one per row is written by one of them."""
        result = output.result
        written = self._written(k, output, {"m": f"w_m[0][{r}]", "s": "of_row"})
        if result.each != "W":
            return block("if (lane == 0 && pass == 0)", written)
        *head, loop = written
        each = f"for (int q = 0; q < {len(self.whole.weights) - result.skip}; q++) "
        write = loop.removeprefix(each)
        skip = f" - {result.skip}" if result.skip else ""
        own = block(f"if (const int q = place(u, pass, lane){skip}; q >= 0)", [write])
        return [
            *block("if (lane == 0 && pass == 0)", head),
            "#pragma unroll 1",
            *block(ENTRIES_OF_THREAD, own),
        ]
