r"""Windows of latents, which the denoiser is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .latents import Latents, open_encoder, open_latents
from .states import Period
from .transformer import TrajectoryTransformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Windows", "encoded_windows"]


class Windows:
    r"""Windows of a series of latents, with the dates of their states.

    Arguments:
        latents: Latents at equal steps, with shape :math:`(L, c, h, w)`, or a store of them.
        dates: Their dates, with shape :math:`(L, 2)`.
        window: The number :math:`W` of states of a window.
    """

    def __init__(self, latents: Tensor | Latents, dates: Tensor, window: int) -> None:
        self.latents, self.dates, self.window = latents, dates, window

    def __len__(self) -> int:
        return len(self.latents) - self.window + 1

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        r"""Windows, with shape :math:`(n, W, c, h, w)`, and dates, :math:`(n, W, 2)`."""
        parts = [slice(first, first + self.window) for first in indices.tolist()]
        latents = torch.stack([self.latents[part] for part in parts])
        return latents, torch.stack([self.dates[part] for part in parts])


@torch.no_grad()
def encoded_windows(
    folder: Path, data: Path | str, period: Period, window: int, dump: Path | str | None = None
) -> Windows:
    r"""The windows of the latents of a period.

    Arguments:
        folder: The folder of a trained autoencoder.
        data: The dataset, which is encoded a part at a time.
        period: The period.
        window: The number of states of a window.
        dump: The store of latents to take instead, see :func:`appa_prob.latents.encode_dataset`.

    Raises:
        UserError: If there are no more states than in a window, if they are not at equal steps, or
            if the dump is of another autoencoder.
    """
    if dump is not None:
        times = Latents(dump, period).times
        _check(times, window)
        latents: Tensor | Latents = open_latents(dump, folder, period)
    else:
        autoencoder, states = open_encoder(folder, data, period)
        times = states.times
        _check(times, window)
        latents = torch.cat([autoencoder.encode(part) for part in states.parts()])
    return Windows(latents, TrajectoryTransformer.date_features(times), window)


def _check(times: NDArray[np.datetime64], window: int) -> None:
    if len(times) <= window:
        raise UserError(
            f"expected more than {window} states, the window, in each period, "
            f"got {len(times)}: choose longer periods or a shorter window"
        )
    steps = np.diff(times)
    if (steps != steps[0]).any():
        first = np.datetime_as_string(times[1:][steps != steps[0]][0], unit="m")
        raise UserError(
            f"expected states at equal steps, got another one before {first}: choose periods "
            "without gaps"
        )
