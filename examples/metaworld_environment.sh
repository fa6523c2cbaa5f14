#!/usr/bin/env bash
# Makes a virtual environment with jaxmeta and Meta-World, which does not run with the MuJoCo of constraints.txt.
#
#     examples/metaworld_environment.sh [FOLDER]
#     FOLDER/bin/jaxmeta train rl2 metaworld --out runs/reach --tasks.env reach-v3
#     FOLDER/bin/pytest tests/tasks/adapters/test_metaworld.py
#
# FOLDER is .venv-metaworld by default; PYTHON is the interpreter, python3 by default.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-metaworld}

"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install -q --disable-pip-version-check -e ".[test,metaworld]" \
  -c constraints-metaworld.txt -c <(grep -v '^mujoco' constraints.txt)
"$folder/bin/python" -c "import metaworld, mujoco; print('Meta-World with MuJoCo', mujoco.__version__)"
