#!/usr/bin/env bash
# Bring .venv-simuleval to the psfuture of this checkout beside SimulEval, whose pins (tqdm 4.64) the workspace cannot keep.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-simuleval
rm -rf "$venv"
.venv/bin/uv venv --quiet --python .venv/bin/python "$venv"
# Editable like the workspace, and at its pins: the wheels are linked from uv's cache.
.venv/bin/uv export --quiet --frozen --package lipogram-psfuture --no-hashes --no-header --output-file "$venv/pins.txt"
export VIRTUAL_ENV=$PWD/$venv
bash tools/index.sh .venv/bin/uv pip install --quiet --requirement "$venv/pins.txt" textgrid==1.6.1 tornado==6.5.5
# What these declare beyond that is sound, video, a web page or a tokeniser, which text does not need.
bash tools/index.sh .venv/bin/uv pip install --quiet --no-deps simuleval==1.1.4 omnisteval==0.1.10
PYTHONDONTWRITEBYTECODE='' "$venv/bin/python" -c "import omnisteval.scoring, simuleval.cli, torch" # compiled once
touch "$venv/.ready"
