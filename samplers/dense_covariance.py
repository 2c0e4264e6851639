r"""A denoiser that keeps the covariance of the clean state as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Dense, Operator

from .denoiser import Denoiser
from .gaussian import Gaussian

__all__ = ["DenseCovariance", "spectrum"]


class DenseCovariance(Denoiser):
    r"""A denoiser whose :meth:`posterior` has the nearest covariance to its own: a matrix,
    symmetric and positive semi-definite.

    For an event of :math:`n` numbers it takes :math:`n` products with the Jacobian, after which
    all that guidance and samplers ask of the covariance takes none. The Jacobians of networks are
    neither symmetric nor positive; here they are made so, by the mean with their transpose and by
    the positive eigenvalues.

    Arguments:
        denoiser: The denoiser, guided or not, of small events.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> DenseCovariance(prior).posterior(torch.ones(2), torch.tensor(0.5)).covariance
        Dense((2,))
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t, t, **context)
        return mean

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        posterior = self.denoiser.posterior(x_t, t)
        values, vectors = spectrum(posterior.covariance)
        V = (vectors * values[..., None, :]) @ vectors.mT
        event = self.event_shape
        return Gaussian(posterior.mean, Dense((V + V.mT) / 2, event, event, symmetric=True))


def spectrum(covariance: Operator) -> tuple[Tensor, Tensor]:
    r"""The eigenvalues, at least 0, and the eigenvectors of a covariance, made symmetric.

    Arguments:
        covariance: The covariance, of :math:`n` numbers.

    Returns:
        The eigenvalues, with shape :math:`(*, n)`, and the eigenvectors, with shape
        :math:`(*, n, n)`.

    Example:
        >>> spectrum(Dense(torch.tensor([[2.0, 0.0], [0.0, -1.0]])))[0]
        tensor([0., 2.])
    """
    V = covariance.to_dense()
    wide = torch.promote_types(V.dtype, torch.float32)
    values, vectors = torch.linalg.eigh(((V + V.mT) / 2).to(wide))
    return values.clamp_min(0.0).to(V.dtype), vectors.to(V.dtype)
