#!/usr/bin/env bash
# Lints PKGS (default ./...) with the pinned golangci-lint, which is built into
# the cache on first use (two minutes on two cores), and the scripts, where
# there is shellcheck.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=v2.15.0
bin=${PERSEID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/perseid}/golangci-lint-$version
read -ra packages <<<"${PKGS:-./...}"

# Moved into place when complete, and never two builds at once.
install_linter() {
  mkdir -p "$bin"
  (
    flock 9
    [[ -x $bin/golangci-lint ]] && exit
    echo "lint.sh: building golangci-lint $version"
    GOBIN=$bin/new GOFLAGS=-buildvcs=false go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version" 2>"$bin/build.log" ||
      { cat "$bin/build.log" >&2; exit 1; }
    mv "$bin/new/golangci-lint" "$bin/golangci-lint"
  ) 9>"$bin/lock"
}

[[ -x $bin/golangci-lint ]] || install_linter
code=0
"$bin/golangci-lint" run "${packages[@]}" || code=1

if command -v shellcheck >/dev/null; then
  shellcheck -x .ci/run scripts/*.sh benchmarks/*.sh || code=1
else
  echo "lint.sh: shellcheck is not installed"
  [[ -z ${PERSEID_TEST_SKIPS:-} ]] || echo "skipped shellcheck: it is not installed" >>"$PERSEID_TEST_SKIPS"
fi
exit $code
