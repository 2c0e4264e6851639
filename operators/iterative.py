"""What iterative solvers share: their options, and the frame around their iterations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Operator
from .krylov import System
from .preconditioner import Preconditioner, prepared
from .solution import OnFailure, Solution, check_options, report
from .transforms import transformed

__all__ = ["Iterate", "Iterative", "KrylovSolver"]

# The solution, its relative residual, the number of iterations, and what the solution lifts to.
Iterate = tuple[Tensor, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Iterative:
    r"""Options of iterative solvers.

    Arguments:
        rtol: The relative tolerance.
        max_iterations: The largest number of iterations.
        on_failure: What to do about systems that don't converge: ``"ignore"``, ``"warn"`` or
            ``"raise"``.
        verify: Whether to spend products on residuals alone; by default unless failures are
            ignored.
        check_interval: The number of iterations between looks at whether all systems are done,
            which make the host wait for the device; 0 for never. By default 1 on the CPU and 8
            elsewhere, where the first look is after these. Inside ``torch.func`` transforms and
            ``torch.compile`` nobody looks: all iterations are made, and failures aren't reported.

    Raises:
        ValueError: If an option is out of its range.
    """

    rtol: float = 1e-6
    max_iterations: int = 100
    on_failure: OnFailure = "warn"
    verify: bool | None = None
    check_interval: int | None = None

    def __post_init__(self) -> None:
        check_options(self.rtol, self.max_iterations, self.on_failure, self.check_interval)

    @property
    def verifies(self) -> bool:
        """Whether products may be spent on residuals alone."""
        return self.on_failure != "ignore" if self.verify is None else self.verify

    def done(self, iteration: int, active: Tensor) -> bool:
        """Whether a look was due, and found that no system is active any more."""
        if transformed():
            return False
        interval = self.check_interval
        if interval is None:
            cpu = active.device.type == "cpu"
            interval = 1 if cpu else 8
            if not (iteration or cpu):
                return False
        return interval > 0 and iteration % interval == 0 and not bool(active.any())


@dataclass(frozen=True)
class KrylovSolver(Iterative, ABC):
    r"""A solver of square systems :math:`S u = b`, a batch of them, each of which stops by itself.

    Arguments:
        preconditioner: An approximation of :math:`S^{-1}`: a :class:`Preconditioner`, an operator
            or a function of fields.
    """

    preconditioner: Preconditioner | Callable[[Tensor], Tensor] | None = None

    needs_symmetry: ClassVar[bool] = False
    remedy: ClassVar[str]

    def __call__(self, S: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        r"""Solves a batch of systems.

        Arguments:
            S: The operator :math:`S`, declared symmetric if the method needs it.
            b: The right-hand sides, with shape :math:`(*, event)`.
            x0: A first guess, with shape :math:`(*, event)`; by default 0.
        """
        name = type(self).__name__
        if self.needs_symmetry and not S.symmetric:
            raise ValueError(
                f"{name} needs a symmetric operator, got {S!r}, which isn't declared so; use GMRES"
            )
        system = System(S, b, x0, self.rtol)
        system.preconditioner = prepared(self.preconditioner, S)
        x, residual, iterations, lifted = self._iterate(system, x0)
        if self.verifies:
            residual = system.verified(x, residual)
        solution = system.solution(x, residual, iterations, lifted)
        return report(solution, name, self.rtol, self.on_failure, self.remedy)

    @abstractmethod
    def _iterate(self, system: System, x0: Tensor | None) -> Iterate:
        """Iterates from a first guess until every system is done, or to the cap."""
