"""The errors for users."""

import pytest

from appa_prob.errors import UserError, unknown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temprature", '"temprature"; did you mean "temperature"?'),
        ("WIND", '"WIND"; did you mean "Wind"?'),
        ("xyz", '"xyz".'),
    ],
)
def test_unknown_names_the_nearest(name: str, hint: str) -> None:
    error = unknown("variable", name, iter(["temperature", "Wind"]))
    assert isinstance(error, UserError) and isinstance(error, ValueError)
    assert str(error) == f"unknown variable {hint} There are: temperature, Wind"
