r"""Where an integration is, and the file that it goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["State"]


@dataclass(frozen=True, eq=False)
class State:
    r"""Where an integration is: all that its next steps depend on.

    Attributes:
        step: The number of steps taken.
        steps: The number of steps in all.
        t: The time.
        x_t: The noisy state, with shape :math:`(*, event)`.
        memory: What past steps leave for the next, as the means of multistep methods.
        generators: The states of the generators, with shape :math:`(B)` for one, and
            :math:`(M, B)` for those of :math:`M` members; none if none were given.

    Example:
        >>> path = getfixture("tmp_path") / "state.safetensors"
        >>> State(3, 8, 0.625, torch.ones(2)).save(path)
        >>> state = State.load(path)
        >>> state.step, state.t, state.x_t
        (3, 0.625, tensor([1., 1.]))
    """

    step: int
    steps: int
    t: float
    x_t: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    generators: Tensor | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        r"""Writes the state to a safetensors file, at once or not at all.

        Arguments:
            path: The file to write or to replace.
        """
        tensors = {"x_t": self.x_t, **{f"memory.{k}": v for k, v in self.memory.items()}}
        if self.generators is not None:
            tensors["generators"] = self.generators
        # Copies, since safetensors refuses tensors that share memory.
        tensors = {key: value.detach().cpu().clone() for key, value in tensors.items()}
        metadata = {"step": str(self.step), "steps": str(self.steps), "t": self.t.hex()}
        temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> State:
        r"""Reads a state that :meth:`save` wrote.

        Arguments:
            path: The file.
            device: The device of the noisy state and the memory; by default the CPU.

        Raises:
            ValueError: If the file is truncated, or holds no state.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                metadata = file.metadata() or {}
            step, steps, t = int(metadata["step"]), int(metadata["steps"]), metadata["t"]
            x_t, generators = tensors.pop("x_t").to(device), tensors.pop("generators", None)
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"expected a state written by State.save, got {os.fspath(path)}, which is "
                f"truncated or something else ({error}); start again from noise"
            ) from None
        # Times and logarithms of scales stay in double precision on the CPU.
        memory = {
            key.removeprefix("memory."): value.to(device if value.shape == x_t.shape else "cpu")
            for key, value in tensors.items()
        }
        return cls(step, steps, float.fromhex(t), x_t, memory, generators)
