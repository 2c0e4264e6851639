"""The published folders are read, and converted, as the published loaders read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr

from appa_prob.appa import Appa
from appa_prob.catalogue import Catalogue, Channel
from appa_prob.dates import to_times
from appa_prob.era5 import era5_catalogue, read_era5_statistics
from appa_prob.published import read_latents
from appa_prob.published_parts import read_published_weights, to_cells, to_fields
from appa_prob.samplers import EDMSchedule

if TYPE_CHECKING:
    from appa_prob.published import Which
    from tests.conformance.conftest import Fixtures

DUMP = Path("autoencoders/pubae01/0/latents/pubz01")


@pytest.mark.parametrize("which", ["best", "last"])
def test_published_folders(published: Fixtures, which: Which, tmp_path: Path) -> None:
    fixture = published("tree_io")
    appa = Appa.from_published(published.folder / "tree", which)
    weights = read_published_weights(
        published.folder / f"tree/{DUMP.parents[1]}/model_{which}.pth"
    )
    raw = published.autoencoder("cae_a", torch.float32)
    raw.load_state_dict(weights, strict=False)
    z = raw.encode(to_fields(fixture["x"], (21, 40)))
    fixture.check(to_cells(z), f"z_{which}")
    # No noise is added to latents, although the configuration has a level for training.
    fixture.check(to_cells(raw.decode(z)), f"x_rec_{which}")

    appa.save(tmp_path / "model")
    for model in (appa, Appa.from_pretrained(tmp_path / "model")):
        d = model.denoiser
        assert model.window == 4 and model.step == np.timedelta64(1, "h")
        sigma = fixture["sigma"]
        d.schedule = d.prior.schedule = EDMSchedule(0.0, 1e3, rho=1.0)
        date = published.features(fixture["date"], torch.float32)
        x = published.windows(fixture["blanket"], d.event_shape)
        fixture.check(published.flat(d(x, sigma / 1e3, date=date)), f"denoised_{which}")
        total = (fixture["stats_std"].square() + 0.1**2).sqrt()
        torch.testing.assert_close(model.autoencoder.latent_std.flatten(), total)
        torch.testing.assert_close(model.autoencoder.latent_mean.flatten(), fixture["stats_mean"])
    (found, expected) = (m.autoencoder.state_dict() for m in (model, appa))
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_dumps_of_latents(published: Fixtures) -> None:
    fixture = published("tree_io")
    latents = read_latents(published.folder / "tree" / DUMP / "era5.h5", (6, 12))
    period = latents.sel(time=slice("2021-12-29T02", "2021-12-31T20"))
    mean, std = fixture["stats_mean"].numpy(), fixture["stats_std"].numpy()
    for key, step, shift, scale in (
        ("raw", 1, 0.0, 1.0),
        ("std", 1, mean, std),
        ("stride2", 2, mean, std),
    ):
        window = period[5 : 5 + 4 * step : step]
        assert (to_times(fixture[f"ds_{key}_5_date"]) == window.time.values).all()
        assert len(period.time) - 3 * step == fixture[f"ds_{key}_len"]
        fixture.check(torch.as_tensor(((window - shift) / scale).values), f"ds_{key}_5")
    noisy = period[5:9].values + 0.1 * fixture["ds_noisy_std_noise"].numpy()
    noisy = (noisy - mean) / np.sqrt(std**2 + 0.1**2)
    fixture.check(torch.as_tensor(noisy.astype(np.float32)), "ds_noisy_std_5")


def stacked(data: xr.Dataset, catalogue: Catalogue) -> torch.Tensor:
    """The channels of a dataset, (L, C, H, W)."""
    arrays = [
        data[c.variable] if c.level is None else data[c.variable].sel(level=c.level)
        for c in catalogue.channels
    ]
    return torch.as_tensor(np.stack([a.values for a in arrays], axis=1))


def test_states_of_era5(published: Fixtures) -> None:
    fixture = published("era5_dataset")
    catalogue = era5_catalogue((500, 850))
    named = [f"{c.variable}@{c.level:g}" if c.level else c.variable for c in catalogue.channels]
    assert named == fixture.info["channel_order"]
    # What the published convolutional models are given beside a state, and ignore.
    context = Catalogue(tuple(Channel(name, None, "1") for name in fixture.info["context_order"]))
    with xr.open_zarr(published.folder / "data/era5.zarr") as store:
        data = store.load()
    times = data.time.values
    assert len(times) == fixture["len"][0]
    assert to_times(fixture["time_2"])[0] == times[2]
    assert (to_times(fixture["time_raw_1"]) == times[1:4:2]).all()
    for kind, channels in (("state", catalogue), ("context", context)):
        statistics = read_era5_statistics(published.folder / "data/stats_era5.zarr", channels)
        mean, std = statistics.coefficients.flatten(), statistics.scale
        torch.testing.assert_close(mean, fixture[f"{kind}_mean"].flatten())
        torch.testing.assert_close(std, fixture[f"{kind}_std"].flatten())
        states = stacked(data, channels)
        raw = fixture[f"{kind}_raw_1"]
        torch.testing.assert_close(states[1:4:2], raw, equal_nan=True, rtol=0.0, atol=0.0)
        state = statistics.standardise(states[2:3], times[2:3])
        fixture.check(state, f"{kind}_2")
        if kind == "state":
            fixture.check(statistics.restore(state, times[2:3]), "state_2_unstandardised")
