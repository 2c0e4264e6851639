"""A forecast, window by window, agrees with the published script run on published folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from appa_prob.appa import Appa
from appa_prob.dates import calendar_features, to_times
from appa_prob.operators import GMRES, Slice
from appa_prob.published import read_latents
from appa_prob.published_parts import to_fields
from appa_prob.samplers import (
    MMPS,
    GaussianLikelihood,
    PredictorCorrector,
    WindowedDenoiser,
)

if TYPE_CHECKING:
    from tests.conformance.conftest import Fixtures

DUMP = Path("tree/autoencoders/pubae01/0/latents/pubz01")
WINDOW, STEP, OBSERVED = 4, 1, 2


def test_forecast(published: Fixtures) -> None:
    fixture = published("forecast")
    appa = Appa.from_published(published.folder / "tree", "last")
    std = appa.autoencoder.latent_std.flatten()
    torch.testing.assert_close(std, fixture["latent_std_total"])
    variance = (0.1 / std).square()
    torch.testing.assert_close(variance, fixture["cov_z"])

    past, start = WINDOW - STEP, np.datetime64("2021-12-30T12", "h")
    raw = read_latents(published.folder / DUMP / "era5.h5", (6, 12))
    raw = raw.sel(time=slice(start - OBSERVED, start - 1))
    # The published script standardises the first states by the deviation without noise, although
    # denoiser and later states have it with noise, as those of `autoencoder.encode`.
    without = published("tree_io")["stats_std"]
    y = to_fields(torch.as_tensor(raw.values), (6, 12))
    y = (y - appa.autoencoder.latent_mean) / without.reshape(-1, 1, 1)

    sampler = PredictorCorrector(4, corrections=1, delta=0.1, correct_first=True)
    solver = GMRES(rtol=0.0, max_iterations=2, on_failure="ignore")
    noise, first = iter(fixture["noise"]), past - OBSERVED
    states, times = [], []
    for i, z in enumerate(fixture["z1"]):
        window = start - past + i * STEP + np.arange(WINDOW)
        prior = WindowedDenoiser(
            appa.denoiser,
            length=WINDOW,
            stride=WINDOW,
            context={"date": calendar_features(window).float()},
        )
        event = prior.event_shape
        H = Slice(event, (first, 0, 0, 0), (past, *event[1:]))
        R = variance.reshape(-1, 1, 1).expand(H.out_shape)
        guided = MMPS(prior, GaussianLikelihood(H, y, R), solver, bounded=False)
        x_1 = 1e3 * published.windows(z, event)
        with torch.no_grad():
            *_, last = sampler.run(
                guided,
                sampler.init(guided, x_1),
                lambda x: published.windows(next(noise), x.shape[1:]),
            )
        found = last.x_t[0]
        kept = slice(first if i == 0 else past, WINDOW)
        states.append(found[kept])
        times.append(window[kept])
        y = found[first:][-past:]
        first = max(0, first - STEP)
    trajectory = torch.cat(states).unsqueeze(0)
    fixture.check(published.flat(trajectory).reshape(1, 7, 72, 4), "trajectory", absolute=3e-4)
    assert (to_times(fixture["timestamps"][0]) == np.concatenate(times)).all()
