#!/usr/bin/env bash
# The broker's SuperLink, with TLS and node authentication. It ends with this script.
# FL_MARKET_CONTROL_HOST is the address of the control port, if it is to be another one than that of the nodes' port.
# Usage: superlink.sh DIR CERTIFICATES HOST [CONTROL_PORT] [NODES_PORT]
set -euo pipefail
umask 077 # models, validation data and agents' identities are for this user alone
[ $# -ge 3 ] || { sed -n 4p "$0" >&2; exit 2; }
mkdir -p "$1"; folder=$(realpath "$1") certificates=$(realpath "$2") host=$3 control=${4:-9093} nodes=${5:-9092}
export FLWR_HOME=$folder/home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# a process for each message: look for it often, and let Python keep what it has compiled
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1
unset PYTHONDONTWRITEBYTECODE
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 # otherwise Flower installs the app's dependencies for every run
exec flower-superlink --host "${FL_MARKET_CONTROL_HOST:-$host}" --port "$control" --fleet-api-address "$host:$nodes" --database "$folder/state.db" \
  --ssl-ca-certfile "$certificates/ca.crt" --ssl-certfile "$certificates/server.pem" \
  --ssl-keyfile "$certificates/server.key" --enable-supernode-auth
