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
#define ROWS 2
#define TILE 128
#define CHUNK 1
#define COL_SLOTS 22
#define COMPONENTS 10
#define SLOTS 1
#define OVER_ROWS 0

static __device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
static __device__ __forceinline__ T finite_or_zero(T x) { return x - x == K(0) ? x : K(0); }
static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }

extern "C" __global__ void __launch_bounds__(128)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, T *__restrict__ o0, f64 *partial) {
  __shared__ __align__(16) T tile[TILE][COL_SLOTS];
  const i64 unit = first + blockIdx.x;
  const i64 batch = unit / (row_blocks * splits), block = unit / splits % row_blocks, split = unit % splits;
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 *const entry = blocks + 4 * block;
  const i64 row_begin = blocks ? entry[0] : block * blockDim.x * ROWS;
  const i64 row_end = blocks ? entry[1] : smaller(rows, row_begin + (i64)blockDim.x * ROWS);
  const i64 range_begin = blocks ? entry[2] : 0, range_end = blocks ? entry[3] : 1;
  i64 terms = 0;
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 3 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 3 + 1] : 0);
  const T *__restrict__ a2 = b2 + (offsets ? offsets[batch * 3 + 2] : 0);
  const V v60 = K(-1) * K(1.4426950408889634);
  const V v61 = v60 - v60 == K(0) ? v60 : K(-1);
  const i64 row0 = smaller(row_begin + threadIdx.x + 0 * (i64)blockDim.x, row_end - 1);
  const V v0_0 = a0[(row0) * 12 + 0];
  const V v1_0 = a0[(row0) * 12 + 1];
  const V v2_0 = a0[(row0) * 12 + 2];
  const V v3_0 = a0[(row0) * 12 + 3];
  const V v4_0 = a0[(row0) * 12 + 4];
  const V v5_0 = a0[(row0) * 12 + 5];
  const V v6_0 = a0[(row0) * 12 + 6];
  const V v7_0 = a0[(row0) * 12 + 7];
  const V v8_0 = a0[(row0) * 12 + 8];
  const V v9_0 = a0[(row0) * 12 + 9];
  const V v10_0 = a0[(row0) * 12 + 10];
  const V v11_0 = a0[(row0) * 12 + 11];
  const i64 row1 = smaller(row_begin + threadIdx.x + 1 * (i64)blockDim.x, row_end - 1);
  const V v0_1 = a0[(row1) * 12 + 0];
  const V v1_1 = a0[(row1) * 12 + 1];
  const V v2_1 = a0[(row1) * 12 + 2];
  const V v3_1 = a0[(row1) * 12 + 3];
  const V v4_1 = a0[(row1) * 12 + 4];
  const V v5_1 = a0[(row1) * 12 + 5];
  const V v6_1 = a0[(row1) * 12 + 6];
  const V v7_1 = a0[(row1) * 12 + 7];
  const V v8_1 = a0[(row1) * 12 + 8];
  const V v9_1 = a0[(row1) * 12 + 9];
  const V v10_1 = a0[(row1) * 12 + 10];
  const V v11_1 = a0[(row1) * 12 + 11];
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
        const V v12 = a1[(col) * 12 + 0];
        const V v13 = a1[(col) * 12 + 1];
        const V v14 = a1[(col) * 12 + 2];
        const V v15 = a1[(col) * 12 + 3];
        const V v16 = a1[(col) * 12 + 4];
        const V v17 = a1[(col) * 12 + 5];
        const V v18 = a1[(col) * 12 + 6];
        const V v19 = a1[(col) * 12 + 7];
        const V v20 = a1[(col) * 12 + 8];
        const V v21 = a1[(col) * 12 + 9];
        const V v22 = a1[(col) * 12 + 10];
        const V v23 = a1[(col) * 12 + 11];
        const V v64 = a2[(col) * 10 + 0];
        const V v65 = a2[(col) * 10 + 1];
        const V v66 = a2[(col) * 10 + 2];
        const V v67 = a2[(col) * 10 + 3];
        const V v68 = a2[(col) * 10 + 4];
        const V v69 = a2[(col) * 10 + 5];
        const V v70 = a2[(col) * 10 + 6];
        const V v71 = a2[(col) * 10 + 7];
        const V v72 = a2[(col) * 10 + 8];
        const V v73 = a2[(col) * 10 + 9];
        tile[q][0] = v12;
        tile[q][1] = v13;
        tile[q][2] = v14;
        tile[q][3] = v15;
        tile[q][4] = v16;
        tile[q][5] = v17;
        tile[q][6] = v18;
        tile[q][7] = v19;
        tile[q][8] = v20;
        tile[q][9] = v21;
        tile[q][10] = v22;
        tile[q][11] = v23;
        tile[q][12] = v64;
        tile[q][13] = v65;
        tile[q][14] = v66;
        tile[q][15] = v67;
        tile[q][16] = v68;
        tile[q][17] = v69;
        tile[q][18] = v70;
        tile[q][19] = v71;
        tile[q][20] = v72;
        tile[q][21] = v73;
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
        const V v12 = tile[c][0];
        const V v13 = tile[c][1];
        const V v14 = tile[c][2];
        const V v15 = tile[c][3];
        const V v16 = tile[c][4];
        const V v17 = tile[c][5];
        const V v18 = tile[c][6];
        const V v19 = tile[c][7];
        const V v20 = tile[c][8];
        const V v21 = tile[c][9];
        const V v22 = tile[c][10];
        const V v23 = tile[c][11];
        const V v64 = tile[c][12];
        const V v65 = tile[c][13];
        const V v66 = tile[c][14];
        const V v67 = tile[c][15];
        const V v68 = tile[c][16];
        const V v69 = tile[c][17];
        const V v70 = tile[c][18];
        const V v71 = tile[c][19];
        const V v72 = tile[c][20];
        const V v73 = tile[c][21];
        {
          const V v24_0 = v0_0 - v12;
          const V v25_0 = v1_0 - v13;
          const V v26_0 = v2_0 - v14;
          const V v27_0 = v3_0 - v15;
          const V v28_0 = v4_0 - v16;
          const V v29_0 = v5_0 - v17;
          const V v30_0 = v6_0 - v18;
          const V v31_0 = v7_0 - v19;
          const V v32_0 = v8_0 - v20;
          const V v33_0 = v9_0 - v21;
          const V v34_0 = v10_0 - v22;
          const V v35_0 = v11_0 - v23;
          const V v36_0 = v24_0 * v24_0;
          const V v37_0 = v25_0 * v25_0;
          const V v38_0 = v26_0 * v26_0;
          const V v39_0 = v27_0 * v27_0;
          const V v40_0 = v28_0 * v28_0;
          const V v41_0 = v29_0 * v29_0;
          const V v42_0 = v30_0 * v30_0;
          const V v43_0 = v31_0 * v31_0;
          const V v44_0 = v32_0 * v32_0;
          const V v45_0 = v33_0 * v33_0;
          const V v46_0 = v34_0 * v34_0;
          const V v47_0 = v35_0 * v35_0;
          const V v48_0 = v36_0 + v37_0;
          const V v49_0 = v48_0 + v38_0;
          const V v50_0 = v49_0 + v39_0;
          const V v51_0 = v50_0 + v40_0;
          const V v52_0 = v51_0 + v41_0;
          const V v53_0 = v52_0 + v42_0;
          const V v54_0 = v53_0 + v43_0;
          const V v55_0 = v54_0 + v44_0;
          const V v56_0 = v55_0 + v45_0;
          const V v57_0 = v56_0 + v46_0;
          const V v58_0 = v57_0 + v47_0;
          const V v62_0 = v61 * v58_0;
          const V v63_0 = exp2(v62_0);
          const V v74_0 = v63_0 * v64;
          const V v75_0 = v63_0 * v65;
          const V v76_0 = v63_0 * v66;
          const V v77_0 = v63_0 * v67;
          const V v78_0 = v63_0 * v68;
          const V v79_0 = v63_0 * v69;
          const V v80_0 = v63_0 * v70;
          const V v81_0 = v63_0 * v71;
          const V v82_0 = v63_0 * v72;
          const V v83_0 = v63_0 * v73;
          {
            s[0][0] = s[0][0] + v74_0;
          }
          {
            s[1][0] = s[1][0] + v75_0;
          }
          {
            s[2][0] = s[2][0] + v76_0;
          }
          {
            s[3][0] = s[3][0] + v77_0;
          }
          {
            s[4][0] = s[4][0] + v78_0;
          }
          {
            s[5][0] = s[5][0] + v79_0;
          }
          {
            s[6][0] = s[6][0] + v80_0;
          }
          {
            s[7][0] = s[7][0] + v81_0;
          }
          {
            s[8][0] = s[8][0] + v82_0;
          }
          {
            s[9][0] = s[9][0] + v83_0;
          }
        }
        {
          const V v24_1 = v0_1 - v12;
          const V v25_1 = v1_1 - v13;
          const V v26_1 = v2_1 - v14;
          const V v27_1 = v3_1 - v15;
          const V v28_1 = v4_1 - v16;
          const V v29_1 = v5_1 - v17;
          const V v30_1 = v6_1 - v18;
          const V v31_1 = v7_1 - v19;
          const V v32_1 = v8_1 - v20;
          const V v33_1 = v9_1 - v21;
          const V v34_1 = v10_1 - v22;
          const V v35_1 = v11_1 - v23;
          const V v36_1 = v24_1 * v24_1;
          const V v37_1 = v25_1 * v25_1;
          const V v38_1 = v26_1 * v26_1;
          const V v39_1 = v27_1 * v27_1;
          const V v40_1 = v28_1 * v28_1;
          const V v41_1 = v29_1 * v29_1;
          const V v42_1 = v30_1 * v30_1;
          const V v43_1 = v31_1 * v31_1;
          const V v44_1 = v32_1 * v32_1;
          const V v45_1 = v33_1 * v33_1;
          const V v46_1 = v34_1 * v34_1;
          const V v47_1 = v35_1 * v35_1;
          const V v48_1 = v36_1 + v37_1;
          const V v49_1 = v48_1 + v38_1;
          const V v50_1 = v49_1 + v39_1;
          const V v51_1 = v50_1 + v40_1;
          const V v52_1 = v51_1 + v41_1;
          const V v53_1 = v52_1 + v42_1;
          const V v54_1 = v53_1 + v43_1;
          const V v55_1 = v54_1 + v44_1;
          const V v56_1 = v55_1 + v45_1;
          const V v57_1 = v56_1 + v46_1;
          const V v58_1 = v57_1 + v47_1;
          const V v62_1 = v61 * v58_1;
          const V v63_1 = exp2(v62_1);
          const V v74_1 = v63_1 * v64;
          const V v75_1 = v63_1 * v65;
          const V v76_1 = v63_1 * v66;
          const V v77_1 = v63_1 * v67;
          const V v78_1 = v63_1 * v68;
          const V v79_1 = v63_1 * v69;
          const V v80_1 = v63_1 * v70;
          const V v81_1 = v63_1 * v71;
          const V v82_1 = v63_1 * v72;
          const V v83_1 = v63_1 * v73;
          {
            s[0][1] = s[0][1] + v74_1;
          }
          {
            s[1][1] = s[1][1] + v75_1;
          }
          {
            s[2][1] = s[2][1] + v76_1;
          }
          {
            s[3][1] = s[3][1] + v77_1;
          }
          {
            s[4][1] = s[4][1] + v78_1;
          }
          {
            s[5][1] = s[5][1] + v79_1;
          }
          {
            s[6][1] = s[6][1] + v80_1;
          }
          {
            s[7][1] = s[7][1] + v81_1;
          }
          {
            s[8][1] = s[8][1] + v82_1;
          }
          {
            s[9][1] = s[9][1] + v83_1;
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
      for (int o = 0; o < 10; o++) {
        (o0 + at_row * 10)[o] = (T)(w_s[o][0]);
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
      for (int o = 0; o < 10; o++) {
        (o0 + at_row * 10)[o] = (T)(w_s[o][1]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[o][1];
      }
    }
  }
}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, T *__restrict__ o0, f64 *partial) {
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
    if (o >= 0 && o < 10) {
      (o0 + at_row * 10)[o] = (T)(w_s);
    }
  }
}
