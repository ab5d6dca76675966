#!/usr/bin/env bash
# Runs the reference measurements, one after the other, and writes their raw
# reports into benchmarks/results/. Nothing else may run on the machine. It
# takes about half an hour; "benchmarks/reference.sh NAME..." runs some of them,
# "-l" lists them, "-h" prints this. "-attempts N" is for hours in which the
# machine is slow now and then (see "Attempts" in README.md), and takes up to N
# times as long. Those named goim-* measure goim, eight minutes; they are left
# out unless GOIM_BIN names the folder of its programs (see goim.sh).
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
results=benchmarks/results

# A broker that is seconds old is slow, and two cores have no use for 16
# partitions: each is a batch of its own in every hop.
common=(-warm 15 -set logic:kafka.partitions=1 -set job:kafka.partitions=1)
goim=(-warm 15 -partitions 1)

# name | options of run.sh, or of goim.sh for goim-* | scenario and its flags
runs() {
  cat <<'TEXT'
room-unmerged-tcp||room -rate 10 -limit -repeat 3
room-unmerged-websocket||room -transport ws -rate 10 -limit -repeat 3
room-merged-tcp||room -rate 100,1000,4000 -publishers 256 -repeat 3 -duration 6s
room-merged-websocket||room -transport ws -rate 100,1000,4000 -publishers 256 -repeat 3 -duration 6s
transports||room -transport tcp,ws -rate 10,1000,4000 -publishers 256 -repeat 3 -duration 6s
room-capacity||capacity -rate 1000 -target 500ms -publishers 256 -duration 6s
idle-tcp|-warm 0|idle -conns 19000 -heartbeat 60s -duration 60s
idle-websocket|-warm 0|idle -conns 19000 -transport ws -heartbeat 60s -duration 60s
connect||connect -limit -inflight 2500 -repeat 7
unicast||unicast -rate 200,1000,4000,0 -repeat 3 -duration 6s
unicast-kafka3|-kafka 3|unicast -rate 200,1000,4000,0 -repeat 3 -duration 5s
unicast-batch||unicast -rate 620,0 -route v1 -batch 250 -publishers 40 -repeat 3 -duration 6s
unicast-batch-plain||unicast -rate 620,0 -route v1 -batch 250 -results=false -publishers 40 -repeat 3 -duration 6s
unicast-batch10||unicast -rate 400 -route v1 -batch 10 -publishers 40 -repeat 3 -duration 6s
slow|-set comet:listen.send_buffer=65536|slow -rate 50 -body 512 -duration 14s -repeat 3
mixed||mixed -duration 30s -repeat 3
unicast-stored|-archive mariadb|unicast -store -rate 200,1000,0 -repeat 3 -duration 6s
comets-1|-comets 1|room -conns 19000 -rate 1,2,5 -repeat 3 -duration 6s
comets-5|-comets 5|room -conns 95000 -procs 5 -rate 1,2 -repeat 3 -duration 6s
goim-room-unmerged-tcp|-room 20,1ms|room -rate 10 -limit -repeat 3
goim-room-merged-tcp||room -rate 100,300,1000 -publishers 256 -repeat 3 -duration 5s
goim-unicast||unicast -rate 200,1000,4000,0 -repeat 3 -duration 5s
goim-unicast-keys||unicast -route keys -rate 1000 -repeat 3 -duration 5s
goim-idle-tcp|-warm 0|idle -conns 19000 -heartbeat 60s -duration 60s
goim-connect||connect -limit -inflight 2500 -repeat 7
TEXT
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' benchmarks/reference.sh
  exit
fi
if [[ ${1:-} == -l ]]; then
  runs
  exit
fi
attempts=1
if [[ ${1:-} == -attempts ]]; then
  attempts=${2:?} && shift 2
fi
names=$(runs | cut -d'|' -f1)
for name in "$@"; do
  grep -qxF -- "$name" <<<"$names" || {
    echo "reference.sh: there is no measurement \"$name\"; -l lists them" >&2
    exit 2
  }
done
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
CGO_ENABLED=0 go build -o "$bin/" ./cmd/...
while IFS='|' read -r name options scenario; do
  [[ $# -eq 0 || " $* " == *" $name "* ]] || continue
  start=(benchmarks/run.sh "${common[@]}")
  if [[ $name == goim-* ]]; then
    [[ -n ${GOIM_BIN:-} ]] || { echo "== $name: left out, GOIM_BIN is not set"; continue; }
    start=(benchmarks/goim.sh "${goim[@]}")
  fi
  echo "== $name"
  # shellcheck disable=SC2086 # lists of words
  "${start[@]}" -bin "$bin" $options $scenario -attempts "$attempts" -timeout "$((30 * attempts))m" -quiet -o "$results/$name.json" </dev/null
done < <(runs)
