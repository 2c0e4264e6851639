r"""Denoisers of independent fields: several unlike ones, or copies of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Size, Tensor, nn

from appa_prob.operators import BlockDiagonal, Fields, Operator
from appa_prob.operators.shapes import broadcast

from .denoiser import Denoiser
from .gaussian import Gaussian

__all__ = ["CopiedDenoiser", "JointDenoiser"]


class JointDenoiser(Denoiser):
    r"""The denoiser of several independent fields, packed to one flat event.

    .. math:: p(x) = \prod_i p_i(x_i) \qquad \mathbb{E}[x \mid x_t] =
        (\mathbb{E}[x_1 \mid x_{1, t}], \dots, \mathbb{E}[x_k \mid x_{k, t}])

    Arguments:
        denoisers: The denoisers by the names of the fields, all with one schedule.

    Raises:
        ValueError: If there is none, or if their schedules differ.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = JointDenoiser({
        ...     "depth": GaussianDenoiser(torch.zeros(2, 2), Isotropic(1.0, (2, 2)), VESchedule()),
        ...     "flow": GaussianDenoiser(torch.ones(3), Isotropic(4.0, 3), VESchedule()),
        ... })
        >>> x = d(torch.zeros(5, 7), torch.tensor(0.5))
        >>> d.fields.unpack(x)["flow"].shape
        torch.Size([5, 3])
    """

    def __init__(self, denoisers: Mapping[str, Denoiser]) -> None:
        fields = Fields({name: d.event_shape for name, d in denoisers.items()})
        schedules = [d.schedule for d in denoisers.values()]
        for name, schedule in zip(denoisers, schedules, strict=True):
            if schedule != schedules[0]:
                raise ValueError(
                    f"expected denoisers of one schedule, {schedules[0]}, got {schedule} for "
                    f"{name!r}"
                )
        super().__init__(fields.shape, schedules[0])
        self.fields = fields
        # Names of fields may hold dots, which those of modules may not.
        self.denoisers = nn.ModuleList(denoisers.values())

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        parts = self.fields.unpack(x_t).items()
        means = {k: d(x, t) for d, (k, x) in zip(self.denoisers, parts, strict=True)}
        return self.fields.pack(means)

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        self.check(x_t, t)
        parts = self.fields.unpack(x_t).items()
        found: dict[str, Gaussian] = {
            k: d.posterior(x, t)  # type: ignore[operator]
            for d, (k, x) in zip(self.denoisers, parts, strict=True)
        }
        mean = self.fields.pack({name: p.mean for name, p in found.items()})
        return Gaussian(mean, BlockDiagonal([p.covariance for p in found.values()]))


class CopiedDenoiser(Denoiser):
    r"""The denoiser of independent copies of one field.

    .. math:: p(x) = \prod_i p(x_i)

    Arguments:
        denoiser: The denoiser of one copy.
        shape: The shape :math:`S` of the copies; events are :math:`(S, event)`.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> one = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> CopiedDenoiser(one, (3,))(torch.ones(5, 3, 2), torch.tensor(0.5)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, denoiser: Denoiser, shape: Sequence[int]) -> None:
        super().__init__(Size((*shape, *denoiser.event_shape)), denoiser.schedule)
        self.denoiser, self.copies = denoiser, Size(shape)

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        mean: Tensor = self.denoiser(x_t, self._time(t), **context)
        return mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        self.check(x_t, t)
        one = self.denoiser.posterior(x_t, self._time(t))
        return Gaussian(one.mean, CopiedOperator(one.covariance, self.copies))

    def _time(self, t: Tensor) -> Tensor:
        """The time of each copy."""
        if not t.ndim:
            return t
        return t.reshape(*t.shape, *(1,) * len(self.copies)).expand(*t.shape, *self.copies)


class CopiedOperator(Operator):
    r"""An operator on each copy of a field: batch axes that have become axes of events.

    .. math:: (A x)_i = A_i x_i

    Arguments:
        operator: The operator, one for all copies or a batch whose last axes are the copies.
        shape: The shape :math:`S` of the copies.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Dense
        >>> A = CopiedOperator(Dense(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), (2,))
        >>> A(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[2., 1.],
                [4., 3.]])
    """

    def __init__(self, operator: Operator, shape: Sequence[int]) -> None:
        self.operator, self.copies = operator, Size(shape)
        batch = operator.batch_shape
        super().__init__(
            (*shape, *operator.in_shape),
            (*shape, *operator.out_shape),
            batch_shape=batch[: max(len(batch) - len(self.copies), 0)],
            symmetric=operator.symmetric,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.operator.adjoint(y)

    def _diagonal(self) -> Tensor:
        one: Tensor = self.operator.diagonal()
        batch = broadcast(one.shape[:-1], (*self.batch_shape, *self.copies))
        return one.expand(*batch, one.shape[-1]).flatten(len(self.batch_shape))
