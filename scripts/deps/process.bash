# Sourced by deps.sh and by benchmarks/processes.bash: ports and pids of servers.
# shellcheck shell=bash

# Below the kernel's ephemeral ports: no outgoing connection takes it meanwhile.
# A script that has a work folder is given each port once: the server that got
# it before may not listen yet.
free_port() {
  local port
  while port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
    [[ -n ${work:-} ]] && grep -sqx "$port" "$work/ports" && continue
    break
  done
  [[ -z ${work:-} ]] || echo "$port" >>"$work/ports"
  echo "$port"
}

# The start time of a process in clock ticks since boot: with it a pid is unique.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] && echo "${fields[19]}"
}
