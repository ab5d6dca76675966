#!/usr/bin/env bash
# Runs the tests of PKGS (default ./...) with the real servers they need:
# installs those (scripts/deps.sh), starts the shared ones, runs go vet and
# go test -race -shuffle=on, and says last what was skipped and why. Arguments
# go to go test. Works on a bare machine with Go.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -ra packages <<<"${PKGS:-./...}"
work=$(mktemp -d)
skips=${PERSEID_TEST_SKIPS:-$work/skips}
export PERSEID_TEST_SKIPS=$skips
: >>"$skips"

# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  scripts/deps.sh stop "$work/servers" || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The race detector is linked with a C compiler.
race() {
  if ! command -v "$(go env CC)" >/dev/null && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "test.sh: installing a C compiler for the race detector" >&2
    { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev ||
      { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev; }; } >"$work/apt.log" 2>&1 ||
      tail -n 5 "$work/apt.log" >&2
  fi
  if command -v "$(go env CC)" >/dev/null; then
    echo -race
  else
    echo "skipped the race detector: there is no C compiler" >>"$skips"
  fi
}

# One broker and one MariaDB for all test binaries; Redis and discovery are
# started by the tests themselves, each its own.
start_shared() {
  local server variable wanted=()
  for server in kafka mariadb; do
    variable=PERSEID_TEST_${server^^}
    [[ -z ${!variable:-} ]] && scripts/deps.sh path "$server" >/dev/null 2>&1 && wanted+=("$server")
  done
  [[ ${#wanted[@]} -gt 0 ]] || return 0
  scripts/deps.sh start "$work/servers" "${wanted[@]}"
  set -a
  # shellcheck source=/dev/null
  source "$work/servers/env"
  set +a
}

report() {
  if [[ -s $skips ]]; then
    echo "test.sh: not tested here:"
    sort -u "$skips" | sed 's/^/  /'
  else
    echo "test.sh: nothing was skipped"
  fi
}

race=$(race)
# A part that cannot be had skips tests, which then say so.
scripts/deps.sh install || true
scripts/deps.sh missing | sed 's/^/skipped what needs /' >>"$skips"
start_shared

code=0
go vet "${packages[@]}" || code=1
CGO_ENABLED=${race:+1} go test ${race:+"$race"} -shuffle=on -timeout=15m "$@" "${packages[@]}" </dev/null || code=1
report
exit $code
