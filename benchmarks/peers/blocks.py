"""What the workloads are in arrays, for libraries without map-reductions: written once for torch and JAX.

A block computes some rows of the result from as many rows of x and all of the other arguments. It makes arrays of
rows x N components, or of rows x N x D where distances are taken by broadcasting, so that a peer chooses how many
rows it takes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workloads import Workload

from . import Compute

Block = Callable[..., Any]
MB = 1 << 20
EAGER = (4 * MB,)
FUSING = (128 * MB, 16 * MB)
PRODUCTS = (16 * MB, 4 * MB)
"""Sizes of a block's largest array that are tried: of 1 MB to all rows, these were the fastest.
That of a block by broadcasting is never made where a compiler fuses it."""

ON_DEVICE = (1024 * MB,)
"""That on a device with much memory and no cache worth a block: few launches."""

TUNING_S = 6.0  # after which no further block size is tried


@dataclass(frozen=True)
class Library:
    """What torch and JAX call differently, and one of the two formulations.

    Args:
        closeness: (rows, D), (N, D) -> minus the squared distances.
        products: (rows, D), (N, D) -> scalar products.
        weighted: (rows, N), (N, Dv) -> the sum over columns of their product.
        largest: scores, K -> values and places of the K largest, descending.
    """

    exp: Callable[[Any], Any]
    softmax: Callable[[Any, int], Any]
    logsumexp: Callable[[Any, int], Any]
    largest: Callable[[Any, int], tuple[Any, Any]]
    max: Callable[[Any, int], Any]
    closeness: Callable[[Any, Any], Any]
    products: Callable[[Any, Any], Any]
    weighted: Callable[[Any, Any], Any]


def closeness(x: Any, y: Any) -> Any:
    """By broadcasting."""
    return -((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def products(x: Any, y: Any) -> Any:
    """By broadcasting."""
    return (x[:, None, :] * y[None, :, :]).sum(-1)


def summed(pairs: Any, b: Any) -> Any:
    """The weighted sum by broadcasting, which compilers fuse with what makes the pairs; else a product."""
    return (pairs * b[:, 0]).sum(1)[:, None] if b.shape[1] == 1 else pairs @ b


def block_of(workload: Workload, lib: Library) -> Block | None:
    """The workload in arrays; None for one that is not listed here."""

    def seed(x: Any, y: Any, a: Any, p: Any) -> Any:
        return ((p - a) ** 2 * lib.exp(x[:, None, :] + y[None, :, :])).sum(1)

    def gaussian(x: Any, y: Any, b: Any, g: Any) -> Any:
        scale = g**0.5
        return lib.weighted(lib.exp(lib.closeness(x * scale, y * scale)), b)

    blocks: dict[tuple[str, str], Block] = {
        ("Square(p-a)*Exp(x+y)", "Sum"): seed,
        ("Exp(-g*SqDist(x,y))*b", "Sum"): gaussian,
        ("-SqDist(x,y)", "LogSumExp"): lambda x, y: lib.logsumexp(lib.closeness(x, y), 1)[:, None],
        ("(x|y)", "SumSoftMaxWeight"): lambda x, y, v: lib.softmax(lib.products(x, y), 1) @ v,
        ("SqDist(x,y)", "KMin"): lambda x, y: -lib.largest(lib.closeness(x, y), workload.K or 1)[0],
        ("SqDist(x,y)", "ArgKMin"): lambda x, y: lib.largest(lib.closeness(x, y), workload.K or 1)[1],
        ("SqDist(x,y)", "ArgMin"): lambda x, y: lib.closeness(x, y).argmax(1)[:, None],
        ("(x|y)", "Max"): lambda x, y: lib.max(lib.products(x, y), 1)[:, None],
    }
    return blocks.get((workload.formula, workload.reduction))


def uses_products(workload: Workload) -> bool:
    """There are distances or scalar products, which a matrix product gives."""
    return "SqDist" in workload.formula or "|" in workload.formula


def block_rows(workload: Workload, sizes: Iterable[int], *, broadcast: bool) -> Iterator[int]:
    """Numbers of rows to try: divisors of M, so that all blocks are alike.

    Args:
        sizes: of a block's largest array, in bytes.
        broadcast: it holds all components of a pair.
    """
    (M, D), (N, _) = workload.shapes[:2]
    bytes_of_row = N * (D if broadcast else 1) * (8 if workload.dtype == "float64" else 4)
    most = [min(M, max(1, size // bytes_of_row)) for size in sizes]
    yield from dict.fromkeys(next(rows for rows in range(limit, 0, -1) if M % rows == 0) for limit in most)


def fastest(candidates: Sequence[Callable[[], Compute]]) -> Compute:
    """The fastest in its second call of what is made, of as many as `TUNING_S` has room for."""
    if len(candidates) == 1:
        return candidates[0]()
    found: list[tuple[float, Compute]] = []
    begin = time.perf_counter()
    for make in candidates:
        compute = make()
        compute()
        start = time.perf_counter()
        compute()
        found.append((time.perf_counter() - start, compute))
        if time.perf_counter() - begin > TUNING_S:
            break
    return min(found, key=lambda pair: pair[0])[1]
