r"""Unconditional trajectories of any length: weather that never was.

.. math:: z_{1:L} \sim p(z_{1:L}) \qquad x_l \sim \mathcal{N}(D(z_l), \mathrm{diag}(e^2))
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from pydantic import BaseModel, ConfigDict, PositiveInt

from .appa import Appa
from .dataset import parse_time
from .mesh import Mesh, ParallelConfig
from .parallel import own_device
from .reanalysis import SamplerConfig
from .rollout import Rollout, RolloutConfig
from .run import describe_run, draw_run, rollout_parts

__all__ = ["SampleConfig", "run_sample"]


class SampleConfig(BaseModel):
    r"""What to sample.

    Attributes:
        model: The name of a model, or its folder.
        start: The first time; what the model has learnt of the seasons depends on it.
        states: The number of states.
        members: The number of trajectories.
        rollout: How blocks follow each other.
        sampler: How to sample a block.
        parallel: How ranks share the work.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "appa-small"
    start: str
    states: PositiveInt
    members: PositiveInt = 1
    rollout: RolloutConfig = RolloutConfig()
    sampler: SamplerConfig = SamplerConfig()
    parallel: ParallelConfig = ParallelConfig()


def run_sample(
    config: SampleConfig,
    output: Path | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    r"""Samples trajectories of the prior.

    Arguments:
        config: What to sample.
        output: The zarr store to write, block by block; a run that was killed is gone on with.
            By default all states are kept in memory.
        seed: What all that is random depends on; a member depends on the seed and its number.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.

    Returns:
        The trajectories in physical units, with dimensions `member`, `time`, `level`, `latitude`
        and `longitude`.

    Raises:
        UserError: If the configuration does not fit the model, or the output exists.

    Example:
        >>> config = SampleConfig(start="2004-01-01", states=3, sampler={"steps": 2})
        >>> dict(run_sample(config, progress=False).temperature.sizes)["time"]
        3
    """
    appa = Appa.from_pretrained(config.model, own_device())
    mesh = Mesh.of(config.parallel)
    rollout = Rollout(
        appa,
        parse_time(config.start),
        config.states,
        members=config.members,
        rollout=config.rollout,
        sampler=config.sampler,
        seed=seed,
        mesh=mesh,
    )
    return draw_run(
        lambda done, memory: rollout_parts(rollout, done, memory),
        appa,
        rollout.times(0, config.states),
        config.members,
        parts=(rollout.block, rollout.fresh),
        attributes=describe_run(
            "sample", "Trajectories of a latent diffusion model", config, seed, appa
        ),
        output=output,
        overwrite=overwrite,
        progress=progress,
        mesh=mesh,
    )
