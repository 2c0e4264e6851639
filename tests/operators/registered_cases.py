"""All operators with their dense twins, by name."""

from tests.operators import cases_combinators, cases_covariances, cases_grids, cases_leaves
from tests.operators.cases import CASES

__all__ = ["CASES", "cases_combinators", "cases_covariances", "cases_grids", "cases_leaves"]
