"""Exact optima and classical algorithms, as baselines of meta-learned agents.

Agents are `Learner`s and run in the same `evaluate` as trained ones; their params are those of `learner.init(key)`:

    learner = jm.references.bandits.thompson(num_arms=5)
    report = jm.evaluate(learner, learner.init(key), family.env, tasks, key, jm.Plan(episodes=10))

* `bandits`: Bernoulli arms. Learners `random`, `greedy`, `epsilon_greedy`, `ucb1`, `thompson`, `optimistic_thompson`,
  `gittins`, `probability_matching`, and `oracle`, which knows the best arm; the exact posterior of the best arm
  `best_arm_probability`; the value of the Bayes-optimal policy `bayes_optimal_value` and the table `gittins_index`.
* `dark_room`: a hidden goal in a dark room. The Bayes-optimal explorer `bayes_optimal`, an agent that knows the goal
  `oracle` and one that acts by the exact posterior over the planner's actions `probability_matching`, as learners; the
  exact returns of the first two, `bayes_optimal_returns` and `oracle_return`.
* `experts`: the planner that knows the task `planner`, a classical learning algorithm `teacher` and an agent that acts
  at random `blind_behaviour`, each for a task family, as experts for imitation; `comparisons` for pictures.
* `grid`: a hidden goal on a small grid. The Bayes-optimal explorer `bayes_optimal`, an agent that knows the goal
  `oracle`, and one that walks from one random cell to the next `wanderer`, as learners; the exact returns of the first
  two, `bayes_optimal_returns` and `oracle_return`.
* `linear_adaptation`: the closed form of one gradient step of a linear model of dynamics with a hidden sign.
* `maze`: an agent that knows the maze `oracle`, as a learner; the shortest path from the start `shortest_steps` and
  from everywhere `steps_to_go`, in steps, and the optimal return `oracle_return`.
* `meta_gradient`: the exact meta-gradient on a small MDP `exact_gradient`, and the expectation, bias and variance of
  the estimators of `jm.outer.META_GRADIENTS`, `expected_gradient` and `quality`.
* `moving_bandits`: two goals of which one pays. An agent that knows it `oracle` and one that always goes to the same
  goal `towards`, as learners; the returns of knowing the goal `oracle_return`, of going to the other one
  `other_goal_return`, and of going to the same one in both tasks `collapsed_return`.
* `optimizers`: hand-designed optimisers on supervised tasks: gradient descent, momentum and Adam, `optimiser`.
* `planner`: planning with the true dynamics `oracle`, as a learner in `with_state(family)`: the ceiling of agents that
  plan in a model.
* `point`: point robots. An agent that knows the goal `oracle`, as a learner; its return, `oracle_return` and
  `sparse_oracle_return`, and the mean over goals and starts, `expected_return` and `expected_sparse_return`.
* `random_walk`: a chain with a hidden end that pays, as `dark_room`.
* `rooms`: four rooms with a hidden goal, by dynamic programming. Expected steps to a goal `optimal_steps` and
  `random_steps`; returns `optimal_return` and `random_return`; an agent that knows the goal `oracle`, as a learner.
* `scratch`: learning from scratch on every task of any family, by `ppo`.
* `tabular`: random MDPs. The values of the known MDP `optimal_value` and of random actions `random_value`; the agent
  that knows the MDP `oracle`, and learners `random`, `epsilon_greedy`, `psrl`, `optimistic_psrl`, `ucrl2`, `beb`.
"""

from jaxmeta.references import (
    bandits,
    dark_room,
    experts,
    grid,
    linear_adaptation,
    maze,
    meta_gradient,
    moving_bandits,
    optimizers,
    planner,
    point,
    random_walk,
    rooms,
    scratch,
    tabular,
)

__all__ = [
    "bandits",
    "dark_room",
    "experts",
    "grid",
    "linear_adaptation",
    "maze",
    "meta_gradient",
    "moving_bandits",
    "optimizers",
    "planner",
    "point",
    "random_walk",
    "rooms",
    "scratch",
    "tabular",
]
