r"""The covariance of the clean state given the noisy one, from the denoiser alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .base import Operator
from .jacobian import Jacobian

__all__ = ["TweedieCovariance"]


class TweedieCovariance(Operator):
    r"""The covariance :math:`V = \mathbb{V}[x \mid x_t]` that Tweedie's formula gives for
    :math:`x_t = \alpha_t x + \sigma_t \epsilon`.

    .. math:: V = \frac{\sigma_t^2}{\alpha_t} \,
        \frac{\partial \, \mathbb{E}[x \mid x_t]}{\partial x_t}

    The Jacobian of an exact denoiser is symmetric. That of a network is nearly so; its adjoint,
    one sweep in reverse, serves as both products, :math:`V x = \sigma_t^2 / \alpha_t \, J^T x`.
    The operator is therefore symmetric by declaration only: solve with GMRES what contains it.

    Arguments:
        denoiser: The denoiser :math:`(x_t, t) \mapsto \mathbb{E}[x \mid x_t]`, evaluated once.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()` or :math:`(*)`.
        alpha: The scale :math:`\alpha_t`, with shape :math:`()` or :math:`(*)`.
        sigma: The noise level :math:`\sigma_t`, with shape :math:`()` or :math:`(*)`.
        in_shape: The event shape; by default ``denoiser.event_shape``, else that of :math:`x_t`,
            without batch.

    Raises:
        ValueError: If shapes don't fit.

    References:
        | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al.,
        2024) | https://arxiv.org/abs/2405.13712

    Example:
        For :math:`x \sim \mathcal{N}(0, I)` and :math:`x_t = x + 2 \epsilon`, the mean is
        :math:`x_t / 5`.

        >>> t = torch.tensor(1.0)
        >>> V = TweedieCovariance(lambda x_t, t: x_t / 5, torch.ones(3), t, 1.0, 2.0)
        >>> V.mean, V(torch.ones(3))
        (tensor([0.2000, 0.2000, 0.2000]), tensor([0.8000, 0.8000, 0.8000]))
    """

    symmetric = True

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        x_t: Tensor,
        t: Tensor,
        alpha: float | Tensor,
        sigma: float | Tensor,
        in_shape: int | Sequence[int] | None = None,
    ) -> None:
        if in_shape is None:
            in_shape = getattr(denoiser, "event_shape", None)
        self.jacobian = Jacobian(lambda x: denoiser(x, t), x_t, in_shape, forward="forward-mode")
        event, batch = self.jacobian.in_shape, self.jacobian.batch_shape
        if self.jacobian.out_shape != event:
            raise ValueError(
                "expected a denoiser that keeps the shape of x_t, got "
                f"{tuple(self.jacobian.value.shape)} from {tuple(x_t.shape)}; a denoiser returns "
                "the mean E[x | x_t]"
            )
        gain = torch.as_tensor(sigma**2 / alpha, dtype=x_t.dtype, device=x_t.device)
        if gain.shape not in ((), batch):
            raise ValueError(
                f"expected alpha and sigma of shape () or {tuple(batch)}, the batch of x_t, got "
                f"{tuple(gain.shape)}"
            )
        super().__init__(event, event, batch_shape=batch)
        self.gain = gain.reshape(*gain.shape, *(1,) * len(event)) if gain.ndim else gain
        self.t, self.total = t, getattr(denoiser, "total", None)

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`\mathbb{E}[x \mid x_t]`, from the same forward pass."""
        return self.jacobian.value

    def forward(self, x: Tensor) -> Tensor:
        return self.jacobian.adjoint(x) * self.gain

    def adjoint(self, y: Tensor) -> Tensor:
        return self.jacobian.adjoint(y) * self.gain
