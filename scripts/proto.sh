#!/usr/bin/env bash
# Generates the Go code of api/ beside each .proto. With --check it only tells
# whether the committed code is what the .proto files give.
set -euo pipefail
cd "$(dirname "$0")/.."

protoc_version=3.21.12
gen_go=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
gen_grpc=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
cache=${PERSEID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/perseid}/proto-1.36.12-1.6.0

if ! command -v protoc >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq protobuf-compiler >/dev/null
  else
    echo "proto: protoc is not installed (Debian: protobuf-compiler $protoc_version)" >&2
    exit 1
  fi
fi
have=$(protoc --version | awk '{print $2}')
if [ "$have" != "$protoc_version" ]; then
  echo "proto: protoc $have is installed, the committed code is made with $protoc_version" >&2
  exit 1
fi
mkdir -p "$cache"
[ -x "$cache/protoc-gen-go" ] || GOBIN=$cache go install "$gen_go"
[ -x "$cache/protoc-gen-go-grpc" ] || GOBIN=$cache go install "$gen_grpc"

out=.
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
PATH=$cache:$PATH protoc -I . \
  --go_out="$out" --go_opt=paths=source_relative \
  --go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
  api/*/v1/*.proto
if [ "$out" != . ]; then
  for f in $(cd "$out" && find api -name '*.pb.go'); do
    cmp -s "$out/$f" "$f" || { echo "proto: $f differs from its .proto: run make proto" >&2; exit 1; }
  done
fi
