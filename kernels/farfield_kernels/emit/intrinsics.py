"""Names -> CUDA text: functions for instructions that CUDA C++ has none for, as inline PTX.

A kernel's text holds those that it calls; the emulator of the tests gives functions of the same names in their
place. A tile of `mma` is spread over the 32 lanes of a warp as the PTX ISA says; accumulators are added to.
"""

from __future__ import annotations

from collections.abc import Iterable

_HEAD = "static __device__ __forceinline__"


def _mma(name: str, types: str) -> str:
    """c += a b, for one tile."""
    return f"""\
{_HEAD} void mma_{name}(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {{
  asm volatile("mma.sync.aligned.{name.split("_")[0]}.row.col.{types} "
               "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""


def _ldmatrix(count: int, trans: str = "") -> str:
    """Matrices of 8 x 8 halves: lane l hands in the address of row l; with `trans`, each lane gets columns."""
    results = ", ".join(f"%{k}" for k in range(count))
    registers = ", ".join(f'"=r"(r[{k}])' for k in range(count))
    return f"""\
{_HEAD} void ldmatrix_x{count}{trans}(unsigned (&r)[{count}], const void *row) {{
  asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans.replace("_", ".")}.shared.b16 {{{results}}}, [%{count}];"
               : {registers} : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}}
"""


def _cp_async(size: int, cache: str) -> str:
    """Begin a copy to shared memory; what lies beyond `bytes` is set to zero."""
    return f"""\
{_HEAD} void cp_async_{size}(void *shared, const void *global, int bytes = {size}) {{
  asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;"
               :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(bytes) : "memory");
}}
"""


def _extremum(name: str, word: str, better: str) -> str:
    """NaN if one of both is; before sm_80, by comparisons."""
    return f"""\
{_HEAD} float {name}(float a, float b) {{
#if __CUDA_ARCH__ >= 800
  float c;
  asm("{word}.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
#else
  return (a {better} b) | (a != a) ? a : b;
#endif
}}
"""


INTRINSICS = {
    "mma_m16n8k16_f16": _mma("m16n8k16_f16", "f32.f16.f16.f32"),
    "mma_m16n8k8_tf32": _mma("m16n8k8_tf32", "f32.tf32.tf32.f32"),
    "ldmatrix_x2": _ldmatrix(2),
    "ldmatrix_x2_trans": _ldmatrix(2, "_trans"),
    "ldmatrix_x4": _ldmatrix(4),
    "ldmatrix_x4_trans": _ldmatrix(4, "_trans"),
    "cp_async_4": _cp_async(4, "ca"),
    "cp_async_16": _cp_async(16, "cg"),
    "cp_async_commit": f"""\
{_HEAD} void cp_async_commit() {{ asm volatile("cp.async.commit_group;" ::: "memory"); }}
""",
    "cp_async_wait": f"""\
template <int pending> {_HEAD} void cp_async_wait() {{
  asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}}
""",
    "half2_bits": f"""\
{_HEAD} unsigned half2_bits(float low, float high) {{
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}}
""",
    "half2_floats": f"""\
{_HEAD} void half2_floats(unsigned bits, float &low, float &high) {{
  asm("{{\\n.reg .f16 l, h;\\nmov.b32 {{l, h}}, %2;\\ncvt.f32.f16 %0, l;\\ncvt.f32.f16 %1, h;\\n}}"
      : "=f"(low), "=f"(high) : "r"(bits));
}}
""",
    "tf32_bits": f"""\
{_HEAD} unsigned tf32_bits(float x) {{
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}}
""",
    "larger_or_nan": _extremum("larger_or_nan", "max", ">"),
    "smaller_or_nan": _extremum("smaller_or_nan", "min", "<"),
    "ex2_approx": f"""\
{_HEAD} float ex2_approx(float x) {{
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}}
""",
}


def intrinsics(names: Iterable[str]) -> str:
    """The texts of some, in a fixed order."""
    wanted = set(names)
    return "".join(text for name, text in INTRINSICS.items() if name in wanted)
