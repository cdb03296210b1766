"""Program + Schedule -> operations: how many of each class a CPU kernel does for a row, a column and a pair.

They are counted in the text that is emitted: what is computed of a row or a column alone, and for pairs the
straight text, each sum over components and each family of results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .emit.cpp_components import AT_A_TIME
from .emit.cpp_pairs import Pairs
from .lower import Level, Program
from .roll import Body, Family
from .schedule import Schedule
from .tally import Tally

STEPS = {"shifted sum": "$m = $t > $m ? $t : $m; $e = exp($t - $m);", "selection": "if ($t > $worst) { }"}
"""What is done with each term, where that is not all of the reduction's `step`: a shifted sum finds the maximum
before it adds, a selection compares each term and takes in few."""


class Counts(Pairs):
    """Counts in the text of one kernel; what is emitted for its pairs is what `Pairs` says.

    Args:
        program, schedule: the kernel, for the CPU.
        tile: vectors of rows and columns of a register tile.
    """

    def __init__(self, program: Program, schedule: Schedule, tile: tuple[int, int]) -> None:
        super().__init__(program, schedule)
        self.tile = tile

    def tally(self) -> Tally:
        """To count in."""
        return Tally(self.schedule.dtype)

    def level(self, level: Level) -> dict[str, float]:
        """What is computed of a row or a column alone."""
        tally, names = self.tally(), dict[int, int]()
        for number in self.program.at(level):
            self._value(tally, names, number, level)
        return {**tally.count(names[number] for number in self.program.kept(level))}

    def _value(self, tally: Tally, names: dict[int, int], number: int, level: Level) -> None:
        """Name a value: computed at its level, there already at others and where a loop left it."""
        value = self.values[number]
        if value.level == "constant":
            names[number] = tally.constant if value.args else tally.value(value.code, ())
        elif value.is_load or value.level != level or number in self.folds:
            names[number] = tally.leaf()
        else:
            for arg in value.args:
                if arg not in names:
                    self._value(tally, names, arg, level)
            names[number] = tally.value(value.code, [names[arg] for arg in value.args])

    def pairs(self) -> Iterable[tuple[str, dict[str, float]]]:
        """(in words, for one pair) of each phase."""
        for fold in self.rolls.folds:
            tally = self.tally()
            result = self._body(tally, fold.body)
            found = tally.count([tally.node("add", (tally.leaf(), result))])
            of_all = _times(found, self._vectors(fold.body, self.tile), fold.body.count)
            yield f"a sum over {fold.body.count} components", of_all
        yield "straight text", self._straight()
        for kind, families in (("results", self.rolls.components), ("weights", self.rolls.weights)):
            for family in families:
                yield f"{family.body.count} {kind}", self._family(family)

    def _straight(self) -> dict[str, float]:
        tally, names = self.tally(), dict[int, int]()
        results: list[int] = []
        for number in sorted(self.straight):
            if self.values[number].level == "pair":
                self._value(tally, names, number, "pair")
        for o, number in self.components:
            if number not in names:
                self._value(tally, names, number, "pair")
            results += self._step(tally, names[number], names if o == self.components[0][0] else None)
        families = (*self.rolls.components, *self.rolls.weights)
        kept = [n for family in families for n in family.body.scalars() if self.values[n].level == "pair"]
        found = tally.count([*results, *(names[n] for n in kept)])
        wanted = {n for n in self.straight if self.values[n].level == "pair"}
        read = {arg for n in wanted - self.folds.keys() for arg in self.values[n].args} | set(self.program.weights)
        read.update(number for _, number in self.components)
        columns = len(read.intersection(self.program.kept("col")) & self.straight)
        loads = columns if self.is_across else columns / self.schedule.rows
        loads += len(wanted & self.folds.keys()) + {"shifted sum": 2, "selection": 1}.get(
            self.program.reduction.scheme, 0
        ) * len(self.components)
        if not self.in_registers:
            loads += len(read.intersection(self.program.kept("row")) & self.straight)
            loads += sum(len(self.scalars(o, 0)) for o, _ in self.components)
        return _times(found, loads, 1)

    def _step(self, tally: Tally, term: int, weights: dict[int, int] | None) -> list[int]:
        """The state after one term; a weighted reduction has one component, whose weights are `weights`."""
        reduction = self.program.reduction
        names = {f"${field.name}": tally.leaf() for field in self.fields} | {"$t": term, "$c": tally.constant}
        names = tally.run(STEPS.get(reduction.scheme, reduction.step), names)
        results = [names[f"${field.name}"] for field in self.fields if field.each == ""]
        if not reduction.step_each:
            return results
        field = next((field.name for field in self.fields if field.each == "W"), self.sum_field)
        if not self.program.weights:
            return [*results, tally.run(reduction.step_each, _with_local(names))[f"${field}"]]
        if self.rolls.weights:
            results.append(names["$e"])
        for _, number in self.weights:
            assert weights is not None
            if number not in weights:
                self._value(tally, weights, number, "pair")
            each = _with_local(names) | {f"${field}": tally.leaf(), "$w": weights[number]}
            results.append(tally.run(reduction.step_each, each)[f"${field}"])
        return results

    def _family(self, family: Family) -> dict[str, float]:
        tally = self.tally()
        result = self._body(tally, family.body)
        if family in self.rolls.weights:
            names = {f"${self.sum_field}": tally.leaf(), "$e": tally.leaf(), "$w": result}
            results = [tally.run(self.program.reduction.step_each, names)[f"${self.sum_field}"]]
        else:
            results = self._step(tally, result, None)
        return _times(tally.count(results), self._vectors(family.body, None), family.body.count)

    def _body(self, tally: Tally, body: Body) -> int:
        """The value of one component."""
        names = dict[int, int]()
        leaves = []
        for leaf in body.leaves:
            if self.values[leaf.value].level == "constant":
                self._value(tally, names, leaf.value, "pair")
            leaves.append(names[leaf.value] if leaf.value in names else tally.leaf())
        steps: list[int] = []
        for code, args in body.steps:
            steps.append(tally.value(code, [steps[arg] if arg >= 0 else leaves[-1 - arg] for arg in args]))
        return steps[body.result] if body.result >= 0 else leaves[-1 - body.result]

    def _vectors(self, body: Body, tile: tuple[int, int] | None) -> float:
        """What is read for one component and pair: of a register tile, or of a family."""
        (rows, columns), read = tile or (self.schedule.rows, 1), 0.0
        for leaf in body.leaves:
            if leaf.kind == "row":
                read += 1 / columns
            elif leaf.kind in ("col", "p"):
                read += 1 / rows
            elif tile is None and self.values[leaf.value].level in ("pair", "col"):
                read += 1 / AT_A_TIME / (1 if self.values[leaf.value].level == "pair" else rows)
        return read


def _times(found: Counter[str], loads: float, count: int) -> dict[str, float]:
    return {name: number * count for name, number in (*found.items(), ("load", loads)) if number}


def _with_local(names: Mapping[str, int]) -> dict[str, int]:
    """What a step named, for the step of each weight: there its variable `e` is `$e`."""
    return {**names, **({"e": names["e"]} if "e" in names else {})}
