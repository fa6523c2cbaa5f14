"""Loading runs from their folders, and the states that runs start from."""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

from jaxmeta.config.codec import RunError
from jaxmeta.experiment.runs import CHECKPOINTS, RunConfig, last_checkpoint, read_config, seed_axis

START_STREAM = zlib.crc32(b"start")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that was loaded from its folder or has just been trained."""

    path: Path
    config: RunConfig
    family: Any
    meta: Any
    state: Any
    """The train state of a checkpoint; with several seeds its leaves have a leading axis."""
    skipped: dict[int, str] = dataclasses.field(default_factory=dict)
    """Later checkpoints that are damaged, with the error of each."""

    @property
    def learner(self) -> Any:
        """The agent."""
        return self.meta.learner

    @property
    def params(self) -> Any:
        """The meta-parameters; with several seeds on a leading axis."""
        return self.state.params

    @property
    def params_by_seed(self) -> list[Any]:
        """The meta-parameters of every seed, without an axis of seeds."""
        import jax

        if seed_axis(self.config) is None:
            return [self.params]
        return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], self.params) for seed in range(self.config.num_seeds)]

    @property
    def first_params(self) -> Any:
        """The meta-parameters of the first seed, without an axis of seeds."""
        return self.params_by_seed[0]

    @property
    def step(self) -> int:
        """Updates done."""
        import numpy as np

        return int(np.max(self.state.step))

    def agent(self, deterministic: bool = False, seed: int = 0) -> Any:
        """Makes an agent that acts step by step in an environment outside of JAX; with several seeds, of the first.

            agent = jm.load("runs/first").agent()

        Args:
          deterministic: whether to take the most likely action instead of a sample.
          seed: decides all random numbers of the agent.

        Returns:
          A `jm.deploy.Agent`.

        Raises:
          RunError: if the run is not of reinforcement learning, or adapts to a demonstration.
        """
        from jaxmeta import deploy

        require_deployable(self.config)
        return deploy.agent_of(
            self.learner, self.first_params, self.family.env.spec, self.meta.plan, deterministic, seed
        )


def require_deployable(config: RunConfig) -> None:
    """Raises a RunError if the agent of a run cannot act step by step outside of JAX."""
    from jaxmeta.experiment import registry

    if config.tasks in registry.SUPERVISED_TASKS:
        raise RunError(f"tasks is {config.tasks}, which has no steps to act in; deploy runs of reinforcement learning")
    if config.algo in registry.ONE_SHOT:
        raise RunError(
            f"algo is {config.algo}, which adapts to a demonstration; deploy an agent that adapts to its own steps"
        )


def load(path: str | Path, update: int | Literal["best"] | None = None) -> Run:
    """Loads a run folder: its configuration and one of its checkpoints.

        run = jm.load("runs/bandit")
        report = jm.evaluate(run.learner, run.params, run.family.env, tasks, key, run.meta.plan)

    No code from the folder is executed. The configuration is JSON that names registered parts; the state is arrays
    whose sizes are checked before they are read. The exceptions are a task family of the user's and an environment of
    the family `gymnasium`, each named `module:factory`: the module is imported from Python's path, so load such a run
    only if you trust that module.

    Args:
      update: the checkpoint, a number of updates or "best"; by default the last undamaged one. Damaged checkpoints
        that are skipped are named in a warning.

    Raises:
      RunError: if the folder holds no run, its files are damaged, or no checkpoint has a score to be the best.
    """
    config = read_config(path)
    require_checkpoint(Path(path))
    return load_built(Path(path), config, *config.build(), update)


def require_checkpoint(folder: Path) -> None:
    """Raises a RunError if a run has no checkpoint yet."""
    if last_checkpoint(folder) is None:
        raise RunError(f"{folder} has no checkpoint yet; nothing can be evaluated")


def load_built(
    folder: Path, config: RunConfig, family: Any, meta: Any, update: int | Literal["best"] | None = None
) -> Run:
    """Loads a checkpoint like `load`, with a family and a meta-learner that are already built from the config."""
    import jaxmeta as jm
    from jaxmeta.core.checkpoint import CheckpointError

    checkpointer, form = jm.Checkpointer(folder / CHECKPOINTS), jm.state_form(meta, seed_axis(config))
    skipped: dict[int, str] = {}
    try:
        if update == "best":
            update = checkpointer.best()
            if update is None:
                raise RunError(
                    f"no checkpoint in {checkpointer.folder} has a score, so none is the best; give an update"
                )
        if update is None:
            _, state, skipped = checkpointer.restore_last(form)
        else:
            state = checkpointer.restore(form, update)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    finally:
        checkpointer.close()
    for message in skipped.values():
        warnings.warn(f"{message}; an earlier one was read", stacklevel=3)
    return Run(folder, config, family, meta, state, skipped)


def fresh_state(config: RunConfig, meta, execution: Any = None) -> Any:
    """Initialises the train state of a new run, with the parameters of `config.start_from` if given.

    Raises:
      RunError: if that run cannot be read, or its parameters have other shapes.
    """
    import jax
    import jax.numpy as jnp

    import jaxmeta as jm

    execution = execution or jm.Execution()
    state = jm.init_state(meta, jax.random.key(config.seed), seed_axis(config), execution)
    if config.start_from is None:
        return state
    # with the same seed and key, it would sample the tasks again that the other run was trained on
    keys = jax.vmap(lambda key: jax.random.fold_in(key, START_STREAM))(jnp.atleast_1d(state.key))
    key = jax.device_put(keys.reshape(state.key.shape), state.key.sharding)
    return state.replace(params=_start_params(config, meta, execution), key=key)


def _start_params(config: RunConfig, meta, execution: Any) -> Any:
    """Reads the parameters that a run starts from, onto the devices of this run."""
    import jaxmeta as jm
    from jaxmeta.core.checkpoint import CheckpointError

    form, folder = start_form(config, meta, execution), Path(config.start_from or "")
    checkpointer = jm.Checkpointer(folder / CHECKPOINTS)
    update = (config.start or {}).get("update", last_checkpoint(folder))
    try:
        return checkpointer.restore(form, update).params
    except CheckpointError as error:
        raise RunError(f"start_from is {config.start_from}: {error}") from error
    finally:
        checkpointer.close()


def start_form(config: RunConfig, meta, execution: Any = None) -> Any:
    """Returns `jm.state_form` of the run that this run starts from, on the devices of this run.

    Raises:
      RunError: if that run cannot be read, or its parameters have other names or shapes.
    """
    import jaxmeta as jm

    assert config.start_from is not None
    _, other = read_config(config.start_from).build()
    forms = [
        jm.state_form(
            one._replace(info=dataclasses.replace(one.info, spread=meta.info.spread)),
            seed_axis(config),
            execution or jm.Execution(),
        )
        for one in (meta, other)
    ]
    here, there = (shapes(form.params) for form in forms)
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            one, two = (f"of shape {known[name]}" if name in known else "missing" for known in (there, here))
            raise RunError(
                f"start_from is {config.start_from}: its parameter {name} is {one}, but here it is {two}; use a run"
                " with the same network, and observations and actions of the same size"
            )
    return forms[1]


def expert(path: str | Path, family: Any, update: int | None = None) -> Any:
    """Loads the agent of a run as an expert for students on a family.

    If the run was trained with `--reveal`, the expert observes the task and the student does not.

    Args:
      family: as the student observes it.

    Returns:
      A `jm.outer.Expert`.

    Raises:
      RunError: if the run cannot be read, or was trained on tasks with other observations or actions.
    """
    from jaxmeta import outer
    from jaxmeta.tasks import reveal
    from jaxmeta.tasks.base import Revealed

    run = load(path, update)
    hidden = isinstance(run.family.env, Revealed) and not isinstance(family.env, Revealed)
    there, here = run.family.env.spec, (reveal(family) if hidden else family).env.spec
    if there != here:
        raise RunError(
            f"expert is {path}, which observes {there.observation} and has {there.action}; here it would observe"
            f" {here.observation} and have {here.action}: imitate a run on the same tasks"
        )
    if hidden:
        return outer.informed(family, run.learner, run.first_params)
    return outer.Expert(run.learner, run.first_params)


def expert_or_missing(config: RunConfig, family: Any) -> Any:
    """Loads `config.expert`; if that is impossible, returns an expert that raises the RunError when it is used.

    A trained student can be evaluated without its expert.
    """
    from jaxmeta import outer
    from jaxmeta.core.learner import Learner

    assert config.expert is not None
    try:
        return expert(config.expert, family, (config.sources or {}).get("expert"))
    except RunError as error:
        message = str(error)

    def missing(*arguments: Any) -> Any:
        raise RunError(message)

    return outer.Expert(Learner(missing, missing, missing, missing, missing, missing), ())


def library(config: RunConfig, family: Any) -> list[Any]:
    """Loads the policies of the runs in `config.library`, each a `jm.outer.Expert`, in order.

    A run whose agent observes the task ID has a policy for each of its tasks. A run with several seeds has those of the
    first seed.

    Args:
      family: the tasks on which the policies are to act.

    Raises:
      RunError: if a run cannot be read, or was trained on tasks with other observations or actions.
    """
    from jaxmeta import outer
    from jaxmeta.experiment import registry

    updates = (config.sources or {}).get("library") or [None] * len(config.library or ())
    policies: list[Any] = []
    for path, update in zip(config.library or (), updates, strict=True):
        try:
            run = load(path, update)
        except RunError as error:
            raise RunError(f"library: {error}") from None
        by_task = registry.observes_task_id(run.config.algo, run.config.algo_config)
        there, here = (run.family.env.env if by_task else run.family.env).spec, family.env.spec
        if (there.observation, there.action) != (here.observation, here.action):
            raise RunError(
                f"library has {path}, which observes {there.observation} and has {there.action}; here agents observe"
                f" {here.observation} and have {here.action}: use runs on tasks of the same kind"
            )
        if by_task:
            policies += outer.specialists(run.family, run.learner, run.first_params)
        else:
            policies.append(outer.Expert(run.learner, run.first_params))
    return policies


def demonstrator(config: RunConfig, family: Any, plan: Any) -> Any:
    """Returns who acts in round 0 of the trials of a run, for `jm.evaluate`; None if it is the agent.

    It is the expert that the run was trained with, or the planner of the family.

    Raises:
      RunError: if the run of the expert cannot be read, or the run has none and the family has no planner.
    """
    from jaxmeta.experiment import registry

    if config.algo not in registry.ONE_SHOT or not plan.rounds:
        return None
    from jaxmeta import outer
    from jaxmeta.references import experts

    if config.expert is not None:
        found = expert(config.expert, family, (config.sources or {}).get("expert"))
    else:
        found = experts.planner_or_none(family)
    if found is None:
        raise RunError(
            f"expert is missing: {config.algo} adapts to a demonstration, and {config.tasks} has no planner (try"
            " --expert runs/oracle)"
        )
    return outer.demonstrator(found, family.env, plan)


def training_data(config: RunConfig, family: Any) -> Any:
    """Reads what a run trains on, and checks that nothing has changed since it started; `()` for a run without data.

    Raises:
      RunError: if the demonstrations or the expert cannot be read or have changed.
    """
    from jaxmeta.core.demonstrations import Demonstrations, DemonstrationsError, checksum
    from jaxmeta.experiment import registry
    from jaxmeta.types import Plan

    sources = config.sources or {}
    demonstrator(config, family, Plan(rounds=1))  # the evaluation at the end needs it
    if config.expert is not None:
        expert(config.expert, family, sources.get("expert"))
    if config.demonstrations is None:
        return ()
    try:
        found = checksum(config.demonstrations)
        if sources.get("demonstrations", found) != found:
            raise RunError(f"demonstrations {config.demonstrations} are not those that this run began with")
        data = Demonstrations.load(config.demonstrations, family.env.spec)
    except DemonstrationsError as error:
        raise RunError(f"demonstrations: {error}") from None
    if config.algo in registry.ONE_SHOT:
        _check_pairs(data, config.algo_config.streams)
    return data


def _check_pairs(data: Any, streams: int) -> None:
    """Raises a RunError if there are too few demonstrations of a task to adapt to some and imitate others."""
    import jax

    from jaxmeta import outer

    layout = outer.support_and_query(streams, data.spec.horizon)
    try:
        jax.eval_shape(lambda key: layout(data.rollout(0), key), jax.random.key(0))
    except ValueError as error:
        raise RunError(str(error)) from None


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all leaves by their path, such as `params/layer/kernel`."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
