r"""Long trajectories from the denoiser of short ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from .denoiser import Denoiser

__all__ = ["Overlap", "WindowedDenoiser"]

Overlap = Literal["blend", "centre", "mean"]


class WindowedDenoiser(Denoiser):
    r"""The denoiser of trajectories :math:`x_{1:L}` of any length, composed of windows.

    .. math:: d(x_{1:L}, t)_l = \sum_j w_{jl} \,
        d(x_{j:j+W-1}, t)_{l - j} \qquad \sum_j w_{jl} = 1

    Windows start every `stride` states; the last one ends with the trajectory. Where they overlap,
    their predictions are combined: by their mean; by the window in which a state lies nearest to
    the centre, as the pseudo-blankets of score-based data assimilation do; or blended, with
    weights that fall linearly towards the ends of windows.

    References:
        | Score-based Data Assimilation (Rozet and Louppe, 2023)
        | https://arxiv.org/abs/2306.10574

    Arguments:
        denoiser: The denoiser of windows, with events of shape :math:`(W, \dots)`.
        length: The number :math:`L \geq W` of states of a trajectory.
        stride: The number of states between two windows, at most :math:`W`.
        overlap: How predictions are combined.
        context: What else the denoiser depends on: tensors of shape :math:`(L, \dots)`, cut into
            windows as states are.

    Raises:
        ValueError: If the length, the stride or the context doesn't fit.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(4, 2), Isotropic(1.0, (4, 2)), VESchedule(0.1, 10.0))
        >>> long = WindowedDenoiser(d, length=9, stride=2)
        >>> long.starts, long(torch.ones(9, 2), torch.tensor(0.5)).unique()
        ((0, 2, 4, 5), tensor([0.5000]))
    """

    weights: Tensor

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        length: int,
        stride: int,
        overlap: Overlap = "blend",
        context: Mapping[str, Tensor] | None = None,
    ) -> None:
        window, *state = denoiser.event_shape
        super().__init__((length, *state), denoiser.schedule)
        if length < window:
            raise ValueError(f"expected a length of at least {window}, the window, got {length}")
        if not 1 <= stride <= window:
            raise ValueError(f"expected a stride between 1 and {window}, the window, got {stride}")
        self.denoiser = denoiser
        self.starts = (*range(0, length - window, stride), length - window)
        places = torch.tensor(self.starts).unsqueeze(-1) + torch.arange(window)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("weights", _weights(self.starts, window, length, overlap))
        for name, value in (context or {}).items():
            if value.shape[:1] != (length,):
                raise ValueError(
                    f"expected {name} of shape ({length}, ...), a row for each state, got "
                    f"{tuple(value.shape)}"
                )
            self.register_buffer(f"context_{name}", value[places], persistent=False)
        self.names = tuple(context or {})

    places: Tensor

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        axis = x_t.ndim - len(self.event_shape)
        count, window = self.places.shape
        windows = x_t.index_select(axis, self.places.flatten())
        windows = windows.reshape(*x_t.shape[:axis], count, window, *self.event_shape[1:])
        times = t.unsqueeze(-1).expand(*t.shape, count) if t.ndim else t
        known = {name: getattr(self, f"context_{name}") for name in self.names}
        means = self.denoiser(windows, times, **known, **context)
        tail = (1,) * (len(self.event_shape) - 1)
        parts = (means * self.weights.to(means).reshape(count, window, *tail)).flatten(
            axis, axis + 1
        )
        return torch.zeros_like(x_t).index_add(axis, self.places.flatten(), parts)


def _weights(starts: tuple[int, ...], window: int, length: int, overlap: Overlap) -> Tensor:
    ramp = 1.0 + torch.minimum(torch.arange(window), torch.arange(window).flip(0))
    if overlap == "mean":
        ramp = torch.ones(window)
    elif overlap not in ("blend", "centre"):
        raise ValueError(f"expected overlap 'blend', 'centre' or 'mean', got {overlap!r}")
    full = torch.zeros(len(starts), length)
    for row, start in zip(full, starts, strict=True):
        # The ends of the trajectory are no ends of its windows.
        row[start : start + window] = ramp
    if overlap == "centre":
        best = full.argmax(0)
        full = torch.nn.functional.one_hot(best, len(starts)).T * (full > 0)
    full = full / full.sum(0)
    return torch.stack([row[s : s + window] for row, s in zip(full, starts, strict=True)])
