"""Solvers don't make the host wait for the device, unless a check interval asks for it."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from appa_prob.operators import (
    CG,
    GMRES,
    LSMR,
    LSQR,
    MINRES,
    Dense,
    Diagonal,
    InnovationCovariance,
    Isotropic,
)
from appa_prob.operators.iterative import Iterative

F64 = torch.float64
WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
}
SOLVERS: list[type[Iterative]] = [CG, MINRES, GMRES, LSMR, LSQR]


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations whose result the host waits for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masks or func in WAITS
        return func(*args, **(kwargs or {}))


def waits(solver: Any, n: int = 40) -> tuple[int, int]:
    """How often the host waits during a solution, and the number of iterations."""
    d = torch.logspace(0, 3, n, dtype=F64)
    S = InnovationCovariance(Dense(torch.eye(n, dtype=F64)), Diagonal(d), Isotropic(0.1, n))
    b = torch.randn(2, n, dtype=F64)
    with Waits() as counter:
        solution = solver(S, b)
    return counter.count, int(solution.iterations.max())


def test_the_counter_counts() -> None:
    with Waits() as counter:
        x = torch.ones(3)
        if x.sum() > 0:
            float(x[0])
        x[x > 0]
    assert counter.count == 3


@pytest.mark.parametrize("kind", SOLVERS)
def test_nothing_waits_without_a_check(kind: type[Iterative]) -> None:
    solver = kind(rtol=1e-8, max_iterations=20, on_failure="ignore", check_interval=0)
    assert waits(solver) == (0, 20)


def test_restarts_do_not_wait() -> None:
    solver = GMRES(max_iterations=20, restart=6, on_failure="ignore", check_interval=0)
    assert waits(solver) == (0, 20)


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.filterwarnings("ignore::appa_prob.operators.ConvergenceWarning")
def test_checks_wait_once_an_interval_and_reports_a_fixed_number_of_times(
    kind: type[Iterative],
) -> None:
    options: dict[str, Any] = {"rtol": 1e-8, "max_iterations": 20, "on_failure": "ignore"}
    assert waits(kind(**options, check_interval=5)) == (4, 20)
    assert waits(kind(**options, check_interval=1)) == (20, 20)
    options["on_failure"] = "warn"
    short = waits(kind(**options | {"max_iterations": 5}, check_interval=0))[0]
    assert waits(kind(**options, check_interval=0))[0] == short <= 6
