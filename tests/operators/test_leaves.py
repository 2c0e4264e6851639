"""Leaf operators: gradients with respect to parameters, closed forms, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    AxisGather,
    Convolution,
    Fourier,
    Gather,
    LinearFunction,
    LineIntegrals,
    Mask,
    Mix,
    Operator,
    Pad,
    Permute,
    Radon,
    Reshape,
    Slice,
    Sparse,
    TimeInterpolate,
    TimeWindow,
    WeightedGather,
)
from appa_prob.operators.pad import BOUNDARIES, Boundary

F64 = torch.float64
PLACES = torch.tensor([[0, 1, 1], [2, 0, 1]])
TIMES = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=F64)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


LEARNT: dict[str, tuple[Callable[..., Operator], Callable[[], tuple[Tensor, ...]]]] = {
    "axis": (
        lambda w: AxisGather(torch.tensor([[0, 2], [1, 1]]), w, (2, 3), axis=1),
        lambda: (noise(2, 2),),
    ),
    "gather": (
        lambda w: WeightedGather(torch.tensor([[0, 2], [1, 1]]), w, 3),
        lambda: (noise(2, 2),),
    ),
    "mix": (lambda M: Mix(M, (2, 3, 2), axis=1), lambda: (noise(4, 3),)),
    "time": (lambda at: TimeInterpolate(TIMES, at, (4, 2)), lambda: (vector(0.3, 1.7, 2.6),)),
    "mean": (
        lambda a, b: TimeWindow(TIMES, a, b, (4, 2)),
        lambda: (vector(0.3, 1.7), vector(0.9, 3.9)),
    ),
    "integral": (
        lambda a, b: TimeWindow(TIMES, a, b, (4, 2), reduction="integral"),
        lambda: (vector(0.3, 1.7), vector(1.2, 3.9)),
    ),
    "sparse": (
        lambda v: Sparse(torch.sparse_coo_tensor(PLACES, v, (2, 3))),
        lambda: (noise(3),),
    ),
    "rays": (
        lambda a, b: LineIntegrals(a, b, (3, 3)),
        lambda: (
            vector(0.2, -1.0, 3.3, 0.1).reshape(2, 2),
            vector(2.4, 4.0, -0.7, 2.9).reshape(2, 2),
        ),
    ),
    **{
        f"{boundary}_{method}": (
            lambda k, b=boundary, m=method: Convolution(k, (2, 4, 3), b, m),
            lambda: (noise(3, 2),),
        )
        for boundary in BOUNDARIES
        for method in ("direct", "fft")
    },
}


@pytest.mark.parametrize("name", LEARNT)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_products_are_differentiable_in_parameters_and_fields(name: str) -> None:
    make, draw = LEARNT[name]
    parameters = tuple(a.requires_grad_() for a in draw())
    A = make(*parameters)
    x, y = noise(2, *A.in_shape).requires_grad_(), noise(2, *A.out_shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: make(*p)(x), (x, *parameters))
    assert torch.autograd.gradcheck(lambda y, *p: make(*p).adjoint(y), (y, *parameters))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # by torch.func.jvp
def test_sparse_products_are_transformed_and_differentiated_twice() -> None:
    M = noise(4, 5) * (noise(4, 5) > 0)
    A, x, v = Sparse(M), noise(3, 5), noise(3, 5)
    torch.testing.assert_close(torch.func.vmap(A)(x), x @ M.mT)
    torch.testing.assert_close(torch.func.jvp(A, (x,), (v,))[1], v @ M.mT)
    torch.testing.assert_close(torch.func.vjp(A, x)[1](v @ M.mT)[0], v @ M.mT @ M)
    assert torch.autograd.gradgradcheck(A, x.requires_grad_())


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)])
def test_methods_of_convolution_agree(boundary: Boundary, shape: tuple[int, ...]) -> None:
    kernel, grid = noise(*shape), (7, 8, 6)[: len(shape)]
    A, B = (Convolution(kernel, grid, boundary, m) for m in ("direct", "fft"))
    x = noise(2, *grid)
    torch.testing.assert_close(A(x), B(x))
    torch.testing.assert_close(A.adjoint(x), B.adjoint(x))


def test_the_method_of_convolution_follows_the_size_of_the_kernel() -> None:
    small, large = Convolution(noise(3, 3), (40, 40)), Convolution(noise(31, 31), (40, 40))
    assert small._direct and not large._direct
    x = noise(40, 40)
    torch.testing.assert_close(large(x), Convolution(large.kernel, (40, 40), method="direct")(x))


def test_periodic_convolution_is_a_product_of_spectra() -> None:
    kernel, x = noise(4, 6), noise(4, 6)
    y = Convolution(kernel, (4, 6), "periodic")(x)
    centred = kernel.roll((-2, -3), (0, 1))
    torch.testing.assert_close(torch.fft.fft2(y), torch.fft.fft2(centred) * torch.fft.fft2(x))


@pytest.mark.parametrize("complex_input", [False, True])
def test_fourier_transforms_are_unitary(complex_input: bool) -> None:
    A = Fourier((3, 4, 5), axes=2, complex_input=complex_input)
    x = noise(2, *A.in_shape)
    torch.testing.assert_close(A.adjoint(A(x)), x)
    torch.testing.assert_close(A(x).norm(), x.norm())


def test_radon_transforms_of_a_disc_are_its_chords() -> None:
    n, radius = 64, 20.0
    place = torch.arange(n, dtype=F64) - (n - 1) / 2
    disc = (place[:, None].square() + place.square() < radius**2).to(F64)
    A = Radon(torch.linspace(0.0, math.pi, 13, dtype=F64), (n, n))
    s = torch.arange(A.detectors, dtype=F64) - (A.detectors - 1) / 2
    chords = 2 * (radius**2 - s.square()).clamp_min(0).sqrt()
    assert float((A(disc) - chords).abs().mean()) < 0.02 * float(chords.max())


def test_radon_transforms_along_the_axes_are_sums() -> None:
    x = noise(5, 5)
    A = Radon(vector(0.0, math.pi / 2), (5, 5), detectors=5)
    torch.testing.assert_close(A(x), torch.stack((x.sum(0), x.sum(1).flip(0))))


@pytest.mark.parametrize("reduction", ["mean", "integral"])
def test_windows_integrate_linear_fields_exactly(reduction: str) -> None:
    a, b = vector(0.0, 0.2, 1.0, 3.0), vector(4.0, 0.7, 3.1, 3.5)
    A = TimeWindow(TIMES, a, b, 4, reduction=reduction)  # type: ignore[arg-type]
    middle = 3 * (a + b) / 2 - 2
    expected = middle if reduction == "mean" else middle * (b - a)
    torch.testing.assert_close(A(3 * TIMES - 2), expected)


@pytest.mark.parametrize(
    "view",
    [
        Slice((4, 5, 3), start=(1, 0), step=(2, 2)),
        Permute((2, 0, 1), (4, 5, 3)),
        Reshape((4, 5, 3), (6, 10)),
    ],
)
def test_selections_compose_to_one(view: Operator) -> None:
    """So that observing a part of a view of the state doesn't copy the view."""
    x, n = noise(2, 4, 5, 3), view.out_shape.numel()
    indices = torch.randint(n, (6, 2))
    for A in (
        Gather(indices, view.out_shape),
        Mask(torch.randn(view.out_shape) > 0),
        WeightedGather(indices, noise(6, 2), view.out_shape),
    ):
        B = A @ view
        assert isinstance(B, WeightedGather if isinstance(A, WeightedGather) else Gather)
        torch.testing.assert_close(B(x), A(view(x)))


def test_functions_that_are_not_linear_are_found() -> None:
    LinearFunction(torch.fliplr, (3, 3), (3, 3), dtype=F64).check_linear()
    with pytest.raises(ValueError, match="Nonlinear takes any differentiable function"):
        LinearFunction(torch.sin, 3, 3, dtype=F64).check_linear()
    with pytest.raises(ValueError, match=r"f\(0\) other than 0"):
        LinearFunction(torch.cos, 3, 3, dtype=F64).check_linear()
    wrong = LinearFunction(lambda x: x.cumsum(-1), 3, 3, lambda y: y.cumsum(-1), dtype=F64)
    with pytest.raises(ValueError, match="have it found by autograd"):
        wrong.check_linear()
    with pytest.raises(ValueError, match=r"return a field of shape \(2, 3\)"):
        LinearFunction(lambda x: x, 4, 3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="give its adjoint"):
        LinearFunction(lambda x: x.detach(), 3, 3).adjoint(torch.zeros(3))


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Slice((3, 4), start=(1, 2, 3)), "up to 2 starts"),
    (lambda: Slice(3, step=0), "positive steps"),
    (lambda: Pad(3, (1, 2)), "as many numbers >= 0"),
    (lambda: Pad(3, (4,), boundary="periodic"), "at most the field itself"),
    (lambda: Pad(3, (1,), boundary="mirror"), "zero, periodic, replicate as boundary"),  # type: ignore[arg-type]
    (lambda: Permute((0, 0), (2, 3)), "in some order"),
    (lambda: Reshape((2, 3), 5), "as many elements"),
    (lambda: Mix(torch.ones(2, 4), (3, 4)), "for axis 0 of events"),
    (lambda: Mix(torch.ones(2, 4), (3, 4), axis=2), "expected an axis of events"),
    (lambda: AxisGather(torch.ones(2, 1).long(), torch.ones(2), 3), "one shape"),
    (lambda: AxisGather(torch.tensor([[3]]), torch.ones(1, 1), 3), "between 0 and 2"),
    (lambda: TimeInterpolate(TIMES.flip(0), TIMES, 4), "ascending times"),
    (lambda: TimeInterpolate(TIMES, TIMES + 1, 4), "nothing is extrapolated"),
    (lambda: TimeWindow(TIMES, TIMES, TIMES, 4), "start before they stop"),
    (lambda: Convolution(torch.ones(2, 2), 4), "one to 1 axes"),
    (lambda: Convolution(torch.ones(5), 4, "periodic"), "no larger than the periodic grid"),
    (lambda: Convolution(torch.ones(1), 4, method="fast"), "'direct' or 'fft'"),  # type: ignore[arg-type]
    (lambda: Fourier(4, torch.ones(4)), "boolean mask"),
    (lambda: Fourier(4, torch.ones(3).bool()), r"mask of shape \(4,\)"),
    (lambda: Fourier((4, 4), axes=3), "1 to 2 axes"),
    (lambda: Sparse(torch.ones(3)), r"matrix of shape \(m, n\)"),
    (lambda: Sparse(torch.ones(2, 3), in_shape=4), "events of 3 and 2 elements"),
    (lambda: LineIntegrals(torch.ones(2, 3), torch.ones(2, 3), (4, 4)), "starts and ends"),
    (lambda: LineIntegrals(torch.ones(2, 1), torch.ones(2, 1), 4, 0.0), "positive spacings"),
    (lambda: Radon(torch.ones(2), (4, 4, 4)), "images of two axes"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_wrong_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
