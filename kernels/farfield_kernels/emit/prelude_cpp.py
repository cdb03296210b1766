"""The functions that emitted C++ may call, as text. No header is included: that alone keeps compiling under 0.2 s.

`exp` is inlined: n = rint(x / ln 2), r = x - n ln 2 in two parts, a polynomial fitted to exp on |r| <= ln(2)/2 for
the least relative error, and 2^n multiplied in (in two halves where there is no scaling instruction, so that
results below the smallest normal number are right). It is exact at 0, 1 at most 1 ulp off elsewhere, and gives
inf, 0 and NaN where NumPy does. The other functions run the C library lane by lane.
"""

from __future__ import annotations

TYPES = """\
typedef long long i64;
typedef double f64;
typedef {T} T;
typedef {I} IT;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#ifndef __clang__
#define AVX512_BUILTINS  // clang has other names for these
#endif
enum {{ BYTES = 64 }};
#elif defined(__AVX__)
enum {{ BYTES = 32 }};
#else
enum {{ BYTES = 16 }};
#endif
typedef T V __attribute__((vector_size(BYTES)));
typedef IT I __attribute__((vector_size(BYTES)));
enum {{ LANES = BYTES / sizeof(T) }};
#define INF __builtin_inf()
#define HOT static inline __attribute__((always_inline))
HOT V K(T a) {{ return a - (V){{}}; }}
HOT I KI(IT a) {{ return a - (I){{}}; }}
template <class E> struct Entries {{
  E *p; i64 step;
  __attribute__((always_inline)) E &operator[](i64 q) const {{ return p[q * step]; }}
}};
"""

C_TYPES = {"float32": ("float", "int"), "float64": ("double", "long long")}

_EXP = """\
#ifdef AVX512_BUILTINS
HOT V scaled(V p, V n) {{ return __builtin_ia32_scalef{s}512_mask(p, n, p, ({mask})-1, 4); }}
HOT V nearest(V t) {{ return __builtin_ia32_rndscale{s}_mask(t, 8, t, ({mask})-1, 4); }}
HOT V clamped(V x) {{  // NaN, as the second operand, stays
  x = __builtin_ia32_min{s}512_mask(K({high}), x, x, ({mask})-1, 4);
  return __builtin_ia32_max{s}512_mask(K({low}), x, x, ({mask})-1, 4);
}}
#else
HOT V scaled(V p, V n) {{
  const I k = __builtin_convertvector(n, I), half = k >> 1;
  return p * (V)((half + {bias}) << {bits}) * (V)((k - half + {bias}) << {bits});
}}
HOT V nearest(V t) {{ const V magic = K({magic}); return (t + magic) - magic; }}
HOT V clamped(V x) {{
  x = K({high}) < x ? K({high}) : x;
  return x < K({low}) ? K({low}) : x;
}}
#endif
HOT V exp(V x) {{
  x = clamped(x);
  const V n = nearest(x * K({log2e}));
  const V r = (x - n * K({ln2_high})) - n * K({ln2_low});
{polynomial}
  return scaled((p * r + K(1)) * r + K(1), n);
}}
HOT f64 exp(f64 x) {{ return __builtin_exp(x); }}
"""


def _horner(coefficients: list[str]) -> str:
    lines = [f"  V p = K({coefficients[-1]});"]
    lines += [f"  p = p * r + K({c});" for c in reversed(coefficients[:-1])]
    return "\n".join(lines)


_EXP_FLOAT = _EXP.format(
    s="ps",
    mask="unsigned short",
    bias=127,
    bits=23,
    magic="12582912.0f",
    high="90.0f",
    low="-105.0f",
    log2e="1.44269504f",
    ln2_high="0.693359375f",
    ln2_low="-2.12194440e-4f",
    # largest relative error of the polynomial: 3.1e-9
    polynomial=_horner(
        ["0.49999993432f", "0.16666520397f", "0.041668390831f", "0.0083687453200f", "0.0013814537893f"]
    ),
)

_EXP_DOUBLE = _EXP.format(
    s="pd",
    mask="unsigned char",
    bias="1023LL",
    bits=52,
    magic="6755399441055744.0",
    high="710.0",
    low="-746.0",
    log2e="1.4426950408889634",
    ln2_high="0.693147180369123816490",
    ln2_low="1.90821492927058770002e-10",
    # largest relative error of the polynomial: 6.3e-17
    polynomial=_horner(
        [
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
        ]
    ),
)

_LANEWISE = """\
HOT V {name}(V x) {{ V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_{name}{suffix}(x[l]); return y; }}
"""

_SQRT = """\
#ifdef AVX512_BUILTINS
HOT V sqrt(V x) {{ return __builtin_ia32_sqrt{s}512_mask(x, x, ({mask})-1, 4); }}
#elif defined(__AVX__) && !defined(__AVX512F__)
HOT V sqrt(V x) {{ return __builtin_ia32_sqrt{s}256(x); }}
#else
HOT V sqrt(V x) {{ V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_sqrt{suffix}(x[l]); return y; }}
#endif
"""

_LANEWISE_OF_TWO = """\
HOT V {name}(V x, V n) {{
  V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_{name}{suffix}(x[l], n[l]); return y;
}}
"""

OF_ONE = (
    "log log1p log2 log10 exp2 expm1 sin cos asin acos atan sinh cosh tanh erf erfc lgamma cbrt "
    "ceil floor trunc rint"
).split()
OF_TWO = ("pow", "atan2", "hypot")

_FABS = "HOT V fabs(V x) {{ return (V)((I)x & KI({magnitude})); }}\n"
_FINITE = """\
HOT V finite_or_zero(V x) { return x - x == K(0) ? x : K(0); }
HOT f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }
"""
_ANY = """\
typedef i64 Bits __attribute__((vector_size(BYTES)));
HOT i64 any(I condition) {
  const Bits bits = (Bits)condition;
  i64 found = 0;
  for (int l = 0; l < BYTES / 8; l++) found |= bits[l];
  return found;
}
HOT bool any(bool condition) { return condition; }
"""
_LOG_WIDE = "HOT f64 log(f64 x) { return __builtin_log(x); }\n"
_SQRT_WIDE = "HOT f64 sqrt(f64 x) { return __builtin_sqrt(x); }\n"


def prelude(dtype: str, called: set[str]) -> str:
    """Types and the functions in `called`, and no others: text that is not there need not be compiled."""
    single = dtype == "float32"
    T, I = C_TYPES[dtype]
    suffix = "f" if single else ""
    s, mask = ("ps", "unsigned short") if single else ("pd", "unsigned char")
    functions = {
        "exp": _EXP_FLOAT if single else _EXP_DOUBLE,
        **{name: _LANEWISE.format(name=name, suffix=suffix) for name in OF_ONE},
        **{name: _LANEWISE_OF_TWO.format(name=name, suffix=suffix) for name in OF_TWO},
        "sqrt": _SQRT.format(s=s, mask=mask, suffix=suffix),
        "fabs": _FABS.format(magnitude="0x7fffffff" if single else "0x7fffffffffffffffLL"),
        "finite_or_zero": _FINITE,
        "any": _ANY,
    }
    functions["log"] += _LOG_WIDE
    functions["sqrt"] += _SQRT_WIDE
    return TYPES.format(T=T, I=I) + "".join(text for name, text in functions.items() if name in called)
