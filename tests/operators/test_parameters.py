"""Products are differentiable with respect to the tensors that operators are made of, and mixed
types are promoted or refused."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators.pad import BOUNDARIES
from tests.operators.registered_cases import CASES

SCHEMES = ("forward", "central")

# No floating tensors of their own: what they are made of are indices, shapes and functions.
CONSTANT = {
    *(f"{boundary}_laplacian" for boundary in BOUNDARIES),
    *(f"{boundary}_{scheme}_gradient" for boundary in BOUNDARIES for scheme in SCHEMES),
    *(f"{boundary}_pad" for boundary in BOUNDARIES),
    "batched_jacobian",
    "coarsen",
    "divergence",
    "fourier",
    "function_pair",
    "gather",
    "hartley",
    "identity",
    "jacobian",
    "linear_function",
    "masked",
    "masked_everything",
    "masked_fourier",
    "permute",
    "reshape",
    "restrict",
    "slices",
    "zero",
}
# Derivatives of factorisations at these points aren't those of their entries one by one.
WITHOUT = {
    "symmetric_inverse": "entries of a symmetric matrix can't change one by one",
    "pseudo_inverse": "the pseudo-inverse isn't continuous where the rank can grow",
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_gradients_of_parameters(name: str, generator: torch.Generator) -> None:
    operator, _ = CASES[name](generator)
    parameters = operator.representation()
    if name in CONSTANT:
        assert not parameters
        return
    assert parameters
    if name in WITHOUT:
        pytest.skip(WITHOUT[name])
    rebuild = operator.representation_tree()
    x = torch.randn(operator.in_shape, generator=generator, dtype=torch.float64)
    y = torch.randn(operator.out_shape, generator=generator, dtype=torch.float64)

    def products(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        A = rebuild(*tensors)
        return A(x), A.adjoint(y)

    leaves = [a.detach().clone().requires_grad_() for a in parameters]
    assert torch.autograd.gradcheck(products, leaves, fast_mode=True)


@pytest.mark.parametrize("name", sorted(CASES))
def test_types_are_promoted_or_refused(name: str, generator: torch.Generator) -> None:
    """No product is silently made in less than the precision of what goes in."""
    operator, M = CASES[name](generator)
    size = (*operator.batch_shape, *operator.in_shape)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    expected = (M @ x.reshape(*operator.batch_shape, -1, 1))[..., 0]
    try:
        y = operator(x.float())
    except (RuntimeError, TypeError) as error:
        assert "dtype" in str(error) or "type" in str(error).lower()
        return
    assert y.dtype in (torch.float32, torch.float64)
    if y.dtype == torch.float64:  # of matrices in double precision, or of fields as they are
        rounded = (M @ x.float().double().reshape(*operator.batch_shape, -1, 1))[..., 0]
        torch.testing.assert_close(y.reshape(expected.shape), rounded)
    torch.testing.assert_close(y.reshape(expected.shape).double(), expected, rtol=1e-4, atol=1e-4)
