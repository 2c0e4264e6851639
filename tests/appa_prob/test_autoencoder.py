"""The autoencoder: shapes, symmetry, standardised latents, refusals."""

from typing import Any

import pytest
import torch

from appa_prob.autoencoder import Autoencoder


@pytest.fixture
def autoencoder(device: torch.device) -> Autoencoder:
    """A small one in double precision, with no weight left at zero."""
    module = Autoencoder(3, (8, 16), 5, widths=(6, 8), blocks=(1, 2)).double().to(device)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def states(device: torch.device, *batch: int) -> torch.Tensor:
    return torch.randn(*batch, 3, 8, 16, dtype=torch.float64, device=device)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_shapes(autoencoder: Autoencoder, device: torch.device, batch: tuple[int, ...]) -> None:
    z = autoencoder.encode(states(device, *batch))
    assert z.shape == (*batch, 5, 2, 4)
    assert autoencoder.decode(z).shape == (*batch, 3, 8, 16)
    assert autoencoder.compression == pytest.approx(3 * 8 * 16 / (5 * 2 * 4))


def test_items_of_a_batch_do_not_mix(autoencoder: Autoencoder, device: torch.device) -> None:
    x = states(device, 3)
    z = autoencoder.encode(x)
    assert torch.allclose(autoencoder.encode(x[1]), z[1], atol=1e-12)
    assert torch.allclose(autoencoder.decode(z)[2], autoencoder.decode(z[2]), atol=1e-12)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turns_by_the_stride_commute(
    autoencoder: Autoencoder, device: torch.device, turn: int
) -> None:
    x = states(device, 2)
    z = autoencoder.encode(x)
    assert autoencoder.factor == 4
    turned = autoencoder.encode(x.roll(4 * turn, -1))
    assert torch.allclose(turned, z.roll(turn, -1), atol=1e-11)
    decoded = autoencoder.decode(z.roll(turn, -1))
    assert torch.allclose(decoded, autoencoder.decode(z).roll(4 * turn, -1), atol=1e-11)
    assert not torch.allclose(turned, z, atol=1e-3)


def test_standardised_latents(autoencoder: Autoencoder, device: torch.device) -> None:
    x = states(device, 40)
    with torch.no_grad():
        before, decoded = autoencoder.encode(x), autoencoder(x)[0]
        for _ in range(2):  # a second time changes nothing
            z = autoencoder.encode(x)
            autoencoder.standardise(z.mean((0, 2, 3)), z.std((0, 2, 3)))
        z = autoencoder.encode(x)
        mean, std = before.mean((0, 2, 3), keepdim=True), before.std((0, 2, 3), keepdim=True)
        assert torch.allclose(z, (before - mean) / std, atol=1e-10)
        assert torch.allclose(autoencoder.decode(z), decoded, atol=1e-10)


def test_noise_is_scaled_by_the_spread_of_the_latents(
    autoencoder: Autoencoder, device: torch.device
) -> None:
    x = states(device, 4)
    noise = torch.randn(4, 5, 2, 4, dtype=torch.float64, device=device)
    y, z = autoencoder(x, noise)
    expected = autoencoder.decode(z + z.std(dim=(-2, -1), keepdim=True) * noise)
    assert torch.allclose(y, expected, atol=1e-12)


def test_gradients_reach_every_weight(autoencoder: Autoencoder, device: torch.device) -> None:
    x = states(device, 2)
    (autoencoder(x)[0] - x).square().mean().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (6, 16)}, "halves 2 times"),
        ({"grid": (8, 12)}, "multiples of"),
        ({"blocks": (1,)}, "as many blocks as widths"),
    ],
)
def test_wrong_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    sizes: dict[str, Any] = {"grid": (8, 16), "widths": (4, 4), "blocks": (1, 1)}
    with pytest.raises(ValueError, match=message):
        Autoencoder(channels=3, latent_channels=2, **(sizes | change))


def test_wrong_shapes_are_refused(autoencoder: Autoencoder, device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"expected a state of shape \(\*, 3, 8, 16\)"):
        autoencoder.encode(states(device, 2).transpose(-1, -2))
    with pytest.raises(ValueError, match=r"expected a latent of shape \(\*, 5, 2, 4\)"):
        autoencoder.decode(states(device, 2))
