#!/usr/bin/env bash
# A private certificate authority, the broker's certificate, and a key pair for each agent's node.
# Again with the same arguments it renews the broker's certificate, and leaves authority and nodes as they are.
# Usage: certificates.sh DIR HOST NODE…      e.g. certificates.sh certificates broker.example.org hospital-a hospital-b
set -euo pipefail
[ $# -ge 3 ] || { sed -n 4p "$0" >&2; exit 2; }
folder=$1 host=$2; shift 2
mkdir -p "$folder"; cd "$folder"
umask 077
if [ ! -f ca.key ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=fl-market certificate authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.crt
fi
case $host in *[!0-9.]*) kind=DNS ;; *) kind=IP ;; esac
openssl ecparam -name prime256v1 -genkey -noout -out server.key
openssl req -new -key server.key -subj "/CN=$host" -out server.csr
printf 'subjectAltName=%s:%s,DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' \
  "$kind" "$host" > server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -sha256 -extfile server.ext \
  -out server.pem 2> /dev/null
rm server.csr server.ext
for node in "$@"; do
  [ -f "$node" ] || ssh-keygen -q -t ecdsa -b 384 -N '' -f "$node" -C "$node"
done
chmod 644 ca.crt server.pem ./*.pub
