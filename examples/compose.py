r"""An inverse problem in a few lines: a random field, seen by an instrument with a blind spot."""

import torch

from appa_prob.operators import Coarsen, Dense, Mask, Stack
from appa_prob.samplers import MMPS, DPMSolver, GaussianDenoiser, GaussianLikelihood, VESchedule

# p(x): any denoiser; here that of a smooth Gaussian field on 16 x 16 points.
place = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
kernel = torch.exp(-torch.cdist(place, place).square() / 18) + 1e-4 * torch.eye(256)
covariance = Dense(kernel, (16, 16), (16, 16), symmetric=True)
prior = GaussianDenoiser(torch.zeros(16, 16), covariance, VESchedule())

# y = A(x) + noise: coarse averages everywhere, and single points on the left.
left = torch.zeros(16, 16, dtype=torch.bool)
left[::3, :8:3] = True
A = Stack([Coarsen((4, 4), (16, 16)), Mask(left)])
x = covariance.sample()
y = A(x) + 0.1 * torch.randn(A.out_shape)

# p(x | y): guidance makes a denoiser of the posterior, and an integrator samples from it.
posterior = MMPS(prior, GaussianLikelihood(A, y, 0.1**2))
sampler = DPMSolver(32)
samples = sampler(posterior, sampler.noise(posterior, (64,)))
error = (samples.mean(0) - x).abs()
print(f"error: {error[:, :8].mean():.2f} on the left, {error[:, 8:].mean():.2f} on the right")
