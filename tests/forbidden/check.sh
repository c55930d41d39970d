#!/usr/bin/env bash
# tests/forbidden/check.sh COMPILER: no program of programs.txt compiles; each prints its message, and at most 8
# lines in all. Their legal twins compile, silently.
set -euo pipefail

readonly compiler=$1
most=8
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! command -v "$compiler" >/dev/null; then
  echo "skipped: needs $compiler (apt-get install ${compiler/clang++/clang})"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

program() {  # STATEMENT NAME
  cat <<END
void $2(Placed<Replicated> r, Placed<Shard<0>> s0, Placed<Shard<1>> s1, Placed<Partial> p,
  Placed<Replicated, Shard<0>> d0, Placed<Replicated, Shard<1>> d1, Placed<Replicated, Partial> dp,
  TensorParallel tensor, DataParallel data, Communicator& comm, LayerNorm norm) { $1; }
END
}
head=$'#include "placement/placed_ops.hpp"\nusing namespace tessera;'
compile() { (cd "$folder" && LC_ALL=C "$compiler" -std=c++20 -fsyntax-only "${flags[@]}" "$1" 2>&1); }

# The header once, not seventy times. g++ takes the .gch beside the name that is included, and then leaves out its
# "In file included from", one line.
header=placement/placed_ops.hpp hidden=0 flags=(-I"$here/../../src")
mkdir "$folder/placement"
precompile=("$compiler" -std=c++20 "${flags[@]}" -x c++-header "$here/../../src/$header")
if [[ $("$compiler" --version) == *clang* ]]; then
  "${precompile[@]}" -o "$folder/header.pch"
  flags=(-include-pch "$folder/header.pch" "${flags[@]}")
else
  "${precompile[@]}" -w -o "$folder/$header.gch"
  flags=(-I"$folder" "${flags[@]}") hidden=1
  version=$("$compiler" -dumpversion)
  if ((${version%%.*} >= 14)); then most=10; fi  # it quotes the line of the call as well
fi

check() {  # NUMBER WRONG MESSAGE: prints a complaint, or nothing
  local said lines
  printf '%s\n' "$head" "$(program "$2" wrong)" >"$folder/$1.cpp"
  if said=$(compile "$1.cpp"); then echo "compiles: $2"; return; fi
  lines=$(($(wc -l <<<"$said") + hidden))
  if [[ $said != *"$3"* ]]; then printf 'says something else than "%s": %s\n%s\n' "$3" "$2" "$said"; fi
  if ((lines > most)); then printf '%d lines, more than %d: %s\n%s\n' "$lines" "$most" "$2" "$said"; fi
}

count=0 legal=$head
while IFS= read -r line; do
  if [[ -z $line || $line == \#* ]]; then continue; fi
  wrong=${line%% | *} message=${line##* | } rest=${line#* | }
  count=$((count + 1))
  legal+=$'\n'$(program "${rest%% | *}" "legal$count")
  while (($(jobs -rp | wc -l) >= 2)); do wait -n; done
  check "$count" "$wrong" "$message" >"$folder/$count.log" &
done <"$here/programs.txt"
wait

printf '%s\n' "$legal" >"$folder/legal.cpp"
said=$(compile legal.cpp) || true
if [[ -n $said ]]; then printf 'a legal program does not compile silently:\n%s\n' "$(head -n 20 <<<"$said")" >"$folder/legal.log"; fi
found=$(cat "$folder"/*.log)
if [[ -n $found ]]; then printf '%s\n' "$found"; exit 1; fi
((count > 70))
echo "$compiler: $count forbidden programs are refused in at most $most lines, $count legal ones compile"
