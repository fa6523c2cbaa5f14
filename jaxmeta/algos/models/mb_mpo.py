"""MB-MPO: MAML whose tasks are the models of an ensemble."""

from __future__ import annotations

import dataclasses
import math

import jax

from jaxmeta import devices, inner, nets, outer, rl, tasks
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner, embedded
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Key, Plan


@dataclasses.dataclass(frozen=True)
class MBMPOConfig(SecondOrderConfig):
    """MB-MPO: model-based meta-policy optimisation (Clavera et al., 2018, arXiv:1809.05214).

    The inherited fields are those of MAML in imagination: `num_tasks` and `streams` count imagined trials.
    """

    num_tasks: int = 8
    """Imagined tasks per improvement of the policy, each a random model of the ensemble."""
    streams: int = 10
    """Imagined episodes per task and round."""
    real_trials: int = 4
    """Real trials per update, each by the policy after an imagined adaptation to a random model."""
    real_streams: int = 1
    """Episodes of a real trial."""
    policy_steps: int = 20
    """Improvements of the policy per update, each on fresh imagined trials."""
    members: int = 5
    """Models in the ensemble."""
    model_hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of a model; three times 512 in the paper."""
    learn_reward: bool = False
    """Whether the models predict the reward although the family has a planning reward; where it has none, they always
    do."""
    dynamics: outer.DynamicsConfig = outer.DynamicsConfig()
    """How the ensemble is fitted to all real transitions, before the policy improves."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "real_trials", "real_streams", "policy_steps", "members")
        checks.widths(self, "model_hidden")
        if self.num_tasks % self.real_trials:
            raise ValueError(f"num_tasks is {self.num_tasks}; it must be a multiple of real_trials, {self.real_trials}")


@recipe
def mb_mpo(family: TaskFamily, config: MBMPOConfig = MBMPOConfig()) -> MetaLearner:
    """Builds MB-MPO (Clavera et al., 2018, arXiv:1809.05214).

    An update collects real trials, each by a policy that has adapted to a model of the ensemble in imagination; before
    the first fit it has not adapted. The ensemble is fitted to all real transitions so far. Then MAML improves the
    policy: the models are its tasks, and all its experience is imagined. Returns of real trials are logged as usual,
    those of imagined ones with the prefix `imagined/`. In evaluation the policy adapts to real episodes.

    Raises:
      ValueError: if the observation is not a float32 vector, or the replay buffer is too small.
    """
    spec, real = family.env.spec, Plan(streams=config.real_streams)
    policy, loss = config.problem(family)
    maml = outer.parts_of(config.meta_train(config.descent(policy, loss, config.rule()), family))
    reward = None if config.learn_reward else family.planning_reward
    model = nets.gaussian_dynamics(*nets.dynamics_sizes(spec, reward is None), config.model_hidden)
    imagine = inner.imagined_step(spec, model, reward)

    def init(key: Key) -> inner.ImaginingParams:
        policy_key, model_key = jax.random.split(key)
        models = nets.ensemble(model, config.members).init(model_key)
        statistics = rl.dynamics_statistics(model.inputs, model.outputs)
        return inner.ImaginingParams(maml.learner.init(policy_key), rl.DynamicsParams(models, statistics))

    def imagined(models: rl.DynamicsParams) -> TaskFamily:
        return tasks.imagined(family, imagine, models.model, models.statistics)

    learner = embedded(maml.learner, init, lambda params: params.policy)
    collector = inner.after_imagining(learner, lambda params: imagined(params.model), maml.plan)
    strata = devices.num_strata(math.gcd(config.real_trials, config.dynamics.batch_size, config.dynamics.capacity))
    ring = outer.dynamics_ring(spec, model, config.members, config.dynamics.capacity // strata)
    fit = outer.fit_dynamics(spec, model, config.members, config.dynamics, strata)
    per_trial = config.num_tasks // config.real_trials
    return outer.meta_update(
        learner,
        maml.plan,
        outer.uniform(family),
        outer.replay(outer.fresh(collector, family, real), {"transitions": ring}, strata, by_task=False),
        outer.in_imagination(maml.learner, maml.plan, imagined, fit, maml.improve, config.policy_steps, per_trial),
        outer.Info(config.real_trials, real, spread=math.gcd(maml.info.spread, config.real_trials, strata)),
    )
