r"""The likelihood of the observed sites of a program of Pyro."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor

from appa_prob.operators import BlockDiagonal, Diagonal, Isotropic, Jacobian, Operator

from .linear_sites import LinearSites
from .program_runs import ProgramRuns, rows
from .row_structure import selection
from .site_checks import log_density
from .site_numbers import error_covariances, parts_of, read_numbers
from .sites import read_dependence

if TYPE_CHECKING:
    from .program import Program

__all__ = ["ProgramLikelihood"]


class ProgramLikelihood:
    r"""The likelihood of the observed sites of a program, by Gauss and Newton.

    Gaussian sites whose means are linear are exact, and are read once, see
    :mod:`appa_prob.linear_sites`: the program is not run again for each linearisation. For others
    residuals and the rows of the Jacobian are in units of standard deviations, see
    :mod:`appa_prob.information`; those of correlated Gaussian errors are in the units of the
    observation.

    Arguments:
        program: The program.
        names: The names of the observed sites.

    Attributes:
        gaussian: Whether errors are Gaussian, with a covariance that doesn't depend on the state.
    """

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self.program = program
        g = torch.Generator().manual_seed(1)
        point = torch.randn(self.in_shape, generator=g, dtype=program.dtype).to(program.device)
        point.requires_grad_()
        with torch.enable_grad():
            trace = program.trace(program.unpack(point))
            self.sites = [read_dependence(name, trace.nodes[name], [point]) for name in names]
        values = [trace.nodes[name]["value"].to(program.dtype).flatten() for name in names]
        self.y = torch.cat(values)
        self.covariances = error_covariances(self.sites, trace)
        self.gaussian = all(
            part.dense or (isinstance(part.law, torch.distributions.Normal) and found == ("loc",))
            for part, found in parts_of(self.sites, trace)
        )
        self.runs = ProgramRuns(program, trace, self._everything)
        self.before: Sequence[Operator | None] = ()  # found for other values held fixed

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.program.prior.event_shape

    def of(self, program: Program) -> ProgramLikelihood:
        r"""The likelihood of a program that differs in values that are held fixed.

        Arguments:
            program: The other program.
        """
        new = copy.copy(self)
        new.program, new.runs = program, self.runs.of(program)
        found: LinearSites | None = vars(new).pop("linear_sites", None)
        new.before = self.before if found is None else found.blocks
        if any(isinstance(block, Operator) for block in self.covariances):
            new.covariances = error_covariances(self.sites, program.trace({}))
        return new

    def to(self, *args: Any, **kwargs: Any) -> ProgramLikelihood:
        r"""Itself: a program lives where its data live.

        Raises:
            TypeError: If another device or type is asked for.
        """
        moved = self.y.to(*args, **kwargs)
        if moved.dtype != self.y.dtype or moved.device != self.y.device:
            raise TypeError(
                f"expected to keep {self.y.dtype} on {self.y.device}, got {moved.dtype} on "
                f"{moved.device}: a program lives where its data live; move these and the prior"
            )
        return self

    @cached_property
    def linear_sites(self) -> LinearSites | None:
        r"""What is read once of sites that are Gaussian, with means that are linear in the
        state."""
        if not self.gaussian:
            return None
        found = LinearSites(self.runs, self.sites, self.before)
        return found if found.found else None

    @property
    def linear(self) -> bool:
        r"""Whether all sites are Gaussian with means that are linear in the state, so that
        linearisations are exact: seen at a few states."""
        return self.linear_sites is not None

    def holds(self, x: Tensor) -> bool:
        r"""Whether a program that is taken for a linear one is so where some states are; if not,
        it is no longer taken for one.

        Arguments:
            x: The states, with shape :math:`(n, event)`.
        """
        if self.linear_sites is not None and not self.linear_sites.hold(x):
            self.linear_sites = None
            return False
        return True

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log p(y \mid x)`, scaled and masked.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        batch = self._batch(x)

        def density(trace: Any, count: int) -> list[Tensor]:
            found = (log_density(trace.nodes[site.name]) for site in self.sites)
            return [sum(rows(one, one.shape, count).sum(-1) for one in found)]  # type: ignore

        (total,) = self.runs(x.reshape(-1, *self.in_shape), density)
        return total.reshape(batch)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The Gaussian likelihood that is the nearest at :math:`x`.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        self._batch(x)
        if self.linear_sites is not None:
            return self.linear_sites.linearize(x)
        J, residual, root = self._jacobian(x)
        like = torch.ones((), dtype=residual.dtype, device=residual.device)
        blocks = [
            block if isinstance(block, Operator) else Isotropic(like, block)
            for block in self.covariances
        ]
        R = BlockDiagonal(blocks) if len(blocks) > 1 else blocks[0]
        if self.elements is None:
            return residual, Diagonal(root, 1) @ J, R
        slope = J.forward(torch.ones_like(x))
        return residual, Diagonal(root * slope, 1) @ self.elements, R

    @cached_property
    def elements(self) -> Operator | None:
        r"""The selection of the element of the state that each parameter of a law depends on, if
        it is one, as for counts at the points of a field: products with the Jacobian are then
        products of numbers."""
        return selection(self._jacobian(x)[0] for x in self.runs.draw(4))

    def _jacobian(self, x: Tensor) -> tuple[Jacobian, Tensor, Tensor]:
        """The derivative of the parameters, residuals and roots of informations."""
        batch, kept = self._batch(x), list[Tensor]()
        create = torch.is_grad_enabled() and x.requires_grad

        def parameters(point: Tensor) -> Tensor:
            def numbers(trace: Any, count: int) -> list[Tensor]:
                return read_numbers(self.sites, trace, count, create)

            found = self.runs(point.reshape(-1, *self.in_shape), numbers)
            theta, *kept[:] = (one.reshape(*batch, one.shape[-1]) for one in found)
            return theta

        J = Jacobian(parameters, x, self.in_shape, create_graph=create)
        residual, root = kept if create else (one.detach() for one in kept)
        return J, residual, root

    def deterministic(self, x: Tensor) -> dict[str, Tensor]:
        r"""The values of deterministic sites.

        Arguments:
            x: States, with shape :math:`(n, event)`.
        """
        names = self.program.deterministic
        return self.runs.named(x, names, lambda node: node["value"])

    def pointwise(self, x: Tensor) -> dict[str, Tensor]:
        r"""The logarithms of the densities of observed sites one by one, as for cross-validation.

        Arguments:
            x: States, with shape :math:`(n, event)`.

        Returns:
            The logarithms by the names of sites, with shapes :math:`(n, batch)`.
        """
        return self.runs.named(x, [site.name for site in self.sites], log_density)

    def _batch(self, x: Tensor) -> Size:
        event = self.in_shape
        if x.ndim < len(event) or x.shape[x.ndim - len(event) :] != event:
            raise ValueError(
                f"expected states of shape (*, {', '.join(map(str, event))}), got {tuple(x.shape)}"
            )
        return x.shape[: x.ndim - len(event)]

    def _everything(self, trace: Any, count: int) -> list[Tensor]:
        """All that is read of a program."""
        values = [trace.nodes[name]["value"] for name in self.program.deterministic]
        densities = [log_density(trace.nodes[site.name]) for site in self.sites]
        more = [rows(one, one.shape, count) for one in (*values, *densities)]
        return [*read_numbers(self.sites, trace, count), *more]
