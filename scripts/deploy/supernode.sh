#!/usr/bin/env bash
# One agent's SuperNode. From the broker it needs ca.crt only; the private key is the node's own.
# Usage: supernode.sh DIR CA.CRT KEY BROKER:PORT LOCAL_PORT NODE_CONFIG
#   e.g. supernode.sh /var/lib/agent ca.crt hospital-a broker.example.org:9092 9094 'partition-id=0 spending-limit=5.0'
set -euo pipefail
umask 077 # models, validation data and agents' identities are for this user alone
[ $# -eq 6 ] || { sed -n 3,4p "$0" >&2; exit 2; }
mkdir -p "$1"; folder=$(realpath "$1")
export FLWR_HOME=$folder/home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# a process for each message: look for it often, and let Python keep what it has compiled
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1
unset PYTHONDONTWRITEBYTECODE
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
exec flower-supernode --superlink "$4" --root-certificates "$2" --auth-supernode-private-key "$3" --port "$5" \
  --node-config "$6 agent-dir=\"$folder/agent\""
