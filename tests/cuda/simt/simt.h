// What CUDA gives its programs, for g++: the text that NVRTC compiles runs unchanged on the CPU, block after block,
// each thread of a block as a fiber. How fibers wait for each other is in simt.cpp; see README.md.

#pragma once
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

// -- the words of the language

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// In a section of its own, so that it can be filled before each block; emulator.py rewrites `extern __shared__`.
#define __shared__ static __attribute__((section("simt_shared")))

#define SIMT_VECTOR(T, name)                                                          \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                  \
  struct name##3 { T x, y, z; };                                                      \
  struct alignas(16) name##4 { T x, y, z, w; };                                       \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                   \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }           \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR(int, int)
SIMT_VECTOR(unsigned, uint)
SIMT_VECTOR(float, float)
SIMT_VECTOR(double, double)
SIMT_VECTOR(long long, longlong)

extern uint3 threadIdx, blockIdx, blockDim, gridDim;
enum { warpSize = 32 };

// -- threads that wait for each other

namespace simt {

extern char dynamic_shared[];

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void barrier(int line);
unsigned lane();

// Called by each lane of `mask`; when the last one came, `compute` is called once with what all lanes hand in, and all
// go on. Whole: the instruction wants the 32 lanes of a warp at the same place of the text.
using Compute = void (*)(void *const *operands, unsigned mask);
void collective(const char *what, int line, unsigned mask, bool whole, void *operand, Compute compute);

template <typename T> struct Shuffled { T value, result; unsigned from; };

template <typename T> T shuffle(const char *what, int line, unsigned mask, T value, unsigned from) {
  Shuffled<T> own = {value, value, from};
  collective(what, line, mask, false, &own, [](void *const *operands, unsigned mask) {
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) {
        Shuffled<T> &to = *(Shuffled<T> *)operands[i];
        if (!(mask >> to.from & 1)) fail("lane %d reads lane %u, which the mask %08x leaves out", i, to.from, mask);
        to.result = ((Shuffled<T> *)operands[to.from])->value;
      }
  });
  return own.result;
}

unsigned ballot(const char *what, int line, unsigned mask, bool predicate);

template <typename To, typename From> To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename T, typename Change> T atomic(T *address, Change change) {
  const T before = *address;  // no other thread runs meanwhile
  *address = change(before);
  return before;
}

}  // namespace simt

#define SIMT_LINE int line = __builtin_LINE()

static inline void __syncthreads(SIMT_LINE) { simt::barrier(line); }
static inline void __syncwarp(unsigned mask = ~0u, SIMT_LINE) {
  simt::collective("__syncwarp", line, mask, false, nullptr, [](void *const *, unsigned) {});
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_LINE) {
  return simt::ballot("__ballot_sync", line, mask, predicate);
}
static inline int __any_sync(unsigned mask, int predicate, SIMT_LINE) {
  return simt::ballot("__any_sync", line, mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, SIMT_LINE) {
  return simt::ballot("__all_sync", line, mask, predicate) == mask;
}
template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32, SIMT_LINE) {
  const unsigned first = simt::lane() & -width;
  return simt::shuffle("__shfl_sync", line, mask, value, first | (from & (width - 1)));
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_LINE) {
  const unsigned own = simt::lane(), first = own & -width;
  return simt::shuffle("__shfl_up_sync", line, mask, value, own >= first + delta ? own - delta : own);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_LINE) {
  const unsigned own = simt::lane(), last = own | (width - 1);
  return simt::shuffle("__shfl_down_sync", line, mask, value, own + delta <= last ? own + delta : own);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, unsigned with, int width = 32, SIMT_LINE) {
  const unsigned own = simt::lane(), last = own | (width - 1);
  return simt::shuffle("__shfl_xor_sync", line, mask, value, (own ^ with) <= last ? own ^ with : own);
}

// -- memory

static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <typename T> T __ldg(const T *address) { return *address; }

// The second argument is converted to the first one's type, as by CUDA's overloads.
#define SIMT_SAME(T) std::common_type_t<T>
#define SIMT_ATOMIC(name, after)                                                     \
  template <typename T> T name(T *address, SIMT_SAME(T) value) {                     \
    return simt::atomic(address, [=](T before) -> T { return after; });              \
  }
SIMT_ATOMIC(atomicAdd, before + value)
SIMT_ATOMIC(atomicSub, before - value)
SIMT_ATOMIC(atomicMax, before > value ? before : value)
SIMT_ATOMIC(atomicMin, before < value ? before : value)
SIMT_ATOMIC(atomicAnd, before & value)
SIMT_ATOMIC(atomicOr, before | value)
SIMT_ATOMIC(atomicExch, value)
SIMT_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
template <typename T> T atomicCAS(T *address, SIMT_SAME(T) compare, SIMT_SAME(T) value) {
  return simt::atomic(address, [=](T before) { return before == compare ? value : before; });
}

// -- numbers

using std::acos, std::asin, std::atan, std::atan2, std::cbrt, std::ceil, std::copysign, std::cos, std::cosh, std::erf;
using std::erfc, std::exp, std::exp2, std::expm1, std::fabs, std::floor, std::fma, std::fmax, std::fmin, std::fmod;
using std::hypot, std::isfinite, std::isinf, std::isnan, std::lgamma, std::log, std::log10, std::log1p, std::log2;
using std::pow, std::rint, std::round, std::sin, std::sinh, std::sqrt, std::tan, std::tanh, std::trunc;

static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
template <typename A, typename B> std::common_type_t<A, B> min(A a, B b) {
  return (std::common_type_t<A, B>)b < (std::common_type_t<A, B>)a ? b : a;
}
template <typename A, typename B> std::common_type_t<A, B> max(A a, B b) {
  return (std::common_type_t<A, B>)a < (std::common_type_t<A, B>)b ? b : a;
}
static inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned umax(unsigned a, unsigned b) { return a < b ? b : a; }
static inline int __float_as_int(float x) { return simt::bits<int>(x); }
static inline float __int_as_float(int x) { return simt::bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return simt::bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return simt::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return simt::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return simt::bits<double>(x); }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
// Rounded downwards.
static inline float __fadd_rd(float a, float b) {
  const float sum = a + b;
  return (double)sum > (double)a + b ? std::nextafter(sum, -INFINITY) : sum;
}
static inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) exp2f((x) * 1.4426950408889634f)  // the C library declares functions of these names
#define __logf(x) (log2f(x) * 0.6931471805599453f)
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

// -- in place of kernels/farfield_kernels/emit/intrinsics.py, with the same names and arguments

void mma_m16n8k16_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SIMT_LINE);
void mma_m16n8k8_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SIMT_LINE);
void ldmatrix_x2(unsigned (&r)[2], const void *row, SIMT_LINE);
void ldmatrix_x2_trans(unsigned (&r)[2], const void *row, SIMT_LINE);
void ldmatrix_x4(unsigned (&r)[4], const void *row, SIMT_LINE);
void ldmatrix_x4_trans(unsigned (&r)[4], const void *row, SIMT_LINE);
void cp_async_16(void *shared, const void *global, int bytes = 16, SIMT_LINE);
void cp_async_4(void *shared, const void *global, int bytes = 4, SIMT_LINE);
void cp_async_commit();
namespace simt { void cp_async_wait(int pending); }
template <int pending> void cp_async_wait() { simt::cp_async_wait(pending); }
unsigned half2_bits(float low, float high);
void half2_floats(unsigned bits, float &low, float &high);
unsigned tf32_bits(float x);
static inline float simt_flushed(float x) { return std::fabs(x) < 0x1p-126f ? x * 0 : x; }
static inline float larger_or_nan(float a, float b) { return (a > b) | (a != a) ? a : b; }
static inline float smaller_or_nan(float a, float b) { return (a < b) | (a != a) ? a : b; }
static inline float ex2_approx(float x) { return simt_flushed(std::exp2(simt_flushed(x))); }

// -- kernels

extern char __start_simt_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_simt_shared[] __attribute__((weak, visibility("hidden")));

namespace simt {

struct Kernel {
  void (*call)(void *const *arguments);
  std::vector<size_t> sizes;  // of the arguments, in bytes
  char *shared, *shared_end;  // of all kernels of the text
};

template <auto kernel> struct Entry;
template <typename... A, void (*kernel)(A...)> struct Entry<kernel> {
  static Kernel make() { return {call, {sizeof(A)...}, __start_simt_shared, __stop_simt_shared}; }
  static void call(void *const *arguments) { spread(arguments, std::index_sequence_for<A...>()); }
  template <size_t... place> static void spread(void *const *arguments, std::index_sequence<place...>) {
    kernel(*static_cast<std::remove_const_t<A> *>(arguments[place])...);
  }
};

}  // namespace simt

// Stands after the emitted text.
#define SIMT_KERNEL(name)              \
  extern "C" simt::Kernel simt_##name; \
  simt::Kernel simt_##name = simt::Entry<name>::make();
