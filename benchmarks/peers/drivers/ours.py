"""jaxmeta's side of every row: whole meta-updates, compiled, on all cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.protocol import Session, arguments

session = Session("jax")

import jax

import jaxmeta as jm
from benchmarks import few_shot, off_policy, xland
from benchmarks.turns import stateful
from jaxmeta import devices, outer
from jaxmeta.core import train

Work = Callable[[], float]


def updates(meta: jm.MetaLearner, count: int, units: float) -> Work:
    """Makes a function that does `count` meta-updates of `units` units of work each."""
    run = stateful(train.make_chunk(meta, count), train.init_state(meta, jax.random.key(0)))

    def work() -> float:
        run()
        return count * units

    return work


def sinusoid(num_tasks: int, updates_per_call: int, **_: Any) -> Work:
    """Second-order MAML on sine waves; the other sizes are those of `few_shot`."""
    return updates(few_shot.second_order(num_tasks), updates_per_call, num_tasks)


def maml(family: jm.TaskFamily, num_tasks: int, streams: int, horizon: int, hidden: tuple[int, ...]) -> Work:
    """MAML with TRPO; counts the steps before and after adaptation."""
    config = jm.MAMLConfig(num_tasks=num_tasks, streams=streams, hidden=tuple(hidden))
    return updates(jm.maml(family, config), 1, 2 * num_tasks * streams * horizon)


def maml_navigation(**sizes: Any) -> Work:
    return maml(jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=sizes["horizon"])), **sizes)


def maml_half_cheetah(**sizes: Any) -> Work:
    return maml(jm.tasks.half_cheetah_vel(jm.tasks.HalfCheetahVelConfig(horizon=sizes["horizon"])), **sizes)


def ppo(num_envs: int, unroll: int, minibatches: int, epochs: int, hidden: tuple[int, ...]) -> Work:
    """PPO without adaptation."""
    family = jm.tasks.half_cheetah_dir(jm.tasks.HalfCheetahDirConfig(horizon=unroll))
    optimiser = outer.ActorCriticConfig(epochs=epochs, minibatches=minibatches)
    config = jm.PPOConfig(num_tasks=num_envs, streams=1, hidden=tuple(hidden), ppo=optimiser)
    return updates(jm.ppo(family, config), 1, num_envs * unroll)


def rl2_xland(**sizes: Any) -> Work:
    """RL² on XLand; steps after the end of an episode do not count."""
    config = xland.XLandBenchmark(**sizes)
    run, steps = xland.our_training(xland.rulesets(config), config)

    def work() -> float:
        run()
        return steps()

    return work


def recurrent_ppo(num_tasks: int, length: int, hidden: int, epochs: int, minibatches: int) -> Work:
    """RL² on bandits, with separate networks for policy and values."""
    family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=5, num_pulls=length))
    optimiser = outer.ActorCriticConfig(epochs=epochs, minibatches=minibatches)
    config = jm.RL2Config(hidden=hidden, num_tasks=num_tasks, ppo=optimiser)
    return updates(jm.rl2(family, config), 1, num_tasks * length)


def pearl(**sizes: int) -> Work:
    """PEARL's update phase; units are gradient steps."""
    config = off_policy.OffPolicyBenchmark(**sizes)
    _, update = off_policy.filled(config)

    def work() -> float:
        update()
        return config.gradient_steps

    return work


def varibad(num_tasks: int, episodes: int, epochs: int, minibatches: int, vae_steps: int, vae_batch: int) -> Work:
    """VariBAD on grid-navigation."""
    family = jm.tasks.grid_navigation(jm.tasks.GridConfig(num_episodes=episodes))
    config = jm.VariBADConfig(
        num_tasks=num_tasks,
        ppo=outer.ActorCriticConfig(epochs=epochs, minibatches=minibatches),
        vae=outer.VariationalConfig(steps=vae_steps, batch_size=vae_batch),
    )
    return updates(jm.varibad(family, config), 1, num_tasks * episodes * family.env.spec.horizon)


PROGRAMS: dict[str, Callable[..., Work]] = {
    "sinusoid": sinusoid,
    "maml-navigation": maml_navigation,
    "maml-half-cheetah": maml_half_cheetah,
    "ppo": ppo,
    "rl2-xland": rl2_xland,
    "recurrent-ppo": recurrent_ppo,
    "pearl": pearl,
    "varibad": varibad,
}

if __name__ == "__main__":
    devices.use_cpu_cores()
    given = arguments()
    session.serve(PROGRAMS[given.pop("program")](**given))
