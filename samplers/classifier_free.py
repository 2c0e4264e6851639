r"""Conditional denoisers, and their guidance without a classifier.

There are two ways to condition on an observation :math:`y`: guidance takes a likelihood and any
prior, see :mod:`~appa_prob.samplers.guidance`; here a network has learnt
:math:`d(x_t, t, y) \approx \mathbb{E}[x \mid x_t, y]` from pairs :math:`(x, y)`. If it was trained
with :math:`y` left out now and then, by :func:`leave_out`, it knows the prior too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .denoiser import Denoiser

__all__ = ["ClassifierFree", "leave_out"]


class ClassifierFree(Denoiser):
    r"""The denoiser of a conditional network, given what it is conditioned on.

    .. math:: d(x_t, t) = d(x_t, t, \varnothing)
        + w \left( d(x_t, t, y) - d(x_t, t, \varnothing) \right)

    For :math:`w = 1` it is that of the posterior :math:`p(x \mid y)`, and :math:`y` is all that is
    needed. For :math:`w > 1` it overstates what is particular to :math:`y`, as pictures like; the
    law of its samples is then neither the posterior nor one that is known, as a power of
    :math:`p(y \mid x)` is not diffused to the same power of :math:`p(y \mid x_t)`. For
    :math:`w = 0` it is the prior. Both terms are computed by one call, of twice the batch.

    Arguments:
        denoiser: The denoiser, which takes `context` as keywords.
        context: What it is conditioned on: tensors without batch axes, or with `batch_ndim` of
            them, as the states.
        null: What stands for no context, tensors that broadcast with those of the context; needed
            unless :math:`w = 1`.
        weight: The weight :math:`w`.
        batch_ndim: The number of batch axes of the context: 1 if each member has its own.

    Raises:
        ValueError: If the weight is not finite, or `null` is missing or has other names.

    References:
        | Classifier-Free Diffusion Guidance (Ho and Salimans, 2022)
        | https://arxiv.org/abs/2207.12598

    Example:
        >>> from appa_prob.samplers import CleanPrediction, VESchedule
        >>> net = lambda x, t, y: x / 2 + y
        >>> d = CleanPrediction(net, VESchedule(), (2,))
        >>> y, zero = torch.tensor([1.0, 3.0]), torch.zeros(2)
        >>> ClassifierFree(d, {"y": y}, {"y": zero}, weight=2.0)(torch.zeros(2), torch.tensor(0.5))
        tensor([2., 6.])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        context: Mapping[str, Tensor],
        null: Mapping[str, Tensor] | None = None,
        *,
        weight: float = 1.0,
        batch_ndim: int = 0,
    ) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        if not abs(weight) < float("inf"):
            raise ValueError(f"expected a finite weight, got {weight}")
        if weight != 1 and (null is None or set(null) != set(context)):
            raise ValueError(
                f"expected null with the names of the context, {sorted(context)}, for the weight "
                f"{weight}, got {sorted(null or ())}; only a weight of 1 needs none"
            )
        self.denoiser, self.weight, self.batch_ndim = denoiser, weight, batch_ndim
        self.names = tuple(context)
        for name, value in context.items():
            self.register_buffer(f"context_{name}", value, persistent=False)
            other = value if null is None else null[name].to(value).expand_as(value)
            self.register_buffer(f"null_{name}", other, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        batch = x_t.shape[: x_t.ndim - len(self.event_shape)]
        given, null = (self._context(kind, batch) for kind in ("context", "null"))
        if self.weight == 1:
            mean: Tensor = self.denoiser(x_t, t, **given, **context)
            return mean
        both = {name: torch.stack((null[name], given[name])) for name in self.names}
        both.update({name: torch.stack((value, value)) for name, value in context.items()})
        times = t.expand(2, *t.shape) if t.ndim else t
        without, conditioned = self.denoiser(x_t.expand(2, *x_t.shape), times, **both)
        guided: Tensor = without + self.weight * (conditioned - without)
        return guided

    def _context(self, kind: str, batch: torch.Size) -> dict[str, Tensor]:
        """The context or what stands for none, for each member; other batch axes come first."""
        tensors = ((name, getattr(self, f"{kind}_{name}")) for name in self.names)
        return {k: v.expand(*batch, *v.shape[self.batch_ndim :]) for k, v in tensors}


def leave_out(
    context: Mapping[str, Tensor],
    null: Mapping[str, Tensor],
    probability: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""Leaves out the context of some members of a batch, in training.

    Arguments:
        context: The context, tensors of shape :math:`(N, \dots)`.
        null: What stands for no context, tensors that broadcast with those of the context.
        probability: How often the context of a member is left out, all of it at once.
        generator: A source of random numbers.

    Returns:
        The context with some members replaced.

    Raises:
        ValueError: If the probability lies outside :math:`[0, 1]`, or names differ.

    References:
        | Classifier-Free Diffusion Guidance (Ho and Salimans, 2022)
        | https://arxiv.org/abs/2207.12598

    Example:
        >>> leave_out({"y": torch.ones(2, 3)}, {"y": torch.zeros(3)}, 1.0)["y"].unique()
        tensor([0.])
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a probability in [0, 1], got {probability}")
    if set(null) != set(context):
        raise ValueError(
            f"expected null with the names of the context, {sorted(context)}, got {sorted(null)}"
        )
    first = next(iter(context.values()))
    left = torch.rand(len(first), generator=generator, device=first.device) < probability
    return {
        name: torch.where(left.reshape(-1, *(1,) * (value.ndim - 1)), null[name].to(value), value)
        for name, value in context.items()
    }
