"""Reanalyses in blocks: the law of a smoother with a fixed lag, and runs that go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from appa_prob import experiment as experiment_module
from appa_prob.appa import Appa
from appa_prob.blocks import BlocksConfig
from appa_prob.errors import UserError
from appa_prob.experiment import ReanalysisConfig, run_reanalysis
from appa_prob.grid import Grid
from appa_prob.observations import Observations
from appa_prob.operators import WeightedGather
from appa_prob.reanalysis import SamplerConfig
from appa_prob.reanalysis_blocks import reanalyse
from appa_prob.reconstruction_error import ReconstructionError
from appa_prob.samplers import GaussianDenoiser, VESchedule
from appa_prob.statistics import Statistics
from appa_prob.stream import StateStore
from appa_prob.trajectory_prior import TrajectoryCovariance

Config = dict[str, Any]
STATE, SIZE, WINDOW, LENGTH = (1, 2, 4), 8, 5, 12
SCHEDULE = VESchedule(1e-3, 1e2)
ERROR, KNOWN = 0.3, 0.02  # of observations, and of known latents


@given(
    window=st.integers(2, 12),
    length=st.integers(1, 300),
    overlap=st.integers(1, 12),
    lookahead=st.integers(0, 20),
    more=st.integers(0, 30),
)
def test_blocks_give_each_state_once(
    window: int, length: int, overlap: int, lookahead: int, more: int
) -> None:
    appa = cast(Appa, SimpleNamespace(window=window))
    size = max(window, overlap + lookahead + 1) + more
    blocks = BlocksConfig(states=size, overlap=overlap, lookahead=lookahead)
    if overlap >= window:
        with pytest.raises(UserError, match="fewer known states"):
            blocks.spans(appa, length)
        return
    spans = blocks.spans(appa, length)
    assert [i for span in spans for i in span.given] == list(range(length))
    assert spans[0].known == 0 and spans[-1].stop == length
    for number, span in enumerate(spans):
        assert span.number == number
        assert span.known == (overlap if number else 0)
        assert len(span.given) > 0
        assert min(window, length) <= span.stop - span.start < size + window
        assert span.stop == length or span.stop - span.new == lookahead


def autoregression(window: int) -> TrajectoryCovariance:
    """Waves that travel and decay, each of which depends on the state before alone."""
    modes = torch.tensor([[0.8, 0.4], [0.7, 0.5], [0.6, 0.3]], dtype=torch.float64)
    turn = torch.tensor([[0.0, 0.0], [0.9, -0.4], [0.0, 0.0]], dtype=torch.float64)
    variance = torch.tensor([[1.0, 0.5], [0.8, 0.6], [0.4, 0.3]], dtype=torch.float64)
    lags = (torch.polar(modes, turn)[..., None] ** torch.arange(window)) * variance[..., None]
    space = torch.eye(2, dtype=torch.complex128).expand(3, 2, 2).clone()
    return TrajectoryCovariance(space, lags, torch.Size(STATE))


def exact_model() -> Appa:
    """A model whose latents are its states and whose denoiser is exact."""

    def denoiser(length: int) -> GaussianDenoiser:
        mean = torch.zeros(length, *STATE)
        return GaussianDenoiser(mean, autoregression(length).to(torch.float32), SCHEDULE)

    grid = Grid(np.array([30.0, -30.0]), np.array([0.0, 90.0, 180.0, 270.0]))
    law = ReconstructionError.independent(torch.full((1, 1, 1), 1e-4), grid)
    shapes = SimpleNamespace(latent_shape=torch.Size(STATE), state_shape=torch.Size(STATE))
    return cast(
        Appa,
        SimpleNamespace(
            window=WINDOW,
            autoencoder=shapes,
            decode=lambda z, precision=None: z,
            trajectory_denoiser=lambda times, *options: denoiser(len(times)),
            denoiser=SimpleNamespace(prior=denoiser(WINDOW), schedule=SCHEDULE),
            error=law.deviation,
            reconstruction=law,
            statistics=Statistics(torch.zeros(1, *STATE), torch.ones(1)),
        ),
    )


def observed() -> Observations:
    """Two points of each state."""
    g = torch.Generator().manual_seed(0)
    place = torch.stack([torch.randperm(SIZE, generator=g)[:2] for _ in range(LENGTH)])
    state = np.repeat(np.arange(LENGTH), 2)
    indices = (place + SIZE * torch.arange(LENGTH)[:, None]).reshape(-1, 1)
    H = WeightedGather(indices, torch.ones(indices.shape), (LENGTH, *STATE))
    n = len(indices)
    y = 1.5 * torch.randn(n, generator=g)
    where = np.zeros(n)
    channel = np.zeros(n, np.int64)
    errors = torch.full((n,), ERROR)
    return Observations(H, y, errors, state, channel, where, where, torch.zeros(n))


def posterior(V: Tensor, A: Tensor, y: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + torch.diag(R))
    return gain @ y, V - gain @ A @ V


def fixed_lag(blocks: BlocksConfig, seen: Observations) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of trajectories, block after block, by dense matrices."""
    mean = torch.zeros(LENGTH * SIZE).double()
    covariance = torch.zeros(LENGTH * SIZE, LENGTH * SIZE).double()
    for span in blocks.spans(exact_model(), LENGTH):
        V = autoregression(span.stop - span.start).to_dense()
        own = seen.within(span.start, span.stop)
        own = own.select(own.time >= span.known)
        known = span.known * SIZE
        A = torch.cat((own.operator.to_dense().double(), torch.eye(len(V)).double()[:known]))
        R = torch.cat((own.errors.square().double(), torch.full((known,), KNOWN**2).double()))
        values = torch.cat((own.values.double(), torch.zeros(known).double()))
        m, C = posterior(V, A, values, R)
        units = torch.cat((torch.zeros(len(own), known).double(), torch.eye(known).double()))
        old = slice(span.start * SIZE, span.start * SIZE + known)
        new = slice(span.given.start * SIZE, span.new * SIZE)
        here = slice(known, (span.new - span.start) * SIZE)
        map = torch.stack([posterior(V, A, u, R)[0] for u in units.mT], 1)[here] if known else None
        mean[new] = m[here] if map is None else m[here] + map @ mean[old]
        covariance[new, new] = C[here, here]
        if map is not None:
            covariance[new] += map @ covariance[old]
            covariance[:, new] = covariance[new].mT
            covariance[new, new] += map @ covariance[old, old] @ map.mT
    return mean, covariance


def test_trajectories_have_the_law_of_a_smoother_with_a_fixed_lag() -> None:
    """Means and covariances of 400 members against dense matrices: within 5 standard errors and
    what 40 steps leave, 2% of the deviation. Looking two states ahead costs little."""
    blocks = BlocksConfig(states=WINDOW, overlap=1, lookahead=2, error=KNOWN)
    seen, members = observed(), 400
    mean, covariance = fixed_lag(blocks, seen)
    sampler = SamplerConfig(steps=40, sigma_max=50.0, sigma_min=1e-3, iterations=12)
    times = np.datetime64("2004-01-01T00", "ns") + np.arange(LENGTH) * np.timedelta64(6, "h")
    x = reanalyse(
        exact_model(), seen, times, members=members, sampler=sampler, blocks=blocks
    ).flatten(1)
    deviation = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < (5 / members**0.5 + 0.02) * deviation).all()
    found = torch.cov(x.mT) / deviation / deviation[:, None]
    exact = covariance / deviation / deviation[:, None]
    near = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs() <= 1
    near = near.repeat_interleave(SIZE, 0).repeat_interleave(SIZE, 1)
    assert ((found - exact).abs()[near] < 5 * (2 / members) ** 0.5 + 0.02).all()
    whole = posterior(
        autoregression(LENGTH).to_dense(),
        seen.operator.to_dense().double(),
        seen.values.double(),
        seen.errors.square().double(),
    )
    ahead = ((mean - whole[0]) / whole[1].diagonal().sqrt()).square().mean().sqrt()
    assert 0.0 < ahead < 0.15


LONG = {
    "states": 20,
    "figure": None,
    "blocks": {"states": 8, "overlap": 2, "lookahead": 2},
    "sampler": {"steps": 3, "iterations": 1, "batch": 2},
}


def test_a_run_in_blocks_goes_on_bit_for_bit(
    tmp_path: Path, experiment: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after each batch of members of each block."""
    config = ReanalysisConfig.model_validate(experiment | LONG)
    written = list[tuple[int, ...]]()

    class Failing(StateStore):
        def append_members(self, numbers: Sequence[int], *arguments: Any) -> None:
            before = self.done
            super().append_members(numbers, *arguments)
            written.append((before, *numbers))
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment_module, "StateStore", Failing)
    for _ in range(8):
        with pytest.raises(KeyboardInterrupt):
            run_reanalysis(config, tmp_path / "out.zarr", progress=False)
    assert written == [(done, *m) for done in (0, 6, 10, 14) for m in ((0, 1), (2,))]
    found = run_reanalysis(config, tmp_path / "out.zarr", progress=False)
    monkeypatch.undo()
    whole = run_reanalysis(config, tmp_path / "whole.zarr", progress=False)
    assert found is not None and whole is not None
    xr.testing.assert_identical(found.dataset.load(), whole.dataset.load())
    assert np.isfinite(found.dataset.to_array()).all()
    held = run_reanalysis(config, progress=False)
    assert held is not None
    xr.testing.assert_equal(held.dataset, whole.dataset)
    assert str(held.report) == str(whole.report)
    kept = {p.name for p in tmp_path.iterdir()}
    assert kept == {"out.zarr", "out.csv", "whole.zarr", "whole.csv"}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"states": 3}, "blocks.states: expected at least 5, the window of the model and more"),
        ({"states": 8, "lookahead": 6}, "blocks.states: expected at least 9"),
        ({"overlap": 4}, "expected fewer known states than the 4 of a window"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(
    blocks: Config, message: str, tmp_path: Path, experiment: Config
) -> None:
    config = ReanalysisConfig.model_validate(experiment | LONG | {"blocks": blocks})
    with pytest.raises(UserError, match=message):
        run_reanalysis(config, tmp_path / "out.zarr", progress=False)
    assert not list(tmp_path.iterdir())
