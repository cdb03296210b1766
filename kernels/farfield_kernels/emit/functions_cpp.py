"""The mathematical functions of emitted C++, as text: inlined where a kernel's time depends on them.

Each names the largest error that the tests hold it to, in units in the last place, in float32 and in float64. All
are exact at 0 and give NaN and infinities where NumPy does. The polynomials, but for that of exp, are those of
`tools/fit_polynomials.py`. Where an argument is out of the reach of an inlined function, which `far` says of a
whole vector, and where the instruction set has no fused multiply-add to reduce it with, the C library computes
lane by lane; so it does for the functions that are not inlined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of vectors: its text, and the functions that the text calls."""

    text: str
    needs: tuple[str, ...] = ()


def horner(name: str, of: str, coefficients: Sequence[str]) -> str:
    """`V name = ...;`, a polynomial in `of`, lowest coefficient first."""
    lines = [f"  V {name} = K({coefficients[-1]});"]
    lines += [f"  {name} = {name} * {of} + K({c});" for c in reversed(coefficients[:-1])]
    return "\n".join(lines)


@dataclass(frozen=True)
class Numbers:
    """What differs between the types.

    Args:
        s: of `float` or of `double` in the names of instructions.
        mask: the type of a mask of lanes.
        suffix: of the C library's functions.
        bits, bias: of the exponent.
        magic: adding it rounds to an integer.
        far: |x| up to which sin and cos are reduced by three parts of pi / 2; x / (pi / 2) is an exact integer.
    """

    s: str
    mask: str
    suffix: str
    bits: int
    bias: str
    magic: str
    least: str
    lift: str
    lift_bits: str
    half_root: str
    mantissa: str
    magnitude: str
    exp: tuple[str, ...]
    exp_range: tuple[str, str]
    exp2: tuple[str, ...]
    exp2_range: tuple[str, str]
    ln2: tuple[str, str]
    log2e: str
    log: tuple[str, ...]
    far: str
    half_pi: tuple[str, str, str]
    two_over_pi: str
    sin: tuple[str, ...]
    cos: tuple[str, ...]
    tanh: tuple[str, ...]
    atan: tuple[str, ...]
    half_pi_rest: str


FLOAT = Numbers(
    s="ps",
    mask="unsigned short",
    suffix="f",
    bits=23,
    bias="127",
    magic="12582912.0f",
    least="1.17549435e-38f",
    lift="33554432.0f",
    lift_bits="25",
    half_root="0x3f3504f3",
    mantissa="0x007fffff",
    magnitude="0x7fffffff",
    exp=("0.49999993432f", "0.16666520397f", "0.041668390831f", "0.0083687453200f", "0.0013814537893f"),
    exp_range=("-105.0f", "90.0f"),
    exp2=(
        "0.693147215f",
        "0.2402265278f",
        "0.05550310552f",
        "0.009617693255f",
        "0.001340664357f",
        "0.0001559460441f",
    ),
    exp2_range=("-152.0f", "129.0f"),
    ln2=("0.693359375f", "-2.12194440e-4f"),
    log2e="1.44269504f",
    log=("0.6666666655f", "0.4000012271f", "0.285507414f", "0.2333226775f"),
    far="100000.0f",
    half_pi=("1.57079637f", "-4.37113883e-8f", "-1.71512489e-15f"),
    two_over_pi="0.636619772f",
    sin=("-0.1666665485f", "0.008332172279f", "-0.0001951647959f"),
    cos=("0.04166664672f", "-0.001388735991f", "2.443754516e-5f"),
    tanh=("-0.3333328022f", "0.133313837f", "-0.05373400417f", "0.02061813392f", "-0.005679314346f"),
    atan=("-0.3333331547f", "0.1999848684f", "-0.1424379634f", "0.1059559031f", "-0.06082354174f"),
    half_pi_rest="-4.37113883e-8f",
)

DOUBLE = Numbers(
    s="pd",
    mask="unsigned char",
    suffix="",
    bits=52,
    bias="1023LL",
    magic="6755399441055744.0",
    least="2.2250738585072014e-308",
    lift="18014398509481984.0",
    lift_bits="54",
    half_root="0x3fe6a09e667f3bcdLL",
    mantissa="0x000fffffffffffffLL",
    magnitude="0x7fffffffffffffffLL",
    exp=(
        "0.49999999999999395",
        "0.16666666666663177",
        "0.04166666666704541",
        "0.008333333335500468",
        "0.001388888882072706",
        "0.0001984126519960635",
        "2.4801609106552162e-05",
        "2.756141042566804e-06",
        "2.759237967806748e-07",
        "2.3796479232995848e-08",
    ),
    exp_range=("-746.0", "710.0"),
    exp2=(
        "0.693147180559945697",
        "0.24022650695910098",
        "0.0555041086647903893",
        "0.009618129107607002",
        "0.0013333558153441335",
        "0.000154035304415726002",
        "1.52527273838722483e-05",
        "1.32154426751148779e-6",
        "1.0180648196634994e-7",
        "7.07257044561083669e-9",
        "4.0779938457108778e-10",
    ),
    exp2_range=("-1080.0", "1026.0"),
    ln2=("0.693147180369123816490", "1.90821492927058770002e-10"),
    log2e="1.4426950408889634",
    log=(
        "0.666666666666666973",
        "0.399999999998985089",
        "0.285714286263706299",
        "0.222222110774591011",
        "0.181828928848378195",
        "0.153316079980564829",
        "0.146177367900730009",
    ),
    far="1073741824.0",
    half_pi=("1.5707963267948966", "6.123233995736766e-17", "-1.4973849048591833e-33"),
    two_over_pi="0.6366197723675814",
    sin=(
        "-0.166666666666666666",
        "0.00833333333333332267",
        "-0.000198412698412549483",
        "2.75573192141271661e-6",
        "-2.50521048947760238e-8",
        "1.60583644454703726e-10",
        "-7.57858779992343531e-13",
    ),
    cos=(
        "0.0416666666666665985",
        "-0.00138888888888739503",
        "2.48015872893684161e-5",
        "-2.75573143180409526e-7",
        "2.08757184305810891e-9",
        "-1.1359388225370841e-11",
    ),
    tanh=(
        "-0.333333333333333101",
        "0.133333333333292925",
        "-0.053968253965805846",
        "0.0218694884616808458",
        "-0.00886323419973609427",
        "0.00359211286827235892",
        "-0.00145571855118648005",
        "0.000589419785019623962",
        "-0.000236920756292186628",
        "9.13952702698445183551e-5",
        "-3.00198494735089038e-5",
        "5.96761089051101774e-6",
    ),
    atan=(
        "-0.333333333333331984",
        "0.199999999999538775",
        "-0.142857142802269237",
        "0.111111107850135032",
        "-0.0909089780292542352",
        "0.0769206102122046665",
        "-0.0666311317666667198",
        "0.0584795507653015531",
        "-0.0503959702408148994",
        "0.0380718669173540484",
        "-0.0179150660178614232",
    ),
    half_pi_rest="6.123233995736766e-17",
)


def _nearest(n: Numbers) -> Function:
    return Function(f"""\
#ifdef AVX512_BUILTINS
HOT V nearest(V t) {{ return __builtin_ia32_rndscale{n.s}_mask(t, 8, t, ({n.mask})-1, 4); }}
#else
HOT V nearest(V t) {{ const V magic = K({n.magic}); return (t + magic) - magic; }}
#endif
""")


def _scaled(n: Numbers) -> Function:
    """p times 2**n; in two halves where no instruction does it, so that results below the smallest normal number
    are right."""
    return Function(f"""\
#ifdef AVX512_BUILTINS
HOT V scaled(V p, V n) {{ return __builtin_ia32_scalef{n.s}512_mask(p, n, p, ({n.mask})-1, 4); }}
HOT V clamped(V x, V low, V high) {{  // NaN, as the second operand, stays
  x = __builtin_ia32_min{n.s}512_mask(high, x, x, ({n.mask})-1, 4);
  return __builtin_ia32_max{n.s}512_mask(low, x, x, ({n.mask})-1, 4);
}}
#else
HOT V scaled(V p, V n) {{
  const I k = __builtin_convertvector(n, I), half = k >> 1;
  return p * (V)((half + {n.bias}) << {n.bits}) * (V)((k - half + {n.bias}) << {n.bits});
}}
HOT V clamped(V x, V low, V high) {{
  x = high < x ? high : x;
  return x < low ? low : x;
}}
#endif
""")


def _exp(n: Numbers) -> Function:
    """1 ulp. x = n ln 2 + r with |r| <= ln(2) / 2, ln 2 in two parts."""
    low, high = n.exp_range
    return Function(
        f"""\
HOT V exp(V x) {{
  x = clamped(x, K({low}), K({high}));
  const V n = nearest(x * K({n.log2e}));
  const V r = (x - n * K({n.ln2[0]})) - n * K({n.ln2[1]});
{horner("p", "r", n.exp)}
  return scaled((p * r + K(1)) * r + K(1), n);
}}
HOT f64 exp(f64 x) {{ return __builtin_exp(x); }}
""",
        ("nearest", "scaled"),
    )


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


def _sqrt(n: Numbers) -> Function:
    return Function(f"""\
#ifdef AVX512_BUILTINS
HOT V sqrt(V x) {{ return __builtin_ia32_sqrt{n.s}512_mask(x, x, ({n.mask})-1, 4); }}
#elif defined(__AVX__) && !defined(__AVX512F__)
HOT V sqrt(V x) {{ return __builtin_ia32_sqrt{n.s}256(x); }}
#else
HOT V sqrt(V x) {{ V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_sqrt{n.suffix}(x[l]); return y; }}
#endif
HOT f64 sqrt(f64 x) {{ return __builtin_sqrt(x); }}
""")


_ANY = Function("""\
typedef i64 Bits __attribute__((vector_size(BYTES)));
HOT i64 any(I condition) {
  const Bits bits = (Bits)condition;
  i64 found = 0;
  for (int l = 0; l < BYTES / 8; l++) found |= bits[l];
  return found;
}
HOT bool any(bool condition) { return condition; }
""")

_FINITE = Function("""\
HOT V finite_or_zero(V x) { return x - x == K(0) ? x : K(0); }
HOT f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }
""")

OF_ONE = "log1p log2 log10 expm1 asin acos sinh cosh erf erfc lgamma cbrt ceil floor trunc rint".split()
OF_TWO = ("pow", "atan2", "hypot")


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
        "nearest": _nearest(n),
        "any": _ANY,
        "fabs": Function(f"HOT V fabs(V x) {{ return (V)((I)x & KI({n.magnitude})); }}\n"),
        "scaled": _scaled(n),
        "exp": _exp(n),
        "exp2": _exp2(n),
        "log": _log(n),
        "sin": _sin_and_cos(n, "sin"),
        "cos": _sin_and_cos(n, "cos"),
        "tanh": _tanh(n),
        "atan": _atan(n),
        **{name: Function(by_lane.format(name, n.suffix)) for name in OF_ONE},
        **{name: Function(of_two.format(name, n.suffix)) for name in OF_TWO},
        "sqrt": _sqrt(n),
        "finite_or_zero": _FINITE,
    }
