r"""Memory of trees of 10 operators beside the same expressions by hand, forward and adjoint.

    python -m benchmarks.allocations

The bytes of all allocations, those that are freed again included, and the largest number of bytes
held at once, results included, as torch's profiler records them. What is written
by hand can be differentiated, as ours can: only sums of its own making are added to in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from appa_prob.operators import (
    Coarsen,
    Convolution,
    Diagonal,
    Gather,
    InnovationCovariance,
    Isotropic,
    LowRankPlusDiagonal,
    Mask,
    Mix,
    Operator,
    Permute,
    Slice,
    Stack,
    WeightedGather,
)

Call = Callable[[], Any]
Product = Callable[[Tensor], Tensor]
Twin = tuple[Operator, Product, Product]


def turned(n: int) -> Twin:
    """Diagonals between transpositions, cropped, plus a multiple of a crop."""
    d, e, f = (torch.randn(n, n) for _ in range(3))
    turn, part = Permute((1, 0), (n, n)), Slice((n, n), step=2)
    A = part @ turn @ Diagonal(d) @ turn @ Diagonal(e) @ turn @ Diagonal(f) + 2.5 * part @ turn

    def product(x: Tensor) -> Tensor:
        y = ((((x * f).T * e).T * d).T)[::2, ::2]
        return torch.add(y, x.T[::2, ::2], alpha=2.5)

    def adjoint(y: Tensor) -> Tensor:
        wide = y.new_zeros(n, n)
        wide[::2, ::2] = y
        x = ((wide.T * d).T * e).T * f
        scaled = y * 2.5
        last = y.new_zeros(n, n)
        last[::2, ::2] = scaled
        return x + last.T

    return A, product, adjoint


def instrument(n: int) -> Twin:
    """Pixels of channels that see a blurred field, and their mean over blocks."""
    k, d, M = torch.randn(5, 5), torch.randn(n, n), torch.randn(4, 3)
    shape, mask = (3, n, n), torch.rand(4, n // 2, n // 2) < 0.1
    pixels = mask.reshape(-1).nonzero()[:, 0]
    gain, scale = torch.randn(3, n, n), torch.randn(4, n // 2, n // 2)
    narrow = torch.randn(int(mask.sum()))
    A = (
        Diagonal(narrow)
        @ Mask(mask)
        @ Diagonal(scale)
        @ Coarsen(2, (4, n, n))
        @ Mix(M, shape)
        @ Diagonal(gain)
        @ Convolution(k, shape)
        @ Diagonal(d.expand(shape))
        @ Permute((0, 2, 1), shape)
        @ Diagonal(d.expand(shape))
    )
    weights = [k.flip(0, 1).expand(3, 1, 5, 5), k.expand(3, 1, 5, 5)]

    def blurred(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x[None], weight, padding=2, groups=3)[0]

    def product(x: Tensor) -> Tensor:
        x = (x * d).mT * d
        x = blurred(x, weights[0]) * gain
        z = (M @ x.view(3, -1)).view(4, n, n)
        rows = z.view(4, n // 2, 2, n)
        rows = rows[..., 0, :] + rows[..., 1, :]
        blocks = rows.view(4, n // 2, n // 2, 2)
        means = (blocks[..., 0] + blocks[..., 1]) * 0.25 * scale
        return means.view(-1).index_select(0, pixels) * narrow

    def adjoint(y: Tensor) -> Tensor:
        wide = y.new_zeros(mask.numel()).index_add_(0, pixels, y * narrow).view(mask.shape)
        fine = functional.interpolate((wide * scale * 0.25)[None], scale_factor=2)[0]
        x = (M.T @ fine.view(4, -1)).view(shape) * gain
        return (blurred(x, weights[1]) * d).mT * d

    return A, product, adjoint


def innovation(n: int) -> Twin:
    """What observations differ by from a forecast: H V H^T + R, the covariance of the errors of
    representation included."""
    m = n * n
    d, e, W = torch.rand(m) + 0.5, torch.rand(m) + 0.5, torch.randn(4, m)
    picks = torch.randperm(m)[: m // 4]
    w = torch.randn(m // 4)
    H = Diagonal(w) @ Gather(picks, m)
    V = Diagonal(e) @ LowRankPlusDiagonal(W, d) @ Diagonal(e)
    A = InnovationCovariance(H, V, Isotropic(0.5, m // 4) + Diagonal(w * w))

    def product(y: Tensor) -> Tensor:
        x = y.new_zeros(m).index_add_(0, picks, y * w) * e
        z = (W.T @ (W @ x) + d * x) * e
        return z.index_select(0, picks) * w + y * (w * w + 0.5)

    return A, product, product


def summed(n: int) -> Twin:
    """A sum of ten terms."""
    d, turn = torch.randn(n, n), Permute((1, 0), (n, n))
    A: Operator = Diagonal(d)
    for i in range(3):
        A = A + float(i + 2) * turn @ Diagonal(d) + Diagonal(d) @ turn @ Diagonal(d + i)

    def product(x: Tensor) -> Tensor:
        y = x * d
        for i in range(3):
            y = torch.add(y, (x * d).T, alpha=i + 2) if i == 0 else y.add_((x * d).T, alpha=i + 2)
            y.add_((x * (d + i)).T * d)
        return y

    def adjoint(y: Tensor) -> Tensor:
        x = y * d
        for i in range(3):
            x = x + (y.T * d) * (i + 2) if i == 0 else x.add_((y.T * d) * (i + 2))
            x.add_((y * d).T * (d + i))
        return x

    return A, product, adjoint


def network(n: int) -> Twin:
    """Stations, pixels and a swath of one state."""
    m = n * n
    picks = [torch.randperm(m)[: m // 8] for _ in range(3)]
    corners, w = torch.randint(m, (m // 8, 4)), torch.rand(m // 8, 4)
    d = [torch.rand(m // 8) for _ in range(4)]
    A = Stack(
        [
            *(Diagonal(d[i]) @ Gather(picks[i], (n, n)) for i in range(3)),
            0.5 * (Diagonal(d[3]) @ WeightedGather(corners, w, (n, n))),
        ]
    )
    flat, weights = corners.T.reshape(-1), w.T.contiguous()

    def product(x: Tensor) -> Tensor:
        x = x.view(-1)
        sums = x.index_select(0, flat).view(4, -1).mul_(weights).sum(0) * d[3] * 0.5
        return torch.cat(
            [*(x.index_select(0, p) * a for p, a in zip(picks, d, strict=False)), sums]
        )

    def adjoint(y: Tensor) -> Tensor:
        *parts, last = y.view(4, -1)
        x = y.new_zeros(m)
        for part, p, a in zip(parts, picks, d, strict=False):
            x.index_add_(0, p, part * a)
        return x.index_add_(0, flat, (last * 0.5 * d[3] * weights).view(-1)).view(n, n)

    return A, product, adjoint


TREES: dict[str, Callable[[int], Twin]] = {
    tree.__name__: tree for tree in (turned, instrument, innovation, summed, network)
}


def memory(function: Call) -> tuple[int, int]:
    """The bytes that a function allocates, and the largest number that it holds at once, its
    result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    events = sorted(record.events(), key=lambda event: event.time_range.start)
    sizes = [event.self_cpu_memory_usage for event in events]
    del result
    return sum(max(size, 0) for size in sizes), max(accumulate(sizes), default=0)


@torch.no_grad()
def main(n: int = 512) -> None:
    """Prints the table."""
    torch.manual_seed(0)
    typer.echo(f"{'':34}{'allocated, MB':>21}{'ratio':>8}{'peak, MB':>17}{'ratio':>8}")
    for name, tree in TREES.items():
        A, product, adjoint = tree(n)
        x, y = torch.randn(A.in_shape), torch.randn(A.out_shape)
        row(name, partial(A, x), partial(product, x))
        row("  its adjoint", partial(A.adjoint, y), partial(adjoint, y))


def row(name: str, ours: Call, theirs: Call) -> None:
    """Prints what two functions allocate, once their results are found to be the same."""
    torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-3)
    pairs = zip(memory(ours), memory(theirs), strict=True)
    columns = "".join(f"{a / 1e6:13.3f}{b / 1e6:9.3f}{a / b:8.2f}" for a, b in pairs)
    typer.echo(f"{name:28}{columns}")


if __name__ == "__main__":
    typer.run(main)
