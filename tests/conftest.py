"""What all tests share: one seed, one thread, and every device that there is."""

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


# Few examples by default; HYPOTHESIS_PROFILE=long for many, and CI always for the same.
# How fast examples are drawn says more of the machine than of the tests.
COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("short", max_examples=25, derandomize="CI" in os.environ, **COMMON)
settings.register_profile("long", max_examples=1000, **COMMON)


def pytest_configure() -> None:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds the global generator, for what draws without one of its own."""
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn: the CPU, and CUDA where there is one."""
    return torch.device(request.param)


@pytest.fixture
def generator(device: torch.device) -> torch.Generator:
    """A seeded generator on the device."""
    return torch.Generator(device).manual_seed(0)
