#!/usr/bin/env bash
# Starts a whole Perseid on this machine - real Redis, real Kafka, MariaDB if
# asked for, comets, logics and jobs - runs one scenario of "perseid bench"
# against it, and stops everything by pid. "benchmarks/run.sh -h" tells the
# options.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<TEXT
usage: benchmarks/run.sh [options] SCENARIO [flags of perseid bench]

  -comets N     comets (default 1)
  -logics N     logics (default 1)
  -jobs N       jobs (default 1)
  -archive mariadb|none
                where stored messages are archived (default none: Redis alone keeps them)
  -set KIND:SECTION.KEY=VALUE
                a setting of all daemons of a kind (comet, logic, job); may be repeated
  -env KIND:NAME=VALUE
                a variable in the environment of a kind, for example comet:GOMAXPROCS=1
  -bin DIR      use the programs there instead of building them
  -keep DIR     write logs and data there and leave them (default: a temporary folder)
  -warm SECONDS
                push 2,000 messages a second to users for so long first: a broker that
                has just begun runs most of its code for the first time (default 0)
  -wait         print the addresses and wait for Ctrl-C instead of running a scenario

The addresses, the pids and the commit are given to the scenario.
"perseid bench" lists the scenarios, "perseid bench SCENARIO -h" their flags.
TEXT
}

die() {
  echo "run.sh: $*" >&2
  exit 1
}

all=("$@")
comets=1 logics=1 jobs=1 archive=none sets=() envs=() bin='' keep='' wait_only='' warm=0
while [[ $# -gt 0 ]]; do
  case $1 in
    -comets) comets=${2:?} && shift 2 ;;
    -logics) logics=${2:?} && shift 2 ;;
    -jobs) jobs=${2:?} && shift 2 ;;
    -archive) archive=${2:?} && shift 2 ;;
    -set) sets+=("${2:?}") && shift 2 ;;
    -env) envs+=("${2:?}") && shift 2 ;;
    -bin) bin=${2:?} && shift 2 ;;
    -keep) keep=${2:?} && shift 2 ;;
    -warm) warm=${2:?} && shift 2 ;;
    -wait) wait_only=1 && shift ;;
    -h | --help) usage && exit ;;
    -*) usage >&2 && die "unknown option $1" ;;
    *) break ;;
  esac
done
[[ $archive == mariadb || $archive == none ]] || die "-archive is mariadb or none"
[[ $# -gt 0 || -n $wait_only ]] || { usage >&2 && exit 2; }

if [[ -n $keep ]]; then
  mkdir -p "$keep"
  work=$(cd "$keep" && pwd)
else
  work=$(mktemp -d)
fi
pids=() # in the order of their start

# start_time PID: with it a pid is unique.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] && echo "${fields[19]}"
}

# stop_daemon PID@START: asks, and kills what does not listen.
stop_daemon() {
  local pid=${1%@*} started=${1#*@} deadline=$((SECONDS + 30))
  [[ $(start_time "$pid") == "$started" ]] || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  while [[ $(start_time "$pid") == "$started" ]]; do
    if ((SECONDS > deadline)); then
      echo "run.sh: process $pid does not stop, killing it" >&2
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
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Below the kernel's ephemeral ports: no outgoing connection takes it meanwhile.
free_port() {
  local port
  while port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# ports N: that many addresses, with commas between them.
addresses() {
  local i list=()
  for ((i = 0; i < $1; i++)); do list+=("127.0.0.1:$(free_port)"); done
  local IFS=,
  echo "${list[*]}"
}

# launch KIND NAME SETTING...: starts a daemon in a session of its own, so that
# Ctrl-C reaches only this script.
launch() {
  local kind=$1 name=$2 args=() one pid environment=()
  shift 2
  for one in "$@"; do args+=(-set "$one"); done
  for one in "${sets[@]}"; do [[ $one == "$kind":* ]] && args+=(-set "${one#*:}"); done
  for one in "${envs[@]}"; do [[ $one == "$kind":* ]] && environment+=("${one#*:}"); done
  setsid env "${environment[@]}" "$bin/$kind" "${args[@]}" >"$work/$name.ready" 2>"$work/$name.log" </dev/null &
  pid=$!
  pids+=("$pid@$(start_time "$pid")")
  flags+=(-pid "$name=$pid")
}

# ready NAME LISTENER: waits for the line and prints an address of it.
ready() {
  local deadline=$((SECONDS + 60)) field
  until grep -q '^ready ' "$work/$1.ready"; do
    ((SECONDS < deadline)) || die "$1 is not ready: $(tail -n 3 "$work/$1.log")"
    sleep 0.05
  done
  for field in $(<"$work/$1.ready"); do
    [[ $field == "$2="* ]] && echo "${field#*=}"
  done
  return 0
}

join() {
  local IFS=,
  echo "$*"
}

if [[ -z $bin ]]; then
  bin=$work/bin
  (cd "$root" && CGO_ENABLED=0 go build -o "$bin/" ./cmd/...)
fi
commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git -C "$root" status --porcelain -uno -- cmd internal pkg api go.mod 2>/dev/null) ]] || commit+=-dirty

servers=(redis kafka)
[[ $archive == none ]] || servers+=("$archive")
# The heap is the one Kafka has by default; the tests make do with less of both.
PERSEID_KAFKA_HEAP=1g PERSEID_MARIADB_POOL=256M "$root/scripts/deps.sh" start "$work/servers" "${servers[@]}"
# shellcheck source=/dev/null
source "$work/servers/env"

comet_grpc=$(addresses "$comets")
logic_grpc=$(addresses "$logics")
registry=(registry.kind=static "registry.static.comet=$comet_grpc" "registry.static.logic=$logic_grpc" admin.addr=127.0.0.1:0 log.level=warn)
kafka=("kafka.brokers=$PERSEID_TEST_KAFKA")
flags=()
for server in "${servers[@]}"; do flags+=(-pid "$server=$(<"$work/servers/$server.pid")"); done
timelines=()
[[ $archive == none ]] || timelines=("archive.dsn=mysql://root@$PERSEID_TEST_MARIADB/perseid")

# names KIND COUNT: kind, or kind1 kind2 ... if there are several.
names() {
  local i
  if (($2 == 1)); then echo "$1"; else for ((i = 1; i <= $2; i++)); do echo "$1$i"; done; fi
}
mapfile -t comet_names < <(names comet "$comets")
mapfile -t logic_names < <(names logic "$logics")
mapfile -t job_names < <(names job "$jobs")
IFS=, read -ra comet_addrs <<<"$comet_grpc"
IFS=, read -ra logic_addrs <<<"$logic_grpc"

for i in "${!logic_names[@]}"; do
  launch logic "${logic_names[i]}" "${registry[@]}" "${kafka[@]}" "redis.addr=$PERSEID_TEST_REDIS" "${timelines[@]}" "grpc.addr=${logic_addrs[i]}" http.addr=127.0.0.1:0
done
for i in "${!comet_names[@]}"; do
  launch comet "${comet_names[i]}" "${registry[@]}" "node.name=${comet_names[i]}" "grpc.addr=${comet_addrs[i]}" \
    listen.tcp=127.0.0.1:0 listen.websocket=127.0.0.1:0 comet.drain_window=0s
done
for name in "${job_names[@]}"; do
  launch job "$name" "${registry[@]}" "${kafka[@]}"
done

tcp=() ws=() http=()
for name in "${logic_names[@]}"; do http+=("$(ready "$name" http)"); done
for name in "${comet_names[@]}"; do
  tcp+=("$(ready "$name" tcp)")
  ws+=("$(ready "$name" ws)")
done
for name in "${comet_names[@]}" "${logic_names[@]}" "${job_names[@]}"; do
  flags+=(-admin "$name=$(ready "$name" admin)")
done
# What is left are the scenario and its flags, which the report has anyway; -bin
# and -keep change nothing that is measured.
setup=() skip=''
for one in "${all[@]:0:${#all[@]}-$#}"; do
  if [[ $one == -bin || $one == -keep ]]; then skip=1; elif [[ -n $skip ]]; then skip=''; else setup+=("$one"); fi
done
flags+=(-setup "${setup[*]}" -tcp "$(join "${tcp[@]}")" -ws "$(join "${ws[@]}")" -http "$(join "${http[@]}")" -commit "$commit")

if [[ -n $wait_only ]]; then
  echo "$bin/perseid bench SCENARIO ${flags[*]@Q}"
  echo "logs: $work; Ctrl-C stops everything"
  while sleep 1; do :; done
fi

if ((warm > 0)); then
  "$bin/perseid" bench unicast "${flags[@]}" -conns 200 -rate 2000 -duration "${warm}s" -quiet >/dev/null
fi

scenario=$1
shift
# In the background, so that a signal for this script is not held back by it.
"$bin/perseid" bench "$scenario" "${flags[@]}" "$@" &
bench=$!
pids+=("$bench@$(start_time "$bench" || true)")
wait "$bench"
