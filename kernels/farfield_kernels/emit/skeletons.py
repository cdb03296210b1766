"""The fixed text of a kernel, one per back end; the emitters fill in what depends on the program.

Both walk alike: a *unit* of work is one block of rows of one batch element, with one split of the columns. It
meets the columns tile by tile, lane states are merged into wide states after each tile, and wide states of column
splits (and of rows, where both axes are reduced) are merged at the end.

Which rows a block has, and which columns it meets, follows from the sizes, or is read from a table: `blocks` holds
(first row, end of rows, first range, end of ranges) per block and `ranges` (first column, end of columns).
`offsets` holds, per batch element, where in each argument its data begin; without it they begin at 0.

Units are numbered, batch element by batch element, and a launch may compute some of them: those from the ticket's
value to `end - 1`, on CUDA those from `first` on, as many as there are blocks of threads.
"""

from __future__ import annotations

CPP = """\
// Farfield: {title}
{compiler}{prelude}
enum {{ ROWS = {rows}, GROUP = ROWS * LANES, BLOCK = {block}, TILE = {tile}, CHUNK = {chunk} }};
enum {{ COMPONENTS = {components}, SLOTS = {slots}, ROW_SLOTS = {row_slots}, COL_SLOTS = {col_slots} }};
enum {{ OVER_ROWS = {over_rows}, X_GROUP = ROW_SLOTS * GROUP, LANE_STATE = COMPONENTS * SLOTS * GROUP }};
// Between components lies an odd number of cache lines: a power of two would have them meet in few sets.
enum {{ LINE = 64 / sizeof(T), PITCH = ((TILE + LINE - 1) / LINE | 1) * LINE }};
enum {{ WIDE = BLOCK + 8, SPAN = CHUNK + 1 }};

HOT i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
HOT V *at(T *memory, i64 element) {{ return (V *)(memory + element); }}

extern "C" int farfield_reduce(i64 rows, i64 cols, i64 splits, i64 end, i64 row_blocks, const i64 *blocks,
                               const i64 *ranges, const i64 *offsets, const void *const *in, void *const *out,
                               f64 *partial, i64 *ticket) {{
{out_pointers}
  const i64 span = ((cols + splits - 1) / splits + TILE - 1) / TILE * TILE;
  const i64 x_size = ROW_SLOTS * BLOCK, y_size = COL_SLOTS * PITCH, s_size = {buffers} * SPAN * GROUP;
  const i64 lane_size = {lane_states} * LANE_STATE, wide_bytes = COMPONENTS * SLOTS * WIDE * sizeof(f64);
  char *const allocated =
      (char *)__builtin_malloc((x_size + y_size + s_size + lane_size) * sizeof(T) + wide_bytes + BYTES);
  if (!allocated) return 1;
  T *const X = (T *)(allocated + (BYTES - (unsigned long)allocated % BYTES));
  T *const Y = X + x_size;
  T *const S = Y + y_size;
  T *const lanes = S + s_size;  // lane states: [component][slot][row of the group]
  f64 (*const wide)[SLOTS][WIDE] = (f64 (*)[SLOTS][WIDE])(lanes + lane_size);
  for (;;) {{
    const i64 unit = __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED);
    if (unit >= end) break;
    const i64 batch = unit / (row_blocks * splits), block = unit / splits % row_blocks, split = unit % splits;
    const i64 whole[2] = {{split * span, smaller(cols, (split + 1) * span)}};
    const i64 *const entry = blocks + 4 * block;
    const i64 row0 = blocks ? entry[0] : block * BLOCK;
    const int n = (int)((blocks ? entry[1] : smaller(rows, row0 + BLOCK)) - row0);
    const i64 *const range_end = blocks ? ranges + 2 * entry[3] : whole + 2;
    i64 terms = 0;
{arguments}
{parameters}
{load_rows}
    for (int o = 0; o < COMPONENTS; o++)
      for (int l = 0; l < BLOCK; l++) {{
{identity}
      }}
    for (const i64 *range = blocks ? ranges + 2 * entry[2] : whole; range != range_end; range += 2) {{
      terms += range[1] > range[0] ? range[1] - range[0] : 0;
      for (i64 col0 = range[0]; col0 < range[1]; col0 += TILE) {{
        const i64 m = smaller(TILE, range[1] - col0);
{load_cols}{run}
        for (int g = 0; g < n; g += {group_step}) {{
          T *const lane = lanes + {lane_state} * LANE_STATE;
{fold}
          {flush_if}for (int o = 0; o < COMPONENTS; o++) {{
{lane_pointers}
            for (int l = 0; l < GROUP; l++) {{
{flush}
            }}
          }}
        }}
      }}
    }}
    if (splits == 1 && !OVER_ROWS) {{
      for (int l = 0; l < n; l++) {{
        const i64 at_row = batch * rows + row0 + l;
{finish}
      }}
    }} else {{
      for (int o = 0; o < COMPONENTS; o++)
        for (int f = 0; f < SLOTS; f++)
          for (int l = 0; l < n; l++)
            partial[(((batch * splits + split) * COMPONENTS + o) * SLOTS + f) * rows + row0 + l] = wide[o][f][l];
    }}
  }}
  __builtin_free(allocated);
  return 0;
}}

extern "C" int farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms, void *const *out,
                              const f64 *partial) {{
{out_pointers}
  const int l = 0;
  // Not on the stack: in functions that call no other, GCC 12 misplaces arrays that it copies by aligned moves.
  f64 (*const wide)[SLOTS][1] = (f64 (*)[SLOTS][1])__builtin_malloc(COMPONENTS * SLOTS * sizeof(f64));
  if (!wide) return 1;
  for (i64 batch = 0; batch < batches; batch++)
    for (i64 first = 0; first < (OVER_ROWS ? 1 : rows); first++) {{
      const i64 at_row = OVER_ROWS ? batch : batch * rows + first;
      for (int o = 0; o < COMPONENTS; o++) {{
{identity_merged}
        for (i64 row = first; row < (OVER_ROWS ? rows : first + 1); row++)
          for (i64 split = 0; split < splits; split++) {{
            const f64 *const later = partial + ((batch * splits + split) * COMPONENTS + o) * SLOTS * rows + row;
{merge_splits}
          }}
      }}
{finish_merged}
    }}
  __builtin_free(wide);
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
#define any(condition) (condition)
#define any_exceeds(a, b) (!((a) <= (b)))
#define ROWS {rows}
#define TILE {tile}
#define CHUNK {chunk}
#define THREADS {threads}
#define RESIDENT {resident}
#define TEAM {team}
#define MERGERS {mergers}
#define COL_SLOTS {col_slots}
#define COMPONENTS {components}
#define SLOTS {slots}

struct __align__(2 * sizeof(T)) Vector2 {{ T x, y; }};
struct __align__(16) Vector4 {{ T x, y, z, w; }};
static __device__ __forceinline__ i64 smaller(i64 a, i64 b) {{ return a < b ? a : b; }}
static __device__ __forceinline__ T finite_or_zero(T x) {{ return x - x == K(0) ? x : K(0); }}
{functions}
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
farfield_reduce(i64 rows, i64 cols, i64 splits, i64 first, i64 row_blocks, const i64 *__restrict__ blocks,
                const i64 *__restrict__ ranges, const i64 *__restrict__ offsets{arguments}, f64 *partial) {{
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
{offsets}
{parameters}
{load_rows}
{begin}
  for (i64 range = range_begin; range < range_end; range++) {{
    const i64 col_begin = blocks ? ranges[2 * range] : base;
    const i64 col_end = blocks ? ranges[2 * range + 1] : smaller(base + span, cols);
    const i64 met = col_end > col_begin ? col_end - col_begin : 0;
    const i64 part = team > 1 ? (met + TEAM - 1) / TEAM : met;  // of each thread of a team
    terms += met;
    for (i64 step = 0; step < part; step += part_tile) {{
      __syncthreads();
      for (int q = threadIdx.x; q < TILE; q += blockDim.x) {{
        const i64 in_part = step + q % part_tile, col = col_begin + q / part_tile * part + in_part;
        if (in_part < part && col < col_end) {{
{load_cols}
        }}
      }}
      __syncthreads();
      const i64 col0 = col_begin + lane * part + step;
      const int count = (int)smaller(smaller(part - step, part_tile), col_end - col0);
{at}{fold}
{flush}    }}
  }}
{gather}
{store}
}}

extern "C" __global__ void
farfield_merge(i64 rows, i64 cols, i64 splits, i64 batches, i64 terms{out_arguments}, f64 *partial) {{
{merge_splits}
}}
"""
