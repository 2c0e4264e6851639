"""Products of Kronecker, blocks, powers and inverses follow the rules of textbooks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    LSMR,
    BlockDiagonal,
    Composition,
    Concatenate,
    Dense,
    Diagonal,
    Gather,
    Identity,
    Inverse,
    Isotropic,
    Kronecker,
    LowRankPlusDiagonal,
    Mask,
    Operator,
    Power,
    PseudoInverse,
    Reshape,
    Scaled,
    Scaling,
    Solution,
    Stack,
    Sum,
    WeightedGather,
    Zero,
)

F64 = torch.float64
TIGHT = GMRES(rtol=1e-13, max_iterations=20)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def dense(rows: int, columns: int) -> Dense:
    return Dense(noise(rows, columns))


def covariance(n: int) -> Dense:
    factor = noise(n, n)
    return Dense(factor @ factor.mT + torch.eye(n, dtype=F64), symmetric=True)


def same(A: Operator, M: Tensor) -> None:
    torch.testing.assert_close(A.to_dense(), M.expand(A.shape))


# -- zero


def test_zeros_absorb_products_and_vanish_from_sums() -> None:
    A, Z = Dense(noise(5, 2, 3)), Zero(3, 4)
    product = Zero(2, 4) @ A
    assert isinstance(product, Zero) and product.dtype == F64 and product.batch_shape == (5,)
    assert product.shape == (5, 4, 3)
    assert A + Zero(3, 2) is A and Zero(3, 2) + A is A
    assert isinstance(Z * 3.0, Zero) and isinstance(0.0 * A, Zero)
    assert (0.0 * A).batch_shape == (5,)
    assert isinstance(A - A, Zero)
    assert isinstance(Z.T, Zero) and Z.T.shape == (3, 4)
    wide = Zero(3, 2, (4, 5)) + A
    assert isinstance(wide, Sum) and wide.batch_shape == (4, 5)


def test_multiples_of_one_operator_add_up() -> None:
    A = dense(2, 3)
    total = 2.0 * A + A - 0.5 * A
    assert isinstance(total, Scaled) and total.operator is A and total.scale == 2.5
    assert 0.25 * A + 0.75 * A is A
    c = noise(4, 1, 1)
    same(A * c + A, A.matrix * (1 + c))


# -- blocks


def test_block_products_multiply_blockwise() -> None:
    A, B, C, D = dense(2, 3), dense(2, 4), dense(3, 5), dense(4, 5)
    inner = Concatenate([A, B]) @ Stack([C, D])
    assert repr(inner) == (
        "Dense((3,) -> (2,)) @ Dense((5,) -> (3,)) + Dense((4,) -> (2,)) @ Dense((5,) -> (4,))"
    )
    same(inner, A.matrix @ C.matrix + B.matrix @ D.matrix)
    row = Concatenate([A, B]) @ BlockDiagonal([C, D])
    assert isinstance(row, Concatenate)
    same(row, torch.cat((A.matrix @ C.matrix, B.matrix @ D.matrix), dim=1))
    kept = Concatenate([A, B]) @ Stack([dense(4, 5), dense(3, 5)])
    assert isinstance(kept, Composition)  # blocks that don't meet


def test_numbers_leave_block_products() -> None:
    A = dense(2, 3)
    product = Concatenate([A, A]) @ Stack([Identity(3), Identity(3)])
    assert isinstance(product, Scaled) and product.operator is A and product.scale == 2.0
    nested = dense(4, 2) @ Concatenate([A, A]) @ Stack([Identity(3), Identity(3)])
    assert isinstance(nested, Scaled) and isinstance(nested.operator, Composition)


def test_adjoints_of_blocks_are_blocks_of_adjoints() -> None:
    A, B = dense(2, 3), dense(4, 3)
    S = Stack([A, B])
    assert isinstance(S.T, Concatenate)
    back = S.T.T
    assert isinstance(back, Stack) and back.blocks[0] is A and back.blocks[1] is B
    blocks = BlockDiagonal([A, B]).T
    assert isinstance(blocks, BlockDiagonal)
    x = noise(6)
    torch.testing.assert_close(S.T(x), S.adjoint(x))


def test_symmetry_is_seen_through_blocks_and_kronecker_factors() -> None:
    V, H = covariance(3), Stack([dense(2, 3), Mask(torch.tensor([True, False, True]))])
    assert (H @ V @ H.T).symmetric
    assert (H.T @ H).symmetric
    K = Kronecker([dense(2, 3), dense(4, 2)])
    assert (K @ K.T).symmetric and isinstance(K @ K.T, Kronecker)
    P = dense(3, 3) ** 2
    assert (P @ V @ P.T).symmetric
    assert not (P @ V @ P).symmetric
    # Merging on both sides makes two selections, which are equal but not one object.
    R, one = Reshape((2, 2), 4), Gather(torch.tensor([3]), 4)
    inner = R @ Kronecker([covariance(2), covariance(2)]) @ R.T
    assert (one @ inner @ one.T).symmetric
    other = Gather(torch.tensor([2]), 4)
    assert not (one @ inner @ other.T).symmetric
    weighted = WeightedGather(torch.tensor([[0, 3]]), noise(1, 2), 4)
    assert (weighted @ inner @ weighted.T).symmetric


def test_transposed_selections_merge() -> None:
    A, B = Mask(torch.tensor([True, False, True])), Mask(torch.tensor([True, False]))
    merged = A.T @ B.T
    assert repr(merged) == "Gather((3,) -> (1,)).T"
    same(merged.to(F64), torch.eye(3, dtype=F64)[:, :1])


# -- Kronecker


def test_kronecker_products_multiply_factor_by_factor() -> None:
    A, B, C, D = dense(2, 3), dense(4, 2), dense(3, 5), dense(2, 2)
    product = Kronecker([A, B]) @ Kronecker([C, D])
    assert isinstance(product, Kronecker)
    same(product, torch.kron(A.matrix @ C.matrix, B.matrix @ D.matrix))
    m = Mask(torch.tensor([True, False])).to(F64)
    assert isinstance(Kronecker([m, m]) @ Kronecker([m, m]).T, Identity)
    other = Kronecker([dense(2, 6)]) @ Kronecker([dense(6, 2)])
    assert isinstance(other, Kronecker)


def test_kronecker_covariances_solve_sample_and_have_determinants(
    generator: torch.Generator,
) -> None:
    A, B = covariance(3), covariance(2)
    K = Kronecker([A, Diagonal(noise(2).square() + 0.1), B])
    M = K.to_dense()
    b = noise(5, 3, 2, 2)
    solved = torch.linalg.solve(M, b.reshape(5, 12).mT).mT.reshape(b.shape)
    torch.testing.assert_close(K.solve(b), solved)
    torch.testing.assert_close(K.logdet(), torch.linalg.slogdet(M)[1])
    torch.testing.assert_close(K.diagonal(), M.diagonal())
    for sampled in (K, Kronecker([Diagonal(torch.ones(5, dtype=F64)), A])):
        x = sampled.sample((40_000,), generator).flatten(1)
        torch.testing.assert_close(x.mT @ x / len(x), sampled.to_dense(), rtol=0.1, atol=0.15)


def test_batched_kronecker_covariances_sample_every_entry(generator: torch.Generator) -> None:
    scales = torch.tensor([1.0, 100.0], dtype=F64)
    K = Kronecker([covariance(2), Isotropic(scales, 3)])
    x = K.sample((20_000,), generator)
    assert x.shape == (20_000, 2, 2, 3)
    second = torch.einsum("sbij,sbkl->bijkl", x, x).reshape(2, 6, 6) / len(x)
    expected = K.to_dense() / scales[:, None, None]
    torch.testing.assert_close(second / scales[:, None, None], expected, rtol=0.1, atol=0.15)


def test_the_largest_kronecker_factor_draws_by_its_structure() -> None:
    n = 3000  # beyond what dense roots are for
    V = LowRankPlusDiagonal(torch.ones(1, n), torch.ones(n))
    assert Kronecker([V, covariance(2).to(torch.float32)]).sample((2,)).shape == (2, n, 2)


# -- powers


def test_powers_simplify() -> None:
    A, d = dense(3, 3), noise(3).abs() + 0.1
    assert (A**0).spec() == {"kind": "Identity", "shape": [3], "dtype": "float64"}
    assert A**1 is A
    batch = Dense(noise(5, 3, 3))
    assert (batch**0).batch_shape == (5,) and (batch**2).batch_shape == (5,)
    c = noise(5)
    same(Scaling(c, 3) ** 2, c[:, None, None].square() * torch.eye(3, dtype=F64))
    cube = A @ A**2
    assert isinstance(cube, Power) and cube.exponent == 3 and cube.operator is A
    sixth = (A**3) ** 2
    assert isinstance(sixth, Power) and sixth.exponent == 6
    same((2.0 * A) ** 3, 8 * torch.linalg.matrix_power(A.matrix, 3))
    inverse_square = Diagonal(d) ** -2
    assert isinstance(inverse_square, Diagonal)
    torch.testing.assert_close(inverse_square.entries, d**-2)
    blocks = BlockDiagonal([A, Identity(2)]) ** 2
    assert repr(blocks) == "BlockDiagonal([Dense((3,)) ** 2, Identity((2,))])"
    kronecker = Kronecker([A, A]) ** 2
    assert isinstance(kronecker, Kronecker)
    same(kronecker, torch.linalg.matrix_power(torch.kron(A.matrix, A.matrix), 2))
    same(Scaling(2.0, 3).to(F64) ** 3, 8 * torch.eye(3, dtype=F64))
    S = covariance(3)
    b = noise(3)
    torch.testing.assert_close((S**2)(b), S(S(b)))
    torch.testing.assert_close((S**2)((S**2).solve(b)), b)
    torch.testing.assert_close((S**2).logdet(), 2 * S.logdet())
    with pytest.raises(ValueError, match="one shape"):
        dense(2, 3) ** 2
    with pytest.raises(ValueError, match="applied first"):
        dense(2, 3) ** 0
    with pytest.raises(ValueError, match="exponent >= 1"):
        Power(A, 0)


# -- inverses


def test_inverses_follow_the_structure() -> None:
    A, B, d = dense(3, 3), covariance(2), noise(3)
    inverse = A.inverse(TIGHT)
    assert isinstance(inverse, Inverse) and inverse.inverse() is A
    assert isinstance(inverse @ A, Identity) and isinstance(A @ inverse, Identity)
    assert Identity(3).inverse().spec()["kind"] == "Identity"
    assert repr(Diagonal(d).inverse()) == "Diagonal((3,))"
    assert isinstance(Isotropic(2.0, 3).inverse(), Isotropic)
    assert repr((2.0 * A).inverse()) == "0.5 * Dense((3,)).inverse()"
    blocks = BlockDiagonal([A, B]).inverse(TIGHT)
    assert isinstance(blocks, BlockDiagonal)
    same(blocks, torch.linalg.inv(BlockDiagonal([A, B]).to_dense()))
    kronecker = Kronecker([A, Diagonal(d)]).inverse(TIGHT)
    assert repr(kronecker).startswith("Kronecker([Dense((3,)).inverse(GMRES(")
    same(kronecker, torch.linalg.inv(torch.kron(A.matrix, torch.diag(d))))
    scaled = (A**2).inverse(TIGHT)
    assert isinstance(scaled, Power)
    same(scaled, torch.linalg.inv(A.matrix @ A.matrix))
    adjoint = A.T.inverse(TIGHT)
    same(adjoint, torch.linalg.inv(A.matrix.mT))
    same(A.inverse(TIGHT).T, torch.linalg.inv(A.matrix).mT)


def test_products_invert_factor_by_factor_only_where_no_solver_is_needed() -> None:
    K = Kronecker([Diagonal(noise(2)), Diagonal(noise(2))])
    D = Diagonal(noise(2, 2))
    inverse = (K @ D).inverse()
    assert repr(inverse) == "Diagonal((2, 2)) @ Kronecker([Diagonal((2,)), Diagonal((2,))])"
    same(inverse, torch.linalg.inv((K @ D).to_dense()))
    H = dense(3, 3)
    S = H @ covariance(3) @ H.T
    assert isinstance(S.inverse(CG()), Inverse)  # as a whole, S is symmetric: H isn't


def test_inverses_of_reshaped_operators() -> None:
    R, K = Reshape((2, 2), 4), Kronecker([covariance(2), covariance(2)])
    assert isinstance(Reshape(4, (2, 2)).inverse() @ Dense(noise(4, 4), 4, (2, 2)), Composition)
    same((R @ K @ R.T).inverse(), torch.linalg.inv(K.to_dense()))
    M = noise(4, 4)
    same(BlockDiagonal([Dense(M, (2, 2), 4)]).inverse(TIGHT), torch.linalg.inv(M))


def test_blocks_that_are_not_square_are_inverted_together() -> None:
    A = BlockDiagonal([dense(2, 3), dense(3, 2)])
    assert isinstance(A.pseudo_inverse(), BlockDiagonal)
    assert isinstance(A.inverse(TIGHT), Inverse)


def test_inverses_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="others have a pseudo-inverse"):
        dense(2, 3).inverse()
    with pytest.raises(ValueError, match="others have a pseudo-inverse"):
        Inverse(dense(2, 3))
    with pytest.raises(ValueError, match="no zeros to be inverted"):
        Diagonal(torch.tensor([1.0, 0.0])).inverse()
    with pytest.raises(ValueError, match="no zeros to be inverted"):
        Scaling(0.0, 3).inverse()
    with pytest.raises(ValueError, match="GMRES"):
        dense(3, 3).inverse()(noise(3))  # no solver, and not symmetric


def test_symmetric_inverses_have_determinants_and_samples(generator: torch.Generator) -> None:
    S = covariance(3)
    P = S.inverse()
    assert P.symmetric
    torch.testing.assert_close(P.logdet(), -S.logdet())
    b = noise(4, 3)
    torch.testing.assert_close(P.solve(b), S(b))
    x = P.sample((40_000,), generator)
    torch.testing.assert_close(x.mT @ x / len(x), torch.linalg.inv(S.matrix), rtol=0.1, atol=0.05)


class Counting:
    """A solver that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, S: Operator, b: Tensor, x0: Tensor | None = None) -> Solution:
        self.calls += 1
        return TIGHT(S, b, x0)


def test_inverses_are_differentiated_implicitly_by_one_more_solve() -> None:
    M, b = noise(3, 3) + 3 * torch.eye(3, dtype=F64), noise(2, 3).requires_grad_()
    M.requires_grad_()

    def solved(M: Tensor, b: Tensor) -> Tensor:
        return Dense(M).inverse(TIGHT)(b)

    assert torch.autograd.gradcheck(solved, (M, b))
    with pytest.raises(RuntimeError, match="call the solver"):
        torch.autograd.grad(solved(M, b).sum(), b, create_graph=True)
    solver = Counting()
    Dense(M).inverse(solver)(b).sum().backward()  # type: ignore[no-untyped-call]
    assert solver.calls == 2
    with torch.no_grad():
        assert not Dense(M).inverse(solver)(b).requires_grad
    assert solver.calls == 3


# -- pseudo-inverses


def test_pseudo_inverses_follow_the_structure() -> None:
    A, M = dense(3, 2), Mask(torch.tensor([True, False, True]))
    assert isinstance(A.pseudo_inverse(), PseudoInverse)
    assert A.pseudo_inverse().pseudo_inverse() is A
    assert repr(M.pseudo_inverse()) == repr(M.T)
    d = torch.tensor([2.0, 0.0], dtype=F64)
    K = Kronecker([A, Diagonal(d)]).pseudo_inverse()
    assert isinstance(K, Kronecker)
    same(K, torch.linalg.pinv(torch.kron(A.matrix, torch.diag(d))))
    same((3.0 * A.T).pseudo_inverse(), torch.linalg.pinv(3 * A.matrix.mT))
    same(Scaling(0.0, 2).to(F64).pseudo_inverse(), torch.zeros(2, 2, dtype=F64))
    c = torch.tensor([0.0, 2.0], dtype=F64)
    same((A * c[:, None, None]).pseudo_inverse(), torch.linalg.pinv(A.matrix * c[:, None, None]))
    assert isinstance(Zero(3, 2).pseudo_inverse(), Zero)
    assert Identity(2).pseudo_inverse().spec()["kind"] == "Identity"


def test_pseudo_inverses_by_a_solver() -> None:
    M = noise(5, 2) @ noise(2, 3)
    A, solver = Dense(M), LSMR(rtol=1e-13, max_iterations=20)
    P = A.pseudo_inverse(solver)
    same(P, torch.linalg.pinv(M))
    same(P.T, torch.linalg.pinv(M).mT)
    torch.testing.assert_close(P.adjoint(torch.eye(3, dtype=F64)), torch.linalg.pinv(M))


def test_large_pseudo_inverses_need_a_solver() -> None:
    A = Concatenate([Identity(2500), Identity(2500)])
    with pytest.raises(ValueError, match="give a solver of least-squares problems"):
        A.pseudo_inverse()


RULES: list[tuple[str, Callable[[], Operator], str]] = [
    ("identities", lambda: Identity(2) @ dense(2, 3) @ Identity(3), "Dense((3,) -> (2,))"),
    ("zeros", lambda: Zero(2, 4) @ dense(2, 3), "Zero((3,) -> (4,))"),
    ("numbers", lambda: (2.0 * dense(2, 3)) @ (3.0 * dense(3, 2)),
     "6 * Dense((3,) -> (2,)) @ Dense((2,) -> (3,))"),
    ("adjoints", lambda: (dense(2, 3) @ dense(3, 4)).T,
     "Dense((4,) -> (3,)).T @ Dense((3,) -> (2,)).T"),
    ("sums", lambda: (dense(2, 3) + dense(2, 3)).T,
     "Dense((3,) -> (2,)).T + Dense((3,) -> (2,)).T"),
    ("powers", lambda: (dense(2, 2) + dense(2, 2)) ** 2, "(Dense((2,)) + Dense((2,))) ** 2"),
    ("stacks", lambda: Stack([dense(2, 3), Identity(3)]).T,
     "Concatenate([Dense((3,) -> (2,)).T, Identity((3,))])"),
    ("precedence", lambda: (dense(2, 3) + dense(2, 3)) @ dense(3, 2) ** 1,
     "(Dense((3,) -> (2,)) + Dense((3,) -> (2,))) @ Dense((2,) -> (3,))"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_the_representation_prints_the_simplified_tree(
    make: Callable[[], Operator], expected: str
) -> None:
    assert repr(make()) == expected
