r"""Likelihoods: what observations say about a state."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Size, Tensor

from appa_prob.operators import Dense, Diagonal, Isotropic, Map, Operator, Scaling

from .log_density import log_density

__all__ = ["GaussianLikelihood", "Likelihood", "check_likelihood"]


class Likelihood(Protocol):
    r"""What guidance asks of a likelihood :math:`p(y \mid x)`, with :math:`y` fixed."""

    y: Tensor

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log p(y \mid x)`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.

        Returns:
            The logarithms, with shape :math:`(*)`.
        """

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The Gaussian likelihood that is the nearest at :math:`x`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.

        Returns:
            The residual :math:`y - h(x)`, the Jacobian :math:`H` of :math:`h`, and the covariance
            :math:`R` of the errors.
        """

    def to(self, *args: Any, **kwargs: Any) -> Likelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""


def check_likelihood(likelihood: Any, event_shape: Size) -> None:
    r"""Checks that a likelihood is one, of states of a shape.

    Arguments:
        likelihood: What should be a likelihood.
        event_shape: The shape of states.

    Raises:
        TypeError: If it lacks what :class:`Likelihood` asks for.
        ValueError: If it is one of states of another shape.
    """
    wanted = ("y", "in_shape", "log_prob", "linearize", "to")
    missing = [name for name in wanted if not hasattr(likelihood, name)]
    if missing:
        raise TypeError(
            f"expected a likelihood, got {type(likelihood).__name__} without {missing}; an "
            "observation y of a map with Gaussian errors is GaussianLikelihood(map, y, covariance)"
        )
    if likelihood.in_shape != event_shape:
        raise ValueError(
            f"expected a likelihood of states of shape {tuple(event_shape)}, those of the "
            f"denoiser, got one of shape {tuple(likelihood.in_shape)}"
        )


class GaussianLikelihood:
    r"""The likelihood :math:`p(y \mid x) = \mathcal{N}(y \mid h(x), R)`.

    Arguments:
        map: The map :math:`h`, linear or not.
        y: The observation, with the output shape of the map, or a batch of them.
        covariance: The covariance :math:`R`: an operator on observations, or variances (not
            standard deviations), a number or a tensor with the output shape.

    Raises:
        ValueError: If shapes don't fit, :math:`y` holds values that are not finite floats, or a
            variance is not positive (0 is allowed in operators).

    Example:
        >>> from appa_prob.operators import Mask
        >>> A = Mask(torch.tensor([True, False]))
        >>> likelihood = GaussianLikelihood(A, torch.tensor([1.0]), 0.25)
        >>> likelihood.log_prob(torch.zeros(2)).exp()
        tensor(0.1080)
    """

    def __init__(self, map: Map, y: Tensor, covariance: Operator | Tensor | float) -> None:
        shape = map.out_shape
        if y.shape[y.ndim - len(shape) :] != shape or y.ndim < len(shape):
            raise ValueError(
                f"expected an observation y of shape (*, {_axes(shape)}), the "
                f"outputs of {map!r}, got {tuple(y.shape)}"
            )
        if not y.is_floating_point():
            raise ValueError(
                f"expected an observation of real floats, got {y.dtype}; convert it with y.float()"
            )
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"expected finite observations, got {int((~torch.isfinite(y)).sum())} of "
                f"{y.numel()} that are not; leave them out by a Mask or Gather in front of the map"
            )
        if not isinstance(covariance, Operator):
            covariance = _covariance(covariance, y, shape)
        if not covariance.in_shape == covariance.out_shape == shape:
            raise ValueError(
                f"expected a covariance of observations of shape {tuple(shape)}, got "
                f"{covariance!r}"
            )
        if isinstance(covariance, Diagonal | Scaling | Dense):
            least = covariance.diagonal()
            if not bool((least >= 0).all() and torch.isfinite(least).all()):
                raise ValueError(
                    f"expected variances of errors >= 0, got {covariance!r} with some that are "
                    "not, or not finite"
                )
        self.map, self.y, self.covariance = map, y, covariance

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.map.in_shape

    @property
    def linear(self) -> bool:
        r"""Whether the map is an operator, so that :meth:`linearize` is exact anywhere."""
        return isinstance(self.map, Operator)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log \mathcal{N}(y \mid h(x), R)`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.

        Raises:
            ValueError: If observations are a batch that states are not a batch of.
        """
        return log_density(self._residual(self.map(x)), self.covariance)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The residual, the Jacobian of the map and the covariance of the errors at :math:`x`."""
        value, H = self.map.linearize(x)
        return self._residual(value), H, self.covariance

    def _residual(self, value: Tensor) -> Tensor:
        """The observation minus what the map says of states."""
        pairs = zip(reversed(self.y.shape), reversed(value.shape), strict=False)
        if not all(n == m or 1 in (n, m) for n, m in pairs):
            axes = len(self.map.out_shape)
            batches = [tuple(z.shape[: z.ndim - axes]) for z in (self.y, value)]
            last = ", ".join(str(n) for n in batches[0])
            raise ValueError(
                f"expected states with the batch {batches[0]} of the observations, or one that "
                f"ends with it, got the batch {batches[1]}; draw noise of shape (count, {last}) "
                "for it, or give one observation"
            )
        return self.y - value

    def __repr__(self) -> str:
        return f"GaussianLikelihood({self.map!r}, y: {tuple(self.y.shape)}, {self.covariance!r})"

    def to(self, *args: Any, **kwargs: Any) -> GaussianLikelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return GaussianLikelihood(
            self.map.to(*args, **kwargs),
            self.y.to(*args, **kwargs),
            self.covariance.to(*args, **kwargs),
        )


def _axes(shape: Size) -> str:
    return ", ".join(str(n) for n in shape)


def _covariance(variance: Tensor | float, y: Tensor, shape: Size) -> Operator:
    variance = torch.as_tensor(variance, dtype=y.dtype, device=y.device)
    if not bool((variance > 0).all() and torch.isfinite(variance).all()):
        raise ValueError(
            "expected variances of errors > 0, got some that are not, or not finite; an exact "
            "observation has a small variance, an absent one is left out"
        )
    if variance.ndim == 0:
        return Isotropic(variance, shape)
    if variance.shape != shape:
        raise ValueError(
            f"expected variances of shape () or {tuple(shape)}, got {tuple(variance.shape)}; "
            "other covariances are given as operators"
        )
    return Diagonal(variance)
