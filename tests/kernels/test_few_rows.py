"""Few rows and many columns: vectors of columns, for the reductions that merge in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule import FEW_ROWS, MANY_COLUMNS
from farfield_kernels.stages import Stage, plan_call
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, assert_results, draw, forced_splits, spec_of

TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def stage(spec: Spec) -> Stage:
    """The only stage of a call."""
    (only,) = plan_call(spec, "float32", "cpu").stages
    return only


def test_reductions_that_read_places_keep_their_order() -> None:
    """Sums, extrema and sums of exponentials have such a kernel; what knows the order of columns has none."""
    ordered = {name for name in REDUCTIONS if stage(spec_of(name)).for_few_rows is None}
    places = {name for name in REDUCTIONS if "Arg" in name or name.startswith("K")}
    assert ordered == places | {"Var", "Std", "Prod", "Count"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_few_rows_agree_with_the_reference(name: str, options: dict[str, Any], dtype: str) -> None:
    """One row to as many as are few, columns that fill no vector and no tile, whole and split."""
    spec = spec_of(name, **options)
    for M, N in ((1, MANY_COLUMNS), (3, MANY_COLUMNS + 5), (FEW_ROWS, MANY_COLUMNS + 1025)):
        arrays = draw(M, N, dtype)
        expected = reference(read(spec), arrays)
        for splits in (1, 3):
            with forced_splits(splits):
                got = engine.run(spec, arrays, device="cpu").arrays
            assert_results(got, expected, TOLERANCE[dtype], f"{name}, {M}, {N}, {splits} splits")


@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "SumSoftMaxWeight", "Max", "Min", "Mean", "Any"])
def test_special_terms_among_many_columns(name: str) -> None:
    """NaN and infinities in the first and the last column, and nothing but infinities."""
    spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"))
    for special in ({0: np.nan}, {-1: np.nan}, {-1: np.inf}, {-1: -np.inf}, {5: np.inf, -1: -np.inf}, "all"):
        y = draw(1, MANY_COLUMNS + 3, "float32")[1][:, :1]
        if isinstance(special, dict):
            y[list(special), 0] = list(special.values())
        else:
            y[:] = -np.inf
        arrays = [np.zeros((2, 1), np.float32), y]
        expected = reference(read(spec), arrays)
        assert_results(engine.run(spec, arrays, device="cpu").arrays, expected, 2e-6, f"{name}, {special}")


def test_batches_of_few_rows() -> None:
    """Each element of the batch has its own rows and columns; gradients of few columns are few rows too."""
    spec = Spec("Exp(-SqDist(x,y))*b", ("x = Vi(2)", "y = Vj(2)", "b = Vj(3)"))
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(shape) for shape in ((3, 5, 2), (1, MANY_COLUMNS + 1, 2), (3, MANY_COLUMNS + 1, 3))
    ]
    assert_results(engine.run(spec, arrays, device="cpu").arrays, reference(read(spec), arrays), 1e-13, "batch")
    e = rng.standard_normal((3, 5, 3))
    vjp = spec.vjp((0, 1, 2))
    got = engine.run(vjp, [*arrays, e], device="cpu").arrays
    assert_results(got, reference(read(vjp), [*arrays, e]), 1e-12, "gradients of a batch")
