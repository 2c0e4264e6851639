"""The autoencoder, the transformer and the denoiser agree with the published ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from appa_prob.conv_autoencoder import ConvAutoencoder
from appa_prob.published_parts import build_autoencoder, build_network, to_cells, to_fields
from appa_prob.samplers import EDMSchedule, denoising_loss
from appa_prob.saturation import SATURATIONS, saturate
from appa_prob.vision_transformer import VisionTransformer

if TYPE_CHECKING:
    from tests.conformance.conftest import Fixtures

SCHEDULE = EDMSchedule(0.0, 1e3, rho=1.0)  # whose time is the noise level, over 1000


@pytest.mark.parametrize("name", ["cae_a", "cae_b", "cae_c"])
def test_autoencoder(published: Fixtures, name: str, dtype: torch.dtype) -> None:
    io = published(f"{name}.io")
    module = published.autoencoder(name, dtype)
    x = to_fields(io["x"].to(dtype), module.state_shape[1:])
    io.check(to_cells(module.encode(x)), "z")
    suffix = "_f64" if dtype == torch.float64 else ""
    z = io["z" + suffix]
    io.check(to_cells(module.decode(to_fields(z, module.latent_shape[1:]))), "x_rec")
    if dtype == torch.float32:
        io.check(module.pad(x[:1]), "x_padded", absolute=0.0)
        assert list(module.latent_shape) == [io.info["latent_shape"][i] for i in (2, 0, 1)]


@pytest.mark.parametrize("name", ["cae_a", "cae_b", "cae_c"])
def test_stages_of_the_autoencoder(published: Fixtures, name: str) -> None:
    io = published(f"{name}.io")
    module = published.autoencoder(name, torch.float32)
    assert isinstance(module, ConvAutoencoder)
    found: dict[str, torch.Tensor] = {}
    for side, stages in (("enc", module.encoder.descent), ("dec", module.decoder.ascent)):
        for i, stage in enumerate(stages):
            stage.register_forward_hook(
                lambda _, __, y, key=f"{side}_stage{i}": found.update({key: y[:1]})
            )
    module.encode(to_fields(io["x"], module.state_shape[1:]))
    module.decode(to_fields(io["z"], module.latent_shape[1:]))
    keys = [key for key in io.tensors if "_stage" in key]
    assert len(keys) > 3
    for key in keys:
        io.check(found[key], key)


def test_noise_of_latents_is_added_by_who_asks_for_it(published: Fixtures) -> None:
    # The published decoder adds it by itself, also when it evaluates.
    io, module = published("cae_b.io"), published.autoencoder("cae_b", torch.float32)
    z = io["z"] + io.info["config"]["noise_level"] * io["latent_noise"]
    io.check(to_cells(module.decode(to_fields(z, module.latent_shape[1:]))), "x_rec_noisy")


@pytest.mark.parametrize("name", SATURATIONS)
@pytest.mark.parametrize("bound", [5.0, 1.5])
def test_saturation(published: Fixtures, name: str, bound: float) -> None:
    fixture = published("saturate")
    fixture.check(saturate(fixture["x"], name, bound), f"{name}_{bound}")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vidit_p211", "vidit_p111", "vidit_win"])
def test_transformer(published: Fixtures, name: str, dtype: torch.dtype) -> None:
    io = published(f"{name}.io")
    d = published.denoiser(name, dtype)
    x, date = published.windows(io["x"].to(dtype), d.event_shape), io["date"]
    features = published.features(date, dtype)
    # The network is told a quarter of the logarithm of the noise, the published one ten of them.
    io.check(published.flat(d.network(x, io["t"].to(dtype) / 40, date=features)), "y")
    if dtype == torch.float32:
        y = d.network(x, io["t_scalar"] / 40, date=features)
        io.check(published.flat(y), "y_t_scalar")


@pytest.mark.parametrize("name", ["vidit_p211", "vidit_p111", "vidit_win"])
def test_inside_of_the_transformer(published: Fixtures, name: str) -> None:
    io, d = published(f"{name}.io"), published.denoiser(name, torch.float32)
    network = d.network
    assert isinstance(network, VisionTransformer)
    found: dict[str, torch.Tensor] = {}

    def keep(key: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, __, y: found.update({key: y}))

    keep("tokens_in", network.in_proj)
    keep("pos_emb", network.positional_embedding)
    keep("mod", network.diffusion_time_encoder)
    keep("block0_msa_out", network.blocks[0].msa)  # type: ignore[arg-type]
    for i in range(2):
        keep(f"block{i}_out", network.blocks[i])
    features = published.features(io["date"], torch.float32)
    network(published.windows(io["x"], d.event_shape), io["t"] / 40, date=features)
    found["tokens_in"] = found["tokens_in"].reshape(2, *network.tokens, -1)
    for key, value in found.items():
        io.check(value, key)
    io.check(network.coordinates, "coo", absolute=0.0)
    io.check(torch.cat((features[..., :2].flatten(1), features[..., 2:].flatten(1)), 1), "cond")
    if "mask" in io.tensors:
        assert network.mask is not None
        assert torch.equal(network.mask, io["mask"].bool())


def test_denoiser(published: Fixtures, dtype: torch.dtype) -> None:
    fixture, d = published("denoiser"), published.denoiser("vidit_p211", dtype)
    d.schedule = d.prior.schedule = SCHEDULE
    x, eps = (published.windows(fixture[k].to(dtype), d.event_shape) for k in ("x0", "eps"))
    features = published.features(fixture["date"], dtype)

    def denoise(sigma: torch.Tensor) -> torch.Tensor:
        t = sigma.to(dtype) / 1e3
        scale = 1e3 * t.reshape(-1, 1, 1, 1, 1)
        return published.flat(d(x + scale * eps, t, date=features))

    for i, sigma in enumerate(fixture["sigmas"]):
        fixture.check(denoise(sigma), f"d_{i}")
    if dtype == torch.float32:
        fixture.check(denoise(fixture["sigma_mixed"].squeeze(-1)), "d_mixed")
        fixture.check(denoise(torch.tensor(1.7)), "d_shape0")
        for penalty in (0.0, 0.01):
            loss = denoising_loss(
                d,
                x,
                fixture["sigma_mixed"].squeeze(-1) / 1e3,
                eps,
                weighting=lambda _, sigma, p=penalty: (sigma + p) ** -2 + 1,  # type: ignore[misc]
                date=features,
            )
            fixture.check(loss.reshape(1), f"loss_pen{penalty}")


@pytest.mark.parametrize(
    "name", ["cae_f32_in71", "cae_f32_in191", "cae_f64_in71", "cae_f64_in191"]
)
def test_full_size_autoencoders(published: Fixtures, name: str) -> None:
    counts = json.loads((published.full_size / "parameter_counts.json").read_text())
    counts = counts["autoencoders"][name]
    with torch.device("meta"):
        module = build_autoencoder(counts["config"] | {"in_channels": counts["in_channels"]})
    assert sum(p.numel() for p in module.parameters()) == counts["parameters"]
    assert sum(p.numel() for p in module.encoder.parameters()) == counts["encoder"]
    channels, rows, columns = module.latent_shape
    assert [rows, columns, channels] == counts["latent_shape_hwc"]
    assert module.compression == pytest.approx(counts["compression"], abs=0.01)
    keys = published.full_size / f"{name}.keys.json"
    if keys.exists():
        shapes = {k: v for k, v in module.state_dict().items() if not k.startswith("latent_")}
        assert _described(shapes) == json.loads(keys.read_text())


@pytest.mark.parametrize("name", ["vit_large_on_cae_f32", "vit_large_on_cae_f64"])
def test_full_size_denoisers(published: Fixtures, name: str) -> None:
    every = json.loads((published.full_size / "parameter_counts.json").read_text())
    counts = every["denoisers"][name]
    rows, columns, channels = every["autoencoders"][f"{name[-7:]}_in71"]["latent_shape_hwc"]
    with torch.device("meta"):
        backbone = counts["config"] | {"blanket_size": counts["blanket_size"]}
        network = build_network(backbone, channels, (rows, columns))
    assert sum(p.numel() for p in network.parameters()) == counts["parameters"]
    expected = json.loads((published.full_size / f"{name}.keys.json").read_text())
    assert _described(network.state_dict()) == expected


def _described(tensors: dict[str, torch.Tensor]) -> dict[str, list[object]]:
    return {k: [str(v.dtype).split(".")[-1], list(v.shape)] for k, v in tensors.items()}
