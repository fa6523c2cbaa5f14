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
    tyro.conf.arg(
        help="Compile from scratch: neither read nor write the compilation cache in the user's cache folder.",
        # the default is that of the field, which is not what the flag is called
        help_behavior_hint="(default: False)",
    ),
]
"""Whether compiled programs are kept, `--no-cache`; every command that starts JAX has it."""
RunFolder = Annotated[
    Path | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="DIR", help="Run folder.", help_behavior_hint="(required)"),
]
# the help text of the field says that it is required, which a default of None would deny
NewFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
NewFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Folders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
T = TypeVar("T")


class UsageError(ValueError):
    """The command line is invalid; the message is one line."""


class _Flag(NamedTuple):
    """A flag and the field that it sets."""

    path: tuple[str, ...]
    """Path of the field, outermost first."""
    kind: Any
    """Type of the field."""
    sets: bool | None = None
    """The value that a switch sets; None for a flag that takes a value."""


def parse(kind: type[T], argv: list[str], prog: str, default: T | None = None, ignore_unknown: bool = False) -> T:
    """Parses flags into a dataclass; the fields of nested dataclasses have dotted flags, such as `--algo.inner-lr`.

    Args:
      kind: the dataclass. All fields have defaults.
      prog: the command, for messages, such as `jaxmeta train`.
      default: the values of fields whose flag is not given; by default `kind()`.
      ignore_unknown: whether to skip unknown flags and their values.

    Raises:
      UsageError: if a flag is unknown, or a value is missing or of the wrong type.
      SystemExit: with code 0, after printing the help text, if `--help` was given.
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
                raise UsageError(f"{token!r} is one argument too many; `{prog} --help` shows all arguments")
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
    """Lists the flags with which `parse` turns `default` into `options`; positional fields are left out.

    Args:
      outer: path of the fields that contain both, outermost first: with `("algo",)` flags begin with `--algo.`.
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
    """Returns whether an argument is a flag; a negative number is not."""
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


def flag_values(kind: type, outer: tuple[str, ...] = ()) -> dict[str, tuple[tuple[str, ...], str]]:
    """Describes the flags of a dataclass of options, for documentation.

    Args:
      outer: as in `to_flags`.

    Returns:
      By flag, the path of its field and its values in words, such as "a number"; "" for a switch. A positional argument
      has the name of its field.
    """
    return {
        name: (flag.path, "" if flag.sets is not None else _describe(flag.kind)) for name, flag in _flags(kind, outer)
    }


def _flags(kind: type, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, _Flag]]:
    """Yields the flags of a dataclass by name; a positional argument has the name of its field."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
        plain = typing.get_args(hint)[0] if marks else hint
        path = (*outer, field.name)
        prefix = "--" + "".join(f"{name}." for name in outer)
        named = next(filter(None, (getattr(mark, "name", None) for mark in marks)), field.name)
        on, off = (f"{prefix}{no}{named}".replace("_", "-") for no in ("", "no-"))
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
    """Returns the value of a flag; removes its words from the front of `rest`."""
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
    """Removes and returns the words before the next flag, at most `most`."""
    end = next((index for index, token in enumerate(rest[:most]) if is_flag(token)), min(most, len(rest)))
    words, rest[:] = rest[:end], rest[end:]
    return words


def _num_words(kind: Any) -> int | None:
    """Returns the number of words that a value has; None for any number."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for option in options:
        if typing.get_origin(option) is tuple:
            parts = typing.get_args(option)
            return None if parts[-1] is Ellipsis or len(options) > 1 else len(parts)
    return 1


class _RefusedError(Exception):
    """A value is not allowed although its type is right; the message gives the reason."""


def _convert(kind: Any, words: list[str], name: str) -> Any:
    """Converts words to a value of a type; `name` is the flag's, for messages."""
    given = " ".join(words)
    try:
        return _cast(kind, words)
    except _RefusedError as error:
        raise UsageError(f"{name.removeprefix('--').replace('-', '_')} is {given}; {error}") from None
    except ValueError:
        raise UsageError(f"{name} is {given!r}; it must be {_describe(kind)}") from None


def _cast(kind: Any, words: list[str]) -> Any:
    """Converts words to a value of a type; raises a ValueError if they are none."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for part in sorted(parts, key=lambda part: part is str):  # str last: it accepts any word
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
        raise _RefusedError(f"a flag cannot set a field of type {_describe(kind)}; leave it out")
    if kind is float and not math.isfinite(float(word)):
        raise _RefusedError("it must be finite")
    return kind(word)


def _home(word: str) -> Path:
    """Expands `~`: a shell does not in `--out=~/runs`."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        raise _RefusedError("that home folder does not exist") from None


def _describe(kind: Any) -> str:
    """Describes the values of a type in words, for messages."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        if typing.get_origin(parts[0]) is Literal:
            return f"some of {', '.join(map(repr, typing.get_args(parts[0])))}"
        return {int: "integers", float: "numbers", str: "strings"}.get(parts[0], "values")
    known = {int: "an integer", float: "a number", str: "a string", Path: "a path", type(None): "None"}
    return known.get(kind) or ("True or False" if kind is bool else getattr(kind, "__name__", str(kind)))


def _changed(default: Any, values: dict[tuple[str, ...], Any], outer: tuple[str, ...] = ()) -> Any:
    """Returns a copy of a dataclass with some fields changed; its own checks run on the new values."""
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
