# Sourced by deps.sh: where each part is, how it gets there, why it does not.
# shellcheck shell=bash disable=SC2154

# A recipe's folder carries the hash of its pins, so another version is another
# folder. "complete" is written last: without it the folder is half a one.
stamped() { # stamped PART FILE...: the cache folder of this version of PART
  local part=$1
  shift
  echo "$cache/$part-$(cat "$@" | sha256sum | head -c 12)"
}

# Kafka 4, or the broker for old clients.
kafka_recipe() { if [[ ${PERSEID_KAFKA_MAJOR:-4} == 3 ]]; then echo "$recipes/kafka-3"; else echo "$recipes/kafka"; fi; }
kafka_home() { stamped kafka "$(kafka_recipe)/pom.xml"; }
discovery_home() { stamped discovery "$here/../go.mod"; } # the server is a tool of the module
mariadb_home() { echo "$cache/mariadb-$("$(mariadb_binary)" --version | sha256sum | head -c 12)"; }
npm_ws_home() { echo "$cache/npm-ws-$ws_version"; }

has() { command -v "$1" >/dev/null 2>&1; }

browser_binary() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Debian has it where only root's PATH goes.
mariadb_binary() { PATH=$PATH:/usr/sbin command -v mariadbd; }

# part_path PART: prints where PART is; fails when it is not usable.
part_path() {
  local home
  case $1 in
    redis) command -v redis-server ;;
    browser) browser_binary ;;
    # KAFKA_ARCHIVE: the start during its own installation.
    kafka) home=$(kafka_home) && has java && [[ -f $home/complete || -n ${KAFKA_ARCHIVE:-} ]] && echo "$home" ;;
    mariadb) mariadb_binary >/dev/null && home=$(mariadb_home) && [[ -f $home/complete ]] && mariadb_binary ;;
    discovery) home=$(discovery_home) && [[ -f $home/complete ]] && echo "$home/discovery" ;;
    npm-ws) home=$(npm_ws_home) && has node && [[ -f $home/complete ]] && echo "$home/node_modules" ;;
  esac
}

print_path() {
  one_of "$1" "${parts[@]}"
  part_path "$1" || die "$(why_missing "$1")"
}

why_missing() { # why_missing PART: one line
  local reason=$cache/$1.failed
  if [[ -f $reason ]]; then
    echo "$1: $(head -n 1 "$reason")"
  else
    echo "$1: not installed; run scripts/deps.sh install $1"
  fi
}

print_missing() {
  local part
  for part in "${parts[@]}"; do
    part_path "$part" >/dev/null || why_missing "$part"
  done
}

install_parts() {
  local part failed=0
  [[ $# -eq 0 || $1 == all ]] && set -- "${parts[@]}"
  mkdir -p "$cache"
  for part in "$@"; do
    one_of "$part" "${parts[@]}"
    install_part "$part" || failed=1
  done
  return $failed
}

# install_part PART: one at a time over all processes that share the cache.
install_part() {
  local part=$1 log=$cache/$1.log reason=$cache/$1.failed begin=$SECONDS
  if part_path "$part" >/dev/null; then
    rm -f "$reason"
    return
  fi
  exec 9>"$cache/lock"
  flock 9
  if ! part_path "$part" >/dev/null; then
    echo "deps.sh: installing $part"
    : >"$reason"
    # A child shell: "set -e" is off in whatever an "if" tests.
    if ! (set +e; "install_${part//-/_}") >"$log" 2>&1 9>&- || ! part_path "$part" >/dev/null; then
      [[ -s $reason ]] || echo "its installation failed, see $log" >"$reason"
      echo "deps.sh: $(why_missing "$part")" >&2
      flock -u 9
      return 1
    fi
    echo "deps.sh: $part installed in $((SECONDS - begin)) s: $(part_path "$part")"
  fi
  rm -f "$reason"
  flock -u 9
}

# cannot PART REASON: records why PART cannot be had here.
cannot() {
  echo "$2" >"$cache/$1.failed"
  return 1
}

# need PART COMMAND PACKAGE...: COMMAND exists, or its packages can be installed.
need() {
  local part=$1 command=$2
  shift 2
  has "$command" && return
  apt_install "$@" && has "$command" && return
  cannot "$part" "$command is not on PATH, and this machine does not let us install: $*"
}

# apt_install PACKAGE...: without starting any system service.
apt_install() {
  [[ $(id -u) == 0 ]] && has apt-get || return 1
  (
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@" ||
      { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; }
  )
}

install_redis() { need redis redis-server redis-server; }
install_browser() { browser_binary || need browser chromium chromium; }

install_kafka() {
  local home
  need kafka java openjdk-17-jre-headless || return
  java_is_recent || cannot kafka "java is older than 17" || return
  need kafka mvn maven || return
  home=$(kafka_home)
  rm -rf "$home" && mkdir -p "$home"
  mvn -B -q -f "$(kafka_recipe)/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$home/libs" || return
  format_kafka "$home" && archive_kafka_classes "$home" && touch "$home/complete"
}

java_is_recent() {
  local major
  major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
  [[ ${major:-0} -ge 17 ]]
}

# format_kafka HOME: a formatted log folder that every start copies, which saves
# the second JVM that the formatting tool is. The broker adds its directory id.
format_kafka() {
  local home=$1
  fill "$recipes/kafka/server.properties" "$home" 1 2 >"$home/format.properties"
  java -cp "$(kafka_classpath "$home")" kafka.tools.StorageTool format \
    --cluster-id perseid-for-tests-0000 --config "$home/format.properties" || return
  sed -i '/^directory.id=/d' "$home/data/meta.properties"
  mv "$home/data" "$home/formatted"
}

# archive_kafka_classes HOME: keeps the parsed classes of one start and stop for
# the JVM's class data sharing; halves the time of later starts. Another JVM
# ignores the archive, and so do we when it cannot be made.
archive_kafka_classes() {
  local home=$1 dir=$1/first-start
  if ! KAFKA_ARCHIVE=-XX:ArchiveClassesAtExit=$home/classes.jsa start_servers "$dir" kafka; then
    echo "the broker does not start"
    return 1
  fi
  stop_servers "$dir" && rm -rf "$dir"
}

# The package without the service: nothing of it runs by itself. Its tool makes
# the data folder that every start copies.
install_mariadb() {
  local home
  need mariadb mariadb-install-db mariadb-server-core || return
  need mariadb my_print_defaults mariadb-client-core || return # a tool of that tool
  home=$(mariadb_home)
  rm -rf "$home" && mkdir -p "$home"
  mariadb-install-db --no-defaults --datadir="$home/formatted" --user="$(id -un)" \
    --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
    --innodb-log-file-size=8M && touch "$home/complete"
}

install_discovery() {
  local home
  has go || cannot discovery "go is not on PATH" || return
  home=$(discovery_home)
  mkdir -p "$home"
  go build -C "$here/.." -o "$home/discovery" \
    github.com/bilibili/discovery/cmd/discovery && touch "$home/complete"
}

install_npm_ws() {
  local home
  need npm-ws node nodejs || return
  need npm-ws npm npm || return
  home=$(npm_ws_home)
  mkdir -p "$home"
  npm install --prefix "$home" --no-save --no-package-lock --ignore-scripts \
    --no-audit --no-fund "ws@$ws_version" && touch "$home/complete"
}
