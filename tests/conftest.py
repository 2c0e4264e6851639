"""What all tests share: one seed, one thread, and every device that there is."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

import appa_prob

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


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn: the CPU, and CUDA where there is one."""
    return torch.device(request.param)


@pytest.fixture
def generator(device: torch.device) -> torch.Generator:
    """A seeded generator on the device."""
    return torch.Generator(device).manual_seed(0)


def launch(count: int, command: list[str]) -> list[subprocess.Popen[bytes]]:
    """Starts the ranks of a command as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(appa_prob.__file__).parents[1]),
    }
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | shared | {"RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def ranks() -> Callable[[int, list[str]], list[subprocess.Popen[bytes]]]:
    """Starts the ranks of a command: `ranks(count, command)`."""
    return launch
