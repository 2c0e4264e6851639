r"""Optimizers, and what checkpoints keep of them."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from .errors import UserError
from .parallel import blocks, full_tensor

__all__ = ["OptimizerConfig", "Optimizers"]


class OptimizerConfig(BaseModel):
    r"""An optimizer; in YAML its name alone will do.

    Attributes:
        name: `adamw`, or `muon`: Muon for the matrices of hidden layers, that is, for weights with
            two axes inside blocks, and AdamW for all else. Muon orthogonalises the momentum of a
            matrix, and is scaled so that the learning rates and weight decays of AdamW do for it.
        betas: The decay rates of the moments of AdamW.
        momentum: The momentum of Muon.

    References:
        | Decoupled Weight Decay Regularization (Loshchilov and Hutter, 2019)
        | https://arxiv.org/abs/1711.05101
        | Muon is Scalable for LLM Training (Liu et al., 2025)
        | https://arxiv.org/abs/2502.16982
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95


OptimizerOption = Annotated[
    OptimizerConfig, BeforeValidator(lambda x: {"name": x} if isinstance(x, str) else x)
]


class Optimizers:
    r"""One optimizer or two for the weights of a module.

    Arguments:
        module: The module.
        config: Which.
        weight_decay: The decoupled weight decay.

    Raises:
        UserError: If Muon is asked for, and torch has none or the module no matrices in blocks.

    Example:
        >>> module = nn.Sequential(nn.Linear(2, 4), nn.ModuleList([nn.Linear(4, 4)]))
        >>> optimizers = Optimizers(module, OptimizerConfig(name="muon"), 0.0)
        >>> {name: len(part.param_groups[0]["params"]) for name, part in optimizers.parts.items()}
        {'adamw': 3, 'muon': 1}
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, weight_decay: float) -> None:
        self.names = {p: name for name, p in module.named_parameters()}
        hidden = _hidden(module) if config.name == "muon" else set()
        others = [p for p in self.names if p not in hidden]
        self.parts: dict[str, Optimizer] = {}
        if others:
            self.parts["adamw"] = torch.optim.AdamW(
                others, weight_decay=weight_decay, betas=config.betas
            )
        if config.name == "muon":
            if not hasattr(torch.optim, "Muon"):
                raise UserError("the optimizer muon needs torch 2.9 or later: install it")
            if not hidden:
                raise UserError(
                    "the optimizer muon is for matrices inside blocks, and this module has none: "
                    "take adamw"
                )
            self.parts["muon"] = torch.optim.Muon(
                [p for p in self.names if p in hidden],
                weight_decay=weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )

    def zero_grad(self) -> None:
        r"""Forgets the gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        r"""Takes a step with a learning rate."""
        for name, part in self.parts.items():
            for group in part.param_groups:
                group["lr"] = rate
            if name == "muon":
                _step_whole(part)
            else:
                part.step()

    def start(self) -> None:
        r"""Makes the moments, which are there from the first step on, without a change of weights:
        by a step of rate 0.
        """
        if any(part.state for part in self.parts.values()):
            return
        for parameter in self.names:
            parameter.grad = torch.zeros_like(parameter)
        self.step(0.0)

    def tensors(self) -> dict[str, Tensor]:
        r"""The moments, by the name of the weight."""
        return {
            f"{kind}/{name}/{key}": value
            for kind, part in self.parts.items()
            for parameter, name in self.names.items()
            for key, value in part.state.get(parameter, {}).items()
        }


@torch.no_grad()
def _step_whole(muon: Optimizer) -> None:
    r"""A step of Muon with one whole matrix after another, where they are spread over ranks.

    The products of matrices are in half precision, so that those of parts would differ by the
    number of ranks; and they would take many more exchanges.
    """
    if not any(isinstance(p, DTensor) for group in muon.param_groups for p in group["params"]):
        muon.step()
        return
    for group in muon.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        for parameter in group["params"]:
            whole = nn.Parameter(full_tensor(parameter))
            whole.grad = full_tensor(parameter.grad)
            one: Optimizer = torch.optim.Muon([whole], **options)
            state = muon.state[parameter]
            if state:
                one.state[whole] = {key: full_tensor(value) for key, value in state.items()}
            one.step()
            parameter.copy_(_spread(whole.data, parameter))
            for key, value in one.state[whole].items():
                state[key] = _spread(value, parameter)


def _spread(whole: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return whole
    everywhere = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim)
    return everywhere.redistribute(like.device_mesh, like.placements)


def _hidden(module: nn.Module) -> set[Tensor]:
    layers = {m for block in blocks(module) for m in block.modules() if isinstance(m, nn.Linear)}
    return {layer.weight for layer in layers}
