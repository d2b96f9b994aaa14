#!/usr/bin/env bash
# Run a command with uv set up like this machine's pip:   bash tools/index.sh uv lock
# uv does not read pip's configuration, so pip is asked for it. An environment variable of pip's wins over its files.
set -euo pipefail
settings=$("${PYTHON:-python3}" -m pip config list 2>/dev/null || true)
setting() { # several values come back on one line, separated by spaces
  local value
  value=$(sed -nE "s/^(:env:|global)\.$1=['\"](.*)['\"]\$/\2/p" <<<"$settings" | sed -n 1p)
  tr -s ' ' <<<"${value//\\n/ }" | sed 's/^ //; s/ $//'
}
hand_on() { # hand_on UV_VARIABLE pip-setting [separator]
  local value
  value=$(setting "$2")
  if [ -z "${!1:-}" ] && [ -n "$value" ]; then export "$1=${value// /${3:- }}"; fi
}
hand_on UV_DEFAULT_INDEX index-url
hand_on UV_INDEX extra-index-url
hand_on UV_FIND_LINKS find-links ,
hand_on UV_CONSTRAINT constraint
hand_on SSL_CERT_FILE cert
hand_on UV_HTTP_TIMEOUT default-timeout
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # pip's rule: the best version of any index
export UV_PYTHON_DOWNLOADS=never
exec "$@"
