"""Time and memory of a gradient over whole trials, by sequence model and trial length.

The gradient is that of PPO's loss, on one device, on trials that an untrained GRU collected on bandits, in the same
pieces as in an update. All models use the same trials, and compared models are timed in turns.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

import jaxmeta as jm
from benchmarks.turns import peak_memory, take_turns
from jaxmeta import devices, inner, nets, outer, rl
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect
from jaxmeta.experiment.provenance import provenance
from jaxmeta.outer.loss import gradient_chunk
from jaxmeta.types import Params, Trial

CELLS = ("gru", "lru_scan", "lru_associative", "fast_weights")
"""Both forms of the LRU, whatever the device's default; fast weights are the cell `associative` of RL²."""


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """Sizes of the measurement with `--tasks sequence`."""

    num_arms: int = 10
    """Arms of the bandits; one pull is one step."""
    cell_lengths: tuple[int, ...] = (100, 1_000, 10_000)
    """Steps per trial for the comparison of the LRU and fast weights with the GRU."""
    cell_steps: int = 40_000
    """Steps per gradient in that comparison, over all trials in parallel."""
    hidden: int = 64
    """Size of the recurrent state."""
    snail_lengths: tuple[int, ...] = (100, 1_000)
    """Steps per trial for the comparison of SNAIL's parallel form with stepping."""
    snail_steps: int = 4_000
    """Steps per gradient in that comparison; fewer, as stepping stores the whole past at every step."""
    width: int = 32
    """Number of SNAIL's filters, and the size of its keys and values."""
    memory_length: int = 2_500
    """Steps of the shortest trial of the memory comparison; the others are twice and four times as long."""

    def __post_init__(self):
        checks.at_least_one(self, "num_arms", "cell_steps", "hidden", "snail_steps", "width", "memory_length")
        for name in ("cell_lengths", "snail_lengths"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; all lengths must be at least 1")


class _Gradient(NamedTuple):
    """A compiled gradient over trials."""

    program: Callable[[Params, Trial], Params]
    compile_s: float
    temp_bytes: int
    """Temporary memory, in addition to arguments and result."""


def measure_sequence(config: SequenceConfig, repeats: int) -> dict[str, Any]:
    """Compiles and times the gradients; returns the record that is printed."""
    seconds: dict[str, dict[str, list[float]]] = {}
    record: dict[str, Any] = {"cells_against_gru": {}, "snail_parallel_against_stepping": {}}
    for length in config.cell_lengths:
        learners = {cell: _learner(cell, length, config) for cell in CELLS}
        comparison, turns = _compare(learners, length, config.cell_steps, config, repeats)
        record["cells_against_gru"][str(length)], seconds[f"cells_{length}"] = comparison, turns
    for length in config.snail_lengths:
        snail = _learner("snail", length, config)
        learners = {"stepping": snail._replace(unroll=None), "parallel": snail}
        comparison, turns = _compare(learners, length, config.snail_steps, config, repeats)
        record["snail_parallel_against_stepping"][str(length)], seconds[f"snail_{length}"] = comparison, turns
    record |= {"memory": measure_memory(config), "peak_memory_bytes": peak_memory(), "repeats_s": seconds}
    return record | {"tasks": "sequence", "sizes": dataclasses.asdict(config)} | provenance()


def measure_memory(config: SequenceConfig) -> dict[str, Any]:
    """Measures how the memory of the gradient of one trial grows with its length, from compiled programs.

    `snail` has the depth for the longest trial at all lengths. `snail_as_deep_as_long` is built as in the recipe: each
    of its blocks has one more layer per doubling of the trial.
    """
    lengths = [config.memory_length * factor for factor in (1, 2, 4)]
    cases: dict[str, Callable[[int], Learner]] = {
        cell: lambda length, cell=cell: _learner(cell, length, config) for cell in ("lstm", *CELLS)
    }
    cases["snail"] = lambda length: _learner("snail", lengths[-1], config)
    cases["snail_as_deep_as_long"] = lambda length: _learner("snail", length, config)
    trials = [jax.eval_shape(lambda length=length: _trials(length, 1, config)) for length in lengths]
    record = {}
    for name, make in cases.items():
        sizes = [_gradient(make(length), some).temp_bytes for length, some in zip(lengths, trials, strict=True)]
        record[name] = {"lengths": lengths, "temp_bytes": sizes, "exponent": growth_exponent(sizes)}
    return record


def growth_exponent(sizes: Sequence[float]) -> float:
    """Returns the exponent p of size ∝ length^p, from sizes at relative lengths 1, 2 and 4."""
    return math.log(sizes[-1] / sizes[0]) / math.log(4.0)


def _compare(
    learners: dict[str, Learner], length: int, steps: int, config: SequenceConfig, repeats: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Times learners in turns on the same trials; speedups are medians relative to the first learner."""
    num_trials = max(1, steps // length)
    trials = jax.jit(lambda: _trials(length, num_trials, config))()
    record: dict[str, Any] = {"num_trials": num_trials}
    programs = {}
    for name, learner in learners.items():
        params = jax.jit(learner.init)(jax.random.key(0))
        gradient = _gradient(learner, trials)
        programs[name] = _blocking(gradient.program, params, trials)
        record[f"{name}_compile_s"], record[f"{name}_temp_bytes"] = gradient.compile_s, gradient.temp_bytes
        record[f"{name}_params"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    seconds = take_turns(programs, repeats)
    for name, turns in seconds.items():
        record[f"{name}_s"] = statistics.median(turns)
        record[f"{name}_steps_per_s"] = num_trials * length / record[f"{name}_s"]
    first, *others = seconds
    for name in others:
        ratios = [before / after for before, after in zip(seconds[first], seconds[name], strict=True)]
        record[f"{name}_speedup"] = statistics.median(ratios)
    return record, seconds


def _learner(model: str, length: int, config: SequenceConfig) -> Learner:
    """Builds the agent for trials of `length` steps; policy and values share one network."""
    family = _family(length, config)
    if model == "snail":
        sizes = jm.SNAILConfig(filters=config.width, key_size=config.width, value_size=config.width)
        return jm.snail(family, sizes).learner
    if model.startswith("lru"):
        in_parallel = model == "lru_associative"
        return inner.memory(nets.linear_recurrent_actor_critic(family.env.spec, config.hidden, parallel=in_parallel))
    cell = "associative" if model == "fast_weights" else model
    return inner.memory(nets.recurrent_actor_critic(family.env.spec, cell, config.hidden, length=length))


def _family(length: int, config: SequenceConfig) -> jm.TaskFamily:
    return jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=config.num_arms, num_pulls=length))


def _trials(length: int, num_trials: int, config: SequenceConfig) -> Trial:
    """Collects trials of an untrained GRU, [N, 1, T, 1, ...]."""
    family, learner = _family(length, config), _learner("gru", length, config)
    params = learner.init(jax.random.key(1))
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(2), num_trials))
    plan = jm.Plan(episodes=length)
    run = jax.vmap(lambda task, key: collect(learner, params, family.env, task, key, plan))
    return run(tasks, jax.random.split(jax.random.key(3), num_trials))


def _gradient(learner: Learner, trials: Trial) -> _Gradient:
    """Compiles the gradient of PPO's loss, with values and entropy.

    Args:
      trials: arrays or shapes.
    """
    advantage = rl.value_baseline(trace=0.9, across_episodes=True, normalize=False)
    loss = outer.meta_loss(learner, rl.clipped(), advantage, value_weight=0.5, entropy_weight=0.05)
    params = jax.eval_shape(learner.init, jax.random.key(0))

    def gradient(params: Params, trials: Trial) -> Params:
        chunk = gradient_chunk(learner, trials)
        return devices.mean_over_chunks(lambda some: jax.grad(loss)(params, some), trials, chunk)

    begun = time.perf_counter()
    compiled = jax.jit(gradient).lower(params, trials).compile()
    compile_s = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend does not report the memory of programs"
    return _Gradient(compiled, compile_s, memory.temp_size_in_bytes)


def _blocking(program: Callable[[Params, Trial], Params], params: Params, trials: Trial) -> Callable[[], Params]:
    return lambda: jax.block_until_ready(program(params, trials))
