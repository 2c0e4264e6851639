"""What holds inside ``torch.func`` transforms and ``torch.compile``."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["holds", "transformed"]


def transformed() -> bool:
    """Whether tensors are being traced or wrapped, by ``torch.compile`` or ``torch.func``, which
    see neither raw memory nor what is done in place, and whose values can't be looked at."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def holds(condition: Tensor) -> bool:
    """Whether a condition holds everywhere. Inside transforms, where nobody can look, it is taken
    to, and what shouldn't be gives what isn't a number."""
    return transformed() or bool(condition.all())
