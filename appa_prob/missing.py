r"""Observations of which some are missing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions import Independent

from appa_prob.operators import Gather, InnovationCovariance, Isotropic, Operator
from appa_prob.samplers import GaussianLikelihood as ObservedGaussian
from appa_prob.samplers import Likelihood

from .gaussian_errors import GaussianLikelihood
from .information import Part, split
from .map_likelihood import MapLikelihood

__all__ = ["Missing", "PartlyObserved"]


class PartlyObserved(dist.TorchDistribution):
    r"""A law of independent numbers of which those that are NaN were not observed.

    .. math:: \log p(y) = \sum_{i : y_i \neq \mathrm{NaN}} \log p(y_i)

    Arguments:
        base_dist: The law, one of independent numbers.

    Raises:
        TypeError: If numbers are correlated.

    Example:
        >>> law = PartlyObserved(dist.Normal(torch.zeros(3), 1.0).to_event(1))
        >>> law.log_prob(torch.tensor([0.0, torch.nan, 0.0]))
        tensor(-1.8379)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012, as torch declares it

    def __init__(self, base_dist: Any) -> None:
        self.base_dist, self.axes = base_dist, 0
        element = base_dist
        while isinstance(element, Independent):
            self.axes += element.reinterpreted_batch_ndims
            element = element.base_dist
        if element.event_shape:
            raise TypeError(
                f"expected a law of independent numbers, got {element}; correlated errors of "
                "which some are missing are conditioned on by Missing(likelihood).given(y)"
            )
        # Numbers that stand for missing ones need not lie in the support.
        self.element = copy.copy(element)
        self.element._validate_args = False
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        r"""Whether samples are differentiable."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        r"""The support of the law, and NaN."""
        element = _OrMissing(self.element.support)
        return constraints.independent(element, self.axes)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PartlyObserved:
        r"""The same law for a larger batch.

        Arguments:
            batch_shape: The shape of the batch.
        """
        return PartlyObserved(self.base_dist.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density of what was observed.

        Arguments:
            value: The values, with shape :math:`(*, batch, event)`.
        """
        seen = ~value.isnan()
        density = self.element.log_prob(torch.where(seen, value, 1.0))
        density = torch.where(seen, density, 0.0)
        return density.flatten(density.ndim - self.axes).sum(-1) if self.axes else density

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers, of which none is missing.

        Arguments:
            sample_shape: The shape of the sample.
        """
        sample: Tensor = self.base_dist.sample(Size(sample_shape))
        return sample

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers differentiably.

        Arguments:
            sample_shape: The shape of the sample.
        """
        sample: Tensor = self.base_dist.rsample(Size(sample_shape))
        return sample


class _OrMissing(constraints.Constraint):
    """A constraint on numbers that NaN satisfies as well."""

    def __init__(self, constraint: constraints.Constraint) -> None:
        self.constraint, self.is_discrete = constraint, constraint.is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        filled = torch.where(value.isnan(), 1.0, value)
        ok: Tensor = self.constraint.check(filled)  # type: ignore[no-untyped-call]
        return ok | value.isnan()


@split.register
def _(law: PartlyObserved, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    seen = ~value.isnan()
    (part,) = split(law.base_dist, torch.where(seen, value, 1.0), weight)
    mask = seen.to(value.dtype)
    # The numbers that stand for NaN need not lie in the support, and have no weight.
    unchecked = copy.copy(part.law)
    unchecked._validate_args = False
    weight = mask if part.weight is None else part.weight * mask
    return [replace(part, law=unchecked, weight=weight)]


class Missing(MapLikelihood):
    r"""A likelihood of observations of which those that are NaN are missing.

    Arguments:
        likelihood: The likelihood of complete observations.

    Example:
        >>> from appa_prob.operators import Identity
        >>> likelihood = Missing(GaussianLikelihood(Identity(2), 1.0))
        >>> y = torch.tensor([0.0, torch.nan])
        >>> likelihood(torch.zeros(2)).log_prob(y), likelihood.given(y).log_prob(torch.zeros(2))
        (tensor(-0.9189), tensor(-0.9189))
    """

    def __init__(self, likelihood: MapLikelihood) -> None:
        super().__init__(likelihood.map)
        self.likelihood = likelihood

    def law(self, h: Tensor) -> Any:
        return PartlyObserved(self.likelihood.law(h))

    def at(self, h: Tensor) -> Any:
        return PartlyObserved(self.likelihood.at(h))

    def given(self, y: Tensor) -> Likelihood:
        r"""The likelihood of states, given what was observed.

        Arguments:
            y: The observation, with shape :math:`(*, out)`, NaN where it is missing.

        Raises:
            ValueError: If the shape doesn't fit, if values are out of the support of the law, or
                if errors are correlated and :math:`y` is a batch.
        """
        noise = getattr(self.likelihood, "noise", None)
        if not (isinstance(self.likelihood, GaussianLikelihood) and isinstance(noise, Operator)):
            return super().given(y)
        if y.shape != self.out_shape:
            raise ValueError(
                f"expected one observation of shape {tuple(self.out_shape)}, since its errors are "
                f"correlated and some are missing, got {tuple(y.shape)}"
            )
        indices = (~y.isnan()).flatten().nonzero().squeeze(-1)
        seen = Gather(indices, self.out_shape)
        none = Isotropic(torch.zeros((), dtype=y.dtype, device=y.device), seen.out_shape)
        return ObservedGaussian(seen @ self.map, seen(y), InnovationCovariance(seen, noise, none))
