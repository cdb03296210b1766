"""The state of a CUDA thread: arrays over components and rows, merged into doubles, and written.

Lane states are in the kernel's type, wide ones in doubles. Where merging rounds nothing, a thread has one lane
state for all its columns, which becomes wide at the end; else it is merged after each tile.
"""

from __future__ import annotations

from ..lower import Output, Program
from ..reductions import Field
from ..schedule import Schedule
from .statements import block, fill, finish, indent, sizes, slots


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
        return fill(self.program.reduction.merge, sizes(self.program) | names | later)

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
        if self.schedule.team > 1:
            lines += [*self.meeting_place(self.schedule.team), *self.each(self.meet("w_{}[o][r]"))]
        return indent(lines, 2)

    @staticmethod
    def meeting_place(threads: int) -> list[str]:
        """Shared memory for a state of each thread, if so many of them meet."""
        return ["__shared__ f64 meeting[SLOTS][THREADS];"] if threads > 1 else []

    def meet(self, wide: str) -> list[str]:
        """Merge the states of a team, in the order of its lanes; `wide` is the C text of a field."""
        put = [
            self.each_entry(field, f"{self.meeting(field, '0')} = {wide.format(field.name)}{{0}};")
            for field in self.fields
        ]
        get = self.later({field.name: self.meeting(field, "step") for field in self.fields})
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

    def meeting(self, field: Field, step: str) -> str:
        """Where a thread's state is, or that of the one `step` lanes further on."""
        slot = f"{self.slots[field.name][0]}" + (" + q" if field.each else "")
        return f"meeting[{slot}][threadIdx.x + {step}]"

    # -- writing

    def partial(self, batch: str, split: str, field: Field) -> str:
        """Where a state lies in memory that is merged later."""
        slot = f"{self.slots[field.name][0]}" + (" + q" if field.each else "")
        return f"partial[((({batch} * splits + {split}) * COMPONENTS + o) * SLOTS + {slot}) * rows + row]"

    def store(self) -> str:
        """Results, or states that are merged later."""
        lines = []
        for r in self.row_range:
            names = {field.name: f"w_{field.name}[o][{r}]" for field in self.fields}
            whole = ["const i64 at_row = batch * rows + row;", *self.finish(names)]
            parts = [
                self.each_entry(field, f"{self.partial('batch', 'split', field)} = {names[field.name]}{{}};")
                for field in self.fields
            ]
            body = [
                *block("if (splits == 1 && !OVER_ROWS)", whole),
                *block("else", [self.unroll, *block("for (int o = 0; o < COMPONENTS; o++)", parts)]),
            ]
            is_own = f"if (const i64 row = row_begin + own + {r} * own_rows; lane == 0 && row < row_end)"
            lines += block(is_own, body)
        return indent(lines, 2)

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
