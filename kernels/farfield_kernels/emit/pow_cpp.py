"""pow, as text of emitted C++."""

from __future__ import annotations

from .instructions_cpp import Function, horner
from .numbers_cpp import Numbers

_SPECIAL = """\
static __attribute__((noinline)) V special_pow(V x, V y, V power) {{  // `power` is that of |x| where it has one
  const V a = fabs(x), b = fabs(y);
  const I is_even = b >= K({integers}), k = __builtin_convertvector(is_even ? K(0) : b, I);
  const I is_integer = is_even | (__builtin_convertvector(k, V) == b);
  const I is_odd = is_integer & ((k & KI(1)) != KI(0)) & ~is_even;
  const V end = (a < K(1)) == (y < K(0)) ? K(INF) : K(0);
  V r = a == K(1) ? K(1) : (a == K(0)) | (a == K(INF)) | (b == K(INF)) ? end : power;
  r = is_odd & ((I)x < KI(0)) ? -r : r;
  r = (x < K(0)) & (x != K(-INF)) & ~is_integer ? K(INF) - K(INF) : r;
  r = (x != x) | (y != y) ? x + y : r;
  return (x == K(1)) | (y == K(0)) ? K(1) : r;
}}
"""
"""At zeros, infinities, NaN and negative bases: as IEEE 754 says. From `integers` on, numbers are even."""

_POW = """\
HOT V pow(V x, V y) {
  const V power = power_of(fabs(x), y);
  return any(!(x > K(0)) | !(x < K(INF)) | !(fabs(y) < K(INF))) ? special_pow(x, y, power) : power;
}
"""


def _core(n: Numbers) -> str:
    """a**y for 0 < a < inf. a = 2**n (1 + f), as log does; from s = f / (2 + f) on y log2(a) is the sum of two
    numbers: what is added to a product is what its rounding lost."""
    first, third, far, (low, high) = n.log2_first, n.log2_third, n.pow_far, n.exp2_range
    polynomial = horner("p", "z", n.log2_tail)
    if n.s == "ps":  # rounding c, of which w / u is less than 1%, costs less than its correction
        cube = f"""\
  const V z = s * s, z2 = fused(s, s, -z) + K(2) * s * s2;
{polynomial}
  const V c = K({third[0]}) + z * p, w = z * c, w2 = fused(z, c, -w) + z2 * c;"""
    else:
        cube = f"""\
  const V z = s * s, z2 = fused(s, s, -z) + K(2) * s * s2;
{polynomial}
  const V b = z * p, c = K({third[0]}) + b, c2 = (K({third[0]}) - c) + b + K({third[1]});
  const V w = z * c, w2 = fused(z, c, -w) + (z * c2 + z2 * c);"""
    return f"""\
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
HOT V power_of(V a, V y) {{
  const I is_small = a < K({n.least});
  const V lifted = is_small ? a * K({n.lift}) : a;
  const I bits = (I)lifted - KI({n.half_root});
  const V f = (V)((bits & KI({n.mantissa})) + KI({n.half_root})) - K(1);
  const V n = __builtin_convertvector(bits >> {n.bits}, V) - (is_small ? K({n.lift_bits}) : K(0));
  const V d = K(2) + f, d2 = f - (d - K(2)), inverse = K(1) / d;
  const V s = f * inverse, s2 = (fused(-s, d, f) - s * d2) * inverse;
{cube}
  const V u = K({first[0]}) + w, u2 = (K({first[0]}) - u) + w + (w2 + K({first[1]}));
  const V g = s * u, g2 = fused(s, u, -g) + (s * u2 + s2 * u);
  const V h = n + g, h2 = (n - h) + g + g2;
  const V t = clamped(y, K({far[0]}), K({far[1]})), e = t * h, e2 = fused(t, h, -e) + t * h2;
  const V whole = clamped(e, K({low}), K({high})), k = nearest(whole), r = (whole - k) + (whole == e ? e2 : K(0));
{horner("q", "r", n.exp2)}
  return scaled(q * r + K(1), k);
}}
#else
HOT V power_of(V a, V y) {{
  V r; for (int l = 0; l < LANES; l++) r[l] = __builtin_pow{n.suffix}(a[l], y[l]); return r;
}}
#endif
"""


def power(n: Numbers) -> Function:
    """2 ulp. 2**(y log2 |x|), log2 as the sum of two numbers; what is special in a function of its own."""
    return Function(
        _core(n) + _SPECIAL.format(integers=n.integers) + _POW, ("fabs", "any", "nearest", "scaled", "fused")
    )
