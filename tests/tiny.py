"""The smallest useful form of every registered algorithm and task family: compile time is the price of a test."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmeta as jm
from jaxmeta import inner, outer, tasks
from jaxmeta.algos.hierarchy.mlsh import MasterConfig
from jaxmeta.algos.imitation import mil, student
from jaxmeta.algos.models import planning
from jaxmeta.config import extras
from jaxmeta.experiment import registry

PPO = outer.ActorCriticConfig(epochs=2, minibatches=2, value_weight=0.5, entropy_weight=0.01)
ONE_BATCH = dataclasses.replace(PPO, minibatches=1)
# damped: on so little data the curvature is nearly singular, and conjugate gradient would amplify rounding
TRPO = outer.TrustRegionConfig(damping=0.1)
TRPO_WITH_VALUES = outer.TrustRegionCriticConfig(damping=0.1, value_steps=2)
SAC = outer.OffPolicyConfig(gradient_steps=3, meta_batch=2, batch_size=4, replay_capacity=40)
VAE = outer.VariationalConfig(steps=2, batch_size=4, capacity=8)
SMALL_BELIEF = {"hidden": (8,), "latent": 2, "encoder_hidden": 8, "decoder_hidden": (8,), "vae": VAE}
NORMALISED = {"normalize_observations": True, "scale_rewards": True}
CEM = planning.PlannerConfig(horizon=2, candidates=6, elites=2, iterations=2)
FIT = inner.FitConfig(steps=2, epochs=2, batch_size=4, held_out=0.3, capacity=12)
STUDENT = student.StudentConfig(recurrent=student.RecurrentConfig(hidden=8))
FEW_STEPS = outer.ImitationConfig(steps=2)
LOSS = mil.LearnedLossConfig(hidden=(4,), outputs=2)
STEPS = {"num_tasks": 2, "streams": 3, "hidden": (8,)}
DYNAMICS = outer.DynamicsConfig(steps=3, batch_size=4, capacity=40)
ONLINE = {
    "num_tasks": 2,
    "episodes": 2,
    "hidden": (4,),
    "explore": 0,
    "planner": planning.PlannerConfig(kind="mppi", horizon=2, candidates=6, iterations=1),
    "windows": outer.WindowConfig(past=5, future=2, steps=3, batch_size=4, capacity=8),
}
LEAD = {"duration": 1, "rounds": 1, "lead_hidden": (4,), "pull": 0.1}
TWO_LEVELS = {"num_tasks": 2, "streams": 2, "duration": 1, "warmup": 1, "hidden": (8,), "ppo": ONE_BATCH}
MASTER_PPO = inner.ProximalConfig(steps=2)
ALGOS = {
    "anil": jm.ANILConfig(**STEPS, trpo=TRPO),
    "cavia": jm.CAVIAConfig(**STEPS, context=2, trpo=TRPO),
    "clone": jm.CloneConfig(num_tasks=4, episodes=3, student=STUDENT),
    "dagger": jm.DAggerConfig(num_tasks=4, episodes=3, student=STUDENT, imitation=FEW_STEPS, kept_rounds=2),
    "distill": jm.DistillConfig(num_tasks=4, episodes=3, student=STUDENT),
    "dpt": jm.DPTConfig(num_tasks=4, episodes=3, student=STUDENT),
    "e-maml": jm.EMAMLConfig(**STEPS, trpo=TRPO),
    "federated": jm.FederatedConfig(**STEPS, clients=outer.ClientsConfig(number=32)),
    "fomaml": jm.FOMAMLConfig(**STEPS, trpo=TRPO),
    "gatekeeper": jm.GatekeeperConfig(num_tasks=4, episodes=3, student=STUDENT, streams=3, best=2, imitation=FEW_STEPS),
    "grbal": jm.GrBALConfig(**ONLINE),
    "imaml": jm.IMAMLConfig(**STEPS, trpo=TRPO),
    "l2rl": jm.L2RLConfig(num_tasks=4, hidden=8, episodes=3),
    "lead-policy": jm.LeadPolicyConfig(**STEPS, **LEAD),
    "maml": jm.MAMLConfig(**STEPS, trpo=TRPO),
    "mb-mpo": jm.MBMPOConfig(
        **STEPS, trpo=TRPO, real_trials=2, policy_steps=2, members=2, model_hidden=(4,), dynamics=DYNAMICS
    ),
    "meta-sgd": jm.MetaSGDConfig(**STEPS, trpo=TRPO),
    "mil": jm.MILConfig(num_tasks=2, hidden=(8,), bias_transformation=2),
    "mlsh": jm.MLSHConfig(
        **TWO_LEVELS, joint=1, normalize_observations=False, master=MasterConfig(hidden=(4,), ppo=MASTER_PPO)
    ),
    "multi-task": jm.MultiTaskConfig(network="heads", visits=2, streams=2, hidden=(8,), ppo=PPO),
    "option-critic": jm.OptionCriticConfig(num_options=3, num_tasks=4, streams=2, hidden=(8,), ppo=PPO),
    "pearl": jm.PEARLConfig(
        num_train_tasks=4, tasks_per_update=2, hidden=(8,), encoder_hidden=(8,), latent=2, context_batch=3, sac=SAC
    ),
    "pets": jm.PETSConfig(
        num_tasks=2,
        episodes=3,
        members=2,
        hidden=(4,),
        planner=CEM,
        fit=FIT,
        dynamics=DYNAMICS,
    ),
    "ppo": jm.PPOConfig(num_tasks=4, streams=2, hidden=(8,), ppo=PPO),
    "promp": jm.ProMPConfig(**STEPS, rounds=2),
    "rebal": jm.ReBALConfig(**ONLINE, state=4),
    "reptile": jm.ReptileConfig(**STEPS, rounds=1),
    "rl2": jm.RL2Config(num_tasks=4, hidden=8, episodes=3, ppo=PPO),
    "sac": jm.SACConfig(num_train_tasks=4, tasks_per_update=2, streams=2, hidden=(8,), sac=SAC),
    "snail": jm.SNAILConfig(num_tasks=4, filters=4, key_size=4, value_size=4, episodes=3, separate_value=True, ppo=PPO),
    "varibad": jm.VariBADConfig(num_tasks=4, episodes=3, **SMALL_BELIEF, ppo=PPO),
}
VARIANTS = {
    "option-critic-per-task": (
        "option-critic",
        jm.OptionCriticConfig(num_options=2, masters="per-task", num_tasks=6, streams=2, hidden=(8,), ppo=PPO),
    ),
    "lead-policy-hypernetwork": ("lead-policy", jm.LeadPolicyConfig(**STEPS, **LEAD, meta_policy="hypernetwork")),
    "varibad-states": (
        "varibad",
        jm.VariBADConfig(num_tasks=4, episodes=3, **SMALL_BELIEF, reward_decoder="next-obs", state_weight=0.5, ppo=PPO),
    ),
    "mil-observations": (
        "mil",
        jm.MILConfig(
            num_tasks=2,
            hidden=(8,),
            bias_transformation=0,
            inner_loss="observations",
            inner_steps=2,
            inner_optimizer="per-parameter",
            learned_loss=LOSS,
        ),
    ),
    "multi-task-surgery": (
        "multi-task",
        jm.MultiTaskConfig(
            network="conditioned", surgery="pcgrad", visits=1, streams=2, hidden=(8,), ppo=ONE_BATCH, **NORMALISED
        ),
    ),
    "mlsh-whole": (
        "mlsh",
        jm.MLSHConfig(
            **TWO_LEVELS,
            trials="whole",
            master=MasterConfig(cell="gru", state=4, ppo=MASTER_PPO),
        ),
    ),
    "maml-ppo": ("maml", jm.MAMLConfig(**STEPS, outer_loop="ppo", rounds=2, normalize_observations=True)),
    "multi-task-returns": (
        "multi-task",
        jm.MultiTaskConfig(balance="returns", visits=2, streams=2, hidden=(8,), ppo=ONE_BATCH),
    ),
    "multi-task-uncertainty": (
        "multi-task",
        jm.MultiTaskConfig(
            balance="uncertainty", surgery="pcgrad", visits=2, streams=2, hidden=(8,), ppo=ONE_BATCH, **NORMALISED
        ),
    ),
    "multi-task-sac": (
        "multi-task",
        jm.MultiTaskConfig(
            network="heads",
            surgery="pcgrad",
            visits=2,
            streams=2,
            hidden=(8,),
            outer_loop="sac",
            sac=outer.SoftActorCriticConfig(
                gradient_steps=3, batch_size=4, reward_scale=1.0, temperature=None, replay_capacity=40
            ),
        ),
    ),
    "maml-vpg": ("maml", jm.MAMLConfig(**STEPS, outer_loop="vpg")),
    "pearl-recurrent": (
        "pearl",
        jm.PEARLConfig(
            num_train_tasks=4,
            tasks_per_update=2,
            hidden=(8,),
            encoder="recurrent",
            encoder_hidden=(8,),
            latent=2,
            context_batch=3,
            use_next_obs=True,
            sac=dataclasses.replace(SAC, temperature=None),
        ),
    ),
    "rl2-trpo": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, episodes=3, outer_loop="trpo", trpo=TRPO_WITH_VALUES)),
    "rl2-associative": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, episodes=3, cell="associative", ppo=PPO)),
    **{
        f"rl2-{cell}": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, layers=1, episodes=3, cell=cell, ppo=PPO))
        for cell in ("transformer", "s5", "mamba", "mlstm")
    },
    "rl2-lru": ("rl2", jm.RL2Config(num_tasks=4, hidden=8, episodes=3, cell="lru", ppo=PPO, **NORMALISED)),
}
SUPERVISED = {
    "anil": jm.FewShotANILConfig(num_tasks=2, hidden=(8,)),
    "cavia": jm.FewShotCAVIAConfig(num_tasks=2, hidden=(8,), context=2),
    "federated": jm.FewShotFederatedConfig(num_tasks=2, hidden=(8,), rounds=2, clients=outer.ClientsConfig(number=32)),
    "fomaml": jm.FewShotFOMAMLConfig(num_tasks=2, hidden=(8,)),
    "imaml": jm.FewShotIMAMLConfig(num_tasks=2, hidden=(8,), inner_steps=3, inner_lr=0.1),
    "learned-optimizer": jm.LearnedOptimizerConfig(
        num_tasks=2, cell=(4,), rounds=4, outer=outer.UnrolledConfig(segment=2)
    ),
    "maml": jm.FewShotMAMLConfig(num_tasks=2, hidden=(8,), rounds=2),
    "meta-sgd": jm.FewShotMetaSGDConfig(num_tasks=2, hidden=(8,)),
    "reptile": jm.FewShotReptileConfig(num_tasks=2, hidden=(8,), rounds=3),
}


def slow(*values: object):
    """Marks one set of parameters of a test as slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def family() -> tasks.TaskFamily:
    """Short walks that can end early."""
    return tasks.navigation(tasks.NavigationConfig(horizon=4))


def by_default(name: str) -> tasks.TaskFamily:
    """Builds a registered task family with its default config; without its extra, the test is skipped."""
    entry = registry.TASKS[name]
    if entry.extra and not registry.is_installed(entry.extra):
        pytest.skip(f"an extra is not installed: {extras.command(entry.extra)}")
    factory, config = entry.load()
    return factory(config())


def algo(name: str, on: tasks.TaskFamily | None = None) -> jm.MetaLearner:
    """Builds a registered algorithm, or a variant of one, at its smallest."""
    base, config = VARIANTS[name] if name in VARIANTS else (name, ALGOS[name])
    factory, _ = registry.ALGOS[base].load()
    on = observed_by(name, on or family())
    return factory(on, config, **parts(base, on))


def parts(name: str, on: tasks.TaskFamily) -> dict[str, Any]:
    """Further arguments that an algorithm needs."""
    return {"library": library(on)} if name in registry.FROM_LIBRARY else {}


def library(on: tasks.TaskFamily) -> list[outer.Expert]:
    """Two random policies on the tasks of a family."""
    policy = jm.ppo(on, ALGOS["ppo"]).learner
    return [outer.Expert(policy, policy.init(jax.random.key(seed))) for seed in range(2)]


def observed_by(name: str, on: tasks.TaskFamily) -> tasks.TaskFamily:
    """The family that the agent of an algorithm, or of a variant, acts in; three tasks where it must be finite."""
    if not registry.observes_task_id(*(VARIANTS[name] if name in VARIANTS else (name, ALGOS[name]))):
        return on
    few = on if on.train_tasks is not None else tasks.finite(on, 3, 1, jax.random.key(0))
    return tasks.with_task_id(few)


def waves(**changes) -> tasks.TaskFamily:
    """Sine waves from few points."""
    return tasks.sinusoid(tasks.SinusoidConfig(**{"shots": 3, "queries": 4, **changes}))


def spoiled(on: tasks.TaskFamily, key: jax.Array, factor: float) -> tasks.TaskFamily:
    """Multiplies what the support of one supervised task is to be, that which is drawn by `key`."""

    def sample(one):
        task = on.sample(one)
        spoil = jnp.all(jax.random.key_data(one) == jax.random.key_data(key))
        targets = jnp.where(spoil, task.support.targets * factor, task.support.targets)
        return task.replace(support=task.support.replace(targets=targets))

    return on._replace(sample=sample)


def keys_of(state: jm.TrainState, num_tasks: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The keys by which an update draws its tasks, collects and improves, each [N]."""
    return tuple(jax.random.split(state.key, 1 + 3 * num_tasks)[1:].reshape(3, num_tasks))


def supervised(name: str, on: tasks.TaskFamily | None = None, **changes) -> jm.MetaLearner:
    """Builds a registered algorithm for supervised tasks at its smallest."""
    factory, _ = registry.SUPERVISED_ALGOS[name].load()
    return factory(on or waves(), dataclasses.replace(SUPERVISED[name], **changes))
