r"""Mixtures of Gaussians with lazy covariances, and their conditioning on observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from appa_prob.operators import Operator
from appa_prob.operators.dense import draw
from appa_prob.operators.shapes import broadcast, flatten, unflatten

from .denoiser import over
from .gaussian import ConditionalCovariance, Gaussian
from .likelihood import Likelihood
from .log_density import log_density

__all__ = ["Mixture", "MixtureCovariance"]


@dataclass(frozen=True, eq=False)
class Mixture:
    r"""The mixture :math:`\sum_k w_k \, \mathcal{N}(\mu_k, \Sigma_k)` of :math:`K` Gaussians.

    Arguments:
        log_weights: The logarithms :math:`\log w_k` of normalised weights, with shape
            :math:`(*, K)`.
        means: The means :math:`\mu_k`, with shape :math:`(*, K, event)`.
        covariances: The covariances :math:`\Sigma_k`, an operator on events whose batch is
            broadcast to :math:`(*, K)`.

    Raises:
        ValueError: If shapes don't fit.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> law = Mixture(torch.full((2,), 0.5).log(), means, Isotropic(0.1, 2))
        >>> law.mean, law.covariance.diagonal()
        (tensor([0., 0.]), tensor([1.1000, 0.1000]))
        >>> A = Mask(torch.tensor([True, False]))
        >>> law.condition(GaussianLikelihood(A, torch.tensor([1.0]), 0.1)).log_weights.exp()
        tensor([4.5398e-05, 9.9995e-01])
    """

    log_weights: Tensor
    means: Tensor
    covariances: Operator

    def __post_init__(self) -> None:
        event = self.covariances.in_shape
        batch = self.means.shape[: self.means.ndim - len(event)]
        if (
            self.means.shape[len(batch) :] != event
            or self.covariances.out_shape != event
            or not batch
            or self.log_weights.shape[-1:] != batch[-1:]
        ):
            raise ValueError(
                "expected weights of shape (*, K), means of shape (*, K, event) and covariances "
                f"of such events, got {tuple(self.log_weights.shape)}, {tuple(self.means.shape)} "
                f"and {self.covariances!r}"
            )
        broadcast(self.log_weights.shape, batch, self.covariances.batch_shape)

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`m = \sum_k w_k \mu_k`, with shape :math:`(*, event)`."""
        return self._combine(self.means)

    @property
    def covariance(self) -> MixtureCovariance:
        r"""The covariance :math:`\sum_k w_k (\Sigma_k + (\mu_k - m)(\mu_k - m)^T)`."""
        return MixtureCovariance(
            self.log_weights.exp(), self.means - self._spread(self.mean), self.covariances
        )

    @property
    def gaussian(self) -> Gaussian:
        r"""The Gaussian of the same mean and covariance."""
        return Gaussian(self.mean, self.covariance)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes the logarithm of the density.

        Arguments:
            x: The state, with shape :math:`(*, event)`.

        Returns:
            The logarithms, with shape :math:`(*)`.
        """
        density = log_density(self._spread(x) - self.means, self.covariances)
        return torch.logsumexp(self.log_weights + density, -1)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws from the mixture.

        Arguments:
            shape: The shape :math:`S` of the sample.
            generator: A source of random numbers.

        Returns:
            A sample, with shape :math:`(S, *, event)`.
        """
        weights = self.log_weights.exp()
        batch = broadcast(weights.shape, self.means.shape[: self.means.ndim - len(self._event)])
        count = math.prod(shape)
        rows = weights.expand(batch).reshape(-1, batch[-1])
        picks = torch.multinomial(rows, count, replacement=True, generator=generator)
        picks = picks.T.reshape((*shape, *batch[:-1]))
        draws = self.means + draw(self.covariances, batch, shape, generator)
        index = over(picks.unsqueeze(-1), self._event).expand(*picks.shape, 1, *self._event)
        return draws.gather(picks.ndim, index).squeeze(picks.ndim)

    def condition(self, likelihood: Likelihood) -> Mixture:
        r"""Conditions on an observation :math:`y = h(x) + \eta`, with :math:`h` linearised at the
        mean of each component.

        .. math:: p(x \mid y) = \sum_k w'_k \, \mathcal{N}(\mu'_k, \Sigma'_k) \qquad
            w'_k \propto w_k \, \mathcal{N}(y \mid h(\mu_k), H \Sigma_k H^T + R)

        with the update of Kalman, :meth:`Gaussian.condition`, in each component. It is exact if
        :math:`h` is affine and :math:`\eta` Gaussian.

        Arguments:
            likelihood: The likelihood :math:`p(y \mid x)` of one observation.

        Raises:
            ValueError: If the likelihood is not one of such events, if :math:`y` is a batch, or
                if the observation is too large for a dense factorisation.
        """
        posterior, evidence = Gaussian(self.means, self.covariances).condition_with_evidence(
            likelihood
        )
        left = posterior.covariance
        assert isinstance(left, ConditionalCovariance)
        if likelihood.y.ndim != len(left.H.out_shape):
            raise ValueError(
                "expected one observation for all components of the mixture, got a batch of shape "
                f"{tuple(likelihood.y.shape)}"
            )
        log_weights = torch.log_softmax(self.log_weights + evidence, -1)
        return Mixture(log_weights, posterior.mean, left)

    @property
    def _event(self) -> torch.Size:
        return self.covariances.in_shape

    def _spread(self, x: Tensor) -> Tensor:
        """Fields with an axis of length 1 for the components."""
        return x.unsqueeze(x.ndim - len(self._event))

    def _combine(self, fields: Tensor) -> Tensor:
        return unflatten(
            average(self.log_weights.exp(), flatten(fields, self._event)), self._event
        )


def average(weights: Tensor, vectors: Tensor) -> Tensor:
    r"""The average :math:`\sum_k w_k v_k`.

    Arguments:
        weights: The weights, with shape :math:`(*, K)`.
        vectors: The vectors, with shape :math:`(*, K, n)`.

    Example:
        >>> average(torch.tensor([0.5, 0.5]), torch.eye(2))
        tensor([0.5000, 0.5000])
    """
    return (weights[..., None, :] @ vectors)[..., 0, :]


class MixtureCovariance(Operator):
    r"""The covariance :math:`\sum_k w_k (\Sigma_k + \delta_k \delta_k^T)` of a mixture.

    Arguments:
        weights: The weights :math:`w_k`, with shape :math:`(*, K)`.
        deviations: The deviations :math:`\delta_k = \mu_k - m` from the mean, with shape
            :math:`(*, K, event)`.
        covariances: The covariances :math:`\Sigma_k`, whose batch is broadcast to
            :math:`(*, K)`.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> ends = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> V = MixtureCovariance(torch.tensor([0.5, 0.5]), ends, Isotropic(0.1, 2))
        >>> V(torch.ones(2)), V.diagonal()
        (tensor([1.1000, 0.1000]), tensor([1.1000, 0.1000]))
    """

    symmetric = True

    def __init__(self, weights: Tensor, deviations: Tensor, covariances: Operator) -> None:
        event = covariances.in_shape
        full = broadcast(
            weights.shape,
            deviations.shape[: deviations.ndim - len(event)],
            covariances.batch_shape,
        )
        super().__init__(event, event, batch_shape=full[:-1])
        self.weights, self.deviations, self.covariances = weights, deviations, covariances

    def forward(self, x: Tensor) -> Tensor:
        event = self.in_shape
        spread = flatten(self.covariances.forward(x.unsqueeze(x.ndim - len(event))), event)
        # A covariance that all components share is there once.
        inner = spread[..., 0, :] if spread.shape[-2] == 1 else average(self.weights, spread)
        return unflatten(inner + self._between(flatten(x, event)), event)

    def _between(self, x: Tensor) -> Tensor:
        """The part of the deviations, by products of matrices whose columns are the first axes."""
        deviations = flatten(self.deviations, self.in_shape)
        extra = max(x.ndim - deviations.ndim + 1, 0)
        columns = x.reshape(-1, *x.shape[extra:]).movedim(0, -1)
        y = deviations.mT @ (self.weights[..., None] * (deviations @ columns))
        y = y.movedim(-1, 0)
        return y.reshape((*x.shape[:extra], *y.shape[1:]))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws :math:`\sum_k \sqrt{w_k} (x_k + z_k \delta_k)` with :math:`x_k \sim
        \mathcal{N}(0, \Sigma_k)` and :math:`z_k \sim \mathcal{N}(0, 1)`."""
        event, batch = self.in_shape, Size((*self.batch_shape, self.weights.shape[-1]))
        x = draw(self.covariances, batch, shape, generator)
        z = torch.randn(
            x.shape[: x.ndim - len(event)], generator=generator, dtype=x.dtype, device=x.device
        )
        terms = over(self.weights.sqrt(), event) * (x + over(z, event) * self.deviations)
        return terms.sum(-1 - len(event))

    def _diagonal(self) -> Tensor:
        variances = self.covariances.diagonal() + flatten(self.deviations, self.in_shape).square()
        return (self.weights[..., None] * variances).sum(-2)
