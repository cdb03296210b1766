"""The mathematical functions of emitted C++, as text: inlined where a kernel's time depends on them.

Each names the largest error that the tests hold it to, in units in the last place, in float32 and in float64. All
are exact at 0 and give NaN and infinities where NumPy does. Where an argument is out of the reach of an inlined
function, which `any` says of a whole vector, and where the instruction set has no fused multiply-add to reduce it
with, the C library computes lane by lane; so it does for the functions that are not inlined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .numbers_cpp import DOUBLE, FLOAT, Numbers


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


def _any(n: Numbers) -> Function:
    """Whether a comparison, all bits of whose lanes are alike, holds in some lane."""
    return Function(f"""\
#if defined(AVX512_BUILTINS)
HOT bool any(I condition) {{ return __builtin_ia32_ptestm{n.lane}512(condition, condition, ({n.mask})-1) != 0; }}
#elif defined(__AVX__) && !defined(__AVX512F__) && !defined(__clang__)
typedef float Signs __attribute__((vector_size(BYTES)));
HOT bool any(I condition) {{ return __builtin_ia32_movmskps256((Signs)condition) != 0; }}
#elif defined(__SSE2__) && !defined(__AVX__) && !defined(__clang__)
typedef float Signs __attribute__((vector_size(BYTES)));
HOT bool any(I condition) {{ return __builtin_ia32_movmskps((Signs)condition) != 0; }}
#else
typedef i64 Bits __attribute__((vector_size(BYTES)));
HOT bool any(I condition) {{
  const Bits bits = (Bits)condition;
  i64 found = 0;
  for (int l = 0; l < BYTES / 8; l++) found |= bits[l];
  return found != 0;
}}
#endif
HOT bool any(bool condition) {{ return condition; }}
""")


def _any_exceeds(n: Numbers) -> Function:
    """Whether `a <= b` fails in some lane; compared into a mask, which `any` would first make a vector of."""
    return Function(
        f"""\
#ifdef AVX512_BUILTINS
HOT bool any_exceeds(V a, V b) {{ return __builtin_ia32_cmp{n.s}512_mask(a, b, 6, ({n.mask})-1, 4) != 0; }}
#else
HOT bool any_exceeds(V a, V b) {{ return any(!(a <= b)); }}
#endif
""",
        ("any",),
    )


def _unzip(count: int) -> Function:
    """`LANES` rows of so many numbers each, one row after the other -> one vector per number, `pitch` apart."""
    lines = [f"  const V p{s} = *(const Unaligned *)(from + {s} * LANES);" for s in range(count)]
    for d in range(count):
        found = "p0"
        if count > 1:
            lines.append(f"  const I i{d} = lane * KI({count}) + KI({d});")
            found = f"__builtin_shuffle(p0, p1, i{d})"
        for s in range(2, count):
            place = f"i{d} < KI({s} * LANES) ? lane : i{d} - KI({s - 1} * LANES)"
            found = f"__builtin_shuffle({found}, p{s}, {place})"
        lines.append(f"  *(V *)(to + {d} * pitch) = {found};")
    shuffles = "\n".join(lines)
    return Function(f"""\
HOT void unzip_{count}(const T *from, T *to, i64 pitch) {{
#ifdef __clang__
  for (int l = 0; l < LANES; l++)
    for (int d = 0; d < {count}; d++) to[d * pitch + l] = from[l * {count} + d];
#else
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  I lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
{shuffles}
#endif
}}
""")


_TRANSPOSE = Function("""\
HOT void transpose(const T *from, i64 step, T *to, i64 pitch) {
#ifdef __clang__
  for (int l = 0; l < LANES; l++)
    for (int d = 0; d < LANES; d++) to[d * pitch + l] = from[l * step + d];
#else
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  I lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
  V r[LANES];
#pragma GCC unroll 16
  for (int l = 0; l < LANES; l++) r[l] = *(const Unaligned *)(from + l * step);
#pragma GCC unroll 4
  for (int s = 1; s < LANES; s *= 2) {
    const I is_high = (lane & KI(s)) != KI(0);
    const I low = is_high ? lane + KI(LANES - s) : lane, high = is_high ? lane + KI(LANES) : lane + KI(s);
#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++)
      if (!(l & s)) {
        const V a = r[l], b = r[l + s];
        r[l] = __builtin_shuffle(a, b, low);
        r[l + s] = __builtin_shuffle(a, b, high);
      }
  }
#pragma GCC unroll 16
  for (int d = 0; d < LANES; d++) *(V *)(to + d * pitch) = r[d];
#endif
}
""")
"""`LANES` rows, `step` apart, of `LANES` numbers each -> a vector per number, `pitch` apart."""

_FINITE = Function("""\
HOT V finite_or_zero(V x) { return x - x == K(0) ? x : K(0); }
HOT f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }
""")

UNZIPPED = 4  # numbers per row up to which `unzip_...` brings them apart
TRANSPOSED = 16  # numbers per row from which `transpose` does; between them, single copies are as fast

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
        **{f"unzip_{count}": _unzip(count) for count in range(1, UNZIPPED + 1)},
        "transpose": _TRANSPOSE,
        "any": _any(n),
        "any_exceeds": _any_exceeds(n),
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
