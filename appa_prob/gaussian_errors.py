r"""Gaussian errors, independent or correlated."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Size, Tensor

from appa_prob.operators import Diagonal, Isotropic, Map, Operator
from appa_prob.samplers import GaussianLikelihood as ObservedGaussian

from .map_likelihood import MapLikelihood, positive

__all__ = ["GaussianLikelihood"]


class GaussianLikelihood(MapLikelihood):
    r"""Gaussian errors, :math:`y \sim \mathcal{N}(h(x), R)`.

    Independent errors are an ``Independent(Normal)``; correlated ones are the lazy
    ``MultivariateNormal`` of GPyTorch, which solves and samples by the structure of the
    covariance.

    Arguments:
        map: The map :math:`h`.
        noise: The errors: their standard deviation, a number or a tensor that is broadcast to
            observations, or their covariance :math:`R`, an operator on observations.

    Raises:
        ValueError: If the noise is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Dense, Identity
        >>> likelihood = GaussianLikelihood(Identity(2), 0.5)
        >>> likelihood(torch.zeros(2)).log_prob(torch.zeros(2))
        tensor(-0.4516)
        >>> R = Dense(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), symmetric=True)
        >>> GaussianLikelihood(Identity(2), R)(torch.zeros(5, 2))
        MultivariateNormal(loc: torch.Size([5, 2]))
    """

    def __init__(self, map: Map, noise: Tensor | float | Operator) -> None:
        super().__init__(map)
        if isinstance(noise, Operator):
            if not noise.in_shape == noise.out_shape == map.out_shape:
                raise ValueError(
                    f"expected a covariance of observations of shape {tuple(map.out_shape)}, got "
                    f"{noise!r}"
                )
            if isinstance(noise, (Diagonal, Isotropic)):
                noise = noise.diagonal().sqrt().reshape(map.out_shape)
        self.noise = (
            noise if isinstance(noise, Operator) else positive("standard deviation", noise, map)
        )

    def law(self, h: Tensor) -> Any:
        assert isinstance(self.noise, Tensor)
        return dist.Normal(h, self.noise.to(h))

    def at(self, h: Tensor) -> Any:
        if not isinstance(self.noise, Operator):
            return super().at(h)
        # Imported here, since it is slow to import and few errors are correlated.
        from gpytorch.distributions import MultivariateNormal

        axes = len(self.out_shape)
        flat = MultivariateNormal(h.flatten(h.ndim - axes), self.noise)
        if axes == 1:
            return flat
        size = Size((self.out_shape.numel(),))
        shape = dist.transforms.ReshapeTransform(size, self.out_shape)
        return dist.TransformedDistribution(flat, [shape])

    def given(self, y: Tensor) -> ObservedGaussian:
        r"""The likelihood of states, given what was observed.

        Arguments:
            y: The observation, with shape :math:`(*, out)`.
        """
        if isinstance(self.noise, Operator):
            return ObservedGaussian(self.map, y, self.noise)
        variance = self.noise.square().to(y)
        full = variance.expand(self.out_shape) if variance.ndim else variance
        return ObservedGaussian(self.map, y, full)
