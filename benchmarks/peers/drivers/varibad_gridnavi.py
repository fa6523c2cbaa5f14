"""The official VariBAD on GridNavi, from a checkout: its meta-learner with its own settings, without logs."""

from __future__ import annotations

import sys
import tempfile

from benchmarks.peers.protocol import Session, arguments

session = Session("torch", "gym")

FOREVER = 10**9
"""Updates; the benchmark ends the process long before."""


def main(
    checkout: str, num_tasks: int, episodes: int, epochs: int, minibatches: int, vae_steps: int, vae_batch: int
) -> None:
    sys.path.insert(0, checkout)
    from config.gridworld import args_grid_varibad
    from metalearner import MetaLearner

    steps = 15 * episodes

    class Timed(MetaLearner):
        def log(self, run_stats, train_stats, start_time):
            """Is called once before training and once after every update, instead of logging."""
            if self.iter_idx < 1:  # the first update of the policy is the second
                return
            session.did(num_tasks * steps)

    options = {
        "num_frames": FOREVER,
        "max_rollouts_per_task": episodes,
        "num_processes": num_tasks,
        "policy_num_steps": steps,
        "ppo_num_epochs": epochs,
        "ppo_num_minibatch": minibatches,
        "num_vae_updates": vae_steps,
        "vae_batch_num_trajs": vae_batch,
        "size_vae_buffer": 10_000,
        "precollect_len": num_tasks * steps,
        "results_log_dir": tempfile.mkdtemp(),
    }
    args = args_grid_varibad.get_args([f"--{name}={value}" for name, value in options.items()])
    args.seed, args.action_space = 0, None
    Timed(args).train()


if __name__ == "__main__":
    main(**arguments())
