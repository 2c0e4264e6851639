r"""Diffusion priors as distributions of Pyro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor

from appa_prob.operators.shapes import broadcast
from appa_prob.samplers import Denoiser, DPMSolver, Integrator, flow_log_prob

__all__ = ["DiffusionPrior"]


class DiffusionPrior(dist.TorchDistribution):
    r"""The law of what a denoiser denoises, for the statements of Pyro.

    Samples are those of an integrator that starts from white noise. Densities are closed forms for
    denoisers that have a ``law``, those of Gaussians and mixtures; for others they come from the
    probability flow,

    .. math:: \log p(x) = \log \mathcal{N}(y_1) + \int \left( n - \frac{\alpha_t^2}{\sigma_t^2} \,
        \mathrm{tr} \, \mathbb{V}[x \mid x_t] \right) d \log \frac{\sigma_t}{\alpha_t} \qquad
        \nabla \log p(x) = \frac{\mathbb{E}[x \mid x_t] - x}{r^2}

    with the exact trace for events of at most ``exact`` numbers, and Hutchinson's estimate by
    ``probes`` random vectors for larger ones: unbiased, but another number each time. The gradient
    is the score at the smallest ratio :math:`r` of noise to signal, ``floor`` or that of the
    schedule; by the flow, densities have no gradient with respect to the network.

    Samples are differentiable with respect to what the denoiser depends on (``rsample``), since
    the noise that goes into an integrator depends on nothing.

    Arguments:
        denoiser: The denoiser.
        integrator: The integrator; by default :class:`~appa_prob.samplers.DPMSolver` in 64 steps.
        event_shape: The shape of events; that of the denoiser, which it is checked against.
        exact: The size of events up to which traces are exact.
        probes: The number of random vectors for larger events.
        floor: The smallest ratio :math:`r` of noise to signal in densities by the flow.
        dtype: The floating type of samples; by default that of the denoiser's parameters, or
            torch's default.
        device: Their device; by default that of the denoiser's parameters, or the CPU.
        validate_args: Whether arguments of methods are validated, as everywhere in Pyro.

    Raises:
        ValueError: If the shape of events is not that of the denoiser.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = DiffusionPrior(
        ...     GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        ... )
        >>> prior.sample((5,)).shape
        torch.Size([5, 2])
        >>> prior.log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012, as torch declares it
    has_rsample = True

    def __init__(
        self,
        denoiser: Denoiser,
        integrator: Integrator | None = None,
        event_shape: Sequence[int] | None = None,
        *,
        exact: int = 512,
        probes: int = 8,
        floor: float = 1e-3,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if event_shape is not None and Size(event_shape) != denoiser.event_shape:
            raise ValueError(
                f"expected events of shape {tuple(denoiser.event_shape)}, those of the denoiser, "
                f"got {tuple(event_shape)}; copies are made by expand or in a plate"
            )
        self.denoiser = denoiser
        self.integrator = DPMSolver(64) if integrator is None else integrator
        self.exact, self.probes, self.floor = exact, probes, floor
        like = next(_floats(denoiser), torch.empty(()))
        self.dtype = like.dtype if dtype is None else dtype
        self.device = like.device if device is None else torch.device(device)
        super().__init__(Size(), denoiser.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        r"""All of the fields."""
        axes = len(self.event_shape)
        return constraints.independent(constraints.real, axes)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        r"""The same prior for a batch of independent fields.

        Arguments:
            batch_shape: The shape of the batch.
        """
        new: Self = self._get_checked_instance(DiffusionPrior, _instance)  # type: ignore[no-untyped-call]
        for name in ("denoiser", "integrator", "exact", "probes", "floor", "dtype", "device"):
            setattr(new, name, getattr(self, name))
        broadcast(self.batch_shape, batch_shape)
        super(DiffusionPrior, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws fields, with shape :math:`(sample, batch, event)`, from torch's global source of
        random numbers, as Pyro does.

        Arguments:
            sample_shape: The shape of the sample.
        """
        with torch.no_grad():
            return self._draw(sample_shape, False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws as :meth:`sample` does, differentiably where gradients are enabled.

        Arguments:
            sample_shape: The shape of the sample.
        """
        return self._draw(sample_shape, torch.is_grad_enabled())

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density.

        Arguments:
            value: Fields, with shape :math:`(*, batch, event)`.

        Returns:
            The logarithms, with shape :math:`(*, batch)`.
        """
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(broadcast(value.shape, self.batch_shape + self.event_shape))
        law = getattr(self.denoiser, "law", None)
        if law is not None:
            exact: Tensor = law.log_prob(value)
            return exact
        flow: Tensor = _FlowDensity.apply(value, self)  # type: ignore[no-untyped-call]
        return flow

    def _draw(self, sample_shape: Sequence[int], gradient: bool) -> Tensor:
        shape = (*sample_shape, *self.batch_shape)
        noise = self.integrator.noise(self.denoiser, shape, dtype=self.dtype, device=self.device)
        return self.integrator(self.denoiser, noise, gradient=gradient)


class _FlowDensity(torch.autograd.Function):
    """The density by the probability flow, whose gradient is the score."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, prior: DiffusionPrior) -> Tensor:
        ctx.save_for_backward(value)
        ctx.prior = prior
        probes = None if prior.event_shape.numel() <= prior.exact else prior.probes
        return flow_log_prob(prior.denoiser, value, probes=probes, floor=prior.floor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        denoiser = ctx.prior.denoiser
        schedule = denoiser.schedule
        last = schedule.ratio(torch.tensor(0.0, dtype=torch.float64)).clamp_min(ctx.prior.floor)
        t = schedule.time(last)
        mean = denoiser((schedule.alpha(t) * value).to(value), t.to(value))
        score = (mean - value) / float(last) ** 2
        return gradient.reshape(*gradient.shape, *(1,) * len(denoiser.event_shape)) * score, None


def _floats(denoiser: Denoiser) -> Any:
    """The floating tensors of a denoiser, parameters first."""
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        if tensor.is_floating_point():
            yield tensor
