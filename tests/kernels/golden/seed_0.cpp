// Farfield: Sum over columns, rows are i
#pragma GCC optimize("schedule-insns", "sched-pressure")
typedef long long i64;
typedef double f64;
typedef float T;
typedef int IT;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#ifndef __clang__
#define AVX512_BUILTINS  // clang has other names for these
#endif
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
typedef T V __attribute__((vector_size(BYTES)));
typedef IT I __attribute__((vector_size(BYTES)));
enum { LANES = BYTES / sizeof(T) };
#define INF __builtin_inf()
#define INLINE __attribute__((always_inline))
#define HOT static inline INLINE
HOT V K(T a) { return a - (V){}; }
HOT I KI(IT a) { return a - (I){}; }
template <class E> struct Entries {
  E *p; i64 step;
  INLINE E &operator[](i64 q) const { return p[q * step]; }
};
struct Reads {
  const T *p; i64 step;
  INLINE f64 operator[](i64 q) const { return p[q * step]; }
};
#ifdef AVX512_BUILTINS
HOT V nearest(V t) { return __builtin_ia32_rndscaleps_mask(t, 8, t, (unsigned short)-1, 4); }
#else
HOT V nearest(V t) { const V magic = K(12582912.0f); return (t + magic) - magic; }
#endif
HOT void unzip_1(const T *from, T *to, i64 pitch) {
#ifdef __clang__
  for (int l = 0; l < LANES; l++)
    for (int d = 0; d < 1; d++) to[d * pitch + l] = from[l * 1 + d];
#else
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  I lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
  const V p0 = *(const Unaligned *)(from + 0 * LANES);
  *(V *)(to + 0 * pitch) = p0;
#endif
}
HOT void unzip_3(const T *from, T *to, i64 pitch) {
#ifdef __clang__
  for (int l = 0; l < LANES; l++)
    for (int d = 0; d < 3; d++) to[d * pitch + l] = from[l * 3 + d];
#else
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  I lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
  const V p0 = *(const Unaligned *)(from + 0 * LANES);
  const V p1 = *(const Unaligned *)(from + 1 * LANES);
  const V p2 = *(const Unaligned *)(from + 2 * LANES);
  const I i0 = lane * KI(3) + KI(0);
  *(V *)(to + 0 * pitch) = __builtin_shuffle(__builtin_shuffle(p0, p1, i0), p2, i0 < KI(2 * LANES) ? lane : i0 - KI(1 * LANES));
  const I i1 = lane * KI(3) + KI(1);
  *(V *)(to + 1 * pitch) = __builtin_shuffle(__builtin_shuffle(p0, p1, i1), p2, i1 < KI(2 * LANES) ? lane : i1 - KI(1 * LANES));
  const I i2 = lane * KI(3) + KI(2);
  *(V *)(to + 2 * pitch) = __builtin_shuffle(__builtin_shuffle(p0, p1, i2), p2, i2 < KI(2 * LANES) ? lane : i2 - KI(1 * LANES));
#endif
}
#ifdef AVX512_BUILTINS
HOT V scaled(V p, V n) { return __builtin_ia32_scalefps512_mask(p, n, p, (unsigned short)-1, 4); }
HOT V clamped(V x, V low, V high) {  // NaN, as the second operand, stays
  x = __builtin_ia32_minps512_mask(high, x, x, (unsigned short)-1, 4);
  return __builtin_ia32_maxps512_mask(low, x, x, (unsigned short)-1, 4);
}
#else
HOT V scaled(V p, V n) {
  const I k = __builtin_convertvector(n, I), half = k >> 1;
  return p * (V)((half + 127) << 23) * (V)((k - half + 127) << 23);
}
HOT V clamped(V x, V low, V high) {
  x = high < x ? high : x;
  return x < low ? low : x;
}
#endif
HOT V exp(V x) {
  x = clamped(x, K(-105.0f), K(90.0f));
  const V n = nearest(x * K(1.44269504f));
  const V r = (x - n * K(0.693359375f)) - n * K(-2.12194440e-4f);
  V p = K(0.0013814537893f);
  p = p * r + K(0.0083687453200f);
  p = p * r + K(0.041668390831f);
  p = p * r + K(0.16666520397f);
  p = p * r + K(0.49999993432f);
  return scaled((p * r + K(1)) * r + K(1), n);
}
HOT f64 exp(f64 x) { return __builtin_exp(x); }

enum { ROWS = 2, GROUP = ROWS * LANES, BLOCK = 256, TILE = 256, CHUNK = 8 };
enum { COMPONENTS = 3, SLOTS = 1, ROW_SLOTS = 3, COL_SLOTS = 5 };
enum { OVER_ROWS = 0, X_GROUP = ROW_SLOTS * GROUP, LANE_STATE = COMPONENTS * SLOTS * GROUP };
// Between components lies an odd number of cache lines: a power of two would have them meet in few sets.
enum { LINE = 64 / sizeof(T), PITCH = ((TILE + LINE - 1) / LINE | 1) * LINE };
enum { WIDE = BLOCK + 8, SPAN = CHUNK + 1 };

HOT i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
HOT V *at(T *memory, i64 element) { return (V *)(memory + element); }

extern "C" int farfield_reduce(i64 rows, i64 cols, i64 splits, i64 end, i64 row_blocks, const i64 *blocks,
                               const i64 *ranges, const i64 *offsets, const void *const *in, void *const *out,
                               f64 *partial, i64 *ticket) {
  T *const o0 = (T *)out[0];
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 x_size = ROW_SLOTS * BLOCK, y_size = COL_SLOTS * PITCH, s_size = 0 * SPAN * GROUP;
  const i64 lane_size = 1 * LANE_STATE, wide_bytes = COMPONENTS * SLOTS * WIDE * sizeof(f64);
  char *const allocated =
      (char *)__builtin_malloc((x_size + y_size + s_size + lane_size) * sizeof(T) + wide_bytes + BYTES);
  if (!allocated) return 1;
  T *const X = (T *)(allocated + (BYTES - (unsigned long)allocated % BYTES));
  T *const Y = X + x_size;
  T *const S = Y + y_size;
  T *const lanes = S + s_size;  // lane states: [component][slot][row of the group]
  f64 (*const wide)[SLOTS][WIDE] = (f64 (*)[SLOTS][WIDE])(lanes + lane_size);
  for (;;) {
    const i64 unit = __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED);
    if (unit >= end) break;
    const i64 batch = unit / (row_blocks * splits), block = unit / splits % row_blocks, split = unit % splits;
    const i64 whole[2] = {split * span, smaller(cols, (split + 1) * span)};
    const i64 *const entry = blocks + 4 * block;
    const i64 row0 = blocks ? entry[0] : block * BLOCK;
    const int n = (int)((blocks ? entry[1] : smaller(rows, row0 + BLOCK)) - row0);
    const i64 *const range_end = blocks ? ranges + 2 * entry[3] : whole + 2;
    i64 terms = 0;
    const T *const a0 = (const T *)in[0] + (offsets ? offsets[batch * 4 + 0] : 0);
    const T *const a1 = (const T *)in[1] + (offsets ? offsets[batch * 4 + 1] : 0);
    const T *const a2 = (const T *)in[2] + (offsets ? offsets[batch * 4 + 2] : 0);
    const T *const a3 = (const T *)in[3] + (offsets ? offsets[batch * 4 + 3] : 0);
    const V v0 = K(a3[0]);
    {
      int l = 0;
      for (; l + LANES <= n; l += LANES) {
        unzip_3(a0 + (row0 + l) * 3, &X[(l) / GROUP * X_GROUP + 0 * GROUP + (l) % GROUP], GROUP);
      }
      for (; l < BLOCK; l++) {
        X[(l) / GROUP * X_GROUP + 0 * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 3 + 0 + 0];
        X[(l) / GROUP * X_GROUP + 1 * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 3 + 0 + 1];
        X[(l) / GROUP * X_GROUP + 2 * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 3 + 0 + 2];
      }
    }
    for (int o = 0; o < COMPONENTS; o++)
      for (int l = 0; l < BLOCK; l++) {
        for (int f = 0; f < 1; f++) wide[o][f][l] = (0);
      }
    for (const i64 *range = blocks ? ranges + 2 * entry[2] : whole; range != range_end; range += 2) {
      terms += range[1] > range[0] ? range[1] - range[0] : 0;
      for (i64 col0 = range[0]; col0 < range[1]; col0 += TILE) {
        const i64 m = smaller(TILE, range[1] - col0);
        {
          int l = 0;
          for (; l + LANES <= m; l += LANES) {
            unzip_1(a2 + (col0 + l) * 1, &Y[0 * PITCH + l], PITCH);
            unzip_3(a1 + (col0 + l) * 3, &Y[2 * PITCH + l], PITCH);
          }
          for (; l < m; l++) {
            Y[0 * PITCH + l] = a2[(col0 + l) * 1 + 0 + 0];
            Y[2 * PITCH + l] = a1[(col0 + l) * 3 + 0 + 0];
            Y[3 * PITCH + l] = a1[(col0 + l) * 3 + 0 + 1];
            Y[4 * PITCH + l] = a1[(col0 + l) * 3 + 0 + 2];
          }
        }
        for (int l = 0; l < m; l += LANES) {
          const V v1 = *(V *)&Y[0 * PITCH + l];
          const V v2 = v0 - v1;
          const V v3 = v2 * v2;
          *(V *)&Y[1 * PITCH + l] = v3;
        }
        for (int g = 0; g < n; g += GROUP) {
          T *const lane = lanes + 0 * LANE_STATE;
          const V v4_0 = *at(X, g * ROW_SLOTS + 0 * GROUP + 0 * LANES);
          const V v5_0 = *at(X, g * ROW_SLOTS + 1 * GROUP + 0 * LANES);
          const V v6_0 = *at(X, g * ROW_SLOTS + 2 * GROUP + 0 * LANES);
          const V v4_1 = *at(X, g * ROW_SLOTS + 0 * GROUP + 1 * LANES);
          const V v5_1 = *at(X, g * ROW_SLOTS + 1 * GROUP + 1 * LANES);
          const V v6_1 = *at(X, g * ROW_SLOTS + 2 * GROUP + 1 * LANES);
          V s_0_0 = K(0);
          V s_1_0 = K(0);
          V s_2_0 = K(0);
          V s_0_1 = K(0);
          V s_1_1 = K(0);
          V s_2_1 = K(0);
          for (i64 c0 = 0; c0 < m; c0 += CHUNK) {
            const i64 c1 = smaller(m, c0 + CHUNK);
            V chunk_s_0_0 = K(0);
            V chunk_s_1_0 = K(0);
            V chunk_s_2_0 = K(0);
            V chunk_s_0_1 = K(0);
            V chunk_s_1_1 = K(0);
            V chunk_s_2_1 = K(0);
            for (i64 c = c0; c < c1; c++) {
              const V v3 = K(Y[1 * PITCH + c]);
              const V v7 = K(Y[2 * PITCH + c]);
              const V v8 = K(Y[3 * PITCH + c]);
              const V v9 = K(Y[4 * PITCH + c]);
              {
                const V v10_0 = v4_0 + v7;
                const V v11_0 = v5_0 + v8;
                const V v12_0 = v6_0 + v9;
                const V v13_0 = exp(v10_0);
                const V v14_0 = exp(v11_0);
                const V v15_0 = exp(v12_0);
                const V v16_0 = v3 * v13_0;
                {
                  chunk_s_0_0 = chunk_s_0_0 + v16_0;
                }
                const V v17_0 = v3 * v14_0;
                {
                  chunk_s_1_0 = chunk_s_1_0 + v17_0;
                }
                const V v18_0 = v3 * v15_0;
                {
                  chunk_s_2_0 = chunk_s_2_0 + v18_0;
                }
              }
              {
                const V v10_1 = v4_1 + v7;
                const V v11_1 = v5_1 + v8;
                const V v12_1 = v6_1 + v9;
                const V v13_1 = exp(v10_1);
                const V v14_1 = exp(v11_1);
                const V v15_1 = exp(v12_1);
                const V v16_1 = v3 * v13_1;
                {
                  chunk_s_0_1 = chunk_s_0_1 + v16_1;
                }
                const V v17_1 = v3 * v14_1;
                {
                  chunk_s_1_1 = chunk_s_1_1 + v17_1;
                }
                const V v18_1 = v3 * v15_1;
                {
                  chunk_s_2_1 = chunk_s_2_1 + v18_1;
                }
              }
            }
            s_0_0 += chunk_s_0_0;
            s_1_0 += chunk_s_1_0;
            s_2_0 += chunk_s_2_0;
            s_0_1 += chunk_s_0_1;
            s_1_1 += chunk_s_1_1;
            s_2_1 += chunk_s_2_1;
          }
          *(V *)(lane + (0 * SLOTS + 0) * GROUP + 0 * LANES) = s_0_0;
          *(V *)(lane + (1 * SLOTS + 0) * GROUP + 0 * LANES) = s_1_0;
          *(V *)(lane + (2 * SLOTS + 0) * GROUP + 0 * LANES) = s_2_0;
          *(V *)(lane + (0 * SLOTS + 0) * GROUP + 1 * LANES) = s_0_1;
          *(V *)(lane + (1 * SLOTS + 0) * GROUP + 1 * LANES) = s_1_1;
          *(V *)(lane + (2 * SLOTS + 0) * GROUP + 1 * LANES) = s_2_1;
          for (int o = 0; o < COMPONENTS; o++) {
            const T *const p_s = (const T *)lane + (o * SLOTS + 0) * GROUP;
            for (int l = 0; l < GROUP; l++) {
              f64 &w_s = wide[o][0][g + l];
              const f64 l_s = (f64)p_s[l];
              w_s += l_s;
            }
          }
        }
      }
    }
    if (splits == 1 && !OVER_ROWS) {
      for (int l = 0; l < n; l++) {
        const i64 at_row = batch * rows + row0 + l;
        for (int o = 0; o < 3; o++) {
          f64 &w_s = wide[o][0][l];
          (o0 + at_row * 3)[o] = (T)(w_s);
        }
      }
    } else {
      for (int o = 0; o < COMPONENTS; o++)
        for (int f = 0; f < SLOTS; f++)
          for (int l = 0; l < n; l++)
            partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + f) * rows + row0 + l] = wide[o][f][l];
    }
  }
  __builtin_free(allocated);
  return 0;
}

extern "C" int farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, void *const *out,
                              const f64 *partial) {
  T *const o0 = (T *)out[0];
  const int l = 0;
  // Not on the stack: in functions that call no other, GCC 12 misplaces arrays that it copies by aligned moves.
  f64 (*const wide)[SLOTS][1] = (f64 (*)[SLOTS][1])__builtin_malloc(COMPONENTS * SLOTS * sizeof(f64));
  if (!wide) return 1;
  for (i64 batch = 0; batch < batches; batch++)
    for (i64 first = 0; first < (OVER_ROWS ? 1 : rows); first++) {
      const i64 at_row = OVER_ROWS ? batch : batch * rows + first;
      for (int o = 0; o < COMPONENTS; o++) {
        for (int f = 0; f < 1; f++) wide[o][f][l] = (0);
        for (i64 row = first; row < (OVER_ROWS ? rows : first + 1); row++)
          for (i64 split = 0; split < splits; split++) {
            const f64 *const later = partial + ((batch * splits + split) * COMPONENTS + o) * SLOTS * rows + row;
            f64 &w_s = wide[o][0][0];
            const f64 l_s = later[(0 + 0) * rows];
            w_s += l_s;
          }
      }
      for (int o = 0; o < 3; o++) {
        f64 &w_s = wide[o][0][l];
        (o0 + at_row * 3)[o] = (T)(w_s);
      }
    }
  __builtin_free(wide);
  return 0;
}
