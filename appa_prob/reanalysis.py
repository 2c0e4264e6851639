r"""Reanalysis: an ensemble of trajectories of the atmosphere, given sparse and noisy observations of it.

.. math:: p(x_{1:L} \mid y_{1:L}) \qquad y \mid z_{1:L} \sim \mathcal{N}(H \, D(z_{1:L}), \, R)

The observations are drawn, with noise, from a dataset that is taken as the truth (an observing system simulation
experiment), so that the ensemble can be scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from appa_prob.operators import GMRES, Nonlinear
from appa_prob.samplers import DDIM, MMPS, Denoiser, GaussianLikelihood

from .appa import Appa
from .dataset import open_dataset, read_states, select_period
from .errors import UserError
from .figure import draw_reanalysis
from .files import refuse_existing, replacing
from .network import NetworkConfig
from .observe import Observations, observe
from .report import Report, report_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ReanalysisConfig", "SamplerConfig", "reanalyse", "run_reanalysis"]


class SamplerConfig(BaseModel):
    r"""How to sample.

    Attributes:
        steps: The number of steps of the integrator.
        eta: The stochasticity of DDIM, from 0 (the probability flow) to 1 (ancestral sampling).
        iterations: The largest number of GMRES iterations of a guidance step.
        stride: The number of states between two windows; by default half a window.
    """

    model_config = ConfigDict(extra="forbid")

    steps: PositiveInt = 32
    eta: float = Field(0.0, ge=0.0, le=1.0)
    iterations: PositiveInt = 2
    stride: PositiveInt | None = None


class FigureConfig(BaseModel):
    r"""What the figure shows.

    Attributes:
        variable: The variable.
        level: The level; by default the first.
        state: The index of the state; by default the one in the middle.
    """

    model_config = ConfigDict(extra="forbid")

    variable: str
    level: float | None = None
    state: int | None = None


class ReanalysisConfig(BaseModel):
    r"""What to reanalyse.

    Attributes:
        model: The name of a model, or its folder.
        data: The dataset that is the truth; `sample` is the one that ships with the package.
        start: The first time.
        states: The number of states.
        members: The number of members of the ensemble.
        networks: The observing networks.
        missing: Whether observations that are not finite are refused, or masked out and counted.
        sampler: How to sample.
        baselines: Whether the table of scores holds the climatology and optimal interpolation.
        figure: What the figure shows, if there shall be one.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "appa-small"
    data: Path = Path("sample")
    start: str
    states: PositiveInt = 24
    members: int = Field(16, ge=2)
    networks: list[NetworkConfig] = Field(min_length=1)
    missing: Literal["refuse", "mask"] = "refuse"
    sampler: SamplerConfig = SamplerConfig()
    baselines: bool = True
    figure: FigureConfig | None = None


@dataclass
class Reanalysis:
    r"""What :func:`run_reanalysis` found.

    Attributes:
        dataset: The ensemble, in physical units.
        report: The table of scores.
    """

    dataset: xr.Dataset
    report: Report


@torch.no_grad()
def reanalyse(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    *,
    members: int = 16,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    r"""Samples trajectories given observations, by moment matching posterior sampling through the decoder.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        members: The number of members.
        sampler: How to sample.
        seed: What all that is random depends on; member :math:`i` depends on the seed and :math:`i` alone.
        progress: Whether to show a progress bar.

    Returns:
        The members in physical units, with shape :math:`(M, L, C, H, W)`.
    """
    sampler = sampler or SamplerConfig()
    prior = appa.trajectory_denoiser(times, sampler.stride)
    guided = guide(appa, prior, observations, times, sampler)
    generators = [torch.Generator(appa.error.device).manual_seed(1000003 * seed + i) for i in range(members)]
    integrator = DDIM(steps=sampler.steps, eta=sampler.eta)
    shape = (members, len(times), *appa.autoencoder.latent_shape)
    noise = integrator.noise(shape, guided, generators)
    z = integrator(guided, noise, generator=generators, progress=progress)
    states = []
    for member, generator in zip(z, generators, strict=True):
        x = appa.autoencoder.decode(member)
        eps = torch.randn(x.shape, generator=generator, device=x.device)
        states.append(appa.statistics.restore(x + appa.error * eps, times))
    return torch.stack(states)


def guide(
    appa: Appa,
    prior: Denoiser,
    observations: Observations,
    times: NDArray[np.datetime64],
    sampler: SamplerConfig,
) -> MMPS:
    r"""The denoiser of trajectories given observations."""
    latents = (len(times), *appa.autoencoder.latent_shape)
    states = (len(times), *appa.autoencoder.state_shape)
    decoder = Nonlinear(appa.autoencoder.decode, latents, states)
    y, variance = observations.standardised(appa.statistics, appa.error, times)
    likelihood = GaussianLikelihood(observations.operator @ decoder, y, variance)
    return MMPS(prior, likelihood, solver=GMRES(max_iterations=sampler.iterations, on_failure="ignore"))


def run_reanalysis(
    config: ReanalysisConfig, output: Path, *, seed: int = 0, overwrite: bool = False, progress: bool = True
) -> Reanalysis:
    r"""Draws observations from a dataset, samples a reanalysis, scores it, and writes all that.

    Beside the zarr store `output` there will be `output` with suffix `.csv` (the scores) and `.png` (the figure).

    Arguments:
        config: What to reanalyse.
        output: The zarr store to write.
        seed: What all that is random depends on.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If the configuration, the data or the model don't fit together, or the output exists.
    """
    refuse_existing(output, overwrite=overwrite)
    appa = Appa.from_pretrained(config.model)
    truth, times = _truth(config, appa)
    generator = torch.Generator().manual_seed(seed)
    observations = observe(
        config.networks, truth, times, appa.catalogue, appa.grid, generator=generator, missing=config.missing
    )
    members = reanalyse(
        appa,
        observations,
        times,
        members=config.members,
        sampler=config.sampler,
        seed=seed,
        progress=progress,
    )
    dataset = appa.dataset(members, times).assign_attrs(
        title="Ensemble reanalysis by a latent diffusion model",
        Conventions="CF-1.11",
        source=f"appa-prob {metadata.version('appa-prob')}, model {config.model}",
        history=f"{np.datetime64('now')}Z appa-prob reanalyse --seed {seed}",
        seed=seed,
        config=config.model_dump_json(),
        observations=len(observations.values),
        masked_observations=observations.masked,
    )
    report = report_scores(
        appa, members, truth, times, observations, baselines=config.baselines, progress=progress
    )
    with replacing(output, overwrite=overwrite) as temporary:
        dataset.to_zarr(temporary, mode="w", encoding=_encoding(dataset))
    report.save(output.with_suffix(".csv"))
    if config.figure is not None:
        _draw(config.figure, dataset, appa, truth, times, observations, output.with_suffix(".png"))
    return Reanalysis(dataset, report)


def _truth(config: ReanalysisConfig, appa: Appa) -> tuple[Tensor, NDArray[np.datetime64]]:
    sample = Path(str(resources.files("appa_prob") / "data" / "sample.zarr"))
    dataset = open_dataset(sample if config.data == Path("sample") else config.data)
    appa.grid.check(dataset.latitude.values, dataset.longitude.values)
    appa.catalogue.check(dataset)
    dataset = select_period(dataset, config.start, None)
    if dataset.sizes["time"] < config.states:
        last = np.datetime_as_string(dataset.time.values[-1], unit="m")
        raise UserError(
            f"expected {config.states} states from {config.start} on, got {dataset.sizes['time']}: "
            f"the dataset ends at {last}; take an earlier start or fewer states"
        )
    dataset = dataset.isel(time=slice(config.states))
    return read_states(dataset, appa.catalogue, allow_missing=config.missing == "mask")


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, object]]:
    shape = {name: dataset[name].shape for name in dataset.data_vars}
    return {str(name): {"dtype": "float32", "chunks": (1, *size[1:])} for name, size in shape.items()}


def _draw(
    config: FigureConfig,
    dataset: xr.Dataset,
    appa: Appa,
    truth: Tensor,
    times: NDArray[np.datetime64],
    observations: Observations,
    path: Path,
) -> None:
    levels = appa.catalogue.levels(config.variable)
    level = (levels[0] if config.level is None else config.level) if levels else None
    channel = appa.catalogue.index(config.variable, level)
    state = len(times) // 2 if config.state is None else config.state
    if not -len(times) <= state < len(times):
        raise UserError(f"figure.state: expected an index of one of {len(times)} states, got {state}")
    actual = appa.dataset(truth.unsqueeze(0), times).isel(member=0)

    def select(source: xr.Dataset) -> xr.DataArray:
        field = source[config.variable].isel(time=state)
        return field if level is None else field.sel(level=level)

    here = (observations.channel == channel) & (observations.time == state % len(times))
    points = (observations.latitude[here], observations.longitude[here], observations.values.numpy()[here])
    draw_reanalysis(select(dataset), select(actual), points, path)
