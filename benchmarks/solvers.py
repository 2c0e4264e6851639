r"""Solvers against those of linear_operator and SciPy, on batches of systems, in one thread.

    python -m benchmarks.solvers

Each row is one problem, solved by two libraries in turn: the ratio is the median over runs of the
processor's time of ours over that of theirs right after, and both errors are the largest relative
residuals. SciPy solves one system after the other, and is asked for the same tolerance;
``linear_cg`` stops a batch as a whole, and is given as many iterations as ours took.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import scipy.sparse.linalg as sparse
import torch
from linear_operator.utils import linear_cg
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from appa_prob.operators import CG, GMRES, LSMR, LSQR, MINRES, Dense, Operator

RUNS = 9
RTOL = 1e-6


def kernels(batch: int, n: int, noise: float, dtype: torch.dtype) -> Tensor:
    """Covariances of noisy observations of smooth fields, the right-hand sides of which are easy
    or hard: one length scale a system."""
    place = torch.linspace(0, 1, n, dtype=torch.float64)
    length = torch.linspace(0.01, 0.2, batch, dtype=torch.float64)[:, None, None]
    M = torch.exp(-0.5 * ((place[:, None] - place) / length).square())
    return (M + noise * torch.eye(n)).to(dtype)


def residual(M: Tensor, x: Tensor, b: Tensor) -> float:
    """The largest relative residual of a batch, of the normal equations if M isn't square."""
    M, x, b = M.double(), x.double(), b.double()
    r, start = b - (M @ x[..., None])[..., 0], b
    if M.shape[-2] != M.shape[-1]:
        r, start = ((M.mT @ a[..., None])[..., 0] for a in (r, b))
    return float((r.norm(dim=-1) / start.norm(dim=-1)).max())


def clock(solve: Callable[[], Tensor]) -> float:
    """How long a solution takes, in seconds."""
    start = time.process_time()
    solve()
    return time.process_time() - start


def compare(
    name: str, M: Tensor, b: Tensor, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]
) -> None:
    """Prints one row."""
    errors = [residual(M, solve(), b) for solve in (ours, theirs)]
    times = [(clock(ours), clock(theirs)) for _ in range(RUNS)]
    ratio = median(a / b for a, b in times)
    mine = median(a for a, _ in times)
    print(f"{name:44s} {1e3 * mine:9.1f} {ratio:8.2f} {errors[0]:10.1e} {errors[1]:10.1e}")


def one_by_one(
    solve: Callable[..., tuple[np.ndarray, ...]], M: Tensor, b: Tensor, **options: float
) -> Tensor:
    """A solver of SciPy, called on each system of a batch."""
    pairs = zip(M.numpy(), b.numpy(), strict=True)
    return torch.from_numpy(np.stack([solve(A, y, **options)[0] for A, y in pairs]))


def against_linear_operator(batch: int, n: int, dtype: torch.dtype) -> None:
    """CG, with as many iterations for both."""
    M, b = kernels(batch, n, 0.1, dtype), torch.randn(batch, n, dtype=dtype)
    S: Operator = Dense(M, symmetric=True)
    solver = CG(RTOL if dtype == torch.float64 else 1e-4, 400, on_failure="ignore", verify=False)
    count = int(solver(S, b).iterations.max())

    def theirs() -> Tensor:
        x: Tensor = linear_cg(
            M.matmul, b[..., None], tolerance=0.0, max_iter=count, max_tridiag_iter=0
        )
        return x[..., 0]

    name = f"CG, linear_cg, {batch} x {n}, {str(dtype)[6:]}, k={count}"
    compare(name, M, b, lambda: solver(S, b).value, theirs)


def against_scipy(batch: int, n: int) -> None:
    """All solvers, to one tolerance."""
    M, b = kernels(batch, n, 0.1, torch.float64), torch.randn(batch, n, dtype=torch.float64)
    signs = torch.where(torch.arange(n) % 8 == 0, -1.0, 1.0).double()
    indefinite = signs[:, None] * M * signs + 2 * torch.diag(signs)
    tilted = M + 0.1 * torch.randn(n, n, dtype=torch.float64) / n**0.5
    tall = torch.randn(batch, 2 * n, n, dtype=torch.float64) / n**0.5
    y = torch.randn(batch, 2 * n, dtype=torch.float64)
    compare(
        f"CG, scipy cg, {batch} x {n}",
        M,
        b,
        lambda: CG(RTOL, 1000)(Dense(M, symmetric=True), b).value,
        lambda: one_by_one(sparse.cg, M, b, rtol=RTOL),
    )
    compare(
        f"MINRES, scipy minres, {batch} x {n}",
        indefinite,
        b,
        lambda: MINRES(RTOL, 2000)(Dense(indefinite, symmetric=True), b).value,
        lambda: one_by_one(sparse.minres, indefinite, b, rtol=RTOL / 10),
    )
    compare(
        f"GMRES(50), scipy gmres(50), {batch} x {n}",
        tilted,
        b,
        lambda: GMRES(RTOL, 10000, restart=50)(Dense(tilted), b).value,
        lambda: one_by_one(sparse.gmres, tilted, b, rtol=RTOL, restart=50),
    )
    compare(
        f"LSMR, scipy lsmr, {batch} x {2 * n} x {n}",
        tall,
        y,
        lambda: LSMR(RTOL, 1000)(Dense(tall), y).value,
        lambda: one_by_one(sparse.lsmr, tall, y, atol=RTOL / 10, btol=RTOL / 10),
    )
    compare(
        f"LSQR, scipy lsqr, {batch} x {2 * n} x {n}",
        tall,
        y,
        lambda: LSQR(RTOL, 1000)(Dense(tall), y).value,
        lambda: one_by_one(sparse.lsqr, tall, y, atol=RTOL / 10, btol=RTOL / 10),
    )


def main() -> None:
    """Prints all rows."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericalWarning)  # linear_cg takes as many steps as ours
    print(f"{'problem':44s} {'ours, ms':>9s} {'ratio':>8s} {'our error':>10s} {'theirs':>10s}")
    for batch, n in ((1, 64), (1, 512), (32, 64), (32, 512)):
        for dtype in (torch.float32, torch.float64):
            against_linear_operator(batch, n, dtype)
    for batch, n in ((1, 64), (1, 256), (1, 1024), (32, 64), (32, 256)):
        against_scipy(batch, n)


if __name__ == "__main__":
    main()
