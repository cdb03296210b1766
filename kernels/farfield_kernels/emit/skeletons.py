"""The fixed text of a kernel, one per back end; the emitters fill in what depends on the program.

Both walk alike: a block of rows meets the columns tile by tile, lane states are merged into wide states after each
tile, and wide states of column splits are merged at the end.
"""

from __future__ import annotations

CPP = """\
// Farfield: {title}
{prelude}
enum {{ ROWS = {rows}, GROUP = ROWS * LANES, BLOCK = {block}, TILE = {tile}, CHUNK = {chunk} }};
enum {{ COMPONENTS = {components}, FIELDS = {fields}, ROW_SLOTS = {row_slots}, COL_SLOTS = {col_slots} }};
enum {{ PITCH = TILE + LANES }};  // distance of two column slots; not a power of two, which would share cache sets

HOT i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
HOT V *at(T *memory, i64 element) {{ return (V *)(memory + element); }}

extern "C" int farfield_reduce(i64 rows, i64 cols, i64 splits, const void *const *in, void *const *out,
                               f64 *partial, i64 *ticket) {{
{arguments}
  const i64 row_blocks = (rows + BLOCK - 1) / BLOCK;
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 x_size = ROW_SLOTS * BLOCK, y_size = COL_SLOTS * PITCH, s_size = {chunk_slots};
  const i64 lane_size = COMPONENTS * FIELDS * GROUP, wide_bytes = COMPONENTS * FIELDS * BLOCK * sizeof(f64);
  char *const allocated =
      (char *)__builtin_malloc((x_size + y_size + s_size + lane_size) * sizeof(T) + wide_bytes + BYTES);
  if (!allocated) return 1;
  T *const X = (T *)(allocated + (BYTES - (unsigned long)allocated % BYTES));
  T *const Y = X + x_size;
  T *const S = Y + y_size;
  T *const lane = S + s_size;  // lane state: [component][field][row of the group]
  f64 (*const wide)[FIELDS][BLOCK] = (f64 (*)[FIELDS][BLOCK])(lane + lane_size);
{parameters}
  for (;;) {{
    const i64 unit = __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED);
    if (unit >= row_blocks * splits) break;
    const i64 row0 = unit / splits * BLOCK, split = unit % splits;
    const int n = (int)smaller(BLOCK, rows - row0);
    const i64 col_end = smaller(cols, (split + 1) * span);
{load_rows}
    for (int o = 0; o < COMPONENTS; o++)
      for (int l = 0; l < BLOCK; l++) {{
{identity}
      }}
    for (i64 col0 = split * span; col0 < col_end; col0 += TILE) {{
      const int m = (int)smaller(TILE, col_end - col0);
{load_cols}
      for (int g = 0; g < n; g += GROUP) {{
{fold}
        for (int o = 0; o < COMPONENTS; o++) {{
{lane_pointers}
          for (int l = 0; l < GROUP; l++) {{
{flush}
          }}
        }}
      }}
    }}
    if (splits == 1) {{
      for (int l = 0; l < n; l++) {{
        const i64 row = row0 + l;
{finish}
      }}
    }} else {{
      for (int o = 0; o < COMPONENTS; o++)
        for (int f = 0; f < FIELDS; f++)
          for (int l = 0; l < n; l++)
            partial[((split * COMPONENTS + o) * FIELDS + f) * rows + row0 + l] = wide[o][f][l];
    }}
  }}
  __builtin_free(allocated);
  return 0;
}}

extern "C" int farfield_merge(i64 rows, i64 cols, i64 splits, void *const *out, f64 *partial) {{
{out_pointers}
  for (i64 row = 0; row < rows; row++) {{
    const int l = 0;
    f64 wide[COMPONENTS][FIELDS][1];
    for (int o = 0; o < COMPONENTS; o++) {{
      for (int f = 0; f < FIELDS; f++) wide[o][f][0] = partial[(o * FIELDS + f) * rows + row];
      for (i64 split = 1; split < splits; split++) {{
        const f64 *const later = partial + (split * COMPONENTS + o) * FIELDS * rows + row;
{merge_splits}
      }}
    }}
{finish_merged}
  }}
  return 0;
}}
"""

CUDA = """\
// Farfield: {title}
typedef long long i64;
typedef double f64;
typedef {T} T;
typedef T V;
typedef int I;
#define K(a) ((T)(a))
#define KI(a) ((I)(a))
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define ROWS {rows}
#define TILE {tile}
#define CHUNK {chunk}
#define COL_SLOTS {col_slots}
#define COMPONENTS {components}
#define FIELDS {fields}

static __device__ __forceinline__ i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
static __device__ __forceinline__ T finite_or_zero(T x) {{ return x - x == K(0) ? x : K(0); }}
{finite_wide}
extern "C" __global__ void __launch_bounds__({threads})
farfield_reduce(i64 rows, i64 cols, i64 splits{arguments}, f64 *partial) {{
  __shared__ __align__(16) T tile[TILE][COL_SLOTS];
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 split = blockIdx.y;
  const i64 col_begin = split * span, col_end = smaller(col_begin + span, cols);
  const i64 first_row = (i64)blockIdx.x * blockDim.x * ROWS + threadIdx.x;
{parameters}
{load_rows}
{declare_wide}
  for (i64 col0 = col_begin; col0 < col_end; col0 += TILE) {{
    const int count = (int)smaller(col_end - col0, TILE);
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += blockDim.x) {{
      const i64 col = col0 + q;
{load_cols}
    }}
    __syncthreads();
{fold}
{flush}
  }}
{store}
}}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits{out_arguments}, const f64 *partial) {{
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  for (int o = 0; o < COMPONENTS; o++) {{
{merge_splits}
  }}
}}
"""
