r"""What a model is made of and what it costs, as text."""

from __future__ import annotations

from .costs import count_parameters, task_costs
from .model_config import ModelConfig

__all__ = ["describe"]


def describe(config: ModelConfig, iterations: int = 3) -> str:
    r"""The parameters, the latents and the costs of the tasks of a model.

    Arguments:
        config: The sizes of the model.
        iterations: The number of iterations of MMPS.

    Example:
        >>> sizes = {"latent_channels": 2, "widths": (4,), "blocks": (1,)}
        >>> tiny = ModelConfig(channels=3, grid=(8, 16), autoencoder=sizes)
        >>> print(describe(tiny).splitlines()[0])
        state        3 x 8 x 16, 384 values
    """
    autoencoder, network = config.build()
    state, latent = autoencoder.state_shape, autoencoder.latent_shape
    lines = [
        f"state        {_shape(state)}, {state.numel():,} values",
        f"latent       {_shape(latent)}, {latent.numel():,} values, compression "
        f"{autoencoder.compression:.1f}",
        f"autoencoder  {count_parameters(autoencoder):,} parameters (encoder "
        f"{count_parameters(autoencoder.encoder):,}, decoder "
        f"{count_parameters(autoencoder.decoder):,})",
    ]
    if network is not None:
        lines.append(
            f"denoiser     {count_parameters(network):,} parameters, {_shape(network.tokens)} = "
            f"{len(network.coordinates):,} tokens of {network.config.width} features"
        )
    lines += [
        "",
        f"A guided step takes {iterations} iterations of MMPS and decodes all states of a window;",
        "training is by AdamW with a running mean; all is in single precision, and nothing is",
        "computed twice to save memory, to which the workspaces of kernels come on top.",
        "",
        f"{'step':30}{'TFLOPs':>12}{'memory (GB)':>14}",
    ]
    for task, cost in task_costs(config, iterations).items():
        lines.append(f"{task:30}{cost.flops / 1e12:12.2f}{cost.memory / 1e9:14.2f}")
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
