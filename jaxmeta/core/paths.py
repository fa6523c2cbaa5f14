"""Selection of params by the names in their path, such as `params/_ActionHead_0/Dense_0/kernel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxmeta.types import Params

Names = tuple[str, ...] | Callable[[str], bool]
"""Names of which a path must contain one, whatever their case, or a predicate of the path."""


def has_any(path: str, names: tuple[str, ...]) -> bool:
    """Returns whether a path contains one of the names, whatever their case."""
    return any(name.lower() in path.lower() for name in names)


def named(tree: Params, names: Names) -> Any:
    """Returns a tree of bools: whether each leaf is among the named ones.

        paths.named(params, ("head",))
        paths.named(params, lambda path: path.startswith("actor"))

    Raises:
      ValueError: if no leaf is.
    """
    if callable(names):
        has, what = names, "satisfies the predicate of its path"
    else:
        has = lambda path: has_any(path, names)  # noqa: E731
        what = f"has {' or '.join(map(repr, names))} in its path"
    where = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    paths = jax.tree_util.tree_map_with_path(where, tree)
    found = jax.tree.map(lambda path: bool(has(path)), paths)
    if not any(jax.tree.leaves(found)):
        raise ValueError(f"no param {what}; there are {', '.join(jax.tree.leaves(paths))}")
    return found
