"""What emitted C++ begins with: types, and the functions it calls.

No header is included: that alone keeps compiling under 0.2 s.
"""

from __future__ import annotations

from .functions_cpp import functions_of

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
#define INLINE __attribute__((always_inline))
#define HOT static inline INLINE
HOT V K(T a) {{ return a - (V){{}}; }}
HOT I KI(IT a) {{ return a - (I){{}}; }}
template <class E> struct Entries {{
  E *p; i64 step;
  INLINE E &operator[](i64 q) const {{ return p[q * step]; }}
}};
struct Reads {{
  const T *p; i64 step;
  INLINE f64 operator[](i64 q) const {{ return p[q * step]; }}
}};
"""

C_TYPES = {"float32": ("float", "int"), "float64": ("double", "long long")}


def prelude(dtype: str, called: set[str]) -> str:
    """Types, and the functions in `called` with what they need, and no others: text that is not there need not be
    compiled."""
    T, I = C_TYPES[dtype]
    functions = functions_of(dtype)
    wanted = list(called & functions.keys())
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted.extend(functions[name].needs)
    texts = (function.text for name, function in functions.items() if name in needed)
    return TYPES.format(T=T, I=I) + "".join(texts)
