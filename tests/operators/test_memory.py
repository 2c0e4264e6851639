"""Observing a large state touches what is observed, and never copies the state."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from appa_prob.operators import Gather, Interpolate, Mask, Operator, Stack, WeightedGather
from appa_prob.operators.scatter import LARGE, zeros

SHAPE = (24, 181, 360)  # 6 MB in single precision
POINTS = 500


def allocated(function: Callable[[], Tensor]) -> int:
    """The bytes of all allocations of a function, those that it frees again included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    return sum(max(event.self_cpu_memory_usage, 0) for event in record.events())


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
    assert allocated(lambda: A(x)) <= gathered + result + 64
    assert gathered < x.nbytes / 20


def test_adjoints_of_stacks_allocate_one_state() -> None:
    kinds = ("Gather", "WeightedGather", "Interpolate")
    A = Stack([observed(kind) for kind in kinds] + [0.5 * observed("Gather")])
    y = torch.randn(A.out_shape)
    size = 4 * A.in_shape.numel()
    assert size <= allocated(lambda: A.adjoint(y)) < 1.1 * size
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
