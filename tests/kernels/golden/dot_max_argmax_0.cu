// Farfield: Max_ArgMax over columns, rows are i
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
#define ROWS 4
#define TILE 128
#define CHUNK 8
#define COL_SLOTS 2
#define COMPONENTS 1
#define SLOTS 2
#define OVER_ROWS 0

static __device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
static __device__ __forceinline__ T finite_or_zero(T x) { return x - x == K(0) ? x : K(0); }
static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }

extern "C" __global__ void __launch_bounds__(128)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, T *__restrict__ o0, i64 *__restrict__ o1, f64 *partial) {
  __shared__ __align__(16) T tile[TILE][COL_SLOTS];
  const i64 unit = first + blockIdx.x;
  const i64 batch = unit / (row_blocks * splits), block = unit / splits % row_blocks, split = unit % splits;
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 *const entry = blocks + 4 * block;
  const i64 row_begin = blocks ? entry[0] : block * blockDim.x * ROWS;
  const i64 row_end = blocks ? entry[1] : smaller(rows, row_begin + (i64)blockDim.x * ROWS);
  const i64 range_begin = blocks ? entry[2] : 0, range_end = blocks ? entry[3] : 1;
  i64 terms = 0;
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 2 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 2 + 1] : 0);

  const i64 row0 = smaller(row_begin + threadIdx.x + 0 * (i64)blockDim.x, row_end - 1);
  const V v0_0 = a0[(row0) * 2 + 0];
  const V v1_0 = a0[(row0) * 2 + 1];
  const i64 row1 = smaller(row_begin + threadIdx.x + 1 * (i64)blockDim.x, row_end - 1);
  const V v0_1 = a0[(row1) * 2 + 0];
  const V v1_1 = a0[(row1) * 2 + 1];
  const i64 row2 = smaller(row_begin + threadIdx.x + 2 * (i64)blockDim.x, row_end - 1);
  const V v0_2 = a0[(row2) * 2 + 0];
  const V v1_2 = a0[(row2) * 2 + 1];
  const i64 row3 = smaller(row_begin + threadIdx.x + 3 * (i64)blockDim.x, row_end - 1);
  const V v0_3 = a0[(row3) * 2 + 0];
  const V v1_3 = a0[(row3) * 2 + 1];
  f64 w_m[COMPONENTS][ROWS];
  f64 w_k[COMPONENTS][ROWS];
  #pragma unroll
  for (int o = 0; o < COMPONENTS; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_m[o][r] = K(-INF);
      w_k[o][r] = KI(-1);
    }
  for (i64 range = range_begin; range < range_end; range++) {
    const i64 col_begin = blocks ? ranges[2 * range] : split * span;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(col_begin + span, cols);
    terms += col_end > col_begin ? col_end - col_begin : 0;
    for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {
      const int count = (int)smaller(col_end - col0, TILE);
      __syncthreads();
      for (int q = threadIdx.x; q < count; q += blockDim.x) {
        const i64 col = col0 + q;
        const V v2 = a1[(col) * 2 + 0];
        const V v3 = a1[(col) * 2 + 1];
        tile[q][0] = v2;
        tile[q][1] = v3;
      }
      __syncthreads();
      V m[COMPONENTS][ROWS];
      I k[COMPONENTS][ROWS];
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          m[o][r] = K(-INF);
          k[o][r] = KI(-1);
        }
      #pragma unroll 4
      for (int c = 0; c < count; c++) {
        const V v2 = tile[c][0];
        const V v3 = tile[c][1];
        {
          const V v4_0 = v0_0 * v2;
          const V v5_0 = v1_0 * v3 + v4_0;
          {
            const auto w = !(v5_0 <= m[0][0]) & (m[0][0] == m[0][0]); m[0][0] = w ? v5_0 : m[0][0]; k[0][0] = w ? KI(c) : k[0][0];
          }
        }
        {
          const V v4_1 = v0_1 * v2;
          const V v5_1 = v1_1 * v3 + v4_1;
          {
            const auto w = !(v5_1 <= m[0][1]) & (m[0][1] == m[0][1]); m[0][1] = w ? v5_1 : m[0][1]; k[0][1] = w ? KI(c) : k[0][1];
          }
        }
        {
          const V v4_2 = v0_2 * v2;
          const V v5_2 = v1_2 * v3 + v4_2;
          {
            const auto w = !(v5_2 <= m[0][2]) & (m[0][2] == m[0][2]); m[0][2] = w ? v5_2 : m[0][2]; k[0][2] = w ? KI(c) : k[0][2];
          }
        }
        {
          const V v4_3 = v0_3 * v2;
          const V v5_3 = v1_3 * v3 + v4_3;
          {
            const auto w = !(v5_3 <= m[0][3]) & (m[0][3] == m[0][3]); m[0][3] = w ? v5_3 : m[0][3]; k[0][3] = w ? KI(c) : k[0][3];
          }
        }
      }
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_m;
          l_m = (f64)m[o][r];
          f64 l_k;
          l_k = k[o][r] < 0 ? -1 : f64(col0 + k[o][r]);
          if (l_m > w_m[o][r] || (l_m != l_m && w_m[o][r] == w_m[o][r])) { w_m[o][r] = l_m; w_k[o][r] = l_k; }
        }
    }
  }
  if (row_begin + threadIdx.x + 0 * (i64)blockDim.x < row_end) {
    const i64 row = row0;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(w_m[o][0]);
      }
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o1 + at_row * 1)[o] = (i64)(w_k[o][0] < 0 && terms > 0 ? 0 : w_k[o][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][0];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_k[o][0];
      }
    }
  }
  if (row_begin + threadIdx.x + 1 * (i64)blockDim.x < row_end) {
    const i64 row = row1;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(w_m[o][1]);
      }
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o1 + at_row * 1)[o] = (i64)(w_k[o][1] < 0 && terms > 0 ? 0 : w_k[o][1]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][1];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_k[o][1];
      }
    }
  }
  if (row_begin + threadIdx.x + 2 * (i64)blockDim.x < row_end) {
    const i64 row = row2;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(w_m[o][2]);
      }
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o1 + at_row * 1)[o] = (i64)(w_k[o][2] < 0 && terms > 0 ? 0 : w_k[o][2]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][2];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_k[o][2];
      }
    }
  }
  if (row_begin + threadIdx.x + 3 * (i64)blockDim.x < row_end) {
    const i64 row = row3;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(w_m[o][3]);
      }
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o1 + at_row * 1)[o] = (i64)(w_k[o][3] < 0 && terms > 0 ? 0 : w_k[o][3]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][3];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_k[o][3];
      }
    }
  }
}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, T *__restrict__ o0, i64 *__restrict__ o1, f64 *partial) {
  const i64 at_row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at_row >= batches * rows) return;
  const i64 batch = at_row / rows, row = at_row % rows;
  for (int o = 0; o < COMPONENTS; o++) {
    f64 w_m;
    f64 w_k;
    w_m = K(-INF);
    w_k = KI(-1);
    for (i64 split = 0; split < splits; split++) {
      f64 l_m;
      l_m = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      f64 l_k;
      l_k = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row];
      if (l_m > w_m || (l_m != l_m && w_m == w_m)) { w_m = l_m; w_k = l_k; }
    }
    if (o >= 0 && o < 1) {
      (o0 + at_row * 1)[o] = (T)(w_m);
    }
    if (o >= 0 && o < 1) {
      (o1 + at_row * 1)[o] = (i64)(w_k < 0 && terms > 0 ? 0 : w_k);
    }
  }
}
