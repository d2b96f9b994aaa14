#!/usr/bin/env bash
# Install packages/NAME alone (with shared/, without extras) in a throw-away environment and run its tests there.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: bash tools/isolated.sh NAME [pytest arguments]}
shift
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
.venv/bin/uv venv --quiet --python .venv/bin/python "$venv/env"
.venv/bin/uv export --quiet --frozen --all-packages --all-groups --all-extras --no-emit-workspace --no-hashes \
  --no-header --output-file "$venv/pins.txt"
.venv/bin/uv export --quiet --frozen --only-group test --no-hashes --no-header --output-file "$venv/test.txt"
VIRTUAL_ENV=$venv/env bash tools/index.sh .venv/bin/uv pip install --quiet --constraint "$venv/pins.txt" \
  --requirement "$venv/test.txt" "./packages/$name"
"$venv/env/bin/python" -m pytest "packages/$name" "$@"
