"""Single instructions, and how vectors are laid out, as text of emitted C++: what functions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .numbers_cpp import Numbers


@dataclass(frozen=True)
class Function:
    """A function of vectors: its text, and the functions that the text calls."""

    text: str
    needs: tuple[str, ...] = ()


def horner(name: str, of: str, coefficients: Sequence[str], kind: str = "V", number: str = "K") -> str:
    """`V name = ...;`, a polynomial in `of`, lowest coefficient first; `kind` and `number` for other vectors."""
    lines = [f"  {kind} {name} = {number}({coefficients[-1]});"]
    lines += [f"  {name} = {name} * {of} + {number}({c});" for c in reversed(coefficients[:-1])]
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


def _rsqrt(n: Numbers) -> Function:
    """2 ulp. 1 / sqrt(x): 14 bits by an instruction, from which a polynomial in what the square of the result
    lacks gives the others. At 0 and infinity, and where there is no such instruction, the quotient."""
    rest = "e * K(0.5)" if n.s == "ps" else "e * (K(0.5) + e * (K(0.375) + e * K(0.3125)))"
    return Function(
        f"""\
HOT V rsqrt(V x) {{
#ifdef AVX512_BUILTINS
  const V y = __builtin_ia32_rsqrt14{n.s}512_mask(x, x, ({n.mask})-1), e = K(1) - (x * y) * y;
  return e == e ? y + y * ({rest}) : y;
#else
  return K(1) / sqrt(x);
#endif
}}
""",
        ("sqrt",),
    )


def _fused(n: Numbers) -> Function:
    """a b + c, rounded once; only where the instruction set has it. An expression may be rounded twice."""
    return Function(f"""\
#if defined(AVX512_BUILTINS)
HOT V fused(V a, V b, V c) {{ return __builtin_ia32_vfmadd{n.s}512_mask(a, b, c, ({n.mask})-1, 4); }}
#elif defined(__FMA__) && !defined(__AVX512F__) && !defined(__clang__)
HOT V fused(V a, V b, V c) {{ return __builtin_ia32_vfmadd{n.s}256(a, b, c); }}
#else
HOT V fused(V a, V b, V c) {{
  V y; for (int l = 0; l < LANES; l++) y[l] = __builtin_fma{n.suffix}(a[l], b[l], c[l]); return y;
}}
#endif
""")


def _signed_as(n: Numbers) -> Function:
    """A number that is not negative, with the sign of another."""
    return Function(f"""\
HOT V signed_as(V y, V x) {{ return (V)((I)y | ((I)x & ~KI({n.magnitude}))); }}
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


def instructions_of(n: Numbers) -> dict[str, Function]:
    """All by name; those that others need come before them."""
    return {
        "nearest": _nearest(n),
        **{f"unzip_{count}": _unzip(count) for count in range(1, UNZIPPED + 1)},
        "transpose": _TRANSPOSE,
        "any": _any(n),
        "any_exceeds": _any_exceeds(n),
        "fabs": Function(f"HOT V fabs(V x) {{ return (V)((I)x & KI({n.magnitude})); }}\n"),
        "signed_as": _signed_as(n),
        "fused": _fused(n),
        "scaled": _scaled(n),
        "sqrt": _sqrt(n),
        "rsqrt": _rsqrt(n),
        "finite_or_zero": _FINITE,
    }
