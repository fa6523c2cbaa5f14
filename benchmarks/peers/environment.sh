#!/usr/bin/env bash
# Installs the peers, each into its own virtual environment, with the versions that the drivers were written for.
#
#     benchmarks/peers/environment.sh [NAME...]
#
# NAME is torch, learn2learn, gym, brax or memorax; all by default. The environments lie in .venv-peers, or in $FOLDER;
# PYTHON is the interpreter, python3 by default, of version 3.11. learn2learn is built from its source with Cython.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${FOLDER:-.venv-peers}
pip() { "$folder/$name/bin/pip" "$@" --disable-pip-version-check; }

torch() {
  pip install -q torch==2.13.0 numpy==2.4.6
}

# old gym, for repositories of its time: pytorch-maml-rl, varibad and oyster
gym() {
  pip install -q setuptools==77.0.3 wheel==0.45.1
  pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.17.1 tqdm==4.70.1 pyyaml==6.0.3 matplotlib==3.10.7 \
    seaborn==0.13.2 tensorboard==2.20.0 tensorboardX==2.6.4 python-dateutil==2.9.0.post0 joblib==1.5.2 cloudpickle==3.1.2
  pip install -q --no-deps --no-build-isolation gym==0.17.2
}

learn2learn() {
  pip install -q setuptools==77.0.3 wheel==0.45.1 cython==3.1.4
  pip install -q torch==2.13.0 numpy==1.26.4 scipy==1.17.1 tqdm==4.70.1 requests==2.34.2 cloudpickle==3.1.2 six==1.17.0 dotmap==1.3.30 \
    gymnasium==1.3.0 mujoco==3.3.0 imageio==2.38.1
  pip install -q --no-deps --no-build-isolation gym==0.22.0 gym-notices==0.1.0 cherry-rl==0.2.0
  # the C files of the release were made for older Pythons
  local source
  source=$(mktemp -d)
  pip download -q --no-deps --no-binary :all: --no-build-isolation learn2learn==0.2.0 -d "$source"
  tar xzf "$source"/learn2learn-0.2.0.tar.gz -C "$source"
  "$folder/$name/bin/cython" -3 "$source"/learn2learn-0.2.0/learn2learn/data/*.pyx
  pip install -q --no-deps --no-build-isolation "$source/learn2learn-0.2.0"
  rm -r "$source"
}

# the last JAX that has what this release of Brax calls
brax() {
  pip install -q jax==0.9.2 brax==0.14.2 mujoco==3.7.0 mujoco-mjx==3.7.0 distrax==0.1.7 matplotlib==3.11.2 \
    seaborn==0.13.2 pyyaml==6.0.3
  pip install -q --no-deps gymnax==1.0.1 gymnasium==1.3.0 cloudpickle==3.1.2 farama-notifications==0.0.6
}

memorax() {
  pip install -q jax flax optax distrax flashbax==0.1.3 gymnax -c constraints.txt
  pip install -q --no-deps memorax==1.0.1  # its loggers need accounts
}

names=("$@")
[ $# -gt 0 ] || names=(torch learn2learn gym brax memorax)
for name in "${names[@]}"; do
  "${PYTHON:-python3}" -m venv "$folder/$name"
  "$name"
  echo "$name is in $folder/$name"
done
