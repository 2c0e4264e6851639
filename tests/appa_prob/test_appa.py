"""The model that ships with the package, and models that are saved and loaded."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from appa_prob.appa import Appa
from appa_prob.dataset import open_dataset, read_states
from appa_prob.errors import UserError

SHIPPED = Path(str(resources.files("appa_prob")))


@pytest.fixture(scope="module")
def appa() -> Appa:
    return Appa.from_pretrained("appa-small")


def states(appa: Appa) -> tuple[torch.Tensor, np.ndarray]:
    x, times = read_states(open_dataset(SHIPPED / "data" / "sample.zarr"), appa.catalogue)
    return appa.statistics.standardise(x, times), times


def test_what_ships_is_small() -> None:
    weights = sum(f.stat().st_size for f in (SHIPPED / "weights").rglob("*") if f.is_file())
    data = sum(f.stat().st_size for f in (SHIPPED / "data").rglob("*") if f.is_file())
    assert weights <= 12e6
    assert data <= 4e6


def test_the_autoencoder_compresses_twelve_times_to_fifteen_percent(appa: Appa) -> None:
    assert appa.autoencoder.compression >= 12
    x, _ = states(appa)
    with torch.no_grad():
        error = (appa.autoencoder(x)[0] - x).square().mean((0, 2, 3))
    # Relative to the anomalies from the seasonal cycle, which vary less than the climate.
    for variable in appa.catalogue.variables:
        index = [i for i, c in enumerate(appa.catalogue.channels) if c.variable == variable]
        anomalies = x[:, index].square().mean()
        assert float((error[index].mean() / anomalies).sqrt()) < 0.25, variable


def test_the_denoiser_beats_its_gaussian_prior(appa: Appa) -> None:
    x, times = states(appa)
    with torch.no_grad():
        z = appa.autoencoder.encode(x)
        t = appa.denoiser.schedule.time(torch.tensor(1.0))
        z_t = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        network = (appa.trajectory_denoiser(times)(z_t, t) - z).square().mean()
        windows = torch.stack((z_t[:12], z_t[12:]))
        gaussian = (appa.denoiser.prior(windows, t) - torch.stack((z[:12], z[12:]))).square()
    assert network < 0.97 * gaussian.mean()


def test_mixed_precision_changes_little(appa: Appa) -> None:
    x, times = states(appa)
    with torch.no_grad():
        z = appa.autoencoder.encode(x[:12])
        full, mixed = appa.decode(z), appa.decode(z, torch.bfloat16)
        assert mixed.dtype == torch.float32
        assert float((full - mixed).square().mean().sqrt()) < 0.02
        t = appa.denoiser.schedule.time(torch.tensor(0.5))
        one = appa.trajectory_denoiser(times[:12])(z, t)
        two = appa.trajectory_denoiser(times[:12], precision=torch.bfloat16)(z, t)
    assert float((one - two).square().mean().sqrt()) < 0.02


def test_models_survive_being_saved(tiny_model: Path, tmp_path: Path) -> None:
    first = Appa.from_pretrained(tiny_model)
    first.save(tmp_path / "copy")
    second = Appa.from_pretrained(tmp_path / "copy")
    assert second.catalogue == first.catalogue and second.step == first.step
    z = torch.randn(5, 4, *first.autoencoder.latent_shape)
    torch.testing.assert_close(first.decode(z), second.decode(z), rtol=1e-3, atol=1e-3)
    times = np.datetime64("2003-06-01T00", "ns") + np.arange(4) * first.step
    t = torch.tensor(0.5)
    torch.testing.assert_close(
        first.trajectory_denoiser(times)(z, t),
        second.trajectory_denoiser(times)(z, t),
        rtol=1e-2,
        atol=1e-2,
    )
    with pytest.raises(UserError, match="--overwrite"):
        first.save(tmp_path / "copy")


def test_broken_models_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="appa-small"):
        Appa.from_pretrained("appa-smal")
    Appa.from_pretrained(tiny_model).save(tmp_path / "copy")
    description = tmp_path / "copy" / "appa.json"
    text = json.loads(description.read_text())
    del text["provenance"]["denoiser"]
    description.write_text(json.dumps(text))
    with pytest.raises(UserError, match="does not hold a whole model"):
        Appa.from_pretrained(tmp_path / "copy")
    description.write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        Appa.from_pretrained(tmp_path / "copy")


def test_times_must_suit_the_model(appa: Appa) -> None:
    start = np.datetime64("2004-07-01T00", "ns")
    with pytest.raises(UserError, match="at least 12 states"):
        appa.trajectory_denoiser(start + np.arange(5) * appa.step)
    with pytest.raises(UserError, match="every 6 h"):
        appa.trajectory_denoiser(start + np.arange(24) * np.timedelta64(3, "h"))
