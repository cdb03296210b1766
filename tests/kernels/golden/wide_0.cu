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
#define TILE 256
#define CHUNK 1
#define THREADS 128
#define RESIDENT 3
#define TEAM 1
#define MERGERS 32
#define COL_SLOTS 24
#define COMPONENTS 10
#define SLOTS 1

struct __align__(2 * sizeof(T)) Vector2 { T x, y; };
struct __align__(16) Vector4 { T x, y, z, w; };
static __device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
static __device__ __forceinline__ T finite_or_zero(T x) { return x - x == K(0) ? x : K(0); }
static __device__ __forceinline__ float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, T *__restrict__ o0, f64 *partial) {
  // The columns of a tile that a thread reads lie `pitch` apart, so that a team reads from all banks at once.
  __shared__ __align__(16) T tile[TEAM > 1 ? TILE + TILE / TEAM : TILE][COL_SLOTS];
  const int team = TEAM > 1 && blockDim.x % TEAM ? 1 : TEAM, pitch = team > 1 ? team + 1 : 1;
  const int part_tile = TILE / team, lane = threadIdx.x % team, own = threadIdx.x / team;
  const i64 own_rows = blockDim.x / team;
  // Units and parts of columns are fewer than 2^32: to divide i64 takes a function of 70 instructions.
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
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 3 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 3 + 1] : 0);
  const T *__restrict__ a2 = b2 + (offsets ? offsets[batch * 3 + 2] : 0);
  const V v60 = K(-1) * K(1.4426950408889634);
  const V v61 = v60 - v60 == K(0) ? v60 : K(-1);
  const i64 row0 = smaller(row_begin + own + 0 * own_rows, row_end - 1);
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
  const i64 row1 = smaller(row_begin + own + 1 * own_rows, row_end - 1);
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
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    const i64 met = col_end > col_begin ? col_end - col_begin : 0;
    const i64 part = team > 1 ? (met + TEAM - 1) / TEAM : met;  // of each thread of a team
    terms += met;
    for (i64 step = 0; step < part; step += part_tile) {
      __syncthreads();
      for (int q = threadIdx.x; q < TILE; q += blockDim.x) {
        const i64 in_part = step + q % part_tile, col = col_begin + q / part_tile * part + in_part;
        if (in_part < part && col < col_end) {
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
          T *const y = tile[q % part_tile * pitch + q / part_tile];
          *(Vector4 *)(y + 0) = Vector4{v12, v13, v14, v15};
          *(Vector4 *)(y + 4) = Vector4{v16, v17, v18, v19};
          *(Vector4 *)(y + 8) = Vector4{v20, v21, v22, v23};
          *(Vector4 *)(y + 12) = Vector4{v64, v65, v66, v67};
          *(Vector4 *)(y + 16) = Vector4{v68, v69, v70, v71};
          *(Vector4 *)(y + 20) = Vector4{v72, v73, K(0), K(0)};
        }
      }
      __syncthreads();
      const i64 col0 = col_begin + lane * part + step;
      const int count = (int)smaller(smaller(part - step, part_tile), col_end - col0);
      V s[COMPONENTS][ROWS];
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          s[o][r] = K(0);
        }
      #pragma unroll 4
      for (int c = 0; c < count; c++) {
        const T *const y = tile[c * pitch + lane];
        const Vector4 y0 = *(const Vector4 *)(y + 0);
        const V v12 = y0.x;
        const V v13 = y0.y;
        const V v14 = y0.z;
        const V v15 = y0.w;
        const Vector4 y4 = *(const Vector4 *)(y + 4);
        const V v16 = y4.x;
        const V v17 = y4.y;
        const V v18 = y4.z;
        const V v19 = y4.w;
        const Vector4 y8 = *(const Vector4 *)(y + 8);
        const V v20 = y8.x;
        const V v21 = y8.y;
        const V v22 = y8.z;
        const V v23 = y8.w;
        const Vector4 y12 = *(const Vector4 *)(y + 12);
        const V v64 = y12.x;
        const V v65 = y12.y;
        const V v66 = y12.z;
        const V v67 = y12.w;
        const Vector4 y16 = *(const Vector4 *)(y + 16);
        const V v68 = y16.x;
        const V v69 = y16.y;
        const V v70 = y16.z;
        const V v71 = y16.w;
        const Vector4 y20 = *(const Vector4 *)(y + 20);
        const V v72 = y20.x;
        const V v73 = y20.y;
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
          const V v63_0 = ex2_approx(v62_0);
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
          const V v63_1 = ex2_approx(v62_1);
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

  if (const i64 row = row_begin + own + 0 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
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
  if (const i64 row = row_begin + own + 1 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
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
  __shared__ f64 meeting[SLOTS][THREADS];
  const int team = blockDim.x % MERGERS ? 1 : MERGERS, lane = threadIdx.x % team;
  const i64 at_row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / team;
  const i64 batch = at_row / rows, row = at_row % rows, run = (splits + team - 1) / team;
  const i64 first = at_row < batches * rows ? lane * run : splits;
  const i64 last = smaller(splits, first + run);
  for (int o = 0; o < COMPONENTS; o++) {
    f64 w_s;
    w_s = K(0);
    for (i64 split = first; split < last; split++) {
      f64 l_s;
      l_s = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      w_s += l_s;
    }
    __syncthreads();
    meeting[0][threadIdx.x] = w_s;
    for (int step = 1; step < team; step *= 2) {
      __syncthreads();
      if (lane % (2 * step) == 0) {
        f64 l_s;
        l_s = meeting[0][threadIdx.x + step];
        w_s += l_s;
        meeting[0][threadIdx.x] = w_s;
      }
    }
    if (lane == 0 && at_row < batches * rows) {
      if (o >= 0 && o < 10) {
        (o0 + at_row * 10)[o] = (T)(w_s);
      }
    }
  }
}
