"""Names of the language that this version does not compute yet: an error names them instead of denying them."""

from __future__ import annotations

PLANNED_OPERATORS = frozenset(
    """
    Gather I J
    Cross Norm1 NormInf CosSim Softmax
    Max Min ArgMax ArgMin Normalize SqNormIso SqNormDiag SymSqNorm WeightedSqNorm WeightedSqDist OneHot
    VecMatMult TensorDot Kron BSpline SoftDTW_SqDist Factorize AutoFactorize
    IntInv RatCst Zero Ind Var Vi Vj Pm
    ComplexReal ComplexImag ComplexAbs ComplexSquareAbs ComplexAngle Real2Complex Imag2Complex ComplexExp1j Conj
    ComplexExp ComplexAdd ComplexSubtract ComplexMult ComplexDivide ComplexSum ComplexSumT ComplexRealScal
    ComplexScal
    Grad Diff GradMatrix Divergence Laplacian TraceOperator AdjointOperator SumLinOperator
    """.split()
)

PLANNED_REDUCTIONS = frozenset(
    """
    LogSumExpWeight SumSoftMaxWeight SoftMax Max_SumShiftExp Max_SumShiftExpWeight MinArgMin MaxArgMax
    KMin ArgKMin KMin_ArgKMin KMinArgKMin Mean Var Std Prod Count Any All KMax ArgKMax KMax_ArgKMax
    """.split()
)
