// Farfield: Sum over columns, rows are j
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
#define CHUNK 2
#define THREADS 128
#define RESIDENT 5
#define TEAM 1
#define MERGERS 32
#define COL_SLOTS 8
#define COMPONENTS 4
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
// As exact as x itself, if that was rounded: log2 e rounds it once more. A result below 2^-126 is 0.
static __device__ __forceinline__ float fast_exp(float x) { return ex2_approx(x * 1.4426950408889634f); }

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, const T *__restrict__ b3, const T *__restrict__ b4, T *__restrict__ o0, T *__restrict__ o1, f64 *partial) {
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
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 5 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 5 + 1] : 0);
  const T *__restrict__ a2 = b2 + (offsets ? offsets[batch * 5 + 2] : 0);
  const T *__restrict__ a3 = b3 + (offsets ? offsets[batch * 5 + 3] : 0);
  const T *__restrict__ a4 = b4 + (offsets ? offsets[batch * 5 + 4] : 0);
  const V v3 = a3[0];
  const i64 row0 = smaller(row_begin + own + 0 * own_rows, row_end - 1);
  const V v4_0 = a2[(row0) * 1 + 0];
  const V v13_0 = a1[(row0) * 3 + 0];
  const V v14_0 = a1[(row0) * 3 + 1];
  const V v15_0 = a1[(row0) * 3 + 2];
  const V v5_0 = v3 - v4_0;
  const V v6_0 = v5_0 * v5_0;
  const V v31_0 = K(2.0) * v5_0;
  const V v32_0 = -v31_0;
  const i64 row1 = smaller(row_begin + own + 1 * own_rows, row_end - 1);
  const V v4_1 = a2[(row1) * 1 + 0];
  const V v13_1 = a1[(row1) * 3 + 0];
  const V v14_1 = a1[(row1) * 3 + 1];
  const V v15_1 = a1[(row1) * 3 + 2];
  const V v5_1 = v3 - v4_1;
  const V v6_1 = v5_1 * v5_1;
  const V v31_1 = K(2.0) * v5_1;
  const V v32_1 = -v31_1;
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
          const V v0 = a4[(col) * 3 + 0];
          const V v1 = a4[(col) * 3 + 1];
          const V v2 = a4[(col) * 3 + 2];
          const V v10 = a0[(col) * 3 + 0];
          const V v11 = a0[(col) * 3 + 1];
          const V v12 = a0[(col) * 3 + 2];
          T *const y = tile[q % part_tile * pitch + q / part_tile];
          *(Vector4 *)(y + 0) = Vector4{v0, v1, v2, v10};
          *(Vector4 *)(y + 4) = Vector4{v11, v12, K(0), K(0)};
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
        const V v0 = y0.x;
        const V v1 = y0.y;
        const V v2 = y0.z;
        const V v10 = y0.w;
        const Vector4 y4 = *(const Vector4 *)(y + 4);
        const V v11 = y4.x;
        const V v12 = y4.y;
        {
          const V v7_0 = v0 * v6_0;
          const V v8_0 = v1 * v6_0;
          const V v9_0 = v2 * v6_0;
          const V v16_0 = v10 + v13_0;
          const V v17_0 = v11 + v14_0;
          const V v18_0 = v12 + v15_0;
          const V v19_0 = fast_exp(v16_0);
          const V v20_0 = fast_exp(v17_0);
          const V v21_0 = fast_exp(v18_0);
          const V v22_0 = v7_0 * v19_0;
          const V v23_0 = v8_0 * v20_0;
          const V v24_0 = v9_0 * v21_0;
          const V v25_0 = v0 * v19_0;
          const V v26_0 = v1 * v20_0;
          const V v27_0 = v2 * v21_0;
          const V v28_0 = v25_0 + v26_0;
          const V v29_0 = v28_0 + v27_0;
          const V v33_0 = v32_0 * v29_0;
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
            s[3][0] = s[3][0] + v33_0;
          }
        }
        {
          const V v7_1 = v0 * v6_1;
          const V v8_1 = v1 * v6_1;
          const V v9_1 = v2 * v6_1;
          const V v16_1 = v10 + v13_1;
          const V v17_1 = v11 + v14_1;
          const V v18_1 = v12 + v15_1;
          const V v19_1 = fast_exp(v16_1);
          const V v20_1 = fast_exp(v17_1);
          const V v21_1 = fast_exp(v18_1);
          const V v22_1 = v7_1 * v19_1;
          const V v23_1 = v8_1 * v20_1;
          const V v24_1 = v9_1 * v21_1;
          const V v25_1 = v0 * v19_1;
          const V v26_1 = v1 * v20_1;
          const V v27_1 = v2 * v21_1;
          const V v28_1 = v25_1 + v26_1;
          const V v29_1 = v28_1 + v27_1;
          const V v33_1 = v32_1 * v29_1;
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
            s[3][1] = s[3][1] + v33_1;
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
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][0]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (T)(w_s[o][0]);
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
      for (int o = 0; o < 3; o++) {
        (o0 + at_row * 3)[o] = (T)(w_s[o][1]);
      }
      #pragma unroll
      for (int o = 3; o < 4; o++) {
        (o1 + at_row * 1)[o - 3] = (T)(w_s[o][1]);
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
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, T *__restrict__ o0, T *__restrict__ o1, f64 *partial) {
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
      if (o >= 0 && o < 3) {
        (o0 + at_row * 3)[o] = (T)(w_s);
      }
      if (o >= 3 && o < 4) {
        (o1 + at_row * 1)[o - 3] = (T)(w_s);
      }
    }
  }
}
