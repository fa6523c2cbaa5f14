"""Makes an agent out of a learner and its params, and writes it as programs that run without jaxmeta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core import learner as learners
from jaxmeta.core.learner import Learner
from jaxmeta.deploy import agent
from jaxmeta.types import Array, Continuous, Key, Params, Plan, Rollout, Spec

PLATFORMS = ("cpu", "cuda", "tpu")
README = """# An agent

The programs of this folder run with JAX on {platforms}; jaxmeta is not needed, flatbuffers is. `agent.py` calls them:

    import agent

    actor = agent.load(".")
    actor.reset(task_begins=True)
    action = actor.act(obs)                  # at the start of an episode
    action = actor.act(obs, reward)          # after each step
    actor.act(obs, reward, done=True)        # after the last step
{adapts}
An observation has arrays of shape {observation}, an action {action}.
"""


def agent_of(
    learner: Learner, params: Params, spec: Spec, plan: Plan, deterministic: bool = False, seed: int = 0
) -> agent.Agent:
    """Makes an agent that acts step by step on NumPy arrays.

    Args:
      params: without an axis of seeds.
      plan: the layout of a trial; with rounds, the agent adapts after each of them.
      deterministic: whether to take the most likely action instead of a sample.
      seed: decides all random numbers of the agent.
    """
    return agent.Agent(_Flat(learner, params, spec, plan, deterministic).programs(), form(spec, plan), seed)


def form(spec: Spec, plan: Plan) -> agent.Form:
    """Returns what an agent observes and does."""
    action = spec.action.example()
    return agent.Form(
        observation=[(list(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves(spec.observation_form())],
        action=(list(action.shape), str(action.dtype)),
        limit=spec.action.limit if isinstance(spec.action, Continuous) else None,
        horizon=spec.horizon,
        streams=plan.streams if plan.rounds else 1,
        episodes=plan.episodes,
    )


def export(
    folder: Path,
    learner: Learner,
    params: Params,
    spec: Spec,
    plan: Plan,
    deterministic: bool = False,
    platforms: tuple[str, ...] = PLATFORMS,
) -> None:
    """Writes an agent as serialized programs, with `agent.py`, which calls them; `agent.load` reads the folder.

    Args:
      folder: is made if it does not exist.
      platforms: where the programs can run.
    """
    from jax import export as exporting

    flat = _Flat(learner, params, spec, plan, deterministic)
    written = {
        name: exporting.export(program, platforms=platforms)(*flat.shapes(name)).serialize()
        for name, program in flat.programs()._asdict().items()
        if program is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in written.items():
        (folder / f"{name}{agent.SUFFIX}").write_bytes(program)
    (folder / "agent.py").write_text(Path(agent.__file__).read_text())
    described = form(spec, plan)
    manifest = {"format": agent.FORMAT, **described._asdict()}
    (folder / agent.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    rounds = f"{described.streams} streams of {described.episodes} episodes"
    adapts = f"    actor.adapt()                            # after a round of {rounds}\n" if plan.rounds else ""
    text = README.format(
        platforms=", ".join(platforms),
        adapts=adapts,
        observation=", ".join(str(shape) for shape, _ in described.observation),
        action=f"is {described.action[1]} of shape {described.action[0]}",
    )
    (folder / "README.md").write_text(text)


class _Flat:
    """The functions of a learner on lists of arrays; the params are constants of the programs."""

    def __init__(self, learner: Learner, params: Params, spec: Spec, plan: Plan, deterministic: bool):
        self.learner = learners.deterministic(learner) if deterministic else learner
        self.params, self.spec, self.plan = params, spec, plan
        key = jax.random.key(0)
        self.fast = jax.eval_shape(learner.start, params, key)
        self.carry = jax.eval_shape(learner.reset, params, self.fast, key)
        self.inputs = jax.eval_shape(spec.example_input)
        _, self.output = jax.eval_shape(learner.act, params, self.fast, self.carry, self.inputs)
        self.experience = jax.eval_shape(self._example)

    def programs(self) -> agent.Programs:
        """Returns the compiled functions."""
        functions = (self.start, self.reset, self.act, self.adapt)
        exact = [jax.jit(devices.in_float32(function)) for function in functions]
        return agent.Programs(*exact[:3], adapt=exact[3] if self.plan.rounds else None)

    def start(self, key: Array, count: Array) -> list[Array]:
        return _leaves(self.learner.start(self.params, _key(key, count)))

    def reset(self, fast: list[Array], key: Array, count: Array) -> tuple[list[Array], Array]:
        drawn = _key(key, count)
        carry = self.learner.reset(self.params, _like(self.fast, fast), drawn)
        return _leaves(carry), jax.random.key_data(drawn)

    def act(self, fast, carry, inputs, key: Array, count: Array) -> tuple[list[Array], Array, list[Array]]:
        carry, output = self.learner.act(
            self.params, _like(self.fast, fast), _like(self.carry, carry), _like(self.inputs, inputs)
        )
        return _leaves(carry), self.learner.head(output).sample(seed=_key(key, count)), _leaves(output)

    def adapt(self, fast: list[Array], experience: list[Array], key: Array, count: Array) -> list[Array]:
        rollout = _like(self.experience, experience[1:])
        rollout = rollout.replace(reset_key=jax.random.wrap_key_data(experience[0]))
        rollout = rollout.replace(
            success=jnp.zeros(rollout.reward.shape, bool), fault=jnp.zeros(rollout.reward.shape, jnp.int8)
        )
        return _leaves(self.learner.adapt(self.params, _like(self.fast, fast), rollout, _key(key, count)))

    def _example(self) -> Rollout:
        """Returns a round of zeros, without what `adapt` fills in."""
        zero = jnp.zeros(())
        step = Rollout(
            inputs=self.spec.example_input(),
            action=self.spec.action.example(),
            next_obs=self.spec.example_obs(),
            reward=zero, valid=zero, done=zero, terminated=zero,
            output=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.output),
            reset_key=(), success=(), fault=(),  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        shape = (self.plan.episodes * self.spec.horizon, self.plan.streams)
        return jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), step)

    def shapes(self, name: str) -> tuple[Any, ...]:
        """Returns the shapes of the arguments of a program."""
        key, count = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.uint32)
        fast, carry, inputs = (_forms(tree) for tree in (self.fast, self.carry, self.inputs))
        keys = jax.ShapeDtypeStruct((self.plan.streams, 2), jnp.uint32)
        return {
            "start": (key, count),
            "reset": (fast, key, count),
            "act": (fast, carry, inputs, key, count),
            "adapt": (fast, [keys, *_forms(self.experience)], key, count),
        }[name]


def _key(key: Array, count: Array) -> Key:
    return jax.random.fold_in(jax.random.wrap_key_data(key), count)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree: Any) -> list[Array]:
    """Flattens a pytree; typed keys become their data."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _forms(tree: Any) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of what `_leaves` returns."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), jax.eval_shape(_leaves, tree))


def _like(form: Any, leaves: list[Array]) -> Any:
    """Undoes `_leaves`."""
    forms, structure = jax.tree.flatten(form)
    whole = [
        jax.random.wrap_key_data(leaf) if _is_key(kind) else leaf for kind, leaf in zip(forms, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)
