"""The sum reduction: c_i = Sum_j (p - a_j)^2 exp(x_i + y_j), and its gradient with respect to y.

Runs on the server that FARFIELD_URL names, or in this process if it is not set:

    farfield demo examples/sum_reduction.py       # starts a server for it
    python examples/sum_reduction.py              # no server
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd import grad

import farfield
from farfield.torch import Genred

M, N = 3000, 5000
PLOT = Path("sum_reduction.png")


def timed(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The result and how many milliseconds it took."""
    start = time.perf_counter()
    result = compute()
    return result, (time.perf_counter() - start) * 1e3


def report(name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Time the first call, which compiles, and later ones."""
    result, first_ms = timed(compute)
    later_ms = statistics.median(timed(compute)[1] for _ in range(20))
    print(f"{name:<9} first call {first_ms:7.1f} ms (with compilation), later calls {later_ms:6.2f} ms")
    return result


def with_torch(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, p: torch.Tensor, e: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain PyTorch and float64, which stores M x N numbers."""
    x, y, a, p, e = (tensor.detach().double() for tensor in (x, y, a, p, e))
    y.requires_grad_()
    weights = ((p - a) ** 2)[None, :, :]
    c = torch.stack([(weights[:, :, 0] * torch.exp(x[:, None, k] + y[None, :, k])).sum(1) for k in range(3)], 1)
    return c, grad(c, y, e)[0]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((ours.detach() - theirs.detach()).abs().max() / theirs.detach().abs().max())


def plot(g: torch.Tensor, g_torch: torch.Tensor) -> None:
    """The first 40 rows of both gradients, on top of each other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for k, axis in enumerate(axes):
        axis.plot(g[:40, k].detach().numpy(), "-", linewidth=3, alpha=0.5, label="Farfield")
        axis.plot(g_torch[:40, k].detach().numpy(), "k--", linewidth=1, label="PyTorch")
        axis.set_ylabel(f"component {k}")
    axes[0].set_title("gradient of the sum reduction with respect to y")
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("row j")
    figure.savefig(PLOT, dpi=120)
    plt.close(figure)


def main() -> int:
    """Compute, compare, plot; 0 if the results agree."""
    session = farfield.connect()
    print(f"computing on {session.url}")
    torch.manual_seed(0)
    x = torch.randn(M, 3)
    y = torch.randn(N, 3, requires_grad=True)
    a = torch.randn(N, 1)
    p = torch.randn(1)

    routine = Genred("Square(p-a)*Exp(x+y)", ["x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"], "Sum", axis=1)
    c = report("forward", lambda: routine(x, y, a, p))
    e = torch.rand_like(c)
    g = report("gradient", lambda: grad(routine(x, y, a, p), y, e)[0])

    c_torch, g_torch = with_torch(x, y, a, p, e)
    worst = max(difference(c, c_torch), difference(g, g_torch))
    print(f"largest relative difference to PyTorch in float64: {worst:.1e}")
    try:
        plot(g, g_torch)
        print(f"plot saved as {PLOT.resolve()}")
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'farfield[demo]')")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
