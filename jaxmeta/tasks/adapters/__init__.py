"""Environments of other libraries as task families: one file and one extra each, imported only when it is named.

    from jaxmeta.tasks.adapters.gymnax import GymnaxConfig, gymnax

    family = gymnax(GymnaxConfig(env="CartPole-v1", vary=("length=0.25:1.5",)))

The config of an adapter needs no extra; building the family imports the library. `jaxmeta list` shows which extras are
installed, and the command that installs each.
"""
