"""A long request -> portions of it, which the workers draw from the queue as they become free.

The request waits as one job and holds one place. When its turn has come, the queue puts its portions in its stead,
all of them begun: they are jobs of the same user, charged like any, and other users get their turns between their
parts. It is answered when the last portion is done, or as soon as one of them fails; then the others are
cancelled. Its slots are released when no worker has a portion any more.

Portions read and write slices of the request's own slots (see `farfield_kernels.divide`). Results that are merged
have a slot of parts beside them.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.divide import Division, Piece
from farfield_kernels.expr import Array

from .arena import Arena
from .job import Job

if TYPE_CHECKING:
    from .queue import Queue

_NUMBERS = itertools.count(-1, -1)  # those of whole jobs are positive

PART_DTYPE = "float64"  # of results to be merged, whatever that of the result

Place = list[Any]
"""Element type, shape and offset in the arena, as workers are told them."""


@dataclass(eq=False)
class Portion(Job):
    """One piece of a request, as a job of its own.

    Args:
        whole: the request.
        piece: which of it.
    """

    whole: Divided = field(kw_only=True)
    piece: Piece = field(kw_only=True)

    @property
    def request(self) -> Job:
        """What is answered."""
        return self.whole

    @property
    def kernels(self) -> Hashable:
        """See `Job`."""
        return self.piece.spec

    @property
    def is_interactive(self) -> bool:
        """No portion is, however short: its request is not."""
        return False

    @property
    def is_last(self) -> bool:
        """Whether no other portion is in the queue."""
        return self.whole.in_queue == 1

    @property
    def request_s(self) -> float:
        """Device seconds of all portions."""
        return sum(portion.spent_s for portion in self.whole.portions)

    def leave(self) -> None:
        """One less is in the queue."""
        self.whole.in_queue -= 1

    def release(self) -> None:
        """No worker has it any more."""
        super().release()
        self.whole.end(self)


@dataclass(eq=False)
class Divided(Job):
    """A request that becomes portions when its turn has come.

    Args:
        division: how.
        arena: where its slots are.
        queue: that its portions wait in.
    """

    division: Division = field(kw_only=True)
    arena: Arena = field(kw_only=True)
    queue: Queue = field(kw_only=True)
    in_queue: int = field(default=0, init=False)  # portions
    done_portions: int = field(default=0, init=False)
    timing: Counter[str] = field(default_factory=Counter, init=False)  # of the portions that are done, in all
    inputs: list[Place] = field(init=False)
    outputs: list[Place] = field(init=False)
    parts: dict[int, list[Place]] = field(init=False)  # of results that are merged, one per piece that has it
    with_workers: set[Portion] = field(default_factory=set, init=False)  # portions that one has, or may yet get

    is_divided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Lease a slot for the parts of results.

        Raises:
            ServerBusy: there is no room now.
        """
        counts = Counter(number for piece in self.division.pieces for number in piece.merged)
        inputs, outputs = msgspec.msgpack.decode(self.message["call"])[2:]
        self.inputs = [[*tensor, at] for tensor, at in zip(inputs, self.message["inputs"], strict=True)]
        self.outputs = [[*tensor, at] for tensor, at in zip(outputs, self.message["outputs"], strict=True)]
        shapes = {number: self.outputs[number][1] for number in counts}
        sizes = {number: math.prod(shape) * np.dtype(PART_DTYPE).itemsize for number, shape in shapes.items()}
        self.parts = {}
        if not counts:
            return
        lease = self.arena.lease(sum(count * sizes[number] for number, count in counts.items()), self.user)
        self.leases.append(lease)
        end = lease.offset
        for number, count in counts.items():
            self.parts[number] = [[PART_DTYPE, shapes[number], end + k * sizes[number]] for k in range(count)]
            end += count * sizes[number]

    def divide(self) -> list[Portion]:
        """Its portions, in the order in which they should begin."""
        counts: Counter[int] = Counter()
        portions: list[Portion] = []
        for piece in self.division.pieces:
            inputs = [
                _sliced(place, piece) if number in piece.cut else place for number, place in enumerate(self.inputs)
            ]
            outputs = [self._output(number, piece, counts) for number in piece.results]
            tensors = [[place[:2] for place in places] for places in (inputs, outputs)]
            message = self.message | {
                "job": next(_NUMBERS),
                "call": msgspec.msgpack.encode((piece.spec.changed(), False, *tensors)),
                "inputs": [offset for _, _, offset in inputs],
                "outputs": [offset for _, _, offset in outputs],
            }
            portion = Portion(
                message,
                [],
                self.done.get_loop().create_future(),
                user=self.user,
                estimate_s=piece.share * self.estimate_s,
                spec=self.spec,
                weight=self.weight,
                deadline=self.deadline,
                least_s=piece.share * self.least_s,
                whole=self,
                piece=piece,
            )
            portion.queued_at, portion.started_at = self.queued_at, self.started_at
            portion.done.add_done_callback(functools.partial(self._answered, portion))
            portions.append(portion)
        self.portions = portions
        self.with_workers.update(portions)
        self.in_queue = len(portions)
        return portions

    def _output(self, number: int, piece: Piece, counts: Counter[int]) -> Place:
        """Where a piece writes a result."""
        place = self.outputs[number]
        if number in piece.merged:
            counts[number] += 1
            return self.parts[number][counts[number] - 1]
        return _sliced(place, piece) if piece.cut else place

    def _answered(self, portion: Portion, done: asyncio.Future[dict[str, Any]]) -> None:
        """A portion is done, or has failed; a cancelled one ends when it is released."""
        if done.cancelled():
            return
        error = done.exception()
        if error is not None or "error" in done.result():
            self._fail(done)
        else:
            self._took(portion, done.result()["done"])
        if portion.is_free:
            self.end(portion)

    def _fail(self, failed: asyncio.Future[dict[str, Any]]) -> None:
        """Answer the request as one of its portions was, and give up the others."""
        if self.done.done():
            return
        self.queue.cancel(self)
        self._release_unused()
        error = failed.exception()
        if error is None:
            self.done.set_result(failed.result())
        else:
            self.done.set_exception(error)

    def _took(self, portion: Portion, timing: dict[str, float]) -> None:
        """A portion is done; the last one completes the request."""
        self.timing.update(timing)
        self.handoff_s += portion.handoff_s
        self.build_s = max(self.build_s, portion.build_s)
        self.done_portions += 1
        if self.done.done() or self.done_portions < len(self.portions):
            return
        for number, places in self.parts.items():
            self.division.merge(
                number, [self._array(place) for place in places], self._array(self.outputs[number])
            )
        self.done.set_result({"done": dict(self.timing)})

    def _array(self, place: Place) -> Array:
        dtype, shape, offset = place
        return np.ndarray(tuple(shape), numpy_dtype(dtype), buffer=self.arena.memory, offset=offset)

    def end(self, portion: Portion) -> None:
        """No worker has a portion any more; one that has ended may do so again."""
        self.with_workers.discard(portion)
        self._release_unused()

    def _release_unused(self) -> None:
        if self.is_cancelled and not self.with_workers:
            self.release()


def _sliced(place: Place, piece: Piece) -> Place:
    """A piece's slice of an array."""
    dtype, shape, offset = place
    taken, before = piece.sliced(shape)
    return [dtype, taken, offset + before * numpy_dtype(dtype).itemsize]
