"""Published folders: what is read of them, what is refused, and the conversion."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob.appa import Appa
from appa_prob.blocks import BlocksConfig
from appa_prob.cli import app
from appa_prob.errors import UserError
from appa_prob.observe import observe
from appa_prob.published_parts import (
    build_autoencoder,
    build_network,
    read_published_config,
    read_published_weights,
)
from appa_prob.reanalysis import SamplerConfig
from appa_prob.reanalysis_blocks import reanalyse
from appa_prob.station_network import StationNetwork
from appa_prob.vision_transformer import VisionTransformer

AE: dict[str, Any] = {
    "name": "cae_f2c3",
    "shape": [9, 16],
    "resize": 2,
    "in_channels": 4,
    "lat_channels": 3,
    "hid_channels": [4, 6],
    "hid_blocks": [1, 1],
    "noise_level": 0.5,
}
BACKBONE = {
    "arch": "vit",
    "mod_features": 8,
    "hid_channels": 8,
    "hid_blocks": 1,
    "attention_heads": 2,
    "blanket_size": 4,
}
TRAIN = {"noise_schedule": "rectified", "sigma_min": 1e-3, "sigma_max": 1e3, "blanket_dt": 6}
LAP = Path("autoencoders/a/0/latents/z/denoisers/d/0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder of tiny random models, whose latents are there and their moments not."""
    lap = tmp_path / "published" / LAP
    lap.mkdir(parents=True)
    dump = lap.parents[2]
    (dump / "ae").mkdir()
    text = "!!python/object/apply:pathlib.PosixPath [/, data]"
    (dump / "ae" / "config.yaml").write_text(f"{yaml.safe_dump({'ae': AE})}path: {text}\n")
    autoencoder = build_autoencoder(AE)
    weights = {k: v for k, v in autoencoder.state_dict().items() if not k.startswith("latent_")}
    torch.save(weights, dump / "ae" / "model.pth")
    rows, columns = autoencoder.latent_shape[1:]
    network = build_network(BACKBONE, 3, (rows, columns))
    torch.nn.init.normal_(network.out_proj.weight)
    torch.save(network.state_dict(), lap / "model_best.pth")
    (lap / "config.yaml").write_text(yaml.safe_dump({"backbone": BACKBONE, "train": TRAIN}))
    rng = np.random.default_rng(0)
    latents = 2.0 + 3.0 * rng.standard_normal((30, rows * columns, 3)).astype(np.float32)
    dates = np.tile(np.array([2020, 2, 29, 0], dtype=np.int32), (30, 1))
    variables = {"latents": (("n", "cell", "channel"), latents), "dates": (("n", "part"), dates)}
    xr.Dataset(variables).to_netcdf(dump / "era5.h5", engine="h5netcdf")
    return tmp_path / "published"


def test_the_model_is_made_of_the_folder(folder: Path) -> None:
    appa = Appa.from_published(folder)
    assert appa.window == 4 and appa.step == np.timedelta64(6, "h")
    assert appa.catalogue.variables == ("channel_0", "channel_1", "channel_2", "channel_3")
    assert appa.grid.latitude[0] == 90.0 and appa.grid.shape == (9, 16)
    # Latents have mean 2 and deviation 3, and the noise that the denoiser saw comes on top.
    std = appa.autoencoder.latent_std.flatten()
    torch.testing.assert_close(std, torch.full((3,), np.hypot(3.0, 0.5)).float(), rtol=0.1, atol=0)
    times = np.datetime64("2020-02-29") + 6 * np.arange(6).astype("timedelta64[h]")
    d = appa.trajectory_denoiser(times)
    z = d(torch.randn(2, 6, *appa.autoencoder.latent_shape), torch.tensor(0.5))
    assert appa.decode(z).shape == (2, 6, 4, 9, 16)


def test_moments_of_latents_are_those_of_the_dump(folder: Path) -> None:
    dump = folder / LAP.parents[2]
    before = Appa.from_published(folder).autoencoder
    latents = torch.as_tensor(xr.load_dataset(dump / "era5.h5", engine="h5netcdf").latents.values)
    moments = {"mean": latents.mean((0, 1)), "std": latents.std((0, 1), correction=0)}
    torch.save(moments, dump / "stats.pth")
    after = Appa.from_published(folder).autoencoder
    torch.testing.assert_close(before.latent_mean, after.latent_mean)
    torch.testing.assert_close(before.latent_std, after.latent_std)


@pytest.mark.parametrize(("states", "blocks"), [(4, None), (12, {"states": 5, "overlap": 1})])
def test_states_are_assimilated_by_it(
    folder: Path, states: int, blocks: dict[str, int] | None
) -> None:
    """Any task takes a published model, in blocks as well. One whose network gives nothing knows
    latents to be white: stations that see everything pin its states down.
    """
    appa = Appa.from_published(folder)
    assert isinstance(appa.denoiser.network, VisionTransformer)
    for parameter in appa.denoiser.network.out_proj.parameters():
        parameter.zero_()
    times = np.datetime64("2020-02-29") + 6 * np.arange(states).astype("timedelta64[h]")
    truth = appa.decode(torch.randn(states, *appa.autoencoder.latent_shape))
    names = appa.catalogue.variables
    declared = {"network": "stations", "variables": names, "error": dict.fromkeys(names, 0.01)}
    network = StationNetwork.model_validate(declared)
    generator = torch.Generator().manual_seed(0)
    seen = observe([network], truth, times, appa.catalogue, appa.grid, generator=generator)
    sampler = SamplerConfig(steps=8)
    parts = None if blocks is None else BlocksConfig(**blocks)
    members = reanalyse(appa, seen, times, members=2, sampler=sampler, blocks=parts)
    free = appa.decode(torch.randn(2, states, *appa.autoencoder.latent_shape))
    assert members.shape == (2, states, 4, 9, 16)
    assert (members - truth).square().mean() < 0.1 * (free - truth).square().mean()


def test_conversion(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    arguments = ["convert", str(folder), "-o", str(output)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert sorted(p.name for p in output.iterdir()) == ["appa.json", "weights.safetensors"]
    first, second = Appa.from_published(folder), Appa.from_pretrained(output)
    c, date = torch.zeros(()), torch.randn(4, 4)
    x = torch.randn(2, 4, *first.autoencoder.latent_shape)
    found, expected = (m.denoiser.network(x, c, date=date) for m in (second, first))
    assert torch.equal(found, expected) and found.abs().max() > 0
    assert second.provenance["autoencoder"]["path"] == "/data"
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists" in again.output
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0


def test_info_of_a_folder(folder: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(folder)])
    assert result.exit_code == 0, result.output
    appa = Appa.from_published(folder)
    for module in (appa.autoencoder, appa.denoiser.network):
        assert f"{sum(p.numel() for p in module.parameters()):,} parameters" in result.output


def test_a_conversion_that_fails_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / LAP / "model_best.pth").write_bytes(b"broken")
    result = CliRunner().invoke(app, ["convert", str(folder), "-o", str(tmp_path / "model")])
    assert result.exit_code == 2 and "can't be read as tensors" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["published"]


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "run")


def test_nothing_of_a_file_is_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    config = folder / "config.yaml"
    config.write_text(f"a: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    with pytest.raises(UserError, match="not plain YAML"):
        read_published_config(config)
    weights = folder / "weights.pth"
    torch.save({"a": Evil(mark)}, weights, pickle_module=pickle)
    with pytest.raises(UserError, match="can't be read as tensors"):
        read_published_weights(weights)
    torch.save({"a": "text"}, weights)
    with pytest.raises(UserError, match="it holds something else"):
        read_published_weights(weights)
    assert not mark.exists()


def test_the_copy_stands_in_for_broken_weights(folder: Path) -> None:
    path = folder / LAP / "model_best.pth"
    expected = read_published_weights(path)
    path.with_name("model_best.prev.pth").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    found = read_published_weights(path)
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gae_ico7"}, "expected a convolutional one"),
        ({"resize": 4}, "make the grid 2 times coarser, resize says 4"),
        ({"hid_blocks": [1]}, "as many blocks as widths"),
        ({"saturation": "clip"}, "saturation"),
        ({"patch_size": [1, 2]}, "square patch"),
    ],
)
def test_other_autoencoders_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_autoencoder(AE | change)


def test_other_denoisers_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="expected a vit"):
        build_network(BACKBONE | {"arch": "graph"}, 3, (6, 10))
    with pytest.raises(UserError, match="multiple of 6, twice the heads"):
        build_network(BACKBONE | {"attention_heads": 3}, 3, (6, 10))
    with pytest.raises(UserError, match="window that patches tile"):
        build_network(BACKBONE | {"patch_size": [3, 1, 1]}, 3, (6, 10))
    other = folder / LAP.parents[0] / "1"
    other.mkdir()
    (other / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"holds 2 denoisers: give one of .*d/0"):
        Appa.from_published(folder)
    assert Appa.from_published(folder / LAP).window == 4
    with pytest.raises(UserError, match="holds no published denoiser"):
        Appa.from_published(folder / LAP.parts[0] / "a" / "0" / "latents" / "z" / "ae")
