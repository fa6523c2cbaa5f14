"""Environments of other libraries as task families: one file and one extra each, imported only when it is named.

    from jaxmeta.tasks.adapters.gymnax import GymnaxConfig, gymnax

    family = gymnax(GymnaxConfig(env="CartPole-v1", vary=("length=0.25:1.5",)))

The config of an adapter needs no extra; building the family imports the library. `jaxmeta list` shows which extras are
installed, and the command that installs each.

Two libraries have none: in jumanji the generator of instances is fixed when an environment is built, so nothing of it
can be a task, and navix needs Python 3.12, or an old release that installs development tools.
"""
