"""The mathematical functions of emitted C++, as text: inlined where a kernel's time depends on them.

Each names the largest error that the tests hold it to, in units in the last place, in float32; in float64 it is 4.
All are exact at 0 and give NaN and infinities where NumPy does. Where an argument is out of the reach of an
inlined function, which `any` says of a whole vector, and where the instruction set has no fused multiply-add that
sin, cos and pow are made of, the C library computes lane by lane; so it does for the functions not inlined.
"""

from __future__ import annotations

from .instructions_cpp import Function, horner, instructions_of
from .numbers_cpp import DOUBLE, FLOAT, Numbers
from .pow_cpp import power


def _exp_of(n: Numbers, name: str, high: str, power: str) -> str:
    """x = n ln 2 + r with |r| <= ln(2) / 2, ln 2 in two parts; the result is infinite beyond `high`, and `power`
    is the power of two in it."""
    low, _ = n.exp_range
    return f"""\
HOT V {name}(V x) {{
  x = clamped(x, K({low}), K({high}));
  const V n = nearest(x * K({n.log2e}));
  const V r = (x - n * K({n.ln2[0]})) - n * K({n.ln2[1]});
{horner("p", "r", n.exp)}
  return scaled((p * r + K(1)) * r + K(1), {power});
}}
"""


def _exp(n: Numbers) -> Function:
    """1 ulp."""
    text = _exp_of(n, "exp", n.exp_range[1], "n") + "HOT f64 exp(f64 x) { return __builtin_exp(x); }\n"
    return Function(text, ("nearest", "scaled"))


def _half_exp(n: Numbers) -> Function:
    """1 ulp. exp(x) / 2, a number also where exp(x) is just too large."""
    return Function(_exp_of(n, "half_exp", n.half_exp_high, "n - K(1)"), ("nearest", "scaled"))


def _exp2(n: Numbers) -> Function:
    """1 ulp. x = n + f with |f| <= 1/2; one instruction gives f, 0 where x is infinite."""
    low, high = n.exp2_range
    return Function(
        f"""\
HOT V exp2(V x) {{
#if defined(AVX512_BUILTINS) && __GNUC__ >= 12
  const V f = __builtin_ia32_reduce{n.s}512_mask_round(x, 8, x, ({n.mask})-1, 4), n = x - f;
#else
  x = clamped(x, K({low}), K({high}));
  const V n = nearest(x), f = x - n;
#endif
{horner("p", "f", n.exp2)}
  return scaled(p * f + K(1), n);
}}
""",
        ("nearest", "scaled"),
    )


def _expm1(n: Numbers) -> Function:
    """2 ulp. 2**n ((exp(r) - 1) + (1 - 2**-n))."""
    return Function(
        f"""\
HOT V expm1(V x) {{
  const V c = clamped(x, K({n.expm1_low}), K({n.exp_range[1]}));
  const V n = nearest(c * K({n.log2e}));
  const V r = (c - n * K({n.ln2[0]})) - n * K({n.ln2[1]});
{horner("p", "r", n.expm1)}
  return signed_as(scaled((r + r * r * p) + (K(1) - scaled(K(1), -n)), n), x);
}}
""",
        ("nearest", "scaled", "signed_as"),
    )


def _log(n: Numbers) -> Function:
    """2 ulp. x = 2**n (1 + f) with 1 + f between the roots of 1/2 and of 2; s = f / (2 + f), and
    log(1 + f) = 2 s + s**3 (...)."""
    return Function(f"""\
HOT V log(V x) {{
  const I is_small = x < K({n.least});
  const V lifted = is_small ? x * K({n.lift}) : x;
  const I bits = (I)lifted - KI({n.half_root});
  const V f = (V)((bits & KI({n.mantissa})) + KI({n.half_root})) - K(1);
  const V n = __builtin_convertvector(bits >> {n.bits}, V) - (is_small ? K({n.lift_bits}) : K(0));
  const V s = f / (K(2) + f), z = s * s, half = K(0.5) * f * f;
{horner("p", "z", n.log)}
  V y = n * K({n.ln2[0]}) - ((half - (s * (half + p * z) + n * K({n.ln2[1]}))) - f);
  y = x < K(0) ? K(0) / K(0) : x == K(0) ? K(-INF) : y;
  return x - x == K(0) ? y : x == K(-INF) ? x - x : x;
}}
HOT f64 log(f64 x) {{ return __builtin_log(x); }}
""")


def _log1p(n: Numbers) -> Function:
    """2 ulp. As log of u = 1 + x, rounded, but f = x where n is 0; elsewhere what u lacks is divided by u."""
    return Function(
        f"""\
HOT V log1p(V x) {{
  const V u = K(1) + x, lacking = x < K(1) ? x - (u - K(1)) : K(1) - (u - x);
  const I bits = (I)u - KI({n.half_root}), k = bits >> {n.bits};
  const V m = (V)((bits & KI({n.mantissa})) + KI({n.half_root})), n = __builtin_convertvector(k, V);
  const V f = k == KI(0) ? x : m - K(1);
  const V s = f / (K(2) + f), z = s * s, half = K(0.5) * f * f;
  const V scale = (V)((KI({n.bias}) - k) << {n.bits});
  const V c = (k != KI(0)) & (k < KI(64)) ? lacking * scale * (K(1) - K(2) * (s - z)) : K(0);
{horner("p", "z", n.log)}
  V y = n * K({n.ln2[0]}) - ((half - (s * (half + p * z) + (n * K({n.ln2[1]}) + c))) - f);
  y = x < K(-1) ? K(0) / K(0) : x == K(-1) ? K(-INF) : signed_as(y, x);
  return x - x == K(0) ? y : x == K(-INF) ? x - x : x;
}}
""",
        ("signed_as",),
    )


def _sin_and_cos(n: Numbers, name: str) -> Function:
    """2 ulp. x = n pi / 2 + r with |r| <= pi / 4; the first difference is exact, as both are multiples of the last
    place of pi / 2."""
    turn, zero = ("", "x == K(0) ? x : ") if name == "sin" else (" + KI(1)", "")
    return Function(
        f"""\
static __attribute__((noinline)) V far_{name}(V x) {{
  V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_{name}{n.suffix}(x[l]); return y;
}}
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
HOT V {name}(V x) {{
  if (any(!(fabs(x) <= K({n.far})))) return far_{name}(x);
  const V n = nearest(x * K({n.two_over_pi}));
  const V r = ((x - n * K({n.half_pi[0]})) - n * K({n.half_pi[1]})) - n * K({n.half_pi[2]});
  const V z = r * r;
{horner("p", "z", n.sin)}
{horner("q", "z", n.cos)}
  const V sine = r + r * z * p, cosine = (K(1) - K(0.5) * z) + z * z * q;
  const I k = __builtin_convertvector(n, I){turn};
  const V y = (k & KI(1)) != KI(0) ? cosine : sine;
  return {zero}(k & KI(2)) != KI(0) ? -y : y;
}}
#else
HOT V {name}(V x) {{ return far_{name}(x); }}
#endif
""",
        ("nearest", "any", "fabs"),
    )


def _tanh(n: Numbers) -> Function:
    """2 ulp. A polynomial up to 0.625, beyond it 1 - 2 / (exp(2 |x|) + 1)."""
    return Function(
        f"""\
HOT V tanh(V x) {{
  const V a = fabs(x), z = x * x;
{horner("p", "z", n.tanh)}
  const V large = K(1) - K(2) / (exp(K(2) * a) + K(1));
  const V y = a < K(0.625) ? a + a * z * p : large;
  return x < K(0) ? -y : x == K(0) ? x : y;
}}
""",
        ("exp", "fabs"),
    )


def _atan(n: Numbers) -> Function:
    """2 ulp. atan(a) = c + atan(t) with |t| <= tan(pi / 8): c is 0, pi / 4 or pi / 2."""
    pi_2, pi_4 = n.half_pi[0], f"0.5{n.suffix} * {n.half_pi[0]}"
    return Function(
        f"""\
HOT V atan(V x) {{
  const V a = fabs(x);
  const I is_small = a <= K(0.41421356237309503), is_large = a > K(2.414213562373095);
  const V t = (is_small ? a : is_large ? K(-1) : a - K(1)) / (is_small ? K(1) : is_large ? a : a + K(1));
  const V c = is_small ? K(0) : is_large ? K({pi_2}) : K({pi_4});
  const V rest = is_small ? K(0) : is_large ? K({n.half_pi_rest}) : K(0.5{n.suffix} * {n.half_pi_rest});
  const V z = t * t;
{horner("p", "z", n.atan)}
  const V y = c + (t + (t * z * p + rest));
  return x < K(0) ? -y : x == K(0) ? x : y;
}}
""",
        ("fabs",),
    )


def _sinh(n: Numbers) -> Function:
    """2 ulp. A polynomial up to 1, beyond it exp(|x|) / 2 - 1 / (2 exp(|x|))."""
    return Function(
        f"""\
HOT V sinh(V x) {{
  const V a = fabs(x), z = x * x, e = half_exp(a);
{horner("p", "z", n.sinh)}
  return signed_as(a < K(1) ? a + a * z * p : e - K(0.25) / e, x);
}}
""",
        ("half_exp", "fabs", "signed_as"),
    )


_COSH = Function(
    """\
HOT V cosh(V x) {
  const V e = half_exp(fabs(x));
  return e + K(0.25) / e;
}
""",
    ("half_exp", "fabs"),
)
"""2 ulp."""


def _asin_and_acos(n: Numbers, name: str) -> Function:
    """2 ulp. t = asin(s): s is a = |x| up to 1/2, beyond it sqrt((1 - a) / 2), where acos(a) = 2 t."""
    pi_2, rest = n.half_pi[0], n.half_pi_rest
    first = f"  const V b = K({pi_2}) - K(2) * s, b2 = (K({pi_2}) - b) - K(2) * s;\n"
    result = f"signed_as(is_large ? b - ((K(2) * w - K({rest})) - b2) : t, x)"
    if name == "acos":
        first = ""
        above = f"x < K(0) ? K(2) * (K({pi_2}) - (t - K({rest}))) : K(2) * t"
        result = f"is_large ? ({above}) : K({pi_2}) - (signed_as(t, x) - K({rest}))"
    return Function(
        f"""\
HOT V {name}(V x) {{
  const V a = fabs(x);
  const I is_large = a > K(0.5);
  const V z = is_large ? K(0.5) - K(0.5) * a : a * a, s = is_large ? sqrt(z) : a;
{horner("p", "z", n.asin)}
  const V w = s * z * p, t = s + w;
{first}  return {result};
}}
""",
        ("fabs", "sqrt", "signed_as"),
    )


def _erf(n: Numbers) -> Function:
    """2 ulp. A polynomial up to 1, beyond it 1 - exp of one in |x|."""
    middle, end = n.erf_places
    return Function(
        f"""\
HOT V erf(V x) {{
  const V a = fabs(x), z = x * x, t = (a > K({end}) ? K({end}) : a) - K({middle});
{horner("p", "z", n.erf)}
{horner("q", "t", n.erf_log)}
  const V large = K(1) - exp(q);
  return signed_as(a < K(1) ? a + a * p : large, x);
}}
""",
        ("exp", "fabs", "signed_as"),
    )


def _erfc(n: Numbers) -> Function:
    """4 ulp. Up to 1/2 as erf, beyond it exp(-x**2), whose argument is exact, times a polynomial in
    t = (a - 3) / (a + 3), over 1 + 2 a."""
    return Function(
        f"""\
HOT V erfc(V x) {{
  const V z = x * x, b = fabs(x), a = b > K({n.erfc_end}) ? K({n.erfc_end}) : b, t = (a - K(3)) / (a + K(3));
{horner("p", "z", n.erf)}
{horner("q", "t", n.erfc)}
  const V high = (V)((I)a & KI({n.upper})), low = a - high, square = a * a, under = K(1) + K(2) * a;
  const V lacking = ((high * high - square) + K(2) * high * low) + low * low;
  const V quotient = q / under, rounding = (K(1) - (under - K(2) * a)) * quotient * K(0.9);  // of `under`
  const V e = exp(-square) * quotient, y = e - e * (lacking + rounding);
  return b < K(0.5) ? K(1) - (x + x * p) : x < K(0) ? K(2) - y : y;
}}
""",
        ("exp", "fabs"),
    )


OF_ONE = "log2 log10 lgamma cbrt ceil floor trunc rint".split()
OF_TWO = ("atan2", "hypot")


def functions_of(dtype: str) -> dict[str, Function]:
    """Every function by name; those that others need come before them."""
    n = FLOAT if dtype == "float32" else DOUBLE
    by_lane = (
        "HOT V {0}(V x) {{ V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_{0}{1}(x[l]); return y; }}\n"
    )
    of_two = (
        "HOT V {0}(V x, V n) {{\n"
        "  V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_{0}{1}(x[l], n[l]); return y;\n}}\n"
    )
    return {
        **instructions_of(n),
        "exp": _exp(n),
        "half_exp": _half_exp(n),
        "exp2": _exp2(n),
        "expm1": _expm1(n),
        "log": _log(n),
        "log1p": _log1p(n),
        "sin": _sin_and_cos(n, "sin"),
        "cos": _sin_and_cos(n, "cos"),
        "tanh": _tanh(n),
        "sinh": _sinh(n),
        "cosh": _COSH,
        "atan": _atan(n),
        "asin": _asin_and_acos(n, "asin"),
        "acos": _asin_and_acos(n, "acos"),
        "erf": _erf(n),
        "erfc": _erfc(n),
        "pow": power(n),
        **{name: Function(by_lane.format(name, n.suffix)) for name in OF_ONE},
        **{name: Function(of_two.format(name, n.suffix)) for name in OF_TWO},
    }
