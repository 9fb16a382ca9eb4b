# shellcheck shell=bash disable=SC2034
# scripts/lib.sh: what the other scripts share. Sourced, never run; it leaves the caller in the
# repository root with strict error handling.
set -euo pipefail
SELF=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian's Python by its full name: the modules that setup installs are not seen by any other
# python3 that a machine may have first on its PATH.
PYTHON=/usr/bin/python3
TRACE=../shared/traces/mooncake_conversation.jsonl
JOBS=$(nproc)

say() { printf '%s\n' "$*" >&2; }

die() {
  local status=$1
  shift
  say "$(basename "$0"): $*"
  exit "$status"
}

# Prints the block of comments at the head of a script, which is its manual.
manual() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$SELF"; }
