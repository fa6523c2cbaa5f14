"""Exact optima and classical algorithms, to hold a meta-learned agent against.

What acts is a `Learner` like a trained agent and runs in the same `evaluate`; it has nothing to train, so its params
are what `learner.init(key)` gives:

    learner = jm.references.bandits.thompson(num_arms=5)
    report = jm.evaluate(learner, learner.init(key), family.env, tasks, key, jm.Plan(episodes=10))

* `bandits`: Bernoulli arms. Learners `random`, `greedy`, `epsilon_greedy`, `ucb1`, `thompson`, `optimistic_thompson`,
  `gittins`; the value of the Bayes-optimal policy `bayes_optimal_value` and the table `gittins_index`.
* `grid`: a hidden goal on a small grid. The Bayes-optimal explorer `bayes_optimal` and an agent that knows the goal
  `oracle`, both as learners; their exact returns `bayes_optimal_returns` and `oracle_return`.
* `maze`: the least number of steps to the goal `shortest_steps`, from everywhere `steps_to_go`, and the return of an
  agent that knows the maze `oracle_return`.
* `optimizers`: gradient descent, momentum and Adam that train a network on each supervised task, `optimiser`.
* `point`: point robots. The return of an agent that knows the goal, `oracle_return` and `sparse_oracle_return`, and
  its mean over goals and starts, `expected_return` and `expected_sparse_return`.
* `tabular`: random MDPs. The values of the known MDP `optimal_value` and of random actions `random_value`; learners
  `random`, `epsilon_greedy`, `psrl`, `optimistic_psrl`, `ucrl2`, `beb`.
"""

from jaxmeta.references import bandits, grid, maze, optimizers, point, tabular

__all__ = ["bandits", "grid", "maze", "optimizers", "point", "tabular"]
