r"""What a reanalysis must beat: the seasonal climatology, and optimal interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

from appa_prob.operators import Cholesky, Diagonal, InnovationCovariance, Operator
from appa_prob.operators.weighted import padded
from appa_prob.samplers import Gaussian, GaussianLikelihood
from appa_prob.samplers.gaussian import ConditionalCovariance

from .appa import Appa
from .dataset import Source
from .eof_prior import fit_eofs, load_eofs, save_eofs
from .files import refuse_existing
from .states import Period, StandardisedStates, States

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .observe import Observations
    from .observer import Observer

__all__ = ["EofConfig", "OptimalInterpolation", "climatology", "shipped_eofs", "train_eofs"]

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


class OptimalInterpolation:
    r"""The exact posterior of one state under a Gaussian prior on its anomalies.

    .. math:: x \sim \mathcal{N}(0, V) \qquad y \mid x \sim \mathcal{N}(H x, R)

    What stations observe at all times alike is conditioned on first, once for all states: its
    covariance does not depend on values. It is then the prior of what only this state has.

    Arguments:
        appa: The model, for its statistics.
        covariance: The covariance :math:`V` of standardised anomalies.
        observations: The observations of the trajectory.
        times: The times of the trajectory.
        states: The indices of the states that will be asked for; by default all.
    """

    def __init__(
        self,
        appa: Appa,
        covariance: Operator,
        observations: Observations | Observer,
        times: NDArray[np.datetime64],
        states: Sequence[int] | None = None,
    ) -> None:
        self.appa, self.times, self.observations = appa, times, observations
        self.solver = Cholesky(limit=LIMIT)
        states = range(len(times)) if states is None else states
        # Sums are as long as the longest of what is read with them.
        self.width = max(observations.at(i).operator.weights.shape[1] for i in states)
        self.common = reduce(
            np.intersect1d, (_once(observations.at(i), self.width) for i in states)
        )
        self.prior = covariance
        if len(states) > 1 and len(self.common):
            shared, _ = self._parts(observations.at(states[0]))
            variance = shared.standardised(appa.statistics, times[:1])[1]
            H = shared.standardised_operator(appa.statistics)
            S = InnovationCovariance(H, covariance, Diagonal(variance))
            self.prior = ConditionalCovariance(covariance, H, S, self.solver)

    def __call__(self, state: int) -> tuple[Tensor, Tensor]:
        r"""The mean and the standard deviation in physical units, both with shape
        :math:`(C, H, W)`.

        Arguments:
            state: The index of the state; the observations of the others are not used.
        """
        here, statistics = self.observations.at(state), self.appa.statistics
        time, prior = self.times[state : state + 1], self.prior
        mean = torch.zeros(prior.in_shape)
        if isinstance(prior, ConditionalCovariance):
            shared, here = self._parts(here)
            y = shared.standardised(statistics, time)[0]
            mean = prior.lift(self.solver(prior.S, y))
        posterior = Gaussian(mean, prior)
        if len(here):
            y, variance = here.standardised(statistics, time)
            H = here.standardised_operator(statistics)
            posterior = posterior.condition(GaussianLikelihood(H, y, variance), self.solver)
        std = posterior.covariance.diagonal().clamp_min(0.0).sqrt().reshape(prior.in_shape)
        scale = statistics.scale.reshape(-1, 1, 1)
        return statistics.restore(posterior.mean.unsqueeze(0), time)[0], std * scale

    def _parts(self, observations: Observations) -> tuple[Observations, Observations]:
        """What all states have, in one order, and what this one has beside."""
        rows = _rows(observations, self.width)
        order = np.argsort(rows)
        again = order[np.isin(rows[order], self.common)]
        return observations.select(again), observations.select(~np.isin(rows, self.common))


def _rows(observations: Observations, width: int) -> NDArray[np.void]:
    """What observations of a state are of, and how well, as bytes."""
    indices, weights = padded(observations.operator, width)
    columns = [indices.numpy(), weights.numpy(), observations.errors.numpy()[:, None]]
    columns.append(observations.channel[:, None])
    packed = [np.ascontiguousarray(column).view(np.uint8) for column in columns]
    joined = np.ascontiguousarray(np.concatenate(packed, axis=1))
    rows: NDArray[np.void] = joined.view(np.dtype((np.void, joined.shape[1])))[:, 0]
    return rows


def _once(observations: Observations, width: int) -> NDArray[np.void]:
    """Those that are there once."""
    rows, counts = np.unique(_rows(observations, width), return_counts=True)
    once: NDArray[np.void] = rows[counts == 1]
    return once
