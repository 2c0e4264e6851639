"""What is particular to the training of the denoiser; test_cli.py trains one."""

from pathlib import Path

import pytest
import torch
import yaml

from appa_prob.errors import UserError
from appa_prob.files import load_tensors
from appa_prob.latents import load_autoencoder
from appa_prob.states import Period, StandardisedStates, States, streamed_statistics
from appa_prob.train_autoencoder import standardise_latents
from appa_prob.train_denoiser import (
    DenoiserConfig,
    _turn,
    build_denoiser,
    train_denoiser,
)
from appa_prob.training import Batch, TrainingConfig
from appa_prob.trajectory_prior import TrajectoryCovariance


def config(data: Path, autoencoder: Path, window: int = 3) -> DenoiserConfig:
    return DenoiserConfig(
        data=data,
        autoencoder=autoencoder,
        train=Period(stop="2003-06-30"),
        validation=Period(start="2003-07-01"),
        window=window,
        width=8,
        depth=1,
        heads=2,
        training=TrainingConfig(steps=1, batch_size=4, learning_rate=1e-3),
    )


def test_denoiser_is_that_of_the_gaussian_at_first() -> None:
    z = torch.randn(200, 2, 1, 4)
    covariance = TrajectoryCovariance.fit(z, window=3)
    denoiser = build_denoiser(config(Path(), Path()), covariance)
    assert denoiser.prior is not None
    x, t = torch.randn(5, 3, 2, 1, 4), torch.linspace(0.1, 0.9, 5)
    sigma2 = denoiser.schedule.sigma(t).square()
    eye = torch.eye(24)
    dense = covariance.to_dense()
    expected = [
        dense @ torch.linalg.solve(dense + s * eye, y.flatten())
        for s, y in zip(sigma2, x, strict=True)
    ]
    mean = denoiser(x, t, date=torch.randn(3, 2))
    assert torch.allclose(mean.flatten(1), torch.stack(expected), atol=1e-4)


def test_a_share_of_windows_is_turned_by_whole_columns() -> None:
    x = torch.randn(4000, 2, 1, 1, 8)
    turned, known = _turn(
        x, 0.25, Batch(torch.arange(4000), slice(None), torch.Generator().manual_seed(0))
    )
    assert torch.equal(turned[known == 1], x[known == 1])
    assert abs(known.mean() - 0.75) < 0.03  # four standard deviations
    match = torch.stack([(turned == x.roll(k, -1)).flatten(1).all(1) for k in range(8)])
    assert (match.sum(0) == 1).all()  # each window is turned by one number of columns
    steps = match.int().argmax(0)[known == 0].bincount(minlength=8)
    assert (steps - steps.sum() / 8).abs().max() < 45  # four standard deviations


def test_autoencoder_and_statistics_come_back(tiny_model: Path, world: Path) -> None:
    folder = tiny_model.parent / "autoencoder"
    autoencoder, statistics = load_autoencoder(folder)
    tensors, _ = load_tensors(folder / "autoencoder.safetensors")
    for name, tensor in autoencoder.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    period = Period(stop="2003-06-30")
    source = States(world, period)
    cached = StandardisedStates(source, statistics)
    states = cached[torch.arange(len(cached))]
    fitted = StandardisedStates(source, streamed_statistics(source, harmonics=0))
    assert torch.allclose(fitted[torch.arange(len(cached))], states, atol=1e-5)
    z = autoencoder.encode(states)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    before = autoencoder.latent_std.clone()
    assert cached.memory is not None
    cached.memory *= 2
    standardise_latents(autoencoder, cached)
    assert (autoencoder.latent_std > before).all()


def test_short_periods_are_refused(tiny_model: Path, world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 1000 states, the window"):
        train_denoiser(
            config(world, tiny_model.parent / "autoencoder", 1000), tmp_path, progress=False
        )


def test_configuration_survives_json() -> None:
    first = config(Path("a"), Path("b"))
    dumped = yaml.safe_load(yaml.safe_dump(first.model_dump(mode="json")))
    assert DenoiserConfig.model_validate(dumped) == first
