"""Guidance that decodes some states at once: the same steps, in memory that states don't fill."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from appa_prob.appa import Appa
from appa_prob.declaration import parse_networks
from appa_prob.observe import Observations, observe_truth
from appa_prob.operators import CG, Isotropic, WeightedGather, weighted
from appa_prob.operators.rowwise import Rowwise
from appa_prob.reanalysis import SamplerConfig, guide
from appa_prob.rollout import state_times
from appa_prob.samplers import MMPS, GaussianDenoiser, GaussianLikelihood, VESchedule
from appa_prob.statistics import Statistics
from benchmarks.allocations import memory
from tests.appa_prob.networks import NETWORKS

UNSEEN = (0, 4, 5)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest number of bytes that a tensor holds, views being as large as they are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [x.untyped_storage().nbytes() for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.bytes = max(self.bytes, *found, 0)
        return out


def problem(appa: Appa, length: int, every: int = 1) -> tuple[Observations, np.ndarray]:
    """Observations of most states, in no order, or one of some."""
    times = state_times(np.datetime64("2003-07-03T00"), length, appa.step)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(length, *appa.error.shape, generator=g) * appa.variability
    truth = appa.statistics.restore(noise, times)
    found = observe_truth(appa, parse_networks(NETWORKS, Path()), truth, times, 0)
    found = found.select(~np.isin(found.time, UNSEEN))
    return found.select(np.random.default_rng(0).permutation(len(found))[::every]), times


def double(appa: Appa) -> Appa:
    """The model in double precision."""
    law = appa.reconstruction
    appa.reconstruction = replace(law, deviation=law.deviation.double())
    for module in (appa.autoencoder, appa.denoiser, appa.statistics):
        module.double()
    return appa


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
@pytest.mark.parametrize("precise", [True, False])
def test_steps_are_those_of_all_states(tiny_model: Path, at_once: int, precise: bool) -> None:
    appa = Appa.from_pretrained(tiny_model)
    observations, times = problem(appa, 9)
    if precise:
        H = observations.operator.to(torch.float64)
        appa, observations = double(appa), replace(observations, operator=H)
    close: dict[str, Any] = dict.fromkeys(("rtol", "atol"), 1e-12 if precise else 1e-4)
    dtype = torch.float64 if precise else torch.float32
    z = torch.randn(2, 9, *appa.autoencoder.latent_shape, dtype=dtype)
    whole, some = (
        guide(appa, observations, times, SamplerConfig(states_at_once=n)) for n in (None, at_once)
    )
    with torch.no_grad():
        expected, found = (d.likelihood.linearize(z) for d in (whole, some))
        torch.testing.assert_close(found[0], expected[0], **close)
        J, K = found[1], expected[1]
        u = torch.randn_like(expected[0])
        torch.testing.assert_close(J(z), K(z), **close)
        torch.testing.assert_close(J.adjoint(u), K.adjoint(u), **close)
        t = torch.tensor(0.4, dtype=dtype)
        step = whole(z, t)
        torch.testing.assert_close(some(z, t), step, **close)
        assert (step - whole.denoiser(z, t)).abs().mean() > 1e-2


def test_states_that_are_not_observed_are_not_decoded(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appa = Appa.from_pretrained(tiny_model)
    observations, times = problem(appa, 9)
    decoded, decode = [], appa.autoencoder.decode

    def counting(z: Tensor) -> Tensor:
        decoded.append(len(z))
        return decode(z)

    monkeypatch.setattr(appa.autoencoder, "decode", counting)
    guided = guide(appa, observations, times, SamplerConfig(states_at_once=4))
    with torch.no_grad():
        guided.likelihood.linearize(torch.zeros(2, 9, *appa.autoencoder.latent_shape))
    assert decoded == [4, 2, 4, 2]


def guided_bytes(appa: Appa, length: int, at_once: int | None) -> int:
    """The largest tensor of all that a guided step makes, the likelihood included."""
    observations, times = problem(appa, length, every=20)
    sampler = SamplerConfig(windows_at_once=1, states_at_once=at_once, iterations=1)
    with torch.no_grad(), Largest() as largest:
        guided = guide(appa, observations, times, sampler)
        guided(torch.zeros(1, *guided.event_shape), torch.tensor(0.5))
    return int(largest.bytes)


def test_no_tensor_of_a_step_holds_all_states(tiny_model: Path) -> None:
    appa, lengths = Appa.from_pretrained(tiny_model), (12, 48)
    state, latent = appa.error.nbytes, 4 * int(np.prod(appa.autoencoder.latent_shape))
    few, many = (guided_bytes(appa, length, 1) for length in lengths)
    # Activations are those of one window and one state; latents and observations grow, with two
    # indices of 8 bytes for each of the 4 cells of an observation.
    n = len(problem(appa, 48, every=20)[0])
    assert state <= few <= many <= max(few, 2 * 48 * latent, 8 * 8 * n) < 48 * state
    assert guided_bytes(appa, 48, None) >= 48 * state


@pytest.mark.parametrize("length", [12, 48])
def test_all_that_a_step_holds_is_some_states(length: int) -> None:
    width, count = 10_000, 50
    fixed = torch.randn(2, width)

    def decode(z: Tensor) -> Tensor:
        return torch.sin(z @ fixed)

    indices = torch.randint(length * width, (count, 1))
    H = WeightedGather(indices, torch.ones(count, 1), (length, width))
    prior = GaussianDenoiser(torch.zeros(length, 2), Isotropic(1.0, (length, 2)), VESchedule())
    solver = CG(rtol=0, max_iterations=3, on_failure="ignore")
    z, t, held = torch.randn(2, length, 2), torch.tensor(0.5), []
    for rows, observed in (
        (Rowwise(decode, length, 2, width, at_once=1, observed=H), None),
        (Rowwise(decode, length, 2, width, at_once=1), H),
    ):
        f = rows if observed is None else observed @ rows
        guided = MMPS(prior, GaussianLikelihood(f, torch.zeros(count), 0.1), solver)
        held.append(memory(partial(guided, z, t))[1])
    state = 4 * width
    assert state <= held[0] < 8 * state < 2 * length * state <= held[1]


@pytest.mark.parametrize("everywhere", [False, True])
def test_observations_are_standardised_without_the_states(
    everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted, "SOME", 16)
    length, event, n = 40, (3, 20, 30), 50
    times = np.datetime64("2003-07-03T00", "ns") + np.arange(length) * np.timedelta64(30, "D")
    places = (1, 1) if everywhere else event[1:]
    statistics = Statistics(torch.randn(5, 3, *places).double(), torch.rand(3).double() + 1)
    cells = torch.randint(length * 1800, (n,)) // 600 * 600  # of one channel of one state
    H = WeightedGather(
        cells.unsqueeze(1) + torch.randint(600, (n, 4)),
        torch.rand(n, 4).double(),
        (length, *event),
    )
    values, errors, biases = torch.randn(3, n).double().unbind()
    channel, time = (cells // 600 % 3).numpy(), (cells // 1800).numpy()
    place = np.zeros(n)
    observations = Observations(
        H, values, errors.abs(), time, channel, place, place, biases=biases
    )
    error = torch.rand(event).double()
    with Largest() as largest:
        y, variance = observations.standardised(statistics, times, error)
    limit = max(error.nbytes, statistics.coefficients.nbytes)
    assert 0 < largest.bytes <= limit <= length * error.nbytes / 8
    scale = statistics.scale[torch.as_tensor(channel)]
    mean = H(statistics.climatology(times).expand(length, *event))
    torch.testing.assert_close(y, (values - biases - mean) / scale, rtol=1e-12, atol=1e-12)
    squares = (error * statistics.scale.reshape(-1, 1, 1)).square().expand(length, *event)
    expected = (errors / scale).square() + H(squares) / scale**2
    torch.testing.assert_close(variance, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"time for each state of .* got 39 times"):
        observations.standardised(statistics, times[1:])
