"""Inputs, weights and outputs of the published models, where they are at hand.

They are looked for in the folder that the environment variable APPA_PROB_CONFORMANCE names, or
else in `shared/conformance` beside the checkout; without them, tests are skipped.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from appa_prob.dates import calendar_features, to_times
from appa_prob.published_parts import build_autoencoder, build_denoiser, to_cells, to_fields
from appa_prob.samplers import PreconditionedDenoiser

DEFAULT = Path(__file__).parents[2] / ".." / "shared" / "conformance"
ERRORS: dict[str, dict[torch.dtype, float]] = {}


@dataclass
class Published:
    """One fixture: its tensors and its description."""

    name: str
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any]
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def check(self, found: Tensor, key: str, *, absolute: float | None = None) -> None:
        """Compares with what the published code computed, in the same precision.

        In double precision to 1e-10 of the largest value; in single precision to 1e-5 of it, or of
        1 if that is larger, or else to an absolute tolerance.
        """
        double = found.dtype == torch.float64
        expected = self.tensors[f"{key}_f64" if double else key]
        assert found.shape == expected.shape, (key, found.shape, expected.shape)
        assert found.dtype == expected.dtype
        size = max(float(expected.abs().max()), 1e-300)
        error = float((found - expected).abs().max())
        worst = ERRORS.setdefault(self.name, {})
        worst[found.dtype] = max(worst.get(found.dtype, 0.0), error / size)
        allowed = 1e-10 * size if double else 1e-5 * max(1.0, size)
        allowed = allowed if double or absolute is None else absolute
        assert error <= allowed, (key, error, allowed)


class Fixtures:
    """All fixtures, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "public"
        self.full_size = folder / "full_size"

    def __call__(self, name: str) -> Published:
        path = self.folder / f"{name}.safetensors"
        info = json.loads(path.with_suffix(".json").read_text()) if path.exists() else {}
        weights = info.get("weights")
        return Published(
            name,
            load_file(path),
            info,
            load_file(self.folder / weights) if weights else {},
        )

    def autoencoder(self, name: str, dtype: torch.dtype) -> Any:
        """The autoencoder of that name, with its published weights."""
        fixture = self(f"{name}.weights")
        module = build_autoencoder(fixture.info["config"])
        module.load_state_dict(dict(fixture.tensors) | standard(module), strict=True)
        return module.to(dtype).eval().requires_grad_(False)

    def denoiser(
        self, name: str, dtype: torch.dtype, schedule: str = "rectified"
    ) -> PreconditionedDenoiser:
        """The denoiser with the backbone of that name."""
        fixture = self(f"{name}.weights")
        config = fixture.info["config"]
        noise = {"noise_schedule": schedule, "sigma_min": 1e-3, "sigma_max": 1e3}
        rows, columns = config["shape"]
        module = build_denoiser(
            {"backbone": config, "train": noise}, config["in_channels"], (rows, columns)
        )
        module.network.load_state_dict(dict(fixture.tensors), strict=True)
        return module.to(dtype).eval().requires_grad_(False)

    @staticmethod
    def windows(x: Tensor, shape: Sequence[int]) -> Tensor:
        """Flat published windows (*, T H W C) as fields (*, T, C, H, W)."""
        length, channels, *grid = shape
        return to_fields(x.reshape(*x.shape[:-1], length, -1, channels), grid)

    @staticmethod
    def flat(x: Tensor) -> Tensor:
        """Fields (*, T, C, H, W) as flat published windows (*, T H W C)."""
        return to_cells(x).flatten(-3)

    @staticmethod
    def features(date: Tensor, dtype: torch.dtype) -> Tensor:
        """Published dates (*, T, 4) as features of the network."""
        return (
            calendar_features(to_times(date.flatten(0, -2)).ravel()).reshape(date.shape).to(dtype)
        )


def standard(module: torch.nn.Module) -> dict[str, Tensor]:
    """The mean and the deviation of latents, which published weights lack."""
    return {k: v for k, v in module.state_dict().items() if k.startswith("latent_")}


@pytest.fixture(scope="session")
def published() -> Fixtures:
    """The fixtures; skips where they are not at hand."""
    folder = Path(os.environ.get("APPA_PROB_CONFORMANCE", DEFAULT))
    if not (folder / "public").is_dir():
        pytest.skip("the fixtures of the published models are not at hand")
    return Fixtures(folder)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both precisions."""
    found: torch.dtype = request.param
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the largest errors, if asked for by -v."""
    if ERRORS and terminalreporter.config.get_verbosity() > 0:
        terminalreporter.section("largest relative errors to the published models")
        for name, worst in sorted(ERRORS.items()):
            single, double = (
                f"{worst[d]:.1e}" if d in worst else "-" for d in (torch.float32, torch.float64)
            )
            terminalreporter.write_line(f"{name:24} float32 {single:>8}  float64 {double:>8}")
