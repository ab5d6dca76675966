#!/usr/bin/env bash
# Starts a whole Perseid on this machine - real Redis, real Kafka, MariaDB if
# asked for, comets, logics and jobs - runs one scenario of "perseid bench"
# against it, and stops everything by pid. "benchmarks/run.sh -h" tells the
# options.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=processes.bash
source "$root/benchmarks/processes.bash"

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
  -kafka 4|3    the broker; 3 is the one that goim.sh uses (default 4)
  -wait         print the addresses and wait for Ctrl-C instead of running a scenario

The addresses, the pids and the commit are given to the scenario.
"perseid bench" lists the scenarios, "perseid bench SCENARIO -h" their flags.
TEXT
}

all=("$@")
comets=1 logics=1 jobs=1 archive=none sets=() envs=() bin='' keep='' wait_only='' warm=0 kafka_major=4
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
    -kafka) kafka_major=${2:?} && shift 2 ;;
    -warm) warm=${2:?} && shift 2 ;;
    -wait) wait_only=1 && shift ;;
    -h | --help) usage && exit ;;
    -*) usage >&2 && die "unknown option $1" ;;
    *) break ;;
  esac
done
[[ $archive == mariadb || $archive == none ]] || die "-archive is mariadb or none"
[[ $kafka_major == 4 || $kafka_major == 3 ]] || die "-kafka is 4 or 3"
[[ $# -gt 0 || -n $wait_only ]] || { usage >&2 && exit 2; }

use_folder "$keep"

# addresses N: that many addresses, with commas between them.
addresses() {
  local i list=()
  for ((i = 0; i < $1; i++)); do list+=("127.0.0.1:$(free_port)"); done
  local IFS=,
  echo "${list[*]}"
}

# launch KIND NAME SETTING...: starts a daemon.
launch() {
  local kind=$1 name=$2 args=() one environment=()
  shift 2
  for one in "$@"; do args+=(-set "$one"); done
  for one in "${sets[@]}"; do [[ $one == "$kind":* ]] && args+=(-set "${one#*:}"); done
  for one in "${envs[@]}"; do [[ $one == "$kind":* ]] && environment+=("${one#*:}"); done
  begin "$name" env "${environment[@]}" "$bin/$kind" "${args[@]}"
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
[[ $kafka_major == 4 ]] || PERSEID_KAFKA_MAJOR=3 "$root/scripts/deps.sh" install kafka
start_backends "$kafka_major" "${servers[@]}"

comet_grpc=$(addresses "$comets")
logic_grpc=$(addresses "$logics")
registry=(registry.kind=static "registry.static.comet=$comet_grpc" "registry.static.logic=$logic_grpc" admin.addr=127.0.0.1:0 log.level=warn)
kafka=("kafka.brokers=$PERSEID_TEST_KAFKA")
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
    "listen.tcp=$clients_at:0" "listen.websocket=$clients_at:0" comet.drain_window=0s
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
flags+=(-setup "$(setup_of $# "${all[@]}")" -tcp "$(join "${tcp[@]}")" -ws "$(join "${ws[@]}")" -http "$(join "${http[@]}")" -commit "$commit")

[[ -z $wait_only ]] || wait_for_user
measure "$warm" "$@"
