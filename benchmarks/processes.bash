# Sourced by run.sh and goim.sh: a folder for the run, servers that are started
# in it, the scenario, and the end of everything by pid.
# shellcheck shell=bash disable=SC2154

# shellcheck source-path=SCRIPTDIR source=../scripts/deps/process.bash
source "$root/scripts/deps/process.bash"

script=$(basename "$0")
clients_at=127.0.1.1 # where comets listen: an address that may have a route of its own (README.md)
pids=()  # pid@start time, in the order of their start
flags=() # for the scenario

die() {
  echo "$script: $*" >&2
  exit 1
}

# use_folder KEEP: the work folder, a temporary one if KEEP is empty.
use_folder() {
  if [[ -n $1 ]]; then
    mkdir -p "$1"
    work=$(cd "$1" && pwd)
  else
    work=$(mktemp -d)
  fi
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# stop_daemon PID@START: asks, and kills what does not listen.
stop_daemon() {
  local pid=${1%@*} started=${1#*@} deadline=$((SECONDS + 30))
  [[ $(start_time "$pid") == "$started" ]] || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  while [[ $(start_time "$pid") == "$started" ]]; do
    if ((SECONDS > deadline)); then
      echo "$script: process $pid does not stop, killing it" >&2
      kill -KILL "$pid" 2>/dev/null || true
      deadline=$((SECONDS + 5))
    fi
    sleep 0.05
  done
}

# shellcheck disable=SC2317 # called by the trap
finish() {
  local i code=$?
  trap '' INT TERM
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    stop_daemon "${pids[i]}" || true
  done
  "$root/scripts/deps.sh" stop "$work/servers" || true
  if ((code != 0)) && [[ -z $keep ]]; then
    tail -n 5 "$work"/*.log 2>/dev/null >&2 || true
  fi
  [[ -n $keep ]] || rm -rf "$work"
}

# begin NAME COMMAND...: starts a server to be measured, in a session of its
# own, so that Ctrl-C reaches only the script.
begin() {
  local name=$1 pid
  shift
  setsid "$@" >"$work/$name.ready" 2>"$work/$name.log" </dev/null &
  pid=$!
  pids+=("$pid@$(start_time "$pid")")
  flags+=(-pid "$name=$pid")
}

# start_backends KAFKA-MAJOR SERVER...: what the product needs; sets their
# addresses, PERSEID_TEST_<SERVER>. The broker's heap is the one Kafka has by
# default; the tests make do with less.
start_backends() {
  local major=$1 server
  shift
  PERSEID_KAFKA_MAJOR=$major PERSEID_KAFKA_HEAP=1g PERSEID_MARIADB_POOL=256M "$root/scripts/deps.sh" start "$work/servers" "$@"
  # shellcheck source=/dev/null
  source "$work/servers/env"
  for server in "$@"; do flags+=(-pid "$server=$(<"$work/servers/$server.pid")"); done
}

# setup_of COUNT OPTION...: the options of the script, of which the last COUNT
# words are the scenario and its flags, which the report has anyway; folders
# change nothing that is measured.
setup_of() {
  local count=$1 one skip='' setup=()
  shift
  for one in "${@:1:$#-count}"; do
    if [[ $one == -bin || $one == -keep || $one == -goim ]]; then skip=1; elif [[ -n $skip ]]; then skip=''; else setup+=("$one"); fi
  done
  echo "${setup[*]}"
}

# measure WARM SCENARIO FLAG...: runs a scenario; its exit code is the result.
# In the background, so that a signal for the script is not held back by it.
measure() {
  local warm=$1 scenario=$2 bench
  shift 2
  if ((warm > 0)); then
    "$bin/perseid" bench unicast "${flags[@]}" -conns 200 -rate 2000 -duration "${warm}s" -quiet >/dev/null
  fi
  "$bin/perseid" bench "$scenario" "${flags[@]}" "$@" &
  bench=$!
  pids+=("$bench@$(start_time "$bench" || true)")
  wait "$bench"
}

# wait_for_user: prints a command line to use by hand, and waits.
wait_for_user() {
  echo "$bin/perseid bench SCENARIO ${flags[*]@Q}"
  echo "logs: $work; Ctrl-C stops everything"
  while sleep 1; do :; done
}
