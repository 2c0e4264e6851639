r"""Observed sites whose means are linear in the state: what is read of them once, for all states.

.. math:: y = b + H x + \epsilon \qquad \epsilon \sim \mathcal{N}(0, R)

Nothing in a program says that a mean is linear: it is found by comparing it with its linearisation
at other states, near and far. The operator :math:`H` is then the one that the site was made with,
where it was made by a likelihood of :mod:`appa_prob.likelihoods`; a selection of elements, where
products show that it is one; a matrix, where that is small; else the graph of one run. Units are
those of the observation, and :math:`R` is a multiple of the identity, a diagonal, or what a
multivariate law has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from appa_prob.operators import (
    BlockDiagonal,
    Diagonal,
    Gather,
    Identity,
    Isotropic,
    Jacobian,
    Operator,
    Stack,
)

from .program_runs import ProgramRuns
from .row_structure import near, row_structure
from .site_numbers import read_means, vector_covariances
from .sites import Observed

__all__ = ["LinearSites"]

FAR = 1e3  # how far linearity is tested; samples test it where they are


@dataclass(frozen=True, eq=False)
class _Linear:
    """A part among all parts: its rows, its residual at 0, the weights of rows that are left as
    they are, the covariances of its errors, and the map that its site was made with."""

    rows: slice
    residual: Tensor
    weight: Tensor
    covariances: list[Operator]
    map: Any


class LinearSites:
    r"""The residual, the operator and the covariance of errors of observed sites, if their means
    are linear.

    Arguments:
        runs: Runs of the program.
        sites: Its observed sites, Gaussian with covariances that don't depend on the state.
        before: The operators that were found for other values of what is held fixed, which are
            tried first.

    Attributes:
        found: Whether means are linear.
    """

    def __init__(
        self, runs: ProgramRuns, sites: Sequence[Observed], before: Sequence[Operator | None] = ()
    ) -> None:
        self.runs, self.sites = runs, sites
        self.shape: Size = runs.program.prior.event_shape
        x = runs.draw(2)
        x[1] *= FAR
        self.graph: Jacobian | None = None
        with torch.no_grad():
            zero = torch.zeros_like(x[0])
            self.parts = _read(sites, runs.program.trace(runs.program.unpack(zero)))
            J = self._graph(zero)
            self.offset = J.value
            self.found = self._agree(x, J.forward(x))
            if self.found:
                tried = before or [None] * len(self.parts)
                pairs = zip(self.parts, tried, strict=True)
                self.blocks = [
                    row_structure(J, part.rows, (part.map, other)) for part, other in pairs
                ]
                self._leave_out()

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The residual :math:`y - b - H x`, the operator :math:`H` and the covariance :math:`R`.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        H = self.select @ self._operator(x)
        return self.residual - H.forward(x), H, self.R

    def hold(self, x: Tensor) -> bool:
        r"""Whether the program is linear between 0 and some states.

        Arguments:
            x: The states, with shape :math:`(n, event)`.
        """
        with torch.no_grad():
            return self._agree(x, self._operator(x).forward(x))

    def _agree(self, x: Tensor, seen: Tensor) -> bool:
        means = self._means(x)
        expected = self.offset + seen
        return all(near(means[..., one.rows], expected[..., one.rows]) for one in self.parts)

    def _leave_out(self) -> None:
        """Rows that say nothing are left out."""
        weight = torch.cat([part.weight for part in self.parts])
        kept, count = (weight > 0).nonzero()[:, 0], len(weight)
        self.select: Operator = Identity(count, dtype=weight.dtype, device=weight.device)
        if len(kept) < count:
            self.select = Gather(kept, count)
        if not bool((weight[kept] == 1).all()):
            self.select = Diagonal(weight[kept]) @ self.select
        self.residual = torch.cat([part.residual for part in self.parts])[kept]
        blocks = [one for part in self.parts for one in part.covariances if one.in_shape.numel()]
        self.R = blocks[0] if len(blocks) == 1 else BlockDiagonal(blocks)

    def _operator(self, x: Tensor) -> Operator:
        """The derivative of all means."""
        known = [block for block in self.blocks if block is not None]
        if len(known) < len(self.blocks):
            return self._graph(torch.zeros_like(x))
        return known[0] if len(known) == 1 else Stack(known)

    def _graph(self, x: Tensor) -> Jacobian:
        """The derivative from the graph of one run, at as many states as it is applied to."""
        if self.graph is None or self.graph.batch_shape != x.shape[: x.ndim - len(self.shape)]:
            self.graph = Jacobian(self._means, x, self.shape)
        return self.graph

    def _means(self, x: Tensor) -> Tensor:
        def read(trace: Any, count: int) -> list[Tensor]:
            return read_means(self.sites, trace, count)

        (means,) = self.runs(x.reshape(-1, *self.shape), read)
        return means.reshape(*x.shape[: x.ndim - len(self.shape)], means.shape[-1])


def _read(sites: Sequence[Observed], trace: Any) -> list[_Linear]:
    """The parts of sites, in a trace for the state 0."""
    found, start = list[_Linear](), 0
    for site in sites:
        node = trace.nodes[site.name]
        for part, _ in site.parts(node):
            law: Any = part.law
            stop = start + part.shape.numel()
            residual = (part.value - law.loc).expand(part.shape).reshape(-1)
            weight = torch.ones(part.shape, dtype=residual.dtype, device=residual.device)
            if part.weight is not None:
                weight = weight * (part.weight.unsqueeze(-1) if part.dense else part.weight)
            weight = weight.reshape(-1)
            if part.dense:
                weight, covariances = weight.sqrt(), vector_covariances(part)
                residual = residual * weight
            else:
                variance = law.scale.square().expand(part.shape).reshape(-1) / weight
                weight, covariances = (weight > 0).to(weight), [_errors(variance[weight > 0])]
            known = getattr(node["fn"], "map", None)
            rows = slice(start, stop)
            found.append(_Linear(rows, residual, weight, covariances, known))
            start = stop
    return found


def _errors(variance: Tensor) -> Operator:
    """The covariance of independent errors."""
    if len(variance) and bool((variance == variance[0]).all()):
        return Isotropic(variance[0], len(variance))
    return Diagonal(variance)
