r"""The command line, `appa-prob`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from .cli_options import (
    Config,
    Overwrite,
    Quiet,
    Seed,
    Store,
    Threads,
    start_ranks,
    use_threads,
)
from .cli_train import train
from .config_file import read_config
from .errors import UserError

__all__ = ["app", "main", "read_config"]


class Group(TyperGroup):
    r"""Commands that end with code 2 on bad input and with code 130 on an interrupt."""

    def invoke(self, ctx: Any) -> Any:
        r"""Runs the command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: nothing was written but checkpoints", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Group,
    help="Bayesian inverse problems with diffusion priors; Appa, an ensemble weather reanalysis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(train, name="train")


@app.command()
def encode(
    config: Config,
    output: Store,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Encode a dataset once, to train denoisers on; goes on where it was killed."""
    from .latents import EncodeConfig, encode_dataset
    from .parallel import process_group

    use_threads(threads)
    job = read_config(EncodeConfig, config)
    with process_group() as device:
        encode_dataset(job, output, overwrite=overwrite, progress=not quiet, device=device)


@app.command()
def convert(
    directory: Annotated[Path, typer.Argument(help="The folder of a published model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the model to write.")
    ],
    which: Annotated[
        Literal["best", "last"], typer.Option(help="The weights with the best score, or the last.")
    ] = "best",
    statistics: Annotated[
        Path | None, typer.Option(help="The zarr store of the statistics of states.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the model if it exists.")] = False,
) -> None:
    """Convert a published model, pickles of tensors and YAML, to safetensors and JSON."""
    from .appa import Appa
    from .files import refuse_existing

    refuse_existing(output, overwrite=overwrite)
    Appa.from_published(directory, which, statistics).save(output, overwrite=overwrite)


@app.command()
def info(
    config: Annotated[
        str,
        typer.Argument(
            help="A name (appa-f32, appa-f64, appa-1b), a YAML file, or a published folder.",
            metavar="CONFIG",
        ),
    ],
    iterations: Annotated[int, typer.Option(min=1, help="The iterations of MMPS.")] = 3,
) -> None:
    """Print the parameters, the latents and the costs of each task of a model, without weights."""
    from .info import describe
    from .model_config import read_model_config

    typer.echo(describe(read_model_config(config), iterations))


@app.command()
def excerpt(
    data: Annotated[Path, typer.Argument(help="The dataset.")],
    start: Annotated[str, typer.Option(help="The first time.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The zarr store to write.")],
    states: Annotated[int, typer.Option(min=1, help="The number of states.")] = 24,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = False,
) -> None:
    """Write some states of a dataset to a small zarr store."""
    from .excerpt import write_excerpt

    write_excerpt(data, start, states, output, overwrite=overwrite)


@app.command()
def reanalyse(
    config: Config,
    output: Annotated[Path, typer.Option("--output", "-o", help="The zarr store to write.")],
    seed: Annotated[int, typer.Option(help="What all that is random depends on.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Sample an ensemble reanalysis of the weather from sparse, noisy observations."""
    from .experiment import ReanalysisConfig, run_reanalysis

    job = read_config(ReanalysisConfig, config)
    with start_ranks(threads):
        result = run_reanalysis(job, output, seed=seed, overwrite=overwrite, progress=not quiet)
    if result is not None:
        count = result.dataset.attrs["observations"]
        typer.echo(result.report or f"{count} observations; no truth to score against")


@app.command()
def sample(
    config: Config,
    output: Store,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Sample weather that never was: trajectories of any length; goes on where it was killed."""
    from .sample import SampleConfig, run_sample

    run = read_config(SampleConfig, config)
    with start_ranks(threads):
        run_sample(run, output, seed=seed, overwrite=overwrite, progress=not quiet)


@app.command("filter")
def filter_states(
    config: Config,
    output: Store,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Filter the present state in cycles of observations; goes on where it was killed."""
    from .filtering import FilterConfig, run_filter

    run = read_config(FilterConfig, config)
    with start_ranks(threads):
        run_filter(run, output, seed=seed, overwrite=overwrite, progress=not quiet)


@app.command()
def forecast(
    config: Config,
    output: Store,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Forecast from full states or from observations; goes on where it was killed."""
    from .forecast import ForecastConfig, run_forecast

    run = read_config(ForecastConfig, config)
    with start_ranks(threads):
        run_forecast(run, output, seed=seed, overwrite=overwrite, progress=not quiet)


@app.command()
def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Zarr stores or netCDF files, or NAME=PATH; those of one name are one method.",
            metavar="RUN...",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of tables and figures to write.")
    ],
    truth: Annotated[
        Path, typer.Option(help="The truth; `sample` is the dataset that ships with the package.")
    ] = Path("sample"),
    model: Annotated[
        str | None,
        typer.Option(help="The model of the climatology; by default that of the first run."),
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="A region; may be repeated. By default the globe.")
    ] = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="A variable; may be repeated. By default all.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="The level of the figures; by default the middle one.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Every how many times are scored.")] = 1,
    eofs: Annotated[
        Path | None,
        typer.Option(help="EOFs of optimal interpolation; by default those shipped."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Score runs and baselines against a truth, and draw the figures of it."""
    from .dataset import open_dataset, shipped_sample
    from .evaluation import evaluate
    from .regions import select_regions
    from .runs import open_run

    use_threads(threads)
    parts = [run.rpartition("=") for run in runs]
    result = evaluate(
        [open_run(Path(path), name or None) for name, _, path in parts],
        open_dataset(shipped_sample(truth)),
        model=model,
        regions=select_regions(region or ["globe"]),
        variables=tuple(variable) if variable else None,
        every=every,
        eofs=eofs,
        progress=not quiet,
    )
    result.save(output, level=level, overwrite=overwrite)
    typer.echo(result)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A reanalysis or a forecast.", metavar="RUN")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The image to write.")],
    variable: Annotated[str, typer.Option(help="The variable.")],
    level: Annotated[float | None, typer.Option(help="The level; by default the first.")] = None,
    time: Annotated[
        str | None, typer.Option(help="The time (of the start); by default the first.")
    ] = None,
    lead: Annotated[
        int | None, typer.Option(help="The index of the lead time; by default the last.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="The truth, to be shown as well, or `sample`."),
    ] = None,
    members: Annotated[int, typer.Option(min=0, help="The number of members to show.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Replace the image if it exists.")] = False,
) -> None:
    """Draw maps of a run: its mean, spread and members, beside the truth."""
    from .dataset import open_dataset, shipped_sample
    from .files import refuse_existing
    from .maps import plot_run
    from .runs import open_run

    refuse_existing(output, overwrite=overwrite)
    plot_run(
        open_run(run),
        output,
        variable=variable,
        level=level,
        time=time,
        lead=lead,
        truth=None if truth is None else open_dataset(shipped_sample(truth)),
        members=members,
    )


@app.command()
def network(
    config: Config,
    figure: Annotated[Path | None, typer.Option(help="The image of a map to write.")] = None,
    state: Annotated[int, typer.Option(help="The index of the time of the map.")] = 0,
    reports: Annotated[
        Path | None, typer.Option(help="The CSV or parquet file of the observations to write.")
    ] = None,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
) -> None:
    """Count what the networks of a reanalysis observe, draw a map of them, write the values."""
    from .appa import Appa
    from .experiment import ReanalysisConfig, load_truth
    from .files import refuse_existing
    from .network_figure import count_observations, draw_networks
    from .observe import observe_truth
    from .reports import write_reports

    for path in (figure, reports):
        if path is not None:
            refuse_existing(path, overwrite=overwrite)
    settings = read_config(ReanalysisConfig, config)
    appa = Appa.from_pretrained(settings.model)
    truth, times = load_truth(settings, appa)
    if not -len(times) <= state < len(times):
        raise UserError(f"expected a state from 0 to {len(times) - 1}, got {state}")
    parts = [part.locate(times, appa.grid, appa.catalogue) for part in settings.networks]
    table = count_observations(parts, len(times))
    typer.echo(table.to_string(index=False, float_format=lambda x: f"{x:g}", na_rep=""))
    typer.echo(f"{table['a time'].sum():.0f} observations a time, {len(times)} times")
    if figure is not None:
        draw_networks(parts, list(times), state % len(times), figure)
    if reports is not None:
        drawn = observe_truth(appa, settings.networks, truth, times, seed, settings.missing)
        write_reports(drawn, appa.catalogue, appa.grid, times, reports, overwrite=overwrite)


def main() -> None:
    r"""Runs the command line."""
    app()
