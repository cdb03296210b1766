"""The same text for every instruction set: each shape of kernel, compiled for AVX-512, AVX2 and SSE2."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.schedule import MANY_COLUMNS
from kernels.reduction_checks import arguments_of_vjp, assert_results

TOLERANCE = {"float32": 3e-6, "float64": 1e-12}
WIDE = ("x = Vi(13)", "y = Vj(13)")
SEED = ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)")
CALLS = {
    "straight text": (Spec("Square(p-a)*Exp(x+y)", SEED), 37, 300),
    "passes": (Spec("Square(p-a)*Exp(x+y)", SEED, separation="on"), 37, 300),
    "vectors of columns": (Spec("Exp(-SqDist(x,y))*a", SEED), 5, MANY_COLUMNS + 3),
    "register tiles": (Spec("Exp(-SqDist(x,y))*b", (*WIDE, "b = Vj(11)")), 37, 250),
    "attention": (Spec("x|y", (*WIDE, "b = Vj(11)"), "SumSoftMaxWeight", formula2="b"), 37, 250),
    "maximum of a vector": (Spec("x*y", WIDE, "Max"), 37, 250),
    "selection": (Spec("SqDist(x,y)", WIDE, "KMin", opt_arg=3), 37, 1500),
    "functions": (Spec("Sin(x)*Tanh(y) + Atan(x*y) + Log(1 + x*x) + Exp2(y)*Cos(x)", WIDE), 37, 60),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_each_shape_of_kernel(name: str, dtype: str, target: str) -> None:
    """Values, and gradients in all arguments, are the reference's."""
    spec, M, N = CALLS[name]
    rng = np.random.default_rng(0)
    rows = {"Vi": (M,), "Vj": (N,), "Pm": ()}
    shapes = [(*rows[text.split()[2][:2]], int(text.split("(")[1][:-1])) for text in spec.variables]
    arrays = [(0.4 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    got = engine.run(spec, arrays, device="cpu").arrays
    assert_results(got, reference(read(spec), arrays), TOLERANCE[dtype], f"{name}, {target}")
    vjp = spec.vjp(range(len(arrays)))
    taken = arguments_of_vjp(spec, arrays)
    got = engine.run(vjp, taken, device="cpu").arrays
    assert_results(got, reference(read(vjp), taken), TOLERANCE[dtype], f"gradients of {name}, {target}")
