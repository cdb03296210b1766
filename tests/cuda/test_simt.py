"""The emulator of CUDA threads computes what the CUDA and PTX manuals say, and refuses what they forbid."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from cuda.simt.emulator import Order, Program, SimtError, build
from farfield_kernels.emit.intrinsics import INTRINSICS, intrinsics

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")

ORDERS: tuple[Order, ...] = ("forward", "backward", 1, 2)
RIGHT = (
    intrinsics(INTRINSICS)
    + r"""
#include <cuda_fp16.h>
typedef unsigned long long u64;
#define ALL 0xffffffffu

extern "C" __global__ void indices(int *out) {
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = 1000 * block + thread;
}

extern "C" __global__ void __launch_bounds__(96) turned(const float *x, float *y) {
  __shared__ __align__(16) float tile[96];
  extern __shared__ __align__(16) float4 more[];
  for (int round = 0; round < 3; round++) {
    tile[threadIdx.x] = x[round * 96 + threadIdx.x];
    more[threadIdx.x] = make_float4(0, 0, 0, threadIdx.x);
    __syncthreads();
    y[round * 96 + threadIdx.x] = tile[95 - threadIdx.x] + more[95 - threadIdx.x].w;
    __syncthreads();
  }
}

template <typename T> __device__ void shuffle_all(T x, T *y, int width) {
  const int lane = threadIdx.x;
  y[lane] = __shfl_sync(ALL, x, lane * 5 + 3, width);
  y[32 + lane] = __shfl_up_sync(ALL, x, 3, width);
  y[64 + lane] = __shfl_down_sync(ALL, x, 3, width);
  y[96 + lane] = __shfl_xor_sync(ALL, x, 9, width);
}
extern "C" __global__ void shuffled(const double *x, double *y, float *f, long long *i, int width) {
  const double own = x[threadIdx.x];
  shuffle_all(own, y, width);
  shuffle_all((float)own, f, width);
  shuffle_all((long long)own, i, width);
}

extern "C" __global__ void votes(const int *x, unsigned *y) {
  const int t = threadIdx.x;
  y[t] = __ballot_sync(ALL, x[t]);
  y[64 + t] = __any_sync(ALL, x[t]) + 2 * __all_sync(ALL, x[t]);
  __syncwarp();
  if (t % 32 < 8) y[128 + t] = __ballot_sync(0xffu, x[t]);
  else y[128 + t] = __ballot_sync(0xffffff00u, x[t]);
}

extern "C" __global__ void tile_f16(const __half *a, const __half *b, float *c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned fa[4], fb[2];
  float fc[4];
  for (int i = 0; i < 4; i++) fa[i] = *(const unsigned *)&a[(g + 8 * (i & 1)) * 16 + 2 * t + 8 * (i >> 1)];
  for (int i = 0; i < 2; i++)
    fb[i] = half2_bits(__half2float(b[(2 * t + 8 * i) * 8 + g]), __half2float(b[(2 * t + 8 * i + 1) * 8 + g]));
  for (int i = 0; i < 4; i++) fc[i] = c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];
  mma_m16n8k16_f16(fc, fa, fb);
  for (int i = 0; i < 4; i++) c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = fc[i];
}

extern "C" __global__ void tile_f16_through_shared(const __half *a, const __half *b, float *c) {
  __shared__ __align__(16) __half sa[16][16];
  __shared__ __align__(16) __half sb[16][8];  // as in memory, k after k: loaded transposed
  __shared__ __align__(16) __half sbt[8][16];
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  cp_async_16(&sa[lane / 2][lane % 2 * 8], &a[lane * 8]);
  cp_async_commit();
  if (lane < 16) cp_async_16(&sb[lane], &b[lane * 8]);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  for (int q = lane; q < 128; q += 32) sbt[q % 8][q / 8] = sb[q / 8][q % 8];
  __syncwarp();
  unsigned fa[4], fb[2], fb4[4], straight[2];
  float fc[4] = {};
  ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
  ldmatrix_x2_trans(fb, &sb[lane % 16]);
  ldmatrix_x4_trans(fb4, &sb[lane % 16]);  // the same twice
  ldmatrix_x2(straight, &sbt[lane % 8][lane / 8 % 2 * 8]);
  mma_m16n8k16_f16(fc, fa, fb);
  const bool agree = fb4[0] == fb[0] && fb4[1] == fb[1] && straight[0] == fb[0] && straight[1] == fb[1];
  for (int i = 0; i < 4; i++) c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = agree ? fc[i] : -1;
}

extern "C" __global__ void tile_tf32(const float *a, const float *b, float *c, int rounded) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned fa[4], fb[2];
  float fc[4];
  for (int i = 0; i < 4; i++) fa[i] = __float_as_uint(a[(g + 8 * (i & 1)) * 8 + t + 4 * (i >> 1)]);
  for (int i = 0; i < 2; i++) fb[i] = __float_as_uint(b[(t + 4 * i) * 8 + g]);
  for (int i = 0; i < 4; i++) fc[i] = c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];
  for (int i = 0; rounded && i < 4; i++) fa[i] = tf32_bits(__uint_as_float(fa[i]));
  mma_m16n8k8_tf32(fc, fa, fb);
  for (int i = 0; i < 4; i++) c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = fc[i];
}

extern "C" __global__ void pipeline(const float *x, float *y, int count) {  // two buffers, in flight by turns
  __shared__ __align__(16) float4 buffer[2][32];
  const int t = threadIdx.x;
  cp_async_16(&buffer[0][t], x + 4 * t);
  cp_async_commit();
  for (int k = 0; k < count; k++) {
    if (k + 1 < count) cp_async_16(&buffer[(k + 1) % 2][t], x + 128 * (k + 1) + 4 * t, t < 31 ? 16 : 4);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const float4 other = buffer[k % 2][31 - t];
    y[32 * k + t] = other.x + other.y + other.z + other.w;
    __syncthreads();
  }
}

extern "C" __global__ void counted(float *f, double *d, int *largest, u64 *sum, unsigned *ticket, double *total) {
  __shared__ unsigned drawn;
  const int number = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicMax(largest, number);
  atomicAdd(sum, 1ULL << 33);
  __threadfence();
  if (threadIdx.x == 0) drawn = atomicAdd(ticket, 1u);
  __syncthreads();
  if (drawn == gridDim.x - 1 && threadIdx.x == 0) *total = *d;  // the last block sees all others' work
}

extern "C" __global__ void conversions(const float *x, __half *h, float *back, unsigned *pair, float *tf32,
                                       float *e) {
  const int t = threadIdx.x;
  h[t] = __float2half_rn(x[t]);
  pair[t] = half2_bits(1.0f, x[t]);
  float low, high;
  half2_floats(pair[t], low, high);
  back[t] = low == 1.0f ? high : 0.0f;
  tf32[t] = __uint_as_float(tf32_bits(x[t]));
  e[t] = ex2_approx(x[t]) + 0 * (__expf(x[t]) + rsqrtf(1.0f) + max(1, 2) + umin(1u, 2u));
}
"""
)


@pytest.fixture(scope="module")
def right() -> Program:
    """Kernels that keep to the rules."""
    return build(RIGHT)


def rng() -> np.random.Generator:
    """Always the same numbers."""
    return np.random.default_rng(0)


def test_indices_of_three_axes(right: Program) -> None:
    """Blocks and threads are numbered along x, then y, then z."""
    out = np.zeros((24, 30), np.int32)
    right.launch("indices", (2, 3, 4), (5, 3, 2), [out])
    np.testing.assert_array_equal(out, 1000 * np.arange(24)[:, None] + np.arange(30))


@pytest.mark.parametrize("order", ORDERS)
def test_barriers(order: Order, right: Program) -> None:
    """What was written before a barrier is read after it, in any order of the threads."""
    x, y = rng().standard_normal((3, 96)).astype("f"), np.zeros((3, 96), "f")
    right.launch("turned", 1, 96, [x, y], 96 * 16, order)
    np.testing.assert_array_equal(y, x[:, ::-1] + np.arange(96, dtype="f")[::-1])


@pytest.mark.parametrize("width", [32, 16, 8])
def test_shuffles(width: int, right: Program) -> None:
    """Each kind of shuffle, within parts of a warp, of 4 and 8 bytes."""
    x, lane = np.arange(32.0) * 3 + 1, np.arange(32)
    results = [np.zeros((4, 32), kind) for kind in ("d", "f", "q")]
    right.launch("shuffled", 1, 32, [x, *results, np.int32(width)])
    first, last = lane // width * width, lane // width * width + width - 1
    sources = (
        first + (lane * 5 + 3) % width,
        np.where(lane - 3 < first, lane, lane - 3),
        np.where(lane + 3 > last, lane, lane + 3),
        np.where(lane ^ 9 > last, lane, lane ^ 9),  # of the parts before its own a lane may read
    )
    for result in results:
        for got, source in zip(result, sources, strict=True):
            np.testing.assert_array_equal(got, x[source])


@pytest.mark.parametrize("order", ORDERS)
def test_votes(order: Order, right: Program) -> None:
    """A ballot has the bit of every lane whose predicate holds; the two parts of a warp vote apart."""
    for predicate in (rng().integers(0, 2, 64), np.ones(64), np.zeros(64)):
        y = np.zeros((3, 2, 32), np.uint32)
        right.launch("votes", 1, 64, [predicate.astype(np.int32), y], order=order)
        votes = predicate.reshape(2, 32).astype(np.uint64)
        ballots = (votes << np.arange(32, dtype=np.uint64)).sum(1)
        np.testing.assert_array_equal(y[0], np.repeat(ballots, 32).reshape(2, 32))
        np.testing.assert_array_equal(
            y[1], np.repeat((ballots > 0) + 2 * (ballots == 0xFFFFFFFF), 32).reshape(2, 32)
        )
        np.testing.assert_array_equal(y[2][:, :8], np.repeat(ballots & 0xFF, 8).reshape(2, 8))
        np.testing.assert_array_equal(y[2][:, 8:], np.repeat(ballots & 0xFFFFFF00, 24).reshape(2, 24))


def close_below(got: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> None:
    """Truncated: not larger, and by less than a unit in the last place smaller."""
    assert (abs(got) <= abs(exact)).all()
    assert (abs(exact - got) <= np.spacing(abs(got))).all()


@pytest.mark.parametrize("order", ORDERS)
def test_tiles_of_halves(order: Order, right: Program) -> None:
    """mma of float16, its tiles read as the PTX ISA spreads them, or by ldmatrix, agrees with NumPy."""
    a, b = (rng().standard_normal(shape).astype(np.float16) for shape in ((16, 16), (16, 8)))
    c = rng().standard_normal((16, 8)).astype("f")
    exact = a.astype("d") @ b.astype("d")
    got = c.copy()
    right.launch("tile_f16", 1, 32, [a, b, got], order=order)
    close_below(got, exact + c)
    got = np.zeros((16, 8), "f")
    right.launch("tile_f16_through_shared", 1, 32, [a, b, got], order=order)
    close_below(got, exact)


def test_tiles_of_tf32(right: Program) -> None:
    """mma of tf32 reads the upper 19 bits of its operands, rounded before or not."""
    a, b = (rng().standard_normal(shape).astype("f") for shape in ((16, 8), (8, 8)))
    c = rng().standard_normal((16, 8)).astype("f")
    cut = [(x.view(np.uint32) & np.uint32(0xFFFFE000)).view("f").astype("d") for x in (a, b)]
    rounded = ((a.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view("f").astype("d")
    for is_rounded, left in ((0, cut[0]), (1, rounded)):
        got = c.copy()
        right.launch("tile_tf32", 1, 32, [a, b, got, np.int32(is_rounded)])
        close_below(got, left @ cut[1] + c)


@pytest.mark.parametrize("order", ORDERS)
def test_copies_in_flight(order: Order, right: Program) -> None:
    """Two buffers by turns; of a copy cut short the rest is zero."""
    x, y = rng().standard_normal((5, 32, 4)).astype("f"), np.zeros((5, 32), "f")
    right.launch("pipeline", 1, 32, [x, y, np.int32(5)], order=order)
    x[1:, 31, 1:] = 0
    np.testing.assert_array_equal(y, (x[..., 0] + x[..., 1] + x[..., 2] + x[..., 3])[:, ::-1])


@pytest.mark.parametrize("order", ORDERS)
def test_atomics(order: Order, right: Program) -> None:
    """Numbers of all kinds are added up across blocks, and the block that comes last sees the sum."""
    f, d, largest, total = np.zeros(1, "f"), np.zeros(1), np.zeros(1, np.int32), np.zeros(1)
    count, ticket = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    right.launch("counted", 7, 64, [f, d, largest, count, ticket, total], order=order)
    assert (f[0], d[0], largest[0], count[0] >> np.uint64(33), ticket[0]) == (224, 112, 447, 448, 7)
    assert total[0] == 112


def test_conversions(right: Program) -> None:
    """float16 rounds to nearest even, tf32 to nearest."""
    x = np.concatenate([rng().standard_normal(28), [65519, 65520, 6e-8, np.inf]]).astype("f")
    h, back, pair, tf32, e = (np.zeros(32, kind) for kind in (np.float16, "f", np.uint32, "f", "f"))
    right.launch("conversions", 1, 32, [x, h, back, pair, tf32, e])
    with np.errstate(over="ignore"):
        half, power = x.astype(np.float16), np.exp2(x)
    np.testing.assert_array_equal(h, half)
    np.testing.assert_array_equal(back, half.astype("f"))
    np.testing.assert_array_equal(pair, half.view(np.uint16).astype(np.uint32) << 16 | 0x3C00)
    assert (abs(tf32[:31] - x[:31]) <= 2.0**-11 * abs(x[:31])).all()
    assert tf32[31] == np.inf
    np.testing.assert_allclose(e[:28], power[:28], 1e-6)


WRONG = (
    intrinsics(INTRINSICS)
    + r"""
#define ALL 0xffffffffu

extern "C" __global__ void half_at_barrier(float *y) {
  if (threadIdx.x < 32) __syncthreads();
}
extern "C" __global__ void ended_before_barrier(float *y) {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
extern "C" __global__ void two_barriers(float *y) {
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void half_shuffle(float *y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(ALL, y[threadIdx.x], 1);
  __syncthreads();
}
extern "C" __global__ void outside_mask(float *y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffu, y[threadIdx.x], 16);
}
extern "C" __global__ void not_in_own_mask(float *y) { __syncwarp(0xffffu); }
extern "C" __global__ void other_masks(float *y) { __syncwarp(threadIdx.x % 32 < 16 ? ALL : ALL - 1); }
extern "C" __global__ void mixed(float *y) {
  if (threadIdx.x % 2) __syncwarp();
  else __ballot_sync(ALL, 1);
}
extern "C" __global__ void mixed_votes(float *y) { threadIdx.x % 2 ? __any_sync(ALL, 1) : __ballot_sync(ALL, 1); }
extern "C" __global__ void mixed_types(float *y) {
  if (threadIdx.x % 2) __shfl_sync(ALL, 1.0, 0);
  else __shfl_sync(ALL, 1.0f, 0);
}
extern "C" __global__ void diverged_mma(float *y) {
  float c[4] = {};
  unsigned a[4] = {}, b[2] = {};
  if (threadIdx.x % 32) mma_m16n8k16_f16(c, a, b);
  else
    mma_m16n8k16_f16(c, a, b);
}
extern "C" __global__ void unaligned_copy(float *y) {
  __shared__ __align__(16) float tile[64];
  cp_async_16(tile + 1, y);
}
extern "C" __global__ void copy_elsewhere(float *y) { cp_async_16(y + 4, y); }
extern "C" __global__ void rows_elsewhere(float *y) {
  unsigned r[4];
  ldmatrix_x4(r, y);
}
extern "C" __global__ void unwritten(float *y) {
  __shared__ float tile[64];
  if (threadIdx.x != 7) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void no_wait(float *y) {
  __shared__ __align__(16) float4 tile[64];
  cp_async_16(&tile[threadIdx.x], y + 64);
  cp_async_commit();
  cp_async_wait<1>();
  y[threadIdx.x] = tile[threadIdx.x].x;
}
extern "C" __global__ void no_barrier(float *y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = y[threadIdx.x];
  if (threadIdx.x) y[threadIdx.x] = tile[threadIdx.x - 1];
}
extern "C" __global__ void no_second_barrier(float *y) {
  __shared__ float tile[64];
  for (int round = 0; round < 2; round++) {
    tile[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x] + 1;
  }
}
extern "C" __global__ void past_shared(float *y) {
  __shared__ float tile[64], other[64];
  tile[threadIdx.x] = other[threadIdx.x] = 0;
  const float *volatile at = tile;
  y[threadIdx.x] = at[threadIdx.x + 1];
}
extern "C" __global__ void past_dynamic(float *y) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = 0;
}
extern "C" __global__ void past_array(float *y, int n) { y[n] = y[n + threadIdx.x]; }
extern "C" __global__ void overflow(float *y, int n) { y[0] = n + 1; }
"""
)

# Kernel -> what is said of it, with two warps of threads.
REFUSED = {
    "half_at_barrier": r"block \(0, 0, 0\): .*0 to 31 wait at __syncthreads, line \d+; 32 to 63 ended\n.*if \(thr",
    "ended_before_barrier": "0 to 39 wait at __syncthreads, line .*; 40 ended; 41 to 63 wait",
    "two_barriers": "meet at different barriers: 0 to 31 .*; 32 to 63",
    "half_shuffle": r"0 to 15 wait at __shfl_xor_sync.*; 16 to 31 wait at __syncthreads.*; 32 to 47",
    "outside_mask": "lane 0 reads lane 16, which the mask 0000ffff leaves out",
    "not_in_own_mask": "thread 16: __syncwarp, .* leaves out the calling lane 16",
    "other_masks": "wait for ever: 0 to 15 wait at __syncwarp, line .*, mask ffffffff; 16 to 31 wait .* fffffffe",
    "mixed": "0 waits at __ballot_sync, line .*; 1 waits at __syncwarp",
    "mixed_votes": "0 waits at __ballot_sync, line .*; 1 waits at __any_sync",
    "mixed_types": "0 waits at __shfl_sync, line .*; 1 waits at __shfl_sync",
    "diverged_mma": r"0 waits at mma_m16n8k16_f16, line (\d+), .*; 1 to 31 wait at mma_m16n8k16_f16, line (?!\1)",
    "unaligned_copy": "cp_async, line .*: the address in shared memory is not a multiple of 16",
    "copy_elsewhere": "cp_async, line .*: the address is not in shared memory",
    "rows_elsewhere": "ldmatrix, line .*: the address is not in shared memory",
}


@pytest.fixture(scope="module")
def wrong() -> Program:
    """Kernels that break the rules."""
    return build(WRONG)


@pytest.fixture
def y() -> np.ndarray[Any, Any]:
    """Four numbers for each of 64 threads."""
    return rng().standard_normal(256).astype("f")


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_use_is_refused(name: str, wrong: Program, y: np.ndarray[Any, Any]) -> None:
    """The error names the block, the threads and the line; the next launch is none the worse."""
    for _ in range(2):
        with pytest.raises(SimtError, match=REFUSED[name]):
            wrong.launch(name, 1, 64, [y])
    wrong.launch("unwritten", 1, 64, [y])


def test_a_warp_must_be_whole(wrong: Program, y: np.ndarray[Any, Any]) -> None:
    """No mma and no full mask with half a warp."""
    with pytest.raises(SimtError, match=r"thread 32: mma_m16n8k16_f16, line .*: the warp has 16 lanes"):
        wrong.launch("diverged_mma", 1, 48, [y])


def test_wrong_launches_are_refused(right: Program) -> None:
    """Names, sizes of blocks and of arguments, amounts of shared memory."""
    out = np.zeros((24, 30), np.int32)
    for name, block, shared, given, message in (
        ("index", 1, 0, [out], "no kernel index"),
        ("indices", 1025, 0, [out], "1 to 1024 threads, not 1025"),
        ("indices", 1, 227 * 1024 + 1, [out], "too many"),
        ("indices", 1, 0, [np.int32(1)], "other sizes"),
        ("indices", 1, 0, [], "other sizes"),
    ):
        with pytest.raises(SimtError, match=message):
            right.launch(name, 1, block, given, shared)


def test_shared_memory_begins_as_nan(wrong: Program, y: np.ndarray[Any, Any]) -> None:
    """In each block anew."""
    for _ in range(2):
        wrong.launch("unwritten", 3, 64, [y])
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(y)), [7])


def test_a_copy_not_waited_for_is_nan(wrong: Program, y: np.ndarray[Any, Any]) -> None:
    """It is made as late as it may be."""
    wrong.launch("no_wait", 1, 64, [y])
    assert np.isnan(y[:64]).all()


@pytest.mark.parametrize("name", ["no_barrier", "no_second_barrier"])
def test_a_missing_barrier_shows(name: str, wrong: Program, y: np.ndarray[Any, Any]) -> None:
    """Another order of the threads gives other numbers."""
    results = []
    for order in ("forward", "backward", 1):
        got = y.copy()
        wrong.launch(name, 1, 64, [got], order=order)
        results.append(got.tobytes())
    assert len(set(results)) == 3


def test_sanitizers(y: np.ndarray[Any, Any]) -> None:
    """Reads and writes past ends are found, as is undefined arithmetic; right kernels pass, in any order."""
    checked = build(WRONG, sanitize=True)
    n = np.int32(200)
    for name, given, shared, message in (
        ("past_shared", [y], 0, "global-buffer-overflow"),
        ("past_dynamic", [y], 252, "use-after-poison"),
        ("past_array", [y, n], 0, "heap-buffer-overflow"),
        ("overflow", [y, np.int32(2**31 - 1)], 0, "signed integer overflow"),
        ("half_at_barrier", [y], 0, "wait for ever"),
    ):
        with pytest.raises(SimtError, match=message):
            checked.launch(name, 1, 64, given, shared)
    checked.launch("past_dynamic", 1, 64, [y], 256)
    checked.launch("past_array", 1, 56, [y, n])
    checked = build(RIGHT, sanitize=True)
    for order in ORDERS[:3]:
        x, got = rng().standard_normal((3, 96)).astype("f"), np.zeros((3, 96), "f")
        checked.launch("turned", 1, 96, [x, got], 96 * 16, order)
        np.testing.assert_array_equal(got, x[:, ::-1] + np.arange(96, dtype="f")[::-1])
        a, b, c = rng().standard_normal((16, 16)).astype("e"), np.eye(16, 8, dtype="e"), np.zeros((16, 8), "f")
        checked.launch("tile_f16_through_shared", 1, 32, [a, b, c], order=order)
        np.testing.assert_array_equal(c, a[:, :8])


def test_a_text_that_is_no_cuda_is_refused() -> None:
    """The compiler's words tell the line of the emitted text."""
    with pytest.raises(SimtError, match=r"emitted\.cu:2:.*undeclared"):
        build('extern "C" __global__ void f(float *y) {\n  y[0] = undeclared;\n}\n')
