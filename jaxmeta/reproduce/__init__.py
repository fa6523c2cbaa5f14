"""Published tables and our numbers for them, for `jaxmeta reproduce`.

A table is one declarative file that defines `TABLE`, see `base`. It is listed here by its import path, so that its name
is known without importing it. Tables import JAX only inside functions.
"""

from __future__ import annotations

import importlib
from typing import Any

TABLES = {
    "bandit": "jaxmeta.reproduce.bandit",
    "tabular": "jaxmeta.reproduce.tabular",
    "gridnavi": "jaxmeta.reproduce.gridnavi",
    "varibad-gridnavi": "jaxmeta.reproduce.varibad_gridnavi",
    "pearl-point": "jaxmeta.reproduce.pearl_point",
    "pearl-brax": "jaxmeta.reproduce.pearl_brax",
    "pets": "jaxmeta.reproduce.pets",
    "adaptive-models": "jaxmeta.reproduce.adaptive_models",
    "mb-mpo": "jaxmeta.reproduce.mb_mpo",
    "maze": "jaxmeta.reproduce.maze",
    "navigation": "jaxmeta.reproduce.navigation",
    "estimators": "jaxmeta.reproduce.estimators",
    "sinusoid": "jaxmeta.reproduce.sinusoid",
    "glyphs": "jaxmeta.reproduce.glyphs",
    "imitation": "jaxmeta.reproduce.imitation",
    "dpt": "jaxmeta.reproduce.dpt",
    "learned-optimizer": "jaxmeta.reproduce.learned_optimizer",
    "half-cheetah-dir": "jaxmeta.reproduce.half_cheetah_dir",
    "multi-task": "jaxmeta.reproduce.multi_task",
    "curricula": "jaxmeta.reproduce.curricula",
    "federated": "jaxmeta.reproduce.federated",
    "mlsh": "jaxmeta.reproduce.mlsh",
    "similarity": "jaxmeta.reproduce.similarity",
    "options": "jaxmeta.reproduce.options",
    "lead-policy": "jaxmeta.reproduce.lead_policy",
}


def load(name: str) -> Any:
    """Imports a `base.Table` by its name in `TABLES`; raises a KeyError if there is none."""
    return importlib.import_module(TABLES[name]).TABLE
