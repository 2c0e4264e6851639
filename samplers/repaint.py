r"""Sampling by replacement of what is observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from .ddim import implicit_step
from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory
from .likelihood import Likelihood
from .modes import Modes

__all__ = ["RePaint"]


@dataclass(frozen=True)
class RePaint(Integrator):
    r"""RePaint: after each step of :class:`~appa_prob.samplers.DDPM` what is observed is replaced
    by the observation with noise, and the step is taken again.

    .. math:: Q^T x_s \leftarrow \alpha_s \bar{y} + \sqrt{\sigma_s^2 - \alpha_s^2 \tau^2} \, z
        \qquad x_t \leftarrow \frac{\alpha_t}{\alpha_s} x_s
        + \sqrt{\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2} \, z'

    with the singular vectors :math:`Q` of the map, see
    :class:`~appa_prob.samplers.modes.Modes`. The denoiser is evaluated and not differentiated.

    Replacement alone leaves what is not observed out of tune with what is; each rewind mends some
    of that. With many rewinds and many steps, samples have the law of the posterior for an exact
    observation, :math:`\tau = 0`. For any other they have the observed values themselves, without
    the spread of the errors.

    References:
        | RePaint: Inpainting Using Denoising Diffusion Probabilistic Models (Lugmayr et al., 2022)
        | https://arxiv.org/abs/2201.09865

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`, Gaussian with a linear map.
        rewinds: How many times each step is taken again.

    Raises:
        ValueError: If an argument is out of its range, or the likelihood is another, or neither a
            mask with independent errors nor small enough for a singular value decomposition.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([2.0]), 1e-4)
        >>> sampler, g = RePaint(32, likelihood=y, rewinds=2), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (64,), generator=g), generator=g)
        >>> bool((x[:, 0] - 2.0).abs().max() < 0.1)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    rewinds: int = field(default=10, kw_only=True)
    modes: Modes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rewinds < 0:
            raise ValueError(f"expected rewinds >= 0, got {self.rewinds}")
        object.__setattr__(self, "modes", Modes.of(self.likelihood, "RePaint"))

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
        Q, y, std = self.modes.basis, self.modes.y, self.modes.std
        spread = (float(sigma_s) ** 2 - (float(alpha_s) * std).square()).clamp_min(0.0).sqrt()
        decay = alpha_t / alpha_s
        noise = (sigma_t.square() - (decay * sigma_s).square()).clamp_min(0.0).sqrt()
        for remaining in reversed(range(self.rewinds + 1)):
            x_s = implicit_step(denoiser, x_t, t, s, draw, 1.0)
            observed = float(alpha_s) * y + spread * Q.adjoint(draw(x_s))
            x_s = x_s + Q.forward(observed - Q.adjoint(x_s))
            if remaining:
                x_t = decay * x_s + noise * draw(x_s)
        return x_s
