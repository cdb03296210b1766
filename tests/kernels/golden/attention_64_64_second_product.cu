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
#define TILE 512
#define CHUNK 32
#define DEPTH 64
#define STEP 32
#define PITCH 136
#define THREADS 128
#define RESIDENT 2
#define TEAM 4
#define MERGERS 1
#define COL_SLOTS 1
#define COMPONENTS 1
#define SLOTS 66
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
static __device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
static __device__ __forceinline__ unsigned half2_bits(float low, float high) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
static __device__ __forceinline__ void half2_floats(unsigned bits, float &low, float &high) {
  asm("{\n.reg .f16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
      : "=f"(low), "=f"(high) : "r"(bits));
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

#define WIDTH 64
#define PASSES 1
#define OWN 17
#define FIRST 1
#define COUNT 64

// Of one column: first halves, and from WIDTH on second ones.
typedef unsigned short Values[2 * WIDTH + 8];

// Two floats as halves: what the first ones leave is multiplied with 2^11, so small ones keep their bits.
static __device__ __forceinline__ void halve(float x, float y, unsigned &first, unsigned &second) {
  float of_x, of_y;
  first = half2_bits(x, y);
  half2_floats(first, of_x, of_y);
  second = half2_bits((x - of_x) * 2048, (y - of_y) * 2048);
}

// The component (or weight) that entry u of a thread is: the thread has two of every eight, and the others are
// summed by a team; -1, if another thread writes it.
static __device__ __forceinline__ int place(int u, int pass, int lane) {
  const int k = pass * WIDTH + u / 2 * 8 + 2 * lane + u % 2, q = u - WIDTH / TEAM;
  if (u < WIDTH / TEAM) return k < COUNT ? FIRST + k : -1;
  return lane || pass ? -1 : q < FIRST ? q : q + COUNT;
}

// Sums of a row by the number of their weight.
struct Entries {
  const f64 *own;
  int pass;
  __device__ __forceinline__ f64 operator[](int q) const {
    const int k = q - FIRST - pass * WIDTH;
    return own[q >= FIRST && q < FIRST + COUNT ? k / 8 * 2 + k % 2 : WIDTH / TEAM + (q < FIRST ? q : q - COUNT)];
  }
};

// Components of a column as halves, and the power of two that their products are multiplied with. Negative, and
// all halves 0, if one is not finite, or less than 2^-29 of another: the column is *apart*, its products are added
// one by one. Where one component alone is large, others would lose their bits.
static __device__ __forceinline__ float halve_values(const T *v, int count, int lane, Values &to) {
  float d[WIDTH / TEAM], most = 0;
  unsigned least = 0xffffffffu;  // of all but 0
#pragma unroll
  for (int q = 0; q < WIDTH / TEAM; q++) {
    const int k = q / 2 * 8 + 2 * lane + q % 2;
    d[q] = k < count ? v[k] : 0;
    most = larger_or_nan(most, fabs(d[q]));
    least = min(least, 2 * __float_as_uint(d[q]) - 1);
  }
  const Scale scale = scale_of(quad_most(most));
  const bool is_small = least != 0xffffffffu && __uint_as_float(least / 2 + 1) * scale.up < 6.103515625e-05f;
  const unsigned apart = __ballot_sync(0xffffffffu, is_small || !(most < K(INF))) & 15u << (threadIdx.x & 28);
  if (apart) {
#pragma unroll
    for (int q = 0; q < WIDTH / TEAM; q++) d[q] = 0;
  }
#pragma unroll
  for (int q = 0; q < WIDTH / TEAM; q += 2) {
    const int k = q / 2 * 8 + 2 * lane;
    halve(d[q] * scale.up, d[q + 1] * scale.up, *(unsigned *)&to[k], *(unsigned *)&to[WIDTH + k]);
  }
  return apart ? -1 : scale.down * 16384;
}

// The largest of a row's values, each times the size of its column.
static __device__ __forceinline__ float most_of(const V (&p)[CHUNK / TEAM], const float (&size)[CHUNK / TEAM]) {
  float most = 0;
#pragma unroll
  for (int u = 0; u < CHUNK / TEAM; u++) most = larger_or_nan(most, fabs(p[u] * size[u]));
  return quad_most(most);
}

// Products of columns that are apart, and of pairs whose value is not finite and becomes 0 afterwards. Values are
// taken in turn from the first place, as registers have no index.
static __device__ __forceinline__ void add_apart(V (&s)[1][ROWS][OWN], V (&p)[ROWS][CHUNK / TEAM], const T *v,
                                                 const float *sizes, int columns, int count, int lane) {
#pragma unroll 1
  for (int u = 0; u < CHUNK / TEAM; u++) {
#pragma unroll 1
    for (int from = 0; from < TEAM; from++) {
      const int c = u / 2 * 8 + 2 * from + u % 2;
      const float size = sizes[c];
      V w[ROWS];
      bool is_own[ROWS], is_found = false;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        w[r] = __shfl_sync(0xffffffffu, p[r][0], from, TEAM);
        is_own[r] = size < 0 || !(fabs(w[r] * size) < K(INF));
        is_found |= is_own[r];
      }
      if (c >= columns || !__any_sync(0xffffffffu, is_found)) continue;
#pragma unroll
      for (int q = 0; q < WIDTH / TEAM; q++) {
        const int k = q / 2 * 8 + 2 * lane + q % 2;
        const V y = k < count ? v[c * 64 + k] : 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) s[0][r][q] += is_own[r] ? w[r] * y : 0;
      }
    }
    const float size = sizes[u / 2 * 8 + 2 * lane + u % 2];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const V first = fabs(p[r][0] * size) < K(INF) ? p[r][0] : 0;
#pragma unroll
      for (int k = 1; k < CHUNK / TEAM; k++) p[r][k - 1] = p[r][k];
      p[r][CHUNK / TEAM - 1] = first;
    }
  }
}

// s += p x values, for the columns of a chunk. A thread's elements of a tile are those that it hands in for the
// next product. Each row is scaled by a power of two of its own.
static __device__ __forceinline__ void weigh(V (&s)[1][ROWS][OWN], V (&p)[ROWS][CHUNK / TEAM], const Values *values,
                                             const float *sizes, const T *v, int columns, int count, int lane) {
  const int thread = threadIdx.x % 32;
  float size[CHUNK / TEAM], most[ROWS], down[ROWS];
  bool apart = false;
#pragma unroll
  for (int u = 0; u < CHUNK / TEAM; u++) {
    const float own = sizes[u / 2 * 8 + 2 * lane + u % 2];
    apart |= own < 0;
    size[u] = own < 0 ? 0 : own;
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    most[r] = most_of(p[r], size);
    apart |= !(most[r] < K(INF));
  }
  if (__any_sync(0xffffffffu, apart)) {
    add_apart(s, p, v, sizes, columns, count, lane);
#pragma unroll
    for (int r = 0; r < ROWS; r++) most[r] = most_of(p[r], size);
  }
  unsigned a[2][ROWS / 2][CHUNK / 16][4];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const Scale scale = scale_of(most[r]);
    down[r] = scale.down * 6.103515625e-05f;
#pragma unroll
    for (int u = 0; u < CHUNK / TEAM; u += 2) {
      const int m = r / 2, i = u / 4, k = u % 4 + r % 2;
      halve(p[r][u] * size[u] * scale.up, p[r][u + 1] * size[u + 1] * scale.up, a[0][m][i][k], a[1][m][i][k]);
    }
  }
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++) {
    unsigned b[2][CHUNK / 16][2];
#pragma unroll
    for (int i = 0; i < CHUNK / 16; i++) {
      unsigned both[4];
      ldmatrix_x4_trans(both, &values[16 * i + thread % 16][thread / 16 * WIDTH + 8 * n]);
      b[0][i][0] = both[0], b[0][i][1] = both[1], b[1][i][0] = both[2], b[1][i][1] = both[3];
    }
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++) {
      float c[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < CHUNK / 16; i++) {
        mma_m16n8k16_f16(low, a[1][m][i], b[0][i]);
        mma_m16n8k16_f16(low, a[0][m][i], b[1][i]);
        mma_m16n8k16_f16(c, a[0][m][i], b[0][i]);
      }
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int q = 2 * n + e % 2, r = 2 * m + e / 2;
        s[0][r][q] += (low[e] * 4.8828125e-04f + c[e]) * down[r];
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, const T *__restrict__ b3, T *__restrict__ o0, f64 *partial) {
  __shared__ __align__(16) T tile[CHUNK][COL_SLOTS];
  __shared__ __align__(16) Halves of_rows[ROWS * QUADS];
  __shared__ __align__(16) union { Halves of_cols[CHUNK]; Values values[CHUNK]; } both;
  Halves *const of_cols = both.of_cols;
  Values *const values = both.values;
  __shared__ float v_size[CHUNK];
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
  const int pass = 0;
  terms = 0;
  f64 w_m[1][ROWS];
  f64 w_s[1][ROWS][17];
  #pragma unroll
  for (int o = 0; o < 1; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_m[o][r] = K(-INF);
      _Pragma("unroll") for (int q = 0; q < 17; q++) w_s[o][r][q] = K(0);
    }
  for (i64 range = range_begin; range < range_end; range++) {
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    terms += col_end > col_begin ? col_end - col_begin : 0;
    for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {
      V m[1][ROWS];
      V s[1][ROWS][17];
      #pragma unroll
      for (int o = 0; o < 1; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          m[o][r] = K(-INF);
          _Pragma("unroll") for (int q = 0; q < 17; q++) s[o][r][q] = K(0);
        }
      for (i64 first_col = col0; first_col < smaller(col0 + TILE, col_end); first_col += CHUNK) {
        const int count = (int)smaller(CHUNK, col_end - first_col);
        __syncthreads();
        if (const int q = threadIdx.x; q < CHUNK) {
          const i64 col = smaller(first_col + q, col_end - 1);

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
        __syncthreads();
        const T *const v = a2 + first_col * 64 + 0 + pass * WIDTH;
        const int wanted = COUNT - pass * WIDTH;
        for (int c = own; c < CHUNK; c += QUADS) {
          const T *const from = v + smaller(c, count - 1) * 64;
          const float size = halve_values(from, wanted, lane, values[c]);
          if (lane == 0) v_size[c] = size;
        }
        V p[ROWS][CHUNK / TEAM];
        #pragma unroll
        for (int u = 0; u < CHUNK / TEAM; u++) {
          const int c = u / 2 * 8 + 2 * lane + u % 2;
          if (c < count) {
            {
              const V v0_0 = elements0[0][u / 2][0 + u % 2];
              const V v2_0 = v0_0 * v1;
              p[0][u] = v2_0;
            }
            {
              const V v0_1 = elements0[0][u / 2][2 + u % 2];
              const V v2_1 = v0_1 * v1;
              p[1][u] = v2_1;
            }
            {
              const V v0_2 = elements0[1][u / 2][0 + u % 2];
              const V v2_2 = v0_2 * v1;
              p[2][u] = v2_2;
            }
            {
              const V v0_3 = elements0[1][u / 2][2 + u % 2];
              const V v2_3 = v0_3 * v1;
              p[3][u] = v2_3;
            }
          }
          else {
            p[0][u] = K(-INF);
            p[1][u] = K(-INF);
            p[2][u] = K(-INF);
            p[3][u] = K(-INF);
          }
        }
        V by[ROWS];
        bool is_moved = false;
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          V n = K(-INF);
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) n = fmax(p[r][u], n);
          n = fmax(n, __shfl_xor_sync(0xffffffffu, n, 1));
          n = fmax(m[0][r], fmax(n, __shfl_xor_sync(0xffffffffu, n, 2)));
          const V h = finite_or_zero(n);
          by[r] = fast_exp(m[0][r] - h);
          is_moved |= by[r] != 1;
          m[0][r] = n;
          #pragma unroll
          for (int u = 0; u < CHUNK / TEAM; u++) p[r][u] = fast_exp(p[r][u] - h);
        }
        if (__any_sync(0xffffffffu, is_moved)) {
          #pragma unroll
          for (int r = 0; r < ROWS; r++)
          #pragma unroll
            for (int u = 0; u < OWN; u++) s[0][r][u] *= by[r];
        }
        #pragma unroll
        for (int u = 0; u < CHUNK / TEAM; u++) {
          const int c = u / 2 * 8 + 2 * lane + u % 2;
          if (c < count) {
            {
              s[0][0][16] += p[0][u] * K(1.0);
            }
            {
              s[0][1][16] += p[1][u] * K(1.0);
            }
            {
              s[0][2][16] += p[2][u] * K(1.0);
            }
            {
              s[0][3][16] += p[3][u] * K(1.0);
            }
          }
        }
        __syncthreads();
        weigh(s, p, values, v_size, v, count, wanted, lane);
      }
      s[0][0][16] = quad_sum(s[0][0][16]);
      s[0][1][16] = quad_sum(s[0][1][16]);
      s[0][2][16] = quad_sum(s[0][2][16]);
      s[0][3][16] = quad_sum(s[0][3][16]);
      #pragma unroll
      for (int o = 0; o < 1; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_m;
          l_m = (f64)m[o][r];
          f64 l_s[17];
          _Pragma("unroll") for (int q = 0; q < 17; q++) l_s[q] = (f64)s[o][r][q];
          const double h = finite_or_zero(w_m[o][r] > l_m ? w_m[o][r] : l_m), a = exp(w_m[o][r] - h), b = exp(l_m - h); w_m[o][r] = w_m[o][r] > l_m ? w_m[o][r] : l_m; for (int q = 0; q < 17; q++) w_s[o][r][q] = w_s[o][r][q] * a + l_s[q] * b;
        }
    }
  }

  if (const i64 row = row_begin + own + 0 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      const int o = 0;
      const Entries of_row{w_s[0][0], pass};
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane) - 1; q >= 0) {
          (o0 + at_row * 64)[q] = (T)(of_row[q + 1] / of_row[0]);
        }
      }
    }
    else {
      const int o = 0;
      if (lane == 0 && pass == 0) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[0][0];
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane); q >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[0][0][u];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 1 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      const int o = 0;
      const Entries of_row{w_s[0][1], pass};
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane) - 1; q >= 0) {
          (o0 + at_row * 64)[q] = (T)(of_row[q + 1] / of_row[0]);
        }
      }
    }
    else {
      const int o = 0;
      if (lane == 0 && pass == 0) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[0][1];
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane); q >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[0][1][u];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 2 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      const int o = 0;
      const Entries of_row{w_s[0][2], pass};
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane) - 1; q >= 0) {
          (o0 + at_row * 64)[q] = (T)(of_row[q + 1] / of_row[0]);
        }
      }
    }
    else {
      const int o = 0;
      if (lane == 0 && pass == 0) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[0][2];
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane); q >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[0][2][u];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 3 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      const int o = 0;
      const Entries of_row{w_s[0][3], pass};
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane) - 1; q >= 0) {
          (o0 + at_row * 64)[q] = (T)(of_row[q + 1] / of_row[0]);
        }
      }
    }
    else {
      const int o = 0;
      if (lane == 0 && pass == 0) partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_m[0][3];
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int q = place(u, pass, lane); q >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row] = w_s[0][3][u];
        }
      }
    }
  }
}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, T *__restrict__ o0, f64 *partial) {
  const int team = blockDim.x % MERGERS ? 1 : MERGERS, lane = threadIdx.x % team;
  const i64 at_row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / team;
  const i64 batch = at_row / rows, row = at_row % rows, run = (splits + team - 1) / team;
  const i64 first = at_row < batches * rows ? lane * run : splits;
  const i64 last = smaller(splits, first + run);
  for (int o = 0; o < COMPONENTS; o++) {
    f64 w_m;
    f64 w_s[65];
    w_m = K(-INF);
    for (int q = 0; q < 65; q++) w_s[q] = K(0);
    for (i64 split = first; split < last; split++) {
      f64 l_m;
      l_m = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row];
      f64 l_s[65];
      for (int q = 0; q < 65; q++) l_s[q] = partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 1 + q) * rows + row];
      const double h = finite_or_zero(w_m > l_m ? w_m : l_m), a = exp(w_m - h), b = exp(l_m - h); w_m = w_m > l_m ? w_m : l_m; for (int q = 0; q < 65; q++) w_s[q] = w_s[q] * a + l_s[q] * b;
    }
    if (lane == 0 && at_row < batches * rows) {
      if (o >= 0 && o < 1) {
        for (int q = 0; q < 64; q++) (o0 + at_row * 64)[q] = (T)(w_s[q + 1] / w_s[0]);
      }
    }
  }
}
