#!/usr/bin/env bash
# Makes a Flower home from which the broker's operator submits runs, and registers the nodes' keys.
# Usage: operator.sh DIR CERTIFICATES HOST:CONTROL_PORT NODE…
set -euo pipefail
[ $# -ge 4 ] || { sed -n 3p "$0" >&2; exit 2; }
mkdir -p "$1"; folder=$(realpath "$1") certificates=$(realpath "$2") address=$3; shift 3
cat > "$folder/config.toml" <<T
[superlink]
default = "market"

[superlink.market]
address = "$address"
root-certificates = "$certificates/ca.crt"
T
export FLWR_HOME=$folder FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
for node in "$@"; do
  if ! answer=$(flwr supernode register "$certificates/$node.pub" market --name "$node" 2>&1); then
    case $answer in *"already in use"*) ;; *) echo "$answer" >&2; exit 1 ;; esac # registered before: nothing to do
  fi
done
