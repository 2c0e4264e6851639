"""Both stages of training on two ranks, with data that workers read, give what one rank gives.

Run as a script, this file trains both: `python test_train_ranks.py STORE FOLDER OPTIONS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from appa_prob.files import load_tensors
from appa_prob.parallel import process_group
from appa_prob.train_autoencoder import AutoencoderConfig, train_autoencoder
from appa_prob.train_denoiser import DenoiserConfig, train_denoiser

Start = Callable[[int, list[str]], list[subprocess.Popen[bytes]]]


def train(store: Path, folder: Path, **options: Any) -> None:
    torch.set_num_threads(1)
    common = {
        "data": f"file://{store}",
        "train": {"stop": "2003-06-30"},
        "validation": {"start": "2003-07-01"},
    }
    training = {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "validate_every": 2,
        "warmup": 2,
    }
    first = AutoencoderConfig.model_validate(
        {
            **common,
            "cache": False,
            "harmonics": 0,
            "latent_channels": 3,
            "widths": [8, 8],
            "blocks": [1, 1],
            "training": training | options,
        }
    )
    train_autoencoder(first, folder / "autoencoder", progress=False)
    second = DenoiserConfig.model_validate(
        {
            **common,
            "autoencoder": folder / "autoencoder",
            "window": 3,
            "width": 8,
            "depth": 1,
            "heads": 2,
            "training": training | options | {"optimizer": "muon"},
        }
    )
    train_denoiser(second, folder / "denoiser", progress=False)


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in lines]


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank trains."""
    folder = tmp_path_factory.mktemp("alone")
    train(world, folder)
    return folder


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"strategy": "fsdp", "recompute": True}])
def test_two_ranks_train_both_stages_as_one_does(
    world: Path, alone: Path, tmp_path: Path, ranks: Start, options: dict[str, Any]
) -> None:
    command = [sys.executable, __file__, str(world), str(tmp_path), json.dumps(options)]
    assert [process.wait(300) for process in ranks(2, command)] == [0, 0]
    for stage in ("autoencoder", "denoiser"):
        one, two = (losses(folder / stage) for folder in (alone, tmp_path))
        assert len(one) == 3
        for a, b in zip(one, two, strict=True):
            assert a == pytest.approx(b, rel=2e-4)
    for name in ("autoencoder", "statistics"):
        file = f"autoencoder/{name}.safetensors"
        first, second = (load_tensors(folder / file)[0] for folder in (alone, tmp_path))
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    with process_group():
        train(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
