# Sourced by deps.sh: the servers' command lines, start, readiness, stop.
# shellcheck shell=bash disable=SC2154

ready_within=60 # seconds; a broker starts in 1-2 s, but the machine may be busy
stop_within=15  # seconds between TERM and KILL

# fill TEMPLATE DIR PORT CONTROLLER-PORT
fill() {
  local text
  text=$(<"$1")
  text=${text//@DIR@/$2}
  text=${text//@PORT@/$3}
  printf '%s\n' "${text//@CONTROLLER_PORT@/${4:-}}"
}

# run_server SERVER DIR PORT [MORE...]: becomes the server.
run_server() {
  local server=${1:?a server} dir=${2:?a folder} port=${3:?a port}
  shift 3
  one_of "$server" "${servers[@]}"
  part_path "$server" >/dev/null || die "$(why_missing "$server")"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  "run_$server" "$dir" "$port" "$@"
}

# Nothing is saved unless the caller asks: a test wants an empty server.
run_redis() {
  local dir=$1 port=$2
  shift 2
  exec redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --daemonize no \
    --save '' --appendonly no "$@"
}

run_kafka() {
  local dir=$1 port=$2 controller_port=${3:?the port of the controller} home
  home=$(kafka_home)
  fill "$recipes/kafka/server.properties" "$dir" "$port" "$controller_port" >"$dir/server.properties"
  printf '%s\n' "${PERSEID_KAFKA_SETTINGS:-}" >>"$dir/server.properties" # the last of two settings holds
  [[ -d $dir/data ]] || cp -r "$home/formatted" "$dir/data"
  exec java "-Xms${PERSEID_KAFKA_HEAP:-256m}" "-Xmx${PERSEID_KAFKA_HEAP:-256m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -XX:+ExitOnOutOfMemoryError -Xlog:disable "${KAFKA_ARCHIVE:--XX:SharedArchiveFile=$home/classes.jsa}" \
    "-Dlog4j2.configurationFile=$recipes/kafka/log4j2.xml" "-Dlog4j.configuration=file:$recipes/kafka-3/log4j.properties" \
    -cp "$(kafka_classpath "$home")" kafka.Kafka "$dir/server.properties"
}

# In a fixed order, with full names: the archive of classes is bound to it.
kafka_classpath() {
  local jars=("$1"/libs/*.jar)
  local IFS=:
  echo "${jars[*]}"
}

# A relative socket is made in the data folder, whose own path may be too long
# for one. Commits are durable, as by default.
run_mariadb() {
  local dir=$1 port=$2
  shift 2
  [[ -d $dir/data ]] || cp -r "$(mariadb_home)/formatted" "$dir/data"
  exec "$(part_path mariadb)" --no-defaults --datadir="$dir/data" --user="$(id -un)" --tmpdir="$dir/data" \
    --bind-address=127.0.0.1 --port="$port" --socket=socket --skip-name-resolve --max-connections=400 \
    --innodb-buffer-pool-size="${PERSEID_MARIADB_POOL:-32M}" --innodb-log-file-size=8M --key-buffer-size=1M "$@"
}

run_discovery() {
  local dir=$1 port=$2
  mkdir -p "$dir/conf"
  fill "$recipes/discovery/discovery.toml" "$dir" "$port" >"$dir/conf/discovery.toml"
  exec "$(part_path discovery)" -conf "$dir/conf"
}

start_servers() {
  local dir=${1:?a folder} server
  shift
  [[ $# -eq 0 ]] && set -- "${servers[@]}"
  for server in "$@"; do
    one_of "$server" "${servers[@]}"
    part_path "$server" >/dev/null || die "$(why_missing "$server")"
  done
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  for server in "$@"; do
    still_ours "$dir" "$server" && die "$server already runs in $dir"
    launch "$server" "$dir"
  done
  for server in "$@"; do
    await "$server" "$dir" || { stop_servers "$dir"; return 1; }
  done
  write_env "$dir"
}

# launch SERVER DIR: starts it in a session of its own, so that no Ctrl-C of a
# terminal reaches it, and notes pid, start time and port.
launch() {
  local server=$1 dir=$2 port second=() pid
  port=$(free_port)
  [[ $server == kafka ]] && second=("$(free_port)")
  setsid "$here/deps.sh" run "$server" "$dir/$server" "$port" "${second[@]}" \
    >"$dir/$server.log" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid" >"$dir/$server.pid"
  start_time "$pid" >"$dir/$server.started"
  echo "$port" >"$dir/$server.port"
}

# await SERVER DIR: until it does real work; once more on other ports when it
# died, because somebody may have taken the port meanwhile.
await() {
  local server=$1 dir=$2 attempt
  for attempt in 1 2 3; do
    until_ready "$server" "$dir" && return
    still_ours "$dir" "$server" && break
    [[ $attempt == 3 ]] || launch "$server" "$dir"
  done
  echo "deps.sh: $server does not get ready; the end of $dir/$server.log:" >&2
  tail -n 20 "$dir/$server.log" >&2
  return 1
}

until_ready() {
  local server=$1 dir=$2 port deadline=$((SECONDS + ready_within))
  port=$(<"$dir/$server.port")
  while ! "ready_$server" "$port" "$dir/$server.log" 2>/dev/null; do
    still_ours "$dir" "$server" && ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# A shell of its own, so that the bound covers connect and read.
# shellcheck disable=SC2016 # the inner shell expands them
ask() { # ask PORT REQUEST BYTES: at most BYTES of the answer
  timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "$1" >&3 && head -c "$2" <&3' "$@"
}

ready_redis() { [[ $(ask "$1" 'PING\r\n' 5) == +PONG ]]; }

# Metadata v1 of no topic, client id null: bytes 9 to 12 of the answer count the
# brokers that take requests. With the log line, too: a broker on old data
# answers from old metadata before it leads its partitions again.
ready_kafka() {
  grep -q "Kafka Server started" "$2" || return
  local request='\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x07\xff\xff\x00\x00\x00\x00'
  [[ $(ask "$1" "$request" 12 | od -An -v -tx1 | tr -d ' \n') == *0000000700000001 ]]
}

# The greeting of protocol 10; an error packet has another byte there.
ready_mariadb() { [[ $(ask "$1" '' 5 | od -An -v -tx1 | tr -d ' \n') == ????????0a ]]; }

# It knows itself: the registry answers, not only the port.
ready_discovery() {
  local request='GET /discovery/fetch?zone=sh001&env=dev&appid=infra.discovery&status=1 HTTP/1.0\r\n\r\n'
  [[ $(ask "$1" "$request" 4096) == *'"code":0,'* ]]
}

write_env() {
  local dir=$1 server
  for server in "${servers[@]}"; do
    still_ours "$dir" "$server" || continue
    echo "PERSEID_TEST_${server^^}=127.0.0.1:$(<"$dir/$server.port")"
  done >"$dir/env"
}

same_process() { [[ -n ${2:-} && $(start_time "$1") == "$2" ]]; }

still_ours() { # still_ours DIR SERVER
  [[ -f $1/$2.pid ]] && same_process "$(<"$1/$2.pid")" "$(<"$1/$2.started")"
}

stop_servers() {
  local dir=$1 server
  for server in "${servers[@]}"; do
    still_ours "$dir" "$server" && kill -TERM "$(<"$dir/$server.pid")"
  done
  for server in "${servers[@]}"; do
    [[ -f $dir/$server.pid ]] && await_end "$dir" "$server"
  done
  rm -f "$dir/env"
}

await_end() {
  local dir=$1 server=$2 deadline=$((SECONDS + stop_within))
  while still_ours "$dir" "$server"; do
    ((SECONDS < deadline)) || kill -KILL "$(<"$dir/$server.pid")" 2>/dev/null || true
    sleep 0.05
  done
  rm -f "$dir/$server".{pid,started,port}
}

# guard DIR: outlives the test binary at the other end of its input by a moment.
guard() {
  local dir=$1 verb pid
  local -A started=()
  [[ $(basename "$dir") == perseid-testdeps-* ]] || die "guard removes only folders of internal/testdeps"
  trap '' INT TERM HUP
  while read -r verb pid; do
    case $verb in
      add) started[$pid]=$(start_time "$pid" || true) ;;
      del) unset "started[$pid]" ;;
    esac
  done
  for pid in "${!started[@]}"; do
    # The process leads a group; its children go with it.
    ! same_process "$pid" "${started[$pid]}" || kill -KILL -- "-$pid" 2>/dev/null || true
  done
  for pid in "${!started[@]}"; do
    while same_process "$pid" "${started[$pid]}"; do sleep 0.01; done
  done
  rm -rf -- "$dir"
}
