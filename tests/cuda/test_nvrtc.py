"""Every kind of emitted CUDA source is accepted by NVRTC for the architectures in use; no GPU is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

from cuda.cubin import resources
from farfield_kernels.build import CUDA_OPTIONS
from farfield_kernels.emit import emit
from farfield_kernels.emit.cuda_sum import CUDA_SUM
from farfield_kernels.emit.intrinsics import INTRINSICS, intrinsics
from farfield_kernels.operation import Spec
from farfield_kernels.operators import named_operators
from farfield_kernels.schedule_cuda import with_team
from farfield_kernels.stages import plan_call
from kernels.operator_checks import Arguments, calls_of, stages
from kernels.reduction_checks import FORMULA, VARIABLES, VARIANT_IDS, VARIANTS, spec_of
from kernels.test_fuzz import DRAWN, drawn

ARCHITECTURES = ("sm_80", "sm_90")
ALL_ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
GAUSSIAN = Spec("Exp(-g*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "g = Pm(1)"))
LOGSUMEXP = Spec("-SqDist(x,y)*g", ("x = Vi(3)", "y = Vj(3)", "g = Pm(1)"), "LogSumExp")
SPECS = {
    "seed": SEED,
    "seed over i": Spec(SEED.formula, SEED.variables, axis=0),
    "seed gradients": SEED.vjp((0, 1, 2, 3)),
    "seed second gradients": SEED.vjp((0, 1, 2, 3)).vjp((0, 1, 2, 3, 4)),
    "gaussian": GAUSSIAN,
    "gaussian gradients": GAUSSIAN.vjp((0, 1, 2, 3)),
    "logsumexp": LOGSUMEXP,
    "logsumexp gradients": LOGSUMEXP.vjp((0, 1, 2)),
    "maximum gradients": Spec(FORMULA, VARIABLES, "Max").vjp((0, 1, 2, 3)),
    "wide": Spec("Exp(-SqDist(x,y))*b", ("x = Vi(40)", "y = Vj(40)", "b = Vj(30)")),
    "both axes": spec_of("KMin_ArgKMin", None),
    "both axes, weighted": spec_of("SumSoftMaxWeight", None),
    **{shown: spec_of(name, **options) for shown, (name, options) in zip(VARIANT_IDS, VARIANTS, strict=True)},
}

Compile = Callable[[str, str], bytes]


@pytest.fixture(scope="session")
def nvrtc() -> Compile:
    """Source and architecture -> cubin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns about machines without a GPU
        try:
            from cupy.cuda.compiler import _NVRTCProgram
            from cupy_backends.cuda.libs import nvrtc as library
        except ImportError as error:
            pytest.skip(f"CuPy is not installed ({error}): pip install 'farfield[cuda13]'")
        try:
            library.getVersion()
        except Exception as error:
            pytest.skip(f"NVRTC was not found ({error}): pip install 'farfield[cuda13]'")

    def compiled(source: str, architecture: str) -> bytes:
        program = _NVRTCProgram(source, "farfield.cu", method="cubin")
        binary: bytes = program.compile((*CUDA_OPTIONS, f"-arch={architecture}"))[0]
        return binary

    return compiled


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_the_sum_over_rows_compiles(architecture: str, nvrtc: Compile) -> None:
    """Its kernel is the one that sums of rows launch, and needs no local memory."""
    assert resources(nvrtc(CUDA_SUM, architecture), "farfield_sum").local_bytes == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPECS)
def test_emitted_source_compiles(name: str, dtype: str, nvrtc: Compile) -> None:
    """All kernels of the call become machine code, and each has both entry points."""
    for stage in plan_call(SPECS[name], dtype, "cuda").stages:
        passes = stage.separated.kernels if stage.separated and name in ("seed", "seed gradients") else ()
        texts = [(stage.emitted.source, architecture) for architecture in ARCHITECTURES]
        for source, architecture in (*texts, *((emitted.source, ARCHITECTURES[-1]) for emitted in passes)):
            binary = nvrtc(source, architecture)
            assert b"farfield_reduce" in binary
            assert b"farfield_merge" in binary


OPERATORS = sorted(named_operators())
GROUP = 8  # operators of one kernel: of all in one, the time to compile grows like the square


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", range(0, len(OPERATORS), GROUP))
def test_every_operator_compiles(first: int, dtype: str, nvrtc: Compile) -> None:
    """The C text of every operator in all its cases."""
    arguments = Arguments()
    names = OPERATORS[first : first + GROUP]
    formulas = [call.formula for name in names for call in calls_of(name, arguments, dtype)]
    if formulas:
        assert b"farfield_reduce" in nvrtc(stages(formulas, dtype, "cuda")[2], ARCHITECTURES[-1])


@pytest.mark.parametrize("reduction", DRAWN)
def test_random_formulas_compile(reduction: str, nvrtc: Compile) -> None:
    """Every kernel of the random formulas of test_fuzz.py, of their gradients and of their tangents."""
    dtype = ("float32", "float64")[DRAWN.index(reduction) % 2]
    for spec in drawn(reduction).specs:
        for stage in plan_call(spec, dtype, "cuda").stages:
            assert b"farfield_reduce" in nvrtc(stage.emitted.source, "sm_90")


def narrow(dim: int, *more: str) -> tuple[str, ...]:
    """Points of both axes, and other variables."""
    return (f"x = Vi({dim})", f"y = Vj({dim})", *more)


WEIGHTED = "Exp(-g*SqDist(x,y))*b"
NARROW = {
    "seed": SEED,
    "seed gradient in y": SEED.vjp((1,)),
    "seed gradients": SEED.vjp((0, 1, 2, 3)),
    "gaussian": Spec(WEIGHTED, narrow(3, "b = Vj(1)", "g = Pm(1)")),
    "gaussian gradients": Spec(WEIGHTED, narrow(3, "b = Vj(1)", "g = Pm(1)")).vjp((0, 1, 2, 3)),
    "gaussian of 10 dims": Spec(WEIGHTED, narrow(10, "b = Vj(1)", "g = Pm(1)")),
    "gaussian of 16 weights": Spec(WEIGHTED, narrow(3, "b = Vj(16)", "g = Pm(1)")),
    "LogSumExp": Spec("-SqDist(x,y)", narrow(3), "LogSumExp"),
    "softmax": Spec("-SqDist(x,y)", narrow(3, "b = Vj(8)"), "SumSoftMaxWeight", formula2="b"),
    "LogSumExp over both axes": Spec("-SqDist(x,y)", narrow(3), "LogSumExp", None),
    "KMin over both axes": Spec("SqDist(x,y)", narrow(10), "KMin_ArgKMin", None, opt_arg=10),
    "Max": Spec("x|y", narrow(3), "Max"),
    "ArgMin": Spec("SqDist(x,y)", narrow(10), "ArgMin"),
    "KMin": Spec("SqDist(x,y)", narrow(10), "KMin", opt_arg=10),
    "ArgKMin": Spec("SqDist(x,y)", narrow(10), "ArgKMin", opt_arg=10),
}


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
@pytest.mark.parametrize("name", NARROW)
def test_rows_and_states_of_narrow_kernels_stay_in_registers(name: str, architecture: str, nvrtc: Compile) -> None:
    """No local memory: no register is spilled, and no array is indexed by what the compiler does not know."""
    for stage in plan_call(NARROW[name], "float32", "cuda").stages:
        program, schedule = stage.program, stage.emitted.schedule
        shared = with_team(program, replace(schedule, rows=1), 32)
        for chosen in (schedule, shared) if architecture == "sm_90" else (schedule,):
            taken = resources(nvrtc(emit(program, chosen), architecture), "farfield_reduce")
            assert taken.local_bytes == 0, f"{chosen}: {taken}"
            blocks = min(chosen.resident, 65_536 // (chosen.block * taken.registers))
            assert blocks == chosen.resident


WIDE = {
    **{f"gaussian of {dim} dims": Spec(WEIGHTED, narrow(dim, "b = Vj(1)", "g = Pm(1)")) for dim in (16, 64, 256)},
    "gaussian gradient of 64 dims": Spec(WEIGHTED, narrow(64, "b = Vj(1)", "g = Pm(1)")).vjp((2,)),
    "LogSumExp of 64 dims": Spec("(x|y)*g", narrow(64, "g = Pm(1)"), "LogSumExp"),
    "softmax of 64 dims": Spec("x|y", narrow(64, "b = Vj(4)"), "SumSoftMaxWeight", formula2="b"),
    "two products": Spec("Exp(-SqDist(x,y))*(u|v)", narrow(64, "u = Vi(32)", "v = Vj(32)")),
}
SPILLED = 96  # bytes: a few values of the rows, between tiles; arrays that are indexed there would be more


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES[1:])
@pytest.mark.parametrize("name", WIDE)
def test_elements_of_tiles_stay_in_registers(name: str, architecture: str, nvrtc: Compile) -> None:
    """Kernels on tensor cores have room for the blocks that they plan with, and next to no local memory."""
    (stage,) = plan_call(WIDE[name], "float32", "cuda").stages
    chosen = stage.contraction
    assert chosen is not None
    taken = resources(nvrtc(stage.by(chosen).source, architecture), "farfield_reduce")
    assert taken.local_bytes <= SPILLED, f"{chosen}: {taken}"
    assert 65_536 // (chosen.block * taken.registers) >= chosen.resident


SOFTMAX = "SumSoftMaxWeight"
SECOND = {
    **{
        f"attention of {w} dims": Spec("x|y", narrow(64, f"b = Vj({w})"), SOFTMAX, formula2="b")
        for w in (16, 64, 128)
    },
    "gaussian of 64 weights": Spec(WEIGHTED, narrow(64, "b = Vj(64)", "g = Pm(1)")),
    "narrow gaussian of 64 weights": Spec(WEIGHTED, narrow(3, "b = Vj(64)", "g = Pm(1)")),
    "wide gaussian of 200 weights": Spec(WEIGHTED, narrow(256, "b = Vj(200)", "g = Pm(1)")),
    "gradient of 64 weights": Spec(WEIGHTED, narrow(64, "b = Vj(64)", "g = Pm(1)")).vjp((2,)),
}
APART = 640  # bytes that the loop over columns that are apart may spill; the other loops do not


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES[1:])
@pytest.mark.parametrize("name", SECOND)
def test_sums_of_second_products_stay_in_registers(name: str, architecture: str, nvrtc: Compile) -> None:
    """Wide sums are in local memory, which is written once per tile; nothing else but for what is rare."""
    (stage,) = plan_call(SECOND[name], "float32", "cuda").stages
    chosen = stage.contraction
    assert chosen is not None
    assert chosen.scheme == "second product"
    taken = resources(nvrtc(stage.by(chosen).source, architecture), "farfield_reduce")
    sums = 8 * chosen.rows * (chosen.width // chosen.team + 2)
    assert taken.local_bytes <= sums + APART, f"{chosen}: {taken}"
    assert 65_536 // (chosen.block * taken.registers) >= chosen.resident


CALLS = """
extern "C" __global__ void calls(const float4 *x, float *y) {
  __shared__ __align__(16) float4 rows[32];
  unsigned a[4], b[2];
  float c[4] = {};
  cp_async_16(&rows[threadIdx.x], x, 12);
  cp_async_4(&rows[threadIdx.x].x, x);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  ldmatrix_x4(a, rows + threadIdx.x);
  ldmatrix_x2(b, rows + threadIdx.x);
  mma_m16n8k16_f16(c, a, b);
  ldmatrix_x4_trans(a, rows + threadIdx.x);
  ldmatrix_x2_trans(b, rows + threadIdx.x);
  mma_m16n8k8_tf32(c, a, b);
  y[threadIdx.x] = ex2_approx(c[0] + c[1]) + half2_bits(c[2], c[3]) + tf32_bits(c[0]);
  y[threadIdx.x] += larger_or_nan(c[0], c[1]) + smaller_or_nan(c[2], c[3]);
  half2_floats(a[0], c[0], c[1]);
  y[threadIdx.x] += c[0] + c[1];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_intrinsics_compile(architecture: str, nvrtc: Compile) -> None:
    """Every one of them, called with what the emulator of the tests takes too."""
    assert all(f"{name}(" in CALLS or f"{name}<" in CALLS for name in INTRINSICS)
    assert b"calls" in nvrtc(intrinsics(INTRINSICS) + CALLS, architecture)


def test_a_wrong_source_is_refused(nvrtc: Compile) -> None:
    """The neighbour that must fail: NVRTC is really asked."""
    source = plan_call(SEED, "float32", "cuda").stages[0].emitted.source
    with pytest.raises(Exception, match="undefined"):
        nvrtc(source.replace("f64 *partial", "f64 *parcial"), "sm_90")
