r"""What likelihoods of one map share: a distribution for Pyro, and a likelihood for guidance."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Size, Tensor

from appa_prob.operators import Diagonal, Isotropic, Map, Operator
from appa_prob.operators.shapes import broadcast
from appa_prob.samplers import Likelihood

from .information import dependent, split, standardise

__all__ = ["MapLikelihood", "ObservedLikelihood", "positive"]


class MapLikelihood(ABC):
    r"""A law :math:`p(y \mid h(x))` of observations that are independent given :math:`h(x)`.

    Called on a state it is a distribution of Pyro, for ``pyro.sample("y", likelihood(x), obs=y)``;
    ``likelihood.given(y)`` is what guidance conditions on.

    Subclasses set ``map`` and implement :meth:`law`.

    Arguments:
        map: The map :math:`h`.
    """

    def __init__(self, map: Map) -> None:
        self.map = map

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.map.in_shape

    @property
    def out_shape(self) -> Size:
        r"""The shape of an observation."""
        return self.map.out_shape

    @abstractmethod
    def law(self, h: Tensor) -> Any:
        r"""The law of each number that is observed.

        Arguments:
            h: The values :math:`h(x)`, with shape :math:`(*, out)`.

        Returns:
            A distribution of Pyro, with the batch shape :math:`(*, out)`.
        """

    def at(self, h: Tensor) -> Any:
        r"""The law of an observation.

        Arguments:
            h: The values :math:`h(x)`, with shape :math:`(*, out)`.

        Returns:
            A distribution of Pyro, with the event shape :math:`(out)`.
        """
        return self.law(h).to_event(len(self.out_shape))

    def __call__(self, x: Tensor) -> Any:
        r"""The law of an observation of a state.

        Arguments:
            x: The state, with shape :math:`(*, in)`.

        Returns:
            A distribution of Pyro, with the batch shape :math:`(*)` and the event shape
            :math:`(out)`.
        """
        law = self.at(self.map(x))
        law.map = self.map  # which programs look at: linear maps keep their structure
        return law

    def given(self, y: Tensor) -> Likelihood:
        r"""The likelihood of states, given what was observed.

        Arguments:
            y: The observation, with shape :math:`(*, out)`.

        Raises:
            ValueError: If the shape doesn't fit, or if values are out of the support of the law.
        """
        return ObservedLikelihood(self, y)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (Map, Tensor, MapLikelihood)):
                setattr(moved, name, value.to(*args, **kwargs))
        return moved


class ObservedLikelihood:
    r"""The likelihood :math:`p(y \mid h(x))` with :math:`y` fixed, by Gauss and Newton.

    .. math:: W^{-1/2} g \approx W^{1/2} H \, \delta + \epsilon \qquad
        \epsilon \sim \mathcal{N}(0, I) \qquad g = \nabla_h \log p(y \mid h)

    with Fisher's information :math:`W` about :math:`h(x)`: residuals and the rows of the Jacobian
    are in units of standard deviations.

    Arguments:
        likelihood: The law of observations.
        y: The observation, with shape :math:`(*, out)`.

    Raises:
        ValueError: If the shape doesn't fit, or if values are out of the support of the law.

    Example:
        >>> from appa_prob.likelihoods import Poisson
        >>> from appa_prob.operators import Identity
        >>> observed = Poisson(Identity(2)).given(torch.tensor([1.0, 3.0]))
        >>> residual, H, R = observed.linearize(torch.zeros(2))
        >>> residual, R
        (tensor([0., 2.]), Isotropic((2,)))
    """

    def __init__(self, likelihood: MapLikelihood, y: Tensor) -> None:
        shape = likelihood.out_shape
        if y.ndim < len(shape) or y.shape[y.ndim - len(shape) :] != shape:
            raise ValueError(
                f"expected an observation of shape (*, {', '.join(map(str, shape))}), got "
                f"{tuple(y.shape)}"
            )
        support = likelihood.at(torch.zeros_like(y)).support
        if not bool(support.check(y).all()):
            missing = int(y.isnan().sum())
            raise ValueError(
                f"expected observations in the support of {type(likelihood).__name__}, got others"
                + (f", {missing} of them NaN; wrap the likelihood in Missing" if missing else "")
            )
        self.likelihood, self.y = likelihood, y

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.likelihood.in_shape

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\log p(y \mid h(x))`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.
        """
        density: Tensor = self.likelihood(x).log_prob(self.y)
        return density

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The residual, the Jacobian and the unit covariance of the errors, in units of standard
        deviations."""
        h, H = self.likelihood.map.linearize(x)
        create = torch.is_grad_enabled() and h.requires_grad
        with torch.enable_grad():
            point = h if create else h.detach().requires_grad_()
            (part,) = split(self.likelihood.at(point), self.y)
            names = dependent(part, [point])
            ((theta, residual, root),) = standardise(part, names, create)
            (slope,) = torch.autograd.grad(theta.sum(), point, create_graph=create)
        if not create:
            residual = residual.detach()
        R = Isotropic(torch.ones((), dtype=h.dtype, device=h.device), H.out_shape)
        return residual, Diagonal(root * slope, len(H.out_shape)) @ H, R

    def to(self, *args: Any, **kwargs: Any) -> ObservedLikelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return ObservedLikelihood(self.likelihood.to(*args, **kwargs), self.y.to(*args, **kwargs))


def positive(name: str, value: Tensor | float, map: Map) -> Tensor:
    r"""A positive parameter of a law.

    Arguments:
        name: Its name, for the error message.
        value: The parameter, a number or a tensor that is broadcast to observations.
        map: The map whose values are observed.

    Raises:
        ValueError: If it is not positive and finite, or doesn't fit.

    Example:
        >>> from appa_prob.operators import Identity
        >>> positive("scale", 0.5, Identity(2))
        tensor(0.5000)
    """
    value = torch.as_tensor(value)
    if not value.is_floating_point():
        value = value.to(torch.get_default_dtype())
    if not bool((value > 0).all() and value.isfinite().all()):
        raise ValueError(f"expected a {name} > 0, got values that are not, or not finite")
    try:
        fits = broadcast(value.shape, map.out_shape) == map.out_shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"expected a {name} of shape () or {tuple(map.out_shape)}, got {tuple(value.shape)}"
        )
    return value
