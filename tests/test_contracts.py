"""The public contracts, run over the registries: a new algorithm or task family is certified by existing."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest

from jaxmeta import registry, tasks, testing
from jaxmeta.types import Step
from tests import tiny


def test_every_registered_algorithm_has_a_tiny_form():
    assert set(tiny.ALGOS) == set(registry.ALGOS)


def test_every_algorithm_for_supervised_tasks_has_a_tiny_form():
    assert set(tiny.SUPERVISED) == set(registry.SUPERVISED_ALGOS)


# they differ from MAML in the update rule alone, which the test of the learner sees; the learned optimizer takes long
SAME_LOOP = {"anil", "cavia", "imaml", "meta-sgd", "learned-optimizer"}


@pytest.mark.parametrize("name", registry.SUPERVISED_ALGOS)
def test_supervised_learner_holds_the_contract(name):
    meta = tiny.supervised(name)
    testing.check_learner(meta.learner, tiny.waves(), meta.plan)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SAME_LOOP else name for name in registry.SUPERVISED_ALGOS],
)
def test_supervised_algorithm_holds_the_contract(name):
    testing.check_algo(tiny.supervised(name))


# a humanoid takes longest to compile, and a walker is built as a hopper is; the others share a body and all that moves
# it with half-cheetah-vel and ant-dir, and tests/tasks/test_brax.py looks at their forms, rewards and laws
SLOW = {"humanoid-dir", "walker-params", "half-cheetah-dir", "ant-goal"}
FAMILY_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in registry.TASKS]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_task_family_holds_the_contract(name):
    factory, config = registry.TASKS[name].load()
    stiff = registry.TASKS[name].module == "jaxmeta.tasks.brax"
    testing.check_env(factory(config()), num_steps=2, tolerance=5e-3 if stiff else 1e-6)


FAMILIES = {"navigation": tiny.family, "bandit": lambda: tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=3))}
ON_NAVIGATION = [(name, "navigation") for name in (*registry.ALGOS, *tiny.VARIANTS)]
REAL_ACTIONS = {"pearl", "sac"}
ON_BANDIT = [(name, "bandit") for name in registry.ALGOS if name not in REAL_ACTIONS]


ALL = [*ON_NAVIGATION, *ON_BANDIT]
# put together from parts that MAML and those named below are held to the contracts with
RELATIVES = {"anil", "cavia", "e-maml", "fomaml", "imaml", "meta-sgd", "promp", "reptile"}
OWN_LEARNER, OWN_LOOP = {"anil", "cavia", "imaml", "meta-sgd"}, {"promp", "reptile"}


def with_slow(slow):
    """Lists all algorithms on their families; those of which `slow(name, family)` holds are slow."""
    return [pytest.param(*one, marks=pytest.mark.slow) if slow(*one) else one for one in ALL]


def has_others_learner(name, family):
    return name in RELATIVES and (name not in OWN_LEARNER or family == "bandit")


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "family"), with_slow(has_others_learner))
def test_learner_holds_the_contract(name, family):
    family = FAMILIES[family]()
    meta = tiny.algo(name, family)
    testing.check_learner(meta.learner, family, meta.plan)


# their outer loops are those of others; what is their own is in the learner, which the test above holds to its contract
SLOW_VARIANTS = {"maml-vpg", "maml-ppo", "pearl-recurrent", "rl2-associative", "rl2-lru", "rl2-trpo", "varibad-states"}
# what discrete actions change is in the learner too
SLOW_ON = (
    {(name, family) for name in ("l2rl", "snail") for family in FAMILIES}
    | {("sac", "navigation")}
    | {(name, "bandit") for name in ("maml", "ppo", "rl2", "varibad")}
)


def has_others_loop(name, family):
    if (name, family) in SLOW_ON:
        return True
    return name in SLOW_VARIANTS or (name in RELATIVES and (name not in OWN_LOOP or family == "bandit"))


@pytest.mark.parametrize(("name", "family"), with_slow(has_others_loop))
def test_algorithm_holds_the_contract(name, family):
    testing.check_algo(tiny.algo(name, FAMILIES[family]()))


@dataclasses.dataclass(frozen=True)
class Broken(tasks.Navigation):
    """A navigation environment with one thing wrong."""

    fault: str = ""

    @property
    def spec(self):
        spec = super().spec
        return dataclasses.replace(spec, terminates=False) if self.fault == "ends" else spec

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        return state, {"shape": obs[:1], "dtype": obs.astype(jnp.int32)}.get(self.fault, obs)

    def step(self, key, state, action, task):
        next_state, step = super().step(key, state, action, task)
        if self.fault == "state":
            next_state = next_state.replace(position=next_state.position[:1])
        if self.fault == "reward":
            step = step.replace(reward=step.obs)
        if self.fault == "nan":
            step = step.replace(reward=step.reward / 0.0 * 0.0)
        if self.fault == "ends":
            step = Step(obs=step.obs, reward=step.reward, terminated=jnp.array(True))
        return next_state, step


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"env.reset gives an observation \[1\]; spec.observation is \[2\]"),
        ("dtype", r"env.reset gives an observation of int32; it must be float32"),
        (
            "state",
            r"the state after env.step has float32\[1\] at .position; the state after env.reset has float32\[2\]",
        ),
        ("reward", r"env.step gives reward float32\[2\]; it must be float32\[\]"),
        ("nan", r"env.step pays a reward that is not finite"),
        ("ends", r"env.step ends an episode early, but spec.terminates is False"),
    ],
)
def test_check_env_says_what_is_wrong(fault, message):
    with pytest.raises(testing.ContractError, match=message):
        testing.check_env(tiny.family()._replace(env=Broken(horizon=4, fault=fault)))


def test_check_env_says_that_an_environment_keeps_state():
    traced = itertools.count()

    class Counting(tasks.Navigation):
        def step(self, key, state, action, task):
            state, step = super().step(key, state, action, task)
            return state, step.replace(reward=step.reward + next(traced))

    with pytest.raises(testing.ContractError, match="does something else when it is traced again"):
        testing.check_env(tiny.family()._replace(env=Counting(horizon=4)))


def test_check_env_accepts_the_same_environment_without_the_fault():
    testing.check_env(tiny.family()._replace(env=Broken(horizon=4)))


def test_check_learner_says_that_replay_differs():
    meta = tiny.algo("rl2")
    wrong = meta.learner._replace(
        unroll=lambda params, fast, carry, experience: experience.output.replace(value=experience.output.value + 1.0)
    )
    with pytest.raises(testing.ContractError, match="replay differs from the collection by 1 at .value"):
        testing.check_learner(wrong, tiny.family(), meta.plan)


def test_check_learner_says_that_adaptation_changes_a_shape():
    meta = tiny.algo("maml")
    wrong = meta.learner._replace(adapt=lambda params, fast, experience, key: fast.replace(opt_state=jnp.zeros(2)))
    with pytest.raises(testing.ContractError, match="fast after learner.adapt has the structure"):
        testing.check_learner(wrong, tiny.family(), meta.plan)


def test_check_learner_says_that_params_changed_in_place():
    meta = tiny.algo("maml")

    def adapt(params, fast, experience, key):
        layer = params.policy["params"]["_ActionHead_0"]
        layer["log_std"] = layer["log_std"] + 1.0
        return meta.learner.adapt(params, fast, experience, key)

    with pytest.raises(testing.ContractError, match="log_std.*changed in place"):
        testing.check_learner(meta.learner._replace(adapt=adapt), tiny.family(), meta.plan)


def test_check_learner_says_that_a_memory_is_lost():
    meta = tiny.algo("rl2")

    def act(params, fast, carry, inputs):
        carry = jax.tree.map(lambda leaf: leaf * (1.0 - inputs.prev_done), carry)
        return meta.learner.act(params, fast, carry, inputs)

    with pytest.raises(testing.ContractError, match="the carry does not survive the end of an episode"):
        testing.check_learner(meta.learner._replace(act=act), tiny.family(), meta.plan)


def test_check_env_says_what_a_family_lacks():
    with pytest.raises(testing.ContractError, match="the family has no 'env'; it needs env, sample, sample_test"):
        testing.check_env(tiny.family().env)


def test_check_algo_says_that_an_update_does_nothing():
    meta = tiny.algo("maml")
    idle = meta._replace(update=lambda state: (state.replace(step=state.step + 1), {"loss": jnp.zeros(())}))
    with pytest.raises(testing.ContractError, match="6 updates left all params as they were"):
        testing.check_algo(idle)


def test_check_algo_says_that_a_dtype_changes():
    meta = tiny.algo("maml")
    wrong = meta._replace(update=lambda state: (state.replace(step=state.step + 1.0), {"loss": jnp.zeros(())}))
    with pytest.raises(testing.ContractError, match=r"the state after an update has float32\[\] at .step"):
        testing.check_algo(wrong)
