r"""Weights of the loss of denoising score matching.

A weight multiplies the squared error of the clean state. What is called the loss of a network that
predicts something else is one of these, with :math:`r = \sigma_t / \alpha_t`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

__all__ = ["EDMWeight", "MinSNRWeight", "SNRWeight", "Weighting"]

Weighting: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SNRWeight:
    r"""The weight :math:`1 / r^2`, under which the loss is the squared error of the noise.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239
    """

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        r"""The weight, with the shape of the scales :math:`\alpha_t` and :math:`\sigma_t`."""
        return (alpha / sigma).square()


@dataclass(frozen=True)
class MinSNRWeight:
    r"""The weight :math:`\min(1 / r^2, \gamma)`.

    References:
        | Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023)
        | https://arxiv.org/abs/2303.09556

    Arguments:
        gamma: The largest weight :math:`\gamma`.

    Raises:
        ValueError: If :math:`\gamma` is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"expected gamma > 0, got {self.gamma}")

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        r"""The weight, with the shape of the scales :math:`\alpha_t` and :math:`\sigma_t`."""
        return (alpha / sigma).square().clamp_max(self.gamma)


@dataclass(frozen=True)
class EDMWeight:
    r"""The weight :math:`1 / r^2 + 1 / s^2`, under which the errors of the best denoiser of data
    :math:`\mathcal{N}(0, s^2 I)` are 1 at all times. For :math:`s = 1` and scales with
    :math:`\alpha_t^2 + \sigma_t^2 = 1` the loss is the squared error of :math:`v`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        scale: The standard deviation :math:`s` of the data.

    Raises:
        ValueError: If :math:`s` is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"expected scale > 0, got {self.scale}")

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        r"""The weight, with the shape of the scales :math:`\alpha_t` and :math:`\sigma_t`."""
        return (alpha / sigma).square() + self.scale**-2
