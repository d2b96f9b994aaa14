#!/usr/bin/env bash
# Chromium for the tests of web pages. Where it cannot be installed they are skipped, and say so.
set -euo pipefail
if command -v chromium google-chrome >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Chromium here: the tests of web pages will be skipped" >&2
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
chromium --version
