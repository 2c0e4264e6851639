r"""Operators given by functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .transforms import transformed

__all__ = ["LinearFunction"]


class LinearFunction(Operator):
    r"""The operator that a linear function is, with an adjoint that is given or found by autograd.

    .. math:: A x = f(x) \qquad A^T y = g(y) \quad \text{or} \quad
        A^T y = \nabla_x \langle f(x), y \rangle

    By autograd, an adjoint product costs one evaluation of the function and one backward pass.
    That the function is linear isn't checked until :meth:`check_linear` is called.

    Arguments:
        function: The function :math:`f`, from fields of shape :math:`(*, in)` to fields of shape
            :math:`(*, out)`; the batch axes may be of any number.
        in_shape: The shape of input events.
        out_shape: The shape of output events.
        adjoint: The function :math:`g`, from fields of shape :math:`(*, out)` to fields of shape
            :math:`(*, in)`; by default found by autograd.
        dtype: The floating type of the function.
        device: The device of the function.
        symmetric: Whether :math:`A = A^T`.

    Raises:
        ValueError: When called, if a function returns a field of another shape.

    Example:
        >>> A = LinearFunction(lambda x: x.cumsum(-1), 3, 3)
        >>> A.adjoint(torch.ones(3))
        tensor([3., 2., 1.])
        >>> B = LinearFunction(torch.fliplr, (2, 2), (2, 2), adjoint=torch.fliplr, symmetric=True)
        >>> B(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[2., 1.],
                [4., 3.]])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        adjoint: Callable[[Tensor], Tensor] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        symmetric: bool = False,
    ) -> None:
        super().__init__(in_shape, out_shape, dtype=dtype, device=device, symmetric=symmetric)
        self.function, self.transposed = function, adjoint

    def forward(self, x: Tensor) -> Tensor:
        return self._checked(self.function, x, self.in_shape, self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        if self.transposed is not None:
            return self._checked(self.transposed, y, self.out_shape, self.in_shape)
        batch = y.shape[: y.ndim - len(self.out_shape)]
        if transformed():
            origin = y.new_zeros(*batch, *self.in_shape)
            mapped: Tensor = torch.func.vjp(self.forward, origin)[1](y)[0]
            return mapped
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = y.new_zeros(*batch, *self.in_shape).requires_grad_()
            value = self.forward(x)
            if not value.requires_grad:
                raise ValueError(
                    f"expected a function that autograd can differentiate, got {self.function!r}, "
                    "whose result doesn't depend upon its argument; give its adjoint"
                )
            (result,) = torch.autograd.grad(value, x, y, create_graph=differentiable)
        return result

    def check_linear(
        self, generator: torch.Generator | None = None, rtol: float | None = None
    ) -> None:
        r"""Checks at random fields that the function is linear, and that the adjoint is its own.

        Arguments:
            generator: A source of random numbers.
            rtol: The relative tolerance; by default the square root of the machine precision.

        Raises:
            ValueError: If :math:`f(a x + y) \neq a f(x) + f(y)` or
                :math:`\langle f(x), z \rangle \neq \langle x, g(z) \rangle`.

        Example:
            >>> LinearFunction(lambda x: x + 1.0, 3, 3).check_linear()
            Traceback (most recent call last):
            ...
            ValueError: expected a linear function, got one with f(0) other than 0
        """
        tolerance = torch.finfo(self.dtype).eps ** 0.5 if rtol is None else rtol

        def noise(event: Size) -> Tensor:
            return torch.randn(event, generator=generator, dtype=self.dtype, device=self.device)

        def differ(a: Tensor, b: Tensor, scale: Tensor) -> bool:
            return bool((a - b).abs().max() > tolerance * scale)

        x, y, z = noise(self.in_shape), noise(self.in_shape), noise(self.out_shape)
        if bool(self(torch.zeros_like(x)).any()):
            raise ValueError("expected a linear function, got one with f(0) other than 0")
        sum_of_values = 3.0 * self(x) + self(y)
        if differ(self(3.0 * x + y), sum_of_values, sum_of_values.abs().max()):
            raise ValueError(
                "expected a linear function, got one with f(3 x + y) other than 3 f(x) + f(y); "
                "Nonlinear takes any differentiable function"
            )
        value = self(x)
        left, right = (value * z).sum(), (x * self.adjoint(z)).sum()
        if differ(left, right, value.norm() * z.norm()):
            raise ValueError(
                f"expected an adjoint with <f(x), z> = <x, g(z)>, got {float(left):g} and "
                f"{float(right):g}; leave it out to have it found by autograd"
            )

    def _checked(
        self, function: Callable[[Tensor], Tensor], x: Tensor, source: Size, target: Size
    ) -> Tensor:
        value = function(x)
        expected = (*x.shape[: x.ndim - len(source)], *target)
        if value.shape != expected:
            raise ValueError(
                f"expected the function to return a field of shape {expected} for one of shape "
                f"{tuple(x.shape)}, got {tuple(value.shape)}"
            )
        return value
