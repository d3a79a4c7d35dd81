#!/usr/bin/env bash
# Install the Debian packages that are missing, and say which. Groups: venv, run, test.
#   run:  what the lab and the node use at run time
#   test: real clients that the tests drive (where systemd runs, Debian starts containerd's service)
set -euo pipefail

want=()
need() { # need COMMAND PACKAGE: install PACKAGE unless COMMAND is there
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "$1" ] || want+=("$2")
}

for group in "$@"; do
  case "$group" in
    venv) want+=(python3-venv) ;;
    run)
      need ip iproute2
      need ping iputils-ping
      need curl curl
      need kubectl kubernetes-client
      ;;
    test)
      need bpftool bpftool
      need tshark tshark
      need jq jq
      need podman podman
      need containerd containerd
      need /usr/lib/cni/portmap containernetworking-plugins
      need iptables iptables
      need busybox busybox-static
      need diff diffutils
      ;;
    *) echo "packages: no group called $group" >&2; exit 2 ;;
  esac
done

[ ${#want[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "packages: missing: ${want[*]}; install them with apt-get, or run as root" >&2
  exit 1
fi
echo "packages: installing ${want[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${want[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "packages: apt-get failed; the last lines are above" >&2
  exit 1
fi
