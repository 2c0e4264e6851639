"""Bayesian inverse problems with diffusion priors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conditioning import condition
    from .diffusion_prior import DiffusionPrior

__version__ = "0.1.0"

__all__ = ["DiffusionPrior", "condition"]


def __getattr__(name: str) -> Any:
    """Imports what needs Pyro when it is asked for, so that the package stays light."""
    if name == "DiffusionPrior":
        from .diffusion_prior import DiffusionPrior

        return DiffusionPrior
    if name == "condition":
        from .conditioning import condition

        return condition
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
