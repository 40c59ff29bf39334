#!/usr/bin/env bash
# Makes the keys of a market of containers, and gives each service its own, and its state, under a user of its own.
# Each service has the folders SECRETS/NAME and STATES/NAME; broker and operator are two of them, the rest are nodes.
# Usage: share_secrets.sh AUTHORITY HOST SECRETS STATES NAME=UID…    e.g. share_secrets.sh /authority superlink /secrets /states broker=10001 operator=10002 agent-a=10003
set -euo pipefail
[ $# -ge 7 ] || { sed -n 4p "$0" >&2; exit 2; }
scripts=$(dirname "$(realpath "$0")") authority=$1 host=$2 secrets=$3 states=$4; shift 4
nodes=()
for service in "$@"; do
  case ${service%%=*} in broker | operator) ;; *) nodes+=("${service%%=*}") ;; esac
done
"$scripts/certificates.sh" "$authority" "$host" "${nodes[@]}"
chmod 700 "$authority"
for service in "$@"; do
  name=${service%%=*} user=${service##*=}
  case $name in
    broker) files=(ca.crt server.pem server.key) ;;
    operator) files=(ca.crt); for node in "${nodes[@]}"; do files+=("$node.pub"); done ;;
    *) files=(ca.crt "$name") ;;
  esac
  install -d -m 500 -o "$user" -g "$user" "$secrets/$name"
  for file in "${files[@]}"; do
    install -m 400 -o "$user" -g "$user" "$authority/$file" "$secrets/$name/$file"
  done
  install -d -m 700 -o "$user" -g "$user" "$states/$name"
done
