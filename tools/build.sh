#!/usr/bin/env bash
# Build FOLDER's sdist, and its wheel from that sdist, into dist/, and check both.   bash tools/build.sh packages/air
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?usage: bash tools/build.sh FOLDER}
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
bash tools/index.sh .venv/bin/uv build --quiet "$folder" --out-dir "$staging"
rm -f "$staging/.gitignore"
.venv/bin/python -m twine --no-color check --strict "$staging"/*
.venv/bin/python tools/check_dist.py "$staging"
mkdir -p dist
mv "$staging"/* dist/
