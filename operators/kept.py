"""Values that are computed from an operator when they are first needed, and kept."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from .transforms import transformed
from .tree import tensors

__all__ = ["kept"]

if TYPE_CHECKING:
    kept = cached_property
else:

    class kept(cached_property):
        """As :func:`functools.cached_property`, but that nothing is kept inside ``torch.func``
        transforms and ``torch.compile``, which don't see it, nor the lock of older Pythons; nor by
        operators with parameters that require gradients: an optimiser changes these in place, and
        a graph can be gone through once.

        Example:
            >>> class Sum:
            ...     @kept
            ...     def value(self):
            ...         print("once")
            ...         return 1 + 1
            >>> s = Sum()
            >>> s.value + s.value
            once
            4
        """

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            """The value, computed."""
            if instance is None:
                return self
            value = self.func(instance)
            if not transformed() and not any(a.requires_grad for a in tensors(instance)):
                instance.__dict__[self.attrname] = value
            return value
