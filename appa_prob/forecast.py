r"""Forecasts: trajectories that go on from known states, or from what was observed of them.

.. math:: z_{K+1:L} \sim p(z_{K+1:L} \mid z_{1:K}) \qquad \text{or} \qquad
    z_{K+1:L} \sim p(z_{K+1:L} \mid y_{1:K})

either block by block, each given the last states of the one before, or all states at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor

from .appa import Appa
from .dataset import Source
from .errors import UserError
from .experiment import Networks
from .generators import state_generators
from .mesh import Mesh, ParallelConfig
from .observe import Observations, observe_truth
from .parallel import own_device
from .reanalysis import SamplerConfig, assimilate
from .rollout import Rollout, RolloutConfig, check_known, decode_states
from .run import Part, describe_run, draw_run, rollout_parts
from .truth import Missing, open_truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ForecastConfig", "encode_states", "run_forecast"]

LOST = 2**31  # the number, as if of a block, of what is drawn of the errors of known states


class ForecastConfig(BaseModel):
    r"""What to forecast.

    Attributes:
        model: The name of a model, or its folder.
        data: The dataset that the known states are taken from, or the observations of them; null
            if these come from files;
            `sample` is the one that ships with the package.
        start: The time of the first of the known (or observed) states.
        initial: Whether these states are known, or only observed.
        known: The number of them; by default 1 where they are known, and those of a window of the
            denoiser where they are observed.
        states: The number of states to forecast.
        members: The number of members of the ensemble.
        networks: The observing networks, for states that are only observed.
        missing: Whether observations that are not finite are refused, or masked out.
        together: Whether all states are drawn at once rather than block by block.
        rollout: How blocks follow each other.
        sampler: How to sample.
        parallel: How ranks share the work.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "appa-small"
    data: Source | None = Path("sample")
    start: str
    initial: Literal["state", "observations"] = "state"
    known: PositiveInt | None = None
    states: PositiveInt = 20
    members: Annotated[int, Field(ge=2)] = 16
    networks: Networks | None = None
    missing: Missing = "refuse"
    together: bool = False
    rollout: RolloutConfig = RolloutConfig()
    sampler: SamplerConfig = SamplerConfig()
    parallel: ParallelConfig = ParallelConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.initial == "observations") != (self.networks is not None):
            raise ValueError(
                "networks are given if, and only if, the forecast starts from observations"
            )
        return self


def run_forecast(
    config: ForecastConfig,
    output: Path | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    r"""Forecasts the states that follow known or observed ones.

    Arguments:
        config: What to forecast.
        output: The zarr store to write, block by block; a run that was killed is gone on with. By
            default all states are kept in memory.
        seed: What all that is random depends on.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.

    Returns:
        The forecast states in physical units; the known ones are left out.

    Raises:
        UserError: If the configuration, the data or the model don't fit together, or the output
            exists.
    """
    appa = Appa.from_pretrained(config.model, own_device())
    mesh = Mesh.of(config.parallel)
    known = config.known or (1 if config.initial == "state" else appa.window)
    config = config.model_copy(update={"known": known})
    source, times = open_truth(appa, config.data, config.start, known, config.missing)
    truth = None if source is None else source[:]
    observations, known_values = None, truth
    if config.networks is not None:
        if known < appa.window:
            raise UserError(
                f"known: expected at least {appa.window} observed states, the window of the "
                f"model, got {known}"
            )
        observations = observe_truth(appa, config.networks, truth, times, seed, config.missing)
        known_values = observations.values
    if known_values is None:
        raise UserError("expected `data`, to take the known states from, or `networks` of files")
    if observations is None:
        check_known(appa, known)
    task = _Forecast(appa, config, known, seed, truth, times, observations, mesh)
    return draw_run(
        task.draw,
        appa,
        task.rollout.times(known, config.states),
        config.members,
        parts=task.parts,
        attributes=describe_run(
            "forecast",
            "Ensemble forecast by a latent diffusion model",
            config,
            seed,
            appa,
            known_values,
        ),
        output=output,
        overwrite=overwrite,
        progress=progress,
        label="forecast",
        mesh=mesh,
    )


def encode_states(appa: Appa, states: Tensor, times: NDArray[np.datetime64]) -> Tensor:
    r"""The latents of states.

    Arguments:
        appa: The model.
        states: The states in physical units, with shape :math:`(L, C, H, W)`.
        times: Their times.

    Returns:
        The latents, with shape :math:`(L, c, h, w)`.
    """
    with torch.no_grad():
        return appa.autoencoder.encode(appa.statistics.standardise(states, times))


class _Forecast:
    """What draws the parts of a forecast, and their sizes."""

    def __init__(
        self,
        appa: Appa,
        config: ForecastConfig,
        known: int,
        seed: int,
        truth: Tensor | None,
        times: NDArray[np.datetime64],
        observations: Observations | None,
        mesh: Mesh,
    ) -> None:
        self.appa, self.config, self.known, self.seed = appa, config, known, seed
        self.truth, self.times, self.observations = truth, times, observations
        self.mesh = mesh
        length, chosen = known + config.states, config.rollout
        if config.together:
            chosen = chosen.model_copy(update={"block": max(length, appa.window)})
        self.rollout = Rollout(
            appa,
            times[0],
            length,
            members=config.members,
            rollout=chosen,
            sampler=config.sampler,
            seed=seed,
            mesh=mesh,
        )

    @property
    def parts(self) -> tuple[int, ...]:
        if self.config.together:
            return (self.config.states,)
        if self.observations is not None:
            return (self.rollout.fresh,)
        return (self.rollout.block - self.known, self.rollout.fresh)

    def draw(self, done: int, memory: Mapping[str, Tensor]) -> Iterator[Part]:
        if self.observations is not None and self.config.together:
            return iter([self._together()] if done == 0 else [])
        past = error = None
        if not memory and self.observations is not None:
            past = self._observed_past()
        elif not memory:
            assert self.truth is not None
            past = encode_states(self.appa, self.truth, self.times).unsqueeze(0)
            error = self._lost(self.truth[-1:], past[0, -1])
        # The assimilation counts as a block.
        number = 0 if self.observations is None else 1
        return rollout_parts(
            self.rollout, done, memory, past, known=self.known, number=number, error=error
        )

    def _lost(self, last: Tensor, z: Tensor) -> Tensor | None:
        """The smooth part of what the autoencoder loses of the last known state."""
        appa, now, members = self.appa, self.times[-1:], self.config.members
        if not self.config.rollout.residual:
            return None
        x = appa.statistics.standardise(last, now)[0]
        mine = self.mesh.members(members)
        generators = state_generators(self.seed, LOST, mine, [0], appa.error.device)
        lost = x - appa.decode(z)
        drawn = torch.stack([appa.reconstruction.smooth_part(lost, g) for (g,) in generators])
        return self.mesh.last(drawn, members)

    def _observed_past(self) -> Tensor:
        """The last latents of the observed states, for all members."""
        z, piece, _ = self._assimilate(self.times)
        start = len(self.times) - self.rollout.overlap
        own = range(max(piece.start, start), max(piece.stop, start))
        shape = (self.config.members, self.rollout.overlap)
        return self.mesh.assemble(
            z[:, len(piece) - len(own) :],
            shape,
            self.mesh.members(self.config.members),
            range(own.start - start, own.stop - start),
        )

    def _together(self) -> Part:
        times = self.rollout.times(0, self.rollout.length)
        z, piece, generators = self._assimilate(times)
        own = range(max(piece.start, self.known), max(piece.stop, self.known))
        at = slice(len(piece) - len(own), len(piece))
        noise = [g[at] for g in generators] if self.config.rollout.residual else None
        new = range(own.start - self.known, own.stop - self.known)
        states, _ = decode_states(
            self.appa,
            z[:, at],
            times[own.start : own.stop],
            noise,
            mesh=self.mesh,
            first=new.start == 0 and len(new) > 0,
        )
        return Part(states, {}, self.config.states, new)

    def _assimilate(
        self, times: NDArray[np.datetime64]
    ) -> tuple[Tensor, range, list[list[torch.Generator]]]:
        """The latents that this rank samples, which states these are, and what drew them."""
        assert self.observations is not None
        sampler, mesh = self.config.sampler, self.mesh
        piece = mesh.piece(self.appa, len(times), sampler.stride)
        mine = mesh.members(self.config.members)
        generators = state_generators(self.seed, 0, mine, piece, self.appa.error.device)
        seen = self.observations.within(0, len(times))
        z = assimilate(self.appa, seen, times, generators, sampler=sampler, mesh=mesh)
        return z, piece, generators
