r"""Maps between fields, and linear operators among them.

A field is a tensor of shape :math:`(*, e_1, \dots, e_k)`: batch axes, then the axes of one event.
A :class:`Map` :math:`f: \mathbb{R}^{in} \to \mathbb{R}^{out}` is called on fields, batch entry by
batch entry. An :class:`Operator` :math:`A` is a linear map, and at the same time a
:class:`linear_operator.LinearOperator`, a matrix over flattened events.

Two conventions live side by side, and names tell them apart:

- *fields* of shape :math:`(*, in)`: ``A(x)``, ``A.adjoint(y)``, ``A.solve(b)``, ``A.sample()``;
- *columns* of shape :math:`(*, N)` or :math:`(*, N, C)` as in ``linear_operator``: ``A @ x``,
  ``A.diagonal()``, ``A.to_dense()``, ``torch.linalg.solve(A, b)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Size, Tensor

from . import dense
from .arguments import as_scalar, as_target
from .columns import Columns
from .external import LinearOperator
from .shapes import as_size
from .tree import convert, differentiable, replace, tensors

if TYPE_CHECKING:
    from .leastsquares import LeastSquaresSolver
    from .solution import Solver

__all__ = ["Map", "Operator"]


class Map(ABC):
    r"""A differentiable map :math:`f` between fields.

    Subclasses set ``in_shape`` and ``out_shape`` and implement :meth:`forward` and
    :meth:`linearize`.

    Example:
        >>> from appa_prob.operators import Mask, Nonlinear
        >>> f = Mask(torch.tensor([True, False])) @ Nonlinear(torch.exp, 2, 2)
        >>> f(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    in_shape: Size
    out_shape: Size

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Computes :math:`f(x)` without checking the shape of :math:`x`.

        Arguments:
            x: A field, with shape :math:`(*, in)`.

        Returns:
            A field, with shape :math:`(*, out)`.
        """

    @abstractmethod
    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        r"""Computes :math:`f(x)` and the Jacobian :math:`\partial f / \partial x` with one forward
        pass.

        Arguments:
            x: The point, with shape :math:`(*, in)`.

        Returns:
            The value, with shape :math:`(*, out)`, and the Jacobian, batched as :math:`x`.
        """

    def __call__(self, x: Tensor) -> Tensor:
        r"""Computes :math:`f(x)`.

        Raises:
            ValueError: If the last axes of :math:`x` aren't ``in_shape``.
        """
        shape = self.in_shape
        if x.shape[x.ndim - len(shape) :] != shape:
            self._refuse(x, shape)
        return self.forward(x)

    def __matmul__(self, other: Any) -> Any:
        """Composes two maps, the right one applied first."""
        from .nonlinear import chain  # a chain is itself a map: imported when both are known

        return chain(self, other) if isinstance(other, Map) else NotImplemented

    def to(self, *args: Any, **kwargs: Any) -> Map:
        """Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        return self

    def _check(self, x: Tensor, shape: Size) -> None:
        if x.shape[x.ndim - len(shape) :] != shape:
            self._refuse(x, shape)

    def _refuse(self, x: Tensor, shape: Size) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__}: expected a field of shape (*, {', '.join(map(str, shape))}), "
            f"got {tuple(x.shape)}; batch axes come first, event axes last (columns are for A @ x)"
        )


class Operator(Map, Columns):
    r"""A linear map :math:`A` between fields, and a matrix over flattened fields.

    Subclasses call ``super().__init__`` and implement :meth:`forward` and :meth:`adjoint`, both of
    fields. Their attributes that are tensors, operators or tuples of these are moved,
    differentiated and pickled without further ado.

    .. math:: \langle A x, y \rangle = \langle x, A^T y \rangle

    Arguments:
        in_shape: The shape of input events.
        out_shape: The shape of output events.
        batch_shape: The shape of the batch of operators; broadcast against the batch axes of
            fields.
        dtype: The floating type, for operators without floating tensors; by default that of the
            tensors.
        device: The device, for operators without tensors; by default that of the tensors.
        symmetric: Whether :math:`A = A^T` by construction; by default what the class says (no).

    Attributes:
        total: Where fields are parts of longer ones, which several processes hold: what adds up
            numbers over these, so that inner products are those of the whole; else None.

    Example:
        >>> class Reverse(Operator):
        ...     def forward(self, x):
        ...         return x.flip(-1)
        ...     def adjoint(self, y):
        ...         return y.flip(-1)
        >>> A = Reverse(3, 3)
        >>> A(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 2., 1.])
        >>> (2.0 * A - A).to_dense()
        tensor([[0., 0., 1.],
                [0., 1., 0.],
                [1., 0., 0.]])
    """

    symmetric: bool = False
    scatters: bool = False  # whether add_adjoint writes into the field that it is given
    total: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        *,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        symmetric: bool | None = None,
    ) -> None:
        LinearOperator.__init__(self)
        self.in_shape = as_size(in_shape)
        self.out_shape = as_size(out_shape)
        if symmetric is not None:
            self.symmetric = symmetric
        self._batch = Size(batch_shape)
        self._dtype = dtype
        self._device = None if device is None else torch.device(device)

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        r"""Computes :math:`A^T y`.

        Arguments:
            y: A field, with shape :math:`(*, out)`.

        Returns:
            A field, with shape :math:`(*, in)`.
        """

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        r"""Computes :math:`x + A^T y`, in place where the operator ``scatters``.

        Arguments:
            y: A field, with shape :math:`(*, out)`.
            x: A field, with shape :math:`(*, in)`, not to be used any more.

        Returns:
            A field, with shape :math:`(*, in)`.
        """
        return x + self.adjoint(y)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        """The value and the operator itself, its own Jacobian."""
        return self(x), self

    @property
    def T(self) -> Operator:
        """The adjoint operator."""
        return self if self.symmetric else self._transposed()

    def solve(self, b: Tensor) -> Tensor:
        r"""Solves :math:`A x = b` for a symmetric positive definite :math:`A`.

        By structure where there is one; otherwise by a dense Cholesky factorisation, for small
        events.

        Arguments:
            b: A field, with shape :math:`(*, out)`.

        Returns:
            The field :math:`x`, with shape :math:`(*, in)`.

        Raises:
            ValueError: If :math:`A` isn't symmetric positive definite, or too large for a dense
                factorisation.
        """
        self._check(b, self.out_shape)
        return dense.solve(self, b)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws :math:`x \sim \mathcal{N}(0, A)`, for a symmetric positive semi-definite
        :math:`A`.

        Arguments:
            shape: The shape :math:`S` of the sample.
            generator: A source of random numbers.

        Returns:
            Fields, with shape :math:`(S, *, in)`.

        Raises:
            ValueError: As :meth:`solve`.
        """
        return dense.sample(self, shape, generator)

    def logdet(self) -> Tensor:
        r"""Computes :math:`\log \det A`, with the shape of the batch.

        Raises:
            ValueError: As :meth:`solve`.
        """
        return dense.logdet(self)

    def cross(self, H: Operator) -> Tensor:
        r"""The dense matrix :math:`H A` for a symmetric :math:`A`: the covariance between
        :math:`H x` and :math:`x` if :math:`A` is that of :math:`x`.

        Costs as many products as :math:`H` has rows; operators whose entries are known do better.

        Arguments:
            H: The operator :math:`H`.

        Returns:
            The matrix, one field a row, with shape :math:`(*, n, in)`.
        """
        n = H.out_shape.numel()
        eye = torch.eye(n, dtype=self.dtype, device=self.device)
        batch = (1,) * max(len(self.batch_shape), len(H.batch_shape))
        rows = self.forward(H.adjoint(eye.reshape(n, *batch, *H.out_shape)))
        return rows.movedim(0, rows.ndim - len(self.in_shape) - 1)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves to a device or a floating type, as :meth:`torch.Tensor.to`."""
        dtype, device = as_target(*args, **kwargs)
        return self._converted(dtype, device)

    def spec(self) -> dict[str, Any]:
        """The operator as plain data, from which :func:`appa_prob.operators.build` makes it again.

        Raises:
            TypeError: If it has parts that aren't data, such as functions.
        """
        from .registry import describe

        spec: dict[str, Any] = describe(self)
        return spec

    def __repr__(self) -> str:
        source, target = tuple(self.in_shape), tuple(self.out_shape)
        arrow = "" if source == target else f" -> {target}"
        return f"{type(self).__name__}({source}{arrow})"

    # -- algebra

    def __matmul__(self, other: Any) -> Any:
        """``A @ B`` composes operators and maps; ``A @ x`` multiplies columns."""
        if isinstance(other, Operator):
            from .algebra import compose

            return compose(self, other)
        return Map.__matmul__(self, other) if isinstance(other, Map) else self.matmul(other)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            from .algebra import add

            return add(self, other)
        return super().__add__(other)

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __neg__(self) -> Operator:
        return self * -1.0  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> Any:
        scalar = as_scalar(other)
        if scalar is None:
            return super().__mul__(other)
        from .algebra import scale

        return scale(scalar, self)

    __rmul__ = __mul__

    def mul(self, other: Any) -> Any:
        """As ``A * c`` for a scalar, else the product element by element."""
        return super().mul(other) if as_scalar(other) is None else self * other

    def __truediv__(self, other: Any) -> Any:
        return self * (1.0 / other)

    def __pow__(self, exponent: int) -> Operator:
        from .algebra import power

        return power(self, exponent)

    def inverse(self, solver: Solver | None = None) -> Operator:
        r"""The inverse :math:`A^{-1}` as an operator, by structure where there is one, and by a
        solver (or :meth:`solve`) elsewhere.

        Arguments:
            solver: What solves systems.

        Raises:
            ValueError: If :math:`A` isn't square.
        """
        from .inverse import inverse

        return inverse(self, solver)

    def pseudo_inverse(self, solver: LeastSquaresSolver | None = None) -> Operator:
        r"""The pseudo-inverse :math:`A^+` as an operator, by structure where there is one, and by
        a solver (or a singular value decomposition) elsewhere.

        Arguments:
            solver: What solves least-squares problems.

        Raises:
            ValueError: If it needs a solver.
        """
        from .pseudo_inverse import pseudo_inverse

        return pseudo_inverse(self, solver)

    def _converted(self, dtype: torch.dtype | None, device: torch.device | None) -> Self:
        def retarget(node: Any) -> None:
            if isinstance(node, Operator):
                node._retarget(dtype, device)

        return replace(self, lambda a: convert(a, dtype, device), retarget)

    def _transposed(self) -> Operator:
        """The adjoint of an operator that isn't symmetric."""
        from .expressions import Adjoint

        return Adjoint(self)

    def _mirrors(self, other: Operator) -> bool:
        """Whether the operator is made as the adjoint of another one."""
        return other is self and self.symmetric

    def _same(self, other: Operator) -> bool:
        """Whether another operator is known to have the same matrix."""
        return other is self

    def _retarget(self, dtype: torch.dtype | None, device: torch.device | None) -> None:
        if dtype is not None and not any(map(differentiable, tensors(self))):
            self._dtype = dtype
        if device is not None and next(tensors(self), None) is None:
            self._device = device
