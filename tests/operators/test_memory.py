"""Observing a large state touches what is observed, and never copies the state."""

import pytest
import torch

from appa_prob.operators import Gather, Interpolate, Mask, Operator, Stack, WeightedGather
from appa_prob.operators.scatter import LARGE, zeros
from benchmarks.allocations import TREES, memory

SHAPE = (24, 181, 360)  # 6 MB in single precision
POINTS = 500


def observed(kind: str) -> Operator:
    indices = torch.randint(torch.Size(SHAPE).numel(), (4 * POINTS,))
    if kind == "Mask":
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        return Mask(mask.view(-1).index_fill(0, indices, True).view(SHAPE))
    if kind == "Gather":
        return Gather(indices, SHAPE)
    if kind == "WeightedGather":
        return WeightedGather(indices.reshape(-1, 4), torch.rand(POINTS, 4), SHAPE)
    latitude, longitude = torch.linspace(90.0, -90.0, 181), torch.arange(360.0)
    phi, lam = 180 * torch.rand(POINTS) - 90, 360 * torch.rand(POINTS)
    return Interpolate(latitude, longitude, phi, lam, SHAPE[0])


@pytest.mark.parametrize("kind", ["Mask", "Gather", "WeightedGather", "Interpolate"])
def test_products_allocate_what_they_observe(kind: str) -> None:
    A = observed(kind)
    x = torch.randn(A.in_shape)
    gathered = 4 * A.out_shape.numel() * (1 if kind in ("Mask", "Gather") else 4)
    result = 0 if kind in ("Mask", "Gather") else 4 * A.out_shape.numel()
    assert memory(lambda: A(x))[0] <= gathered + result + 64
    assert gathered < x.nbytes / 20


def test_adjoints_of_stacks_allocate_one_state() -> None:
    kinds = ("Gather", "WeightedGather", "Interpolate")
    A = Stack([observed(kind) for kind in kinds] + [0.5 * observed("Gather")])
    y = torch.randn(A.out_shape)
    size = 4 * A.in_shape.numel()
    assert size <= memory(lambda: A.adjoint(y))[0] < 1.1 * size
    sizes = [block.out_shape.numel() for block in A.blocks]
    parts = zip(A.blocks, torch.split(y, sizes), strict=True)
    expected = sum(block.adjoint(part.reshape(block.out_shape)) for block, part in parts)
    torch.testing.assert_close(A.adjoint(y), expected)


def test_large_zeros_are_ordinary_tensors() -> None:
    like = torch.ones(1, dtype=torch.float64)
    x = zeros(like, (LARGE // 8 + 1,))
    assert x.dtype == like.dtype and not bool(x.any())
    x[-1] = 3.0
    assert x.sum() == 3.0 and x.clone()[-1] == 3.0


def test_large_adjoints_are_differentiable() -> None:
    A = Gather(torch.tensor([5, LARGE // 4, 5]), LARGE // 4 + 1)
    y = torch.randn(3, requires_grad=True)
    x = A.adjoint(y)
    (gradient,) = torch.autograd.grad(x.square().sum(), y)
    torch.testing.assert_close(gradient, 2 * A(A.adjoint(y)))
    torch.testing.assert_close(torch.func.vmap(A.adjoint)(y[None])[0], x)


@pytest.mark.parametrize("name", TREES)
def test_trees_allocate_no_more_than_what_is_written_by_hand(name: str) -> None:
    A, product, adjoint = TREES[name](64)
    x, y = torch.randn(A.in_shape), torch.randn(A.out_shape)
    with torch.no_grad():
        torch.testing.assert_close(A(x), product(x), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(A.adjoint(y), adjoint(y), rtol=1e-3, atol=1e-3)
        for ours, theirs in (
            (memory(lambda: A(x)), memory(lambda: product(x))),
            (memory(lambda: A.adjoint(y)), memory(lambda: adjoint(y))),
        ):
            small = 256  # such as a turned kernel
            assert ours[0] <= theirs[0] + small and ours[1] <= theirs[1] + small
