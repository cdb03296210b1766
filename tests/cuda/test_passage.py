"""Copies, kernels and graphs of a call give the same results in any order that a device may take."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from unittest import mock

import numpy as np
import pytest

from cuda.calls import GAUSS, Arena, Call, calls, gauss, gradients, in_arena
from cuda.simt.device import ATTRIBUTES, Emulated, emulated
from cuda.simt.streams import Scheduler, Stream
from farfield_kernels import cuda_device, cuda_passage, cuda_replay
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.cuda_launch import MAX_SUMMED_PARTS, SUMMED_ROWS
from farfield_kernels.engine import run_in_parts
from farfield_kernels.expr import Array
from farfield_kernels.operation import read
from farfield_kernels.reference import reference
from kernels.reduction_checks import assert_results

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")

CALLS = list(calls())
SEEDS = range(1, 9)
PARTS = (math.inf, 0.25, 0.0)  # seconds: whole, whole after it was measured, in parts
SLICED_ROWS = 6000  # of a call in slices, if a slice has `SLICE_BYTES` of 4 KiB


@pytest.fixture
def device() -> Iterator[Emulated]:
    """What `cuda` is in a test; large enough for anything."""
    with emulated() as device:
        yield device


@pytest.fixture
def sliced() -> Iterator[None]:
    """Slices pay for few rows already, and few fill the device."""
    with (
        mock.patch.object(cuda_device, "SLICE_BYTES", 4096),
        mock.patch.object(cuda_device, "REPLAYED_BYTES", 0),
        mock.patch.dict(ATTRIBUTES, MultiProcessorCount=1),
    ):
        yield


def check(call: Call, got: Sequence[Array]) -> None:
    """As the reference."""
    expected = reference(read(call.spec), call.arrays, call.ranges)
    assert_results(got, expected, 3e-6 if call.arrays[0].dtype == "float32" else 1e-12, call.name)


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "pageable"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_any_order_gives_the_same_results(call: Call, is_pinned: bool, device: Emulated) -> None:
    """New, again, and replayed as a graph; whole and in parts; on other data in between."""
    taken = in_arena(call) if is_pinned else call
    expected = [result.copy() for result in taken.run()]
    check(call, expected)
    for seed in SEEDS:
        device.scheduler.seed(seed)
        for part_s in PARTS:
            for got, same in zip(taken.run(part_s), expected, strict=True):
                np.testing.assert_array_equal(got, same, f"{call.name}, seed {seed}, parts of {part_s} s")
        first = taken.arrays[0]
        first *= 2
        check(taken, taken.run())
        first /= 2


def test_slices_give_the_same_results(device: Emulated, sliced: None) -> None:
    """Rows are copied, computed and copied back piece by piece, whole and in parts, and under any order."""
    call = in_arena(gauss(SLICED_ROWS, 9))
    with mock.patch.object(cuda_device, "MAX_SLICES", 1):
        expected = call.run()[0].copy()
    check(call, [expected])
    for seed in SEEDS:
        device.scheduler.seed(seed)
        for part_s in PARTS:
            np.testing.assert_array_equal(call.run(part_s)[0], expected, f"seed {seed}, parts of {part_s} s")


def test_slices_where_they_pay(device: Emulated, sliced: None) -> None:
    """Of one kernel over pairs whose arrays are all pinned and large; each fills the device, none is left over."""
    opened: list[cuda_passage.Slices | None] = []

    class Noted(cuda_passage.CudaPassage):
        def begin(self) -> None:
            opened.append(self.slices)
            super().begin()

    with mock.patch.object(cuda_device, "CudaPassage", Noted):
        for call in (
            in_arena(gauss(SLICED_ROWS, 9)),
            gauss(SLICED_ROWS, 9),
            in_arena(gradients(SLICED_ROWS, 9)),
            in_arena(gauss(9, SLICED_ROWS)),
        ):
            call.run()
    assert [slices is not None for slices in opened] == [True, False, False, False]
    slices = opened[0]
    assert slices is not None
    assert len(slices.ends) > 2
    assert slices.rows_before(slices.ends[-1]) == SLICED_ROWS
    assert slices.positions == {0}


def test_pieces_of_a_part_that_ends_anywhere() -> None:
    """Each unit is in one piece, whatever part of the call is computed."""
    slices = cuda_passage.Slices((4, 8, 10), 100, 950, frozenset({0}), ())
    assert list(slices.pieces(3, 9)) == [(0, 3, 4), (1, 4, 8), (2, 8, 9)]
    assert list(slices.pieces(4, 8)) == [(1, 4, 8)]
    assert [slices.rows_before(unit) for unit in (0, 4, 10)] == [0, 400, 950]


# ---- waits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part_s", [math.inf, 0.25])
@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "pageable"])
@pytest.mark.parametrize("is_replayed", [True, False], ids=["graph", "streams"])
def test_the_host_waits_once(is_replayed: bool, is_pinned: bool, part_s: float, device: Emulated) -> None:
    """A call that was made before waits for the device at its end and nowhere else."""
    with mock.patch.object(cuda_device, "REPLAYED_BYTES", 2**20 if is_replayed else 0):
        for call in (gauss(70, 90), gradients(70, 90), *[call for call in CALLS if call.name == "batch"]):
            taken = in_arena(call) if is_pinned else call
            for _ in range(3):
                taken.run(part_s)
            before, launched = device.scheduler.waits, device.scheduler.graph_launches
            taken.run(part_s)
            assert device.scheduler.waits - before == 1, call.name
            assert device.scheduler.graph_launches - launched == is_replayed, call.name


def test_a_call_in_slices_waits_once(device: Emulated, sliced: None) -> None:
    """However many there are."""
    call = in_arena(gauss(SLICED_ROWS, 9))
    call.run()
    before = device.scheduler.waits
    call.run()
    assert device.scheduler.waits - before == 1


def test_large_pageable_results_wait_for_each(device: Emulated) -> None:
    """The driver copies them while the host waits, after all kernels were enqueued."""
    with mock.patch.object(cuda_passage, "STAGED_BYTES", 0), mock.patch.object(cuda_device, "REPLAYED_BYTES", 0):
        call = gradients(70, 90)
        check(call, call.run())
        before = device.scheduler.waits
        check(call, call.run())
        assert device.scheduler.waits - before == 4 + 1  # results, and the end


def waits_of(call: Call) -> int:
    """How often a stream waits for an event in one call."""
    with mock.patch.object(Stream, "wait_event", autospec=True, side_effect=Stream.wait_event) as waited:
        call.run()
    return waited.call_count


def is_found(call: Call, expected: Sequence[Array], missing: int, scheduler: Scheduler) -> bool:
    """Whether some order shows that a wait is left out."""
    wait_event = Stream.wait_event
    for seed in range(1, 60):
        scheduler.seed(seed)
        count = iter(range(10**6))

        def without(stream: Stream, event: object, count: Iterator[int] = count) -> None:
            if next(count) != missing:
                wait_event(stream, event)

        with mock.patch.object(Stream, "wait_event", without):
            try:
                got = call.run()
            except Exception:  # an end that is not past yet cannot be timed
                scheduler.run_all()
                return True
        is_same = all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
        scheduler.run_all()
        if not is_same:
            return True
    return False


@pytest.mark.parametrize("name", ["rows", "slices", "gradients"])
def test_no_wait_can_be_left_out(name: str, device: Emulated, sliced: None) -> None:
    """Each wait of a stream for another is needed: without it some order gives other results."""
    call = in_arena({"rows": gauss(70, 90), "slices": gauss(SLICED_ROWS, 3), "gradients": gradients(70, 90)}[name])
    expected = [result.copy() for result in call.run()]
    waits = waits_of(call)
    assert waits >= 2
    in_vain = [k for k in range(waits) if not is_found(call, expected, k, device.scheduler)]
    assert len(in_vain) == (name == "gradients")  # where `compute` waits for `beside` at the end, to take the time


def test_memory_that_is_given_back_too_early_is_found(device: Emulated) -> None:
    """The emulated pool overwrites what is freed: a passage that holds nothing is seen."""

    class Careless(cuda_passage.CudaPassage):
        def staged(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
            self.held.clear()
            return super().staged(shape, dtype)

    call, found = gradients(70, 90), 0
    expected = call.run()
    with (
        mock.patch.object(cuda_device, "CudaPassage", Careless),
        mock.patch.object(cuda_device, "REPLAYED_BYTES", 0),
    ):
        for seed in SEEDS:
            device.scheduler.seed(seed)
            found += not all(np.array_equal(a, b) for a, b in zip(call.run(), expected, strict=True))
    assert found


# ---- timing --------------------------------------------------------------------------------------------------


def test_times_come_from_the_device(device: Emulated, sliced: None) -> None:
    """Each phase of a call takes some of the device's time; pauses between parts are not counted."""
    call = in_arena(gauss(SLICED_ROWS, 9))
    for part_s in (math.inf, 0.0):
        parts, pauses = run_in_parts(call.spec, call.arrays, device="cuda", out=call.results(), part_s=part_s), 0
        try:
            while True:
                next(parts)
                pauses += 1
                time.sleep(0.3)
        except StopIteration as end:
            timing = end.value.timing
        assert (pauses > 0) == (part_s == 0)
        assert timing.h2d_ms > 0
        assert 0 < timing.kernel_ms < max(300, 300 * pauses)
        assert timing.d2h_ms > 0


# ---- calls that are given up ---------------------------------------------------------------------------------


def test_nothing_is_under_way_after_a_call_was_given_up(device: Emulated, sliced: None) -> None:
    """A job that is dropped between two parts writes no result later, nor does one that fails."""
    call = in_arena(gauss(SLICED_ROWS, 9))
    out = call.results()
    parts = run_in_parts(call.spec, call.arrays, device="cuda", out=out, part_s=0.0)
    next(parts)
    parts.close()
    out[0][...] = 5
    device.scheduler.run_all()
    assert (out[0] == 5).all()

    call = in_arena(gradients(70, 90))
    for successes in range(3):
        device.scheduler.failures["launch"] = ["cudaErrorInvalidValue"]
        out = call.results()
        with mock.patch.object(Scheduler, "check", failing_after(successes)), suppress(Exception):
            for _ in run_in_parts(call.spec, call.arrays, device="cuda", out=out):
                pass
        device.scheduler.failures.clear()
        for result in out:
            result[...] = 5
        device.scheduler.run_all()
        assert all((result == 5).all() for result in out)


def failing_after(successes: int) -> object:
    """A check that lets so many launches pass."""
    check, left = Scheduler.check, [successes]

    def checked(scheduler: Scheduler, kind: str) -> None:
        if kind == "launch" and left[0] > 0:
            left[0] -= 1
            return
        check(scheduler, kind)

    return checked


# ---- graphs --------------------------------------------------------------------------------------------------


def test_a_call_is_captured_the_second_time_and_replayed_from_then_on(device: Emulated) -> None:
    """With other data too; large calls, ranges and sums that separate are never captured."""
    scheduler = device.scheduler
    for call, is_replayed in ((gauss(70, 90), True), (gradients(70, 90), True), (gauss(200_000, 3), False)):
        before = scheduler.graph_launches
        for k in range(4):
            call.arrays[0] = call.arrays[0] * np.float32(1.1)
            check(call, call.run())
            assert scheduler.graph_launches - before == (k if is_replayed else 0), call.name
    before = scheduler.graph_launches
    for call in CALLS:
        for _ in range(3):
            if call.name in ("ranges", "separated", "gradients, separated"):
                call.run()
    assert scheduler.graph_launches == before


def test_graphs_are_bounded(device: Emulated) -> None:
    """The oldest goes first, by their number and by their bytes."""
    replays = current_cuda().replays
    with mock.patch.object(cuda_replay, "MAX_KEPT", 3):
        for M in (10, 20, 30, 40, 20):
            for _ in range(2):
                gauss(M, 5).run()
    assert len(replays.kept) == 3
    assert all(replays.kept.values())
    with mock.patch.object(cuda_replay, "KEPT_BYTES", 1):
        gauss(40, 5).run()
    assert not any(replays.kept.values())
    check(gauss(40, 5), gauss(40, 5).run())


@pytest.mark.parametrize("kind", ["capture", "end_capture"])
def test_a_capture_that_fails_is_not_tried_again(
    kind: str, device: Emulated, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is computed as the first time, and the log says so once."""
    device.scheduler.failures[kind] = ["cudaErrorStreamCaptureInvalidated"]
    call = gauss(70, 90)
    for _ in range(4):
        check(call, call.run())
    assert device.scheduler.graph_launches == 0
    assert caplog.text.count("a call is not replayed as a graph") == 1


def test_memory_of_a_graph_belongs_to_it(device: Emulated) -> None:
    """Other calls in between, and memory that is given up, change nothing of what it computes."""
    call, other = gauss(70, 90), gradients(300, 20)
    expected = call.run()[0]
    for seed in SEEDS:
        device.scheduler.seed(seed)
        other.run()
        current_cuda().memory.pool.free_all_blocks()
        np.testing.assert_array_equal(call.run()[0], expected)
    assert device.scheduler.graph_launches > 8


# ---- pinned memory -------------------------------------------------------------------------------------------


def test_memory_that_cannot_be_pinned_is_used_as_it_is(device: Emulated, caplog: pytest.LogCaptureFixture) -> None:
    """A warning says so, and results are the same."""
    device.scheduler.failures["register"] = ["cudaErrorMemoryAllocation"]
    arena = Arena()
    current_cuda().pin(arena.memory)
    assert "cannot be pinned (cudaErrorMemoryAllocation" in caplog.text
    call = in_arena(gradients(70, 90), arena)
    assert not current_cuda().memory.is_pinned(call.arrays[0])
    for _ in range(3):
        check(call, call.run())


def test_pinned_are_arrays_that_lie_in_pinned_memory(device: Emulated) -> None:
    """Wholly: not one that begins before it or ends after it."""
    arena, memory = Arena(), current_cuda().memory
    memory.pin(arena.memory[4096:8192])
    whole = np.frombuffer(arena.memory, np.uint8)
    found = [memory.is_pinned(whole[a:b]) for a, b in ((4096, 8192), (4095, 4100), (8000, 8193), (8192, 8200))]
    assert found == [True, False, False, False]


# ---- sums over rows ------------------------------------------------------------------------------------------


def test_sums_over_rows(device: Emulated) -> None:
    """Of any number of rows, components and batch elements, in one block of threads or in many."""
    cuda = current_cuda()
    shapes = ((1, 0, 2), (0, 5, 1), (2, 1, 3), (1, 255, 1), (3, 257, 2), (1, 3 * SUMMED_ROWS + 5, 2))
    for shape in shapes:
        array = np.random.default_rng(0).standard_normal(shape)
        with cuda.open([array]) as passage:
            got = passage.get(passage._summed(passage.arguments[0]))
        np.testing.assert_allclose(got[:, 0], array.sum(1), rtol=1e-12, atol=1e-11, err_msg=str(shape))
    assert MAX_SUMMED_PARTS < SUMMED_ROWS  # the second pass is the last


def test_the_spec_of_a_row_call_is_what_it_says() -> None:
    """One kernel of rows, which slices are for."""
    assert read(GAUSS).results[0].axis == "i"
