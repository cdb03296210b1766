// Farfield: Min_ArgMin over both axes, rows are i
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
HOT void unzip_2(const T *from, T *to, i64 pitch) {
#ifdef __clang__
  for (int l = 0; l < LANES; l++)
    for (int d = 0; d < 2; d++) to[d * pitch + l] = from[l * 2 + d];
#else
  typedef V Unaligned __attribute__((aligned(sizeof(T))));
  I lane;
  for (int l = 0; l < LANES; l++) lane[l] = l;
  const V p0 = *(const Unaligned *)(from + 0 * LANES);
  const V p1 = *(const Unaligned *)(from + 1 * LANES);
  const I i0 = lane * KI(2) + KI(0);
  *(V *)(to + 0 * pitch) = __builtin_shuffle(p0, p1, i0);
  const I i1 = lane * KI(2) + KI(1);
  *(V *)(to + 1 * pitch) = __builtin_shuffle(p0, p1, i1);
#endif
}

enum { ROWS = 2, GROUP = ROWS * LANES, BLOCK = 256, TILE = 256, CHUNK = 8 };
enum { COMPONENTS = 1, SLOTS = 2, ROW_SLOTS = 2, COL_SLOTS = 2 };
enum { OVER_ROWS = 1, X_GROUP = ROW_SLOTS * GROUP, LANE_STATE = COMPONENTS * SLOTS * GROUP };
// Between components lies an odd number of cache lines: a power of two would have them meet in few sets.
enum { LINE = 64 / sizeof(T), PITCH = ((TILE + LINE - 1) / LINE | 1) * LINE };
enum { WIDE = BLOCK + 8, SPAN = CHUNK + 1 };

HOT i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
HOT V *at(T *memory, i64 element) { return (V *)(memory + element); }

extern "C" int farfield_reduce(i64 rows, i64 cols, i64 splits, i64 end, i64 row_blocks, const i64 *blocks,
                               const i64 *ranges, const i64 *offsets, const void *const *in, void *const *out,
                               f64 *partial, i64 *ticket) {
  T *const o0 = (T *)out[0];
  i64 *const o1 = (i64 *)out[1];
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
    const T *const a0 = (const T *)in[0] + (offsets ? offsets[batch * 2 + 0] : 0);
    const T *const a1 = (const T *)in[1] + (offsets ? offsets[batch * 2 + 1] : 0);

    {
      int l = 0;
      for (; l + LANES <= n; l += LANES) {
        unzip_2(a0 + (row0 + l) * 2, &X[(l) / GROUP * X_GROUP + 0 * GROUP + (l) % GROUP], GROUP);
      }
      for (; l < BLOCK; l++) {
        X[(l) / GROUP * X_GROUP + 0 * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 2 + 0 + 0];
        X[(l) / GROUP * X_GROUP + 1 * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 2 + 0 + 1];
      }
    }
    for (int o = 0; o < COMPONENTS; o++)
      for (int l = 0; l < BLOCK; l++) {
        for (int f = 0; f < 1; f++) wide[o][f][l] = (INF);
        for (int f = 1; f < 2; f++) wide[o][f][l] = (-1);
      }
    for (const i64 *range = blocks ? ranges + 2 * entry[2] : whole; range != range_end; range += 2) {
      terms += range[1] > range[0] ? range[1] - range[0] : 0;
      for (i64 col0 = range[0]; col0 < range[1]; col0 += TILE) {
        const i64 m = smaller(TILE, range[1] - col0);
        {
          int l = 0;
          for (; l + LANES <= m; l += LANES) {
            unzip_2(a1 + (col0 + l) * 2, &Y[0 * PITCH + l], PITCH);
          }
          for (; l < m; l++) {
            Y[0 * PITCH + l] = a1[(col0 + l) * 2 + 0 + 0];
            Y[1 * PITCH + l] = a1[(col0 + l) * 2 + 0 + 1];
          }
        }
        for (int g = 0; g < n; g += GROUP) {
          T *const lane = lanes + 0 * LANE_STATE;
          const V v0_0 = *at(X, g * ROW_SLOTS + 0 * GROUP + 0 * LANES);
          const V v1_0 = *at(X, g * ROW_SLOTS + 1 * GROUP + 0 * LANES);
          const V v0_1 = *at(X, g * ROW_SLOTS + 0 * GROUP + 1 * LANES);
          const V v1_1 = *at(X, g * ROW_SLOTS + 1 * GROUP + 1 * LANES);
          V m_0_0 = K(INF);
          I k_0_0 = KI(-1);
          V m_0_1 = K(INF);
          I k_0_1 = KI(-1);
          for (i64 c = 0; c < m; c++) {
            const V v2 = K(Y[0 * PITCH + c]);
            const V v3 = K(Y[1 * PITCH + c]);
            {
              const V v4_0 = v0_0 - v2;
              const V v5_0 = v1_0 - v3;
              const V v6_0 = v4_0 * v4_0;
              const V v7_0 = v5_0 * v5_0;
              const V v8_0 = v6_0 + v7_0;
              {
                const auto w = !(v8_0 >= m_0_0) & (m_0_0 == m_0_0); m_0_0 = w ? v8_0 : m_0_0; k_0_0 = w ? KI(c) : k_0_0;
              }
            }
            {
              const V v4_1 = v0_1 - v2;
              const V v5_1 = v1_1 - v3;
              const V v6_1 = v4_1 * v4_1;
              const V v7_1 = v5_1 * v5_1;
              const V v8_1 = v6_1 + v7_1;
              {
                const auto w = !(v8_1 >= m_0_1) & (m_0_1 == m_0_1); m_0_1 = w ? v8_1 : m_0_1; k_0_1 = w ? KI(c) : k_0_1;
              }
            }
          }
          *(V *)(lane + (0 * SLOTS + 0) * GROUP + 0 * LANES) = m_0_0;
          *(I *)(lane + (0 * SLOTS + 1) * GROUP + 0 * LANES) = k_0_0;
          *(V *)(lane + (0 * SLOTS + 0) * GROUP + 1 * LANES) = m_0_1;
          *(I *)(lane + (0 * SLOTS + 1) * GROUP + 1 * LANES) = k_0_1;
          for (int o = 0; o < COMPONENTS; o++) {
            const T *const p_m = (const T *)lane + (o * SLOTS + 0) * GROUP;
            const IT *const p_k = (const IT *)lane + (o * SLOTS + 1) * GROUP;
            for (int l = 0; l < GROUP; l++) {
              f64 &w_m = wide[o][0][g + l];
              f64 &w_k = wide[o][1][g + l];
              const f64 l_m = (f64)p_m[l];
              const f64 l_k = p_k[l] < 0 ? -1 : f64(col0 + p_k[l]);
              if (l_m < w_m || (l_m != l_m && w_m == w_m)) { w_m = l_m; w_k = l_k; }
            }
          }
        }
      }
    }
    if (splits == 1 && !OVER_ROWS) {
      for (int l = 0; l < n; l++) {
        const i64 at_row = batch * rows + row0 + l;
        for (int o = 0; o < 1; o++) {
          f64 &w_m = wide[o][0][l];
          f64 &w_k = wide[o][1][l];
          (o0 + at_row * 1)[o] = (T)(w_m);
        }
        for (int o = 0; o < 1; o++) {
          f64 &w_m = wide[o][0][l];
          f64 &w_k = wide[o][1][l];
          (o1 + at_row * 1)[o] = (i64)(w_k < 0 && terms > 0 ? 0 : w_k);
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
  i64 *const o1 = (i64 *)out[1];
  const int l = 0;
  // Not on the stack: in functions that call no other, GCC 12 misplaces arrays that it copies by aligned moves.
  f64 (*const wide)[SLOTS][1] = (f64 (*)[SLOTS][1])__builtin_malloc(COMPONENTS * SLOTS * sizeof(f64));
  if (!wide) return 1;
  for (i64 batch = 0; batch < batches; batch++)
    for (i64 first = 0; first < (OVER_ROWS ? 1 : rows); first++) {
      const i64 at_row = OVER_ROWS ? batch : batch * rows + first;
      for (int o = 0; o < COMPONENTS; o++) {
        for (int f = 0; f < 1; f++) wide[o][f][l] = (INF);
        for (int f = 1; f < 2; f++) wide[o][f][l] = (-1);
        for (i64 row = first; row < (OVER_ROWS ? rows : first + 1); row++)
          for (i64 split = 0; split < splits; split++) {
            const f64 *const later = partial + ((batch * splits + split) * COMPONENTS + o) * SLOTS * rows + row;
            f64 &w_m = wide[o][0][0];
            f64 &w_k = wide[o][1][0];
            const f64 l_m = later[(0 + 0) * rows];
            const f64 l_k = later[(1 + 0) * rows] < 0 ? -1 : f64(row) * f64(cols) + later[(1 + 0) * rows];
            if (l_m < w_m || (l_m != l_m && w_m == w_m)) { w_m = l_m; w_k = l_k; }
          }
      }
      for (int o = 0; o < 1; o++) {
        f64 &w_m = wide[o][0][l];
        f64 &w_k = wide[o][1][l];
        (o0 + at_row * 1)[o] = (T)(w_m);
      }
      for (int o = 0; o < 1; o++) {
        f64 &w_m = wide[o][0][l];
        f64 &w_k = wide[o][1][l];
        (o1 + at_row * 1)[o] = (i64)(w_k < 0 && terms > 0 ? 0 : w_k);
      }
    }
  __builtin_free(wide);
  return 0;
}
