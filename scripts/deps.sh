#!/usr/bin/env bash
# The real servers and clients that the tests use: installs them into a cache
# outside the tree, starts them on free loopback ports, stops them by pid.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
recipes=$here/deps
cache=${PERSEID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/perseid}
parts=(redis kafka mariadb discovery browser npm-ws)
servers=(redis kafka mariadb discovery)
ws_version=8.23.0

# shellcheck source-path=SCRIPTDIR source=deps/install.bash
source "$recipes/install.bash"
# shellcheck source-path=SCRIPTDIR source=deps/process.bash
source "$recipes/process.bash"
# shellcheck source-path=SCRIPTDIR source=deps/serve.bash
source "$recipes/serve.bash"

usage() {
  cat <<EOF
usage: scripts/deps.sh COMMAND

  install [PART...|all]     make the parts available (default: all); quick when they are
  missing                   print the parts that cannot be had, with the reason, one a line
  path PART                 print where a part is (npm-ws: the node_modules folder)
  start DIR [SERVER...]     start servers (default: all) with data below DIR; writes
                            DIR/env (PERSEID_TEST_<SERVER>=127.0.0.1:port) and DIR/<server>.pid
  stop DIR                  stop what "start DIR" started
  run SERVER DIR PORT [PORT2|OPTION...]
                            become the server, in the foreground (kafka: PORT2 is its controller's;
                            redis, mariadb: more options of the server)
  guard DIR                 for internal/testdeps: read "add PID" and "del PID"; at the end of
                            the input kill what is left and remove DIR
  help                      this text

parts:   ${parts[*]}
servers: ${servers[*]}
cache:   $cache   (PERSEID_CACHE; nothing outside it is written but Debian packages)

MariaDB's user is root, without a password; it has no database until a client
creates one.

Environment: PERSEID_KAFKA_HEAP      the heap of the broker (default 256m)
             PERSEID_KAFKA_MAJOR     4, or 3 for clients that speak only old protocols (default 4)
             PERSEID_KAFKA_SETTINGS  more settings of the broker, one a line
             PERSEID_MARIADB_POOL    the page cache of MariaDB (default 32M)
EOF
}

die() {
  echo "deps.sh: $*" >&2
  exit 1
}

# one_of WORD CHOICE...: fails unless WORD is one of the choices.
one_of() {
  local word=$1 choice
  shift
  for choice in "$@"; do
    [[ $word == "$choice" ]] && return
  done
  die "\"$word\" is none of: $*"
}

main() {
  local command=${1:-help}
  [[ $# -gt 0 ]] && shift
  case $command in
    install) install_parts "$@" ;;
    missing) print_missing ;;
    path) print_path "${1:-}" ;;
    start) start_servers "$@" ;;
    stop) stop_servers "${1:?the folder given to start}" ;;
    run) run_server "$@" ;;
    guard) guard "${1:?the folder to remove}" ;;
    help | -h | --help) usage ;;
    *) usage >&2 && exit 2 ;;
  esac
}

main "$@"
