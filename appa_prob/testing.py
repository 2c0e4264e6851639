"""What tests of your own operators, denoisers and integrators can use.

``check_operator`` runs the suite that every operator of this package passes, in one line, and
``check_sampler`` that of integrators and methods of guidance; random expressions with dense twins
come from hypothesis strategies, which need the extra ``testing``.

Example:
    >>> import torch
    >>> from appa_prob.operators import Mask
    >>> from appa_prob.testing import check_operator
    >>> check_operator(Mask(torch.tensor([True, False, True])))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appa_prob.operators.testing import check_operator
from appa_prob.samplers.testing import check_sampler

if TYPE_CHECKING:
    from appa_prob.operators.strategies import Leaf, Twin, covariances, expressions

__all__ = ["Leaf", "Twin", "check_operator", "check_sampler", "covariances", "expressions"]


def __getattr__(name: str) -> Any:
    """Imports the strategies when they are asked for: hypothesis is for tests only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from appa_prob.operators import strategies

    return getattr(strategies, name)
