"""Parses flags into dataclasses of options; every error is one line. tyro renders the help texts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import tyro

from jaxmeta.config import codec
from jaxmeta.experiment import registry

HELP_FLAGS = ("-h", "--help")
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A bool with one flag only, the one that changes its default."""
Cache = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Compile again instead of using the compiled programs in the user's cache folder."),
]
"""Whether compiled programs are kept, `--no-cache`; every command that starts JAX has it."""
RunFolder = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="Run folder.")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
T = TypeVar("T")


class UsageError(ValueError):
    """What the user asked for cannot be done; the message is one line."""


class _Flag(NamedTuple):
    """A flag and what it does."""

    path: tuple[str, ...]
    """Names of the field, outermost first."""
    kind: Any
    """Type of the field."""
    sets: bool | None = None
    """What a switch sets the field to; None for a flag that takes a value."""


def parse(kind: type[T], argv: list[str], prog: str, default: T | None = None, ignore_unknown: bool = False) -> T:
    """Parses flags into a dataclass; the fields of nested dataclasses have dotted flags, such as `--algo.inner-lr`.

    Args:
      kind: the dataclass. All fields have defaults.
      prog: how the command begins, for messages.
      default: what flags change; by default `kind()`.
      ignore_unknown: whether flags that there are not, and their values, are skipped.

    Raises:
      UsageError: if the arguments are not what `kind` needs.
      SystemExit: with code 0, if a help text was asked for and printed.
    """
    if default is None:
        default = kind()
    if any(token in HELP_FLAGS for token in argv) and not ignore_unknown:
        tyro.cli(kind, prog=prog, args=["--help"], default=default)
    flags = dict(_flags(kind))
    positional = [flag for name, flag in flags.items() if not name.startswith("-")]
    values: dict[tuple[str, ...], Any] = {}
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if not is_flag(token):
            if not positional:
                raise UsageError(f"{token!r} is one argument too many; `{prog} --help` shows what there is")
            flag = positional.pop(0)
            values[flag.path] = _convert(flag.kind, [token], flag.path[-1])
            continue
        given, equals, attached = token.partition("=")
        name = given.replace("_", "-")
        if name in flags:
            flag = flags[name]
            values[flag.path] = _value(flag, name, [attached] if equals else None, rest)
        elif ignore_unknown:
            _take(rest, len(rest))
        else:
            known = [flag for flag in flags if flag.startswith("-")]
            raise UsageError(f"no flag {token!r};{registry.near(name, known)} `{prog} --help` shows all")
    return _changed(default, values)


def to_flags(options: Any, default: Any, outer: tuple[str, ...] = ()) -> list[str]:
    """Lists the flags with which `parse` makes a dataclass of options from a default; positional fields are left out.

    Args:
      outer: names of the fields that the two are in, outermost first: with `("algo",)` flags begin with `--algo.`.
    """
    words: list[str] = []
    for name, flag in _flags(type(options), outer):
        value, before = (functools.reduce(getattr, flag.path[len(outer) :], one) for one in (options, default))
        if value == before or flag.sets not in (None, value) or not is_flag(name):
            continue
        values = () if flag.sets is not None else value if isinstance(value, tuple) else (value,)
        words += [name, *map(str, values)]
    return words


def is_flag(token: str) -> bool:
    """Whether an argument is a flag; a negative number is none."""
    if not token.startswith("-") or token == "-":
        return False
    try:
        float(token)
    except ValueError:
        return True
    return False


def flag_names(kind: type) -> list[str]:
    """Lists the flags of a dataclass of options."""
    return [name for name, _ in _flags(kind) if name.startswith("-")]


def _flags(kind: type, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, _Flag]]:
    """Yields the flags of a dataclass by name; what is given by its place has the name of its field."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
        plain = typing.get_args(hint)[0] if marks else hint
        path = (*outer, field.name)
        prefix = "--" + "".join(f"{name}." for name in outer)
        on, off = (f"{prefix}{no}{field.name}".replace("_", "-") for no in ("", "no-"))
        if dataclasses.is_dataclass(plain):
            yield from _flags(typing.cast(type, plain), path)
        elif tyro.conf.Positional in marks:
            yield field.name, _Flag(path, plain)
        elif plain is bool:
            both = tyro.conf.FlagCreatePairsOff not in marks
            if both or not field.default:
                yield on, _Flag(path, bool, True)
            if both or field.default:
                yield off, _Flag(path, bool, False)
        else:
            yield on, _Flag(path, plain)


def _value(flag: _Flag, name: str, attached: list[str] | None, rest: list[str]) -> Any:
    """Returns the value of a flag that was given; words that belong to it are taken from `rest`."""
    if flag.sets is not None:
        if attached is not None:
            raise UsageError(f"{name} is {attached[0]!r}; it takes no value")
        return flag.sets
    count = _num_words(flag.kind)
    words = attached if attached is not None else _take(rest, len(rest) if count is None else count)
    if count is not None and len(words) < count:
        raise UsageError(f"{name} needs {'a value' if count == 1 else f'{count} values'}")
    return _convert(flag.kind, words, name)


def _take(rest: list[str], most: int) -> list[str]:
    """Takes the words before the next flag, at most so many."""
    end = next((index for index, token in enumerate(rest[:most]) if is_flag(token)), min(most, len(rest)))
    words, rest[:] = rest[:end], rest[end:]
    return words


def _num_words(kind: Any) -> int | None:
    """Returns how many words a value takes; None for any number."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for option in options:
        if typing.get_origin(option) is tuple:
            parts = typing.get_args(option)
            return None if parts[-1] is Ellipsis or len(options) > 1 else len(parts)
    return 1


class _RefusedError(Exception):
    """A value is of the right type, but cannot be taken all the same; the message says why."""


def _convert(kind: Any, words: list[str], name: str) -> Any:
    """Makes words a value of a type; `name` is that of the flag, for messages."""
    given = " ".join(words)
    try:
        return _cast(kind, words)
    except _RefusedError as error:
        raise UsageError(f"{name.removeprefix('--').replace('-', '_')} is {given}; {error}") from None
    except ValueError:
        raise UsageError(f"{name} is {given!r}; it must be {_describe(kind)}") from None


def _cast(kind: Any, words: list[str]) -> Any:
    """Makes words a value of a type, or raises a ValueError."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for part in sorted(parts, key=lambda part: part is str):  # what is any text comes last
            with contextlib.suppress(ValueError):
                return _cast(part, words)
        raise ValueError
    if origin is tuple:
        each = parts[:1] * len(words) if parts[-1] is Ellipsis else parts
        return tuple(_cast(part, [word]) for part, word in zip(each, words, strict=True))
    (word,) = words
    named = {bool: (True, False), type(None): (None,)}
    if origin is Literal or kind in named:
        by_name = {str(choice): choice for choice in (parts or named[kind])}
        if word not in by_name:
            raise ValueError
        return by_name[word]
    if kind is Path:
        return _home(word)
    if kind not in (int, float, str):
        raise _RefusedError(f"its type, {_describe(kind)}, is none that a flag can give; leave it out")
    if kind is float and not math.isfinite(float(word)):
        raise _RefusedError("it must be finite")
    return kind(word)


def _home(word: str) -> Path:
    """Expands `~`, which a shell does not in `--out=~/runs`."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        raise _RefusedError("there is no such home folder") from None


def _describe(kind: Any) -> str:
    """Says in words what a value of a type is."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        return {int: "integers", float: "numbers", str: "texts"}.get(parts[0], "values")
    known = {int: "an integer", float: "a number", str: "a text", Path: "a path", type(None): "None"}
    return known.get(kind) or ("True or False" if kind is bool else getattr(kind, "__name__", str(kind)))


def _changed(default: Any, values: dict[tuple[str, ...], Any], outer: tuple[str, ...] = ()) -> Any:
    """Returns a dataclass with other values of some fields; its own checks run on those."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        path, before = (*outer, field.name), getattr(default, field.name)
        if path in values:
            changes[field.name] = values[path]
        elif dataclasses.is_dataclass(before) and any(given[: len(path)] == path for given in values):
            changes[field.name] = _changed(before, values, path)
    try:
        return dataclasses.replace(default, **changes) if changes else default
    except (UsageError, codec.RunError):
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(codec.qualify(".".join(outer), type(default), str(error))) from None
