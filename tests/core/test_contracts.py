"""The public contracts, run over the registries: a new algorithm or task family is certified by existing."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import nets, tasks, testing
from jaxmeta.core import contracts
from jaxmeta.experiment import registry
from jaxmeta.types import Continuous, Discrete, Output, Spec, Step
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


# all bodies are moved by the same code, and half-cheetah-vel has the default kind of physics;
# tests/tasks/test_brax.py and test_brax_parts.py look at the forms, rewards and laws of the others
SLOW = {"humanoid-dir", "walker-params", "half-cheetah-dir", "half-cheetah-crippled", "ant-dir", "ant-goal"}
SLOW |= {"ant-crippled", "reacher-goal", "hopper-params"}
FAMILY_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in registry.TASKS]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_task_family_holds_the_contract(name):
    stiff = registry.TASKS[name].module == "jaxmeta.tasks.brax"
    family = tiny.by_default(name)
    testing.check_env(family, num_steps=2, tolerance=5e-3 if stiff else 1e-6, max_steps=0 if stiff else 1000)


FAMILIES = {"navigation": tiny.family, "bandit": lambda: tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=3))}
ON_NAVIGATION = [(name, "navigation") for name in (*registry.ALGOS, *tiny.VARIANTS)]
REAL_ACTIONS = {"grbal", "pearl", "pets", "rebal", "sac"}
ON_BANDIT = [(name, "bandit") for name in registry.ALGOS if name not in REAL_ACTIONS]


ALL = [*ON_NAVIGATION, *ON_BANDIT]
# put together from parts that MAML and those named below are held to the contracts with
RELATIVES = {"anil", "cavia", "e-maml", "fomaml", "imaml", "meta-sgd", "multi-task-uncertainty", "promp", "reptile"}
# their agent is that of RL², and their loops differ in who acts and who labels
RELATIVES |= {"clone", "dagger", "distill", "dpt", "gatekeeper"}
# its agent is MAML's with another loss, as in the variant "mil-observations"
RELATIVES |= {"mil"}
# tests/inner/test_online.py looks at their learners and at an update; the agent of mb-mpo is that of MAML
RELATIVES |= {"grbal", "rebal", "mb-mpo"}
# their loops are those of PPO and Reptile
RELATIVES |= {"option-critic", "option-critic-per-task", "lead-policy"}
OWN_LEARNER, OWN_LOOP = (
    {"anil", "cavia", "imaml", "meta-sgd", "option-critic", "lead-policy"},
    {"promp", "reptile", "dagger"},
)


def with_slow(slow):
    """Lists all algorithms on their families; those of which `slow(name, family)` holds are slow."""
    return [pytest.param(*one, marks=pytest.mark.slow) if slow(*one) else one for one in ALL]


# their learners are those of the recipes that they are variants of
SAME_LEARNER = {"federated", "maml-ppo", "maml-vpg", "multi-task-returns", "multi-task-surgery", "rl2-trpo"}
# tests/nets/test_sequence_contracts.py holds it to the contract
SAME_LEARNER |= {"rl2-transformer"}
# memory in the master and a generated policy are held by tests/inner/test_hierarchy.py and test_lead.py
SAME_LEARNER |= {"mlsh-whole", "lead-policy-hypernetwork"}


# what is their own is held on navigation, and discrete actions by the learners of maml, rl2, l2rl and varibad
SAME_ON_BANDIT = {"multi-task", "ppo", "mlsh", "snail"}


def has_others_learner(name, family):
    if name in SAME_LEARNER or (family == "bandit" and name in SAME_ON_BANDIT):
        return True
    return name in RELATIVES and (name not in OWN_LEARNER or family == "bandit")


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "family"), with_slow(has_others_learner))
def test_learner_holds_the_contract(name, family):
    family = tiny.observed_by(name, FAMILIES[family]())
    meta = tiny.algo(name, family)
    testing.check_learner(meta.learner, family, meta.plan)


# their outer loops are those of others; what is their own is in the learner, which the test above holds to its contract
SLOW_VARIANTS = {"maml-vpg", "maml-ppo", "pearl-recurrent", "rl2-associative", "rl2-lru", "rl2-trpo", "varibad-states"}
SLOW_VARIANTS |= {"multi-task-sac", "multi-task-surgery", "multi-task-returns", "multi-task-uncertainty"}
SLOW_VARIANTS |= {"rl2-transformer", "rl2-s5", "rl2-mamba", "rl2-mlstm"}
SLOW_VARIANTS |= {"mil-observations"}
# the loop over whole trials is that of MAML with PPO
SLOW_VARIANTS |= {"mlsh-whole", "lead-policy-hypernetwork"}
# tests/outer/test_imitation.py, tests/algos/test_federated.py and test_gradient_steps.py look at what is their own
SLOW_VARIANTS |= {"dagger", "federated", "promp"}
# what discrete actions change is in the learner too
SLOW_ON = (
    {(name, family) for name in ("l2rl", "snail") for family in FAMILIES}
    | {("sac", "navigation"), ("pets", "navigation")}
    | {(name, "bandit") for name in ("federated", "maml", "mlsh", "multi-task", "ppo", "rl2", "varibad")}
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
        ("shape", r"env.reset returns an observation \[1\]; spec.observation is \[2\]"),
        ("dtype", r"env.reset returns an observation of int32; it must be float32"),
        (
            "state",
            r"the state after env.step has float32\[1\] at .position; the state after env.reset has float32\[2\]",
        ),
        ("reward", r"env.step returns reward float32\[2\]; it must be float32\[\]"),
        ("nan", r"env.step returns a non-finite reward"),
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

    with pytest.raises(testing.ContractError, match="changes when it is traced again"):
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


def summing(what):
    """An agent that acts on the sum of what it received so far: of last observations, of rewards, or of both."""

    def act(params, fast, carry, inputs):
        new = what(inputs) * (1.0 - inputs.first)
        output = Output(dist=nets.Gaussian(params * (carry + new), jnp.zeros(2)), value=jnp.zeros(()))
        return carry + new, output

    return jm.Learner(
        init=lambda key: jnp.ones(()),
        start=lambda params, key: (),
        reset=lambda params, fast, key: jnp.zeros(2),
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=nets.head_for(Continuous(2)),
    )


OBSERVES, REWARDED = lambda inputs: inputs.prev_next_obs, lambda inputs: inputs.prev_reward * jnp.ones(2)


@pytest.mark.parametrize(
    ("what", "remembers", "message"),
    [
        (OBSERVES, "next-obs", None),
        (OBSERVES, "reward", "the last reward of an episode does not reach the policy"),
        (REWARDED, "next-obs", "the last observation of an episode does not reach the policy"),
        (lambda inputs: OBSERVES(inputs) + REWARDED(inputs), "next-obs", "the policy's output depends on a reward"),
    ],
)
def test_check_learner_knows_what_a_memory_of_the_dynamics_is(what, remembers, message):
    check = lambda: testing.check_learner(summing(what), tiny.family(), jm.Plan(episodes=2), remembers=remembers)  # noqa: E731
    if message is None:
        return check()
    with pytest.raises(testing.ContractError, match=message):
        check()


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
    idle = meta._replace(update=lambda state, data=(): (state.replace(step=state.step + 1), {"loss": jnp.zeros(())}))
    with pytest.raises(testing.ContractError, match="6 updates left all params as they were"):
        testing.check_algo(idle)


def test_check_algo_says_that_a_dtype_changes():
    meta = tiny.algo("maml")
    wrong = meta._replace(update=lambda state, data=(): (state.replace(step=state.step + 1.0), {"loss": jnp.zeros(())}))
    with pytest.raises(testing.ContractError, match=r"the state after an update has float32\[\] at .step"):
        testing.check_algo(wrong)


@dataclasses.dataclass
class Car:
    """A task or state that JAX does not know."""

    speed: jax.Array


@dataclasses.dataclass(frozen=True)
class Malformed(tasks.Navigation):
    """A navigation environment of the wrong form."""

    fault: str = ""

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        wrong = {
            "reset swapped": (obs, state),
            "reset alone": obs,
            "reset dict": {"state": state, "obs": obs},
            "reset dataclass": (Car(obs), obs),
            "reset obs dict": (state, {"position": obs}),
        }
        return wrong.get(self.fault, (state, obs))

    def step(self, key, state, action, task):
        if self.fault == "if" and action[0] > 0:
            action = -action
        if self.fault == "numpy":
            action = jnp.asarray(np.sign(action))
        state, step = super().step(key, state, action, task)
        wrong = {
            "step of five": (step.obs, step.reward, step.terminated, False, {}),
            "step dict": (state, {"obs": step.obs, "reward": step.reward, "terminated": step.terminated}),
            "step swapped": (step, state),
            "float done": (state, step.replace(terminated=step.terminated.astype(jnp.float32))),
            "string": (state, step.replace(reward="high")),
        }
        return wrong.get(self.fault, (state, step))


class Unfinished(tasks.Navigation):
    """A navigation environment whose step forgets the task."""

    def step(self, key, state, action):  # pyright: ignore[reportIncompatibleMethodOverride]
        return state, None


def with_spec(**changes):
    class Respecified(tasks.Navigation):
        @property
        def spec(self):
            return dataclasses.replace(super().spec, **changes)

    return {"env": Respecified(horizon=4)}


STEP = r"it must return \(state, Step\(obs, reward, terminated\)\)"
FORMS = {
    "reset swapped": r"env.reset returns \(obs, state\); it must return \(state, obs\)",
    "reset alone": r"env.reset returns one array; it must return \(state, obs\)",
    "reset dict": r"env.reset returns a dict; it must return \(state, obs\)",
    "reset dataclass": r"returns a Car at \[0\]; JAX does not know it \(try @flax.struct.dataclass\)",
    "reset obs dict": r"env.reset returns a dict as the observation; it must be an array",
    "if": r"env.step\(.*\) raises TracerBoolConversionError: .* \(test_contracts.py, line \d+\); .*jnp.where",
    "numpy": r"env.step\(.*\) raises TracerArrayConversionError: .* \(test_contracts.py, line \d+\); use jax.numpy",
    "step of five": "env.step returns a tuple of 5; " + STEP,
    "step dict": r"env.step returns \(state, dict\); " + STEP,
    "step swapped": r"env.step returns \(Step, state\); " + STEP,
    "float done": r"env.step returns terminated float32\[\]; it must be bool\[\]",
    "string": r"returns a str at \[1\].reward; all leaves must be arrays",
}
WRONG = [
    *(pytest.param({"env": Malformed(4, fault)}, message, id=fault) for fault, message in FORMS.items()),
    ({"env": Unfinished(4)}, r"env.step\(key, state, action, task\) raises TypeError: .*takes 4 positional arguments"),
    ({"encode": None}, r"family.encode is None; it must be a function \(try jm.tasks.flatten_task\)"),
    ({"encode": lambda task: task.goal[0]}, r"family.encode returns float32\[\]; it must return a float vector"),
    ({"sample": lambda key: ()}, "family.sample returns a task without arrays"),
    ({"sample": lambda key: {"name": "left"}}, r"family.sample\(key\) returns a str at \['name'\]"),
    ({"sample": lambda key: Car(jnp.zeros(()))}, r"family.sample\(key\) returns a Car; JAX does not know it"),
    ({"sample": lambda: 1}, r"family.sample\(key\) raises TypeError: .* takes 0 positional arguments but 1 was given"),
    (
        {"sample": lambda key: {"goal": key}, "sample_test": lambda key: {"goal": key}},
        r"family.encode\(task\) raises .*task\['goal'\] is a PRNG key: encode something",
    ),
    ({"train_tasks": tasks.PointTask(goal=jnp.zeros((3, 1)))}, r"one of family.train_tasks has float32\[1\] at .goal"),
    ({"train_tasks": ["left"]}, "taking one of family.train_tasks raises"),
    ({"episodes": 0}, "family.episodes is 0; a trial needs at least 1 episode"),
    (with_spec(horizon=10.0), "spec.horizon is 10.0; it must be an integer"),
    (with_spec(action=Discrete(0)), r"spec.action is Discrete\(num=0\); its num must be at least 1"),
    (with_spec(action=Discrete(2.0)), r"spec.action is Discrete\(num=2.0\); its num must be an integer"),
    (with_spec(action=Continuous(2, -1.0)), "its limit must be above 0"),
    (with_spec(observation=[2]), r"spec.observation is \[2\]; it must be .* tuple of integers \(try \(2,\)\)"),
    (with_spec(terminates=1), "spec.terminates is 1; it must be True or False"),
]


@pytest.mark.parametrize(("parts", "message"), WRONG)
def test_a_malformed_family_is_one_line_from_the_check_and_from_an_algorithm(parts, message):
    family = tiny.family()._replace(**parts)
    for check in (testing.check_env, jm.maml):
        with pytest.raises(testing.ContractError, match=message) as found:
            check(family)
        assert "\n" not in str(found.value) and not hasattr(found.value, "__notes__")
        assert found.value.__suppress_context__ or found.value.__context__ is None


@dataclasses.dataclass(frozen=True)
class TracedOnly(tasks.Navigation):
    """Refuses to compute anything."""

    def reset(self, key, task):
        assert isinstance(key, jax.core.Tracer)
        return super().reset(key, task)

    def step(self, key, state, action, task):
        assert isinstance(action, jax.core.Tracer)
        return super().step(key, state, action, task)


def test_the_check_of_a_family_traces_and_computes_nothing():
    contracts.check_forms(tiny.family()._replace(env=TracedOnly(4)))


@dataclasses.dataclass(frozen=True)
class Late(tasks.Navigation):
    """Ends after 17 steps, or whenever it walks in one direction for long."""

    far: float = 0.0

    @property
    def spec(self):
        return Spec(observation=(2,), action=Continuous(2, 0.1), horizon=50)

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        return (state, jnp.zeros((), jnp.int32)), obs

    def step(self, key, state, action, task):
        state, time = state
        state, step = super().step(key, state, action, task)
        ends = jnp.abs(step.obs).max() > self.far if self.far else time == 16
        return (state, time + 1), step.replace(terminated=ends)


@pytest.mark.parametrize(("far", "after"), [(0.0, "17"), (2.0, r"\d\d")])
def test_check_env_finds_an_end_that_comes_late(far, after):
    message = f"ends an episode early, but spec.terminates is False; one ended after {after} steps"
    with pytest.raises(testing.ContractError, match=message):
        testing.check_env(tiny.family()._replace(env=Late(far=far)))
    testing.check_env(tiny.family()._replace(env=Late(far=far)), max_steps=0)


def constant_task(key):
    return tasks.PointTask(goal=jnp.full(2, 0.3))


def numpy_task(key):
    return tasks.PointTask(goal=jnp.asarray(np.random.uniform(size=2), jnp.float32))  # noqa: NPY002


def test_check_env_finds_tasks_that_are_not_drawn_from_the_key():
    with pytest.raises(testing.ContractError, match="family.sample returns the same task for 16 keys"):
        testing.check_env(tiny.family()._replace(sample=constant_task))
    for name in ("sample", "sample_test"):
        with pytest.raises(testing.ContractError, match=f"family.{name} changes when it is traced again"):
            testing.check_env(tiny.family()._replace(**{name: numpy_task}))
    single = tasks.PointTask(goal=jnp.full((1, 2), 0.3))
    testing.check_env(tiny.family()._replace(sample=constant_task, sample_test=constant_task, train_tasks=single))


class Unlimited(tasks.Navigation):
    """Moves as far as the action says."""

    def step(self, key, state, action, task):
        position = state.position + action
        return state.replace(position=position), Step(position, -jnp.linalg.norm(position), jnp.array(False))


def test_check_env_finds_actions_that_are_not_clipped():
    with pytest.raises(testing.ContractError, match="beyond spec.action.limit, which is 0.1, differs from the same"):
        testing.check_env(tiny.family()._replace(env=Unlimited(horizon=4)))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        (tasks.Navigation(), jm.MAMLConfig(), r"family is a Navigation, an environment; maml takes a TaskFamily \(try"),
        (tasks.navigation, jm.MAMLConfig(), "family is a function; maml takes a TaskFamily"),
        (None, jm.RL2Config(), "config is a RL2Config; maml takes a MAMLConfig"),
        (None, jm.RL2Config, r"config is the class RL2Config; maml takes a MAMLConfig\(\)"),
        (None, 3, "config is a int; maml takes a MAMLConfig"),
    ],
)
def test_an_algorithm_refuses_other_arguments(family, config, message):
    with pytest.raises(TypeError, match=message):
        jm.maml(family or tiny.family(), config)


@pytest.mark.parametrize(
    ("tasks_module", "name"),
    [(registry.ALGOS, name) for name in registry.ALGOS] + [(registry.SUPERVISED_ALGOS, "learned-optimizer")],
)
def test_every_algorithm_checks_its_arguments(tasks_module, name):
    build, _ = tasks_module[name].load()
    with pytest.raises(TypeError, match="family is a Navigation, an environment; .* takes a TaskFamily"):
        build(tasks.Navigation())
    with pytest.raises(TypeError, match="config is a int; .* takes a .*Config"):
        build(tiny.family(), 3)
    with pytest.raises(testing.ContractError, match="spec.horizon is 10.0"):
        build(tiny.family()._replace(**with_spec(horizon=10.0)))
