#!/bin/sh
# Installs the witnesses of the Hub tests, the official clients and one more server, each at a pinned version; prints the folder
# that they are in. Safe to run again: what is there already is left alone.
#
# usage: setup.sh [FOLDER]      (default: build/hub-witnesses of the project)
set -eu
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/build/hub-witnesses}

huggingface_hub="huggingface_hub==2.4.0 hf-xet==1.8.0"
olah="olah==0.5.4"
hub_js="@huggingface/hub@2.17.5"

command -v npm >/dev/null || { echo "npm is not installed: it brings the Hub's JavaScript client" >&2; exit 1; }
mkdir -p "$folder"
exec 9> "$folder/lock"
flock 9   # one installation at a time

# NAME PACKAGES: a virtual environment with these packages, made in one step and marked with what it holds.
python_packages() {
  [ "$(cat "$folder/$1/packages" 2>/dev/null || true)" != "$2" ] || return 0
  rm -rf "$folder/$1"
  python3 -m venv "$folder/$1"
  # shellcheck disable=SC2086
  "$folder/$1/bin/pip" install --quiet --disable-pip-version-check $2 >&2
  echo "$2" > "$folder/$1/packages"
}

python_packages python "$huggingface_hub"
python_packages olah "$olah"
if [ "$(cat "$folder/js/packages" 2>/dev/null || true)" != "$hub_js" ]; then
  rm -rf "$folder/js"
  mkdir "$folder/js"
  npm install --silent --no-audit --no-fund --prefix "$folder/js" "$hub_js" >&2
  echo "$hub_js" > "$folder/js/packages"
fi
echo "$folder"
