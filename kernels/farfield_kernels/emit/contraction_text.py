"""The fixed text of a kernel on tensor cores; `cuda_contraction.py` fills in what depends on the program."""

from __future__ import annotations

CONTRACTION = """\
// Farfield: {title}
typedef long long i64;
typedef double f64;
typedef float T;
typedef T V;
typedef int I;
#define K(a) ((T)(a))
#define KI(a) ((I)(a))
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define any(condition) (condition)
#define any_exceeds(a, b) (!((a) <= (b)))
#define ROWS {rows}
#define TILE {tile}
#define CHUNK {chunk}
#define DEPTH {depth}
#define STEP {step}
#define PITCH {pitch}
#define THREADS {threads}
#define RESIDENT {resident}
#define TEAM {team}
#define MERGERS {mergers}
#define COL_SLOTS {col_slots}
#define COMPONENTS {components}
#define SLOTS {slots}
#define QUADS (THREADS / TEAM)
#define SAMPLE 16

struct __align__(2 * sizeof(T)) Vector2 {{ T x, y; }};
struct __align__(16) Vector4 {{ T x, y, z, w; }};
static __device__ __forceinline__ i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
static __device__ __forceinline__ T finite_or_zero(T x) {{ return x - x == K(0) ? x : K(0); }}
{functions}
// What a vector is multiplied with before it becomes halves, and the products afterwards: powers of two that make
// its largest component 2^14 or more. The halves of what is not finite are NaN or infinite, and its products NaN.
struct Scale {{ float up, down; }};
static __device__ __forceinline__ Scale scale_of(float most) {{
  const int exponent = __float_as_int(most) >> 23, own = exponent < 15 ? 15 : exponent;
  return Scale{{__int_as_float((268 - own) << 23), __int_as_float((own - 14) << 23)}};
}}

// Of the four threads that share a vector.
static __device__ __forceinline__ float quad_sum(float x) {{
  x = x + __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}}
static __device__ __forceinline__ float quad_most(float x) {{
  x = larger_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return larger_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 2));
}}

// A float as two halves, which have 22 of its 24 bits: `first` with 11 of them, and what is left.
static __device__ __forceinline__ float first_half(float x) {{
  return __int_as_float((int)((__float_as_uint(x) + 0x1000u) & ~0x1fffu));
}}

typedef unsigned short Halves[PITCH];  // of one vector: first halves, and from DEPTH on second ones
{of_products}
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets{arguments}, f64 *partial) {{
  __shared__ __align__(16) T tile[CHUNK][COL_SLOTS];
{shared}
  const int team = TEAM, lane = threadIdx.x % TEAM, own = threadIdx.x / TEAM;
  const i64 own_rows = QUADS;
  const unsigned unit = (unsigned)(first + blockIdx.x), parts = (unsigned)splits;
  const i64 batch = unit / ((unsigned)row_blocks * parts), split = unit % parts;
  const i64 block = unit / parts % (unsigned)row_blocks;
  const i64 span = ((unsigned)((cols + 15) / 16) + parts - 1) / parts * (i64)16;
  const i64 *const entry = blocks + 4 * block;
  const i64 row_begin = blocks ? entry[0] : block * own_rows * ROWS;
  const i64 row_end = blocks ? entry[1] : smaller(rows, row_begin + own_rows * ROWS);
  const i64 range_begin = blocks ? entry[2] : 0, range_end = blocks ? entry[3] : 1;
  const i64 base = blocks ? 0 : split * span;
  i64 terms = 0;
{offsets}
{parameters}
{load_rows}
{measure_rows}
{begin}
  for (i64 range = range_begin; range < range_end; range++) {{
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    terms += col_end > col_begin ? col_end - col_begin : 0;
    for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {{
{new_lanes}
      for (i64 first_col = col0; first_col < smaller(col0 + TILE, col_end); first_col += CHUNK) {{
        const int count = (int)smaller(CHUNK, col_end - first_col);
        __syncthreads();
        if (const int q = threadIdx.x; q < CHUNK) {{
          const i64 col = smaller(first_col + q, col_end - 1);
{load_cols}
        }}
{elements}
{fold}
      }}
{flush}    }}
  }}
{gather}
{store}
}}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms{out_arguments}, f64 *partial) {{
{merge_splits}
}}
"""

MULTIPLY = """\

// elements += rows x columns, for DEPTH components. Products of first and second halves come first, as they are
// small: sums are cut off after each step, not rounded.
static __device__ __forceinline__ void multiply(float (&elements)[ROWS / 2][CHUNK / 8][4], const Halves *of_rows,
                                                const Halves *of_cols) {
  const int thread = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int k = 0; k < DEPTH; k += STEP) {
    unsigned a[2][ROWS / 2][STEP / 16][4];
#pragma unroll
    for (int part = 0; part < 2; part++)
#pragma unroll
      for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
        for (int s = 0; s < STEP / 16; s++) {
          const int row = warp * 8 + thread % 8 + (2 * m + thread / 8 % 2) * QUADS;
          ldmatrix_x4(a[part][m][s], &of_rows[row][part * DEPTH + k + 16 * s + thread / 16 * 8]);
        }
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++) {
      unsigned b[2][STEP / 16][2];
#pragma unroll
      for (int s = 0; s < STEP / 16; s++) {
        unsigned both[4];
        ldmatrix_x4(both, &of_cols[8 * n + thread % 8][thread / 16 * DEPTH + k + 16 * s + thread / 8 % 2 * 8]);
        b[0][s][0] = both[0], b[0][s][1] = both[1], b[1][s][0] = both[2], b[1][s][1] = both[3];
      }
#pragma unroll
      for (int m = 0; m < ROWS / 2; m++) {
        float c[4] = {0, 0, 0, 0};
#pragma unroll
        for (int s = 0; s < STEP / 16; s++) {
          mma_m16n8k16_f16(c, a[1][m][s], b[0][s]);
          mma_m16n8k16_f16(c, a[0][m][s], b[1][s]);
        }
#pragma unroll
        for (int s = 0; s < STEP / 16; s++) mma_m16n8k16_f16(c, a[0][m][s], b[0][s]);
#pragma unroll
        for (int e = 0; e < 4; e++) elements[m][n][e] += c[e];
      }
    }
  }
}
"""

OF_ONE = """\

// {what}: the largest component and the sum of squares of a vector; its halves from component k0 on; the value of
// a pair, where that of the halves is not exact enough.
static __device__ __forceinline__ Scale measure{f}(const T *x{centre_argument}, int lane, float &norm) {{
  float most = 0, sum = 0;
#pragma unroll 4
  for (int k = lane; k < {dim}; k += TEAM) {{
    const float d = x[k]{minus_centre};
    most = larger_or_nan(most, fabs(d));
    sum = sum + d * d;
  }}
  norm = quad_sum(sum);
  return scale_of(quad_most(most));
}}
static __device__ __forceinline__ void halve{f}(const T *x{centre_argument}, int lane, int k0, float up,
                                             Halves &to) {{
#pragma unroll 2
  for (int q = 2 * lane; q < DEPTH; q += 2 * TEAM) {{
    float d[2], h[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {{
      const int k = k0 + q + e;
      d[e] = k < {dim} ? (x[k]{minus_centre}) * up : 0;
      h[e] = first_half(d[e]);
    }}
    *(unsigned *)&to[q] = half2_bits(h[0], h[1]);
    *(unsigned *)&to[DEPTH + q] = half2_bits(d[0] - h[0], d[1] - h[1]);
  }}
}}
static __device__ __forceinline__ float direct{f}(const T *x, const T *y) {{
  float sum = 0;
#pragma unroll 4
  for (int k = 0; k < {dim}; k++) {direct}
  return sum;
}}
"""
