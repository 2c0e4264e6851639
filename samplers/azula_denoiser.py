r"""Denoisers of the package azula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Size, Tensor

from .denoiser import Denoiser
from .function_schedule import FunctionSchedule

__all__ = ["AzulaDenoiser"]


class AzulaLike(Protocol):
    r"""What is asked of a denoiser of azula."""

    @property
    def schedule(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        r"""The scales of signal and noise at a time."""

    def __call__(self, x_t: Tensor, t: Tensor, **context: Any) -> Any:
        r"""A posterior with an attribute `mean`."""


class AzulaDenoiser(Denoiser):
    r"""A denoiser of azula, guided or not, as one of ours.

    Its schedule may be any, see :class:`~appa_prob.samplers.FunctionSchedule`. Denoisers that it
    guides compute no gradients, so that :meth:`posterior` fails for these: guide its priors here.

    Arguments:
        denoiser: The denoiser, called on states of shape :math:`(N, event)`, on times of shape
            :math:`()` or :math:`(N)` and the context as keywords.
        event_shape: The shape of a state.

    References:
        | azula: diffusion models in PyTorch (Rozet, 2024)
        | https://github.com/probabilists/azula
    """

    def __init__(self, denoiser: AzulaLike, event_shape: tuple[int, ...] | Size) -> None:
        if not callable(getattr(denoiser, "schedule", None)):
            raise TypeError(
                f"expected a denoiser with a schedule, as those of azula, got {type(denoiser)}; "
                "wrap networks by NoisePrediction and the like"
            )
        super().__init__(event_shape, FunctionSchedule(denoiser.schedule))
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        batch = x_t.shape[: x_t.ndim - len(self.event_shape)]
        flat = {k: v.reshape(-1, *v.shape[len(batch) :]) for k, v in context.items()}
        # A single time stays one: analytic denoisers of azula take no others.
        times = t.expand(batch).reshape(-1) if t.ndim else t
        mean: Tensor = self.denoiser(x_t.reshape(-1, *self.event_shape), times, **flat).mean
        return mean.reshape(x_t.shape)
