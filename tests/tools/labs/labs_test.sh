#!/usr/bin/env bash
# labs_test.sh BUILD PROGRAMS: the master has full points, a fresh student's tree none, a cheat none for its task; the
# marks are the same each time; and a lesson whose functions are all open still compiles. BUILD has tessera_labs, and
# PROGRAMS is the build of what is marked.
set -euo pipefail
root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../../..")
build=$(readlink -f "$1") programs=$(readlink -f "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

labs() { "$build/bin/tessera_labs" --root "$root" --build "$programs" "$@"; }
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
# field NAME KEY FILE: of one task, from results.json as it is written, a line a key, in alphabetical order
field() { sed -n '/"name": "'"$1"'"/,/"status"/p' "$3" | sed -nE 's/^ *"'"$2"'": "?(.*[^",])"?,?$/\1/p'; }
score() { sed -nE 's/^  "score": ([0-9]+),$/\1/p' "$1"; }

cmake --build "$build" --target tessera_labs >/dev/null
all=$(labs list | tail -n 1 | cut -d ' ' -f 1)
count=$(($(labs list | wc -l) - 1))

echo "== the master"
labs grade "$root" --seed 11 --json "$work/master.json"
[[ $(score "$work/master.json") == "$all" ]] || fail "the master has $(score "$work/master.json") of $all points"

echo "== a fresh student's tree"
labs new "$work/fresh"
labs grade "$work/fresh" --seed 11 --json "$work/fresh.json"
[[ $(score "$work/fresh.json") == 0 ]] || fail "a fresh tree has points"
[[ $(grep -cE '"output": "(open|waits for .*)"' "$work/fresh.json") == "$count" ]] || fail "of $count tasks not all are open"
labs grade "$work/fresh" --seed 11 --only 02 --json "$work/once.json" >/dev/null
labs grade "$work/fresh" --seed 11 --only 02 --json "$work/twice.json" >/dev/null
cmp "$work/once.json" "$work/twice.json" || fail "the same seed gives other marks"
if labs new "$work/fresh" 2>/dev/null; then fail "lab new writes over a tree"; fi

echo "== cheats"
cp -r "$work/fresh" "$work/cheats"
echo '#error edited' >"$work/cheats/tests/tools/labs/run.cpp"  # the student's tests, core and records are not asked
echo '#error edited' >"$work/cheats/src/ops/ops.hpp"
echo '[]' >"$work/cheats/tests/tools/labs/expected.json"
cheats() { grep -v '^#' "$root/tests/tools/labs/cheats.txt" | sed 's/ | /\t/g'; }
while IFS=$'\t' read -r task where code says; do
  file=$(grep -rl "// task $task " "$work/cheats/lessons")
  text=$(cat "$file")
  case $where in
    body) printf '%s\n' "${text/"throw std::logic_error(\"task $task is open\");"/"$code"}" >"$file" ;;
    top) printf '%s\n' "${text/"#include <stdexcept>"/"#include <cstdio>"$'\n'"#include <fstream>"$'\n'"$code"$'\n'"#include <stdexcept>"}" >"$file" ;;
    file) ln -sf "$root/$code" "$file" ;;
  esac
done < <(cheats)
labs grade "$work/cheats" --seed 12 --seconds 4 --json "$work/cheats.json"
[[ $(grep -c '"name"' "$work/cheats.json") == "$count" ]] || fail "the grading did not go on to the end"
while IFS=$'\t' read -r task where code says; do
  if [[ $says == passed ]]; then
    [[ $(field "$task" score "$work/cheats.json") == 1 ]] || fail "$task, which is right, has no points"
  else
    [[ $(field "$task" score "$work/cheats.json") == 0 ]] || fail "$task has points for: $code"
    [[ $says == - || $(field "$task" output "$work/cheats.json") == *"$says"* ]] ||
      fail "$task: the mark says '$(field "$task" output "$work/cheats.json")', not '$says'"
  fi
done < <(cheats)

echo "== every function open"
empty=()
for lesson in "$root"/lessons/[0-9]*; do empty+=(--empty "$(basename "$lesson" | cut -c 1-2)"); done
labs new "$work/empty" "${empty[@]}"
labs grade "$work/empty" --seed 13 --json "$work/empty.json"
[[ $(score "$work/empty.json") == 0 ]] || fail "an empty tree has points"
if grep 'does not compile' "$work/empty.json"; then fail "signatures alone do not compile"; fi
if ((failures)); then exit 1; fi
echo "the labs hold"
