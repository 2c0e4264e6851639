r"""What integrators share: the loop from noise to data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from .denoiser import Denoiser

__all__ = ["Draw", "Generators", "Integrator", "Memory", "State"]

Draw: TypeAlias = Callable[[Tensor], Tensor]
Memory: TypeAlias = dict[str, Tensor]
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class State:
    r"""Where an integration is.

    Attributes:
        step: The number of steps taken.
        steps: The number of steps in all.
        t: The time.
        x_t: The noisy state, with shape :math:`(*, event)`.
    """

    step: int
    steps: int
    t: float
    x_t: Tensor


@dataclass(frozen=True)
class Integrator(ABC):
    r"""Takes noise :math:`x_1` to data :math:`x_0`, step by step, with any denoiser.

    Arguments:
        steps: The number of equal steps from :math:`t = 1` to :math:`0`, or the times themselves,
            decreasing, at least two.

    Raises:
        ValueError: If there is no step, or if times don't decrease within :math:`[0, 1]`.
    """

    steps: int | Sequence[float] = field(default=64)

    def __post_init__(self) -> None:
        if isinstance(self.steps, int):
            if self.steps < 1:
                raise ValueError(f"expected at least 1 step, got {self.steps}")
            return
        times = [float(t) for t in self.steps]
        ordered = all(a > b for a, b in pairwise(times))
        if len(times) < 2 or not ordered or not (1.0 >= times[0] and times[-1] >= 0.0):
            raise ValueError(
                f"expected at least two times, decreasing within [0, 1], got {times[:8]}"
            )
        object.__setattr__(self, "steps", tuple(times))

    @property
    def times(self) -> tuple[float, ...]:
        r"""The times from the first to the last."""
        if isinstance(self.steps, int):
            return tuple(1 - i / self.steps for i in range(self.steps + 1))
        return tuple(self.steps)

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        r"""Goes from time :math:`t` to :math:`s < t`.

        Arguments:
            denoiser: The denoiser.
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()`.
            s: The next time, with shape :math:`()`.
            draw: Gives white noise of the shape of its argument.
            memory: What steps leave for those after them, empty at first.

        Returns:
            The state :math:`x_s`.
        """

    def noise(
        self,
        denoiser: Denoiser,
        shape: Sequence[int] = (),
        *,
        generator: Generators | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        r"""Draws :math:`x_1 \sim \mathcal{N}(0, (\alpha_1^2 + \sigma_1^2) I)`, the law of the
        noisiest states if data have zero mean and unit variance.

        Arguments:
            denoiser: The denoiser, which knows the shape of events and the schedule.
            shape: The shape of the batch.
            generator: A source of random numbers, or one for each member along the first axis.
            dtype: The floating type.
            device: The device; by default that of the generator.

        Returns:
            The noise, with shape :math:`(shape, event)`.
        """
        if device is None and generator is not None:
            device = (generator if isinstance(generator, torch.Generator) else generator[0]).device
        full = (*shape, *denoiser.event_shape)
        like = torch.empty(full, dtype=dtype, device=device)
        alpha, sigma = denoiser.schedule(torch.tensor(self.times[0], dtype=torch.float64))
        scale = float(torch.hypot(alpha, sigma))
        return scale * drawing(generator)(like)

    def __call__(
        self,
        denoiser: Denoiser,
        x_1: Tensor,
        *,
        generator: Generators | None = None,
        progress: bool = False,
        callback: Callable[[State], None] | None = None,
    ) -> Tensor:
        r"""Samples :math:`x_0` from :math:`x_1`.

        Arguments:
            denoiser: The denoiser, guided or not.
            x_1: The noise, with shape :math:`(*, event)`; see :meth:`noise`.
            generator: A source of random numbers, or one for each member along the first axis, so
                that a member does not depend on those beside it.
            progress: Whether to show a progress bar.
            callback: Called with the :class:`State` after each step.

        Returns:
            The sample :math:`x_0`, with the shape of :math:`x_1`.

        Raises:
            ValueError: If there is not one generator for each member.
            FloatingPointError: If the sample is not finite.
        """
        times, draw = self.times, drawing(generator)
        memory: Memory = {}
        x_t = x_1
        # Scalars of the schedule are computed in double precision, on the device of the state.
        grid = torch.tensor(times, dtype=x_1.dtype, device=x_1.device)
        bar = tqdm(total=len(times) - 1, disable=not progress, unit="step", desc="sampling")
        with torch.no_grad(), bar:
            for i in range(len(times) - 1):
                x_t = self.step(denoiser, x_t, grid[i], grid[i + 1], draw, memory)
                bar.update()
                if callback is not None:
                    callback(State(i + 1, len(times) - 1, times[i + 1], x_t))
        if not bool(torch.isfinite(x_t).all()):
            raise FloatingPointError(
                "the sample holds values that are not finite: take more steps, fewer iterations "
                "of the solver, or a larger variance of the errors"
            )
        return x_t


def drawing(generator: Generators | None) -> Draw:
    r"""A source of white noise.

    Arguments:
        generator: A source of random numbers, or one for each member along the first axis.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    members = list(generator)

    def draw(x: Tensor) -> Tensor:
        if x.ndim < 1 or len(x) != len(members):
            raise ValueError(
                f"expected a generator for each member along the first axis, got {len(members)} "
                f"for a state of shape {tuple(x.shape)}"
            )
        return torch.stack(
            [
                torch.randn(x.shape[1:], generator=g, dtype=x.dtype, device=x.device)
                for g in members
            ]
        )

    return draw
