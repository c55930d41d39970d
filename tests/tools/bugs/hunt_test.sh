#!/usr/bin/env bash
# A hunt builds again what the last one changed, and nothing else; its table names no mistake.
set -euo pipefail
bugs=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/bugs.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
newer() { [[ $work/tree/$1 -nt $work/object ]]; }

for first in $("$bugs" hunted); do
  file=$("$bugs" files "$first" | head -n 1)
  if [[ $file == src/* ]]; then break; fi
done
"$bugs" hide "$first" "$work"
planted=$(cat "$work/tree/$file")
touch "$work/object"
sleep 0.1
"$bugs" hide missing_backward_all_reduce "$work"
[[ $(cat "$work/tree/$file") != "$planted" ]] || fail "$first is still there"
newer "$file" || fail "$file is older than what was built from it with $first"
newer lessons/02_column_split/column_split.hpp || fail "the bug is older than what was built without it"
if newer src/tensor/tensor.hpp; then fail "tensor.hpp is built again, and nobody changed it"; fi
if grep -n 'advice.empty()' "$work/tree/src/app/screen.cpp"; then fail "the table names the mistake"; fi
echo "a hunt hides one bug"
