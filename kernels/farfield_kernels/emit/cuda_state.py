"""The state of a CUDA thread: arrays over components and rows, merged into doubles, and written.

Lane states are in the kernel's type, wide ones in doubles. Where merging rounds nothing, a thread has one lane
state for all its columns, which becomes wide at the end; else it is merged after each tile. Where both axes are
reduced, the states of a block become one before they are written.
"""

from __future__ import annotations

from ..lower import Output, Program
from ..reductions import Field
from ..schedule import Schedule
from ..schedule_cuda import WARP
from .statements import block, fill, finish, indent, sizes, slots

OF_SPLIT = "(batch * splits + split)"


class State:
    """Texts that declare, merge and write states.

    Args:
        program, schedule: the kernel.

    Attributes:
        held: the C name of how many components a thread has.
    """

    held = "COMPONENTS"

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program, self.schedule = program, schedule
        self.values = program.values
        self.components = list(enumerate(program.components))
        self.fields = program.reduction.state
        self.slots = slots(program)
        self.row_range = range(schedule.rows)
        self.in_registers = schedule.in_registers
        self.is_exact = program.reduction.is_exact

    # -- loops over components, rows and entries

    @property
    def unroll(self) -> str:
        """Unrolled, a loop keeps the arrays in registers."""
        return "#pragma unroll" if self.in_registers else "#pragma unroll 1"

    def each(self, body: list[str]) -> list[str]:
        """A loop over components and rows."""
        heads = (f"for (int o = 0; o < {self.held}; o++)", "for (int r = 0; r < ROWS; r++) {")
        return [self.unroll, heads[0], self.unroll, "  " + heads[1], *("    " + line for line in body), "  }"]

    def each_entry(self, field: Field, text: str) -> str:
        """`text` for a field, or for each of its entries."""
        if not field.each:
            return text.format("")
        return f"for (int q = 0; q < {self.slots[field.name][1]}; q++) {text.format('[q]')}"

    # -- declarations

    def declare(self, kind: str, prefix: str, extent: str) -> list[str]:
        """Arrays that hold the state, lane (`kind` V) or wide (f64), per component and row."""
        lines = []
        for field in self.fields:
            entries = f"[{self.slots[field.name][1]}]" if field.each else ""
            element = "I" if field.is_integer and kind == "V" else kind
            lines.append(f"{element} {prefix}{field.name}{extent}{entries};")
        return lines

    def identities(self, name: str) -> list[str]:
        """Set the state to its identity; `name` is the C text of a field, with its name left open."""
        return [
            self.each_entry(field, f"{name.format(field.name)}{{}} = {field.identity};") for field in self.fields
        ]

    def new_lanes(self) -> list[str]:
        """Lane states, at their identity."""
        return [*self.declare("V", "", f"[{self.held}][ROWS]"), *self.each(self.identities("{}[o][r]"))]

    def new_wide(self) -> list[str]:
        """Wide states, at their identity."""
        return [*self.declare("f64", "w_", f"[{self.held}][ROWS]"), *self.each(self.identities("w_{}[o][r]"))]

    def begin(self) -> str:
        """Before the first column."""
        return indent(self.new_lanes() if self.is_exact else self.new_wide(), 2)

    # -- merging

    def widened(self, field: Field) -> str:
        """An entry of a lane state as a double; a column is numbered within the tile, or within all."""
        read = f"{field.name}[o][r]{{0}}"
        first = "base" if self.is_exact else "col0"
        return f"{read} < 0 ? -1 : f64({first} + {read})" if field.kind == "column" else f"(f64){read}"

    def merge(self, earlier: str) -> str:
        """The reduction's merge of the state `l_...` into that whose C text is `earlier`."""
        names = {field.name: earlier.format(field.name) for field in self.fields}
        later = {f"{field.name}2": f"l_{field.name}" for field in self.fields}
        reduction = self.program.reduction
        text = (self.program.over_rows and reduction.merge_pairs) or reduction.merge
        return fill(text, sizes(self.program) | names | later)

    def later(self, read: dict[str, str]) -> list[str]:
        """A state called `l_...`; `read` is the C text of each field, with the entry left open."""
        lines = []
        for field in self.fields:
            entries = f"[{self.slots[field.name][1]}]" if field.each else ""
            value = self.each_entry(field, f"l_{field.name}{{0}} = {read[field.name]};")
            lines += [f"f64 l_{field.name}{entries};", value]
        return lines

    def flush(self) -> str:
        """After a tile: merge the lane state into the wide state."""
        if self.is_exact:
            return ""
        later = self.later({field.name: self.widened(field) for field in self.fields})
        return indent(self.each([*later, self.merge("w_{}[o][r]")]), 6) + "\n"

    def gather(self) -> str:
        """After the last tile: the wide states of the threads that share rows become one."""
        lines = []
        if self.is_exact:
            wide = [self.each_entry(f, f"w_{f.name}[o][r]{{0}} = {self.widened(f)};") for f in self.fields]
            lines = [*self.declare("f64", "w_", "[COMPONENTS][ROWS]"), *self.each(wide)]
        if self.program.over_rows:
            lines += [
                *self.each(self._of_thread()),
                *self.meeting_of_rows(),
                *self.each_component(self.meet_rows("w_{}[o][0]")),
            ]
        elif self.schedule.team > 1:
            lines += [*self.meeting_place("THREADS"), *self.each(self.meet("w_{}[o][r]"))]
        return indent(lines, 2)

    def each_component(self, body: list[str]) -> list[str]:
        """A loop over components."""
        return [self.unroll, *block("for (int o = 0; o < COMPONENTS; o++)", body)]

    def meeting_place(self, states: str) -> list[str]:
        """Shared memory for so many states of a component."""
        return [f"__shared__ f64 meeting[SLOTS][{states}];"]

    def meeting_of_rows(self) -> list[str]:
        """Shared memory for the states of warps, if more than one meet."""
        return self.meeting_place("MERGERS / 32") if self.schedule.mergers > WARP else []

    def _of_thread(self) -> list[str]:
        """The states of a thread's rows become one; places are then numbers of pairs."""
        of_row = {field.name: f"w_{field.name}[o][r]{{0}}" for field in self.fields}
        numbered = [
            self.each_entry(f, f"if ({of_row[f.name]} >= 0) {of_row[f.name]} += f64(row) * f64(cols);")
            for f in self.fields
            if f.kind == "column"
        ]
        return [
            "const i64 row = row_begin + own + r * own_rows;",
            *block("if (row >= row_end)", self.identities("w_{}[o][r]")),
            *numbered,
            *block("if (r > 0)", [*self.later(of_row), self.merge("w_{}[o][0]")]),
        ]

    def meet_rows(self, wide: str) -> list[str]:
        """Merge the states of `MERGERS` threads, always in the same order: the first of them then has them all."""
        of_lane = {
            field.name: f"__shfl_down_sync(0xffffffffu, {wide.format(field.name)}{{0}}, step)"
            for field in self.fields
        }
        lines = [
            "#pragma unroll 1",
            *block("for (int step = 16; step > 0; step /= 2)", [*self.later(of_lane), self.merge(wide)]),
        ]
        if self.schedule.mergers == WARP:
            return lines
        put = [
            self.each_entry(field, f"{self.met(field, 'threadIdx.x / 32')} = {wide.format(field.name)}{{0}};")
            for field in self.fields
        ]
        get = self.later({field.name: self.met(field, "warp") for field in self.fields})
        return [
            *lines,
            "__syncthreads();",
            *block("if (threadIdx.x % 32 == 0)", put),
            "__syncthreads();",
            *block(
                "for (int warp = 1; threadIdx.x == 0 && warp < MERGERS / 32; warp++)", [*get, self.merge(wide)]
            ),
        ]

    def met(self, field: Field, place: str) -> str:
        """Where in shared memory a state is."""
        slot = f"{self.slots[field.name][0]}" + (" + q" if field.each else "")
        return f"meeting[{slot}][{place}]"

    def meet(self, wide: str) -> list[str]:
        """Merge the states of a team, in the order of its lanes; `wide` is the C text of a field."""
        put = [
            self.each_entry(field, f"{self.met(field, 'threadIdx.x')} = {wide.format(field.name)}{{0}};")
            for field in self.fields
        ]
        get = self.later({field.name: self.met(field, "threadIdx.x + step") for field in self.fields})
        return [
            "__syncthreads();",
            *put,
            "for (int step = 1; step < team; step *= 2) {",
            "  __syncthreads();",
            "  if (lane % (2 * step) == 0) {",
            *("    " + line for line in [*get, self.merge(wide), *put]),
            "  }",
            "}",
        ]

    # -- writing

    def place(self, field: Field, memory: str, group: str, states: str, state: str) -> str:
        """Where in memory the state of component `o` is that has number `state` of `states`."""
        slot = f"{self.slots[field.name][0]}" + (" + q" if field.each else "")
        return f"{memory}[(({group} * COMPONENTS + o) * SLOTS + {slot}) * {states} + {state}]"

    def put(self, wide: str, memory: str, group: str, states: str, state: str) -> list[str]:
        """Write the state of component `o` there; `wide` is the C text of a field."""
        return [
            self.each_entry(f, f"{self.place(f, memory, group, states, state)} = {wide.format(f.name)}{{}};")
            for f in self.fields
        ]

    def store(self) -> str:
        """Results, or states that are merged later."""
        if self.program.over_rows:
            return indent(self._store_rows(), 2)
        lines = []
        for r in self.row_range:
            names = {field.name: f"w_{field.name}[o][{r}]" for field in self.fields}
            whole = ["const i64 at_row = batch * rows + row;", *self.finish(names)]
            parts = self.put(f"w_{{}}[o][{r}]", "partial", OF_SPLIT, "rows", "row")
            body = [
                *block("if (splits == 1)", whole),
                *block("else", self.each_component(parts)),
            ]
            is_own = f"if (const i64 row = row_begin + own + {r} * own_rows; lane == 0 && row < row_end)"
            lines += block(is_own, body)
        return indent(lines, 2)

    def _store_rows(self) -> list[str]:
        """States that are merged later: of a block, those of so many of its threads."""
        return [
            "const i64 states = row_blocks * splits * (THREADS / MERGERS);",
            "const i64 state = (block * splits + split) * (THREADS / MERGERS) + threadIdx.x / MERGERS;",
            *block(
                "if (threadIdx.x % MERGERS == 0)",
                self.each_component(self.put("w_{}[o][0]", "partial", "batch", "states", "state")),
            ),
        ]

    def finish(self, names: dict[str, str]) -> list[str]:
        """Write the results of a row, all components."""
        lines = []
        for k, output in enumerate(self.program.outputs):
            end = output.first + output.count
            head = f"for (int o = {output.first}; o < {end}; o++)"
            lines += [self.unroll, *block(head, self._finish(k, output, names))]
        return lines

    def finish_one(self, names: dict[str, str]) -> list[str]:
        """Write the results of component `o`."""
        lines = []
        for k, output in enumerate(self.program.outputs):
            head = f"if (o >= {output.first} && o < {output.first + output.count})"
            lines += block(head, self._finish(k, output, names))
        return lines

    def _finish(self, k: int, output: Output, names: dict[str, str]) -> list[str]:
        return finish(self.program, self.schedule, output, f"(o{k} + at_row * {output.width})", names)
