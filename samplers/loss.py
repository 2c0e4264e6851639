r"""Denoising score matching."""

from __future__ import annotations

from torch import Tensor

from .preconditioned import PreconditionedDenoiser

__all__ = ["denoising_loss"]


def denoising_loss(
    denoiser: PreconditionedDenoiser, x: Tensor, t: Tensor, eps: Tensor, **context: Tensor
) -> Tensor:
    r"""The error of a denoiser, relative to what its Gaussian prior leads one to expect.

    .. math:: \frac{\|d(\alpha_t x + \sigma_t \epsilon, t) - x\|^2}{n \, c_\mathrm{out}^2}

    averaged over the batch: the average is 1 for the prior's own denoiser if the prior is the law
    of the data.

    Arguments:
        denoiser: The denoiser :math:`d`.
        x: The clean states, with shape :math:`(*, event)`.
        t: The times, with shape :math:`(*)`.
        eps: The noise, with shape :math:`(*, event)`.
        context: What else the denoiser depends on.
    """
    alpha, sigma = denoiser.scales(t)
    error: Tensor = denoiser(alpha * x + sigma * eps, t, **context) - x
    axes = tuple(range(-len(denoiser.event_shape), 0))
    return (denoiser.weight(t) * error.square().mean(axes)).mean()
