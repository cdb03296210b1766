// Farfield: Sum over columns, rows are i
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
#define CHUNK 2
#define COL_SLOTS 5
#define COMPONENTS 4
#define SLOTS 1
#define OVER_ROWS 0

static __device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
static __device__ __forceinline__ T finite_or_zero(T x) { return x - x == K(0) ? x : K(0); }
static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }

extern "C" __global__ void __launch_bounds__(128)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, const T *__restrict__ b3, const T *__restrict__ b4, T *__restrict__ o0, f64 *__restrict__ o1, f64 *partial) {
  __shared__ __align__(16) T tile[TILE][COL_SLOTS];
  const i64 unit = first + blockIdx.x;
  const i64 batch = unit / (row_blocks * splits), block = unit / splits % row_blocks, split = unit % splits;
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 *const entry = blocks + 4 * block;
  const i64 row_begin = blocks ? entry[0] : block * blockDim.x * ROWS;
  const i64 row_end = blocks ? entry[1] : smaller(rows, row_begin + (i64)blockDim.x * ROWS);
  const i64 range_begin = blocks ? entry[2] : 0, range_end = blocks ? entry[3] : 1;
  i64 terms = 0;
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 5 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 5 + 1] : 0);
  const T *__restrict__ a2 = b2 + (offsets ? offsets[batch * 5 + 2] : 0);
  const T *__restrict__ a3 = b3 + (offsets ? offsets[batch * 5 + 3] : 0);
  const T *__restrict__ a4 = b4 + (offsets ? offsets[batch * 5 + 4] : 0);
  const V v3 = a3[0];
  const i64 row0 = smaller(row_begin + threadIdx.x + 0 * (i64)blockDim.x, row_end - 1);
  const V v0_0 = a4[(row0) * 3 + 0];
  const V v1_0 = a4[(row0) * 3 + 1];
  const V v2_0 = a4[(row0) * 3 + 2];
  const V v10_0 = a0[(row0) * 3 + 0];
  const V v11_0 = a0[(row0) * 3 + 1];
  const V v12_0 = a0[(row0) * 3 + 2];
  const i64 row1 = smaller(row_begin + threadIdx.x + 1 * (i64)blockDim.x, row_end - 1);
  const V v0_1 = a4[(row1) * 3 + 0];
  const V v1_1 = a4[(row1) * 3 + 1];
  const V v2_1 = a4[(row1) * 3 + 2];
  const V v10_1 = a0[(row1) * 3 + 0];
  const V v11_1 = a0[(row1) * 3 + 1];
  const V v12_1 = a0[(row1) * 3 + 2];
  const i64 row2 = smaller(row_begin + threadIdx.x + 2 * (i64)blockDim.x, row_end - 1);
  const V v0_2 = a4[(row2) * 3 + 0];
  const V v1_2 = a4[(row2) * 3 + 1];
  const V v2_2 = a4[(row2) * 3 + 2];
  const V v10_2 = a0[(row2) * 3 + 0];
  const V v11_2 = a0[(row2) * 3 + 1];
  const V v12_2 = a0[(row2) * 3 + 2];
  const i64 row3 = smaller(row_begin + threadIdx.x + 3 * (i64)blockDim.x, row_end - 1);
  const V v0_3 = a4[(row3) * 3 + 0];
  const V v1_3 = a4[(row3) * 3 + 1];
  const V v2_3 = a4[(row3) * 3 + 2];
  const V v10_3 = a0[(row3) * 3 + 0];
  const V v11_3 = a0[(row3) * 3 + 1];
  const V v12_3 = a0[(row3) * 3 + 2];
  f64 w_s[COMPONENTS][ROWS];
  #pragma unroll
  for (int o = 0; o < COMPONENTS; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_s[o][r] = K(0);
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
        const V v4 = a2[(col) * 1 + 0];
        const V v13 = a1[(col) * 3 + 0];
        const V v14 = a1[(col) * 3 + 1];
        const V v15 = a1[(col) * 3 + 2];
        const V v5 = v3 - v4;
        const V v6 = v5 * v5;
        const V v31 = K(2.0) * v5;
        tile[q][0] = v6;
        tile[q][1] = v13;
        tile[q][2] = v14;
        tile[q][3] = v15;
        tile[q][4] = v31;
      }
      __syncthreads();
      V s[COMPONENTS][ROWS];
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          s[o][r] = K(0);
        }
      #pragma unroll 4
      for (int c = 0; c < count; c++) {
        const V v6 = tile[c][0];
        const V v13 = tile[c][1];
        const V v14 = tile[c][2];
        const V v15 = tile[c][3];
        const V v31 = tile[c][4];
        {
          const V v7_0 = v0_0 * v6;
          const V v8_0 = v1_0 * v6;
          const V v9_0 = v2_0 * v6;
          const V v16_0 = v10_0 + v13;
          const V v17_0 = v11_0 + v14;
          const V v18_0 = v12_0 + v15;
          const V v19_0 = exp(v16_0);
          const V v20_0 = exp(v17_0);
          const V v21_0 = exp(v18_0);
          const V v22_0 = v7_0 * v19_0;
          const V v23_0 = v8_0 * v20_0;
          const V v24_0 = v9_0 * v21_0;
          const V v25_0 = v0_0 * v19_0;
          const V v26_0 = v1_0 * v20_0;
          const V v27_0 = v2_0 * v21_0;
          const V v28_0 = v25_0 + v26_0;
          const V v29_0 = v28_0 + v27_0;
          const V v32_0 = v29_0 * v31;
          {
            s[0][0] = s[0][0] + v22_0;
          }
          {
            s[1][0] = s[1][0] + v23_0;
          }
          {
            s[2][0] = s[2][0] + v24_0;
          }
          {
            s[3][0] = s[3][0] + v32_0;
          }
        }
        {
          const V v7_1 = v0_1 * v6;
          const V v8_1 = v1_1 * v6;
          const V v9_1 = v2_1 * v6;
          const V v16_1 = v10_1 + v13;
          const V v17_1 = v11_1 + v14;
          const V v18_1 = v12_1 + v15;
          const V v19_1 = exp(v16_1);
          const V v20_1 = exp(v17_1);
          const V v21_1 = exp(v18_1);
          const V v22_1 = v7_1 * v19_1;
          const V v23_1 = v8_1 * v20_1;
          const V v24_1 = v9_1 * v21_1;
          const V v25_1 = v0_1 * v19_1;
          const V v26_1 = v1_1 * v20_1;
          const V v27_1 = v2_1 * v21_1;
          const V v28_1 = v25_1 + v26_1;
          const V v29_1 = v28_1 + v27_1;
          const V v32_1 = v29_1 * v31;
          {
            s[0][1] = s[0][1] + v22_1;
          }
          {
            s[1][1] = s[1][1] + v23_1;
          }
          {
            s[2][1] = s[2][1] + v24_1;
          }
          {
            s[3][1] = s[3][1] + v32_1;
          }
        }
        {
          const V v7_2 = v0_2 * v6;
          const V v8_2 = v1_2 * v6;
          const V v9_2 = v2_2 * v6;
          const V v16_2 = v10_2 + v13;
          const V v17_2 = v11_2 + v14;
          const V v18_2 = v12_2 + v15;
          const V v19_2 = exp(v16_2);
          const V v20_2 = exp(v17_2);
          const V v21_2 = exp(v18_2);
          const V v22_2 = v7_2 * v19_2;
          const V v23_2 = v8_2 * v20_2;
          const V v24_2 = v9_2 * v21_2;
          const V v25_2 = v0_2 * v19_2;
          const V v26_2 = v1_2 * v20_2;
          const V v27_2 = v2_2 * v21_2;
          const V v28_2 = v25_2 + v26_2;
          const V v29_2 = v28_2 + v27_2;
          const V v32_2 = v29_2 * v31;
          {
            s[0][2] = s[0][2] + v22_2;
          }
          {
            s[1][2] = s[1][2] + v23_2;
          }
          {
            s[2][2] = s[2][2] + v24_2;
          }
          {
            s[3][2] = s[3][2] + v32_2;
          }
        }
        {
          const V v7_3 = v0_3 * v6;
          const V v8_3 = v1_3 * v6;
          const V v9_3 = v2_3 * v6;
          const V v16_3 = v10_3 + v13;
          const V v17_3 = v11_3 + v14;
          const V v18_3 = v12_3 + v15;
          const V v19_3 = exp(v16_3);
          const V v20_3 = exp(v17_3);
          const V v21_3 = exp(v18_3);
          const V v22_3 = v7_3 * v19_3;
          const V v23_3 = v8_3 * v20_3;
          const V v24_3 = v9_3 * v21_3;
          const V v25_3 = v0_3 * v19_3;
          const V v26_3 = v1_3 * v20_3;
          const V v27_3 = v2_3 * v21_3;
          const V v28_3 = v25_3 + v26_3;
          const V v29_3 = v28_3 + v27_3;
          const V v32_3 = v29_3 * v31;
          {
            s[0][3] = s[0][3] + v22_3;
          }
          {
            s[1][3] = s[1][3] + v23_3;
          }
          {
            s[2][3] = s[2][3] + v24_3;
          }
          {
            s[3][3] = s[3][3] + v32_3;
          }
        }
      }
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_s;
          l_s = (f64)s[o][r];
          w_s[o][r] += l_s;
        }
    }
  }
  if (row_begin + threadIdx.x + 0 * (i64)blockDim.x < row_end) {
    const i64 row = row0;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][0]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (f64)(w_s[o][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[o][0];
      }
    }
  }
  if (row_begin + threadIdx.x + 1 * (i64)blockDim.x < row_end) {
    const i64 row = row1;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][1]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (f64)(w_s[o][1]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[o][1];
      }
    }
  }
  if (row_begin + threadIdx.x + 2 * (i64)blockDim.x < row_end) {
    const i64 row = row2;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][2]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (f64)(w_s[o][2]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[o][2];
      }
    }
  }
  if (row_begin + threadIdx.x + 3 * (i64)blockDim.x < row_end) {
    const i64 row = row3;
    if (splits == 1 && !OVER_ROWS) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][3]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (f64)(w_s[o][3]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[o][3];
      }
    }
  }
}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, T *__restrict__ o0, f64 *__restrict__ o1, f64 *partial) {
  const i64 at_row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at_row >= batches * rows) return;
  const i64 batch = at_row / rows, row = at_row % rows;
  for (int o = 0; o < COMPONENTS; o++) {
    f64 w_s;
    w_s = K(0);
    for (i64 split = 0; split < splits; split++) {
      f64 l_s;
      l_s = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      w_s += l_s;
    }
    if (o >= 0 && o < 3) {
      (o0 + at_row * 3)[o] = (T)(w_s);
    }
    if (o >= 3 && o < 4) {
      (o1 + at_row * 1)[o - 3] = (f64)(w_s);
    }
  }
}
