#!/usr/bin/env bash
# Installs what `make e2e` needs from Debian, where that is missing. It does so only as root, with apt-get, and where nobody is asked
# because CI=true says so; otherwise it prints the command. Exit codes: 0 everything is there; 3 something is missing.
set -euo pipefail

declare -A packages=(
  [containerd]=containerd [ctr]=containerd [runc]=runc [iptables]=iptables [ip]=iproute2 [conntrack]=conntrack [socat]=socat
  [openssl]=openssl [prometheus]=prometheus [java]=default-jre-headless [mvn]=maven
)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ -e /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
[ ${#missing[@]} -gt 0 ] || exit 0
readarray -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

install=(apt-get install --yes --no-install-recommends "${missing[@]}")
if [ "${CI:-}" != true ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "make e2e needs: ${install[*]}" >&2
  exit 3
fi
# Nothing that is installed is started: the run starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
"${install[@]}"
