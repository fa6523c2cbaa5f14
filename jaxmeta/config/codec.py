"""Converts configs, frozen dataclasses of plain values, to JSON and back, without running code."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal


class RunError(ValueError):
    """A run folder or a configuration is invalid; the message is one line for the user."""


def to_json(value: Any, indent: int | None = None) -> str:
    """Serialises to valid JSON: non-finite numbers become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(value), indent=indent, allow_nan=False)


@contextlib.contextmanager
def named(prefix: str, config: Any) -> Iterator[None]:
    """Converts a ValueError raised inside to a RunError whose message begins with the full name of the field."""
    try:
        yield
    except RunError:
        raise
    except ValueError as error:
        raise RunError(qualify(prefix, type(config), str(error))) from error


def qualify(prefix: str, cls: type, message: str) -> str:
    """Prefixes a message that begins with a field of a config with the field's full name; leaves other messages."""
    name = re.split(r"[^\w]", message, maxsplit=1)[0]
    path = min((path for path in _paths(cls) if path.split(".")[-1] == name), key=len, default=None)
    return message if path is None else f"{prefix}.".lstrip(".") + path.removesuffix(name) + message


def _paths(cls: Any, prefix: str = "") -> Iterator[str]:
    """Lists the dotted names of a config's fields, nested ones included."""
    for name, kind in typing.get_type_hints(cls).items() if dataclasses.is_dataclass(cls) else ():
        yield prefix + name
        yield from _paths(kind, f"{prefix}{name}.")


def first_difference(name: str, one: Any, other: Any) -> tuple[str, Any, Any] | None:
    """Returns the first field in which two configs differ: its full name and both values; None if they are equal."""
    if not dataclasses.is_dataclass(one) or type(one) is not type(other):
        return None if one == other else (name, one, other)
    fields = (field.name for field in dataclasses.fields(one))
    prefix = f"{name}." if name else ""
    found = (first_difference(prefix + field, getattr(one, field), getattr(other, field)) for field in fields)
    return next(filter(None, found), None)


def encode(value: Any, where: str) -> Any:
    """Converts a config to JSON values: dataclasses become objects, tuples become lists.

    Args:
      where: name of the field, for messages.

    Raises:
      RunError: if a number is not finite.
    """
    if dataclasses.is_dataclass(value):
        prefix = f"{where}." if where else ""
        return {f.name: encode(getattr(value, f.name), prefix + f.name) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [encode(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise RunError(f"{where} is {value}; it must be finite")
    return value


def decode(kind: Any, value: Any, where: str) -> Any:
    """Converts JSON to a value of a type: a frozen dataclass, tuple, Literal, union or plain value.

    Args:
      where: name of the field, for messages.

    Raises:
      RunError: if the value has another type.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return decode_dataclass(kind, value, f"{where}.")
    if kind is Any:
        return value
    if origin is Literal and value in options:
        return value
    if origin in (types.UnionType, typing.Union):
        return _decode_union(kind, options, value, where)
    if origin is tuple and isinstance(value, list):
        inner = [options[0]] * len(value) if options[-1] is Ellipsis else options
        if len(inner) == len(value):
            return tuple(decode(one, item, where) for one, item in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: decode(options[1], item, f"{where}.{key}") for key, item in value.items()}
    # JSON does not distinguish 1 from 1.0, and in Python True is an int
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool, type(None)) and type(value) is kind:
        return value
    raise RunError(f"{where} is {json.dumps(value)}; it must be {_describe(kind)}")


def _decode_union(kind: Any, options: tuple, value: Any, where: str) -> Any:
    for option in options:
        try:
            return decode(option, value, where)
        except RunError:
            continue
    raise RunError(f"{where} is {json.dumps(value)}; it must be {_describe(kind)}")


def decode_dataclass(cls: Any, data: Any, prefix: str, kinds: dict[str, Any] | None = None) -> Any:
    """Builds a dataclass; fields that are not in the data keep their defaults. `kinds` overrides declared types."""
    if not isinstance(data, dict):
        raise RunError(f"{prefix.rstrip('.: ')} is {json.dumps(data)}; it must be an object")
    kinds = typing.get_type_hints(cls) | (kinds or {})
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            raise RunError(f"{prefix}{name} is unknown; the fields are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise RunError(f"{prefix}{name} is missing")
    values = {name: decode(kinds[name], value, prefix + name) for name, value in data.items()}
    try:
        return cls(**values)
    except RunError:
        raise
    except ValueError as error:
        raise RunError(qualify(prefix.removesuffix("."), cls, str(error))) from error


def _describe(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(option) for option in options)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in options)
    if origin is tuple:
        return "a list" if options[-1] is Ellipsis else f"a list of {len(options)}"
    return names.get(kind, getattr(kind, "__name__", str(kind)))
