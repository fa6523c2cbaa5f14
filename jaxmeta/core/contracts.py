"""Checks of task families by tracing alone: nothing is compiled and no environment step is run.

Every recipe calls `check_forms` when it builds a meta-learner, and `evaluate` calls `check_tasks`. `jaxmeta.testing`
makes the same checks and then runs the environment. Every error message is one line.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Continuous, Discrete, MultiDiscrete, Spec, Step, Task

DRAW = "(try jax.vmap(family.sample_test)(jax.random.split(key, num_tasks)))"
PACKAGE = str(Path(__file__).parents[1])


class ContractError(AssertionError, ValueError):
    """An environment, learner or algorithm violates its contract."""


class _TaskForm(NamedTuple):
    """The form of one task: its tree structure, and the shape and dtype of every leaf."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]


_known_tasks: weakref.WeakKeyDictionary[Any, set[_TaskForm]] = weakref.WeakKeyDictionary()
"""By environment, the forms of the tasks with which it passed `check_forms`."""


def check_forms(family: TaskFamily) -> None:
    """Checks that a family has all its fields, that its spec is valid, and that its functions match the spec.

    Raises:
      ContractError: with a message of one line: what is wrong, where, and the remedy.
    """
    for name in TaskFamily._fields:
        require(hasattr(family, name), f"the family has no {name!r}; it needs {', '.join(TaskFamily._fields)}")
    check_spec(family.env)
    task = check_tasks_of(family)
    form = _form_of(task)
    if form not in _known_forms(family.env):  # tracing the physics of a robot takes a second
        check_env_forms(family.env, task)
        _note(family.env, form)


def check_spec(env: Env) -> Spec:
    """Checks the spec of an environment and returns it."""
    try:
        spec = getattr(env, "spec", None)
    except ValueError as error:  # of `Spec` itself
        raise ContractError(str(error)) from None
    require(isinstance(spec, Spec), f"env.spec is {spec!r}; it must be a jaxmeta.types.Spec")
    assert isinstance(spec, Spec)
    require(_is_integer(spec.horizon), f"spec.horizon is {spec.horizon!r}; it must be an integer")
    require(spec.horizon >= 1, f"spec.horizon is {spec.horizon}; an episode needs at least 1 step")
    require(isinstance(spec.terminates, bool), f"spec.terminates is {spec.terminates!r}; it must be True or False")
    _check_action(spec.action)
    return spec


def _check_action(action: Any) -> None:
    known = isinstance(action, Discrete | MultiDiscrete | Continuous)
    require(known, f"spec.action is {action!r}; it must be Discrete, MultiDiscrete or Continuous")
    if isinstance(action, MultiDiscrete):
        return
    name = "num" if isinstance(action, Discrete) else "size"
    number = getattr(action, name)
    require(_is_integer(number), f"spec.action is {action}; its {name} must be an integer")
    require(number >= 1, f"spec.action is {action}; its {name} must be at least 1")
    limit = getattr(action, "limit", 1.0)
    require(isinstance(limit, int | float) and limit > 0, f"spec.action is {action}; its limit must be above 0")


def check_tasks_of(family: TaskFamily) -> Task:
    """Checks the task distributions and the task encoding; returns the form of a task."""
    for name in ("sample", "sample_test", "encode"):
        part = getattr(family, name)
        hint = " (try jm.tasks.flatten_task)" if name == "encode" else ""
        require(callable(part), f"family.{name} is {part!r}; it must be a function{hint}")
    count = family.episodes
    require(_is_integer(count) and count >= 1, f"family.episodes is {count!r}; a trial needs at least 1 episode")
    key = jax.random.key(0)
    task = form_of_call("family.sample(key)", family.sample, key)
    hint = "it needs one (try jnp.zeros(()))"
    require(bool(jax.tree.leaves(task)), f"family.sample returns a task without arrays; {hint}")
    test_task = form_of_call("family.sample_test(key)", family.sample_test, key)
    same_form("family.sample_test", test_task, "family.sample", task)
    if family.train_tasks is not None:
        take = lambda tasks: jax.tree.map(lambda leaf: leaf[0], tasks)  # noqa: E731
        first = form_of_call("taking one of family.train_tasks", take, family.train_tasks)
        same_form("one of family.train_tasks", first, "family.sample", task)
    keys = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(task) if _is_key(leaf)]
    hint = f" (task{keys[0]} is a PRNG key: encode something that describes the task)" if keys else ""
    code = form_of_call("family.encode(task)", family.encode, task, hint=hint)
    require(
        _is_array(code) and code.ndim == 1 and jnp.issubdtype(code.dtype, jnp.floating),
        f"family.encode returns {form(code)}; it must return a float vector [D]",
    )
    return task


def check_env_forms(env: Env, task: Task) -> None:
    """Checks that an environment keeps the structure of its state and matches its spec."""
    spec, key = env.spec, jax.random.key(0)
    began = form_of_call("env.reset(key, task)", env.reset, key, task)
    state, obs = _pair("env.reset", began, "(state, obs)")
    swapped = _is_observation(state, spec) and not _is_observation(obs, spec) and not _is_array(obs)
    require(not swapped, "env.reset returns (obs, state); it must return (state, obs)")
    if spec.is_plain:
        require(_is_array(obs), f"env.reset returns a {type(obs).__name__} as the observation; it must be an array")
        require(
            obs.shape == spec.observation,
            f"env.reset returns an observation {list(obs.shape)}; spec.observation is {list(spec.observation)}",
        )
        require(obs.dtype == jnp.float32, f"env.reset returns an observation of {obs.dtype}; it must be float32")
    same_form("the observation of env.reset", obs, "spec.observation", spec.observation_form())
    what = "(state, Step(obs, reward, terminated))"
    went = form_of_call("env.step(key, state, action, task)", env.step, key, state, spec.action.example(), task)
    next_state, step = _pair("env.step", went, what)
    require(not isinstance(next_state, Step), f"env.step returns (Step, state); it must return {what}")
    name = type(step).__name__ if not _is_array(step) else "array"
    require(isinstance(step, Step), f"env.step returns (state, {name}); it must return {what}")
    same_form("the state after env.step", next_state, "the state after env.reset", state)
    if not spec.is_plain:
        same_form("the observation of env.step", step.obs, "spec.observation", spec.observation_form())
    for name, value, shape, kind in (
        *((("obs", step.obs, spec.observation, jnp.float32),) if spec.is_plain else ()),
        ("reward", step.reward, (), jnp.float32),
        ("terminated", step.terminated, (), jnp.bool_),
        ("truncated", step.truncated, (), jnp.bool_),
        ("success", step.success, (), jnp.bool_),
    ):
        require(
            _is_array(value) and value.shape == shape and value.dtype == kind,
            f"env.step returns {name} {form(value)}; it must be {jnp.dtype(kind).name}{list(shape)}",
        )


def check_tasks(env: Env, tasks: Task) -> None:
    """Checks that `tasks` is a batch of tasks of an environment, leaves [N, ...].

    A missing batch axis does not always show in the shapes: an environment that broadcasts takes a goal [2] for two
    goals []. So the tasks are compared with those of the families with this environment that passed `check_forms`,
    which runs when a meta-learner is built.

    Raises:
      ValueError: if they are not; the message is one line.
    """
    if isinstance(tasks, TaskFamily):
        raise ValueError(f"tasks is a TaskFamily; it must be a batch of its tasks {DRAW}")
    leaves = jax.tree.leaves_with_path(tasks)
    if not leaves:
        raise ValueError(f"tasks holds no arrays; it must be a batch of tasks {DRAW}")
    for path, leaf in leaves:
        if not getattr(leaf, "shape", ()):
            name = f"tasks{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} is {form(leaf)}; a batch of tasks has a first axis [N] {DRAW}")
    sizes = sorted({leaf.shape[0] for _, leaf in leaves})
    if sizes[0] == 0:
        raise ValueError("tasks is an empty batch; an evaluation needs at least 1 task")
    _compare_with_known(env, tasks, len(sizes) == 1)
    if len(sizes) > 1:
        raise ValueError(f"tasks has first axes of {sizes[0]} and {sizes[-1]}; a batch has one, [N] {DRAW}")


def _compare_with_known(env: Env, tasks: Task, has_one_size: bool) -> None:
    """Compares tasks with the known forms of the environment's tasks; if there are none, traces a reset and a step."""
    known, env_name = _known_forms(env), type(env).__name__
    whole = jax.eval_shape(lambda tasks: tasks, tasks)
    one = jax.eval_shape(lambda tasks: jax.tree.map(lambda leaf: leaf[0], tasks), tasks)
    if has_one_size and _form_of(one) in known:
        return
    if isinstance(tasks, list):
        raise ValueError("tasks is a list; stack it (try jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks))")
    kind, kinds = _kind(jax.tree.structure(tasks)), sorted({_kind(form.structure) for form in known})
    if known and kind not in kinds:
        raise ValueError(f"tasks holds a {kind}; a task of this {env_name} is a {' or a '.join(kinds)}")
    if _form_of(whole) in known:
        path, leaf = jax.tree.leaves_with_path(whole)[0]
        name = f"tasks{jax.tree_util.keystr(path)}"
        raise ValueError(f"{name} is {form(leaf)}, which is one task; it must be a batch, [N, ...] {DRAW}")
    try:
        check_env_forms(env, one)
    except ContractError as error:
        raise ValueError(f"tasks is not a batch of tasks of this {env_name}: {error}") from None


def form_of_call(what: str, function: Callable[..., Any], *arguments: Any, hint: str = "") -> Any:
    """Returns the form of a function's result, as `jax.eval_shape` does; turns an error inside into one line."""

    def checked(*arguments):
        result = function(*arguments)
        for path, leaf in jax.tree.leaves_with_path(result):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
                where, name = jax.tree_util.keystr(path), type(leaf).__name__
                known = isinstance(leaf, str | bytes) or callable(leaf)
                remedy = "all leaves must be arrays" if known else "JAX does not know it (try @flax.struct.dataclass)"
                raise ContractError(f"{what} returns a {name}{' at ' + where if where else ''}; {remedy}")
        return result

    try:
        return jax.eval_shape(checked, *arguments)
    except ContractError as error:  # raised again without JAX's note about hidden frames
        raise ContractError(str(error)) from None
    except Exception as error:
        line = " ".join(str(error).strip().split("\n")[0].split())
        raise ContractError(
            f"{what} raises {type(error).__name__}: {line}{_where(error)}{hint or _remedy(error)}"
        ) from None


def same_form(name: str, tree: Any, other_name: str, other: Any) -> None:
    """Checks that two trees have the same structure, shapes and dtypes."""
    structure, other_structure = jax.tree.structure(tree), jax.tree.structure(other)
    require(structure == other_structure, f"{name} has the structure {structure}; {other_name} has {other_structure}")
    for (path, leaf), other_leaf in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        same = leaf.shape == other_leaf.shape and leaf.dtype == other_leaf.dtype
        where = jax.tree_util.keystr(path) or "its root"
        require(same, f"{name} has {form(leaf)} at {where}; {other_name} has {form(other_leaf)}")


def require(condition: bool, message: str) -> None:
    """Raises a ContractError with this message unless the condition is true."""
    if not condition:
        raise ContractError(message)


def form(leaf: Any) -> str:
    """Formats the dtype and shape of an array, or the type of anything else."""
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"


def _pair(name: str, result: Any, right: str) -> tuple[Any, Any]:
    kind = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
    kind = "one array" if _is_array(result) else kind
    require(isinstance(result, tuple) and len(result) == 2, f"{name} returns {kind}; it must return {right}")
    return result


def _where(error: BaseException) -> str:
    """Returns the line of the user's code that raised an error, formatted for a message."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.exists() and "site-packages" not in file.parts and not frame.filename.startswith(PACKAGE):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def _remedy(error: BaseException) -> str:
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "; use jax.numpy, not numpy"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerIntegerConversionError):
        return "; values are not known while JAX traces (try jnp.where or jax.lax.cond)"
    return ""


def _form_of(task: Task) -> _TaskForm:
    leaves = jax.tree.leaves(task)
    return _TaskForm(jax.tree.structure(task), tuple((leaf.shape, leaf.dtype) for leaf in leaves))


def _known_forms(env: Env) -> set[_TaskForm]:
    try:
        return _known_tasks.get(env, set())
    except TypeError:  # neither hashable nor weakly referable: cannot be cached
        return set()


def _note(env: Env, form: _TaskForm) -> None:
    try:
        _known_tasks.setdefault(env, set()).add(form)
    except TypeError:
        return


def _kind(structure: Any) -> str:
    """Returns the name of the type at the root of a tree."""
    node = structure.node_data()
    return "array" if node is None else node[0].__name__


def _is_observation(tree: Any, spec: Spec) -> bool:
    return spec.is_plain and _is_array(tree) and tree.shape == spec.observation


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.ShapeDtypeStruct | jax.Array | np.ndarray)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
