#!/bin/sh
# Brings everything that a build needs and prints nothing when it is all there: Debian packages, a Rust compiler, the
# pinned llama.cpp source. Run by `make`; safe to run again. Needs Debian 12 (or a relative with the same packages),
# and root or sudo only while a package is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

packages="g++ cmake ninja-build libfmt-dev libyaml-cpp-dev libcli11-dev libeigen3-dev libcurl4-openssl-dev libssl-dev
  libgtest-dev git python3 python3-pip"
rust_needed=1.85   # by the crates of rust/Cargo.lock that Linux compiles

missing=
for package in $packages; do
  case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
    installed) ;;
    *) missing="$missing $package" ;;
  esac
done

PATH=$PATH:$HOME/.cargo/bin
version=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
oldest=$(printf '%s\n%s\n' "$rust_needed" "${version:-0}" | sort -V | head -n 1)
# Debian's own cargo is too old; the packages that Debian keeps current for its browsers are not.
[ "$oldest" = "$rust_needed" ] || missing="$missing cargo-web rustc-web"

if [ -n "$missing" ]; then
  echo "installing:$missing" >&2
  command -v apt-get >/dev/null || { echo "no apt-get here: install these by other means:$missing" >&2; exit 1; }
  sudo=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "run this as root, or install:$missing" >&2; exit 1; }
    sudo=sudo
  fi
  $sudo apt-get update -qq >&2
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >&2
fi

"$here/fetch-llama.sh" >/dev/null
