r"""What is observed of a trajectory of any length, some states at a time.

Observations depend on the seed and on their time: those of some states are the same whether they
are drawn for themselves or with all others. So none have to be kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from .errors import NothingObserved, UserError
from .observe import Observations, observe_truth
from .quality import QualityControl, control, log_refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa
    from .network import Network
    from .observe import Trajectory
    from .truth import Missing

__all__ = ["Observer"]


class Observer:
    r"""Draws, or reads, what networks observe of a trajectory when it is asked for.

    The last states that were asked for are kept.

    Arguments:
        appa: The model, for its channels and its grid.
        networks: The networks.
        truth: The truth in physical units, with shape :math:`(L, C, H, W)`, if there is one.
        times: The times of the states.
        seed: The seed of the errors of observations.
        missing: Whether observations that are not finite are refused, or masked out.
        quality: What is left out as doubtful; nothing by default.
        at_once: The number of states that are observed at once where one after the other is asked
            for.
    """

    def __init__(
        self,
        appa: Appa,
        networks: Sequence[Network],
        truth: Trajectory | None,
        times: NDArray[np.datetime64],
        seed: int,
        missing: Missing = "refuse",
        *,
        quality: QualityControl | None = None,
        at_once: int = 64,
    ) -> None:
        self.appa, self.networks, self.truth, self.times = appa, networks, truth, times
        self.seed, self.missing, self.quality, self.at_once = seed, missing, quality, at_once
        self._states: range = range(0)
        self._kept: Observations | None = None

    def within(self, start: int, stop: int, *, required: bool = False) -> Observations:
        r"""The observations of the states from `start` to `stop`, without the latter, with the
        operator on these states.

        Arguments:
            start: The first state.
            stop: The state behind the last.
            required: Whether there has to be one.

        Raises:
            UserError: If a network does not fit the model or the times, if there is no truth to
                draw from, or if observations are not finite, and are to be refused.
            NothingObserved: If there is none, and one is required.
        """
        states = range(start, stop)
        if self._kept is None or self._states != states:
            try:
                seen = self._observe(states)
            except NothingObserved:
                if required:
                    raise
                seen = Observations.none((len(states), *self.appa.autoencoder.state_shape))
            self._states, self._kept = states, seen
        return self._kept

    def at(self, state: int) -> Observations:
        r"""The observations of one state, as :meth:`Observations.at` gives them."""
        if state not in self._states:
            start = state // self.at_once * self.at_once
            self.within(start, min(start + self.at_once, len(self.times)))
        assert self._kept is not None
        seen = self._kept.at(state - self._states.start)
        return replace(seen, time=seen.time + self._states.start)

    @property
    def counts(self) -> dict[str, int]:
        r"""As :attr:`Observations.counts`, of all states."""
        return self._survey[0]

    @property
    def digest(self) -> str:
        r"""A name of the values of all observations, as :func:`~appa_prob.stream.digest` gives."""
        return self._survey[1]

    @cached_property
    def _survey(self) -> tuple[dict[str, int], str]:
        """Goes through all states once, which also tells early what can't be observed."""
        counts, values = Counter[str](), hashlib.sha256()
        blind, length = list(self.networks), len(self.times)
        for start in range(0, length, self.at_once):
            states = range(start, min(start + self.at_once, length))
            seen = self.within(states.start, states.stop, required=len(states) == length)
            if len(states) < length:
                blind = [network for network in blind if not self._sees(network, states)]
            counts.update(seen.counts)
            values.update(seen.values.numpy().tobytes())
        if length > self.at_once and blind:
            raise NothingObserved(f'network "{blind[0].label}" observes nothing of these states')
        kept, masked, rejected = counts.values()
        if masked and not kept + rejected:
            raise UserError("no observation is finite: mend the data")
        log_refused(rejected, kept + rejected)
        return dict(counts), values.hexdigest()[:16]

    def _sees(self, network: Network, states: range) -> bool:
        try:
            network.locate(self.times, self.appa.grid, self.appa.catalogue, states)
        except NothingObserved:
            return False
        return True

    def _observe(self, states: range) -> Observations:
        seen = observe_truth(
            self.appa,
            self.networks,
            self.truth,
            self.times,
            self.seed,
            self.missing,
            None if len(states) == len(self.times) else states,
        )
        if self.quality is None:
            return seen
        return control(self.appa, seen, self.times[states.start : states.stop], self.quality)
