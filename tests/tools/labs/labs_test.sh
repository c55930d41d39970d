#!/usr/bin/env bash
# labs_test.sh BUILD PROGRAMS: a solved tree has full points but for its two wrong tasks, a cheat has none, and nor does a
# fresh tree that is marked after it; the marks are the same each time; and a lesson whose functions are all open still
# compiles. BUILD has tessera_labs, and PROGRAMS is the build of what is marked.
set -euo pipefail
labs=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(readlink -f "$labs/../../..")
build=$(readlink -f "$1") programs=$(readlink -f "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

labs() { "$build/bin/tessera_labs" --root "$root" --build "$programs" "$@"; }
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
# field NAME KEY FILE: of one task, from results.json as it is written, a line a key, in alphabetical order
field() { sed -n '/"name": "'"$1"'"/,/"status"/p' "$3" | sed -nE 's/^ *"'"$2"'": "?(.*[^",])"?,?$/\1/p'; }
score() { sed -nE 's/^  "score": ([0-9]+),$/\1/p' "$1"; }
passed() { sed -nE 's/^ *"status": "(.*)"$/\1/p' "$1" | grep -c passed; }

cmake --build "$build" --target tessera_labs >/dev/null
all=$(labs list | tail -n 1 | cut -d ' ' -f 1)
count=$(($(labs list | wc -l) - 1))
labs new "$work/fresh"

echo "== cheats"
# A line of cheats.txt with its places filled in, of this round.
cheats() {
  sed -n "s/^$1 | //p" "$labs/cheats.txt" | sed "s/ | /\t/g; s#BUILD#$programs#g; s#ROOT#$root#g; s#JSON#$work/cheats.json#g"
}
seed=$((RANDOM + 100))
for round in 1 2; do
  rm -rf "$work/cheats"
  cp -r "$work/fresh" "$work/cheats"
  echo '#error edited' | tee "$(find "$work/cheats" -name run.cpp)" >"$work/cheats/src/ops/ops.hpp"  # the student's tests
  find "$work/cheats" -name expected.json -exec cp /dev/null {} \;                  # and records are not asked
  mkdir -p "$programs/labs/marking/left/behind"
  while IFS=$'\t' read -r task where code says; do
    file=$(grep -rl "// task $task " "$work/cheats/lessons")
    text=$(cat "$file")
    case $where in
      body) printf '%s\n' "${text/"throw std::logic_error(\"task $task is open\");"/"$code"}" >"$file" ;;
      top) printf '%s\n' "${text/"#include <stdexcept>"/"#include <cstdio>"$'\n'"#include <fstream>"$'\n'"${code//NEWLINE/$'\n'}"$'\n'"#include <stdexcept>"}" >"$file" ;;
      file) ln -sf "$root/$code" "$file" ;;
    esac
  done < <(cheats $round)
  labs grade "$work/cheats" --seed $seed --seconds 4 --json "$work/cheats.json"
  [[ $(grep -c '"name"' "$work/cheats.json") == "$count" ]] || fail "the grading did not go on to the end"
  [[ $(passed "$work/cheats.json") == $((round == 1)) ]] || fail "the cheats of round $round have points"
  while IFS=$'\t' read -r task where code says; do
    output=$(field "$task" output "$work/cheats.json")
    if [[ $says == passed ]]; then
      [[ $(field "$task" score "$work/cheats.json") == 1 ]] || fail "$task, which is right, has no points: $output"
    else
      [[ $says == - || $output == *"$says"* ]] || fail "$task: the mark says '$output', not '$says'"
    fi
  done < <(cheats $round)
done
if pgrep -f "graded_.* $seed\$" >/dev/null; then fail "a submission's program is still running"; fi
if grep -rl '"parts"' "$programs/labs"; then fail "a record lies on the disk"; fi

echo "== a fresh student's tree, marked after the cheats"
labs grade "$work/fresh" --seed 11 --json "$work/fresh.json"
[[ $(score "$work/fresh.json") == 0 ]] || fail "a fresh tree has points"
[[ $(grep -cE '"output": "(open|waits for .*)"' "$work/fresh.json") == "$count" ]] || fail "of $count tasks not all are open"
labs grade "$work/fresh" --seed 11 --only 02 --json "$work/once.json" >/dev/null
ln -sf "$work/victim" "$work/twice.json"
labs grade "$work/fresh" --seed 11 --only 02 --json "$work/twice.json" >/dev/null
cmp "$work/once.json" "$work/twice.json" || fail "the same seed gives other marks"
[[ ! -e $work/victim ]] || fail "the marks follow a link"
if labs new "$work/fresh" 2>/dev/null; then fail "lab new writes over a tree"; fi
if labs grade "$work/fresh" --seed 1 2>/dev/null; then fail "the seed of the students' records is used for marks"; fi

echo "== every record depends on the seed"
for task in $(labs list | grep -oE '^[0-9]{2}\.\w+'); do
  for seed in 21 22; do "$programs/bin/lab_${task%%.*}" "$task" $seed 3>"$work/$seed"; done
  if cmp -s "$work/21" "$work/22"; then fail "$task is the same for every seed"; fi
done

echo "== solved, with the line ends of Windows and the words of directives in comments; two tasks are wrong"
mkdir "$work/solved"
cp -r "$root/lessons" "$work/solved/"
sed -i 's/block(a, 0, r \* m, a.rows, m));/block(a, 0, 0, a.rows, m));/' "$work/solved/lessons/00_by_hand/by_hand.cpp"
sed -i 's/return {p - r - 1};/return {p - r};/' "$work/solved/lessons/06_pipeline/schedule.hpp"
for file in $(grep -rl '// task ' "$work/solved/lessons"); do
  sed -i '1i /* What we\n * include, import and embed: "asm"\n */' "$file"
  sed -i 's/$/\r/' "$file"
done
labs grade "$work/solved" --seed 11 --json "$work/solved.json"
[[ $(passed "$work/solved.json") == $((count - 2)) ]] || fail "of the solved tree $(score "$work/solved.json") of $all points"
for task in 00.columns 06.pattern; do
  [[ $(field $task score "$work/solved.json") == 0 ]] || fail "$task is wrong and has points"
done

echo "== every function open"
empty=()
for lesson in "$root"/lessons/[0-9]*; do empty+=(--empty "$(basename "$lesson" | cut -c 1-2)"); done
labs new "$work/empty" "${empty[@]}"
labs grade "$work/empty" --seed 13 --json "$work/empty.json"
[[ $(score "$work/empty.json") == 0 ]] || fail "an empty tree has points"
if grep 'does not compile' "$work/empty.json"; then fail "signatures alone do not compile"; fi
if ((failures)); then exit 1; fi
echo "the labs hold"
