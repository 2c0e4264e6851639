r"""Simulation-based calibration.

If :math:`x` is drawn from the prior, :math:`y` from :math:`p(y \mid x)`, and :math:`x_1, \dots,
x_L` from the posterior, the rank of any function of :math:`x` among those of the :math:`x_i` is
uniform on :math:`\{0, \dots, L\}`. Ranks in the middle tell of a posterior that is too wide, ranks
at the ends of one that is too narrow, ranks at one end of a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Calibration", "sbc"]


@dataclass(frozen=True)
class Calibration:
    r"""The ranks of a calibration.

    Arguments:
        ranks: The ranks, with shape :math:`(trials, k)`, a column for each function.
        draws: The number :math:`L` of draws of each trial.

    Example:
        >>> uniform = Calibration(torch.arange(80).reshape(80, 1) % 8, 7)
        >>> uniform.histogram(4)
        tensor([[20, 20, 20, 20]])
        >>> uniform.pvalues(4)
        tensor([1.], dtype=torch.float64)
    """

    ranks: Tensor
    draws: int

    def histogram(self, bins: int) -> Tensor:
        r"""The numbers of ranks in bins of equal width, with shape :math:`(k, bins)`.

        Arguments:
            bins: The number of bins, a divisor of :math:`L + 1`.

        Raises:
            ValueError: If it is not one.
        """
        if bins < 2 or (self.draws + 1) % bins:
            raise ValueError(
                f"expected a number of bins >= 2 that divides {self.draws + 1}, the number of "
                f"ranks, got {bins}"
            )
        index = self.ranks * bins // (self.draws + 1)
        counts: Tensor = torch.nn.functional.one_hot(index, bins).sum(0)
        return counts

    def pvalues(self, bins: int = 8) -> Tensor:
        r"""The p-values of a chi-square test of uniform ranks, with shape :math:`(k)`.

        Arguments:
            bins: The number of bins, a divisor of :math:`L + 1`.
        """
        counts = self.histogram(bins).double()
        expected = len(self.ranks) / bins
        statistic = (counts - expected).square().sum(-1) / expected
        freedom = torch.full_like(statistic, (bins - 1) / 2)
        found: Tensor = torch.special.gammaincc(freedom, statistic / 2)
        return found

    def pvalue(self, bins: int = 8) -> float:
        r"""The smallest p-value, corrected for their number by Bonferroni: a correct sampler is
        below :math:`\epsilon` at most once in :math:`1 / \epsilon` times.

        Arguments:
            bins: The number of bins, a divisor of :math:`L + 1`.
        """
        found = self.pvalues(bins)
        return min(1.0, float(found.min()) * len(found))


def sbc(
    prior: Callable[[int, torch.Generator], Tensor],
    observe: Callable[[Tensor, torch.Generator], Tensor],
    posterior: Callable[[Tensor, int, torch.Generator], Tensor],
    *,
    trials: int = 256,
    draws: int = 31,
    statistic: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Calibration:
    r"""Ranks true states among samples from their posteriors.

    Trials are batched: the posterior is sampled for all observations at once.

    References:
        | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        2018) | https://arxiv.org/abs/1804.06788

    Arguments:
        prior: Draws a number of states, with shape :math:`(trials, event)`.
        observe: Draws observations of them, with shape :math:`(trials, out)`.
        posterior: Draws from the posteriors of these, a number of times, with shape
            :math:`(draws, trials, event)`.
        trials: The number of states.
        draws: The number :math:`L` of draws from each posterior.
        statistic: Functions to rank, from states to shape :math:`(*, k)`; by default all
            elements of a state.
        generator: A source of random numbers, by default one of seed 0.

    Raises:
        ValueError: If the posterior does not return draws of that shape.

    Example:
        A number of unit variance, observed with errors of unit variance.

        >>> calibration = sbc(
        ...     lambda n, g: torch.randn(n, 1, generator=g),
        ...     lambda x, g: x + torch.randn(x.shape, generator=g),
        ...     lambda y, n, g: y / 2 + 0.5**0.5 * torch.randn(n, *y.shape, generator=g),
        ... )
        >>> calibration.pvalue() > 1e-3
        True
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    x = prior(trials, generator)
    samples = posterior(observe(x, generator), draws, generator)
    if samples.shape != (draws, *x.shape):
        raise ValueError(
            f"expected draws of shape {(draws, *x.shape)} from the posterior, got "
            f"{tuple(samples.shape)}"
        )
    if statistic is None:
        truth, found = x.reshape(trials, -1), samples.reshape(draws, trials, -1)
    else:
        truth, found = statistic(x), statistic(samples)
    return Calibration((found < truth).sum(0), draws)
