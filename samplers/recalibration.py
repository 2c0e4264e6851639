r"""What a trained denoiser gets wrong on data that it has not seen, put right by three numbers for
each noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .denoiser import over
from .schedule import Schedule

__all__ = ["Recalibration"]

# From the noisy state, the time and the context: the state, the mean under the Gaussian prior, and
# what the network adds to it.
Parts = Callable[..., tuple[Tensor, Tensor, Tensor]]


class Recalibration(nn.Module):
    r"""Linear corrections of a denoiser :math:`d = g + u`, fitted to held-out data.

    .. math:: d'(x_t, t) = (1 + b_\sigma) \, g + (1 + c_\sigma) \, u + a_\sigma \, x \qquad
        x = \frac{x_t}{\alpha_t} \quad \sigma = \frac{\sigma_t}{\alpha_t}

    with the mean :math:`g` under the Gaussian prior and what the network adds to it, :math:`u`.
    The coefficients minimise :math:`\mathbb{E} \| x_0 - d'(x_t, t) \|^2` at some levels of noise
    and are interpolated between them, linearly in :math:`\ln \sigma`.

    The reverse diffusion preserves the variance of the data only if the error :math:`x_0 - d` has
    no component along :math:`x_t`,

    .. math:: \frac{\mathrm{d} \, \mathbb{E} \|x\|^2}{\mathrm{d} \ln \sigma}
        = 2 \, \mathbb{E} \langle x, x - d \rangle
        = 2 n \sigma^2 + 2 \, \mathbb{E} \langle x, x_0 - d \rangle

    A network that knows its training data too well, and a prior fitted to them, shrink what is new
    to them too much, by a percent or so: little beside the loss, but it adds up over all levels to
    samples of too little variance. Fitting removes this component.

    Arguments:
        coefficients: The coefficients :math:`a, b, c` at the levels, with shape :math:`(K, 3)`.
        first: The lowest level.
        last: The highest one. Levels are evenly spaced in :math:`\ln \sigma`; beyond them
            coefficients stay what they are there.

    Raises:
        ValueError: If the coefficients aren't two or more times three, or levels don't ascend.

    Example:
        >>> r = Recalibration(torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, -1.0]]), 0.1, 10.0)
        >>> r(torch.tensor([0.01, 1.0, 100.0]))
        tensor([[ 0.0000,  0.0000,  0.0000],
                [ 0.1000,  0.0000, -0.5000],
                [ 0.2000,  0.0000, -1.0000]])
    """

    def __init__(self, coefficients: Tensor, first: float, last: float) -> None:
        super().__init__()
        if coefficients.ndim != 2 or coefficients.shape[1] != 3 or len(coefficients) < 2:
            raise ValueError(
                "expected coefficients of shape (K, 3) at two or more levels, got "
                f"{tuple(coefficients.shape)}"
            )
        if not 0 < first < last < math.inf:
            raise ValueError(f"expected levels 0 < first < last, got {first:g} and {last:g}")
        self.coefficients: Tensor
        self.register_buffer("coefficients", coefficients)
        self.first, self.last = first, last

    @property
    def levels(self) -> Tensor:
        r"""The levels, with shape :math:`(K)`, in double precision."""
        ends = math.log(self.first), math.log(self.last)
        return torch.linspace(*ends, len(self.coefficients), dtype=torch.float64).exp()

    def forward(self, sigma: Tensor) -> Tensor:
        r"""The coefficients at some levels of noise.

        Arguments:
            sigma: The levels :math:`\sigma_t / \alpha_t`, with shape :math:`(*)`.

        Returns:
            The coefficients, with shape :math:`(*, 3)`.
        """
        last = len(self.coefficients) - 1
        place = last * torch.log(sigma / self.first) / math.log(self.last / self.first)
        knots = torch.arange(last + 1, device=sigma.device)
        # Hat functions, which unlike a search also work under transforms of functions.
        weights = (1 - (place.clamp(0, last)[..., None] - knots).abs()).clamp_min(0)
        return weights @ self.coefficients.to(weights)

    def correct(
        self, x: Tensor, g: Tensor, u: Tensor, sigma: Tensor, event_shape: torch.Size
    ) -> Tensor:
        r"""The corrected mean :math:`d'`, with the shape of :math:`x`.

        Arguments:
            x: The noisy state over :math:`\alpha_t`, with shape :math:`(*, event)`.
            g: The mean under the prior, with the same shape.
            u: What the network adds, with the same shape.
            sigma: The level of noise, with shape :math:`()` or :math:`(*)`.
            event_shape: The shape of an event.
        """
        a, b, c = (over(k, event_shape) for k in self(sigma).unbind(-1))
        return (1 + b) * g + (1 + c) * u + a * x

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        parts: Parts,
        schedule: Schedule,
        data: Iterable[tuple[Tensor, dict[str, Any]]],
        *,
        first: float,
        last: float,
        levels: int = 14,
        generator: torch.Generator | None = None,
    ) -> Recalibration:
        r"""Fits the coefficients to data that the denoiser was not trained on.

        Where parts are multiples of each other, as for Gaussian data, the smallest coefficients
        that do are taken.

        Arguments:
            parts: A function of :math:`x_t`, :math:`t` and the context that returns
                :math:`x, g, u`: :meth:`PreconditionedDenoiser.parts`.
            schedule: The schedule of the denoiser.
            data: Clean states, with shape :math:`(B, event)`, and their contexts.
            first: The lowest level.
            last: The highest one.
            levels: The number of levels.
            generator: A source of random numbers.

        Raises:
            ValueError: If there are no data.
        """
        found = cls(torch.zeros(levels, 3), first, last)
        gram = torch.zeros(levels, 4, 4, dtype=torch.float64)
        for x_0, context in data:
            for k, sigma in enumerate(found.levels.to(x_0)):
                t = schedule.time(sigma)
                noise = torch.randn(
                    x_0.shape, generator=generator, dtype=x_0.dtype, device=x_0.device
                )
                x, g, u = parts(schedule.alpha(t) * (x_0 + sigma * noise), t, **context)
                features = torch.stack([v.flatten() for v in (x, g, u, x_0 - g - u)]).double()
                gram[k] += (features @ features.T).cpu()
        size = gram.diagonal(dim1=-2, dim2=-1).sqrt()[:, :3]
        if not bool((size[:, 0] > 0).all()):
            raise ValueError("expected one or more batches of data, got none")
        scale = size.clamp_min(1e-12 * float(size.max()))
        square = gram[:, :3, :3] / (scale[:, :, None] * scale[:, None])
        inverse = torch.linalg.pinv(square, rtol=1e-8, hermitian=True)
        fitted = (inverse @ (gram[:, :3, 3] / scale)[..., None])[..., 0] / scale
        found.coefficients = fitted.float()
        return found
