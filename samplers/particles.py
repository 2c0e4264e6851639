r"""Weighted samples, and what they say of the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import over

__all__ = ["Particles", "effective_size", "systematic"]


@dataclass(frozen=True)
class Particles:
    r"""Runs of a particle filter: :math:`M` independent ones, of :math:`N` particles each.

    Each run estimates the evidence without bias, so their mean does,

    .. math:: p(y) \approx \frac{1}{M} \sum_m Z_m

    and the particles of all runs together, weighted by :math:`Z_m w_{m, i}`, are the posterior.

    Arguments:
        x: The particles, with shape :math:`(M, N, event)`.
        log_weights: The logarithms of the weights :math:`w_{m, i}`, normalised within each run,
            with shape :math:`(M, N)`.
        log_evidences: The logarithms of the evidences :math:`Z_m`, with shape :math:`(M)`.
        ancestors: For each particle the first one that it comes from, with shape :math:`(M, N)`.
        resamplings: The number of times that each run was resampled, with shape :math:`(M)`.

    Example:
        >>> p = Particles(
        ...     torch.tensor([[[1.0], [2.0]]]), torch.tensor([[0.25, 0.75]]).log(),
        ...     torch.zeros(1), torch.tensor([[0, 1]]), torch.zeros(1),
        ... )
        >>> p.mean
        tensor([1.7500])
        >>> p.effective_size
        tensor(1.6000)
    """

    x: Tensor
    log_weights: Tensor
    log_evidences: Tensor
    ancestors: Tensor
    resamplings: Tensor

    @property
    def weights(self) -> Tensor:
        r"""The weights of the particles of all runs, with shape :math:`(M, N)` and a sum of 1."""
        joint = self.log_weights + self.log_evidences[:, None]
        return torch.softmax(joint.flatten(), 0).reshape(joint.shape)

    @property
    def mean(self) -> Tensor:
        r"""The mean of the posterior, with shape :math:`(event)`."""
        return (over(self.weights, self.x.shape[2:]) * self.x).sum((0, 1))

    @property
    def effective_size(self) -> Tensor:
        r"""The effective number :math:`1 / \sum w^2` of particles of all runs."""
        return 1 / self.weights.square().sum()

    @property
    def log_evidence(self) -> Tensor:
        r"""The logarithm of the evidence :math:`p(y)`, with shape :math:`()`."""
        return torch.logsumexp(self.log_evidences, 0) - math.log(len(self.log_evidences))

    @property
    def standard_error(self) -> Tensor:
        r"""The standard error of the logarithm of the evidence, with shape :math:`()`.

        Within a run it comes from the ancestors: with :math:`W_a` the weight of all that comes
        from particle :math:`a`, after :math:`r` resamplings,

        .. math:: \mathbb{V} \left[ \frac{Z}{p(y)} \right] \approx
            1 - \left( \frac{N}{N - 1} \right)^{r + 1} \left( 1 - \sum_a W_a^2 \right)

        which is of no use once few ancestors are left. Two or more runs give it by their spread as
        well; the larger of both is returned.

        References:
            | Variance estimation in the particle filter (Lee and Whiteley, 2018)
            | https://doi.org/10.1093/biomet/asy028
        """
        runs, count = self.log_weights.shape
        shares = torch.zeros_like(self.log_weights)
        shares = shares.scatter_add(1, self.ancestors, self.log_weights.exp())
        inflation = (count / (count - 1)) ** (self.resamplings + 1)
        within = (1 - inflation * (1 - shares.square().sum(1))).clamp_min(0.0)
        relative = (self.log_evidences - self.log_evidence).exp()
        variance = (relative.square() * within).mean() / runs
        if runs > 1:
            variance = torch.maximum(variance, relative.var() / runs)
        return variance.sqrt()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws particles of equal weights, from all runs, by systematic resampling along their
        main direction, so that each region gets its share of the samples to within a few.

        Arguments:
            count: The number of samples.
            generator: A source of random numbers.

        Returns:
            A sample, with shape :math:`(count, event)`.
        """
        weights, x = self.weights.flatten(), self.x.flatten(0, 1)
        deviations = (x - self.mean).flatten(1) * weights[:, None].sqrt()
        main = torch.linalg.svd(deviations, full_matrices=False).Vh[0]
        order = (x.flatten(1) @ main).argsort()
        u = torch.rand((), generator=generator, dtype=x.dtype, device=x.device)
        index = order[systematic(weights[order], u, count)]
        shuffled = torch.randperm(count, generator=generator, device=x.device)
        return x[index[shuffled]]


def effective_size(log_weights: Tensor) -> Tensor:
    r"""The effective number :math:`1 / \sum_i w_i^2` of particles.

    Arguments:
        log_weights: The logarithms of normalised weights, with shape :math:`(*, N)`.

    Example:
        >>> effective_size(torch.full((4,), 0.25).log())
        tensor(4.)
    """
    return torch.exp(-torch.logsumexp(2 * log_weights, -1))


def systematic(weights: Tensor, u: Tensor, count: int) -> Tensor:
    r"""Draws indices by systematic resampling: index :math:`i` about :math:`n w_i` times.

    References:
        | Comparison of Resampling Schemes for Particle Filtering (Douc et al., 2005)
        | https://arxiv.org/abs/cs/0507025

    Arguments:
        weights: The weights :math:`w_i`, with shape :math:`(*, N)` and a sum of 1.
        u: Uniform numbers in :math:`[0, 1)`, with shape :math:`(*)`.
        count: The number :math:`n` of indices.

    Returns:
        The indices, with shape :math:`(*, n)`.

    Example:
        >>> systematic(torch.tensor([0.5, 0.0, 0.5]), torch.tensor(0.5), 4)
        tensor([0, 0, 2, 2])
    """
    places = (
        torch.arange(count, dtype=weights.dtype, device=weights.device) + u[..., None]
    ) / count
    total = weights.cumsum(-1)
    return torch.searchsorted(total / total[..., -1:], places, right=True).clamp_max(
        weights.shape[-1] - 1
    )
