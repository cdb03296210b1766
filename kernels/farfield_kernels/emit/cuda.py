"""Program + Schedule -> CUDA C++ for NVRTC: rows in registers of a thread, column tiles in shared memory.

    farfield_reduce   one block of threads per unit of work
    farfield_merge    a team of threads per row, if the columns were split: merges the splits' wide states and
                      finishes; if both axes are reduced, blocks of threads per batch element, until one state is
                      left of it

Where rows are few, the threads of a *team* share them: each takes a part of the columns, one after the other in
their order, and their states are merged in that order. Strides over threads are written with `blockDim`; in a
block that is no multiple of the team each thread is a team. Where both axes are reduced, rows are merged by whole
warps.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..expr import INDEX_SHIFT
from ..lower import Program
from ..schedule import Schedule
from .cuda_merge import Merge
from .cuda_pairs import Pairs
from .intrinsics import intrinsics
from .skeletons import CUDA
from .statements import c_type, functions, indent, out_type, statements, title

LOW_MASK = (1 << INDEX_SHIFT) - 1
_HEAD = "static __device__ __forceinline__"
_FINITE_WIDE = f"{_HEAD} f64 finite_or_zero(f64 x) {{ return x - x == 0 ? x : 0; }}\n"
_FAST_EXP = f"""\
// As exact as x itself, if that was rounded: log2 e rounds it once more. A result below 2^-126 is 0.
{_HEAD} float fast_exp(float x) {{ return ex2_approx(x * 1.4426950408889634f); }}
"""
_POLYNOMIAL = f"""\
// 2^x within 1.5e-7 of it, by products and sums alone. A result below 2^-126 is 0; infinities and NaN are kept.
{_HEAD} float polynomial_exp2(float x) {{
  const float low = larger_or_nan(x, -127.0f);
  const float shifted = __fadd_rd(fmin(low, 128.0f), 12583039.0f);  // its last bits are floor(x) + 127
  const float f = low - (shifted - 12583039.0f);
  float p = 0.0018671263242140412f;
  p = p * f + 0.0090170381590724f;
  p = p * f + 0.05579990893602371f;
  p = p * f + 0.24016445875167847f;
  p = p * f + 0.6931512951850891f;
  p = p * f + 1.0f;
  return p * __int_as_float(__float_as_int(shifted) << 23);
}}
"""


def emit(program: Program, schedule: Schedule) -> str:
    """The CUDA source of one kernel."""
    emitter = Emitter(program, schedule)
    fold = emitter.fold()
    return CUDA.format(
        title=title(program),
        T="float" if schedule.dtype == "float32" else "double",
        rows=schedule.rows,
        tile=schedule.tile,
        chunk=schedule.chunk,
        threads=schedule.block,
        resident=schedule.resident,
        team=schedule.team,
        mergers=schedule.mergers,
        col_slots=emitter.slots_of_column,
        components=len(program.components),
        slots=program.state_size,
        functions=helpers(fold, schedule),
        arguments=emitter.arguments(),
        out_arguments=emitter.out_arguments(),
        offsets=emitter.offsets(),
        parameters=emitter.parameters(),
        load_rows=emitter.load_rows(),
        begin=emitter.begin(),
        load_cols=emitter.load_cols(),
        at="      const int at = (int)(col0 - base);\n" if emitter.is_exact else "",
        fold=fold,
        flush=emitter.flush(),
        gather=emitter.gather(),
        store=emitter.store(),
        merge_splits=Merge(program, schedule).merged(),
    )


def helpers(text: str, schedule: Schedule, others: Iterable[str] = ()) -> str:
    """The functions that loops call, and others."""
    called = functions(text).union(others)
    own = _FINITE_WIDE if schedule.dtype == "float32" else ""
    if "fast_exp" in called:
        own, called = own + _FAST_EXP, called | {"ex2_approx"}
    if "polynomial_exp2" in called:
        own, called = own + _POLYNOMIAL, called | {"larger_or_nan"}
    return intrinsics(called) + own


class Emitter(Pairs):
    """Arguments, and what is computed of them once."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        super().__init__(program, schedule)
        self.widths = dict(program.widths)
        self.kinds = [c_type(dtype, schedule) for dtype in schedule.stored]

    def arguments(self) -> str:
        """Of the reduction."""
        read = (f", const {kind} *__restrict__ b{k}" for k, kind in zip(self.widths, self.kinds, strict=True))
        return "".join(read) + self.out_arguments()

    def out_arguments(self) -> str:
        """Of both kernels."""
        return "".join(
            f", {out_type(output, self.schedule)} *__restrict__ o{k}"
            for k, output in enumerate(self.program.outputs)
        )

    def offsets(self) -> str:
        """Where the arguments of the batch element begin."""
        count = len(self.widths)
        return indent(
            [
                f"const {kind} *__restrict__ a{k} = b{k} + (offsets ? offsets[batch * {count} + {rank}] : 0);"
                for rank, (k, kind) in enumerate(zip(self.widths, self.kinds, strict=True))
            ],
            2,
        )

    def parameters(self) -> str:
        """Constants, and what depends on parameters alone."""
        lines = statements(self.program, "constant")
        for number in self.program.at("p"):
            value = self.values[number]
            if value.is_load:
                lines.append(f"const V v{number} = a{value.position}[{value.component}];")
        return indent(lines + statements(self.program, "p"), 2)

    def _load(self, number: int, name: str, index: str) -> str:
        value = self.values[number]
        if value.half:
            half = f"({index}) >> {INDEX_SHIFT}" if value.half == "high" else f"({index}) & {LOW_MASK}"
            return f"const V {name} = K({half});"
        width = self.widths[value.argument]
        return f"const V {name} = a{value.position}[({index}) * {width} + {value.component}];"

    def load_rows(self) -> str:
        """The rows of a thread; those past the end are the last one, and not written."""
        lines = []
        for r in self.row_range:
            lines.append(f"const i64 row{r} = smaller(row_begin + own + {r} * own_rows, row_end - 1);")
            lines += [
                self._load(number, f"v{number}_{r}", f"row{r}")
                for number in self.program.at("row")
                if self.values[number].is_load
            ]
            lines += statements(self.program, "row", r)
        return indent(lines, 2)

    def load_cols(self) -> str:
        """A column of the tile."""
        lines = [
            self._load(number, f"v{number}", "col")
            for number in self.program.at("col")
            if self.values[number].is_load
        ]
        lines += statements(self.program, "col")
        return indent([*lines, *(self.store_column() if self.col_slots else [])], 10)
