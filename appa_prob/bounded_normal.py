r"""Normal laws on an interval: what lies beyond is recorded at its ends, or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions.utils import broadcast_all
from torch.special import log_ndtr, ndtr, ndtri

from .information import information

__all__ = ["CensoredNormal", "TruncatedNormal"]

FAR = 38.0  # standard deviations beyond which nothing lies, in double precision


class BoundedNormal(dist.TorchDistribution):
    r"""What both laws share.

    Arguments:
        loc: The mean of the normal law.
        scale: Its standard deviation.
        lower: The lower end, minus infinity for none.
        upper: The upper end, infinity for none.
        validate_args: Whether arguments are validated.
    """

    arg_constraints: dict[str, constraints.Constraint] = {  # noqa: RUF012, as torch declares it
        "loc": constraints.real,
        "scale": constraints.positive,
        "lower": constraints.dependent,
        "upper": constraints.dependent,
    }

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        lower: Tensor | float = -math.inf,
        upper: Tensor | float = math.inf,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.lower, self.upper = broadcast_all(loc, scale, lower, upper)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.lower < self.upper).all()):
            raise ValueError("expected lower < upper, got bounds that are not")

    @property
    def support(self) -> constraints.Constraint:
        r"""The interval, with its ends."""
        return constraints.interval(self.lower, self.upper)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        r"""The same law for a larger batch.

        Arguments:
            batch_shape: The shape of the batch.
        """
        new: Self = self._get_checked_instance(type(self), _instance)  # type: ignore[no-untyped-call]
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(BoundedNormal, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        r"""The ends of the interval in standard deviations from the mean, those at infinity far
        away but finite."""
        a, b = ((end - self.loc) / self.scale for end in (self.lower, self.upper))
        return torch.where(a.isinf(), -FAR, a), torch.where(b.isinf(), FAR, b)

    def log_normal(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density of the normal law.

        Arguments:
            value: The values, with shape :math:`(*)`.
        """
        return log_phi((value - self.loc) / self.scale) - self.scale.log()


class CensoredNormal(BoundedNormal):
    r"""A normal number of which it is only recorded that it lies beyond an end, where it does.

    .. math:: y = \min(\max(x, a), b) \qquad x \sim \mathcal{N}(\mu, \sigma^2)

    Arguments:
        loc: The mean :math:`\mu`.
        scale: The standard deviation :math:`\sigma`.
        lower: The lower end :math:`a`, minus infinity for none.
        upper: The upper end :math:`b`, infinity for none.
        validate_args: Whether arguments are validated.

    Raises:
        ValueError: If an interval is empty.

    Example:
        >>> law = CensoredNormal(0.0, 1.0, lower=0.0)
        >>> law.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.5000, 0.2420])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density within the interval, and of the probability at its ends.

        Arguments:
            value: The values, with shape :math:`(*)`.
        """
        if self._validate_args:
            self._validate_sample(value)
        below, above = value <= self.lower, value >= self.upper
        # At the ends and nowhere else, since they may be infinite.
        z = (value - self.loc) / self.scale
        tail = log_ndtr(torch.where(above, -z, z))
        density: Tensor = torch.where(below | above, tail, self.log_normal(value))
        return density

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers, with shape :math:`(sample, batch)`.

        Arguments:
            sample_shape: The shape of the sample.
        """
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            z = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            sample: Tensor = (self.loc + self.scale * z).clamp(self.lower, self.upper)
            return sample


class TruncatedNormal(BoundedNormal):
    r"""A normal number that is known to lie within an interval: others are never recorded.

    .. math:: p(y) = \frac{\mathcal{N}(y \mid \mu, \sigma^2)}{\Phi(\beta) - \Phi(\alpha)} \qquad
        \alpha = \frac{a - \mu}{\sigma} \quad \beta = \frac{b - \mu}{\sigma}

    Arguments:
        loc: The mean :math:`\mu` of the normal law.
        scale: Its standard deviation :math:`\sigma`.
        lower: The lower end :math:`a`, minus infinity for none.
        upper: The upper end :math:`b`, infinity for none.
        validate_args: Whether arguments are validated.

    Raises:
        ValueError: If an interval is empty.

    Example:
        >>> TruncatedNormal(0.0, 1.0, lower=0.0).log_prob(torch.tensor(1.0)).exp()
        tensor(0.4839)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density.

        Arguments:
            value: The values, with shape :math:`(*)`.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self.log_normal(value) - log_between(*self.ends)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers, with shape :math:`(sample, batch)`, by the inverse distribution.

        Arguments:
            sample_shape: The shape of the sample.
        """
        with torch.no_grad():
            a, b, sign = leftwards(*self.ends)
            shape = self._extended_shape(Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            z = ndtri(ndtr(a) + u * (ndtr(b) - ndtr(a))).clamp(a, b)
            sample: Tensor = (self.loc + self.scale * sign * z).clamp(self.lower, self.upper)
            return sample


def log_phi(z: Tensor) -> Tensor:
    r"""The logarithm of the standard normal density.

    Arguments:
        z: The numbers, with shape :math:`(*)`.
    """
    return -0.5 * (z.square() + math.log(2 * math.pi))


def leftwards(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""An interval or its mirror image, whichever lies to the left, where probabilities keep their
    digits.

    Arguments:
        a: The lower ends.
        b: The upper ends.

    Returns:
        The ends, and -1 for mirror images, else 1.
    """
    right = a + b > 0
    sign = torch.where(right, -1.0, 1.0).to(a)
    return torch.where(right, -b, a), torch.where(right, -a, b), sign


def log_between(a: Tensor, b: Tensor) -> Tensor:
    r"""Computes :math:`\log(\Phi(b) - \Phi(a))`.

    Arguments:
        a: The lower ends, finite.
        b: The upper ends, finite.

    Example:
        >>> log_between(torch.tensor(-1.0), torch.tensor(1.0)).exp()
        tensor(0.6827)
    """
    a, b, _ = leftwards(a, b)
    top = log_ndtr(b)
    total: Tensor = top + torch.log(-torch.expm1(log_ndtr(a) - top))
    return total


@information.register
def _(law: CensoredNormal) -> dict[str, Tensor]:
    a, b = law.ends
    # Within the interval the score is z, at its ends it is the ratio of Mills.
    inside = (
        torch.exp(log_between(a, b)) - b * torch.exp(log_phi(b)) + a * torch.exp(log_phi(a))
    ).clamp_min(0.0)
    tails = torch.exp(2 * log_phi(a) - log_ndtr(a)) + torch.exp(2 * log_phi(b) - log_ndtr(-b))
    return {"loc": (inside + tails) / law.scale.square()}


@information.register
def _(law: TruncatedNormal) -> dict[str, Tensor]:
    a, b = law.ends
    total = log_between(a, b)
    left, right = torch.exp(log_phi(a) - total), torch.exp(log_phi(b) - total)
    variance = 1 - (b * right - a * left) - (right - left).square()
    # Far from the mean nothing is left of the digits.
    return {"loc": variance.clamp_min(1e-6) / law.scale.square()}
