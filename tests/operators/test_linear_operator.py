"""The test classes of `linear_operator` itself, run over the operators here.

What doesn't apply is listed in `EXCLUDED`, with the reason.
"""

import unittest
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    BlockDiagonal,
    Coarsen,
    Concatenate,
    Dense,
    Diagonal,
    Eigenbasis,
    Fields,
    Gather,
    Identity,
    InnovationCovariance,
    Interpolate,
    Isotropic,
    Kronecker,
    LowRankPlusDiagonal,
    Mask,
    Operator,
    PseudoInverse,
    Scaling,
    Stack,
    WeightedGather,
    Zero,
)
from tests.operators.registered_cases import CASES

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # scripts functions on import
    from linear_operator.test import linear_operator_test_case as cases

noise = torch.randn


def positive(*shape: int) -> Tensor:
    return torch.rand(shape) + 0.5


def factored(n: int, *batch: int) -> Operator:
    """A covariance with one tensor for both triangles, so that gradients have one meaning."""
    F = Dense(noise(*batch, n, n))
    covariance: Operator = F @ F.T + Diagonal(positive(n))
    return covariance


def interpolation() -> Operator:
    rows, columns = torch.tensor([60.0, 0.0, -60.0]), torch.arange(4) * 90.0
    return Interpolate(
        rows, columns, torch.tensor([10.0, -70.0, 80.0]), torch.tensor([5.0, 100.0, 350.0])
    )


def registered(name: str) -> Operator:
    """An operator of the contract, in single precision as theirs are, if it can be."""
    operator, _ = CASES[name](torch.Generator().manual_seed(0))
    return operator if name in DOUBLE else operator.to(torch.float32)


Make = Callable[[], Operator]
RECTANGULAR: dict[str, Make] = {
    "Dense": lambda: Dense(noise(4, 6), (2, 3)),
    "BatchedDense": lambda: Dense(noise(2, 4, 5)),
    "Adjoint": lambda: Dense(noise(4, 6), (2, 3)).T,
    "Composition": lambda: Dense(noise(3, 4)) @ Diagonal(noise(4)) @ Dense(noise(4, 5)),
    "Sum": lambda: (
        Dense(noise(3, 4)) + WeightedGather(torch.zeros(3, 2, dtype=torch.long), noise(3, 2), 4)
    ),
    "Scaled": lambda: 2.0 * Dense(noise(3, 4)),
    "Stack": lambda: Stack([Dense(noise(2, 4)), Diagonal(noise(4))]),
    "Concatenate": lambda: Concatenate([Dense(noise(3, 4)), Mask(torch.arange(5) > 1)]),
    "Kronecker": lambda: Kronecker([Dense(noise(2, 3)), Dense(noise(2, 2))]),
    "WeightedGather": lambda: WeightedGather(
        torch.tensor([[0, 4], [1, 2], [3, 3]]), noise(3, 2), 5
    ),
    "Coarsen": lambda: Coarsen(2, (4, 6), positive(4, 6)),
    "Interpolate": interpolation,
    "PseudoInverse": lambda: PseudoInverse(Dense(noise(3, 5))),
}
# Their matrices hold no tensor that gradients could be asked for.
CONSTANT: dict[str, Make] = {
    "Mask": lambda: Mask(torch.tensor([[True, False, True], [False, True, True]])),
    "Gather": lambda: Gather(torch.tensor([[0, 4], [1, 1]]), 5),
    "Restrict": lambda: Fields({"a": (2, 2), "b": 3})["b"],
    "Zero": lambda: Zero(4, 3),
    "Identity": lambda: Identity((2, 2)),
}
SYMMETRIC: dict[str, Make] = {
    "Scaling": lambda: Scaling(torch.tensor(2.0), (2, 2)),
    "Isotropic": lambda: Isotropic(positive(2), 4),
    "Diagonal": lambda: Diagonal(positive(5)),
    "SymmetricDense": lambda: Dense(factored(4).to_dense(), symmetric=True),
    "Covariance": lambda: factored(4),
    "BatchedCovariance": lambda: factored(4, 2),
    "LowRankPlusDiagonal": lambda: LowRankPlusDiagonal(noise(2, 5), positive(5)),
    "Eigenbasis": lambda: Eigenbasis(
        Dense(torch.linalg.qr(noise(5, 2)).Q), positive(2), positive()
    ),
    "InnovationCovariance": lambda: InnovationCovariance(
        Dense(noise(3, 4)), Diagonal(positive(4)), Isotropic(positive(), 3)
    ),
    "BlockDiagonal": lambda: BlockDiagonal([factored(3), Isotropic(positive(), 2)]),
    "SymmetricKronecker": lambda: Kronecker([factored(2), factored(3)]),
    "Power": lambda: factored(3) ** 2,
    "Inverse": lambda: factored(4).inverse(),
}

# All operators of the contract; gradients are those of test_parameters.py. Those of functions at a
# point in double precision are not for other types.
DOUBLE = ("linear_function", "jacobian", "batched_jacobian", "tweedie")
REGISTERED = [name for name in CASES if name not in DOUBLE]

FIELDS = "solve takes fields, and no second argument"
ONE_TRIANGLE = "the gradient of a matrix declared symmetric is that of its products from the right"
SMALL = "their indices want a matrix of three rows and columns"
CHECKED = "gradients by parameters are checked in test_parameters.py, in double precision"
CONSTANTS = "the matrix holds no tensor to differentiate"
FUNCTIONS = "the matrix hangs from a function and a point, neither of them a tensor of its own"
LANCZOS = "from one vector Lanczos finds one eigenvector for each distinct eigenvalue"
ORTHONORMAL = (
    "inverses by structure are those of an orthonormal basis, and so are their derivatives"
)

FROM_THE_LEFT = ("rmatmul_vec", "rmatmul_matrix", "rmatmul_matrix_broadcast")
GRADIENTS = (
    *FROM_THE_LEFT,
    "matmul_vec",
    "matmul_matrix",
    "matmul_matrix_broadcast",
    "matmul_diag_matrix",
)
INDEXED = ("getitem", "getitem_tensor_index", "getitem_broadcasted_tensor_index")
SOLVES = ("solve_vector", "solve_matrix", "solve_matrix_broadcast")
WITH_LEFT = ("solve_matrix_with_left", "solve_vector_with_left", "solve_vector_with_left_cholesky")
REPEATED = ("diagonalization", "root_decomposition", "sqrt_inv_matmul", "sqrt_inv_matmul_no_lhs")
EXCLUDED: dict[str, dict[str, str]] = {
    **{name: dict.fromkeys(GRADIENTS, CONSTANTS) for name in CONSTANT},
    **{name: dict.fromkeys(GRADIENTS, CHECKED) for name in REGISTERED},
    **{name: dict.fromkeys(GRADIENTS, FUNCTIONS) for name in DOUBLE if name != "tweedie"},
    **{
        name: dict.fromkeys(GRADIENTS, CHECKED) | dict.fromkeys(INDEXED, SMALL)
        for name in ("scalar_event", "masked_everything", "function_pair", "composition")
    },
    **{
        name: dict.fromkeys(REPEATED, LANCZOS)
        for name in ("Scaling", "Isotropic", "BlockDiagonal")
    },
    "SymmetricDense": dict.fromkeys(
        ("rmatmul_vec", "rmatmul_matrix", "rmatmul_matrix_broadcast"), ONE_TRIANGLE
    ),
    "Eigenbasis": dict.fromkeys(REPEATED, LANCZOS)
    | dict.fromkeys((*SOLVES, "solve_matrix_cholesky"), ORTHONORMAL),
    "InnovationCovariance": {"half": "half is the first half of a product"},
}


def without_cg(base: Any, test: str) -> Callable[..., None]:
    """A test of theirs that expects a solve by the operator itself, not by `linear_cg`."""

    def run(self: Any, **options: bool) -> None:
        with patch.object(type(self), "should_call_cg", False):
            getattr(base, test)(self, **options)

    return run


class InDouble(unittest.TestCase):
    """Their tests, with fields in double precision."""

    def setUp(self) -> None:
        torch.set_default_dtype(torch.float64)
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        torch.set_default_dtype(torch.float32)


def case_of(name: str, make: Make, *bases: Any) -> Any:
    """The tests of `linear_operator` for one operator."""
    space: dict[str, Any] = {
        "seed": 0,
        "create_linear_op": lambda self: make(),
        "evaluate_linear_op": lambda self, operator: operator.to_dense(),
        "should_test_sample": True,
        **{
            f"test_{test}": without_cg(bases[0], f"test_{test}")
            for test in SOLVES
            if hasattr(bases[0], f"test_{test}")
        },
    }
    for test, reason in {**dict.fromkeys(WITH_LEFT, FIELDS), **EXCLUDED.get(name, {})}.items():
        space[f"test_{test}"] = unittest.skip(reason)(lambda self: None)
    cls = type(f"Test{name}", (*reversed(bases), unittest.TestCase), space)
    return pytest.mark.filterwarnings("ignore")(cls)  # theirs, such as on scripting


for name, make in {**RECTANGULAR, **CONSTANT}.items():
    globals()[f"Test{name}"] = case_of(name, make, cases.RectangularLinearOperatorTestCase)
for name, make in SYMMETRIC.items():
    globals()[f"Test{name}"] = case_of(name, make, cases.LinearOperatorTestCase)
for name in REGISTERED:
    globals()[f"Test{name}"] = case_of(
        name, partial(registered, name), cases.RectangularLinearOperatorTestCase
    )
for name in DOUBLE:
    globals()[f"Test{name}"] = case_of(
        name, partial(registered, name), cases.RectangularLinearOperatorTestCase, InDouble
    )
