# shellcheck shell=bash
# What the scripts beside this file share: messages, packages, the Rust toolchain, a registry, clean-up.
# Sourced by them after `set -euo pipefail`; nothing reads the terminal but sudo, which opens it itself.
exec </dev/null

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
# Programs that are only for us, out of the way of the system's own.
tools=$target/tools
PATH=$PATH:/usr/sbin:/sbin
bold='' plain=''
if [ -t 2 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*" >&2; }

die() {
  say "failed: $*"
  exit 1
}

# scratch: a temporary directory in $work, which goes when the script ends, however it ends, with every process
# that the script still has.
scratch() {
  work=$(mktemp -d "${TMPDIR:-/tmp}/registry-image.XXXXXX")
  litter=("$work") # a script may add to it
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

clean_up() {
  local status=$? pid
  trap - EXIT
  trap '' INT TERM HUP # a second Ctrl-C must not leave half of it behind
  for pid in $(jobs -p); do kill_tree "$pid"; done
  wait 2>/dev/null || true
  chmod -R u+rwX "${litter[@]}" 2>/dev/null || true # an image may hold directories that its owner cannot write
  rm -rf --one-file-system "${litter[@]}"
  exit "$status"
}

# A compiler must not go on when its cargo is gone; not with a process group, which would take the terminal from sudo.
kill_tree() {
  local child children
  children=$(cat /proc/"$1"/task/*/children 2>/dev/null || true)
  kill "$1" 2>/dev/null || true
  for child in $children; do kill_tree "$child"; done
}

# attended CMD…: runs it so that a signal ends the script at once and not when CMD is done.
attended() {
  "$@" <&0 &
  wait $!
}

# quietly CMD…: its output is shown only when it fails.
quietly() {
  local log status=0
  log=$(mktemp "$work/log.XXXXXX")
  "$@" >"$log" 2>&1 || status=$?
  [ "$status" -eq 0 ] || cat "$log" >&2
  return "$status"
}

have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    return 1
  fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -q "$@"
}

# packages WHY [PROGRAM=]NAME…: installs those Debian packages that are not there; with PROGRAM=, where there is no such
# program either: another packaging of it stays.
packages() {
  local why=$1 name missing=() failed=()
  shift
  for name; do
    case $name in *=*) ! have "${name%%=*}" || continue ;; esac
    name=${name#*=}
    case $(dpkg-query -W -f='${Status}' "$name" 2>/dev/null) in
      *' ok installed') ;;
      *) missing+=("$name") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  have apt-get || { say "please install ($why): ${missing[*]}"; return 1; }
  [ "$(id -u)" -eq 0 ] || have sudo || { say "not root and no sudo; please install ($why): ${missing[*]}"; return 1; }
  say "installing with apt ($why): ${missing[*]}"
  # A package list that is empty or old is the usual reason for a failure, and rare enough to find out by trying.
  ! apt_install "${missing[@]}" >/dev/null 2>&1 || return 0
  quietly apt_get update || return 1
  ! apt_install "${missing[@]}" >/dev/null 2>&1 || return 0
  for name in "${missing[@]}"; do quietly apt_install "$name" || failed+=("$name"); done
  [ ${#failed[@]} -eq 0 ] || say "not to be had with apt: ${failed[*]}"
  [ ${#failed[@]} -eq 0 ]
}

# newer NAME…: the newest there is of packages that are installed but too old.
newer() {
  say "looking for newer packages with apt: $*"
  quietly apt_get update && quietly apt_install "$@"
}

# Services stay off: a test starts its own copy of a server, and nobody asked for one on this machine.
apt_install() {
  local policy=/usr/sbin/policy-rc.d ours=false status=0
  if [ -d /run/systemd/system ] && [ ! -e "$policy" ]; then
    ours=true
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  apt_get install -y --no-install-recommends "$@" || status=$?
  ! $ours || as_root rm -f "$policy"
  return "$status"
}

# rust_toolchain [rustfmt] [clippy]: a cargo on PATH that is new enough for Cargo.toml, with these components.
# shellcheck disable=SC2120 # some callers want no component
rust_toolchain() {
  local component
  least_rust=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repo/Cargo.toml")
  rust_is_new_enough || ! have rustup || rustup_stable
  rust_is_new_enough || debian_rust
  rust_is_new_enough || ! packages "Rust $least_rust or newer" rustup 2>/dev/null || rustup_stable
  rust_is_new_enough || die "no Rust $least_rust or newer: install one with rustup, then run this again"
  for component; do
    rust_component "$component" || die "Rust's $component is missing and cannot be had"
  done
}

debian_rust() {
  local names=(rustc-web cargo-web)
  packages "Rust $least_rust or newer" "${names[@]}" || return 0
  mkdir -p "$tools/bin"
  ln -sf /usr/bin/cargo /usr/bin/rustc "$tools/bin/"
  PATH=$tools/bin:$PATH
  rust_is_new_enough || newer "${names[@]}"
}

rust_component() {
  local command=${1/#rustfmt/fmt} package
  ! cargo "$command" --version >/dev/null 2>&1 || return 0
  if have rustup; then
    quietly attended rustup component add "$1"
  else
    case $1 in rustfmt) package=rustfmt-web ;; clippy) package=rust-web-clippy ;; esac
    packages "Rust's $1" "$package"
  fi && cargo "$command" --version >/dev/null 2>&1
}

rust_is_new_enough() {
  local version
  version=$(rustc --version 2>/dev/null | cut -d' ' -f2) && cargo --version >/dev/null 2>&1 || return 1
  printf '%s\n%s\n' "$least_rust" "$version" | sort -V -C
}

rustup_stable() {
  say "installing Rust's stable toolchain with rustup"
  quietly attended timeout 600 rustup toolchain install stable --profile minimal || true
  export RUSTUP_TOOLCHAIN=stable
}

# ring and zstd hold C code.
c_compiler() {
  echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || packages 'a C compiler for ring and zstd' gcc libc6-dev || die 'no C compiler'
}

# registry_program: the path of Debian's docker-registry in $docker_registry. Taken out of its package where it is not
# installed: that needs no root, and installing it would start a service on port 5000.
registry_program() {
  docker_registry=$(command -v docker-registry || true)
  [ -z "$docker_registry" ] || return 0
  docker_registry=$tools/docker-registry/usr/bin/docker-registry
  [ ! -x "$docker_registry" ] || return 0
  say 'fetching docker-registry with apt (used from target/, not installed)'
  mkdir -p "$tools/docker-registry"
  (cd "$tools/docker-registry" && rm -f ./*.deb && { download_registry || { apt_get update && download_registry; }; } &&
    dpkg-deb -x docker-registry_*.deb . && rm -f ./*.deb) >"$work/apt.log" 2>&1 ||
    { cat "$work/apt.log" >&2; die 'docker-registry cannot be had: apt-get install docker-registry'; }
}

download_registry() { apt-get -q -o APT::Sandbox::User=root download docker-registry; }

# own_registry DIR: a registry with its data in DIR, on a free port of 127.0.0.1; its HOST:PORT in $registry.
own_registry() {
  local dir=$1 pid tries
  mkdir -p "$dir"
  cat >"$dir/registry.yml" <<YAML
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: "$dir/data"}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0"}
YAML
  : >"$dir/registry.log" # there before it is read
  # A clean environment: it takes every REGISTRY_… variable for a setting of its own.
  env -i PATH="$PATH" HOME="$dir" "$docker_registry" serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
  pid=$!
  for ((tries = 0; tries < 100; tries++)); do
    registry=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$dir/registry.log" | head -n 1)
    [ -z "$registry" ] || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/registry.log" >&2
  die 'docker-registry did not start'
}

# This machine in the words of an image config.
go_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
  esac
}
