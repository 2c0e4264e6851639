r"""Long trajectories from the denoiser of short ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Size, Tensor, nn
from torch.utils.checkpoint import checkpoint

from appa_prob.operators.transforms import transformed

from .denoiser import Denoiser

__all__ = ["Overlap", "WindowedDenoiser"]

Overlap = Literal["blend", "causal", "centre", "mean"]


class WindowedDenoiser(Denoiser):
    r"""The denoiser of trajectories :math:`x_{1:L}` of any length, composed of windows.

    .. math:: d(x_{1:L}, t)_l = \sum_j w_{jl} \,
        d(x_{j:j+W-1}, t)_{l - j} \qquad \sum_j w_{jl} = 1

    Windows start every `stride` states; the last one ends with the trajectory. Where they overlap,
    their predictions are combined: by their mean; by the window in which a state lies nearest to
    the centre (the later one of two that are equal), as the pseudo-blankets of score-based data
    assimilation do; by the first window that holds it, so that it depends on none that come later
    (causal); or blended, with weights that fall linearly towards the ends of windows.

    References:
        | Score-based Data Assimilation (Rozet and Louppe, 2023)
        | https://arxiv.org/abs/2306.10574

    Arguments:
        denoiser: The denoiser of windows, with events of shape :math:`(W, \dots)`; or one for each
            window, such as guided ones, each by the observations of its window.
        length: The number :math:`L \geq W` of states of a trajectory.
        stride: The number of states between two windows, at most :math:`W`.
        overlap: How predictions are combined.
        context: What else the denoiser depends on: tensors of shape :math:`(L, \dots)`, cut into
            windows as states are.
        at_once: The number of windows that are evaluated at once, to bound memory: what products
            with the Jacobian need of an evaluation is then not kept, but computed again. By
            default all are, and it is kept.

    Raises:
        ValueError: If the length, the stride, the denoisers or the context don't fit.

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
        denoiser: Denoiser | Sequence[Denoiser],
        *,
        length: int,
        stride: int,
        overlap: Overlap = "blend",
        context: Mapping[str, Tensor] | None = None,
        at_once: int | None = None,
    ) -> None:
        each = [denoiser] if isinstance(denoiser, Denoiser) else list(denoiser)
        window, *state = each[0].event_shape
        super().__init__((length, *state), each[0].schedule)
        self.starts = window_starts(length, window, stride)
        if at_once is not None and (at_once < 1 or not isinstance(denoiser, Denoiser)):
            raise ValueError(
                f"expected one denoiser and at least 1 window at once, or None, got {at_once}"
            )
        self.at_once = at_once
        if isinstance(denoiser, Denoiser):
            self.denoiser = denoiser
        else:
            self.denoiser = _EachWindow(each, len(self.starts))
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

    def part(self, windows: range) -> WindowedDenoiser:
        r"""What some of the windows, which follow each other, contribute to the states from the
        start of the first to the end of the last.

        Arguments:
            windows: The numbers of the windows.
        """
        part, rows = copy.copy(self), slice(windows.start, windows.stop)
        part._buffers = {name: b[rows] for name, b in self._buffers.items() if b is not None}
        part._modules = dict(self._modules)
        part.starts = tuple(start - self.starts[windows.start] for start in self.starts[rows])
        part.places = self.places[rows] - self.starts[windows.start]
        part.event_shape = Size((part.starts[-1] + self.places.shape[1], *self.event_shape[1:]))
        if isinstance(self.denoiser, _EachWindow):
            part.denoiser = _EachWindow(self.denoiser.some(rows), len(windows))
        return part

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        axis = x_t.ndim - len(self.event_shape)
        count, window = self.places.shape
        windows = x_t.index_select(axis, self.places.flatten())
        windows = windows.reshape(*x_t.shape[:axis], count, window, *self.event_shape[1:])
        times = t.unsqueeze(-1).expand(*t.shape, count) if t.ndim else t
        known = {name: getattr(self, f"context_{name}") for name in self.names}
        means = self._means(windows, times, known, context)
        tail = (1,) * (len(self.event_shape) - 1)
        parts = (means * self.weights.to(means).reshape(count, window, *tail)).flatten(
            axis, axis + 1
        )
        return torch.zeros_like(x_t).index_add(axis, self.places.flatten(), parts)

    def _means(
        self,
        windows: Tensor,
        t: Tensor,
        known: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
    ) -> Tensor:
        """The predictions of all windows, some at once."""
        count, size = len(self.places), self.at_once or len(self.places)
        if size >= count or transformed():
            means: Tensor = self.denoiser(windows, t, **known, **context)
            return means
        axis = windows.ndim - len(self.event_shape) - 1
        parts = []
        for first in range(0, count, size):
            some = slice(first, first + size)
            own = {name: value[some] for name, value in known.items()}
            parts.append(
                checkpoint(
                    partial(self.denoiser, **own, **context),
                    windows.narrow(axis, first, min(size, count - first)),
                    t[..., some] if t.ndim else t,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            )
        return torch.cat(parts, axis)


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    r"""The first states of the windows of a trajectory; the last window ends with it.

    Arguments:
        length: The number of states.
        window: The number of states of a window.
        stride: The number of states between two windows.

    Raises:
        ValueError: If the trajectory is shorter than a window, or states lie in none.

    Example:
        >>> window_starts(9, 4, 2)
        (0, 2, 4, 5)
    """
    if length < window:
        raise ValueError(f"expected a length of at least {window}, the window, got {length}")
    if not 1 <= stride <= window:
        raise ValueError(f"expected a stride between 1 and {window}, the window, got {stride}")
    return (*range(0, length - window, stride), length - window)


class _EachWindow(Denoiser):
    """Denoisers of their own for the windows along the last axis of the batch."""

    def __init__(self, denoisers: Sequence[Denoiser], count: int) -> None:
        super().__init__(denoisers[0].event_shape, denoisers[0].schedule)
        if len(denoisers) != count:
            raise ValueError(
                f"expected a denoiser for each of {count} windows, got {len(denoisers)}"
            )
        self.denoisers = nn.ModuleList(denoisers)

    def some(self, rows: slice) -> list[Denoiser]:
        return [d for d in self.denoisers[rows] if isinstance(d, Denoiser)]

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        axis = x_t.ndim - len(self.event_shape) - 1
        times = t.unbind(-1) if t.ndim else [t] * len(self.denoisers)
        windows = zip(self.denoisers, x_t.unbind(axis), times, strict=True)
        return torch.stack([d(x, s, **context) for d, x, s in windows], dim=axis)


def _weights(starts: tuple[int, ...], window: int, length: int, overlap: Overlap) -> Tensor:
    ramp = 1.0 + torch.minimum(torch.arange(window), torch.arange(window).flip(0))
    if overlap == "mean":
        ramp = torch.ones(window)
    elif overlap not in ("blend", "causal", "centre"):
        raise ValueError(
            f"expected overlap 'blend', 'causal', 'centre' or 'mean', got {overlap!r}"
        )
    full = torch.zeros(len(starts), length)
    for row, start in zip(full, starts, strict=True):
        # The ends of the trajectory are no ends of its windows.
        row[start : start + window] = ramp
    if overlap in ("centre", "causal"):
        latest = len(starts) - 1 - full.flip(0).argmax(0)
        best = latest if overlap == "centre" else (full > 0).int().argmax(0)
        full = torch.nn.functional.one_hot(best, len(starts)).T * (full > 0)
    full = full / full.sum(0)
    return torch.stack([row[s : s + window] for row, s in zip(full, starts, strict=True)])
