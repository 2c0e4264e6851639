r"""Counts in the cells of a grid, where a part of it was not looked at: a Cox process.

The logarithm of the intensity is a field with a diffusion prior, here the exact denoiser of a
Gaussian process; a network that was trained on fields goes in its place. Draws the truth, the
counts, and the mean and the spread of the posterior: python examples/poisson_counts.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.likelihoods import Poisson
from appa_prob.operators import Dense, Mask
from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule


def gaussian_process(size: int, scale: float) -> Dense:
    """The covariance of a smooth field on a grid."""
    axis = torch.arange(float(size))
    place = torch.cartesian_prod(axis, axis)
    kernel = torch.exp(-torch.cdist(place, place).square() / (2 * scale**2))
    return Dense(kernel + 1e-3 * torch.eye(size**2), (size, size), (size, size), symmetric=True)


def draw(panels: dict[str, Tensor], path: Path) -> None:
    """One map for each panel."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3), squeeze=False)
    top = float(panels["true intensity"].max())
    for ax, (title, panel) in zip(axes[0], panels.items(), strict=True):
        spread = title == "posterior spread"
        image = ax.imshow(panel.numpy(), vmin=0, vmax=None if spread else top, origin="lower")
        ax.set_title(title)
        ax.set_xticks([])
        ax.set_yticks([])
        figure.colorbar(image, ax=ax, shrink=0.8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(size: int = 16, num_samples: int = 64, path: Path = Path("poisson_counts.png")) -> None:
    pyro.set_rng_seed(2)
    covariance = gaussian_process(size, size / 6)
    denoiser = GaussianDenoiser(torch.full((size, size), 1.5), covariance, VESchedule(0.02, 30.0))
    prior = DiffusionPrior(denoiser, DPMSolver(24))

    # The upper right corner was not looked at.
    seen = torch.ones(size, size, dtype=torch.bool)
    seen[size // 2 :, size // 2 :] = False
    counts = Poisson(Mask(seen))

    def model(y: Tensor | None = None) -> Tensor:
        x = pyro.sample("log_intensity", prior)
        pyro.deterministic("intensity", x.exp())
        observed: Tensor = pyro.sample("counts", counts(x), obs=y)
        return observed

    truth = 1.5 + covariance.sample()
    y = torch.poisson(truth[seen].exp())
    samples = condition(model, y, num_samples=num_samples)

    intensity, x = samples["intensity"], samples["log_intensity"]
    covered = (x.mean(0) - truth).abs() < 1.645 * x.std(0)
    print(f"the truth lies in {float(covered.float().mean()):.0%} of the 90% intervals")
    shown = torch.full((size, size), torch.nan)
    shown[seen] = y
    panels = {
        "true intensity": truth.exp(),
        "counts": shown,
        "posterior mean": intensity.mean(0),
        "posterior spread": intensity.std(0),
    }
    draw(panels, path)


if __name__ == "__main__":
    main()
