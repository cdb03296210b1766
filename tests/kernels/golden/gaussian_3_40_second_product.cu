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
#define TILE 512
#define CHUNK 32
#define DEPTH 0
#define STEP 0
#define PITCH 8
#define THREADS 128
#define RESIDENT 3
#define TEAM 4
#define MERGERS 32
#define COL_SLOTS 4
#define COMPONENTS 40
#define SLOTS 1
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

#define WIDTH 40
#define PASSES 1
#define OWN 10
#define FIRST 0
#define COUNT 40

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
static __device__ __forceinline__ void add_apart(V (&s)[OWN][ROWS], V (&p)[ROWS][CHUNK / TEAM], const T *v,
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
        const V y = k < count ? v[c * 40 + k] : 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) s[q][r] += is_own[r] ? w[r] * y : 0;
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
static __device__ __forceinline__ void weigh(V (&s)[OWN][ROWS], V (&p)[ROWS][CHUNK / TEAM], const Values *values,
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
        s[q][r] += (low[e] * 4.8828125e-04f + c[e]) * down[r];
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets, const T *__restrict__ b0, const T *__restrict__ b1, const T *__restrict__ b2, const T *__restrict__ b3, T *__restrict__ o0, f64 *partial) {
  __shared__ __align__(16) T tile[CHUNK][COL_SLOTS];
  __shared__ __align__(16) Values values[CHUNK];
  __shared__ float v_size[CHUNK];
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
  const V v0 = a3[0];
  const V v15 = -v0;
  const V v16 = v15 * K(1.4426950408889634);
  const V v17 = v16 - v16 == K(0) ? v16 : v15;
  const i64 row0 = smaller(row_begin + own + 0 * own_rows, row_end - 1);
  const V v1_0 = a0[(row0) * 3 + 0];
  const V v2_0 = a0[(row0) * 3 + 1];
  const V v3_0 = a0[(row0) * 3 + 2];
  const i64 row1 = smaller(row_begin + own + 1 * own_rows, row_end - 1);
  const V v1_1 = a0[(row1) * 3 + 0];
  const V v2_1 = a0[(row1) * 3 + 1];
  const V v3_1 = a0[(row1) * 3 + 2];
  const i64 row2 = smaller(row_begin + own + 2 * own_rows, row_end - 1);
  const V v1_2 = a0[(row2) * 3 + 0];
  const V v2_2 = a0[(row2) * 3 + 1];
  const V v3_2 = a0[(row2) * 3 + 2];
  const i64 row3 = smaller(row_begin + own + 3 * own_rows, row_end - 1);
  const V v1_3 = a0[(row3) * 3 + 0];
  const V v2_3 = a0[(row3) * 3 + 1];
  const V v3_3 = a0[(row3) * 3 + 2];
  __syncthreads();
  const int pass = 0;
  terms = 0;
  f64 w_s[OWN][ROWS];
  #pragma unroll
  for (int o = 0; o < OWN; o++)
  #pragma unroll
    for (int r = 0; r < ROWS; r++) {
      w_s[o][r] = K(0);
    }
  for (i64 range = range_begin; range < range_end; range++) {
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    terms += col_end > col_begin ? col_end - col_begin : 0;
    for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {
      V s[OWN][ROWS];
      #pragma unroll
      for (int o = 0; o < OWN; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          s[o][r] = K(0);
        }
      for (i64 first_col = col0; first_col < smaller(col0 + TILE, col_end); first_col += CHUNK) {
        const int count = (int)smaller(CHUNK, col_end - first_col);
        __syncthreads();
        if (const int q = threadIdx.x; q < CHUNK) {
          const i64 col = smaller(first_col + q, col_end - 1);
          const V v4 = a1[(col) * 3 + 0];
          const V v5 = a1[(col) * 3 + 1];
          const V v6 = a1[(col) * 3 + 2];
          T *const y = tile[q];
          *(Vector4 *)(y + 0) = Vector4{v4, v5, v6, K(0)};
        }
        const T *const v = a2 + first_col * 40 + 0 + pass * WIDTH;
        const int wanted = COUNT - pass * WIDTH;
        for (int c = own; c < CHUNK; c += QUADS) {
          const T *const from = v + smaller(c, count - 1) * 40;
          const float size = halve_values(from, wanted, lane, values[c]);
          if (lane == 0) v_size[c] = size;
        }
        __syncthreads();
        V p[ROWS][CHUNK / TEAM];
        #pragma unroll
        for (int u = 0; u < CHUNK / TEAM; u++) {
          const int c = u / 2 * 8 + 2 * lane + u % 2;
          if (c < count) {
            const T *const y = tile[c];
            const Vector4 y0 = *(const Vector4 *)(y + 0);
            const V v4 = y0.x;
            const V v5 = y0.y;
            const V v6 = y0.z;
            {
              const V v7_0 = v1_0 - v4;
              const V v8_0 = v2_0 - v5;
              const V v9_0 = v3_0 - v6;
              const V v10_0 = v7_0 * v7_0;
              const V v11_0 = v8_0 * v8_0;
              const V v12_0 = v9_0 * v9_0;
              const V v13_0 = v10_0 + v11_0;
              const V v14_0 = v13_0 + v12_0;
              const V v18_0 = v17 * v14_0;
              const V v19_0 = ex2_approx(v18_0);
              p[0][u] = v19_0;
            }
            {
              const V v7_1 = v1_1 - v4;
              const V v8_1 = v2_1 - v5;
              const V v9_1 = v3_1 - v6;
              const V v10_1 = v7_1 * v7_1;
              const V v11_1 = v8_1 * v8_1;
              const V v12_1 = v9_1 * v9_1;
              const V v13_1 = v10_1 + v11_1;
              const V v14_1 = v13_1 + v12_1;
              const V v18_1 = v17 * v14_1;
              const V v19_1 = ex2_approx(v18_1);
              p[1][u] = v19_1;
            }
            {
              const V v7_2 = v1_2 - v4;
              const V v8_2 = v2_2 - v5;
              const V v9_2 = v3_2 - v6;
              const V v10_2 = v7_2 * v7_2;
              const V v11_2 = v8_2 * v8_2;
              const V v12_2 = v9_2 * v9_2;
              const V v13_2 = v10_2 + v11_2;
              const V v14_2 = v13_2 + v12_2;
              const V v18_2 = v17 * v14_2;
              const V v19_2 = ex2_approx(v18_2);
              p[2][u] = v19_2;
            }
            {
              const V v7_3 = v1_3 - v4;
              const V v8_3 = v2_3 - v5;
              const V v9_3 = v3_3 - v6;
              const V v10_3 = v7_3 * v7_3;
              const V v11_3 = v8_3 * v8_3;
              const V v12_3 = v9_3 * v9_3;
              const V v13_3 = v10_3 + v11_3;
              const V v14_3 = v13_3 + v12_3;
              const V v18_3 = v17 * v14_3;
              const V v19_3 = ex2_approx(v18_3);
              p[3][u] = v19_3;
            }
          }
          else {
            p[0][u] = 0;
            p[1][u] = 0;
            p[2][u] = 0;
            p[3][u] = 0;
          }
        }
        weigh(s, p, values, v_size, v, count, wanted, lane);
      }
      #pragma unroll
      for (int o = 0; o < OWN; o++)
      #pragma unroll
        for (int r = 0; r < ROWS; r++) {
          f64 l_s;
          l_s = (f64)s[o][r];
          w_s[o][r] += l_s;
        }
    }
  }

  if (const i64 row = row_begin + own + 0 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          if (o >= 0 && o < 40) {
            (o0 + at_row * 40)[o] = (T)(w_s[u][0]);
          }
        }
      }
    }
    else {
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[u][0];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 1 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          if (o >= 0 && o < 40) {
            (o0 + at_row * 40)[o] = (T)(w_s[u][1]);
          }
        }
      }
    }
    else {
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[u][1];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 2 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          if (o >= 0 && o < 40) {
            (o0 + at_row * 40)[o] = (T)(w_s[u][2]);
          }
        }
      }
    }
    else {
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[u][2];
        }
      }
    }
  }
  if (const i64 row = row_begin + own + 3 * own_rows; row < row_end) {
    if (splits == 1) {
      const i64 at_row = batch * rows + row;
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          if (o >= 0 && o < 40) {
            (o0 + at_row * 40)[o] = (T)(w_s[u][3]);
          }
        }
      }
    }
    else {
      #pragma unroll 1
      for (int u = 0; u < OWN; u++) {
        if (const int o = place(u, pass, lane); o >= 0) {
          partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + 0) * rows + row] = w_s[u][3];
        }
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
      if (o >= 0 && o < 40) {
        (o0 + at_row * 40)[o] = (T)(w_s);
      }
    }
  }
}
