"""Names of the language that this version does not compute yet: an error names them instead of denying them."""

from __future__ import annotations

PLANNED_REDUCTIONS = frozenset(
    """
    LogSumExpWeight SumSoftMaxWeight SoftMax Max_SumShiftExp Max_SumShiftExpWeight MinArgMin MaxArgMax
    KMin ArgKMin KMin_ArgKMin KMinArgKMin Mean Var Std Prod Count Any All KMax ArgKMax KMax_ArgKMax
    """.split()
)
