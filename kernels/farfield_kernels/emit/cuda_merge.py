"""The second kernel: states of split columns, or of blocks where both axes are reduced, become results."""

from __future__ import annotations

from .cuda_state import OF_SPLIT, State
from .statements import block, indent


class Merge(State):
    """The body of `farfield_merge`."""

    def merged(self) -> str:
        """All of it."""
        return indent(self._over_rows() if self.program.over_rows else self._splits(), 2)

    def _taken_in(self, group: str) -> list[str]:
        """Read one state, and merge it."""
        read = {field.name: self.place(field, "partial", group, "rows", "row") for field in self.fields}
        return [*self.later(read), self.merge("w_{}")]

    def _splits(self) -> list[str]:
        """A team of threads has a row: each merges some of its splits, in order; then they meet."""
        names = {field.name: f"w_{field.name}" for field in self.fields}
        is_team = self.schedule.mergers > 1
        body = [
            *self.declare("f64", "w_", ""),
            *self.identities("w_{}"),
            *block("for (i64 split = first; split < last; split++)", self._taken_in(OF_SPLIT)),
            *(self.meet("w_{}") if is_team else []),
            *block("if (lane == 0 && at_row < batches * rows)", self.finish_one(names)),
        ]
        return [
            *(self.meeting_place("THREADS") if is_team else []),
            "const int team = blockDim.x % MERGERS ? 1 : MERGERS, lane = threadIdx.x % team;",
            "const i64 at_row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / team;",
            "const i64 batch = at_row / rows, row = at_row % rows, run = (splits + team - 1) / team;",
            "const i64 first = at_row < batches * rows ? lane * run : splits;",
            "const i64 last = smaller(splits, first + run);",
            *block("for (int o = 0; o < COMPONENTS; o++)", body),
        ]

    def _over_rows(self) -> list[str]:
        """One of `splits` blocks merges some of the `rows` states of a batch element.

        If they are more than one, what they leave lies behind what they read, to be merged in the same way.
        """
        names = {field.name: f"w_{field.name}" for field in self.fields}
        body = [
            *self.declare("f64", "w_", ""),
            *self.identities("w_{}"),
            *block("for (i64 row = first; row < rows; row += splits * MERGERS)", self._taken_in("batch")),
            *self.meet_rows("w_{}"),
            *block("if (threadIdx.x == 0 && splits == 1)", self.finish_one(names)),
            *block("else if (threadIdx.x == 0)", self.put("w_{}", "left", "batch", "splits", "split")),
        ]
        return [
            *self.meeting_of_rows(),
            "const i64 batch = blockIdx.x / splits, split = blockIdx.x % splits, at_row = batch;",
            "const i64 first = split * MERGERS + threadIdx.x;",
            "f64 *const left = partial + batches * COMPONENTS * SLOTS * rows;",
            *block("for (int o = 0; o < COMPONENTS; o++)", body),
        ]
