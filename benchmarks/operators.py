r"""Time of operators beside the same work written by hand, and beside peers.

    python -m benchmarks.operators

Times are those of the processor, in one process on one thread: medians over pairs of calls in
turn, and so are ratios, of which one below 1 means that ours takes less. deepinv and PyLops are
compared where they are installed, by operators with the same products, which is checked.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from appa_prob.operators import (
    Coarsen,
    Convolution,
    Dense,
    Diagonal,
    Gather,
    Interpolate,
    Mask,
    Mix,
    Operator,
    Permute,
    Slice,
    WeightedGather,
)

Call = Callable[[], Any]
Product = Callable[[Tensor], Tensor]
LEVELS, ROWS, COLUMNS = 71, 721, 1440


@torch.no_grad()
def main(
    pairs: Annotated[int, typer.Option(help="The number of pairs of calls.")] = 21,
    threads: Annotated[int, typer.Option(help="The number of CPU threads.")] = 1,
) -> None:
    """Prints the tables."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    settle()
    overhead(pairs)
    by_hand(pairs)
    peers(pairs)


def settle() -> None:
    """Makes the allocator keep what it frees, as it does once a process has freed 32 MB at once;
    before, zeros and products may cost as much in fresh pages as in work, on either side."""
    torch.empty(31 * 2**20, dtype=torch.uint8)


def paired(ours: Call, theirs: Call, pairs: int, repeat: int = 1) -> tuple[float, float, float]:
    """The median times of two functions in seconds, called in turn, and the median ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs + 2):
        for function, found in zip((ours, theirs), times, strict=True):
            start = time.process_time()
            for _ in range(repeat):
                result = function()
            found.append((time.process_time() - start) / repeat)
            del result
    a, b = times[0][2:], times[1][2:]
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return statistics.median(a), statistics.median(b), ratio


def report(name: str, ours: Call, theirs: Call, pairs: int, target: float | None) -> None:
    """Prints a ratio of times beside its target."""
    once = paired(ours, theirs, 1)[0]
    a, b, ratio = paired(ours, theirs, pairs, max(1, round(4e-3 / max(once, 1e-6))))
    goal = "" if target is None else f"  <= {target:g}"
    typer.echo(f"{name:44}{a * 1e3:10.3f}{b * 1e3:10.3f}{ratio:8.2f}{goal}")


def header(title: str, columns: str = f"{'ours':>10}{'theirs':>10}{'ratio':>8}") -> None:
    """Prints the head of a table."""
    typer.echo(f"\n{title:44}{columns}")


def overhead(pairs: int) -> None:
    """The time of calling operators over that of the bare expression, on tiny fields."""
    header("call overhead", f"{'ours us':>10}{'bare us':>10}{'extra':>8}")
    x, d, M = torch.randn(8, 8), torch.randn(8, 8), torch.randn(5, 8)
    mask, k = torch.randn(8, 8) > 0, torch.randn(3, 3)
    at, picks = mask.reshape(-1).nonzero()[:, 0], torch.tensor([3, 1, 60])
    turned, kernel = k.flip(0, 1)[None, None], k[None, None]
    leaves: dict[str, tuple[Operator, Product, Product]] = {
        "Diagonal": (Diagonal(d), lambda x: x * d, lambda y: y * d),
        "Mask": (
            Mask(mask),
            lambda x: x.reshape(64).index_select(-1, at),
            lambda y: y.new_zeros(64).index_add_(-1, at, y).view(8, 8),
        ),
        "Gather": (
            Gather(picks, (8, 8)),
            lambda x: x.reshape(64).index_select(-1, picks),
            lambda y: y.new_zeros(64).index_add_(-1, picks, y).view(8, 8),
        ),
        "Mix": (Mix(M, (8, 8)), lambda x: M @ x, lambda y: M.mT @ y),
        "Dense": (Dense(M, 8, 5), lambda x: M @ x, lambda y: M.mT @ y),
        "Slice": (Slice((8, 8), step=2), lambda x: x[::2, ::2], thinned),
        "Coarsen": (
            Coarsen(2, (8, 8)),
            lambda x: functional.avg_pool2d(x[None], 2)[0],
            partial(blocks, f=2),
        ),
        "Convolution": (
            Convolution(k, (8, 8)),
            lambda x: functional.conv2d(x[None, None], turned, padding=1)[0, 0],
            lambda y: functional.conv2d(y[None, None], kernel, padding=1)[0, 0],
        ),
    }
    for name, (A, product, adjoint) in leaves.items():
        field = x if len(A.in_shape) == 2 else x[0]
        y = A(field)
        extra(name, partial(A, field), partial(product, field), pairs, 1, 10.0)
        extra("  its adjoint", partial(A.adjoint, y), partial(adjoint, y), pairs, 1, 10.0)
    d2 = torch.randn(8, 8)
    turn = Permute((1, 0), (8, 8))
    tree = Diagonal(d) @ turn @ Diagonal(d2) @ turn @ Diagonal(d) + 2.0 * (turn @ Diagonal(d2))

    def bare_tree() -> Tensor:
        return ((x * d).permute(1, 0) * d2).permute(1, 0) * d + (x * d2).permute(1, 0) * 2.0

    extra("a tree of 10 operators, a node", lambda: tree(x), bare_tree, pairs, 10, 5.0)


def extra(name: str, ours: Call, bare: Call, pairs: int, nodes: int, target: float) -> None:
    """Prints a difference of times for each node, in microseconds."""
    a, b, _ = paired(ours, bare, pairs, 300)
    each = (a - b) / nodes * 1e6
    typer.echo(f"{name:44}{a * 1e6:10.2f}{b * 1e6:10.2f}{each:8.2f}  <= {target:g}")


def by_hand(pairs: int) -> None:
    """Products and adjoints beside the best that we could write by hand."""
    header("beside torch by hand, ms")
    x = torch.randn(8, ROWS - 1, COLUMNS)
    mask = torch.rand(ROWS - 1, COLUMNS) < 0.05
    indices = mask.reshape(-1).nonzero()[:, 0]
    A: Operator
    both(
        "selection of 5% (Mask, batch of 8)",
        Mask(mask),
        x,
        lambda x: x.reshape(8, -1).index_select(-1, indices),
        lambda y: y.new_zeros(8, mask.numel()).index_copy_(-1, indices, y).view(x.shape),
        pairs,
    )
    for f in (2, 4):
        A = Coarsen(f, tuple(x.shape))
        both(f"coarsening by {f}", A, x, partial(block_means, f=f), partial(blocks, f=f), pairs)
    stations, corners, w = interpolation()
    both(
        "interpolation to 11,000 points (batch of 8)",
        stations,
        torch.randn(8, ROWS, COLUMNS),
        lambda x: (x.view(8, -1).index_select(-1, corners).view(8, 4, -1).mul_(w)).sum(-2),
        lambda y: (
            y.new_zeros(8, ROWS * COLUMNS)
            .index_add_(-1, corners, (y[:, None] * w).view(8, -1))
            .view(8, ROWS, COLUMNS)
        ),
        pairs,
    )
    x = torch.randn(4, 256, 256)
    for k, filtered in ((3, direct), (31, by_fft)):
        kernel = torch.randn(k, k)
        product, adjoint = filtered(kernel)
        both(
            f"convolution {k} x {k} (batch of 4)",
            Convolution(kernel, (256, 256)),
            x,
            product,
            adjoint,
            pairs,
        )


def direct(kernel: Tensor) -> tuple[Product, Product]:
    """A convolution of four channels, and its adjoint."""
    k = kernel.shape[0]
    weights = [kernel.flip(0, 1).expand(4, 1, k, k), kernel.expand(4, 1, k, k)]

    def filtered(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x[None], weight, padding=k // 2, groups=4)[0]

    return partial(filtered, weight=weights[0]), partial(filtered, weight=weights[1])


def by_fft(kernel: Tensor) -> tuple[Product, Product]:
    """A convolution on 256 x 256 points by Fourier transforms of length 288, and its adjoint."""
    p, s = kernel.shape[0] // 2, (288, 288)
    spectrum = torch.fft.rfft2(kernel, s=s)

    def product(x: Tensor) -> Tensor:
        y: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=s) * spectrum, s=s)
        return y[..., p : p + 256, p : p + 256]

    def adjoint(y: Tensor) -> Tensor:
        shifted = functional.pad(y, (p, 0, p, 0))
        x: Tensor = torch.fft.irfft2(torch.fft.rfft2(shifted, s=s) * spectrum.conj(), s=s)
        return x[..., :256, :256]

    return product, adjoint


def thinned(y: Tensor) -> Tensor:
    """The adjoint of every other row and column."""
    x = y.new_zeros(8, 8)
    x[::2, ::2] = y
    return x


def blocks(y: Tensor, f: int) -> Tensor:
    """The adjoint of block means."""
    fields = (y / f**2).reshape(1, -1, *y.shape[-2:])
    return functional.interpolate(fields, scale_factor=f).view(
        *y.shape[:-2], *(f * n for n in y.shape[-2:])
    )


def block_means(x: Tensor, f: int) -> Tensor:
    """Block means by sums of slices, the fastest of six ways for small blocks."""
    rows = x.view(*x.shape[:-2], -1, f, x.shape[-1])
    y = rows[..., 0, :] + rows[..., 1, :]
    for i in range(2, f):
        y += rows[..., i, :]
    blocks = y.view(*y.shape[:-1], -1, f)
    z = blocks[..., 0] + blocks[..., 1]
    for i in range(2, f):
        z += blocks[..., i]
    return z.mul_(1 / f**2)


def interpolation(leading: tuple[int, ...] = ()) -> tuple[Interpolate, Tensor, Tensor]:
    """Stations, and the indices and weights of their corners."""
    latitude, longitude = torch.linspace(90.0, -90.0, ROWS), torch.arange(COLUMNS) * 0.25
    phi = torch.rad2deg(torch.asin(2 * torch.rand(11000) - 1))
    A = Interpolate(latitude, longitude, phi, 360 * torch.rand(11000), leading)
    return A, A.indices.mT.reshape(-1).contiguous(), A.weights.mT.contiguous()


def both(
    name: str,
    A: Operator,
    x: Tensor,
    product: Product,
    adjoint: Product,
    pairs: int,
) -> None:
    """Compares products and adjoint products, once they are found to be the same."""
    y = A(x)
    torch.testing.assert_close(y, product(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(A.adjoint(y), adjoint(y), rtol=1e-3, atol=1e-3)
    report(name, lambda: A(x), lambda: product(x), pairs, 1.15)
    report("  its adjoint", lambda: A.adjoint(y), lambda: adjoint(y), pairs, 1.15)


def peers(pairs: int) -> None:
    """Products and adjoints beside those of deepinv and PyLops."""
    header("beside peers, ms")
    for name, compare in (("deepinv", beside_deepinv), ("pylops", beside_pylops)):
        if importlib.util.find_spec(name) is None:
            typer.echo(f"{name} isn't installed: skipped")
            continue
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # made for another torch, for example
            typer.echo(f"{name} can't be imported: skipped ({error})")
            continue
        compare(pairs)


def beside_deepinv(pairs: int) -> None:
    """Masks, coarsening by a box filter, and blurs of images."""
    physics: Any = importlib.import_module("deepinv.physics")
    x = torch.randn(4, 1, 256, 256)
    mask = torch.rand(1, 256, 256) < 0.2
    inpaint = physics.Inpainting((1, 256, 256), mask=mask.float())
    # It multiplies by 0 and 1, as a diagonal does; a mask selects, and so has fewer outputs.
    A: Operator = Diagonal(mask.float())
    against("deepinv Inpainting, Diagonal", A, x, inpaint.A, inpaint.A_adjoint, pairs)
    A, z = Mask(mask), inpaint.A(x)
    y = A(x)
    report("  Mask, which selects", lambda: A(x), lambda: inpaint.A(x), pairs, None)
    report("  its adjoint", lambda: A.adjoint(y), lambda: inpaint.A_adjoint(z), pairs, None)
    for f in (2, 4):
        box = torch.full((1, 1, f, f), 1 / f**2)
        coarse = physics.Downsampling((1, 256, 256), filter=box, factor=f, padding="valid")
        A = Coarsen(f, (1, 256, 256))
        against(f"deepinv Downsampling, box {f}", A, x, coarse.A, coarse.A_adjoint, pairs)
    for k in (3, 9, 31):
        kernel = torch.rand(k, k) / k**2
        A = Convolution(kernel, (1, 256, 256), "periodic")
        for blur in (
            physics.Blur(kernel[None, None], padding="circular"),
            physics.BlurFFT((1, 256, 256), kernel[None, None]),
        ):
            name = f"deepinv {type(blur).__name__} {k} x {k}, periodic"
            against(name, A, x, blur.A, blur.A_adjoint, pairs)


def beside_pylops(pairs: int) -> None:
    """Restriction, bilinear interpolation and convolution in two dimensions."""
    pylops: Any = importlib.import_module("pylops")
    signal: Any = importlib.import_module("pylops.signalprocessing")
    x = torch.randn(ROWS, COLUMNS)
    indices = torch.randperm(x.numel())[:50000].sort().values
    their = pylops.Restriction(x.numel(), indices.numpy(), dtype="float32")
    numpy_against("PyLops Restriction", Gather(indices, x.shape), x, their, pairs)
    A, corners, w = interpolation()
    # Rows go south, and the third corner is the north-western one.
    i, j = corners.view(4, -1)[2] // COLUMNS, corners.view(4, -1)[2] % COLUMNS
    inside = (i < ROWS - 1) & (j < COLUMNS - 1)
    places = torch.stack((i + w[:2].sum(0), j + w[1::2].sum(0)))[:, inside]
    their = signal.Bilinear(places.double().numpy(), x.shape, dtype="float32")
    part = WeightedGather(A.indices[inside], A.weights[inside], A.in_shape)
    numpy_against("PyLops Bilinear, 11,000 points", part, x, their, pairs)
    for k, method in ((3, "direct"), (3, "fft"), (31, "fft")):
        kernel, z = torch.rand(k, k) / k**2, torch.randn(256, 256)
        their = signal.Convolve2D(
            z.shape, kernel.numpy(), (k // 2, k // 2), method=method, dtype="float32"
        )
        name = f"PyLops Convolve2D {k} x {k}, {method}"
        numpy_against(name, Convolution(kernel, z.shape), z, their, pairs)


def against(
    name: str,
    A: Operator,
    x: Tensor,
    product: Product,
    adjoint: Product,
    pairs: int,
) -> None:
    """Compares with a peer, once its products are found to be the same."""
    y = A(x)
    torch.testing.assert_close(y, product(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(A.adjoint(y), adjoint(y), rtol=1e-3, atol=1e-3)
    report(name, lambda: A(x), lambda: product(x), pairs, 1.0)
    report("  its adjoint", lambda: A.adjoint(y), lambda: adjoint(y), pairs, 1.0)


def numpy_against(name: str, A: Operator, x: Tensor, peer: Any, pairs: int) -> None:
    """Compares with an operator on arrays, once its product is found to be the same."""
    y, flat = A(x), x.reshape(-1).numpy()
    theirs = peer.matvec(flat)
    torch.testing.assert_close(y.reshape(-1), torch.as_tensor(theirs), rtol=1e-3, atol=1e-3)
    report(name, lambda: A(x), lambda: peer.matvec(flat), pairs, 1.0)
    report("  its adjoint", lambda: A.adjoint(y), lambda: peer.rmatvec(theirs), pairs, 1.0)


if __name__ == "__main__":
    typer.run(main)
