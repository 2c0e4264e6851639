"""Expressions of operators are simplified, and keep the matrices that they stand for."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
    Operator,
    Scaled,
    Scaling,
    Stack,
    Sum,
    WeightedGather,
)

F64 = torch.float64
Case = tuple[Operator, Tensor]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def leaf(draw: st.DrawFn, rows: int, columns: int, batch: tuple[int, ...]) -> Case:
    """An elementary operator with its matrix, perhaps a batch of them."""
    square = ["identity", "scaling", "isotropic", "diagonal"] if rows == columns else []
    kind = draw(st.sampled_from(["dense", "gather", "weighted", *square]))
    here = batch if draw(st.booleans()) else ()
    eye = torch.eye(columns, dtype=F64)
    if kind == "dense":
        M = noise(*here, rows, columns)
        return Dense(M), M
    if kind == "gather":
        indices = torch.randint(columns, (rows,))
        return Gather(indices, columns).to(F64), eye[indices]
    if kind == "weighted":
        indices, weights = torch.randint(columns, (rows, 2)), noise(rows, 2)
        return WeightedGather(indices, weights, columns), (weights[..., None] * eye[indices]).sum(
            1
        )
    if kind == "identity":
        return Identity(columns, dtype=F64), eye
    if kind == "diagonal":
        d = noise(*here, columns)
        return Diagonal(d, event_ndim=1), torch.diag_embed(d)
    c = noise(*here).square() + 0.1
    make = Scaling if kind == "scaling" else Isotropic
    return make(c, columns), c[..., None, None] * eye


def tree(draw: st.DrawFn, rows: int, columns: int, depth: int, batch: tuple[int, ...]) -> Case:
    """A random expression with its matrix."""
    if depth == 0:
        return leaf(draw, rows, columns, batch)
    kinds = ["compose", "add", "subtract", "same", "scale", "batched scale", "transpose", "leaf"]
    kinds += ["stack"] if rows > 1 else []
    kinds += ["blocks"] if min(rows, columns) > 1 else []
    kind = draw(st.sampled_from(kinds))
    if kind == "leaf":
        return leaf(draw, rows, columns, batch)
    if kind == "compose":
        inner = draw(st.integers(1, 4))
        A, M = tree(draw, rows, inner, depth - 1, batch)
        B, N = tree(draw, inner, columns, depth - 1, batch)
        return A @ B, M @ N
    if kind == "transpose":
        A, M = tree(draw, columns, rows, depth - 1, batch)
        return A.T, M.mT
    if kind in ("stack", "blocks"):
        cut = draw(st.integers(1, rows - 1))
        left = draw(st.integers(1, columns - 1)) if kind == "blocks" else columns
        A, M = tree(draw, cut, left, depth - 1, batch)
        B, N = tree(
            draw, rows - cut, columns - left if kind == "blocks" else columns, depth - 1, batch
        )
        if kind == "blocks":
            M = torch.nn.functional.pad(M, (0, columns - left))
            N = torch.nn.functional.pad(N, (left, 0))
        shape = torch.broadcast_shapes(M.shape[:-2], N.shape[:-2])  # type: ignore[no-untyped-call]
        joined = torch.cat((M.expand(*shape, -1, -1), N.expand(*shape, -1, -1)), dim=-2)
        return (BlockDiagonal if kind == "blocks" else Stack)([A, B]), joined
    A, M = tree(draw, rows, columns, depth - 1, batch)
    if kind == "scale":
        c = draw(st.sampled_from([-2.0, 0.0, 0.5, 1.0]))
        return c * A, c * M
    if kind == "batched scale":
        factors = noise(*batch, 1, 1) if batch else noise()
        return A * factors, M * factors
    if kind == "same":
        return A + A, 2 * M
    B, N = tree(draw, rows, columns, depth - 1, batch)
    return (A + B, M + N) if kind == "add" else (A - B, M - N)


@st.composite
def expressions(draw: st.DrawFn) -> Case:
    torch.manual_seed(draw(st.integers(0, 1000)))
    rows, columns, depth = (draw(st.integers(1, n)) for n in (4, 4, 3))
    return tree(draw, rows, columns, depth, draw(st.sampled_from([(), (2,), (3, 2)])))


@settings(max_examples=50, deadline=None, database=None, derandomize="CI" in os.environ)
@given(expressions())
def test_random_expressions_have_the_matrices_of_their_twins(case: Case) -> None:
    A, M = case
    M, scale = M.expand(A.shape), float(M.abs().max().clamp_min(1.0))
    assert A.dtype == F64
    x, y = noise(5, *A.batch_shape, A.shape[-1]), noise(5, *A.batch_shape, A.shape[-2])
    for actual, expected in (
        (A.to_dense(), M),
        (A.T.to_dense(), M.mT),
        (A(x), (M @ x[..., None])[..., 0]),
        (A.adjoint(y), (M.mT @ y[..., None])[..., 0]),
        ((A @ A.T).to_dense(), M @ M.mT),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * scale**2)
    assert not A.symmetric or torch.allclose(M, M.mT, rtol=1e-10, atol=1e-10 * scale)


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
