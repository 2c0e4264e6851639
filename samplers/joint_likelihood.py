r"""Likelihoods of independent observations, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Size, Tensor

from appa_prob.operators import BlockDiagonal, Operator, Stack
from appa_prob.operators.stack import join

from .likelihood import Likelihood

__all__ = ["JointLikelihood"]


class JointLikelihood:
    r"""The likelihood of several observations, independent given the state.

    .. math:: p(y \mid x) = \prod_i p(y_i \mid x)

    Arguments:
        likelihoods: The likelihoods, of one state.

    Raises:
        ValueError: If there is none, or if their states have different shapes.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Mask
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> left, right = (Mask(torch.tensor(m)) for m in ([True, False], [False, True]))
        >>> joint = JointLikelihood([
        ...     GaussianLikelihood(left, torch.ones(1), 0.1),
        ...     GaussianLikelihood(right, torch.zeros(1), 0.2),
        ... ])
        >>> residual, H, R = joint.linearize(torch.zeros(2))
        >>> residual, R.diagonal()
        (tensor([1., 0.]), tensor([0.1000, 0.2000]))
    """

    def __init__(self, likelihoods: Sequence[Likelihood]) -> None:
        self.likelihoods = tuple(likelihoods)
        shapes = [tuple(one.in_shape) for one in self.likelihoods]
        if len(set(shapes)) != 1:
            raise ValueError(f"expected likelihoods of states of one shape, got {shapes}")

    @property
    def in_shape(self) -> Size:
        r"""The shape of a state."""
        return self.likelihoods[0].in_shape

    @property
    def linear(self) -> bool:
        r"""Whether all likelihoods are Gaussian with linear maps."""
        return all(getattr(one, "linear", False) for one in self.likelihoods)

    @property
    def y(self) -> Tensor:
        r"""The observations, flattened one after another."""
        ys = [one.y for one in self.likelihoods]
        return join(ys, [y.shape for y in ys])

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes :math:`\sum_i \log p(y_i \mid x)`.

        Arguments:
            x: The state, with shape :math:`(*, in)`.
        """
        first, *others = (one.log_prob(x) for one in self.likelihoods)
        return sum(others, first)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator, Operator]:
        r"""The residuals one after another, the Jacobians on top of each other, and the
        covariances in blocks."""
        residuals, H, R = zip(*(one.linearize(x) for one in self.likelihoods), strict=True)
        return join(residuals, [op.out_shape for op in H]), Stack(H), BlockDiagonal(R)

    def to(self, *args: Any, **kwargs: Any) -> JointLikelihood:
        r"""Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return JointLikelihood([one.to(*args, **kwargs) for one in self.likelihoods])
