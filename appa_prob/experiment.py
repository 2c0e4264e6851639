r"""Reanalyses, of a truth that is known or of observations from files.

In experiments, observations are drawn, with noise, from a dataset that is taken as the truth, so
that the ensemble can be scored, and so can the baselines on the same observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
)
from torch import Tensor

from .appa import Appa
from .blocks import BlocksConfig
from .dataset import Source
from .declaration import parse_networks
from .errors import UserError
from .figure import draw_reanalysis
from .files import refuse_existing
from .mesh import Mesh, ParallelConfig
from .network import Network
from .observer import Observer
from .parallel import own_device, rank, ranks
from .quality import Control
from .reanalysis import SamplerConfig
from .reanalysis_blocks import Blocks
from .report import Report, report_scores
from .run import describe_run
from .stream import StateStore
from .truth import Missing, Truth, open_truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Networks",
    "Reanalysis",
    "ReanalysisConfig",
    "load_truth",
    "run_reanalysis",
]

TITLE = "Ensemble reanalysis by a latent diffusion model"


class BaselineConfig(BaseModel):
    r"""The baselines.

    Attributes:
        eofs: The EOFs of optimal interpolation; by default those that ship with the package.
        every: Every how many states all methods are scored: optimal interpolation takes seconds
            for each.
    """

    model_config = ConfigDict(extra="forbid")

    eofs: Path | None = None
    every: PositiveInt = 1


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


def _parse(value: object) -> object:
    return parse_networks({"networks": value}, Path())


Networks = Annotated[tuple[SerializeAsAny[Network], ...], BeforeValidator(_parse)]


class ReanalysisConfig(BaseModel):
    r"""What to reanalyse.

    Attributes:
        model: The name of a model, or its folder.
        data: The dataset that is the truth; `sample` is the one that ships with the package; null
            if there is none, and observations come from files.
        start: The first time.
        states: The number of states.
        members: The number of members of the ensemble.
        networks: The observing networks, as :mod:`appa_prob.declaration` describes them.
        missing: Whether observations that are not finite are refused, or masked out and counted.
        quality_control: How many standard deviations observations may be off the climatology, or
            `{limit: 5, background: runs/forecast.zarr}` for another background; those that are
            more are left out and counted. None are by default.
        sampler: How to sample.
        blocks: The blocks that a long trajectory is sampled in; null for as a whole.
        parallel: How ranks share the work.
        baselines: The climatology and optimal interpolation in the table of scores; null for
            none.
        figure: What the figure shows, if there shall be one.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "appa-small"
    data: Source | None = Path("sample")
    start: str
    states: PositiveInt = 24
    members: Annotated[int, Field(ge=2)] = 16
    networks: Networks
    missing: Missing = "refuse"
    quality_control: Control | None = None
    sampler: SamplerConfig = SamplerConfig()
    blocks: BlocksConfig | None = BlocksConfig()
    parallel: ParallelConfig = ParallelConfig()
    baselines: BaselineConfig | None = BaselineConfig()
    figure: FigureConfig | None = None


@dataclass(frozen=True, eq=False)
class Reanalysis:
    r"""What :func:`run_reanalysis` found.

    Attributes:
        dataset: The ensemble, in physical units.
        report: The table of scores, if there is a truth.
    """

    dataset: xr.Dataset
    report: Report | None


def run_reanalysis(
    config: ReanalysisConfig,
    output: Path | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Reanalysis | None:
    r"""Draws observations from a dataset, or reads them, samples a reanalysis, scores it, and
    writes all that.

    States are written as they are completed: a block of them after the other, `sampler.batch`
    members at a time. They are scored state by state from what was written. A run that was killed
    goes on with what is left.

    Beside the zarr store `output` there will be `output` with suffix `.csv` (the scores, if there
    is a truth) and `.png` (the figure).

    Arguments:
        config: What to reanalyse.
        output: The zarr store to write. By default it is a temporary one, which is read into
            memory and removed, and no figure is drawn.
        seed: What all that is random depends on.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.

    Returns:
        The ensemble and its scores on the first rank, which writes them; nothing on others.

    Raises:
        UserError: If the configuration, the data or the model don't fit together, the output
            exists, or there is none and several ranks share the work.
    """
    if output is None:
        return _hold(config, seed, progress)
    table, picture = output.with_suffix(".csv"), output.with_suffix(".png")
    scored, drawn = config.data is not None, config.figure is not None
    for path in (output, *([table] if scored else []), *([picture] if drawn else [])):
        refuse_existing(path, overwrite=overwrite)
    appa = Appa.from_pretrained(config.model, own_device())
    mesh = Mesh.of(config.parallel)
    truth, times = open_truth(appa, config.data, config.start, config.states, config.missing)
    view = _View.of(config.figure, appa, times) if config.figure else None
    observations = Observer(
        appa,
        config.networks,
        truth,
        times,
        seed,
        config.missing,
        quality=config.quality_control,
    )
    task = Blocks(
        appa,
        observations,
        times,
        members=config.members,
        sampler=config.sampler,
        blocks=config.blocks,
        seed=seed,
        mesh=mesh,
    )
    # Which says what is wrong with the times.
    appa.trajectory_denoiser(times[: task.spans[0].stop])
    store = StateStore(
        output,
        appa,
        times,
        config.members,
        parts=(appa.window, *[len(span.given) for span in task.spans[:-1]]),
        attributes=describe_run("reanalyse", TITLE, config, seed, appa)
        | observations.counts
        | {"data_digest": observations.digest},
        overwrite=overwrite,
        mesh=mesh,
    )
    for batch in task.batches(
        done=store.done,
        left=store.left,
        memory=store.memory,
        begun=store.begun,
        progress=progress,
    ):
        store.append_members(
            batch.numbers,
            batch.states(),
            batch.own,
            len(batch.span.given),
            batch.memory,
        )
    appa = appa.to("cpu")  # what is left are small computations, with arrays in main memory
    report = None
    if truth is not None:
        baselines = config.baselines
        report = report_scores(
            appa,
            store.open(),
            truth,
            times,
            observations,
            baselines=baselines is not None,
            every=baselines.every if baselines else 1,
            eofs=baselines.eofs if baselines else None,
            progress=progress,
        )

    def record() -> None:
        if report is not None:
            report.save(table)
        if view is not None:
            view.draw(store.open(), appa, truth, times, observations, picture)

    mesh.first(record)
    dataset = store.finish()
    return Reanalysis(dataset, report) if rank() == 0 else None


def _hold(config: ReanalysisConfig, seed: int, progress: bool) -> Reanalysis:
    r"""A reanalysis in memory."""
    if ranks() > 1:
        raise UserError(f"expected an output, which all {ranks()} ranks write to, got none")
    config = config.model_copy(update={"figure": None})
    with TemporaryDirectory() as folder:
        found = run_reanalysis(config, Path(folder) / "out.zarr", seed=seed, progress=progress)
        assert found is not None  # as this is the first rank
        return Reanalysis(found.dataset.load(), found.report)


def load_truth(
    config: ReanalysisConfig, appa: Appa
) -> tuple[Tensor | None, NDArray[np.datetime64]]:
    r"""Reads the states that are the truth, if there is one, with shape :math:`(L, C, H, W)`, and
    their times, as :func:`~appa_prob.truth.open_truth` does.

    Arguments:
        config: What to reanalyse.
        appa: The model, which the data must fit.
    """
    truth, times = open_truth(appa, config.data, config.start, config.states, config.missing)
    return None if truth is None else truth[:], times


@dataclass(frozen=True)
class _View:
    """One channel at one time."""

    variable: str
    level: float | None
    channel: int
    state: int

    @classmethod
    def of(cls, config: FigureConfig, appa: Appa, times: NDArray[np.datetime64]) -> _View:
        levels = appa.catalogue.levels(config.variable)
        level = levels[0] if levels and config.level is None else config.level
        channel = appa.catalogue.index(config.variable, level)
        state = len(times) // 2 if config.state is None else config.state
        if not -len(times) <= state < len(times):
            raise UserError(
                f"figure.state: expected an index of one of {len(times)} states, got {state}"
            )
        exact = appa.catalogue.channels[channel].level
        return cls(config.variable, exact, channel, state % len(times))

    def select(self, source: xr.Dataset, state: int) -> xr.DataArray:
        field = source[self.variable].isel(time=state)
        return field if self.level is None else field.sel(level=self.level)

    def draw(
        self,
        dataset: xr.Dataset,
        appa: Appa,
        truth: Truth | None,
        times: NDArray[np.datetime64],
        observations: Observer,
        path: Path,
    ) -> None:
        own = observations.at(self.state)
        here = own.channel == self.channel
        points = (own.latitude[here], own.longitude[here], own.values.numpy()[here])
        now, actual = slice(self.state, self.state + 1), None
        if truth is not None:
            known = appa.dataset(truth[now].unsqueeze(0), times[now])
            actual = self.select(known.isel(member=0, drop=True), 0)
        draw_reanalysis(self.select(dataset, self.state), actual, points, path)
