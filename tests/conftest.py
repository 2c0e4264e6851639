"""What all tests share: one seed, one thread, and every device that there is."""

import os

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure() -> None:
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
