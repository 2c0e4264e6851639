r"""Likelihoods: laws of observations, for programs of Pyro and for guidance alike.

A likelihood is a callable from a state to a distribution of Pyro, and ``likelihood.given(y)`` is
what methods of guidance condition on: Gaussian errors exactly, others by the method of Gauss and
Newton, see :mod:`appa_prob.information`.

Example:
    >>> import pyro, torch
    >>> from appa_prob.operators import Identity
    >>> from appa_prob.samplers import MMPS, GaussianDenoiser, VESchedule
    >>> from appa_prob.operators import Isotropic
    >>> counts = Poisson(Identity(2), exposure=10.0)
    >>> y = torch.tensor([20.0, 5.0])
    >>> with pyro.poutine.trace() as trace:
    ...     y = pyro.sample("y", counts(torch.zeros(2)), obs=y)
    >>> trace.trace.log_prob_sum()
    tensor(-9.5585)
    >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
    >>> posterior = MMPS(prior, counts.given(y))
"""

from .bounded_errors import Censored, Truncated
from .counts import Bernoulli, NegativeBinomial, Poisson
from .gaussian_errors import GaussianLikelihood
from .joint_errors import Joint
from .map_likelihood import MapLikelihood
from .missing import Missing
from .positive_errors import LogNormal
from .robust_errors import Laplace, StudentT

__all__ = [
    "Bernoulli",
    "Censored",
    "GaussianLikelihood",
    "Joint",
    "Laplace",
    "LogNormal",
    "MapLikelihood",
    "Missing",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "Truncated",
]
