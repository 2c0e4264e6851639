"""The base class of ``linear_operator``, imported without the warnings of its own making."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it scripts functions when imported
    from linear_operator import LinearOperator

__all__ = ["LinearOperator"]
