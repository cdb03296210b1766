// Farfield: LogSumExp over columns, rows are i
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
#define TILE 256
#define CHUNK 8
#define THREADS 128
#define RESIDENT 3
#define TEAM 1
#define MERGERS 32
#define COL_SLOTS 2
#define COMPONENTS 1
#define SLOTS 2

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
  const V v9 = a2[0];
  const V v10 = -v9;
  const i64 row0 = smaller(row_begin + own + 0 * own_rows, row_end - 1);
  const V v0_0 = a0[(row0) * 2 + 0];
  const V v1_0 = a0[(row0) * 2 + 1];
  const i64 row1 = smaller(row_begin + own + 1 * own_rows, row_end - 1);
  const V v0_1 = a0[(row1) * 2 + 0];
  const V v1_1 = a0[(row1) * 2 + 1];
  const i64 row2 = smaller(row_begin + own + 2 * own_rows, row_end - 1);
  const V v0_2 = a0[(row2) * 2 + 0];
  const V v1_2 = a0[(row2) * 2 + 1];
  const i64 row3 = smaller(row_begin + own + 3 * own_rows, row_end - 1);
  const V v0_3 = a0[(row3) * 2 + 0];
  const V v1_3 = a0[(row3) * 2 + 1];
  f64 w_m[COMPONENTS][ROWS];
  f64 w_s[COMPONENTS][ROWS];
  #pragma unroll
  for (int o = 0; o < COMPONENTS; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_m[o][r] = K(-INF);
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
          const V v2 = a1[(col) * 2 + 0];
          const V v3 = a1[(col) * 2 + 1];
          T *const y = tile[q % part_tile * pitch + q / part_tile];
          *(Vector2 *)(y + 0) = Vector2{v2, v3};
        }
      }
      __syncthreads();
      const i64 col0 = col_begin + lane * part + step;
      const int count = (int)smaller(smaller(part - step, part_tile), col_end - col0);
      V m[COMPONENTS][ROWS];
      V s[COMPONENTS][ROWS];
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          m[o][r] = K(-INF);
          s[o][r] = K(0);
        }
      int c0 = 0;
      for (; c0 + CHUNK <= count; c0 += CHUNK) {
        V t[COMPONENTS][ROWS][CHUNK], h[COMPONENTS][ROWS], chunk[COMPONENTS][ROWS];
        #pragma unroll
        for (int u = 0; u < CHUNK; u++) {
          const int c = c0 + u;
          const T *const y = tile[c * pitch + lane];
          const Vector2 y0 = *(const Vector2 *)(y + 0);
          const V v2 = y0.x;
          const V v3 = y0.y;
          {
            const V v4_0 = v0_0 - v2;
            const V v5_0 = v1_0 - v3;
            const V v6_0 = v4_0 * v4_0;
            const V v7_0 = v5_0 * v5_0;
            const V v8_0 = v6_0 + v7_0;
            const V v11_0 = v10 * v8_0;
            t[0][0][u] = v11_0;
          }
          {
            const V v4_1 = v0_1 - v2;
            const V v5_1 = v1_1 - v3;
            const V v6_1 = v4_1 * v4_1;
            const V v7_1 = v5_1 * v5_1;
            const V v8_1 = v6_1 + v7_1;
            const V v11_1 = v10 * v8_1;
            t[0][1][u] = v11_1;
          }
          {
            const V v4_2 = v0_2 - v2;
            const V v5_2 = v1_2 - v3;
            const V v6_2 = v4_2 * v4_2;
            const V v7_2 = v5_2 * v5_2;
            const V v8_2 = v6_2 + v7_2;
            const V v11_2 = v10 * v8_2;
            t[0][2][u] = v11_2;
          }
          {
            const V v4_3 = v0_3 - v2;
            const V v5_3 = v1_3 - v3;
            const V v6_3 = v4_3 * v4_3;
            const V v7_3 = v5_3 * v5_3;
            const V v8_3 = v6_3 + v7_3;
            const V v11_3 = v10 * v8_3;
            t[0][3][u] = v11_3;
          }
        }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            V n = m[o][r];
            #pragma unroll
            for (int u = 0; u < CHUNK; u++) n = fmax(t[o][r][u], n);
            h[o][r] = finite_or_zero(n);
            const V a = fast_exp(m[o][r] - h[o][r]);
            m[o][r] = n;
            s[o][r] = s[o][r] * a;
            chunk[o][r] = K(0);
          }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            #pragma unroll
            for (int u = 0; u < CHUNK; u++) chunk[o][r] = chunk[o][r] + fast_exp(t[o][r][u] - h[o][r]);
          }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            s[o][r] = s[o][r] + chunk[o][r];
          }
      }
      for (; c0 < count; c0++) {
        V t[COMPONENTS][ROWS][1], h[COMPONENTS][ROWS], chunk[COMPONENTS][ROWS];
        #pragma unroll
        for (int u = 0; u < 1; u++) {
          const int c = c0 + u;
          const T *const y = tile[c * pitch + lane];
          const Vector2 y0 = *(const Vector2 *)(y + 0);
          const V v2 = y0.x;
          const V v3 = y0.y;
          {
            const V v4_0 = v0_0 - v2;
            const V v5_0 = v1_0 - v3;
            const V v6_0 = v4_0 * v4_0;
            const V v7_0 = v5_0 * v5_0;
            const V v8_0 = v6_0 + v7_0;
            const V v11_0 = v10 * v8_0;
            t[0][0][u] = v11_0;
          }
          {
            const V v4_1 = v0_1 - v2;
            const V v5_1 = v1_1 - v3;
            const V v6_1 = v4_1 * v4_1;
            const V v7_1 = v5_1 * v5_1;
            const V v8_1 = v6_1 + v7_1;
            const V v11_1 = v10 * v8_1;
            t[0][1][u] = v11_1;
          }
          {
            const V v4_2 = v0_2 - v2;
            const V v5_2 = v1_2 - v3;
            const V v6_2 = v4_2 * v4_2;
            const V v7_2 = v5_2 * v5_2;
            const V v8_2 = v6_2 + v7_2;
            const V v11_2 = v10 * v8_2;
            t[0][2][u] = v11_2;
          }
          {
            const V v4_3 = v0_3 - v2;
            const V v5_3 = v1_3 - v3;
            const V v6_3 = v4_3 * v4_3;
            const V v7_3 = v5_3 * v5_3;
            const V v8_3 = v6_3 + v7_3;
            const V v11_3 = v10 * v8_3;
            t[0][3][u] = v11_3;
          }
        }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            V n = m[o][r];
            #pragma unroll
            for (int u = 0; u < 1; u++) n = fmax(t[o][r][u], n);
            h[o][r] = finite_or_zero(n);
            const V a = fast_exp(m[o][r] - h[o][r]);
            m[o][r] = n;
            s[o][r] = s[o][r] * a;
            chunk[o][r] = K(0);
          }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            #pragma unroll
            for (int u = 0; u < 1; u++) chunk[o][r] = chunk[o][r] + fast_exp(t[o][r][u] - h[o][r]);
          }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            s[o][r] = s[o][r] + chunk[o][r];
          }
      }
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_m;
          l_m = (f64)m[o][r];
          f64 l_s;
          l_s = (f64)s[o][r];
          const double h = finite_or_zero(w_m[o][r] > l_m ? w_m[o][r] : l_m), a = exp(w_m[o][r] - h), b = exp(l_m - h); w_m[o][r] = w_m[o][r] > l_m ? w_m[o][r] : l_m; w_s[o][r] = w_s[o][r] * a + l_s * b;
        }
    }
  }

  if (const i64 row = row_begin + own + 0 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(finite_or_zero(w_m[o][0]) + log(w_s[o][0]));
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][0];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_s[o][0];
      }
    }
  }
  if (const i64 row = row_begin + own + 1 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(finite_or_zero(w_m[o][1]) + log(w_s[o][1]));
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][1];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_s[o][1];
      }
    }
  }
  if (const i64 row = row_begin + own + 2 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(finite_or_zero(w_m[o][2]) + log(w_s[o][2]));
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][2];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_s[o][2];
      }
    }
  }
  if (const i64 row = row_begin + own + 3 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        (o0 + at_row * 1)[o] = (T)(finite_or_zero(w_m[o][3]) + log(w_s[o][3]));
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][3];
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row] = w_s[o][3];
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
    f64 w_m;
    f64 w_s;
    w_m = K(-INF);
    w_s = K(0);
    for (i64 split = first; split < last; split++) {
      f64 l_m;
      l_m = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      f64 l_s;
      l_s = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1) * rows + row];
      const double h = finite_or_zero(w_m > l_m ? w_m : l_m), a = exp(w_m - h), b = exp(l_m - h); w_m = w_m > l_m ? w_m : l_m; w_s = w_s * a + l_s * b;
    }
    __syncthreads();
    meeting[0][threadIdx.x] = w_m;
    meeting[1][threadIdx.x] = w_s;
    for (int step = 1; step < team; step *= 2) {
      __syncthreads();
      if (lane % (2 * step) == 0) {
        f64 l_m;
        l_m = meeting[0][threadIdx.x + step];
        f64 l_s;
        l_s = meeting[1][threadIdx.x + step];
        const double h = finite_or_zero(w_m > l_m ? w_m : l_m), a = exp(w_m - h), b = exp(l_m - h); w_m = w_m > l_m ? w_m : l_m; w_s = w_s * a + l_s * b;
        meeting[0][threadIdx.x] = w_m;
        meeting[1][threadIdx.x] = w_s;
      }
    }
    if (lane == 0 && at_row < batches * rows) {
      if (o >= 0 && o < 1) {
        (o0 + at_row * 1)[o] = (T)(finite_or_zero(w_m) + log(w_s));
      }
    }
  }
}
