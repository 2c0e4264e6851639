r"""YAML configurations, checked, with errors of one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UserError, unknown

__all__ = ["read_config"]

T = TypeVar("T", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    r"""Reads YAML, with dates as the texts that they are."""


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def read_config(model: type[T], path: Path) -> T:
    r"""Reads and checks a YAML configuration.

    Relative paths in it are relative to the current folder.

    Raises:
        UserError: If the file is absent, is no YAML, or does not fit the model.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected a YAML file")
    try:
        content: Any = yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, model)}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    r"""The first complaint of a validation, in one line.

    Arguments:
        error: The error of the validation.
        model: What was expected.

    Example:
        >>> class Wind(BaseModel, extra="forbid"):
        ...     speed: float
        >>> try:
        ...     Wind.model_validate({"sped": 1.0, "speed": 2.0})
        ... except ValidationError as error:
        ...     print(describe(error, Wind))
        unknown key "sped"; did you mean "speed"? There are: speed
    """
    first, *others = error.errors(include_url=False)
    *parents, last = [str(part) for part in first["loc"]] or [""]
    place = ".".join(parents)
    if first["type"] == "extra_forbidden":
        text = str(unknown("key", last, _keys(model, parents)))
    elif first["type"] == "missing":
        text = f'lacks the key "{last}"; there are: {", ".join(_keys(model, parents))}'
    elif first["type"] == "value_error":
        place, text = ".".join([*parents, last]), first["msg"].removeprefix("Value error, ")
    else:
        given = repr(first["input"])
        place = ".".join([*parents, last])
        text = f"{first['msg'][:1].lower()}{first['msg'][1:]}; got {shorten(given, 80)}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{place + ': ' if place else ''}{text}{more}"


def _keys(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    r"""The keys that are known at a place of a configuration."""
    for name in place:
        field = model.model_fields.get(name)
        inner = _models(field.annotation) if field else []
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
