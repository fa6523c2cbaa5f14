"""PureJaxRL's PPO for Brax, from a checkout, on its half-cheetah."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from pathlib import Path

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "brax", "gymnax")

import jax


def main(checkout: str, num_envs: int, unroll: int, minibatches: int, epochs: int, hidden: list[int]) -> None:
    assert hidden == [64, 64], "the script's networks have two layers of 64"
    sys.modules.setdefault("navix", types.ModuleType("navix"))  # its wrappers import it, for other tasks
    sys.path.insert(0, str(Path(checkout) / "purejaxrl"))
    script = importlib.import_module("ppo_continuous_action")
    script.BraxGymnaxWrapper = functools.partial(script.BraxGymnaxWrapper, backend="spring")
    steps = num_envs * unroll
    config = {
        "LR": 3e-4,
        "NUM_ENVS": num_envs,
        "NUM_STEPS": unroll,
        "TOTAL_TIMESTEPS": steps,
        "UPDATE_EPOCHS": epochs,
        "NUM_MINIBATCHES": minibatches,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.0,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "halfcheetah",
        "ANNEAL_LR": False,
        "NORMALIZE_ENV": False,
        "DEBUG": False,
    }
    program = jax.jit(script.make_train(config))

    def work() -> float:
        jax.block_until_ready(program(jax.random.PRNGKey(0)))
        return steps

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
