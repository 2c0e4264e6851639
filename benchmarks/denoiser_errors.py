r"""Errors of the denoiser in the validation period, relative to what its Gaussian prior expects.

    python benchmarks/denoiser_errors.py nature_run.zarr

Those of the model as it is, without its recalibration, and without its network, at four noise
levels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from appa_prob.appa import Appa
from appa_prob.samplers import PreconditionedDenoiser
from appa_prob.states import StandardisedStates
from appa_prob.train_autoencoder import AutoencoderConfig, open_states
from appa_prob.train_denoiser import DenoiserConfig, validation_losses
from appa_prob.transformer import TrajectoryTransformer
from appa_prob.windows import Windows


@torch.no_grad()
def main(
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    model: Annotated[str, typer.Option(help="The model.")] = "appa-small",
) -> None:
    """Prints the errors."""
    appa = Appa.from_pretrained(model)
    encoder = AutoencoderConfig.model_validate(appa.provenance["autoencoder"])
    config = DenoiserConfig.model_validate(appa.provenance["denoiser"])
    source = open_states(encoder, config.validation, data)
    states = StandardisedStates(source, appa.statistics, cache=False)
    latents = torch.cat([appa.autoencoder.encode(part) for part in states.parts()])
    dates = TrajectoryTransformer.date_features(states.times)
    held = Windows(latents, dates, appa.window)
    report("as it is", appa.denoiser, held)
    appa.denoiser.recalibration = None
    report("without recalibration", appa.denoiser, held)
    appa.denoiser.network = Nothing()
    report("the Gaussian prior", appa.denoiser, held)


class Nothing(torch.nn.Module):
    """A network that adds nothing to the prior."""

    def forward(self, x: Tensor, c_noise: Tensor, **context: Tensor) -> Tensor:
        """Zeros, of half of the channels of what is given: those of the state."""
        return torch.zeros_like(x[..., x.shape[-3] // 2 :, :, :])


def report(name: str, denoiser: PreconditionedDenoiser, held: Windows) -> None:
    """Prints the errors of one denoiser."""
    losses = validation_losses(denoiser, held, "cpu")
    typer.echo(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in losses.items()))


if __name__ == "__main__":
    typer.run(main)
