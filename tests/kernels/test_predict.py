"""What a call will need: work by sizes, dims and scheme, memory by its arrays, time by what was learned."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.arguments import Sizes, check_arguments
from farfield_kernels.expr import Array
from farfield_kernels.machine import measured
from farfield_kernels.operation import Spec, read
from farfield_kernels.predict import CALL_S, STEP_S, STEPS, Prediction, Rates, predict
from farfield_kernels.reductions import REDUCTIONS
from kernels.reduction_checks import spec_of
from kernels.test_cost import SEED, gaussian


def sizes(M: int, N: int, batches: tuple[tuple[int, ...], ...] = ((),) * 4, dtype: str = "float32") -> Sizes:
    """Of a formula of four arguments."""
    return Sizes(dtype, M, N, np.broadcast_shapes(*batches), batches)


def steps(spec: Spec, M: int, N: int, dtype: str = "float32") -> float:
    """The work of a call without batch axes."""
    return predict(spec, sizes(M, N, ((),) * len(read(spec).arguments), dtype)).steps


# ---- work ----------------------------------------------------------------------------------------------------


def test_work_is_proportional_to_pairs() -> None:
    """Of rows, columns and elements of the batch; to the pairs of ranges, not to those left out."""
    one = steps(gaussian(3), 5120, 5120)
    assert steps(gaussian(3), 10_240, 5120) == pytest.approx(2 * one, rel=1e-2)
    assert steps(gaussian(3), 5120, 10_240) == pytest.approx(2 * one, rel=1e-2)
    batch = predict(gaussian(3), sizes(5120, 5120, ((7,), (), (), ()))).steps
    assert batch == pytest.approx(7 * one)
    half = predict(gaussian(3), sizes(5120, 5120), "cpu", 5120 * 2560).steps
    assert half == pytest.approx(one / 2, rel=0.1)


def test_work_grows_with_dims() -> None:
    """A difference and a fused product per dim; a product per weight; twice as much in float64."""
    slope = (steps(gaussian(256), 2560, 10_000) - steps(gaussian(128), 2560, 10_000)) / (128 * 2560 * 10_000)
    assert slope == pytest.approx(STEPS["add"] + STEPS["fma"], rel=0.5)
    assert steps(gaussian(64, 64), 2560, 2560) > 1.3 * steps(gaussian(64), 2560, 2560)
    assert steps(gaussian(3), 2560, 2560, "float64") == pytest.approx(2 * steps(gaussian(3), 2560, 2560))


def test_work_of_gradients_is_that_of_their_kernels() -> None:
    """All at once cost less than one by one, and more than any of them."""
    spec = gaussian(3)
    together = steps(spec.vjp((0, 1, 2)), 2560, 2560)
    alone = [steps(spec.vjp((place,)), 2560, 2560) for place in range(3)]
    assert max(alone) < together < sum(alone)


def test_sums_that_separate_cost_rows_and_columns() -> None:
    """And less than over pairs, where they are taken at all: not in batches, not with ranges, not if off."""
    on, off = replace(SEED, separation="on"), replace(SEED, separation="off")
    assert steps(on, 200_000, 200_000) == pytest.approx(2 * steps(on, 100_000, 100_000), rel=1e-2)
    assert steps(on, 100_000, 100_000) < steps(off, 100_000, 100_000) / 1000
    assert steps(SEED, 100_000, 100_000) == steps(on, 100_000, 100_000)
    assert steps(SEED, 1000, 1000) == steps(off, 1000, 1000)
    batch = ((2,), (), (), ())
    assert predict(on, sizes(1000, 1000, batch)).steps == predict(off, sizes(1000, 1000, batch)).steps
    assert predict(on, sizes(1000, 1000), "cpu", 10**6).steps == predict(off, sizes(1000, 1000)).steps


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_every_reduction_has_work_and_results(name: str, axis: int | None) -> None:
    """More of both for more rows and columns, none for none."""
    spec = spec_of(name, axis)
    few, many, none = (predict(spec, sizes(*of)) for of in ((100, 100), (200, 200), (0, 0)))
    assert 0 == none.steps < few.steps < many.steps
    assert 0 < few.result_bytes <= many.result_bytes
    assert few.result_bytes <= few.device_bytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_counts(dtype: str) -> None:
    """Whatever is measured of a machine has its steps."""
    assert STEPS.keys() >= set(measured(dtype))


# ---- memory --------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_arrays() -> None:
    """Arguments and results, of batches by their own axes; half precision is computed in float32."""
    of = predict(gaussian(3), sizes(1000, 500, ((2,), (), (), ())))
    assert of.argument_bytes == 4 * (2 * 3000 + 1500 + 500 + 1)
    assert of.result_bytes == 4 * 2 * 1000
    assert of.device_bytes == of.argument_bytes + of.result_bytes
    half = predict(gaussian(3), sizes(1000, 500, dtype="float16"))
    assert (half.argument_bytes, half.result_bytes) == (2 * (3000 + 2000 + 1), 2000)
    assert half.device_bytes == 2 * (half.argument_bytes + half.result_bytes)


def test_partial_results_lie_on_the_device_too() -> None:
    """Per row in float64: the gradient of a parameter, the states where both axes are reduced or columns split."""
    by_g = predict(gaussian(3).vjp((3,)), sizes(10**5, 500, ((),) * 5))
    assert by_g.device_bytes == by_g.argument_bytes + 8 * 10**5
    total = predict(spec_of("LogSumExp", None), sizes(10**5, 5000))
    assert total.device_bytes > total.argument_bytes + 2 * 8 * 10**5
    split = predict(gaussian(3), sizes(100, 10**6), "cuda")
    assert split.device_bytes > split.argument_bytes + split.result_bytes + 8 * 100


def test_saved_indices_are_read_as_their_halves() -> None:
    """8 bytes each at the caller's, two floats on the device."""
    spec = spec_of("Max").vjp((0,))
    found = predict(spec, sizes(1000, 500, ((),) * len(read(spec).arguments), "float64"))
    indices = sum(math.prod(slot.shape(1000, 500)) for slot in read(spec).arguments if slot.is_index)
    assert indices
    assert found.device_bytes == found.argument_bytes + found.result_bytes + 8 * indices


# ---- rates ---------------------------------------------------------------------------------------------------

WORK = Prediction(1e9, 0, 0, 0)


def test_a_kind_that_was_seen_has_its_own_rate() -> None:
    """The first call sets it, the next ones move it; others have that of all calls together."""
    rates = Rates()
    assert rates.seconds("new", WORK) == pytest.approx(1e9 * STEP_S + CALL_S)
    rates.learn("slow", WORK, 5.0)
    assert rates.seconds("slow", WORK) == pytest.approx(5.0, rel=1e-3)
    assert STEP_S * 1e9 < rates.seconds("new", WORK) < 5.0
    rates.learn("slow", WORK, 3.0)
    assert 3.0 < rates.seconds("slow", WORK) < 5.0
    for _ in range(30):
        rates.learn("slow", WORK, 3.0)
    assert rates.seconds("slow", WORK) == pytest.approx(3.0, rel=1e-3)
    assert rates.seconds("new", WORK) == pytest.approx(3.0, rel=1e-3)


def test_short_calls_say_little() -> None:
    """A thousand calls that are all overhead do not change what a long one is expected to take."""
    rates = Rates()
    rates.learn("kind", WORK, 0.05)
    for _ in range(3):
        rates.learn("kind", Prediction(1000.0, 0, 0, 0), 2 * CALL_S)
        rates.learn("other", Prediction(0.0, 0, 0, 0), 0.0)
    assert rates.seconds("kind", WORK) == pytest.approx(0.05, rel=0.1)
    assert rates.seconds("other", WORK) >= CALL_S


def test_memory_of_rates_is_bounded() -> None:
    """The kinds that were learned last are kept."""
    rates = Rates(kept=10)
    for key in range(100):
        rates.learn(key, WORK, 10.0)
        rates.learn(0, WORK, 10.0)
    rates.learn("cheap", WORK, 0.01)
    assert rates.seconds(0, WORK) == pytest.approx(10.0, rel=1e-3)
    assert rates.seconds(50, WORK) < 9.0
    assert len(rates._own) == 10


def test_a_prediction_that_was_made_before_costs_microseconds() -> None:
    """The least of many, as other work may come between."""
    of, rates = sizes(1000, 1000), Rates()
    least = math.inf
    for _ in range(200):
        begun = time.perf_counter()
        rates.seconds(SEED, predict(SEED, of))
        least = min(least, time.perf_counter() - begun)
    assert least < 50e-6


def test_predicting_does_not_reach_the_back_end() -> None:
    """A process that runs nothing, such as a web server's, may predict."""
    text = "import sys, farfield_kernels.predict; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "farfield_kernels.predict" in loaded
    assert not loaded & {f"farfield_kernels.{name}" for name in ("build", "launch", "engine", "machine")}


WORKLOADS = {
    "Gaussian": gaussian(3),
    "100 dims": gaussian(100),
    "LogSumExp": Spec("x|y", ("x = Vi(3)", "y = Vj(3)"), "LogSumExp"),
    "powers": Spec("Powf(SqDist(x,y)+1,b)", ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)")),
    "gradients": gaussian(3).vjp((0, 1, 2)),
}


def arrays_of(spec: Spec, M: int, N: int) -> list[Array]:
    """Uniform numbers."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1, slot.shape(M, N)).astype(np.float32) for slot in read(spec).arguments]


def test_after_one_call_the_others_are_predicted() -> None:
    """Five kinds of work, in CPU time, each by the rate of another: within a factor of 4 on any machine."""
    taken, work = {}, {}
    for name, spec in WORKLOADS.items():
        arrays = arrays_of(spec, 3000, 3000)
        work[name] = predict(
            spec, check_arguments(read(spec), ["float32"] * len(arrays), [a.shape for a in arrays])
        )
        engine.run(spec, arrays, device="cpu")
        times = []
        for _ in range(3):
            begun = time.process_time()
            engine.run(spec, arrays, device="cpu")
            times.append(time.process_time() - begun)
        taken[name] = min(times)
    rates = Rates()
    for _ in range(20):
        rates.learn("Gaussian", work["Gaussian"], taken["Gaussian"])
    for name in WORKLOADS:
        expected = rates.seconds(name, work[name])
        assert expected / 4 < taken[name] < expected * 4, name
