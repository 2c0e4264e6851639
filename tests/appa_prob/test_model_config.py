"""Sizes that ship with the package, their parameters, and what tasks cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from appa_prob.cli import app
from appa_prob.costs import count_parameters, measure, passes, task_costs
from appa_prob.errors import UserError
from appa_prob.model_config import ModelConfig, read_model_config

TINY = {
    "channels": 3,
    "grid": [9, 16],
    "autoencoder": {"latent_channels": 2, "widths": [4, 6], "blocks": [1, 1]},
    "denoiser": {"window": 4, "width": 8, "depth": 2, "heads": 2, "modulation": 6},
}


@pytest.mark.parametrize(
    ("name", "autoencoder", "denoiser", "latent"),
    [
        # The numbers of the release.
        ("appa-f32", 313_174_727, 222_951_552, (64, 23, 47)),
        ("appa-f64", 687_147_911, 223_738_368, (256, 12, 25)),
    ],
)
def test_published_sizes(
    name: str, autoencoder: int, denoiser: int, latent: tuple[int, ...]
) -> None:
    first, second = read_model_config(name).build()
    assert (count_parameters(first), count_parameters(second)) == (autoencoder, denoiser)
    assert first.latent_shape == latent


def test_sizes_of_half_a_billion_and_a_billion() -> None:
    autoencoder, network = read_model_config("appa-1b").build()
    assert autoencoder.state_shape == (71, 721, 1440)
    assert 450e6 <= count_parameters(autoencoder) <= 550e6
    assert 450 <= autoencoder.compression <= 500
    assert network is not None and network.config.window == 24
    assert 900e6 <= count_parameters(network) <= 1100e6


def test_operations_of_the_transformer_are_those_of_its_products() -> None:
    config = ModelConfig.model_validate(TINY)
    _, network = config.build()
    assert network is not None
    tokens, width, depth = len(network.coordinates), 8, 2
    linear = 12 * width**2 * tokens  # attention 4, perceptron 8
    attention = 2 * tokens**2 * width
    modulation = 6 * 6 + 6 * 4 * width
    ends = tokens * width * (network.in_proj.in_features + network.out_proj.out_features)
    places = tokens * 3 * width * width
    expected = 2 * (depth * (linear + attention + modulation) + ends + places)
    costs = task_costs(config)
    assert costs["sample, a window a step"].flops == expected
    # Back through products with weights costs as much again, through attention twice as much.
    once = costs["sample, a window a step"].flops
    assert 2 * once < costs["train denoiser, a window"].flops < 3.01 * once
    more = task_costs(config, iterations=4)["reanalyse, a window a step"]
    assert more.flops > costs["reanalyse, a window a step"].flops


def test_memory_is_that_of_what_is_alive() -> None:
    x = torch.empty(1000, device="meta")

    def chain(x: Tensor) -> Tensor:
        for _ in range(10):
            x = x.sin()
        return x

    found = passes(chain, x)
    # Two at a time without gradients; all of them, and a gradient or two, with.
    assert found.forward.memory == 2 * 4000
    assert 11 * 4000 <= found.kept.memory <= 14 * 4000
    scores = torch.empty(8, 5, device="meta")
    assert measure(lambda: scores @ scores.mT).memory == 4 * 64
    assert measure(lambda: scores @ scores.mT, tokens=8).memory == 0


def test_weights_are_counted_where_they_are_needed() -> None:
    config = ModelConfig.model_validate(TINY)
    autoencoder, network = config.build()
    costs = task_costs(config)
    first, second = 4 * count_parameters(autoencoder), 4 * count_parameters(network)
    assert costs["decode, a state"].memory > first
    assert costs["reanalyse, a window a step"].memory > first + second
    assert costs["train denoiser, a window"].memory > 5 * second


def test_info(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 0, result.output
    for text in ("3 x 9 x 16, 432 values", "2 x 5 x 10", "compression 4.3", "reanalyse, a window"):
        assert text in result.output
    result = CliRunner().invoke(app, ["info", "appa-2b"])
    assert result.exit_code == 2 and 'did you mean "appa-1b"?' in result.output


def test_published_configurations_have_sizes(tmp_path: Path) -> None:
    section = {
        **{"in_channels": 3, "shape": [9, 16], "lat_channels": 2},
        **{"hid_channels": [4, 6], "hid_blocks": [1, 1]},
    }
    path = tmp_path / "config.yaml"
    tag = "path: !!python/object/apply:pathlib.PosixPath [/, a]\n"
    path.write_text(yaml.safe_dump({"ae": section}) + tag)
    assert read_model_config(path) == ModelConfig.model_validate(TINY | {"denoiser": None})
    path.write_text(yaml.safe_dump(TINY | {"channels": 0}))
    with pytest.raises(UserError, match="channels: input should be greater than 0; got 0"):
        read_model_config(path)
