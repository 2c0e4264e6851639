"""States of several fields are packed to one event, and operators act on their parts."""

import json

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    Dense,
    Diagonal,
    Fields,
    Gather,
    Identity,
    InnovationCovariance,
    Isotropic,
    Mask,
    Restrict,
    Stack,
    WeightedGather,
    Zero,
    build,
)

F64 = torch.float64
LAYOUT = Fields({"temperature": (2, 3), "pressure": 3, "bias": ()})


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def test_packing_and_unpacking_are_inverse() -> None:
    fields = {"bias": noise(5), "pressure": noise(5, 3), "temperature": noise(5, 2, 3)}
    x = LAYOUT.pack(fields)
    assert x.shape == (5, *LAYOUT.shape)
    found = LAYOUT.unpack(x)
    assert list(found) == ["temperature", "pressure", "bias"]
    for name, field in fields.items():
        assert torch.equal(found[name], field)
        assert torch.equal(LAYOUT[name](x), field)
    assert found["temperature"].data_ptr() == x.data_ptr()
    one = LAYOUT.pack({**fields, "pressure": noise(3)})
    assert one.shape == x.shape  # fields of one event are repeated for the batch


def test_several_fields_make_a_smaller_state() -> None:
    x = noise(4, *LAYOUT.shape)
    part = Fields({"bias": (), "pressure": 3})
    A = LAYOUT.only("bias", "pressure")
    assert A.out_shape == part.shape
    assert torch.equal(part.unpack(A(x))["pressure"], LAYOUT.unpack(x)["pressure"])


def test_observations_of_fields_are_operators_on_the_state() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    A = Stack(
        [
            Mask(mask) @ LAYOUT["temperature"],
            WeightedGather(torch.tensor([[0, 2]]), torch.ones(1, 2), 3) @ LAYOUT["pressure"],
        ]
    )
    x = noise(2, 10).float()
    fields = LAYOUT.unpack(x)
    expected = torch.cat(
        (fields["temperature"][:, mask], fields["pressure"][:, [0, 2]].sum(1, keepdim=True)), -1
    )
    torch.testing.assert_close(A(x), expected)
    first, second = A.blocks
    assert isinstance(first, Gather) and isinstance(second, WeightedGather)
    assert first.indices.tolist() == [0, 2, 5] and second.indices.tolist() == [[6, 8]]


def test_fields_do_not_overlap() -> None:
    t, p = LAYOUT["temperature"].to(F64), LAYOUT["pressure"]
    assert isinstance(t @ t.T, Identity) and (t @ t.T).dtype == F64
    assert isinstance(t @ p.T, Zero) and (t @ p.T).shape == (6, 3)


def test_operators_on_every_field_are_blocks() -> None:
    d = noise(3).square() + 0.1
    V = LAYOUT.blocks(
        {
            "bias": Isotropic(torch.tensor(2.0, dtype=F64), ()),
            "pressure": Diagonal(d),
            "temperature": Isotropic(torch.tensor(3.0, dtype=F64), (2, 3)),
        }
    )
    variances = LAYOUT.unpack(V.diagonal())
    assert torch.equal(variances["pressure"], d) and float(variances["bias"]) == 2.0
    H = Dense(noise(2, 3)) @ LAYOUT["pressure"]
    S = InnovationCovariance(H, V, Isotropic(torch.tensor(1.0, dtype=F64), 2))
    y = noise(2)
    increment = CG(rtol=1e-12)(S, y).lifted
    assert increment is not None
    parts = LAYOUT.unpack(increment)
    M = H.factors[0].matrix
    gain = (
        torch.diag(d) @ M.mT @ torch.linalg.inv(M @ torch.diag(d) @ M.mT + torch.eye(2, dtype=F64))
    )
    torch.testing.assert_close(parts["pressure"], gain @ y)
    assert not parts["temperature"].any() and not parts["bias"].any()


def test_a_batch_of_values_grows_a_sum_of_adjoints() -> None:
    A = Stack(
        [LAYOUT["bias"], Diagonal(torch.ones(4, 3), event_ndim=1) @ LAYOUT["pressure"],
         Diagonal(torch.ones(4, 2), event_ndim=1) @ Mask(torch.arange(10) < 2)]
    )  # fmt: skip
    x = A.adjoint(torch.ones(6))
    assert x.shape == (4, 10)
    assert torch.equal(x.sum(0), 4.0 * torch.tensor([1, 1, 0, 0, 0, 0, 1, 1, 1, 1]))


def test_layouts_are_data() -> None:
    A = Mask(torch.tensor([True, False, True])) @ LAYOUT["pressure"].T.T
    same = build(json.loads(json.dumps(LAYOUT["pressure"].spec())))
    assert isinstance(same, Restrict) and same.fields.shapes == LAYOUT.shapes
    assert build(A.spec()).shape == (2, 10)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"got 'presure'; did you mean 'pressure'\?"):
        LAYOUT["presure"]
    with pytest.raises(ValueError, match="got none for temperature, bias"):
        LAYOUT.pack({"pressure": noise(3)})
    with pytest.raises(ValueError, match=r"'pressure' with shape \(\*, 3\), got \(3, 2\)"):
        LAYOUT.pack({"temperature": noise(2, 3), "pressure": noise(3, 2), "bias": noise()})
    with pytest.raises(ValueError, match=r"event of shape \(\*, 10\), got \(9,\)"):
        LAYOUT.unpack(noise(9))
    with pytest.raises(ValueError, match="operator on 'bias'"):
        LAYOUT.blocks(
            {name: Identity(3) for name in LAYOUT.shapes} | {"temperature": Identity((2, 3))}
        )
    with pytest.raises(ValueError, match="one or more fields"):
        Fields({})
