r"""Models of the package diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor, nn

from .function_schedule import TabulatedSchedule
from .network_denoiser import CleanPrediction, NetworkDenoiser, NoisePrediction, VPrediction

__all__ = ["diffusers_denoiser"]

PREDICTIONS: dict[str, type[NetworkDenoiser]] = {
    "epsilon": NoisePrediction,
    "sample": CleanPrediction,
    "v_prediction": VPrediction,
}


def diffusers_denoiser(
    network: Callable[..., Any],
    scheduler: Any,
    event_shape: tuple[int, ...] | Size,
    *,
    precision: torch.dtype | None = None,
) -> NetworkDenoiser:
    r"""The denoiser of a network of diffusers and of the scheduler that it was trained with.

    Only the table of signal powers and the type of the prediction are read from the scheduler;
    sampling is done by the integrators here, at any times.

    Arguments:
        network: The network, as ``UNet2DModel``, called on states of shape :math:`(N, event)`, on
            its time steps and the context as keywords; its output, or the attribute `sample` of
            this, is the prediction.
        scheduler: The scheduler, with `alphas_cumprod` and ``config.prediction_type``, as
            ``DDPMScheduler``.
        event_shape: The shape of a state.
        precision: The floating type that the network computes in, by automatic mixed precision.

    Raises:
        TypeError: If the scheduler has no table.
        ValueError: If its prediction is none of ``epsilon``, ``sample`` and ``v_prediction``.

    References:
        | Diffusers: State-of-the-art diffusion models (von Platen et al., 2022)
        | https://github.com/huggingface/diffusers

    Example:
        >>> from types import SimpleNamespace
        >>> powers = torch.linspace(0.999, 0.001, 1000)
        >>> config = SimpleNamespace(prediction_type="epsilon")
        >>> scheduler = SimpleNamespace(alphas_cumprod=powers, config=config)
        >>> d = diffusers_denoiser(lambda x, t: 0 * x, scheduler, (2,))
        >>> d(torch.ones(2), torch.tensor(0.0))
        tensor([1.0005, 1.0005])
    """
    powers = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(powers, Tensor):
        raise TypeError(
            f"expected a scheduler with a table alphas_cumprod, got {type(scheduler)}; give the "
            "network of a flow to FlowPrediction with RectifiedSchedule, and one of EDM to "
            "PreconditionedDenoiser with EDMSchedule"
        )
    kind = getattr(scheduler.config, "prediction_type", None)
    if kind not in PREDICTIONS:
        raise ValueError(f"expected a prediction among {sorted(PREDICTIONS)}, got {kind!r}")
    schedule, last = TabulatedSchedule(powers), len(powers) - 1
    return PREDICTIONS[kind](
        _Unwrapped(network), schedule, event_shape, embed=lambda t: t * last, precision=precision
    )


class _Unwrapped(nn.Module):
    """The prediction of a network, computed in the type of its parameters."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        known = next(self.parameters(), x).dtype
        output = self.network(x.to(known), t, **context)
        prediction: Tensor = getattr(output, "sample", output)
        return prediction
