"""Expressions of operators are simplified, and keep the matrices that they stand for."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Adjoint,
    BlockDiagonal,
    Composition,
    Dense,
    Diagonal,
    Gather,
    Identity,
    Isotropic,
    Mask,
    Scaled,
    Scaling,
    Stack,
    Sum,
    WeightedGather,
)

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def test_identities_vanish_from_products() -> None:
    A = Dense(noise(2, 3))
    assert A @ Identity(3) is A
    assert Identity(2) @ A is A
    assert (A @ Identity(3)).T.operator is A


def test_a_vanished_identity_leaves_its_type() -> None:
    A = Mask(torch.tensor([True, False]))
    assert A.dtype == torch.float32
    assert (A @ Identity(2, dtype=F64)).to_dense().dtype == F64


def test_scalings_merge_and_move_to_the_front() -> None:
    A = Dense(noise(2, 3))
    B = (2.0 * A) @ Scaling(3.0, 3)
    assert isinstance(B, Scaled) and B.operator is A and B.scale == 6.0
    C = Scaling(3.0, 3) @ Scaling(2.0, 3)
    assert isinstance(C, Scaling) and C.scale == 6.0


def test_diagonals_merge_in_products_and_sums() -> None:
    a, b = noise(3), noise(3)
    product, total = Diagonal(a) @ Diagonal(b), Diagonal(a) + Diagonal(b)
    assert isinstance(product, Diagonal) and torch.equal(product.entries, a * b)
    assert isinstance(total, Diagonal) and torch.equal(total.entries, a + b)
    shifted = Diagonal(a) + Identity(3)
    assert isinstance(shifted, Diagonal) and torch.equal(shifted.entries, a + 1)
    multiple = -2.0 * Diagonal(a)
    assert isinstance(multiple, Diagonal)


def test_isotropic_covariances_sum_to_one() -> None:
    total = Isotropic(1.0, 3) + Isotropic(2.0, 3)
    assert isinstance(total, Isotropic) and total.scale == 3.0


def test_selections_compose() -> None:
    mask = torch.tensor([True, False, True, True])
    A = Gather(torch.tensor([2, 0]), 3) @ Mask(mask)
    assert isinstance(A, Gather) and A.indices.tolist() == [3, 0]
    weights = noise(2, 2)
    B = WeightedGather(torch.tensor([[0, 1], [2, 2]]), weights, 3) @ Mask(mask)
    assert isinstance(B, WeightedGather) and B.indices.tolist() == [[0, 2], [3, 3]]


def test_a_mask_undoes_its_adjoint() -> None:
    A = Mask(torch.tensor([True, False, True]))
    assert isinstance(A @ A.T, Identity)
    assert not isinstance(A.T @ A, Identity)


def test_a_mask_does_not_undo_its_multiples() -> None:
    A = Mask(torch.tensor([True, True]))
    B = Composition(A, Scaled(2.0, A))
    assert torch.equal((Identity(2) @ B).to_dense(), 2 * torch.eye(2))


def test_block_diagonals_compose_block_by_block() -> None:
    A = BlockDiagonal([Diagonal(noise(2)), Dense(noise(1, 2))])
    B = BlockDiagonal([Diagonal(noise(2)), Dense(noise(2, 3))])
    product = A @ B
    assert isinstance(product, BlockDiagonal)
    assert isinstance(product.blocks[0], Diagonal)
    assert torch.allclose(product.to_dense(), A.to_dense() @ B.to_dense())


def test_an_operator_added_to_itself_is_doubled() -> None:
    A = Dense(noise(2, 2))
    total = A + A
    assert isinstance(total, Scaled) and total.operator is A and total.scale == 2.0


def test_transposes_go_to_the_factors_in_reverse() -> None:
    A, B = Dense(noise(2, 3)), Dense(noise(3, 4))
    C = (A @ B).T
    assert isinstance(C, Composition)
    first, second = C.factors
    assert isinstance(first, Adjoint) and first.operator is B
    assert isinstance(second, Adjoint) and second.operator is A
    assert A.T.T is A
    symmetric = Dense(torch.eye(2), symmetric=True)
    assert symmetric.T is symmetric


def test_symmetry_is_proven_by_structure_only() -> None:
    H, V = Dense(noise(2, 3)), Dense(torch.eye(3, dtype=F64), symmetric=True)
    assert (H @ V @ H.T).symmetric
    assert (H @ V @ H.T + Identity(2)).symmetric
    assert not (H @ V @ Dense(noise(3, 2))).symmetric
    assert not (H @ Dense(noise(3, 3)) @ H.T).symmetric


def test_the_representation_prints_the_tree() -> None:
    A, d = Dense(noise(2, 3)), Diagonal(noise(3))
    assert repr(A @ d) == "Dense((3,) -> (2,)) @ Diagonal((3,))"
    assert repr(-2.0 * A @ (Dense(noise(3, 3)) + d)) == (
        "-2 * Dense((3,) -> (2,)) @ (Dense((3,)) + Diagonal((3,)))"
    )
    assert repr(A.T) == "Dense((3,) -> (2,)).T"
    assert repr(Stack([A, d])) == "Stack([Dense((3,) -> (2,)), Diagonal((3,))])"


def test_shapes_and_types_that_do_not_meet_are_refused() -> None:
    A = Dense(noise(2, 3))
    with pytest.raises(ValueError, match="right factor is applied first"):
        A @ A
    with pytest.raises(ValueError, match="terms of one shape"):
        A + Dense(noise(3, 2))
    with pytest.raises(TypeError, match="one floating type"):
        A @ Dense(torch.ones(3, 3))
    with pytest.raises(TypeError, match="one floating type"):
        Stack([A, Identity(3, dtype=torch.float32)])
    with pytest.raises(ValueError, match="batches that broadcast"):
        Sum(Dense(noise(2, 3, 3)), Dense(noise(4, 3, 3)))
