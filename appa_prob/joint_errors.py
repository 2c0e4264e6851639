r"""Several instruments as one likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Size, Tensor

from appa_prob.operators import Fields
from appa_prob.operators.shapes import broadcast
from appa_prob.samplers import JointLikelihood

from .information import Part, split
from .map_likelihood import MapLikelihood

__all__ = ["Joint", "JointDistribution"]


class JointDistribution(dist.TorchDistribution):
    r"""Independent laws of several fields, packed to one flat event.

    .. math:: \log p(y) = \sum_i \log p_i(y_i)

    Arguments:
        laws: The laws by the names of the fields, distributions of Pyro of one batch shape.

    Example:
        >>> import torch
        >>> law = JointDistribution({
        ...     "count": dist.Poisson(torch.ones(2)).to_event(1),
        ...     "level": dist.Normal(torch.zeros(3), 1.0).to_event(1),
        ... })
        >>> law.log_prob(torch.zeros(5))
        tensor(-4.7568)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012, as torch declares it

    def __init__(self, laws: Mapping[str, Any]) -> None:
        self.laws = dict(laws)
        self.fields = Fields({name: law.event_shape for name, law in self.laws.items()})
        batch = broadcast(*(law.batch_shape for law in self.laws.values()))
        super().__init__(batch, self.fields.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        r"""Vectors: the parts are validated by their own laws."""
        return constraints.real_vector

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> JointDistribution:
        r"""The same law for a larger batch.

        Arguments:
            batch_shape: The shape of the batch.
        """
        return JointDistribution(
            {name: law.expand(batch_shape) for name, law in self.laws.items()}
        )

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The logarithm of the density.

        Arguments:
            value: The fields, packed, with shape :math:`(*, batch, event)`.
        """
        parts = self.fields.unpack(value)
        first, *others = (law.log_prob(parts[name]) for name, law in self.laws.items())
        total: Tensor = sum(others, first)
        return total

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws fields, packed.

        Arguments:
            sample_shape: The shape of the sample.
        """
        shape = Size(sample_shape)
        return self.fields.pack({name: law.sample(shape) for name, law in self.laws.items()})


@split.register
def _(law: JointDistribution, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    values = law.fields.unpack(value)
    return [part for name, one in law.laws.items() for part in split(one, values[name], weight)]


class Joint:
    r"""The likelihood of several observations, independent given the state.

    .. math:: p(y \mid x) = \prod_i p(y_i \mid x)

    Called on a state it is one distribution of Pyro, of all observations packed by
    ``joint.pack({...})``; ``joint.given({...})`` is what guidance conditions on.

    Arguments:
        likelihoods: The likelihoods by the names of the observations, of one state.

    Raises:
        ValueError: If there is none, or if their states have different shapes.

    Example:
        >>> import torch
        >>> from appa_prob.likelihoods import GaussianLikelihood, Poisson
        >>> from appa_prob.operators import Identity, Mask
        >>> first = Mask(torch.tensor([True, False]))
        >>> joint = Joint({
        ...     "counts": Poisson(Identity(2)), "level": GaussianLikelihood(first, 1.0)
        ... })
        >>> y = {"counts": torch.zeros(2), "level": torch.zeros(1)}
        >>> joint(torch.zeros(2)).log_prob(joint.pack(y))
        tensor(-2.9189)
        >>> joint.given(y).log_prob(torch.zeros(2))
        tensor(-2.9189)
    """

    def __init__(self, likelihoods: Mapping[str, MapLikelihood]) -> None:
        shapes = {name: tuple(one.in_shape) for name, one in likelihoods.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"expected likelihoods of states of one shape, got {shapes}")
        self.likelihoods = dict(likelihoods)
        self.fields = Fields({name: one.out_shape for name, one in likelihoods.items()})

    def __call__(self, x: Tensor) -> JointDistribution:
        r"""The law of all observations of a state.

        Arguments:
            x: The state, with shape :math:`(*, in)`.
        """
        return JointDistribution({name: one(x) for name, one in self.likelihoods.items()})

    def pack(self, y: Mapping[str, Tensor]) -> Tensor:
        r"""Makes one flat observation of several.

        Arguments:
            y: The observations by their names.
        """
        return self.fields.pack(y)

    def given(self, y: Mapping[str, Tensor]) -> JointLikelihood:
        r"""The likelihood of states, given what was observed.

        Arguments:
            y: The observations by their names.

        Raises:
            ValueError: If one is missing or not known, or doesn't fit.
        """
        self.fields.pack(y)
        return JointLikelihood([one.given(y[name]) for name, one in self.likelihoods.items()])
