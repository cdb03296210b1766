"""The fixed text of a second product; `cuda_second_product.py` fills in what depends on the program."""

from __future__ import annotations

SECOND_PRODUCT = """\

#define WIDTH {width}
#define PASSES {passes}
#define OWN {own}
#define FIRST {first}
#define COUNT {count}

// Of one column: first halves, and from WIDTH on second ones.
typedef unsigned short Values[2 * WIDTH + 8];

// Two floats as halves: what the first ones leave is multiplied with 2^11, so small ones keep their bits.
static __device__ __forceinline__ void halve(float x, float y, unsigned &first, unsigned &second) {{
  float of_x, of_y;
  first = half2_bits(x, y);
  half2_floats(first, of_x, of_y);
  second = half2_bits((x - of_x) * 2048, (y - of_y) * 2048);
}}

// The component (or weight) that entry u of a thread is: the thread has two of every eight, and the others are
// summed by a team; -1, if another thread writes it.
static __device__ __forceinline__ int place(int u, int pass, int lane) {{
  const int k = pass * WIDTH + u / 2 * 8 + 2 * lane + u % 2, q = u - WIDTH / TEAM;
  if (u < WIDTH / TEAM) return k < COUNT ? FIRST + k : -1;
  return lane || pass ? -1 : q < FIRST ? q : q + COUNT;
}}
{entries}
// Components of a column as halves, and the power of two that their products are multiplied with. Negative, and
// all halves 0, if one is not finite, or less than 2^-29 of another: the column is *apart*, its products are added
// one by one. Where one component alone is large, others would lose their bits.
static __device__ __forceinline__ float halve_values(const T *v, int count, int lane, Values &to) {{
  float d[WIDTH / TEAM], most = 0;
  unsigned least = 0xffffffffu;  // of all but 0
#pragma unroll
  for (int q = 0; q < WIDTH / TEAM; q++) {{
    const int k = q / 2 * 8 + 2 * lane + q % 2;
    d[q] = k < count ? v[k] : 0;
    most = larger_or_nan(most, fabs(d[q]));
    least = min(least, 2 * __float_as_uint(d[q]) - 1);
  }}
  const Scale scale = scale_of(quad_most(most));
  const bool is_small = least != 0xffffffffu && __uint_as_float(least / 2 + 1) * scale.up < 6.103515625e-05f;
  const unsigned apart = __ballot_sync(0xffffffffu, is_small || !(most < K(INF))) & 15u << (threadIdx.x & 28);
  if (apart) {{
#pragma unroll
    for (int q = 0; q < WIDTH / TEAM; q++) d[q] = 0;
  }}
#pragma unroll
  for (int q = 0; q < WIDTH / TEAM; q += 2) {{
    const int k = q / 2 * 8 + 2 * lane;
    halve(d[q] * scale.up, d[q + 1] * scale.up, *(unsigned *)&to[k], *(unsigned *)&to[WIDTH + k]);
  }}
  return apart ? -1 : scale.down * 16384;
}}

// The largest of a row's values, each times the size of its column.
static __device__ __forceinline__ float most_of(const V (&p)[CHUNK / TEAM], const float (&size)[CHUNK / TEAM]) {{
  float most = 0;
#pragma unroll
  for (int u = 0; u < CHUNK / TEAM; u++) most = larger_or_nan(most, fabs(p[u] * size[u]));
  return quad_most(most);
}}

// Products of columns that are apart, and of pairs whose value is not finite and becomes 0 afterwards. Values are
// taken in turn from the first place, as registers have no index.
static __device__ __forceinline__ void add_apart(V (&s){extent}, V (&p)[ROWS][CHUNK / TEAM], const T *v,
                                                 const float *sizes, int columns, int count, int lane) {{
#pragma unroll 1
  for (int u = 0; u < CHUNK / TEAM; u++) {{
#pragma unroll 1
    for (int from = 0; from < TEAM; from++) {{
      const int c = u / 2 * 8 + 2 * from + u % 2;
      const float size = sizes[c];
      V w[ROWS];
      bool is_own[ROWS], is_found = false;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {{
        w[r] = __shfl_sync(0xffffffffu, p[r][0], from, TEAM);
        is_own[r] = size < 0 || !(fabs(w[r] * size) < K(INF));
        is_found |= is_own[r];
      }}
      if (c >= columns || !__any_sync(0xffffffffu, is_found)) continue;
#pragma unroll
      for (int q = 0; q < WIDTH / TEAM; q++) {{
        const int k = q / 2 * 8 + 2 * lane + q % 2;
        const V y = k < count ? v[c * {stride} + k] : 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {held_q} += is_own[r] ? w[r] * y : 0;
      }}
    }}
    const float size = sizes[u / 2 * 8 + 2 * lane + u % 2];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {{
      const V first = fabs(p[r][0] * size) < K(INF) ? p[r][0] : 0;
#pragma unroll
      for (int k = 1; k < CHUNK / TEAM; k++) p[r][k - 1] = p[r][k];
      p[r][CHUNK / TEAM - 1] = first;
    }}
  }}
}}

// s += p x values, for the columns of a chunk. A thread's elements of a tile are those that it hands in for the
// next product. Each row is scaled by a power of two of its own.
static __device__ __forceinline__ void weigh(V (&s){extent}, V (&p)[ROWS][CHUNK / TEAM], const Values *values,
                                             const float *sizes, const T *v, int columns, int count, int lane) {{
  const int thread = threadIdx.x % 32;
  float size[CHUNK / TEAM], most[ROWS], down[ROWS];
  bool apart = false;
#pragma unroll
  for (int u = 0; u < CHUNK / TEAM; u++) {{
    const float own = sizes[u / 2 * 8 + 2 * lane + u % 2];
    apart |= own < 0;
    size[u] = own < 0 ? 0 : own;
  }}
#pragma unroll
  for (int r = 0; r < ROWS; r++) {{
    most[r] = most_of(p[r], size);
    apart |= !(most[r] < K(INF));
  }}
  if (__any_sync(0xffffffffu, apart)) {{
    add_apart(s, p, v, sizes, columns, count, lane);
#pragma unroll
    for (int r = 0; r < ROWS; r++) most[r] = most_of(p[r], size);
  }}
  unsigned a[2][ROWS / 2][CHUNK / 16][4];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {{
    const Scale scale = scale_of(most[r]);
    down[r] = scale.down * 6.103515625e-05f;
#pragma unroll
    for (int u = 0; u < CHUNK / TEAM; u += 2) {{
      const int m = r / 2, i = u / 4, k = u % 4 + r % 2;
      halve(p[r][u] * size[u] * scale.up, p[r][u + 1] * size[u + 1] * scale.up, a[0][m][i][k], a[1][m][i][k]);
    }}
  }}
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++) {{
    unsigned b[2][CHUNK / 16][2];
#pragma unroll
    for (int i = 0; i < CHUNK / 16; i++) {{
      unsigned both[4];
      ldmatrix_x4_trans(both, &values[16 * i + thread % 16][thread / 16 * WIDTH + 8 * n]);
      b[0][i][0] = both[0], b[0][i][1] = both[1], b[1][i][0] = both[2], b[1][i][1] = both[3];
    }}
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++) {{
      float c[4] = {{0, 0, 0, 0}}, low[4] = {{0, 0, 0, 0}};
#pragma unroll
      for (int i = 0; i < CHUNK / 16; i++) {{
        mma_m16n8k16_f16(low, a[1][m][i], b[0][i]);
        mma_m16n8k16_f16(low, a[0][m][i], b[1][i]);
        mma_m16n8k16_f16(c, a[0][m][i], b[0][i]);
      }}
#pragma unroll
      for (int e = 0; e < 4; e++) {{
        const int q = 2 * n + e % 2, r = 2 * m + e / 2;
        {held_q} += (low[e] * 4.8828125e-04f + c[e]) * down[r];
      }}
    }}
  }}
}}
"""

ENTRIES = """
// Sums of a row by the number of their weight.
struct Entries {
  const f64 *own;
  int pass;
  __device__ __forceinline__ f64 operator[](int q) const {
    const int k = q - FIRST - pass * WIDTH;
    return own[q >= FIRST && q < FIRST + COUNT ? k / 8 * 2 + k % 2 : WIDTH / TEAM + (q < FIRST ? q : q - COUNT)];
  }
};
"""
