#!/usr/bin/env bash
# clang_tidy.sh FOLDER CMAKE_OPTIONS...: every source of src and lessons, by the checks in .clang-tidy. In FOLDER it
# configures a build in which each is compiled by itself.
set -euo pipefail
build=$1
if ! command -v clang-tidy >/dev/null; then
  echo "skipped: needs clang-tidy (apt-get install clang-tidy)"
  exit 77
fi
cmake -S "$(dirname "$0")/.." -B "$build" -DTESSERA_UNITY=OFF "${@:2}" >/dev/null
sed -nE 's/^ *"file": "(.*\.cpp)",?$/\1/p' "$build/compile_commands.json" | grep -E '/(src|lessons)/' | sort -u |
  nice xargs -rd '\n' -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet 2>/dev/null
