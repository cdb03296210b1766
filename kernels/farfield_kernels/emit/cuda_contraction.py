"""Program + Schedule -> CUDA C++ for tensor cores: scalar products and squared distances as products of matrices.

A float is split into two halves, of which three products are made: what is left out is as small as the rounding
of a float. Each vector is scaled by a power of two of its own, so halves neither overflow nor lose bits whatever
the data, and only vectors that are not finite are computed one by one. A squared distance is |x|^2 + |y|^2 - 2 x.y
with x and y relative to the mean of some rows. Where it is small against both squares, cancellation leaves too few
bits, and the difference form is computed for the pair instead, unless the error does not matter in an exponent.

A thread has elements of two rows and two columns in every tile of 16 x 8. What the rest of the formula does to
them is the text that computes pairs one by one (`cuda_pairs.py`), with a value in the place of each contraction.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..contractions import Contraction, contracted
from ..lower import Program
from ..schedule import Schedule
from ..schedule_contraction import STEP, pitch
from .contraction_text import CONTRACTION, MULTIPLY, OF_ONE
from .cuda import Emitter, helpers
from .cuda_merge import Merge
from .statements import below, block, indent, operand, title

NEAR = 0.125  # of both squares: a smaller distance is computed anew, the error of others is 8 times theirs
HARMLESS = 4.0  # both squares in an exponent: their error is then no more than that of exponents computed directly
TINY = "1e-30f"  # smaller squares are not normal numbers, or a sum of some that are not
COLUMN = "const int c = u / 2 * 8 + 2 * lane + u % 2;"  # number `u` of a thread
CALLED = {"larger_or_nan", "half2_bits", "ldmatrix_x4", "mma_m16n8k16_f16"}


def emit_contraction(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    found = contracted(program)
    assert found is not None
    return source(Contractions(found.rest, found.contractions, schedule), program)


def source(emitter: Contractions, program: Program) -> str:
    """The whole text of a program's kernel."""
    fold, schedule = emitter.fold(), emitter.schedule
    return CONTRACTION.format(
        title=title(program),
        rows=schedule.rows,
        tile=schedule.tile,
        chunk=schedule.chunk,
        depth=schedule.depth,
        step=min(STEP, schedule.depth),
        pitch=pitch(schedule.depth),
        threads=schedule.block,
        resident=schedule.resident,
        team=schedule.team,
        mergers=schedule.mergers,
        col_slots=emitter.slots_of_column,
        components=len(program.components),
        slots=program.state_size,
        functions=helpers(fold, schedule, emitter.called),
        of_products=emitter.functions(),
        arguments=emitter.arguments(),
        out_arguments=emitter.out_arguments(),
        shared=emitter.shared(),
        offsets=emitter.offsets(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        begin=emitter.begin(),
        measure_rows=emitter.measure_rows(),
        new_lanes=indent(emitter.new_lanes(), 6),
        load_cols=emitter.load_cols(),
        elements=emitter.elements(),
        fold=fold,
        flush=emitter.flush(),
        gather=emitter.gather(),
        store=emitter.store(),
        merge_splits=Merge(program, schedule).merged(),
    )


class Contractions(Emitter):
    """Texts of the loops over tiles.

    Args:
        rest: the program without its contractions.
        contractions: those.
        schedule: the kernel's.

    Attributes:
        called: functions of `intrinsics.py` that the fixed text calls.
    """

    called = CALLED

    def __init__(self, rest: Program, contractions: tuple[Contraction, ...], schedule: Schedule) -> None:
        super().__init__(rest, schedule)
        self.contractions = list(enumerate(contractions))
        deepest = max((one.dim for one in contractions), default=0)
        self.stays = len(contractions) == 1 and deepest <= schedule.depth  # rows are made halves of once

    # -- what is declared

    def functions(self) -> str:
        """Those of all contractions."""
        own = "".join(self._functions_of(f, one) for f, one in self.contractions)
        return own + MULTIPLY if own else ""

    @staticmethod
    def _functions_of(f: int, one: Contraction) -> str:
        """Those of one contraction."""
        is_distance = one.kind == "distance"
        return OF_ONE.format(
            f=f,
            dim=one.dim,
            what="Squared distances" if is_distance else "Scalar products",
            centre_argument=", const float *centre" if is_distance else "",
            minus_centre=" - centre[k]" if is_distance else "",
            direct="{ const float d = x[k] - y[k]; sum = sum + d * d; }"
            if is_distance
            else "sum = sum + x[k] * y[k];",
        )

    def shared(self) -> str:
        """Shared memory of the contractions: their halves, scales and squares of columns, and centres."""
        lines = self.halves()
        for f, one in self.contractions:
            lines.append(f"__shared__ float y_scale{f}[CHUNK];")
            if one.kind == "distance":
                lines.append(f"__shared__ float y_norm{f}[CHUNK], centre{f}[{one.dim}];")
        return indent(lines, 2)

    def halves(self) -> list[str]:
        """Those of rows and columns."""
        return ["__shared__ __align__(16) Halves of_rows[ROWS * QUADS], of_cols[CHUNK];"]

    def meeting_place(self, states: str) -> list[str]:
        """See `State`; after the last tile, the memory of the rows is free."""
        return [f"f64 (*const meeting)[{states}] = (f64 (*)[{states}])of_rows;"]

    # -- vectors

    @staticmethod
    def _row(one: Contraction, row: str) -> str:
        return f"a{one.row.position} + {row} * {one.row.width} + {one.row.first}"

    @staticmethod
    def _col(one: Contraction, col: str) -> str:
        return f"a{one.col.position} + ({col}) * {one.col.width} + {one.col.first}"

    @staticmethod
    def _centre(f: int, one: Contraction) -> str:
        return f", centre{f}" if one.kind == "distance" else ""

    def measure_rows(self) -> str:
        """Centres, and scales and squares of the rows of a thread."""
        lines: list[str] = []
        for f, one in self.contractions:
            if one.kind == "product":
                continue
            row = "(row_begin + (row_end - 1 - row_begin) * s / (SAMPLE - 1))"
            lines += block(
                f"for (int k = threadIdx.x; k < {one.dim}; k += THREADS)",
                [
                    "float sum = 0;",
                    f"for (int s = 0; s < SAMPLE; s++) sum += ({self._row(one, row)})[k] * (1.0f / SAMPLE);",
                    f"centre{f}[k] = finite_or_zero(sum);",
                ],
            )
        lines.append("__syncthreads();")
        for f, one in self.contractions:
            for r in self.row_range:
                vector = f"{self._row(one, f'row{r}')}{self._centre(f, one)}"
                lines.append(f"float x_norm{f}_{r};")
                lines.append(f"const Scale x_scale{f}_{r} = measure{f}({vector}, lane, x_norm{f}_{r});")
        if self.stays:
            lines += self._halve_rows(*self.contractions[0], "0")
        return indent(lines, 2)

    def _halve_rows(self, f: int, one: Contraction, k0: str) -> list[str]:
        return [
            f"halve{f}({self._row(one, f'row{r}')}{self._centre(f, one)}, lane, {k0}, x_scale{f}_{r}.up, "
            f"of_rows[own + {r} * QUADS]);"
            for r in self.row_range
        ]

    def elements(self) -> str:
        """The elements of all contractions, and then what they are the values of."""
        lines: list[str] = []
        for f, one in self.contractions:
            lines += self._measure_cols(f, one)
        for f, one in self.contractions:
            lines += self._multiplied(f, one)
        for f, one in self.contractions:
            for r in self.row_range:
                lines += block("", self._finished(f, one, r))
        return indent(lines, 8)

    def _measure_cols(self, f: int, one: Contraction) -> list[str]:
        scale = "-2 * scale.down" if one.kind == "distance" else "scale.down"
        body = [
            "const int c = own + q * QUADS;",
            "float norm;",
            f"const T *const y = {self._col(one, 'smaller(first_col + c, col_end - 1)')};",
            f"const Scale scale = measure{f}(y{self._centre(f, one)}, lane, norm);",
            f"up{f}[q] = scale.up;",
            f"if (lane == 0) y_scale{f}[c] = {scale};",
            *([f"if (lane == 0) y_norm{f}[c] = norm;"] if one.kind == "distance" else []),
        ]
        return [
            f"float up{f}[CHUNK / QUADS];",
            "#pragma unroll",
            *block("for (int q = 0; q < CHUNK / QUADS; q++)", body),
        ]

    def _multiplied(self, f: int, one: Contraction) -> list[str]:
        col = self._col(one, "smaller(first_col + own + q * QUADS, col_end - 1)")
        halve = f"halve{f}({col}{self._centre(f, one)}, lane, k0, up{f}[q], of_cols[own + q * QUADS]);"
        is_whole = one.dim <= self.schedule.depth
        body = [
            *([] if is_whole and f == 0 else ["__syncthreads();"]),
            *([] if self.stays else self._halve_rows(f, one, "k0")),
            "#pragma unroll",
            f"for (int q = 0; q < CHUNK / QUADS; q++) {halve}",
            "__syncthreads();",
            f"multiply(elements{f}, of_rows, of_cols);",
        ]
        return [
            f"float elements{f}[ROWS / 2][CHUNK / 8][4] = {{}};",
            *block(
                "" if is_whole else f"for (int k0 = 0; k0 < {one.dim}; k0 += DEPTH)",
                ["const int k0 = 0;", *body] if is_whole else body,
            ),
        ]

    @staticmethod
    def _element(f: int, r: int) -> str:
        """The element of row `r` of a thread and its column `u`."""
        return f"elements{f}[{r // 2}][u / 2][{r % 2 * 2} + u % 2]"

    def _finished(self, f: int, one: Contraction, r: int) -> list[str]:
        """Elements of one row become values; those that are not exact enough are computed anew."""
        element = self._element(f, r)
        scaled = f"e * x_scale{f}_{r}.down"
        if one.kind == "product":
            compute, is_exact = [f"e = {scaled} * y_scale{f}[c];"], "e == e"
        else:
            compute = [
                f"const float squares = x_norm{f}_{r} + y_norm{f}[c];",
                f"e = {scaled} * y_scale{f}[c] + squares;",
            ]
            is_exact = f"e > squares * {NEAR}f + {TINY}"
            if one.factor is not None:
                factor = operand(self.program, one.factor, r)
                is_exact = f"({is_exact}) | (squares * fabs({factor}) <= {HARMLESS}f)"
        anew = [
            "const int found = __ffs(again) - 1;",
            "again &= again - 1;",
            "const int c = found / 2 * 8 + 2 * lane + found % 2;",
            f"const float e = direct{f}({self._row(one, f'row{r}')}, {self._col(one, 'first_col + c')});",
            "#pragma unroll",
            f"for (int u = 0; u < CHUNK / TEAM; u++) {element} = u == found ? e : {element};",
        ]
        mark = [
            COLUMN,
            f"float &e = {element};",
            *compute,
            f"again |= c < count && !({is_exact}) ? 1u << u : 0u;",
        ]
        return [
            "unsigned again = 0;",
            "#pragma unroll",
            *block("for (int u = 0; u < CHUNK / TEAM; u++)", mark),
            *block("while (again)", anew),
        ]

    # -- the rest of the formula

    def column_values(self, wanted: set[int]) -> list[str]:
        """See `Pairs`."""
        return [line.replace("tile[c * pitch + lane]", "tile[c]") for line in super().column_values(wanted)]

    def store_column(self) -> list[str]:
        """See `Pairs`."""
        place = "q % part_tile * pitch + q / part_tile"
        return [line.replace(place, "q") for line in super().store_column()]

    def computed(self, roots: Sequence[int], r: int) -> list[str]:
        """See `Pairs`; contractions are read."""
        wanted = below(self.program, roots)
        values = [
            f"const V v{one.value}_{r} = {self._element(f, r)};"
            for f, one in self.contractions
            if one.value in wanted
        ]
        return [*values, *super().computed(roots, r)]

    def fold(self) -> str:
        """The elements of a thread, taken into the lane state."""
        is_fold = self.program.reduction.scheme == "fold"
        return indent(self._fold_elements() if is_fold else self.shifted_chunk("CHUNK / TEAM"), 8)

    def column_of_chunk(self, lines: list[str], missing: list[str]) -> list[str]:
        """See `Pairs`; a thread has two columns of every eight."""
        return [COLUMN, *block("if (c < count)", lines), *block("else", missing)]

    def _fold_elements(self) -> list[str]:
        each = block("for (int u = 0; u < CHUNK / TEAM; u++)", self.column_of_chunk(self.fold_column(), []))
        return ["#pragma unroll", *each]
