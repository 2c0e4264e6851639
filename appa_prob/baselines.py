r"""What a reanalysis must beat: the seasonal climatology, and optimal interpolation."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

from appa_prob.operators import Cholesky, Operator
from appa_prob.samplers import Gaussian, GaussianLikelihood

from .appa import Appa
from .dataset import Source
from .eof_prior import fit_eofs, load_eofs, save_eofs
from .files import refuse_existing
from .states import Period, StandardisedStates, States

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .observe import Observations

__all__ = ["EofConfig", "climatology", "optimal_interpolation", "shipped_eofs", "train_eofs"]

LIMIT = 12_000  # observations of one state


class EofConfig(BaseModel):
    r"""The EOFs of optimal interpolation.

    Attributes:
        data: The path or the URL of the dataset.
        model: The name or the folder of the model, for its statistics.
        train: The period to take the EOFs from.
        rank: The number of EOFs.
        degree: The largest degree of the spherical harmonics that they are stored in.
        length: The length scale of the localisation in km; none by default.
    """

    model_config = ConfigDict(extra="forbid")

    data: Source
    model: str
    train: Period
    rank: PositiveInt
    degree: PositiveInt
    length: PositiveFloat | None = None


def train_eofs(config: EofConfig, output: Path, *, overwrite: bool = False) -> None:
    r"""Takes EOFs from the anomalies of a period and writes them.

    Arguments:
        config: What to take them from, and how many.
        output: The safetensors file to write.
        overwrite: Whether it may be replaced.
    """
    refuse_existing(output, overwrite=overwrite)
    appa = Appa.from_pretrained(config.model)
    source = States(config.data, config.train)
    states = StandardisedStates(source, appa.statistics, cache=True).memory
    assert states is not None
    rows = torch.as_tensor(appa.grid.weights, dtype=torch.float32)
    factor = fit_eofs(states, rows, config.rank)
    save_eofs(output, factor, appa.grid, degree=config.degree, length=config.length)


def shipped_eofs(appa: Appa, path: Path | None = None) -> Operator:
    r"""The covariance of optimal interpolation for a model.

    Arguments:
        appa: The model.
        path: The file of :func:`train_eofs`; by default the one that ships with the package.
    """
    shipped = Path(str(resources.files("appa_prob") / "data" / "eofs.safetensors"))
    return load_eofs(path or shipped, appa.grid, appa.variability)


def climatology(appa: Appa, times: NDArray[np.datetime64]) -> tuple[Tensor, Tensor]:
    r"""The mean and the standard deviation of the seasonal climatology in physical units.

    Returns:
        The means, with shape :math:`(L, C, H, W)`, and the standard deviations, with shape
        :math:`(C, H, W)`.
    """
    scale = appa.statistics.scale.reshape(-1, 1, 1)
    return appa.statistics.climatology(times), appa.variability * scale


def optimal_interpolation(
    appa: Appa,
    covariance: Operator,
    observations: Observations,
    times: NDArray[np.datetime64],
    state: int,
) -> tuple[Tensor, Tensor]:
    r"""The exact posterior of one state under a Gaussian prior on its anomalies.

    .. math:: x \sim \mathcal{N}(0, V) \qquad y \mid x \sim \mathcal{N}(H x, R)

    Arguments:
        appa: The model, for its statistics.
        covariance: The covariance :math:`V` of standardised anomalies.
        observations: The observations of the trajectory.
        times: The times of the trajectory.
        state: The index of the state; the observations of the others are not used.

    Returns:
        The mean and the standard deviation in physical units, both with shape :math:`(C, H, W)`.
    """
    here = observations.at(state)
    time = times[state : state + 1]
    prior = Gaussian(torch.zeros(covariance.in_shape), covariance)
    if len(here):
        y, variance = here.standardised(appa.statistics, time)
        H = here.standardised_operator(appa.statistics)
        prior = prior.condition(GaussianLikelihood(H, y, variance), Cholesky(limit=LIMIT))
    std = prior.covariance.diagonal().clamp_min(0.0).sqrt().reshape(covariance.in_shape)
    scale = appa.statistics.scale.reshape(-1, 1, 1)
    return appa.statistics.restore(prior.mean.unsqueeze(0), time)[0], std * scale
