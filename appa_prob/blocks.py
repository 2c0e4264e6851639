r"""Long trajectories in blocks that know the block before, and look at what is observed after.

.. math:: p(x_{1:L} \mid y_{1:L}) \approx \prod_j
    p(x_{a_j : b_j} \mid x_{a_j - K : a_j - 1}, \, y_{a_j : b_j + F})

with :math:`a_{j + 1} = b_j + 1`. Each state is given all that was observed until :math:`F` states
later, at least: it is smoothing with a fixed lag.

References:
    | A Fixed-Lag Kalman Smoother for Retrospective Data Assimilation (Cohn et al., 1994)
    | https://doi.org/10.1175/1520-0493(1994)122<2838:AFLKSF>2.0.CO;2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from .errors import UserError
from .rollout import check_known

if TYPE_CHECKING:
    from .appa import Appa

__all__ = ["BlocksConfig", "Span"]


class BlocksConfig(BaseModel):
    r"""The blocks of a long reanalysis; memory is that of a block.

    Attributes:
        states: The number of states of a block, by default four windows of the denoiser.
            Trajectories of less than that and a window are sampled as a whole.
        overlap: The number :math:`K` of states that are known from the block before; by default
            half a window.
        lookahead: The number :math:`F` of states after those that a block gives, whose
            observations it uses as well; by default half a window.
        error: The standard deviation of the errors of known latents, which have unit variance.
    """

    model_config = ConfigDict(extra="forbid")

    states: PositiveInt | None = None
    overlap: PositiveInt | None = None
    lookahead: NonNegativeInt | None = None
    error: PositiveFloat = 0.02

    def spans(self, appa: Appa, length: int) -> list[Span]:
        r"""The blocks of a trajectory.

        Arguments:
            appa: The model.
            length: The number of states of the trajectory.

        Raises:
            UserError: If a block is shorter than a window, or gives no new state.
        """
        window = appa.window
        size = self.states or 4 * window
        overlap = window // 2 if self.overlap is None else self.overlap
        lookahead = window // 2 if self.lookahead is None else self.lookahead
        check_known(appa, overlap)
        if size < window or size <= overlap + lookahead:
            raise UserError(
                f"blocks.states: expected at least {max(window, overlap + lookahead + 1)}, the "
                f"window of the model and more than the {overlap} states of the overlap and the "
                f"{lookahead} of the lookahead, got {size}"
            )
        found, start, known = list[Span](), 0, 0
        while not found or found[-1].stop < length:
            # What would be left of it is no window.
            last = length - start < size + window
            stop = length if last else start + size
            found.append(Span(len(found), start, known, stop if last else stop - lookahead, stop))
            start, known = found[-1].new - overlap, overlap
        return found


@dataclass(frozen=True)
class Span:
    r"""The states of a block, from `start` to `stop`.

    Attributes:
        number: The number of the block.
        start: Its first state.
        known: The number of its first states that are known.
        new: The state behind the last that it gives.
        stop: The state behind its last.
    """

    number: int
    start: int
    known: int
    new: int
    stop: int

    @property
    def given(self) -> range:
        r"""The states that it gives."""
        return range(self.start + self.known, self.new)
