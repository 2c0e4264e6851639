r"""What integrators share: the loop from noise to data.

Times and all scalars of the schedule are numbers of double precision on the CPU, whatever the type
and the device of states: a ratio of scales keeps its digits, and no step waits for a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Size, Tensor
from tqdm import tqdm

from .denoiser import Denoiser, check_denoiser
from .likelihood import check_likelihood
from .state import State

__all__ = ["Draw", "Generators", "Integrator", "Memory", "clean"]

Draw: TypeAlias = Callable[[Tensor], Tensor]
Memory: TypeAlias = dict[str, Tensor]
Generators: TypeAlias = "torch.Generator | Sequence[Generators]"


@dataclass(frozen=True)
class Integrator(ABC):
    r"""Takes noise :math:`x_1` to data :math:`x_0`, step by step, with any denoiser.

    Arguments:
        steps: The number of equal steps from :math:`t = 1` to :math:`0`, or the times themselves,
            decreasing, at least two; see :func:`~appa_prob.samplers.ratio_times`.
        denoise: Whether the denoiser is applied to the last state, which takes away the noise
            that is left at the last time at the price of a posterior slightly too narrow.

    Raises:
        TypeError: If the steps are neither an integer nor times.
        ValueError: If there is no step, or if times don't decrease within :math:`[0, 1]`.
    """

    pieces: ClassVar[bool] = True  # whether it works on pieces of trajectories, as on whole ones

    steps: int | Sequence[float] = field(default=64)
    denoise: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.steps, int):
            if self.steps < 1:
                raise ValueError(f"expected at least 1 step, got {self.steps}")
            return
        if not isinstance(self.steps, Iterable):
            raise TypeError(
                f"expected the number of steps, an integer, or the times, got {self.steps!r}"
            )
        times = [float(t) for t in self.steps]
        ordered = all(a > b for a, b in pairwise(times))
        if len(times) < 2 or not ordered or not (1.0 >= times[0] and times[-1] >= 0.0):
            raise ValueError(
                f"expected at least two times, decreasing within [0, 1], got {times[:8]}"
            )
        object.__setattr__(self, "steps", tuple(times))

    @property
    def order(self) -> int:
        r"""The power of the step that the error of the law of samples falls with."""
        return 1

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
            t: The time, a double on the CPU, with shape :math:`()`.
            s: The next time, likewise.
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
            generator: A source of random numbers, or one for each member along the first axis, or
                one for each state along the next axis as well.
            dtype: The floating type.
            device: The device; by default that of the generator.

        Returns:
            The noise, with shape :math:`(shape, event)`.
        """
        if device is None and generator is not None:
            device = _leaves(generator)[0].device
        full = (*shape, *denoiser.event_shape)
        like = torch.empty(full, dtype=dtype, device=device)
        alpha, sigma = denoiser.schedule(torch.tensor(self.times[0], dtype=torch.float64))
        scale = float(torch.hypot(alpha, sigma))
        return scale * drawing(generator)(like)

    def init(
        self, denoiser: Denoiser, x_1: Tensor | State, generator: Generators | None = None
    ) -> State:
        r"""The state that the next step starts from.

        Arguments:
            denoiser: The denoiser.
            x_1: The noise, or a state to go on from.
            generator: The generators, set as they were when the state was taken.

        Raises:
            TypeError: If the denoiser is none.
            ValueError: If the noise is not finite or not of shape :math:`(*, event)`, if the
                state is one of other times or other generators, or if the denoiser is one of
                pieces of trajectories and the integrator needs whole ones.
        """
        check_denoiser(denoiser)
        if denoiser.total is not None and not self.pieces:
            raise ValueError(
                f"{type(self).__name__} needs whole trajectories, got a denoiser of a piece, of "
                "which other processes hold others; guide it, and take an integrator with fixed "
                "steps as DPMSolverSDE"
            )
        if isinstance(x_1, State):
            state = x_1
        else:
            state = State(0, len(self.times) - 1, self.times[0], x_1)
        event, x_t = denoiser.event_shape, state.x_t
        if x_t.ndim < len(event) or x_t.shape[x_t.ndim - len(event) :] != event:
            raise ValueError(
                f"expected noise of shape (*, {', '.join(map(str, event))}), got "
                f"{tuple(x_t.shape)}; draw it with Integrator.noise"
            )
        if not x_t.is_floating_point() or not bool(torch.isfinite(x_t).all()):
            raise ValueError("expected noise of finite floats, got values that are not")
        _check_likelihood(getattr(self, "likelihood", None), event, x_t)
        if state.steps != len(self.times) - 1 or state.t != self.times[state.step]:
            raise ValueError(
                f"expected a state after {state.step} of {len(self.times) - 1} steps, those of "
                f"this integrator, got one of {state.steps} steps at time {state.t}"
            )
        if state.generators is not None and generator is not None:
            _restore(generator, state.generators)
        return state

    def run(self, denoiser: Denoiser, state: State, draw: Draw) -> Iterator[State]:
        r"""The states after each of the steps that are left.

        Arguments:
            denoiser: The denoiser.
            state: The state before them.
            draw: Gives white noise of the shape of its argument.
        """
        memory, x_t = dict(state.memory), state.x_t
        grid = torch.tensor(self.times, dtype=torch.float64)
        for i in range(state.step, state.steps):
            x_t = self.step(denoiser, x_t, grid[i], grid[i + 1], draw, memory).to(x_t.dtype)
            if self.denoise and i + 1 == state.steps:
                x_t = clean(denoiser, x_t, grid[-1])
            yield State(i + 1, state.steps, self.times[i + 1], x_t, dict(memory))

    def __call__(
        self,
        denoiser: Denoiser,
        x_1: Tensor | State,
        *,
        generator: Generators | None = None,
        progress: bool = False,
        callback: Callable[[State], None] | None = None,
        gradient: bool = False,
    ) -> Tensor:
        r"""Samples :math:`x_0` from :math:`x_1`.

        Arguments:
            denoiser: The denoiser, guided or not.
            x_1: The noise, with shape :math:`(*, event)`, see :meth:`noise`; or a :class:`State`
                that a callback was given, to go on from: the samples are the same, bit for bit, if
                the generators are as many as at first.
            generator: A source of random numbers, or one for each member along the first axis, so
                that a member does not depend on those beside it, or one for each state of a
                trajectory along the next axis as well, so that it may be drawn in pieces.
            progress: Whether to show a progress bar.
            callback: Called with the :class:`State` after each step.
            gradient: Whether the sample is differentiable with respect to :math:`x_1` and to what
                the denoiser depends on; every step is then kept in memory.

        Returns:
            The sample :math:`x_0`, with the shape of :math:`x_1`.

        Raises:
            ValueError: If the noise or the state does not fit, or if there is not one generator
                for each member.
            FloatingPointError: If the sample is not finite.
        """
        state = self.init(denoiser, x_1, generator)
        total, first = state.steps, state.step
        bar = tqdm(total=total, initial=first, disable=not progress, unit="step", desc="sampling")
        with torch.set_grad_enabled(gradient), bar:
            for after in self.run(denoiser, state, drawing(generator)):
                state = after
                bar.update()
                if callback is not None:
                    callback(replace(state, generators=_states(generator)))
        wrong = (~torch.isfinite(state.x_t)).sum()
        # All processes that hold parts of the sample end alike.
        if bool(wrong if denoiser.total is None else denoiser.total(wrong)):
            raise FloatingPointError(
                "the sample holds values that are not finite: take more steps, fewer iterations "
                "of the solver, or a larger variance of the errors"
            )
        return state.x_t


def clean(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    r"""The mean :math:`\mathbb{E}[x \mid x_t]`, with the time in the type of the state.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
    """
    mean: Tensor = denoiser(x_t, t.to(x_t))
    return mean


def drawing(generator: Generators | None) -> Draw:
    r"""A source of white noise.

    Arguments:
        generator: A source of random numbers, or one for each member along the first axis, or one
            for each state along the next axis as well.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    members = [drawing(g) for g in generator]

    def draw(x: Tensor) -> Tensor:
        if x.ndim < 1 or len(x) != len(members):
            raise ValueError(
                f"expected a generator for each member along the first axis, got {len(members)} "
                f"for a state of shape {tuple(x.shape)}"
            )
        return torch.stack([member(part) for member, part in zip(members, x, strict=True)])

    return draw


def _check_likelihood(likelihood: Any, event: Size, x_t: Tensor) -> None:
    """That of methods which know one is of states as those that are sampled."""
    if likelihood is None:
        return
    check_likelihood(likelihood, event)
    dtype = likelihood.y.dtype
    if dtype.is_floating_point and dtype != x_t.dtype:
        raise ValueError(
            f"expected noise of the type of the observation, {dtype}, got {x_t.dtype}; give dtype "
            "to Integrator.noise, or convert the likelihood by its method to"
        )


def _states(generator: Generators | None) -> Tensor | None:
    if generator is None or isinstance(generator, torch.Generator):
        return None if generator is None else generator.get_state()
    return torch.stack([g.get_state() for g in _leaves(generator)])


def _restore(generator: Generators, states: Tensor) -> None:
    leaves = _leaves(generator)
    if isinstance(generator, torch.Generator):
        states = states.unsqueeze(0)
    if states.ndim != 2 or len(states) != len(leaves):
        raise ValueError(
            f"expected as many generators as the state was taken with, got {len(leaves)} for "
            f"states of shape {tuple(states.shape)}"
        )
    for g, saved in zip(leaves, states, strict=True):
        g.set_state(saved.clone())


def _leaves(generator: Generators) -> list[torch.Generator]:
    if isinstance(generator, torch.Generator):
        return [generator]
    return [leaf for part in generator for leaf in _leaves(part)]
