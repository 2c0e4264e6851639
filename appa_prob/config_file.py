r"""YAML configurations, checked, with errors of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UserError

__all__ = ["read_config"]

T = TypeVar("T", bound=BaseModel)


def read_config(model: type[T], path: Path) -> T:
    r"""Reads and checks a YAML configuration.

    Relative paths in it are relative to the current folder.

    Raises:
        UserError: If the file is absent, is no YAML, or does not fit the model.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected a YAML file")
    try:
        content: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    r"""The first complaint of a validation, in one line."""
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"
