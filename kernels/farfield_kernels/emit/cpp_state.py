"""The lane state in emitted C++: which fields are variables, which lie in memory, and how both are named."""

from __future__ import annotations

from ..lower import Program
from ..reductions import Field
from ..roll import places, roll
from ..schedule import Schedule
from .statements import block, carried, slots


class LaneState:
    """Names and statements of the lane state of one program.

    What a loop over components updates lies in memory; the rest is held in variables where it fits there.
    """

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.program, self.schedule = program, schedule
        self.values = program.values
        self.rolls = roll(program)
        self.widths = dict(program.widths)
        self.fields = program.reduction.state
        self.slots = slots(program)
        self.row_range = range(schedule.rows)
        self.in_registers = schedule.in_registers
        self.is_across = schedule.lanes == "columns"
        self.is_by_chunks = program.reduction.by_chunks
        self.row_slots = places(program, "row")
        self.col_slots = places(program, "col")
        rolled = {k for family in self.rolls.components for k in family.range}
        self.components = [(o, value) for o, value in enumerate(program.components) if o not in rolled]
        self.rolled_weights = {k for family in self.rolls.weights for k in family.range}
        self.weights = [(q, value) for q, value in enumerate(program.weights) if q not in self.rolled_weights]

    def state_names(self, o: int, r: int) -> dict[str, str]:
        """Field -> its C variable for one component and row; one with an entry per weight has several."""
        return {field.name: f"{field.name}_{o}_{r}" for field in self.fields}

    def scalars(self, o: int, r: int) -> list[tuple[str, str, Field]]:
        """(C variable, its lanes in memory, field) of all state that is held in variables."""
        found = []
        for field in self.fields:
            first, count = self.slots[field.name]
            if field.each == "K":
                continue
            for q in range(count):
                if field.each == "W" and q in self.rolled_weights:
                    continue
                name = f"{field.name}_{o}_{r}" + (f"_{q}" if field.each == "W" else "")
                kind = "I" if field.is_integer else "V"
                found.append((name, f"*({kind} *)({self.lanes(o, first + q, r)})", field))
        return found

    @staticmethod
    def lanes(o: int, slot: int, r: int) -> str:
        """Where a number of the state of one component lies."""
        return f"lane + ({o} * SLOTS + {slot}) * GROUP + {r} * LANES"

    def arrays(self, o: int, r: int) -> list[str]:
        """Declarations of the state that is an array in memory."""
        lines = []
        for field in self.fields:
            if field.each == "K":
                kind = "I" if field.is_integer else "V"
                place = self.lanes(o, self.slots[field.name][0], r)
                lines.append(f"const Entries<{kind}> {field.name}_{o}_{r} = {{({kind} *)({place}), ROWS}};")
        return lines

    def read_state(self, o: int, r: int) -> list[str]:
        """The state of one component as variables."""
        return [
            f"{'I' if field.is_integer else 'V'} {name} = {place};" for name, place, field in self.scalars(o, r)
        ]

    def write_state(self, o: int, r: int) -> list[str]:
        """The variables back to memory."""
        return [f"{place} = {name};" for name, place, _ in self.scalars(o, r)]

    def begin_state(self) -> list[str]:
        """The identity, in registers or in memory."""
        memory = self.carry() or [
            f"for (int f = {first}; f < {first + count}; f++) "
            f"*({'I' if field.is_integer else 'V'} *)(lane + (o * SLOTS + f) * GROUP + l) = {field.identity};"
            for field in self.fields
            for first, count in [self.slots[field.name]]
            if field.each == "K" or not self.in_registers or self.rolls.components or self.rolls.weights
        ]
        step = "l++" if self.program.reduction.takes_count else "l += LANES"
        loops = block("for (int o = 0; o < COMPONENTS; o++)", block(f"for (int l = 0; l < GROUP; {step})", memory))
        if not self.in_registers:
            return loops
        begins = "is_first ? {} : {}" if self.is_across else "{}"
        return loops + [
            f"{'I' if field.is_integer else 'V'} {name} = {begins.format(field.identity, place)};"
            for r in self.row_range
            for o, _ in self.components
            for name, place, field in self.scalars(o, r)
        ]

    def carry(self) -> list[str]:
        """The state of a selection, lane by lane, from what earlier tiles selected."""
        begins = carried(self.program, lambda name: f"w_{name}")
        if not begins:
            return []
        lines = []
        for field in self.fields:
            first, _ = self.slots[field.name]
            lines.append(f"const Entries<f64> w_{field.name} = {{&wide[o][{first}][g + l], WIDE}};")
        for field in self.fields:
            first, count = self.slots[field.name]
            kind = "IT" if field.is_integer else "T"
            value = begins[field.name].replace("KI(", f"({kind})(").replace("K(", f"({kind})(")
            lines.append(f"const {kind} b_{field.name} = {value};")
            place = f"(({kind} *)lane)[(o * SLOTS + f) * GROUP + l]"
            lines.append(f"for (int f = {first}; f < {first + count}; f++) {place} = b_{field.name};")
        return lines

    def end_state(self) -> list[str]:
        """Registers go to memory, where the flush finds them."""
        if not self.in_registers:
            return []
        return [line for r in self.row_range for o, _ in self.components for line in self.write_state(o, r)]

    def around(self, o: int, r: int, body: list[str]) -> list[str]:
        """Statements that read and write the lane state of one component of one row."""
        arrays = self.arrays(o, r)
        if self.in_registers:
            return [*arrays, *body]
        return block("", [*arrays, *self.read_state(o, r), *body, *self.write_state(o, r)])
