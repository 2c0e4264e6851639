"""The published convolutional autoencoder, where its outputs are not at hand: shapes, margins,
symmetries, refusals.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from appa_prob.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from appa_prob.patches import patchify, unpatchify
from appa_prob.saturation import SATURATIONS, saturate

SIZES: dict[str, Any] = {"latent_channels": 5, "widths": (6, 8), "blocks": (1, 2)}


def build(grid: tuple[int, int] = (9, 16), **changes: Any) -> ConvAutoencoder:
    """One in double precision, with no weight left at zero."""
    module = ConvAutoencoder(3, grid, ConvAutoencoderConfig(**(SIZES | changes))).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize(
    "changes",
    [{}, {"shuffle": False}, {"patch": (2, 2), "periodic": True}, {"expansion": 2, "kernel": 5}],
)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_shapes(changes: dict[str, Any], batch: tuple[int, ...]) -> None:
    module = build(**changes)
    x = torch.randn(*batch, 3, 9, 16, dtype=torch.float64)
    z = module.encode(x)
    rows, columns = (12, 24) if "patch" in changes else (10, 20)
    assert z.shape == (*batch, 5, rows // module.factor, columns // module.factor)
    assert module.decode(z).shape == x.shape


def test_residual_blocks_are_the_identity_at_first() -> None:
    module = ConvAutoencoder(3, (9, 16), ConvAutoencoderConfig(**SIZES))
    x = torch.randn(1, 6, 10, 20)
    assert torch.equal(module.encoder.descent[0][1](x), x)  # type: ignore[index]


def test_margins_continue_beyond_the_date_line_and_are_cut_off_again() -> None:
    module = build((9, 14))
    x = torch.randn(2, 3, 9, 14, dtype=torch.float64)
    padded = module.pad(x)
    assert padded.shape == (2, 3, 10, 18)
    assert torch.equal(module.crop(padded), x)
    assert torch.equal(padded[:, :, :9, :2], x[..., -2:])
    assert torch.equal(padded[:, :, :9, -2:], x[..., :2])
    assert not padded[:, :, 9].any()


@pytest.mark.parametrize("saturation", SATURATIONS)
def test_saturations_keep_the_sign_and_small_values(saturation: Any) -> None:
    x = torch.linspace(-100.0, 100.0, 201).double().reshape(1, 1, 1, -1)
    y = saturate(x, saturation, 5.0)
    assert (y.sign() == x.sign()).all()
    if saturation != "rmsnorm":
        assert (y.diff() > -1e-12).all() and float(y.max()) < (
            6.0 if saturation == "asinh" else 5.0 + 1e-9
        )
        small = x / 1e5
        torch.testing.assert_close(saturate(small, saturation, 5.0), small, rtol=1e-3, atol=0.0)
    assert saturate(x, None, 5.0) is x
    with pytest.raises(ValueError, match="expected a saturation among softclip"):
        saturate(x, "clip", 5.0)  # type: ignore[arg-type]


def test_fixed_weights_change_nothing_and_leave_the_gradient_of_the_input() -> None:
    module = build()
    z = torch.randn(1, *module.latent_shape, dtype=torch.float64, requires_grad=True)
    expected = module.decode(z)
    (gradient,) = torch.autograd.grad(expected.square().sum(), z)
    module.requires_grad_(False)
    found = module.decode(z)
    torch.testing.assert_close(found, expected)
    (same,) = torch.autograd.grad(found.square().sum(), z)
    torch.testing.assert_close(same, gradient)


def test_gradients_reach_every_weight() -> None:
    module = build()
    module(torch.randn(2, 3, 9, 16, dtype=torch.float64))[0].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("changes", "grid", "message"),
    [
        ({"blocks": (1,)}, (9, 16), "as many blocks as widths, got 1 and 2"),
        ({"patch": (1, 2)}, (9, 16), "a square patch"),
        ({"widths": (4,) * 6, "blocks": (1,) * 6}, (9, 16), "at least 32 columns"),
        ({"kernel": 2}, (9, 16), "an odd kernel, got 2"),
    ],
)
def test_bad_sizes_are_refused(
    changes: dict[str, Any], grid: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(grid, **changes)


@pytest.mark.parametrize("patch", [(2, 3), (1, 2, 1), (4,)])
def test_patches_are_channels_and_back(patch: tuple[int, ...]) -> None:
    shape = [2 * p for p in patch]
    x = torch.arange(2 * 3 * 2 ** len(patch) * int(torch.tensor(patch).prod())).double()
    x = x.reshape(2, 3, *shape)
    y = patchify(x, patch)
    assert y.shape == (2, x[0].numel() // 2 ** len(patch), *(2,) * len(patch))
    assert torch.equal(unpatchify(y, patch), x)
    if patch == (2, 3):  # the first channel of a patch is its first corner
        assert torch.equal(y[:, ::6], x[..., ::2, ::3])
    with pytest.raises(ValueError, match="patches of"):
        patchify(x[..., 1:], (*patch[:-1], 2 * patch[-1] + 1))
