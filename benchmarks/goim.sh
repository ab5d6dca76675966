#!/usr/bin/env bash
# Starts a whole goim on this machine - real Redis, real Kafka, the discovery
# server, goim's logic, comet and job - runs one scenario of "perseid bench"
# against it, and stops everything by pid. "benchmarks/goim.sh -h" tells the
# options. goim itself is not part of this repository, and nothing here builds
# it: whoever has its three programs names their folder.
#
# It takes goim without any change, with the settings of its example files. Its
# Kafka clients speak the protocol of Kafka 0.8 and 0.9, which Kafka 4 refuses,
# so the broker is Kafka 3; "run.sh -kafka 3" measures Perseid with the same.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=processes.bash
source "$root/benchmarks/processes.bash"

usage() {
  cat <<TEXT
usage: benchmarks/goim.sh [options] SCENARIO [flags of perseid bench]

  -goim DIR     goim's programs comet, logic and job (default: \$GOIM_BIN)
  -room BATCH,SIGNAL
                messages of a room go out together, so many or what came in that time
                (default 20,1s, as shipped)
  -partitions N
                of the topic (default 1)
  -bin DIR      use the perseid there instead of building it
  -keep DIR     write logs, settings and data there and leave them (default: a temporary folder)
  -warm SECONDS
                push 2,000 messages a second to users for so long first (default 0)
  -wait         print the addresses and wait for Ctrl-C instead of running a scenario

The addresses, the pids and goim's commit are given to the scenario. What needs
Perseid's own API (-route v1) fails.

All runs in a network namespace of its own that has only loopback: goim
registers the address of the first other interface, and the others call it
there. That takes root, or a kernel that lets users have namespaces.
TEXT
}

all=("$@")
goim=${GOIM_BIN:-} room=20,1s partitions=1 bin='' keep='' wait_only='' warm=0
while [[ $# -gt 0 ]]; do
  case $1 in
    -goim) goim=${2:?} && shift 2 ;;
    -room) room=${2:?} && shift 2 ;;
    -partitions) partitions=${2:?} && shift 2 ;;
    -bin) bin=${2:?} && shift 2 ;;
    -keep) keep=${2:?} && shift 2 ;;
    -warm) warm=${2:?} && shift 2 ;;
    -wait) wait_only=1 && shift ;;
    -h | --help) usage && exit ;;
    -*) usage >&2 && die "unknown option $1" ;;
    *) break ;;
  esac
done
[[ $room =~ ^[1-9][0-9]*,[0-9]+(us|ms|s)$ ]] || die "-room is BATCH,SIGNAL, for example 20,1s"
[[ $partitions =~ ^[1-9][0-9]*$ ]] || die "-partitions is 1 or more"
[[ $# -gt 0 || -n $wait_only ]] || { usage >&2 && exit 2; }
[[ -n $goim ]] || die "-goim is not given; it is the folder of goim's comet, logic and job"
for name in comet logic job; do
  [[ -x $goim/$name ]] || die "$goim/$name is no program"
done
goim=$(cd "$goim" && pwd)

if [[ -z ${GOIM_NETWORK:-} ]]; then
  PERSEID_KAFKA_MAJOR=3 "$root/scripts/deps.sh" install redis kafka discovery # while there is a network
  [[ -n $bin ]] || (cd "$root" && go list -deps ./cmd/perseid >/dev/null)
  own=(unshare --net)
  ((EUID == 0)) || own=(unshare --map-root-user --net)
  route=$(ip -o route show table local "$clients_at" 2>/dev/null || true)
  GOIM_NETWORK=own GOIM_ROUTE=$route GOIM_BIN=$goim exec "${own[@]}" "$root/benchmarks/goim.sh" "${all[@]}"
fi
ip link set lo up
# The clients' address has the route that it has on the machine.
if [[ -n ${GOIM_ROUTE:-} ]]; then
  # shellcheck disable=SC2086 # words
  ip route add table local ${GOIM_ROUTE//\\/}
fi

use_folder "$keep"
if [[ -z $bin ]]; then
  bin=$work/bin
  (cd "$root" && CGO_ENABLED=0 go build -o "$bin/" ./cmd/perseid)
fi
# The commit that Go noted in the program; a changed tree shows.
commit=$({ go version -m "$goim/comet" 2>/dev/null || true; } |
  awk -F= '/vcs.revision=/ {c = $2} /vcs.modified=true/ {d = "-dirty"} END {print "goim " (c ? c d : "of unknown commit")}')

PERSEID_KAFKA_SETTINGS="auto.create.topics.enable=true
num.partitions=$partitions" start_backends 3 redis kafka discovery

# until_true WHAT COMMAND...: waits for a condition.
until_true() {
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || die "$what"
    sleep 0.1
  done
}

# answers ADDRESS PATH: it answers with code 0.
answers() { curl -s -m 2 "http://$1$2" 2>/dev/null | grep -q '"code":0[,}]'; }
listens() { (exec 3<>"/dev/tcp/$clients_at/$1") 2>/dev/null; }
registered() { answers "$PERSEID_TEST_DISCOVERY" "/discovery/fetch?zone=sh001&env=dev&appid=$1&status=1"; }

# reaches: a push to a user comes to its client, through all of goim. job begins
# at the end of the topic when it has its partitions, not before.
reaches() {
  "$bin/perseid" bench unicast "${flags[@]}" -first-mid 2000000000 -conns 1 -publishers 1 -rate 20 \
    -duration 500ms -settle 500ms -calm 0s -quiet -o "$work/probe.json" >/dev/null 2>"$work/probe.log" &&
    grep -q '"delivered": [1-9]' "$work/probe.json" && ! grep -q '"lost": [1-9]' "$work/probe.json"
}

tcp_port=$(free_port) ws_port=$(free_port) comet_port=$(free_port) logic_port=$(free_port) http_port=$(free_port)

# What is not here is the default of goim's code, which is what its examples
# have, too. The whitelist only logs what its users do.
cat >"$work/logic.toml" <<TOML
[discovery]
nodes = ["$PERSEID_TEST_DISCOVERY"]
[node]
defaultDomain = "conn.goim.io"
hostDomain = ".goim.io"
heartbeat = "4m"
heartbeatMax = 2
tcpPort = $tcp_port
wsPort = $ws_port
regionWeight = 1.6
[rpcServer]
addr = ":$logic_port"
[httpServer]
addr = "127.0.0.1:$http_port"
[kafka]
topic = "goim-push-topic"
brokers = ["$PERSEID_TEST_KAFKA"]
[redis]
network = "tcp"
addr = "$PERSEID_TEST_REDIS"
active = 60000
idle = 1024
dialTimeout = "200ms"
readTimeout = "500ms"
writeTimeout = "500ms"
idleTimeout = "120s"
expire = "30m"
TOML
cat >"$work/comet.toml" <<TOML
[discovery]
nodes = ["$PERSEID_TEST_DISCOVERY"]
[rpcServer]
addr = ":$comet_port"
[tcp]
bind = ["$clients_at:$tcp_port"]
[websocket]
bind = ["$clients_at:$ws_port"]
[protocol]
handshakeTimeout = "8s"
[whitelist]
whitelist = []
whiteLog = "$work/whitelist.log"
TOML
cat >"$work/job.toml" <<TOML
[discovery]
nodes = ["$PERSEID_TEST_DISCOVERY"]
[kafka]
topic = "goim-push-topic"
group = "goim-push-group-job"
brokers = ["$PERSEID_TEST_KAFKA"]
[room]
batch = ${room%,*}
signal = "${room#*,}"
TOML

# goim NAME FLAG...: starts one of its programs; it logs every message to a file,
# as shipped.
start_goim() {
  local name=$1
  shift
  mkdir -p "$work/$name-logs"
  begin "$name" "$goim/$name" -conf "$work/$name.toml" -region sh -zone sh001 -deploy.env dev -host "goim-$name" \
    -log_dir "$work/$name-logs" "$@"
}

start_goim logic -weight 10
until_true "logic is not ready" answers "127.0.0.1:$http_port" /goim/online/total
until_true "logic does not register" registered goim.logic
start_goim comet -weight 10 -addrs "$clients_at"
until_true "comet does not register" registered goim.comet
until_true "comet does not listen" listens "$tcp_port"
until_true "comet does not listen" listens "$ws_port"
start_goim job

# In goim's setup all is said that differs from Perseid's.
flags+=(-setup "goim, Kafka 3.9, loopback in a network namespace; $(setup_of $# "${all[@]}")"
  -tcp "$clients_at:$tcp_port" -ws "$clients_at:$ws_port" -http "127.0.0.1:$http_port" -commit "$commit")
until_true "no push arrives" reaches

[[ -z $wait_only ]] || wait_for_user
measure "$warm" "$@"
