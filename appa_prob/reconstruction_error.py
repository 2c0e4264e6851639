r"""The law of what an autoencoder loses: smooth on the sphere, with a memory, or white."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import xarray as xr
from torch import Tensor

from appa_prob.operators import (
    CG,
    Diagonal,
    Identity,
    InnovationCovariance,
    Operator,
    SphericalStationary,
)
from appa_prob.samplers import Gaussian, GaussianLikelihood

from .mesh import Mesh
from .remembered_errors import RememberedErrors
from .spectra import largest_degree, power_spectrum

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["ReconstructionError"]

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]


@dataclass
class ReconstructionError:
    r"""Errors :math:`x_l - D(z_l) = e \odot w_l` of trajectories, with

    .. math:: \mathrm{cov}(w_k, w_l) = \phi^{|k - l|} \, S + \delta_{k l} \, \mathrm{diag}(r)
        \qquad r_c = 1 - \sum_n s_{c n}

    where :math:`S` is isotropic, with the power :math:`s_{cn}` of channel :math:`c` by degree
    :math:`n`. It is a law of autoregression of order one on the sphere, and white noise. Channels
    are independent.

    Attributes:
        deviation: The standard deviation :math:`e`, with shape :math:`(C, H, W)` or
            :math:`(C, 1, 1)`.
        power: The power :math:`s`, shares of one, with shape :math:`(C, N)`.
        memory: The correlation :math:`\phi` of :math:`S` from one state to the next.
        latitude: The latitudes of the rows, in degrees, with shape :math:`(H)`.
        columns: The number :math:`W` of columns.

    Example:
        >>> power, latitude = torch.tensor([[0.6, 0.2]]), torch.tensor([45.0, -45.0])
        >>> e = ReconstructionError(torch.ones(1, 1, 1), power, 0.5, latitude, 4)
        >>> e.covariance(3).diagonal().unique()
        tensor([1.])
    """

    deviation: Tensor
    power: Tensor
    memory: float
    latitude: Tensor
    columns: int

    @classmethod
    def independent(cls, deviation: Tensor, grid: Grid) -> ReconstructionError:
        r"""The law of errors that are white.

        Arguments:
            deviation: Their standard deviation, with shape :math:`(C, H, W)` or :math:`(C, 1, 1)`.
            grid: The grid.
        """
        latitude = torch.tensor(grid.latitude).to(deviation)
        return cls(deviation, deviation.new_zeros(len(deviation), 1), 0.0, latitude, grid.shape[1])

    @classmethod
    def fit(cls, errors: Callable[[], Iterable[Tensor]], grid: Grid) -> ReconstructionError:
        r"""The law of the errors of a long trajectory, in two passes.

        All power that the grid resolves counts as smooth, that of white noise included; where
        there is little white noise, as in errors of autoencoders, this makes little difference.

        Arguments:
            errors: Gives the errors in standardised units, part by part, with shapes
                :math:`(L, C, H, W)`; called twice.
            grid: The grid.
        """
        squares, count = torch.zeros(()), 0
        for error in errors():
            squares, count = squares + error.square().sum(0), count + len(error)
        deviation = (squares / count).sqrt()
        degree = min(largest_degree(grid.latitude, grid.shape[1]), (grid.shape[1] - 1) // 2)
        coords = {"latitude": grid.latitude, "longitude": grid.longitude}
        power, total, lagged, steps = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0
        weights = torch.tensor(grid.weights / grid.weights.mean()).unsqueeze(-1)
        for error in errors():
            w = (error / deviation.clamp_min(1e-12)).double()
            fields = xr.DataArray(
                w.numpy(), coords, dims=("time", "channel", "latitude", "longitude")
            )
            power = power + torch.as_tensor(power_spectrum(fields, degree).sum("time").values)
            total = total + (weights * w.square()).mean((2, 3)).sum(0)
            lagged = lagged + (weights * w[1:] * w[:-1]).mean((2, 3)).sum(0)
            steps += len(w) - 1
        # What the largest degrees of the quadrature alias must not exceed all there is.
        share = power / total.unsqueeze(-1)
        share = share / share.sum(-1, keepdim=True).clamp_min(1.0)
        correlation = (lagged / max(steps, 1)) / (total / count)
        memory = (correlation / share.sum(-1).clamp_min(1e-6)).median().clamp(0.0, 0.99)
        latitude = torch.tensor(grid.latitude).to(deviation)
        return cls(deviation, share.to(deviation), float(memory), latitude, grid.shape[1])

    def to(self, device: torch.device | str) -> ReconstructionError:
        r"""The law on a device."""
        return ReconstructionError(
            self.deviation.to(device),
            self.power.to(device),
            self.memory,
            self.latitude.to(device),
            self.columns,
        )

    @cached_property
    def smooth(self) -> SphericalStationary:
        r"""The covariance :math:`S` of fields of shape :math:`(C, H, W)`."""
        return SphericalStationary(self.power, self.latitude, self.columns)

    @property
    def white(self) -> Tensor:
        r"""The variance :math:`r`, with the shape of fields."""
        rest = (1 - self.power.sum(-1)).clamp_min(1e-6)
        return rest[:, None, None].expand(-1, len(self.latitude), self.columns)

    def covariance(
        self, length: int, mesh: Mesh | None = None, known: int | None = None
    ) -> RememberedErrors:
        r"""The covariance of :math:`w_{1:L}`, over fields of shape :math:`(L, C, H, W)`.

        Arguments:
            length: The number :math:`L` of states, of those that this rank holds.
            mesh: The place of this rank, if several hold pieces of the trajectory.
            known: If the smooth part before the first state is known, the number of states of the
                trajectory before the piece of this rank.
        """
        return RememberedErrors(self.smooth, self.white, self.memory, length, mesh, known)

    def sample(
        self,
        length: int,
        generator: Generators | None = None,
        before: Tensor | None = None,
        *,
        mesh: Mesh | None = None,
        first: bool = True,
        at: int = -1,
    ) -> tuple[Tensor, Tensor]:
        r"""Draws errors, state after state: those of the first states don't depend on how many
        follow.

        Arguments:
            length: The number of states, of those that this rank holds.
            generator: A source of random numbers, or one for each state.
            before: The smooth part of :math:`w` at the state before the first, with shape
                :math:`(C, H, W)`; by default it is not known.
            mesh: The place of this rank, if several hold pieces of the trajectory.
            first: Whether this rank holds the first state.
            at: The state, of those that this rank holds, whose smooth part is returned.

        Returns:
            The errors :math:`e \odot w`, with shape :math:`(L, C, H, W)`, and the smooth part of
            :math:`w` at one state, by default the last; if this rank holds none, of that before.
        """
        S, grain = self.smooth, self.white.sqrt()
        like: Any = {"dtype": grain.dtype, "device": grain.device}
        fresh = (1 - self.memory**2) ** 0.5
        last = before if first else torch.zeros_like(grain)
        smooth = torch.zeros_like(grain) if last is None else last
        index = at % length if length else -1
        errors = torch.empty(length, *grain.shape, **like)  # all that is held of all states
        for k, g in enumerate(_each(generator, length)):
            drawn = S.sample((), g)
            last = drawn if last is None else self.memory * last + fresh * drawn
            torch.randn(grain.shape, generator=g, out=errors[k])
            errors[k].mul_(grain).add_(last).mul_(self.deviation)
            smooth = last if k == index else smooth
        if mesh is not None and mesh.group is not None:
            left = mesh.relay(smooth if last is None else last, self.memory**length)
            for k in range(length):
                errors[k].addcmul_(self.deviation, left, value=self.memory ** (k + 1))
            smooth = smooth + self.memory ** (index + 1) * left
        return errors, smooth

    def smooth_part(self, error: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws the smooth part of :math:`w` at a state whose error is known.

        Arguments:
            error: The error, with shape :math:`(C, H, W)`.
            generator: A source of random numbers.
        """
        w = error / self.deviation.clamp_min(1e-12)
        prior = Gaussian(torch.zeros_like(w), self.smooth)
        seen = GaussianLikelihood(Identity(w.shape, dtype=w.dtype), w, Diagonal(self.white))
        # Rows near the poles crowd, which needs iterations, but these cost a transform each.
        return prior.condition(seen, CG(rtol=1e-2, max_iterations=500)).sample((), generator)

    def complete(
        self,
        x: Tensor,
        H: Operator,
        y: Tensor,
        R: Tensor,
        generator: Generators,
        *,
        noise: Tensor | None = None,
        mesh: Mesh | None = None,
        before: Tensor | None = None,
        place: int = 0,
        at: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        r"""Draws a trajectory given the decoded one and observations, :math:`x + e \odot w`, by
        conditioning a draw of the law, as Matheron's rule says.

        Arguments:
            x: The decoded trajectory, with shape :math:`(L, C, H, W)`.
            H: The operator of the observations.
            y: The observations.
            R: The variance of their errors.
            generator: A source of random numbers, or one for each state.
            noise: White noise, that of the observations in the draw; by default it is drawn too.
            mesh: The place of this rank, if several hold pieces of the trajectory, and the
                observations of these.
            before: The smooth part of :math:`w` at the state before the first, with shape
                :math:`(C, H, W)`; by default it is not known.
            place: The number of states of the trajectory before those of this rank.
            at: The state, of those that this rank holds, whose smooth part is drawn as well.

        Returns:
            The trajectory, and the smooth part of :math:`w` at that state, if there is one.
        """
        scale = Diagonal(self.deviation.expand_as(x))
        first = mesh is None or mesh.column == 0
        errors, smooth = self.sample(len(x), generator, before, mesh=mesh, first=first, at=at or 0)
        drawn = errors.add_(x)
        if noise is None:
            source = _each(generator, 1)[0]
            noise = torch.randn(y.shape, generator=source, dtype=y.dtype, device=y.device)
        R = R.expand_as(y)
        V = self.covariance(len(x), mesh, None if before is None else place)
        S = InnovationCovariance(H @ scale, V, Diagonal(R))
        solution = CG(rtol=1e-2, max_iterations=100)(S, y - H(drawn) - R.sqrt() * noise)
        assert solution.lifted is not None
        drawn.addcmul_(self.deviation, solution.lifted)
        if at is None:
            return drawn, None
        # Of the update of w, what is not white is smooth.
        white = self.white * self.deviation * H.adjoint(solution.value)[at]
        return drawn, smooth + solution.lifted[at] - white


def _each(generator: Generators | None, length: int) -> Sequence[torch.Generator | None]:
    """The source of each state."""
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * length
    return generator
