r"""Checks that an operator keeps its promises, for the operators of this package and for yours."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import torch
from torch import Size, Tensor

from .base import Operator
from .registry import build, registered
from .shapes import flatten, unflatten
from .tree import nodes

__all__ = ["check_operator"]


def check_operator(
    operator: Operator,
    dense: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    rtol: float | None = None,
    picklable: bool = True,
) -> None:
    r"""Checks an operator against its matrix, and everything that it should do against what it
    does.

    .. math:: \langle A x, y \rangle = \langle x, A^T y \rangle \qquad A x = M x
        \qquad A^T y = M^T y

    for random :math:`x` and :math:`y`, without and with additional batch axes; sums, multiples,
    compositions, adjoints; the conventions of ``linear_operator``; gradients with respect to
    :math:`x` and :math:`y`; products under :func:`torch.func.vmap`; the type of results; copies
    made by pickling, and by plain data if all classes are registered; refusal of fields of wrong
    shapes.

    Arguments:
        operator: The operator, small.
        dense: Its matrix, with shape :math:`(*, M, N)`; by default what :meth:`Operator.to_dense`
            gives.
        generator: A source of random numbers.
        rtol: The relative tolerance; by default :math:`10^{-10}` in double and :math:`10^{-4}` in
            single precision.
        picklable: Whether the operator can be pickled: operators that hold graphs can't.

    Raises:
        AssertionError: If a promise isn't kept, saying which.

    Example:
        >>> from appa_prob.operators import Mask
        >>> check_operator(Mask(torch.tensor([True, False, True])))
    """
    check = Checker(operator, dense, generator, rtol)
    check.shapes()
    check.products()
    check.algebra()
    check.columns()
    check.gradients()
    check.transforms()
    check.refusals()
    if picklable:
        check.copies()
    if {type(node) for node in nodes(operator)} <= set(registered().values()):
        check.data()


class Checker:
    r"""The checks of :func:`check_operator`, one a method.

    Arguments:
        operator: The operator.
        dense: Its matrix, or None.
        generator: A source of random numbers.
        rtol: The relative tolerance, or None.
    """

    def __init__(
        self,
        operator: Operator,
        dense: Tensor | None,
        generator: torch.Generator | None,
        rtol: float | None,
    ) -> None:
        self.A, self.generator = operator, generator
        self.M = operator.to_dense() if dense is None else dense
        self.rtol = (1e-10 if operator.dtype == torch.float64 else 1e-4) if rtol is None else rtol
        self.x = self.noise(operator.in_shape)
        self.y = self.noise(operator.out_shape)

    def noise(self, event: Size, *batch: int) -> Tensor:
        """A random field with the batch axes of the operator."""
        size = (*batch, *self.A.batch_shape, *event)
        return torch.randn(
            size, generator=self.generator, dtype=self.A.dtype, device=self.A.device
        )

    def close(self, actual: Tensor, expected: Tensor, claim: str) -> None:
        """Asserts that two tensors agree in shape, in type, and to tolerance."""
        assert actual.shape == expected.shape, (
            f"{claim}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        )
        assert actual.dtype == expected.dtype, (
            f"{claim}: type {actual.dtype}, not {expected.dtype}"
        )
        if expected.numel():
            error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1.0)
            assert error <= self.rtol, (
                f"{claim}: relative error {float(error):.1e}, for {self.A!r}"
            )

    def multiply(self, matrix: Tensor, x: Tensor, source: Size, target: Size) -> Tensor:
        """The product of a matrix with fields."""
        return unflatten((matrix @ flatten(x, source)[..., None])[..., 0], target)

    def shapes(self) -> None:
        """The matrix has the shape that the operator says."""
        A = self.A
        assert A.shape == (*A.batch_shape, A.out_shape.numel(), A.in_shape.numel()), (
            "A.shape doesn't follow its events"
        )
        self.close(A.to_dense(), self.M.expand(A.shape), "A.to_dense()")
        if A.symmetric:
            self.close(self.M.mT, self.M, "A.symmetric, but its matrix isn't")

    def products(self) -> None:
        """Products and adjoint products are those of the matrix, and adjoint to each other."""
        A, source, target = self.A, self.A.in_shape, self.A.out_shape
        for batch in ((), (3,), (2, 3), (0,)):
            x, y = self.noise(source, *batch), self.noise(target, *batch)
            self.close(A(x), self.multiply(self.M, x, source, target), "A(x)")
            self.close(A.adjoint(y), self.multiply(self.M.mT, y, target, source), "A.adjoint(y)")
            with torch.no_grad():
                self.close(A(x), self.multiply(self.M, x, source, target), "A(x) under no_grad")
        x = self.x[(0,) * len(A.batch_shape)]
        expected = self.multiply(self.M.expand(A.shape), x, source, target)
        self.close(A(x), expected, "A(x) without batch axes")
        left, right = (A(self.x) * self.y).sum(), (self.x * A.adjoint(self.y)).sum()
        scale = (A(self.x).norm() * self.y.norm()).clamp_min(1.0)
        assert abs(left - right) <= self.rtol * scale, (
            f"<A x, y> = {left}, but <x, A^T y> = {right}, for {A!r}"
        )
        value, jacobian = A.linearize(self.x)
        assert jacobian is A, "A.linearize(x) doesn't return A"
        self.close(value, A(self.x), "the value of A.linearize(x)")

    def algebra(self) -> None:
        """Expressions have the matrices of the expressions."""
        A, M = self.A, self.M.expand(self.A.shape)
        self.close(A.T.to_dense(), M.mT, "A.T")
        self.close(A.T.T.to_dense(), M, "A.T.T")
        self.close((A + A).to_dense(), 2 * M, "A + A")
        self.close((A - 0.5 * A).to_dense(), M / 2, "A - A / 2")
        self.close((A * -3.0).to_dense(), -3 * M, "-3 A")
        self.close((A.T @ A).to_dense(), M.mT @ M, "A.T @ A")
        self.close((A @ A.T).T.to_dense(), M @ M.mT, "(A @ A.T).T")
        assert (A.T @ A).symmetric, "A.T @ A isn't known to be symmetric"

    def columns(self) -> None:
        """The operator is a matrix for linear_operator."""
        A, (rows, columns) = self.A, self.A.shape[-2:]
        x = self.noise(Size((columns, 4)))
        self.close(A @ x, self.M @ x, "A @ columns")
        self.close(
            A.mT @ self.noise(Size((rows, 1))) * 0,
            (self.M.mT @ self.noise(Size((rows, 1)))) * 0,
            "A.mT @ columns",
        )
        single = x[(0,) * len(A.batch_shape)][:, 0]
        self.close(A @ single, self.M.expand(A.shape) @ single, "A @ vector")
        if rows == columns:
            self.close(
                A.diagonal(), self.M.expand(A.shape).diagonal(dim1=-2, dim2=-1), "A.diagonal()"
            )
        rebuilt = A.representation_tree()(*A.representation())
        self.close(rebuilt @ x, self.M @ x, "A rebuilt from its representation")

    def gradients(self) -> None:
        """Products are differentiable."""
        self._gradient(self.A, self.x, self.A.adjoint(self.y), self.y, "A(x)")
        self._gradient(self.A.adjoint, self.y, self.A(self.x), self.x, "A.adjoint(y)")

    def _gradient(
        self,
        product: Callable[[Tensor], Tensor],
        x: Tensor,
        expected: Tensor,
        weight: Tensor,
        claim: str,
    ) -> None:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(
                (product(x) * weight).sum(), x, materialize_grads=True
            )
        self.close(gradient, expected, f"the gradient of {claim}")

    def transforms(self) -> None:
        """Products can be mapped, as they are on fields and on columns."""
        x, y = self.noise(self.A.in_shape, 3), self.noise(self.A.out_shape, 3)
        columns = self.noise(Size((self.A.shape[-1], 2)), 3)
        for product, argument, claim in (
            (self.A, x, "A(x)"),
            (self.A.adjoint, y, "A.adjoint(y)"),
            (self.A.matmul, columns, "A @ columns"),
        ):
            mapped = torch.func.vmap(product)(argument)
            one_by_one = torch.stack([product(part) for part in argument])
            self.close(mapped, one_by_one, f"{claim} under torch.func.vmap")

    def refusals(self) -> None:
        """Fields of wrong shapes are refused, never broadcast."""
        for name, call, event in (
            ("A(x)", self.A, self.A.in_shape),
            ("A.adjoint(y)", self.A.adjoint, self.A.out_shape),
        ):
            wrong = torch.zeros(
                3,
                *event[:-1],
                (event[-1] if event else 0) + 1,
                dtype=self.A.dtype,
                device=self.A.device,
            )
            if not event:
                continue
            try:
                call(wrong)
            except ValueError as error:
                assert "expected" in str(error), (
                    f"{name} refuses a wrong shape without saying what it expected"
                )
            else:
                raise AssertionError(
                    f"{name} accepts a field of shape {tuple(wrong.shape)}, for {self.A!r}"
                )

    def copies(self) -> None:
        """Copies do the same, in the type that they are given."""
        same = pickle.loads(pickle.dumps(self.A))
        self.close(same(self.x), self.A(self.x), "the pickled copy")
        for dtype in (torch.float32, torch.float64):
            copy, x = self.A.to(dtype), self.x.to(dtype)
            assert copy(x).dtype == dtype, f"A.to({dtype}) gives {copy(x).dtype}"
            assert copy.adjoint(copy(x)).dtype == dtype, (
                f"A.to({dtype}).adjoint gives another type"
            )
            assert copy.to_dense().dtype == copy.dtype, (
                f"A.to({dtype}).to_dense() isn't of the type of A"
            )

    def data(self) -> None:
        """Plain data describe the operator."""
        spec = self.A.spec()
        same = build(json.loads(json.dumps(spec)))
        assert repr(same) == repr(self.A), f"the operator built from data is {same!r}"
        assert same.spec() == spec, "the operator built from data has other data"
        assert same.symmetric == self.A.symmetric, "data lose what is known of symmetry"
        self.close(same.to(self.A.device)(self.x), self.A(self.x), "the operator built from data")
