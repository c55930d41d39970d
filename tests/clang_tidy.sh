#!/usr/bin/env bash
# clang_tidy.sh BUILD: every source that BUILD compiles with the C++ compiler, by the checks in .clang-tidy.
set -euo pipefail
build=$1
if ! command -v clang-tidy >/dev/null; then
  echo "skipped: needs clang-tidy (apt-get install clang-tidy)"
  exit 77
fi
sed -nE 's/^ *"file": "(.*\.cpp)",?$/\1/p' "$build/compile_commands.json" | grep -E '/(src|lessons)/' | sort -u |
  nice xargs -rd '\n' -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet 2>/dev/null
