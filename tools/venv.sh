#!/usr/bin/env bash
# Bring .venv to the pins in uv.lock: every package and shared/ as editable, with their extras and the tools.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/uv export --quiet --frozen --all-packages --all-groups --all-extras --no-hashes --no-header \
  --output-file .venv/pins.txt
VIRTUAL_ENV=$PWD/.venv bash tools/index.sh .venv/bin/uv pip install --quiet --requirement .venv/pins.txt
touch .venv/.ready
