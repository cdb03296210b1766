"""The sum of what rows gave, (batches, rows, width) -> (batches, parts, width), in float64.

A block has one part of the rows of one number; its threads meet in pairs. So the order follows from sizes alone.
"""

from __future__ import annotations

THREADS = 256  # of a block, a power of two

CUDA_SUM = f"""\
// Farfield: sums over rows
typedef long long i64;

extern "C" __global__ void __launch_bounds__({THREADS})
farfield_sum(const double *__restrict__ in, double *__restrict__ out, i64 rows, i64 width, i64 parts) {{
  __shared__ double sums[{THREADS}];
  const i64 part = blockIdx.x % parts, batch = blockIdx.x / parts / width, at = blockIdx.x / parts % width;
  const i64 span = (rows + parts - 1) / parts, end = (part + 1) * span < rows ? (part + 1) * span : rows;
  double sum = 0;
  for (i64 row = part * span + threadIdx.x; row < end; row += {THREADS})
    sum += in[(batch * rows + row) * width + at];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = {THREADS} / 2; half; half /= 2) {{
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }}
  if (threadIdx.x == 0) out[(batch * parts + part) * width + at] = sums[0];
}}
"""
