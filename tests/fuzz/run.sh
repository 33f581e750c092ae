#!/usr/bin/env bash
# Builds the fuzzers with clang and runs one after the other for SECONDS each (1800 when left out); writes a row of
# build/fuzz/log.md for each that is done. What is found lies in build/fuzz/found.
#
# usage: tests/fuzz/run.sh [SECONDS] [TARGET...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
seconds=${1:-1800}
shift || true
clang=${CXX:-$(compgen -c clang++ | grep -E '^clang\+\+(-[0-9]+)?$' | sort -V | tail -1)}
[ -n "$clang" ] || { echo "no clang++ here: apt-get install clang libclang-rt-dev" >&2; exit 1; }

cd "$root"
export PATH="$PATH:$HOME/.cargo/bin" OMP_WAIT_POLICY=PASSIVE
[ -f build/fuzz/build.ninja ] ||
  cmake --preset fuzz -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_C_COMPILER="${clang/++/}" ${MOERGE_CMAKE_OPTIONS:-}
cmake --build --preset fuzz --target fuzzers
[ $# -gt 0 ] || set -- $(cd "$here" && ls -- *_fuzz.cpp | sed 's/_fuzz.cpp//')

mkdir -p build/fuzz/found
log=build/fuzz/log.md
[ -f $log ] || printf '%s\n' '| target | seconds | CPU seconds | executions | edges | corpus | peak memory | findings |' \
  '|---|---|---|---|---|---|---|---|' > $log
memory=/dev/shm  # some targets write a file for each input
TMPDIR=$(mktemp -d -p "$([ -w $memory ] && echo $memory || echo "${TMPDIR:-/tmp}")")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
failed=0
for target; do
  new=build/fuzz/corpus/$target output=build/fuzz/$target.log
  mkdir -p "$new"
  # By the clock, on a machine that may be busy with something else. What takes more than 5 s is a slow-unit, to be looked at.
  /usr/bin/time -f 'cpu: %U %S' -o "$TMPDIR/time" "build/fuzz/tests/fuzz/${target}_fuzz" \
    -max_total_time="$seconds" -max_len=16384 -timeout=20 -report_slow_units=5 -rss_limit_mb=2048 -malloc_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/found/$target-" "$new" "$here/corpus/$target" > "$output" 2>&1 || failed=1
  stat() { sed -n "s/^stat::$1: *//p" "$output"; }
  last=$(grep -E '^#[0-9]+.* cov: ' "$output" | tail -1)
  field() { sed -n "s/.* $1: \([^ ]*\).*/\1/p" <<< "$last"; }
  findings=$(find build/fuzz/found -name "$target-*" ! -name '*-slow-unit-*' | wc -l)
  cpu=$(awk '/cpu/ { printf "%d", $2 + $3 }' "$TMPDIR/time")
  echo "| $target | $seconds | $cpu | $(stat number_of_executed_units) | $(field cov) | $(field corp) | $(stat peak_rss_mb) MB | $findings |" >> $log
done
cat $log
exit $failed
