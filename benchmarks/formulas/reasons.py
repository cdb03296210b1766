"""Why pykeops gives another result than NumPy and Farfield.

Each sentence says what the peer computes, and in which of its files (of keopscore/ unless another is named) that
can be read; the report prints beside it the point where the two differ most.
"""

from __future__ import annotations

SIGN_OF_NAN = (
    "the peer's Sign, and so the derivative of its Abs, is 0 at NaN (utils/math_functions.py, keops_sign)"
)
STEP_OF_NAN = (
    "the peer's Step, and so the derivative of its ReLU, is 1 at NaN: it asks whether x < 0 "
    "(utils/math_functions.py, keops_step)"
)
SINC_AT_ZERO = (
    "the peer's derivative cos(x)/x - sin(x)/x**2 is NaN at 0 and without a right digit near it; it tends to 0 "
    "(formulas/maths/SinXDivX.py)"
)
HALVES = (
    "the peer rounds halves away from zero, as C's round, and NumPy to even (utils/math_functions.py, keops_round)"
)
SINGLE_POWER = (
    "the peer computes powers in float32 in every dtype, by powf (utils/math_functions.py, keops_powf); its "
    "derivatives use them too (formulas/maths/Powf.py)"
)
POWER_AT_ZERO = (
    f"{SINGLE_POWER}, and at base 0 are 0 * inf = NaN for exponent 0, where x**0 = 1 for all x, and log(0) * 0**y"
)
CLAMP_DERIVATIVE = (
    "the peer differentiates Clamp(x, a, b) as ClampInt((x - a)/(b - a), 0, 1) * (b - a) + a, which is another "
    "function where b < a, NaN where b = a or x is NaN, and rounding where its terms cancel "
    "(formulas/maths/Clamp.py)"
)
SKIPPED_NAN = (
    "the peer keeps the value at hand unless the next compares greater or less, which NaN does not; NumPy's "
    "maxima and minima are NaN, in the first place where it stands (formulas/maths/Max.py and ArgMax.py; "
    "formulas/reductions/Max_Reduction.py)"
)
SINGLE_CONSTANT = (
    "the peer's constants are rounded to float32 in every dtype, also the 1/n of a division by n "
    "(formulas/variables/IntCst.py and RatCst.py)"
)
ONE_EXPONENTIAL = (
    "NumPy computes inf * 0 = NaN, as written; the peer reads Exp(a) * Exp(b) as Exp(a + b) "
    "(formulas/maths/Mult.py)"
)
UNFINISHED = (
    "the peer leaves this reduction unfinished: [m, s] instead of m + log(s), m the maximum of the exponents "
    "and s = sum exp(f - m) g (pykeops/common/operations.py, postprocess)"
)
SHADOWED_ROWS = (
    "the peer's loops over components are named i and j, as are on the CPU the rows by whose numbers the operands "
    "are addressed, so that components of other rows are read (formulas/maths/SoftDTW_SqDist.py, Op; "
    "utils/code_gen_utils.py, direct_table)"
)
PSEUDO_GRADIENT = (
    "the peer's derivative is, in its own words, only valid where the result [m, s] goes into m + log(s) or a "
    "softmax; NumPy's differences are those of m and s themselves "
    "(formulas/reductions/Max_SumShiftExpWeight_Reduction.py, DiffT)"
)
