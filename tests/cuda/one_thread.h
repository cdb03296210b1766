// What CUDA gives its programs, for a C++ compiler: emitted CUDA text runs unchanged, blocks one after another with
// one thread each. Emitted kernels stride by blockDim, so one thread does the work of all. A tool of the tests: it
// shows that the arithmetic and the indices are right, and nothing about barriers or races.

#include <cmath>
#include <cstring>
#include <utility>

using std::acos;
using std::asin;
using std::atan;
using std::atan2;
using std::cbrt;
using std::ceil;
using std::cos;
using std::cosh;
using std::erf;
using std::erfc;
using std::exp;
using std::exp2;
using std::expm1;
using std::fabs;
using std::fmax;
using std::fmin;
using std::floor;
using std::hypot;
using std::lgamma;
using std::log;
using std::log10;
using std::log1p;
using std::log2;
using std::pow;
using std::rint;
using std::sin;
using std::sinh;
using std::sqrt;
using std::tanh;
using std::trunc;

static inline float rsqrt(float x) { return 1 / sqrt(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __syncthreads()

struct OneThreadIndex {
  unsigned x, y, z;
};
static OneThreadIndex threadIdx = {0, 0, 0}, blockIdx = {0, 0, 0}, blockDim = {1, 1, 1}, gridDim = {1, 1, 1};

static inline double __longlong_as_double(long long bits) {
  double number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

// Rounded downwards.
static inline float __fadd_rd(float a, float b) {
  const float sum = a + b;
  return (double)sum > (double)a + b ? std::nextafter(sum, -INFINITY) : sum;
}
static inline int __ffs(int x) { return __builtin_ffs(x); }

static inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// In place of kernels/farfield_kernels/emit/intrinsics.py.
static inline float larger_or_nan(float a, float b) { return (a > b) | (a != a) ? a : b; }
static inline float smaller_or_nan(float a, float b) { return (a < b) | (a != a) ? a : b; }
static inline float ex2_approx(float x) {
  const float y = exp2(x);
  return y < 0x1p-126f ? 0 * y : y;
}

template <typename... Arguments, std::size_t... place>
void one_thread_call(void (*kernel)(Arguments...), void *const *arguments, std::index_sequence<place...>) {
  kernel(*static_cast<Arguments *>(arguments[place])...);
}

template <typename... Arguments>
void one_thread_grid(void (*kernel)(Arguments...), unsigned x, unsigned y, void *const *arguments) {
  gridDim = {x, y, 1};
  for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
      one_thread_call(kernel, arguments, std::make_index_sequence<sizeof...(Arguments)>());
}

// As cuLaunchKernel: a grid, and one pointer to each argument. Stands after the emitted text.
#define ONE_THREAD_LAUNCH(kernel)                                                        \
  extern "C" void launch_##kernel(unsigned x, unsigned y, void *const *arguments) {      \
    one_thread_grid(kernel, x, y, arguments);                                            \
  }
