r"""Denoising score matching."""

from __future__ import annotations

from torch import Tensor

from .denoiser import Denoiser
from .preconditioned import PreconditionedDenoiser
from .weighting import EDMWeight, Weighting

__all__ = ["denoising_loss"]


def denoising_loss(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    *,
    weighting: Weighting | None = None,
    **context: Tensor,
) -> Tensor:
    r"""The weighted error of a denoiser, the least for :math:`\mathbb{E}[x \mid x_t]`.

    .. math:: \frac{w_t}{n} \, \|d(\alpha_t x + \sigma_t \epsilon, t) - x\|^2

    averaged over the batch. With context, as pairs :math:`(x, y)`, it is the least for
    :math:`\mathbb{E}[x \mid x_t, y]`.

    References:
        | A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011)
        | https://doi.org/10.1162/NECO_a_00142

    Arguments:
        denoiser: The denoiser :math:`d`.
        x: The clean states, with shape :math:`(*, event)`.
        t: The times, with shape :math:`(*)`.
        eps: The noise, with shape :math:`(*, event)`.
        weighting: The weight :math:`w_t` by the scales :math:`\alpha_t` and :math:`\sigma_t`. By
            default :meth:`PreconditionedDenoiser.weight`, under which the loss is 1 for the
            denoiser of the Gaussian prior if this is the law of the data; for other denoisers
            :class:`~appa_prob.samplers.EDMWeight`.
        context: What else the denoiser depends on.
    """
    alpha, sigma = denoiser.scales(t)
    error: Tensor = denoiser(alpha * x + sigma * eps, t, **context) - x
    axes = tuple(range(-len(denoiser.event_shape), 0))
    square = error.square().mean(axes) if axes else error.square()
    if weighting is None and isinstance(denoiser, PreconditionedDenoiser):
        return (denoiser.weight(t) * square).mean()
    weighting = EDMWeight() if weighting is None else weighting
    return (weighting(*denoiser.schedule(t)) * square).mean()
