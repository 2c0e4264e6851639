"""What the tests and the examples in docstrings share: a seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds the global generator, for what draws without one of its own."""
    torch.manual_seed(0)
