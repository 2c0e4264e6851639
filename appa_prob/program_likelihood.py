r"""The likelihood of the observed sites of a program of Pyro."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Size, Tensor

from appa_prob.operators import BlockDiagonal, Dense, Diagonal, Isotropic, Jacobian, Operator

from .information import Part, standardise
from .site_checks import log_density
from .sites import read_dependence

if TYPE_CHECKING:
    from .program import Program

__all__ = ["ProgramLikelihood"]


class ProgramLikelihood:
    r"""The likelihood of the observed sites of a program, by Gauss and Newton.

    Gaussian sites whose means are linear are exact. Residuals and the rows of the Jacobian are in
    units of standard deviations, see :mod:`appa_prob.information`; those of correlated Gaussian
    errors are in the units of the observation.

    Arguments:
        program: The program.
        names: The names of the observed sites.

    Attributes:
        gaussian: Whether errors are Gaussian, with a covariance that doesn't depend on the state.
        axes: The number of axes between those of states and of events with which the program is
            run for many states at once; none if it is run for one after another.
    """

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self.program = program
        point = self.draw(1)[0].requires_grad_()
        fields = program.unpack(point)
        with torch.enable_grad():
            trace = program.trace(fields)
            self.sites = [read_dependence(name, trace.nodes[name], [point]) for name in names]
        values = [trace.nodes[name]["value"].to(program.dtype).flatten() for name in names]
        self.y = torch.cat(values)
        self.covariances = self._covariances(trace)
        self.gaussian = all(
            part.dense or (isinstance(part.law, torch.distributions.Normal) and found == ("loc",))
            for site in self.sites
            for part, found in site.parts(trace.nodes[site.name])
        )
        self.axes: int | None = None
        self._vectorise(trace)

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.program.prior.event_shape

    def draw(self, count: int) -> Tensor:
        r"""Random states to try the program at, always the same.

        Arguments:
            count: The number of states.
        """
        g = torch.Generator().manual_seed(count)
        x = torch.randn(count, *self.in_shape, generator=g, dtype=self.program.dtype)
        return x.to(self.program.device)

    def of(self, program: Program) -> ProgramLikelihood:
        r"""The likelihood of a program that differs in values that are held fixed.

        Arguments:
            program: The other program.
        """
        new = copy.copy(self)
        new.program = program
        if any(isinstance(block, Operator) for block in self.covariances):
            new.covariances = new._covariances(program.trace({}))
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

    @property
    def linear(self) -> bool:
        r"""Whether all sites are Gaussian with means that are linear in the state, so that
        linearisations are exact: seen at two random states."""
        if not self.gaussian:
            return False
        x = self.draw(2)
        residual, H, _ = self.linearize(x)
        return _close(residual[1], residual[0] - H.forward(x[1] - x[0])[0])

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log p(y \mid x)`, scaled and masked.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        batch = self._batch(x)

        def density(trace: Any, count: int) -> list[Tensor]:
            found = (log_density(trace.nodes[site.name]) for site in self.sites)
            return [sum(_rows(one, one.shape, count).sum(-1) for one in found)]  # type: ignore

        (total,) = self._run(x.reshape(-1, *self.in_shape), density)
        return total.reshape(batch)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The Gaussian likelihood that is the nearest at :math:`x`.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        batch, kept = self._batch(x), list[Tensor]()
        create = torch.is_grad_enabled() and x.requires_grad

        def parameters(point: Tensor) -> Tensor:
            def numbers(trace: Any, count: int) -> list[Tensor]:
                return self._numbers(trace, count, create)

            found = self._run(point.reshape(-1, *self.in_shape), numbers)
            theta, *kept[:] = (one.reshape(*batch, one.shape[-1]) for one in found)
            return theta

        J = Jacobian(parameters, x, self.in_shape, create_graph=create)
        residual, root = kept if create else (one.detach() for one in kept)
        like = torch.ones((), dtype=residual.dtype, device=residual.device)
        blocks = [
            block if isinstance(block, Operator) else Isotropic(like, block)
            for block in self.covariances
        ]
        R = BlockDiagonal(blocks) if len(blocks) > 1 else blocks[0]
        return residual, Diagonal(root, 1) @ J, R

    def deterministic(self, x: Tensor) -> dict[str, Tensor]:
        r"""The values of deterministic sites.

        Arguments:
            x: States, with shape :math:`(n, event)`.
        """
        names = self.program.deterministic
        if not names:
            return {}
        with torch.no_grad():
            alone = self.program.trace(self.program.unpack(x[0]))

            def values(trace: Any, count: int) -> list[Tensor]:
                found = [trace.nodes[name]["value"] for name in names]
                return [_rows(one, one.shape, count) for one in found]

            found = self._run(x, values)
        shapes = [alone.nodes[name]["value"].shape for name in names]
        return {
            name: one.reshape(len(x), *shape)
            for name, one, shape in zip(names, found, shapes, strict=True)
        }

    def pointwise(self, x: Tensor) -> dict[str, Tensor]:
        r"""The logarithms of the densities of observed sites one by one, as for cross-validation.

        Arguments:
            x: States, with shape :math:`(n, event)`.

        Returns:
            The logarithms by the names of sites, with shapes :math:`(n, batch)`.
        """
        with torch.no_grad():
            alone = self.program.trace(self.program.unpack(x[0]))

            def densities(trace: Any, count: int) -> list[Tensor]:
                found = [log_density(trace.nodes[site.name]) for site in self.sites]
                return [_rows(one, one.shape, count) for one in found]

            found = self._run(x, densities)
        return {
            site.name: one.reshape(len(x), *alone.nodes[site.name]["fn"].batch_shape)
            for site, one in zip(self.sites, found, strict=True)
        }

    def _batch(self, x: Tensor) -> Size:
        event = self.in_shape
        if x.ndim < len(event) or x.shape[x.ndim - len(event) :] != event:
            raise ValueError(
                f"expected states of shape (*, {', '.join(map(str, event))}), got {tuple(x.shape)}"
            )
        return x.shape[: x.ndim - len(event)]

    def _run(self, x: Tensor, read: Callable[[Any, int], list[Tensor]]) -> list[Tensor]:
        """What is read of the program, a row for each state."""
        # Validated once, when the program was read: steps of solvers may lead too far.
        with pyro.validation_enabled(False):
            return self._run_unchecked(x, read)

    def _run_unchecked(self, x: Tensor, read: Callable[[Any, int], list[Tensor]]) -> list[Tensor]:
        if self.axes is not None:
            fields = self.program.unpack(x)
            wide = {
                field.name: _widen(fields[field.name], self.axes - len(field.copies))
                for field in self.program.fields
            }
            return read(self.program.trace(wide), len(x))
        rows = [read(self.program.trace(self.program.unpack(one)), 1) for one in x]
        return [torch.cat(column) for column in zip(*rows, strict=True)]

    def _numbers(self, trace: Any, count: int, create: bool) -> list[Tensor]:
        """The parameters, residuals and roots of informations of all parts, side by side."""
        columns: list[list[Tensor]] = [[], [], []]
        for site in self.sites:
            for part, names in site.parts(trace.nodes[site.name]):
                found = [_vector(part)] if part.dense else standardise(part, names, create)
                for numbers in found:
                    for column, one in zip(columns, numbers, strict=True):
                        column.append(_rows(one, part.shape, count))
        return [torch.cat(column, -1) for column in columns]

    def _covariances(self, trace: Any) -> list[Operator | int]:
        """The covariances of errors, numbers of units where they are 1."""
        blocks: list[Operator | int] = []
        for site in self.sites:
            for part, names in site.parts(trace.nodes[site.name]):
                if part.dense:
                    blocks.extend(_dense_covariances(part))
                else:
                    count = part.shape.numel() * len(names)
                    last = blocks.pop() if blocks and isinstance(blocks[-1], int) else 0
                    assert isinstance(last, int)
                    blocks.append(last + count)
        return blocks

    def _vectorise(self, trace: Any) -> None:
        """Finds the axes between those of states and those of events with which many states at
        once give what each of them gives, if there are such."""
        nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
        sizes = {n for node in nodes for n in getattr(node["value"], "shape", ())}
        count = next(n for n in (2, 3, 5, 7, 11, 13) if n not in sizes or n == 13)
        x = self.draw(count)
        frames = [frame.dim for node in nodes for frame in node["cond_indep_stack"]]
        nesting = -min((dim for dim in frames if dim is not None), default=0)

        def everything(trace: Any, count: int) -> list[Tensor]:
            values = [trace.nodes[name]["value"] for name in self.program.deterministic]
            densities = [log_density(trace.nodes[site.name]) for site in self.sites]
            rows = [_rows(one, one.shape, count) for one in (*values, *densities)]
            return [*self._numbers(trace, count, False), *rows]

        with torch.enable_grad():
            x = x.requires_grad_()
            expected = self._run(x, everything)
            for axes in sorted({0, nesting}):
                self.axes = axes
                try:
                    found = self._run(x, everything)
                except (RuntimeError, ValueError, IndexError, TypeError):
                    continue
                if all(map(_close, found, expected)):
                    return
        self.axes = None


def _widen(x: Tensor, axes: int) -> Tensor:
    """States with axes of length 1 between the first axis and the others."""
    return x.reshape(len(x), *(1,) * max(axes, 0), *x.shape[1:])


def _rows(x: Tensor, shape: Size, count: int) -> Tensor:
    """Numbers of a part as rows, one for each state."""
    x = x.expand(shape)
    if count != 1 and (not shape or shape[0] != count):
        raise ValueError(f"expected {count} states in front, got {tuple(shape)}")
    return x.reshape(count, -1)


def _vector(part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of correlated numbers, and their residual."""
    mean: Tensor = part.law.loc.expand(part.shape)
    root = torch.ones_like(mean)
    if part.weight is not None:
        root = root * part.weight.sqrt().unsqueeze(-1)
    return mean, root * (part.value - mean), root


def _dense_covariances(part: Part) -> list[Operator]:
    """The covariance of each vector."""
    law: Any = part.law
    count = part.shape[:-1].numel()
    lazy = getattr(law, "lazy_covariance_matrix", None)
    if isinstance(lazy, Operator) and not lazy.batch_shape:
        return [lazy] * count
    dense = (law.covariance_matrix if lazy is None else lazy.to_dense()).detach()
    n = dense.shape[-1]
    return [Dense(one, symmetric=True) for one in dense.expand(*part.shape, n).reshape(-1, n, n)]


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-5, equal_nan=True
    )
