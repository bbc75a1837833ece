#!/bin/sh
# real_models/install.sh VENV [full]: an environment for the models of public.txt, or for all of them.
# Needs: python3 with venv and pip. torch comes first, from constraints.txt, then symbreak; everything else is a closed
# list that is installed without dependencies, so that no library replaces torch.
set -eu
venv=$1
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip -c "$here/../constraints.txt" torch
pip -c "$here/../constraints.txt" --editable "$here/.." pytest hypothesis
pip --no-deps -r "$here/requirements.txt"
if [ "${2:-}" = full ]; then
    pip --no-deps -r "$here/requirements-full.txt"
fi
