"""The second kernel: states of split columns, and of rows where both axes are reduced, become results."""

from __future__ import annotations

from .cuda_state import State
from .statements import block, indent


class Merge(State):
    """The body of `farfield_merge`."""

    def merged(self) -> str:
        """All of it."""
        return indent(self._over_rows() if self.program.over_rows else self._splits(), 2)

    def _partial(self, split: str, *, flat: bool = False) -> list[str]:
        """Read one partial state into `l_...`; `flat` makes column numbers those of pairs."""
        read = {}
        for field in self.fields:
            place = self.partial("batch", split, field)
            numbered = f"{place} < 0 ? -1 : f64(row) * f64(cols) + {place}"
            read[field.name] = numbered if flat and field.kind == "column" else place
        return self.later(read)

    def _splits(self) -> list[str]:
        """A team of threads has a row: each merges some of its splits, in order; then they meet."""
        names = {field.name: f"w_{field.name}" for field in self.fields}
        body = [
            *self.declare("f64", "w_", ""),
            *self.identities("w_{}"),
            *block(
                "for (i64 split = first; split < last; split++)", [*self._partial("split"), self.merge("w_{}")]
            ),
            *(self.meet("w_{}") if self.schedule.mergers > 1 else []),
            *block("if (lane == 0 && at_row < batches * rows)", self.finish_one(names)),
        ]
        return [
            *self.meeting_place(self.schedule.mergers),
            "const int team = blockDim.x % MERGERS ? 1 : MERGERS, lane = threadIdx.x % team;",
            "const i64 at_row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / team;",
            "const i64 batch = at_row / rows, row = at_row % rows, run = (splits + team - 1) / team;",
            "const i64 first = at_row < batches * rows ? lane * run : splits;",
            "const i64 last = smaller(splits, first + run);",
            *block("for (int o = 0; o < COMPONENTS; o++)", body),
        ]

    def _over_rows(self) -> list[str]:
        """One batch element: each thread merges a run of rows, then one of them the runs."""
        begin = [*self.declare("f64", "w_", ""), *self.identities("w_{}")]
        names = {field.name: f"w_{field.name}" for field in self.fields}
        keep = [
            self.each_entry(field, f"{self.partial('batch', '(i64)0', field)} = w_{field.name}{{}};")
            for field in self.fields
        ]
        each_split = block(
            "for (i64 split = 0; split < splits; split++)",
            [*self._partial("split", flat=True), self.merge("w_{}")],
        )
        runs = [
            *begin,
            *block("for (i64 row = first; row < last; row++)", each_split),
            *block("if (first < rows)", ["const i64 row = first;", *keep]),
        ]
        merge = [*self._partial("(i64)0"), self.merge("w_{}")]
        whole = [*begin, *block("for (i64 row = 0; row < rows; row += run)", merge), *self.finish_one(names)]
        return [
            "const i64 batch = blockIdx.x, at_row = batch;",
            "const i64 run = (rows + blockDim.x - 1) / blockDim.x;",
            "const i64 first = threadIdx.x * run, last = smaller(rows, first + run);",
            *block("for (int o = 0; o < COMPONENTS; o++)", runs),
            "__syncthreads();",
            *block("if (threadIdx.x == 0) for (int o = 0; o < COMPONENTS; o++)", whole),
        ]
