// Farfield: SumSoftMaxWeight over columns, rows are i
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
#define CHUNK 32
#define DEPTH 64
#define STEP 32
#define PITCH 136
#define THREADS 128
#define RESIDENT 3
#define TEAM 4
#define MERGERS 32
#define COL_SLOTS 4
#define COMPONENTS 1
#define SLOTS 6
#define QUADS (THREADS / TEAM)
#define SAMPLE 16

struct __align__(2 * sizeof(T)) Vector2 { T x, y; };
struct __align__(16) Vector4 { T x, y, z, w; };
static __device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
static __device__ __forceinline__ T finite_or_zero(T x) { return x - x == K(0) ? x : K(0); }
static __device__ __forceinline__ void mma_m16n8k16_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
static __device__ __forceinline__ unsigned half2_bits(float low, float high) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
static __device__ __forceinline__ float larger_or_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
#else
  return (a > b) | (a != a) ? a : b;
#endif
}
static __device__ __forceinline__ float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ f64 finite_or_zero(f64 x) { return x - x == 0 ? x : 0; }
// As exact as x itself, if that was rounded: log2 e rounds it once more. A result below 2^-126 is 0.
static __device__ __forceinline__ float fast_exp(float x) { return ex2_approx(x * 1.4426950408889634f); }

// What a vector is multiplied with before it becomes halves, and the products afterwards: powers of two that make
// its largest component 2^14 or more. The halves of what is not finite are NaN or infinite, and its products NaN.
struct Scale { float up, down; };
static __device__ __forceinline__ Scale scale_of(float most) {
  const int exponent = __float_as_int(most) >> 23, own = exponent < 15 ? 15 : exponent;
  return Scale{__int_as_float((268 - own) << 23), __int_as_float((own - 14) << 23)};
}

// Of the four threads that share a vector.
static __device__ __forceinline__ float quad_sum(float x) {
  x = x + __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
static __device__ __forceinline__ float quad_most(float x) {
  x = larger_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return larger_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// A float as two halves, which have 22 of its 24 bits: `first` with 11 of them, and what is left.
static __device__ __forceinline__ float first_half(float x) {
  return __int_as_float((int)((__float_as_uint(x) + 0x1000u) & ~0x1fffu));
}

typedef unsigned short Halves[PITCH];  // of one vector: first halves, and from DEPTH on second ones

// Scalar products: the largest component and the sum of squares of a vector; its halves from component k0 on; the value of
// a pair, where that of the halves is not exact enough.
static __device__ __forceinline__ Scale measure0(const T *x, int lane, float &norm) {
  float most = 0, sum = 0;
#pragma unroll 4
  for (int k = lane; k < 64; k += TEAM) {
    const float d = x[k];
    most = larger_or_nan(most, fabs(d));
    sum = sum + d * d;
  }
  norm = quad_sum(sum);
  return scale_of(quad_most(most));
}
static __device__ __forceinline__ void halve0(const T *x, int lane, int k0, float up,
                                             Halves &to) {
#pragma unroll 2
  for (int q = 2 * lane; q < DEPTH; q += 2 * TEAM) {
    float d[2], h[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int k = k0 + q + e;
      d[e] = k < 64 ? (x[k]) * up : 0;
      h[e] = first_half(d[e]);
    }
    *(unsigned *)&to[q] = half2_bits(h[0], h[1]);
    *(unsigned *)&to[DEPTH + q] = half2_bits(d[0] - h[0], d[1] - h[1]);
  }
}
static __device__ __forceinline__ float direct0(const T *x, const T *y) {
  float sum = 0;
#pragma unroll 4
  for (int k = 0; k < 64; k++) sum = sum + x[k] * y[k];
  return sum;
}

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

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, const T *__restrict__ b3, T *__restrict__ o0, f64 *partial) {
  __shared__ __align__(16) T tile[CHUNK][COL_SLOTS];
  __shared__ __align__(16) Halves of_rows[ROWS * QUADS], of_cols[CHUNK];
  __shared__ float y_scale0[CHUNK];
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
  const T *__restrict__ a0 = b0 + (offsets ? offsets[batch * 4 + 0] : 0);
  const T *__restrict__ a1 = b1 + (offsets ? offsets[batch * 4 + 1] : 0);
  const T *__restrict__ a2 = b2 + (offsets ? offsets[batch * 4 + 2] : 0);
  const T *__restrict__ a3 = b3 + (offsets ? offsets[batch * 4 + 3] : 0);
  const V v1 = a3[0];
  const i64 row0 = smaller(row_begin + own + 0 * own_rows, row_end - 1);
  const i64 row1 = smaller(row_begin + own + 1 * own_rows, row_end - 1);
  const i64 row2 = smaller(row_begin + own + 2 * own_rows, row_end - 1);
  const i64 row3 = smaller(row_begin + own + 3 * own_rows, row_end - 1);
  __syncthreads();
  float x_norm0_0;
  const Scale x_scale0_0 = measure0(a0 + row0 * 64 + 0, lane, x_norm0_0);
  float x_norm0_1;
  const Scale x_scale0_1 = measure0(a0 + row1 * 64 + 0, lane, x_norm0_1);
  float x_norm0_2;
  const Scale x_scale0_2 = measure0(a0 + row2 * 64 + 0, lane, x_norm0_2);
  float x_norm0_3;
  const Scale x_scale0_3 = measure0(a0 + row3 * 64 + 0, lane, x_norm0_3);
  halve0(a0 + row0 * 64 + 0, lane, 0, x_scale0_0.up, of_rows[own + 0 * QUADS]);
  halve0(a0 + row1 * 64 + 0, lane, 0, x_scale0_1.up, of_rows[own + 1 * QUADS]);
  halve0(a0 + row2 * 64 + 0, lane, 0, x_scale0_2.up, of_rows[own + 2 * QUADS]);
  halve0(a0 + row3 * 64 + 0, lane, 0, x_scale0_3.up, of_rows[own + 3 * QUADS]);
  f64 w_m[COMPONENTS][ROWS];
  f64 w_s[COMPONENTS][ROWS][5];
  #pragma unroll
  for (int o = 0; o < COMPONENTS; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_m[o][r] = K(-INF);
      for (int q = 0; q < 5; q++) w_s[o][r][q] = K(0);
    }
  for (i64 range = range_begin; range < range_end; range++) {
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    terms += col_end > col_begin ? col_end - col_begin : 0;
    for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {
      V m[COMPONENTS][ROWS];
      V s[COMPONENTS][ROWS][5];
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          m[o][r] = K(-INF);
          for (int q = 0; q < 5; q++) s[o][r][q] = K(0);
        }
      for (i64 first_col = col0; first_col < smaller(col0 + TILE, col_end); first_col += CHUNK) {
        const int count = (int)smaller(CHUNK, col_end - first_col);
        __syncthreads();
        if (const int q = threadIdx.x; q < CHUNK) {
          const i64 col = smaller(first_col + q, col_end - 1);
          const V v4 = a2[(col) * 4 + 0];
          const V v5 = a2[(col) * 4 + 1];
          const V v6 = a2[(col) * 4 + 2];
          const V v7 = a2[(col) * 4 + 3];
          T *const y = tile[q];
          *(Vector4 *)(y + 0) = Vector4{v4, v5, v6, v7};
        }
        float up0[CHUNK / QUADS];
        #pragma unroll
        for (int q = 0; q < CHUNK / QUADS; q++) {
          const int c = own + q * QUADS;
          float norm;
          const T *const y = a1 + (smaller(first_col + c, col_end - 1)) * 64 + 0;
          const Scale scale = measure0(y, lane, norm);
          up0[q] = scale.up;
          if (lane == 0) y_scale0[c] = scale.down;
        }
        float elements0[ROWS / 2][CHUNK / 8][4] = {};
        {
          const int k0 = 0;
          #pragma unroll
          for (int q = 0; q < CHUNK / QUADS; q++) halve0(a1 + (smaller(first_col + own + q * QUADS, col_end - 1)) * 64 + 0, lane, k0, up0[q], of_cols[own + q * QUADS]);
          __syncthreads();
          multiply(elements0, of_rows, of_cols);
        }
        {
          unsigned again = 0;
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) {
            const int c = u / 2 * 8 + 2 * lane + u % 2;
            float &e = elements0[0][u / 2][0 + u % 2];
            e = e * x_scale0_0.down * y_scale0[c];
            again |= c < count && !(e == e) ? 1u << u : 0u;
          }
          while (again) {
            const int found = __ffs(again) - 1;
            again &= again - 1;
            const int c = found / 2 * 8 + 2 * lane + found % 2;
            const float e = direct0(a0 + row0 * 64 + 0, a1 + (first_col + c) * 64 + 0);
            #pragma unroll
            for (int u = 0; u < CHUNK / TEAM; u++) elements0[0][u / 2][0 + u % 2] = u == found ? e : elements0[0][u / 2][0 + u % 2];
          }
        }
        {
          unsigned again = 0;
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) {
            const int c = u / 2 * 8 + 2 * lane + u % 2;
            float &e = elements0[0][u / 2][2 + u % 2];
            e = e * x_scale0_1.down * y_scale0[c];
            again |= c < count && !(e == e) ? 1u << u : 0u;
          }
          while (again) {
            const int found = __ffs(again) - 1;
            again &= again - 1;
            const int c = found / 2 * 8 + 2 * lane + found % 2;
            const float e = direct0(a0 + row1 * 64 + 0, a1 + (first_col + c) * 64 + 0);
            #pragma unroll
            for (int u = 0; u < CHUNK / TEAM; u++) elements0[0][u / 2][2 + u % 2] = u == found ? e : elements0[0][u / 2][2 + u % 2];
          }
        }
        {
          unsigned again = 0;
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) {
            const int c = u / 2 * 8 + 2 * lane + u % 2;
            float &e = elements0[1][u / 2][0 + u % 2];
            e = e * x_scale0_2.down * y_scale0[c];
            again |= c < count && !(e == e) ? 1u << u : 0u;
          }
          while (again) {
            const int found = __ffs(again) - 1;
            again &= again - 1;
            const int c = found / 2 * 8 + 2 * lane + found % 2;
            const float e = direct0(a0 + row2 * 64 + 0, a1 + (first_col + c) * 64 + 0);
            #pragma unroll
            for (int u = 0; u < CHUNK / TEAM; u++) elements0[1][u / 2][0 + u % 2] = u == found ? e : elements0[1][u / 2][0 + u % 2];
          }
        }
        {
          unsigned again = 0;
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) {
            const int c = u / 2 * 8 + 2 * lane + u % 2;
            float &e = elements0[1][u / 2][2 + u % 2];
            e = e * x_scale0_3.down * y_scale0[c];
            again |= c < count && !(e == e) ? 1u << u : 0u;
          }
          while (again) {
            const int found = __ffs(again) - 1;
            again &= again - 1;
            const int c = found / 2 * 8 + 2 * lane + found % 2;
            const float e = direct0(a0 + row3 * 64 + 0, a1 + (first_col + c) * 64 + 0);
            #pragma unroll
            for (int u = 0; u < CHUNK / TEAM; u++) elements0[1][u / 2][2 + u % 2] = u == found ? e : elements0[1][u / 2][2 + u % 2];
          }
        }
        V t[COMPONENTS][ROWS][CHUNK / TEAM], h[COMPONENTS][ROWS], chunk[COMPONENTS][ROWS][5];
        #pragma unroll
        for (int u = 0; u < CHUNK / TEAM; u++) {
          const int c = u / 2 * 8 + 2 * lane + u % 2;
          if (c < count) {
            {
              const V v0_0 = elements0[0][u / 2][0 + u % 2];
              const V v2_0 = v0_0 * v1;
              t[0][0][u] = v2_0;
            }
            {
              const V v0_1 = elements0[0][u / 2][2 + u % 2];
              const V v2_1 = v0_1 * v1;
              t[0][1][u] = v2_1;
            }
            {
              const V v0_2 = elements0[1][u / 2][0 + u % 2];
              const V v2_2 = v0_2 * v1;
              t[0][2][u] = v2_2;
            }
            {
              const V v0_3 = elements0[1][u / 2][2 + u % 2];
              const V v2_3 = v0_3 * v1;
              t[0][3][u] = v2_3;
            }
          }
          else {
            t[0][0][u] = K(-INF);
            t[0][1][u] = K(-INF);
            t[0][2][u] = K(-INF);
            t[0][3][u] = K(-INF);
          }
        }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            V n = m[o][r];
            #pragma unroll
            for (int u = 0; u < CHUNK / TEAM; u++) n = fmax(t[o][r][u], n);
            h[o][r] = finite_or_zero(n);
            const V a = fast_exp(m[o][r] - h[o][r]);
            m[o][r] = n;
            for (int q = 0; q < 5; q++) s[o][r][q] = s[o][r][q] * a;
            for (int q = 0; q < 5; q++) chunk[o][r][q] = K(0);
          }
        #pragma unroll
        for (int u = 0; u < CHUNK / TEAM; u++) {
          const int c = u / 2 * 8 + 2 * lane + u % 2;
          if (c < count) {
            const T *const y = tile[c];
            const Vector4 y0 = *(const Vector4 *)(y + 0);
            const V v4 = y0.x;
            const V v5 = y0.y;
            const V v6 = y0.z;
            const V v7 = y0.w;
            {
              const V e = fast_exp(t[0][0][u] - h[0][0]);
              chunk[0][0][0] = chunk[0][0][0] + e * K(1.0);
              chunk[0][0][1] = chunk[0][0][1] + e * v4;
              chunk[0][0][2] = chunk[0][0][2] + e * v5;
              chunk[0][0][3] = chunk[0][0][3] + e * v6;
              chunk[0][0][4] = chunk[0][0][4] + e * v7;
            }
            {
              const V e = fast_exp(t[0][1][u] - h[0][1]);
              chunk[0][1][0] = chunk[0][1][0] + e * K(1.0);
              chunk[0][1][1] = chunk[0][1][1] + e * v4;
              chunk[0][1][2] = chunk[0][1][2] + e * v5;
              chunk[0][1][3] = chunk[0][1][3] + e * v6;
              chunk[0][1][4] = chunk[0][1][4] + e * v7;
            }
            {
              const V e = fast_exp(t[0][2][u] - h[0][2]);
              chunk[0][2][0] = chunk[0][2][0] + e * K(1.0);
              chunk[0][2][1] = chunk[0][2][1] + e * v4;
              chunk[0][2][2] = chunk[0][2][2] + e * v5;
              chunk[0][2][3] = chunk[0][2][3] + e * v6;
              chunk[0][2][4] = chunk[0][2][4] + e * v7;
            }
            {
              const V e = fast_exp(t[0][3][u] - h[0][3]);
              chunk[0][3][0] = chunk[0][3][0] + e * K(1.0);
              chunk[0][3][1] = chunk[0][3][1] + e * v4;
              chunk[0][3][2] = chunk[0][3][2] + e * v5;
              chunk[0][3][3] = chunk[0][3][3] + e * v6;
              chunk[0][3][4] = chunk[0][3][4] + e * v7;
            }
          }
        }
        #pragma unroll
        for (int o = 0; o < COMPONENTS; o++)
        #pragma unroll
          for (int r = 0; r < ROWS; r++) {
            for (int q = 0; q < 5; q++) s[o][r][q] = s[o][r][q] + chunk[o][r][q];
          }
      }
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_m;
          l_m = (f64)m[o][r];
          f64 l_s[5];
          for (int q = 0; q < 5; q++) l_s[q] = (f64)s[o][r][q];
          const double h = finite_or_zero(w_m[o][r] > l_m ? w_m[o][r] : l_m), a = exp(w_m[o][r] - h), b = exp(l_m - h); w_m[o][r] = w_m[o][r] > l_m ? w_m[o][r] : l_m; for (int q = 0; q < 5; q++) w_s[o][r][q] = w_s[o][r][q] * a + l_s[q] * b;
        }
    }
  }
  f64 (*const meeting)[THREADS] = (f64 (*)[THREADS])of_rows;
  #pragma unroll
  for (int o = 0; o < COMPONENTS; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      __syncthreads();
      meeting[0][threadIdx.x] = w_m[o][r];
      for (int q = 0; q < 5; q++) meeting[1 + q][threadIdx.x] = w_s[o][r][q];
      for (int step = 1; step < team; step *= 2) {
        __syncthreads();
        if (lane % (2 * step) == 0) {
          f64 l_m;
          l_m = meeting[0][threadIdx.x + step];
          f64 l_s[5];
          for (int q = 0; q < 5; q++) l_s[q] = meeting[1 + q][threadIdx.x + step];
          const double h = finite_or_zero(w_m[o][r] > l_m ? w_m[o][r] : l_m), a = exp(w_m[o][r] - h), b = exp(l_m - h); w_m[o][r] = w_m[o][r] > l_m ? w_m[o][r] : l_m; for (int q = 0; q < 5; q++) w_s[o][r][q] = w_s[o][r][q] * a + l_s[q] * b;
          meeting[0][threadIdx.x] = w_m[o][r];
          for (int q = 0; q < 5; q++) meeting[1 + q][threadIdx.x] = w_s[o][r][q];
        }
      }
    }
  if (const i64 row = row_begin + own + 0 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        for (int q = 0; q < 4; q++) (o0 + at_row * 4)[q] = (T)(w_s[o][0][q + 1] / w_s[o][0][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][0];
        for (int q = 0; q < 5; q++) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[o][0][q];
      }
    }
  }
  if (const i64 row = row_begin + own + 1 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        for (int q = 0; q < 4; q++) (o0 + at_row * 4)[q] = (T)(w_s[o][1][q + 1] / w_s[o][1][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][1];
        for (int q = 0; q < 5; q++) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[o][1][q];
      }
    }
  }
  if (const i64 row = row_begin + own + 2 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        for (int q = 0; q < 4; q++) (o0 + at_row * 4)[q] = (T)(w_s[o][2][q + 1] / w_s[o][2][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][2];
        for (int q = 0; q < 5; q++) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[o][2][q];
      }
    }
  }
  if (const i64 row = row_begin + own + 3 * own_rows; lane == 0 && row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll
      for (int o = 0; o < 1; o++) {
        for (int q = 0; q < 4; q++) (o0 + at_row * 4)[q] = (T)(w_s[o][3][q + 1] / w_s[o][3][0]);
      }
    }
    else {
      #pragma unroll
      for (int o = 0; o < COMPONENTS; o++) {
        partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[o][3];
        for (int q = 0; q < 5; q++) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[o][3][q];
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
    f64 w_s[5];
    w_m = K(-INF);
    for (int q = 0; q < 5; q++) w_s[q] = K(0);
    for (i64 split = first; split < last; split++) {
      f64 l_m;
      l_m = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      f64 l_s[5];
      for (int q = 0; q < 5; q++) l_s[q] = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row];
      const double h = finite_or_zero(w_m > l_m ? w_m : l_m), a = exp(w_m - h), b = exp(l_m - h); w_m = w_m > l_m ? w_m : l_m; for (int q = 0; q < 5; q++) w_s[q] = w_s[q] * a + l_s[q] * b;
    }
    __syncthreads();
    meeting[0][threadIdx.x] = w_m;
    for (int q = 0; q < 5; q++) meeting[1 + q][threadIdx.x] = w_s[q];
    for (int step = 1; step < team; step *= 2) {
      __syncthreads();
      if (lane % (2 * step) == 0) {
        f64 l_m;
        l_m = meeting[0][threadIdx.x + step];
        f64 l_s[5];
        for (int q = 0; q < 5; q++) l_s[q] = meeting[1 + q][threadIdx.x + step];
        const double h = finite_or_zero(w_m > l_m ? w_m : l_m), a = exp(w_m - h), b = exp(l_m - h); w_m = w_m > l_m ? w_m : l_m; for (int q = 0; q < 5; q++) w_s[q] = w_s[q] * a + l_s[q] * b;
        meeting[0][threadIdx.x] = w_m;
        for (int q = 0; q < 5; q++) meeting[1 + q][threadIdx.x] = w_s[q];
      }
    }
    if (lane == 0 && at_row < batches * rows) {
      if (o >= 0 && o < 1) {
        for (int q = 0; q < 4; q++) (o0 + at_row * 4)[q] = (T)(w_s[q + 1] / w_s[0]);
      }
    }
  }
}
