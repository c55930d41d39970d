#!/usr/bin/env bash
# tree_test.sh BUILD BARE -DNAME=VALUE...: a student's tree, of lessons 03 and 04 signatures alone, builds without a
# warning; its lesson and its check name what is open; a task that is solved passes, one that is wrong is told why. A
# variant's tree, of which lessons 00 to 02 are solved, passes with them, and is marked. BUILD has tessera_labs, BARE a core.
set -euo pipefail
root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../../..")
build=$(readlink -f "$1") bare=$(readlink -f "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
expect() { [[ $1 == *"$2"* ]] || fail "no '$2' in: $1"; }

"$build/bin/tessera_labs" --root "$root" --build "$bare" new "$work/tree" --empty 03 --empty 04
diff -r "$root/src" "$work/tree/src" || fail "the tree has another core"  # else it need not be built again
cmake -S "$work/tree" -B "$work/tree/build" --preset no-extras "-DTESSERA_CORE=$bare/libtessera_core.a" "$@" >/dev/null
cmake --build "$work/tree/build" --parallel 2 >"$work/log" || { tail -n 30 "$work/log"; fail "the tree does not build"; }
check() { "$work/tree/build/bin/tessera_labs" --root "$work/tree" --build "$work/tree/build" check "$@"; }

code=0
output=$("$work/tree/build/bin/03_row_split" 2>&1) || code=$?
((code == 3)) || fail "an open lesson exits $code"
expect "$output" "task 03.step is open"
for name in 03.scattered 04.plain 04.backward_weight; do
  grep -rq "task $name is open" "$work/tree/lessons" || fail "$name is not open"
done
output=$(check) && fail "open tasks pass"
expect "$output" "03  0/11  open: forward backward typed_forward"
file=$work/tree/lessons/02_column_split/column_split.hpp
solve() { sed -i "s/throw std::logic_error(\"task $1 is open\");/$2/" "$file"; }
solve 02.forward 'y = comm.all_gather(add_bias(matmul(x, a), c), 1);'
solve 02.typed_backward 'saved.dy = dy; return Placed<Replicated>(matmul(dy, t(a)).local());'
output=$(check 02) && fail "a wrong task passes"
expect "$output" "02  1/10  passes: forward"
expect "$output" "dx equals rank 1's own term: was it all-reduced?"
echo 'inline void quick() { asm("nop"); }' >>"$file"
expect "$(check 02 || true)" 'asm("nop"); }` is not allowed here'
if ls -R "$work/tree" | grep -qE 'cheats|\.git$'; then fail "the tree has what is not the student's"; fi

labs() { "$build/bin/tessera_labs" --root "$root" --build "$bare" "$@"; }
labs new "$work/term" --from 03 --variant 7
if grep -rqwE 'fc1|dpre|dy_own' "$work/term/lessons"; then fail "a variant has the master's names"; fi
grep -q "task 03.forward is open" -r "$work/term/lessons" || fail "--from 03 solves lesson 03"
cmake -S "$work/term" -B "$work/term/build" --preset no-extras "-DTESSERA_CORE=$bare/libtessera_core.a" "$@" >/dev/null
cmake --build "$work/term/build" --parallel 2 --target tessera_labs 04_mlp_block >"$work/log" || { tail -n 30 "$work/log"; fail "a variant does not build"; }
expect "$("$work/term/build/bin/tessera_labs" --root "$work/term" --build "$work/term/build" check 02)" "10 of 10 points"
expect "$(labs grade "$work/term" --variant 7 --only 02 --seed 9)" "10 of 10 points"
if labs new "$work/other" --from 03 --empty 02 2>/dev/null; then fail "--empty opens what --from solves"; fi
echo "a student's tree holds"
