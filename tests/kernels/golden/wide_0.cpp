// Farfield: Sum over columns, rows are i
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
HOT V exp2(V x) {
#if defined(AVX512_BUILTINS) && __GNUC__ >= 12
  const V f = __builtin_ia32_reduceps512_mask_round(x, 8, x, (unsigned short)-1, 4), n = x - f;
#else
  x = clamped(x, K(-152.0f), K(129.0f));
  const V n = nearest(x), f = x - n;
#endif
  V p = K(0.0001559460441f);
  p = p * f + K(0.001340664357f);
  p = p * f + K(0.009617693255f);
  p = p * f + K(0.05550310552f);
  p = p * f + K(0.2402265278f);
  p = p * f + K(0.693147215f);
  return scaled(p * f + K(1), n);
}

enum { ROWS = 2, GROUP = ROWS * LANES, BLOCK = 256, TILE = 240, CHUNK = 96 };
enum { COMPONENTS = 10, SLOTS = 1, ROW_SLOTS = 12, COL_SLOTS = 22 };
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
  const i64 x_size = ROW_SLOTS * BLOCK, y_size = COL_SLOTS * PITCH, s_size = 2 * SPAN * GROUP;
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
    const T *const a0 = (const T *)in[0] + (offsets ? offsets[batch * 3 + 0] : 0);
    const T *const a1 = (const T *)in[1] + (offsets ? offsets[batch * 3 + 1] : 0);
    const T *const a2 = (const T *)in[2] + (offsets ? offsets[batch * 3 + 2] : 0);
    const V v60 = K(-1) * K(1.4426950408889634);
    const V v61 = v60 - v60 == K(0) ? v60 : K(-1);
    for (int l = 0; l < BLOCK; l++) {
      for (int k = 0; k < 12; k++) X[(l) / GROUP * X_GROUP + (0 + k) * GROUP + (l) % GROUP] = a0[(row0 + (l < n ? l : n - 1)) * 12 + 0 + k];
    }
    for (int o = 0; o < COMPONENTS; o++)
      for (int l = 0; l < BLOCK; l++) {
        for (int f = 0; f < 1; f++) wide[o][f][l] = (0);
      }
    for (const i64 *range = blocks ? ranges + 2 * entry[2] : whole; range != range_end; range += 2) {
      terms += range[1] > range[0] ? range[1] - range[0] : 0;
      for (i64 col0 = range[0]; col0 < range[1]; col0 += TILE) {
        const i64 m = smaller(TILE, range[1] - col0);
        for (int l = 0; l < m; l++) {
          for (int k = 0; k < 12; k++) Y[(0 + k) * PITCH + l] = a1[(col0 + l) * 12 + 0 + k];
          for (int k = 0; k < 10; k++) Y[(12 + k) * PITCH + l] = a2[(col0 + l) * 10 + 0 + k];
        }
        for (int g = 0; g < n; g += GROUP) {
          T *const lane = lanes + 0 * LANE_STATE;
          for (int o = 0; o < COMPONENTS; o++) {
            for (int l = 0; l < GROUP; l += LANES) {
              for (int f = 0; f < 1; f++) *(V *)(lane + (o * SLOTS + f) * GROUP + l) = K(0);
            }
          }
          for (i64 c0 = 0; c0 < m; c0 += CHUNK) {
            const i64 c1 = smaller(m, c0 + CHUNK);
            #if defined(__AVX512F__)
            static_assert(TILE % 16 == 0 && CHUNK % 16 == 0, "tiles are whole");
            for (i64 c = c0; c < c1; c += 16) {
              V t_0_0 = K(-0.0);
              V t_0_1 = K(-0.0);
              V t_0_2 = K(-0.0);
              V t_0_3 = K(-0.0);
              V t_0_4 = K(-0.0);
              V t_0_5 = K(-0.0);
              V t_0_6 = K(-0.0);
              V t_0_7 = K(-0.0);
              V t_0_8 = K(-0.0);
              V t_0_9 = K(-0.0);
              V t_0_10 = K(-0.0);
              V t_0_11 = K(-0.0);
              V t_0_12 = K(-0.0);
              V t_0_13 = K(-0.0);
              V t_0_14 = K(-0.0);
              V t_0_15 = K(-0.0);
              for (int k = 0; k < 12; k++) {
                const V l0_0 = *at(X, g * ROW_SLOTS + (0 + k) * GROUP + 0 * LANES);
                {
                  const V l1_c0 = K(Y[(0 + k) * PITCH + c + 0]);
                  {
                    const V s0 = l0_0 - l1_c0;
                    const V s1 = s0 * s0;
                    t_0_0 = t_0_0 + s1;
                  }
                }
                {
                  const V l1_c1 = K(Y[(0 + k) * PITCH + c + 1]);
                  {
                    const V s0 = l0_0 - l1_c1;
                    const V s1 = s0 * s0;
                    t_0_1 = t_0_1 + s1;
                  }
                }
                {
                  const V l1_c2 = K(Y[(0 + k) * PITCH + c + 2]);
                  {
                    const V s0 = l0_0 - l1_c2;
                    const V s1 = s0 * s0;
                    t_0_2 = t_0_2 + s1;
                  }
                }
                {
                  const V l1_c3 = K(Y[(0 + k) * PITCH + c + 3]);
                  {
                    const V s0 = l0_0 - l1_c3;
                    const V s1 = s0 * s0;
                    t_0_3 = t_0_3 + s1;
                  }
                }
                {
                  const V l1_c4 = K(Y[(0 + k) * PITCH + c + 4]);
                  {
                    const V s0 = l0_0 - l1_c4;
                    const V s1 = s0 * s0;
                    t_0_4 = t_0_4 + s1;
                  }
                }
                {
                  const V l1_c5 = K(Y[(0 + k) * PITCH + c + 5]);
                  {
                    const V s0 = l0_0 - l1_c5;
                    const V s1 = s0 * s0;
                    t_0_5 = t_0_5 + s1;
                  }
                }
                {
                  const V l1_c6 = K(Y[(0 + k) * PITCH + c + 6]);
                  {
                    const V s0 = l0_0 - l1_c6;
                    const V s1 = s0 * s0;
                    t_0_6 = t_0_6 + s1;
                  }
                }
                {
                  const V l1_c7 = K(Y[(0 + k) * PITCH + c + 7]);
                  {
                    const V s0 = l0_0 - l1_c7;
                    const V s1 = s0 * s0;
                    t_0_7 = t_0_7 + s1;
                  }
                }
                {
                  const V l1_c8 = K(Y[(0 + k) * PITCH + c + 8]);
                  {
                    const V s0 = l0_0 - l1_c8;
                    const V s1 = s0 * s0;
                    t_0_8 = t_0_8 + s1;
                  }
                }
                {
                  const V l1_c9 = K(Y[(0 + k) * PITCH + c + 9]);
                  {
                    const V s0 = l0_0 - l1_c9;
                    const V s1 = s0 * s0;
                    t_0_9 = t_0_9 + s1;
                  }
                }
                {
                  const V l1_c10 = K(Y[(0 + k) * PITCH + c + 10]);
                  {
                    const V s0 = l0_0 - l1_c10;
                    const V s1 = s0 * s0;
                    t_0_10 = t_0_10 + s1;
                  }
                }
                {
                  const V l1_c11 = K(Y[(0 + k) * PITCH + c + 11]);
                  {
                    const V s0 = l0_0 - l1_c11;
                    const V s1 = s0 * s0;
                    t_0_11 = t_0_11 + s1;
                  }
                }
                {
                  const V l1_c12 = K(Y[(0 + k) * PITCH + c + 12]);
                  {
                    const V s0 = l0_0 - l1_c12;
                    const V s1 = s0 * s0;
                    t_0_12 = t_0_12 + s1;
                  }
                }
                {
                  const V l1_c13 = K(Y[(0 + k) * PITCH + c + 13]);
                  {
                    const V s0 = l0_0 - l1_c13;
                    const V s1 = s0 * s0;
                    t_0_13 = t_0_13 + s1;
                  }
                }
                {
                  const V l1_c14 = K(Y[(0 + k) * PITCH + c + 14]);
                  {
                    const V s0 = l0_0 - l1_c14;
                    const V s1 = s0 * s0;
                    t_0_14 = t_0_14 + s1;
                  }
                }
                {
                  const V l1_c15 = K(Y[(0 + k) * PITCH + c + 15]);
                  {
                    const V s0 = l0_0 - l1_c15;
                    const V s1 = s0 * s0;
                    t_0_15 = t_0_15 + s1;
                  }
                }
              }
              *at(S, ((0 * SPAN + c + 0 - c0) * ROWS + 0) * LANES) = t_0_0;
              *at(S, ((0 * SPAN + c + 1 - c0) * ROWS + 0) * LANES) = t_0_1;
              *at(S, ((0 * SPAN + c + 2 - c0) * ROWS + 0) * LANES) = t_0_2;
              *at(S, ((0 * SPAN + c + 3 - c0) * ROWS + 0) * LANES) = t_0_3;
              *at(S, ((0 * SPAN + c + 4 - c0) * ROWS + 0) * LANES) = t_0_4;
              *at(S, ((0 * SPAN + c + 5 - c0) * ROWS + 0) * LANES) = t_0_5;
              *at(S, ((0 * SPAN + c + 6 - c0) * ROWS + 0) * LANES) = t_0_6;
              *at(S, ((0 * SPAN + c + 7 - c0) * ROWS + 0) * LANES) = t_0_7;
              *at(S, ((0 * SPAN + c + 8 - c0) * ROWS + 0) * LANES) = t_0_8;
              *at(S, ((0 * SPAN + c + 9 - c0) * ROWS + 0) * LANES) = t_0_9;
              *at(S, ((0 * SPAN + c + 10 - c0) * ROWS + 0) * LANES) = t_0_10;
              *at(S, ((0 * SPAN + c + 11 - c0) * ROWS + 0) * LANES) = t_0_11;
              *at(S, ((0 * SPAN + c + 12 - c0) * ROWS + 0) * LANES) = t_0_12;
              *at(S, ((0 * SPAN + c + 13 - c0) * ROWS + 0) * LANES) = t_0_13;
              *at(S, ((0 * SPAN + c + 14 - c0) * ROWS + 0) * LANES) = t_0_14;
              *at(S, ((0 * SPAN + c + 15 - c0) * ROWS + 0) * LANES) = t_0_15;
            }
            for (i64 c = c0; c < c1; c += 16) {
              V t_1_0 = K(-0.0);
              V t_1_1 = K(-0.0);
              V t_1_2 = K(-0.0);
              V t_1_3 = K(-0.0);
              V t_1_4 = K(-0.0);
              V t_1_5 = K(-0.0);
              V t_1_6 = K(-0.0);
              V t_1_7 = K(-0.0);
              V t_1_8 = K(-0.0);
              V t_1_9 = K(-0.0);
              V t_1_10 = K(-0.0);
              V t_1_11 = K(-0.0);
              V t_1_12 = K(-0.0);
              V t_1_13 = K(-0.0);
              V t_1_14 = K(-0.0);
              V t_1_15 = K(-0.0);
              for (int k = 0; k < 12; k++) {
                const V l0_1 = *at(X, g * ROW_SLOTS + (0 + k) * GROUP + 1 * LANES);
                {
                  const V l1_c0 = K(Y[(0 + k) * PITCH + c + 0]);
                  {
                    const V s0 = l0_1 - l1_c0;
                    const V s1 = s0 * s0;
                    t_1_0 = t_1_0 + s1;
                  }
                }
                {
                  const V l1_c1 = K(Y[(0 + k) * PITCH + c + 1]);
                  {
                    const V s0 = l0_1 - l1_c1;
                    const V s1 = s0 * s0;
                    t_1_1 = t_1_1 + s1;
                  }
                }
                {
                  const V l1_c2 = K(Y[(0 + k) * PITCH + c + 2]);
                  {
                    const V s0 = l0_1 - l1_c2;
                    const V s1 = s0 * s0;
                    t_1_2 = t_1_2 + s1;
                  }
                }
                {
                  const V l1_c3 = K(Y[(0 + k) * PITCH + c + 3]);
                  {
                    const V s0 = l0_1 - l1_c3;
                    const V s1 = s0 * s0;
                    t_1_3 = t_1_3 + s1;
                  }
                }
                {
                  const V l1_c4 = K(Y[(0 + k) * PITCH + c + 4]);
                  {
                    const V s0 = l0_1 - l1_c4;
                    const V s1 = s0 * s0;
                    t_1_4 = t_1_4 + s1;
                  }
                }
                {
                  const V l1_c5 = K(Y[(0 + k) * PITCH + c + 5]);
                  {
                    const V s0 = l0_1 - l1_c5;
                    const V s1 = s0 * s0;
                    t_1_5 = t_1_5 + s1;
                  }
                }
                {
                  const V l1_c6 = K(Y[(0 + k) * PITCH + c + 6]);
                  {
                    const V s0 = l0_1 - l1_c6;
                    const V s1 = s0 * s0;
                    t_1_6 = t_1_6 + s1;
                  }
                }
                {
                  const V l1_c7 = K(Y[(0 + k) * PITCH + c + 7]);
                  {
                    const V s0 = l0_1 - l1_c7;
                    const V s1 = s0 * s0;
                    t_1_7 = t_1_7 + s1;
                  }
                }
                {
                  const V l1_c8 = K(Y[(0 + k) * PITCH + c + 8]);
                  {
                    const V s0 = l0_1 - l1_c8;
                    const V s1 = s0 * s0;
                    t_1_8 = t_1_8 + s1;
                  }
                }
                {
                  const V l1_c9 = K(Y[(0 + k) * PITCH + c + 9]);
                  {
                    const V s0 = l0_1 - l1_c9;
                    const V s1 = s0 * s0;
                    t_1_9 = t_1_9 + s1;
                  }
                }
                {
                  const V l1_c10 = K(Y[(0 + k) * PITCH + c + 10]);
                  {
                    const V s0 = l0_1 - l1_c10;
                    const V s1 = s0 * s0;
                    t_1_10 = t_1_10 + s1;
                  }
                }
                {
                  const V l1_c11 = K(Y[(0 + k) * PITCH + c + 11]);
                  {
                    const V s0 = l0_1 - l1_c11;
                    const V s1 = s0 * s0;
                    t_1_11 = t_1_11 + s1;
                  }
                }
                {
                  const V l1_c12 = K(Y[(0 + k) * PITCH + c + 12]);
                  {
                    const V s0 = l0_1 - l1_c12;
                    const V s1 = s0 * s0;
                    t_1_12 = t_1_12 + s1;
                  }
                }
                {
                  const V l1_c13 = K(Y[(0 + k) * PITCH + c + 13]);
                  {
                    const V s0 = l0_1 - l1_c13;
                    const V s1 = s0 * s0;
                    t_1_13 = t_1_13 + s1;
                  }
                }
                {
                  const V l1_c14 = K(Y[(0 + k) * PITCH + c + 14]);
                  {
                    const V s0 = l0_1 - l1_c14;
                    const V s1 = s0 * s0;
                    t_1_14 = t_1_14 + s1;
                  }
                }
                {
                  const V l1_c15 = K(Y[(0 + k) * PITCH + c + 15]);
                  {
                    const V s0 = l0_1 - l1_c15;
                    const V s1 = s0 * s0;
                    t_1_15 = t_1_15 + s1;
                  }
                }
              }
              *at(S, ((0 * SPAN + c + 0 - c0) * ROWS + 1) * LANES) = t_1_0;
              *at(S, ((0 * SPAN + c + 1 - c0) * ROWS + 1) * LANES) = t_1_1;
              *at(S, ((0 * SPAN + c + 2 - c0) * ROWS + 1) * LANES) = t_1_2;
              *at(S, ((0 * SPAN + c + 3 - c0) * ROWS + 1) * LANES) = t_1_3;
              *at(S, ((0 * SPAN + c + 4 - c0) * ROWS + 1) * LANES) = t_1_4;
              *at(S, ((0 * SPAN + c + 5 - c0) * ROWS + 1) * LANES) = t_1_5;
              *at(S, ((0 * SPAN + c + 6 - c0) * ROWS + 1) * LANES) = t_1_6;
              *at(S, ((0 * SPAN + c + 7 - c0) * ROWS + 1) * LANES) = t_1_7;
              *at(S, ((0 * SPAN + c + 8 - c0) * ROWS + 1) * LANES) = t_1_8;
              *at(S, ((0 * SPAN + c + 9 - c0) * ROWS + 1) * LANES) = t_1_9;
              *at(S, ((0 * SPAN + c + 10 - c0) * ROWS + 1) * LANES) = t_1_10;
              *at(S, ((0 * SPAN + c + 11 - c0) * ROWS + 1) * LANES) = t_1_11;
              *at(S, ((0 * SPAN + c + 12 - c0) * ROWS + 1) * LANES) = t_1_12;
              *at(S, ((0 * SPAN + c + 13 - c0) * ROWS + 1) * LANES) = t_1_13;
              *at(S, ((0 * SPAN + c + 14 - c0) * ROWS + 1) * LANES) = t_1_14;
              *at(S, ((0 * SPAN + c + 15 - c0) * ROWS + 1) * LANES) = t_1_15;
            }
            #else
            static_assert(TILE % 6 == 0 && CHUNK % 6 == 0, "tiles are whole");
            for (i64 c = c0; c < c1; c += 6) {
              V t_0_0 = K(-0.0);
              V t_1_0 = K(-0.0);
              V t_0_1 = K(-0.0);
              V t_1_1 = K(-0.0);
              V t_0_2 = K(-0.0);
              V t_1_2 = K(-0.0);
              V t_0_3 = K(-0.0);
              V t_1_3 = K(-0.0);
              V t_0_4 = K(-0.0);
              V t_1_4 = K(-0.0);
              V t_0_5 = K(-0.0);
              V t_1_5 = K(-0.0);
              for (int k = 0; k < 12; k++) {
                const V l0_0 = *at(X, g * ROW_SLOTS + (0 + k) * GROUP + 0 * LANES);
                const V l0_1 = *at(X, g * ROW_SLOTS + (0 + k) * GROUP + 1 * LANES);
                {
                  const V l1_c0 = K(Y[(0 + k) * PITCH + c + 0]);
                  {
                    const V s0 = l0_0 - l1_c0;
                    const V s1 = s0 * s0;
                    t_0_0 = t_0_0 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c0;
                    const V s1 = s0 * s0;
                    t_1_0 = t_1_0 + s1;
                  }
                }
                {
                  const V l1_c1 = K(Y[(0 + k) * PITCH + c + 1]);
                  {
                    const V s0 = l0_0 - l1_c1;
                    const V s1 = s0 * s0;
                    t_0_1 = t_0_1 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c1;
                    const V s1 = s0 * s0;
                    t_1_1 = t_1_1 + s1;
                  }
                }
                {
                  const V l1_c2 = K(Y[(0 + k) * PITCH + c + 2]);
                  {
                    const V s0 = l0_0 - l1_c2;
                    const V s1 = s0 * s0;
                    t_0_2 = t_0_2 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c2;
                    const V s1 = s0 * s0;
                    t_1_2 = t_1_2 + s1;
                  }
                }
                {
                  const V l1_c3 = K(Y[(0 + k) * PITCH + c + 3]);
                  {
                    const V s0 = l0_0 - l1_c3;
                    const V s1 = s0 * s0;
                    t_0_3 = t_0_3 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c3;
                    const V s1 = s0 * s0;
                    t_1_3 = t_1_3 + s1;
                  }
                }
                {
                  const V l1_c4 = K(Y[(0 + k) * PITCH + c + 4]);
                  {
                    const V s0 = l0_0 - l1_c4;
                    const V s1 = s0 * s0;
                    t_0_4 = t_0_4 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c4;
                    const V s1 = s0 * s0;
                    t_1_4 = t_1_4 + s1;
                  }
                }
                {
                  const V l1_c5 = K(Y[(0 + k) * PITCH + c + 5]);
                  {
                    const V s0 = l0_0 - l1_c5;
                    const V s1 = s0 * s0;
                    t_0_5 = t_0_5 + s1;
                  }
                  {
                    const V s0 = l0_1 - l1_c5;
                    const V s1 = s0 * s0;
                    t_1_5 = t_1_5 + s1;
                  }
                }
              }
              *at(S, ((0 * SPAN + c + 0 - c0) * ROWS + 0) * LANES) = t_0_0;
              *at(S, ((0 * SPAN + c + 0 - c0) * ROWS + 1) * LANES) = t_1_0;
              *at(S, ((0 * SPAN + c + 1 - c0) * ROWS + 0) * LANES) = t_0_1;
              *at(S, ((0 * SPAN + c + 1 - c0) * ROWS + 1) * LANES) = t_1_1;
              *at(S, ((0 * SPAN + c + 2 - c0) * ROWS + 0) * LANES) = t_0_2;
              *at(S, ((0 * SPAN + c + 2 - c0) * ROWS + 1) * LANES) = t_1_2;
              *at(S, ((0 * SPAN + c + 3 - c0) * ROWS + 0) * LANES) = t_0_3;
              *at(S, ((0 * SPAN + c + 3 - c0) * ROWS + 1) * LANES) = t_1_3;
              *at(S, ((0 * SPAN + c + 4 - c0) * ROWS + 0) * LANES) = t_0_4;
              *at(S, ((0 * SPAN + c + 4 - c0) * ROWS + 1) * LANES) = t_1_4;
              *at(S, ((0 * SPAN + c + 5 - c0) * ROWS + 0) * LANES) = t_0_5;
              *at(S, ((0 * SPAN + c + 5 - c0) * ROWS + 1) * LANES) = t_1_5;
            }
            #endif
            for (i64 c = c0; c < c1; c++) {
              {
                const V v58_0 = *at(S, ((0 * SPAN + c - c0) * ROWS + 0) * LANES);
                const V v62_0 = v61 * v58_0;
                const V v63_0 = exp2(v62_0);
                *at(S, ((1 * SPAN + c - c0) * ROWS + 0) * LANES) = v63_0;
              }
              {
                const V v58_1 = *at(S, ((0 * SPAN + c - c0) * ROWS + 1) * LANES);
                const V v62_1 = v61 * v58_1;
                const V v63_1 = exp2(v62_1);
                *at(S, ((1 * SPAN + c - c0) * ROWS + 1) * LANES) = v63_1;
              }
            }
            for (int k0 = 0; k0 < 8; k0 += 8) {
              V f_s_0_0 = K(0);
              V f_s_0_1 = K(0);
              V f_s_1_0 = K(0);
              V f_s_1_1 = K(0);
              V f_s_2_0 = K(0);
              V f_s_2_1 = K(0);
              V f_s_3_0 = K(0);
              V f_s_3_1 = K(0);
              V f_s_4_0 = K(0);
              V f_s_4_1 = K(0);
              V f_s_5_0 = K(0);
              V f_s_5_1 = K(0);
              V f_s_6_0 = K(0);
              V f_s_6_1 = K(0);
              V f_s_7_0 = K(0);
              V f_s_7_1 = K(0);
              for (i64 c = c0; c < c1; c++) {
                const V l0_0 = *at(S, ((1 * SPAN + c - c0) * ROWS + 0) * LANES);
                const V l0_1 = *at(S, ((1 * SPAN + c - c0) * ROWS + 1) * LANES);
                {
                  const V l1 = K(Y[(12 + (k0 + 0)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_0_0 = f_s_0_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_0_1 = f_s_0_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 1)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_1_0 = f_s_1_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_1_1 = f_s_1_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 2)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_2_0 = f_s_2_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_2_1 = f_s_2_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 3)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_3_0 = f_s_3_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_3_1 = f_s_3_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 4)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_4_0 = f_s_4_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_4_1 = f_s_4_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 5)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_5_0 = f_s_5_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_5_1 = f_s_5_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 6)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_6_0 = f_s_6_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_6_1 = f_s_6_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (k0 + 7)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_7_0 = f_s_7_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_7_1 = f_s_7_1 + s0; }
                  }
                }
              }
              *(V *)(lane + ((0 + k0 + 0) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_0_0;
              *(V *)(lane + ((0 + k0 + 0) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_0_1;
              *(V *)(lane + ((0 + k0 + 1) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_1_0;
              *(V *)(lane + ((0 + k0 + 1) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_1_1;
              *(V *)(lane + ((0 + k0 + 2) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_2_0;
              *(V *)(lane + ((0 + k0 + 2) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_2_1;
              *(V *)(lane + ((0 + k0 + 3) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_3_0;
              *(V *)(lane + ((0 + k0 + 3) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_3_1;
              *(V *)(lane + ((0 + k0 + 4) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_4_0;
              *(V *)(lane + ((0 + k0 + 4) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_4_1;
              *(V *)(lane + ((0 + k0 + 5) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_5_0;
              *(V *)(lane + ((0 + k0 + 5) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_5_1;
              *(V *)(lane + ((0 + k0 + 6) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_6_0;
              *(V *)(lane + ((0 + k0 + 6) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_6_1;
              *(V *)(lane + ((0 + k0 + 7) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_7_0;
              *(V *)(lane + ((0 + k0 + 7) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_7_1;
            }
            {
              V f_s_0_0 = K(0);
              V f_s_0_1 = K(0);
              V f_s_1_0 = K(0);
              V f_s_1_1 = K(0);
              for (i64 c = c0; c < c1; c++) {
                const V l0_0 = *at(S, ((1 * SPAN + c - c0) * ROWS + 0) * LANES);
                const V l0_1 = *at(S, ((1 * SPAN + c - c0) * ROWS + 1) * LANES);
                {
                  const V l1 = K(Y[(12 + (8 + 0)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_0_0 = f_s_0_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_0_1 = f_s_0_1 + s0; }
                  }
                }
                {
                  const V l1 = K(Y[(12 + (8 + 1)) * PITCH + c]);
                  {
                    const V s0 = l0_0 * l1;
                    { f_s_1_0 = f_s_1_0 + s0; }
                  }
                  {
                    const V s0 = l0_1 * l1;
                    { f_s_1_1 = f_s_1_1 + s0; }
                  }
                }
              }
              *(V *)(lane + ((0 + 8 + 0) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_0_0;
              *(V *)(lane + ((0 + 8 + 0) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_0_1;
              *(V *)(lane + ((0 + 8 + 1) * SLOTS + 0) * GROUP + 0 * LANES) += f_s_1_0;
              *(V *)(lane + ((0 + 8 + 1) * SLOTS + 0) * GROUP + 1 * LANES) += f_s_1_1;
            }
          }
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
        for (int o = 0; o < 10; o++) {
          f64 &w_s = wide[o][0][l];
          (o0 + at_row * 10)[o] = (T)(w_s);
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
      for (int o = 0; o < 10; o++) {
        f64 &w_s = wide[o][0][l];
        (o0 + at_row * 10)[o] = (T)(w_s);
      }
    }
  __builtin_free(wide);
  return 0;
}
