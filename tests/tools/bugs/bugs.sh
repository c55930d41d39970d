#!/usr/bin/env bash
# The seeded bugs: NAME.patch beside this script. Above the patch stand, a line each,
#   lesson: the lesson where the bug shows, and the hunt it belongs to
#   run:    the lesson's program and its flags; or `suite FILE: CASE`, where the run of no lesson can see it
#   shows:  what that run prints, which must not exit with 0
#   why:    why the symptom looks as it does
#
#   bugs.sh names [LESSON]       their names
#   bugs.sh field NAME KEY       what the line KEY of NAME says
#   bugs.sh plant NAME TREE      applies NAME to a copy of the repository
#   bugs.sh tree FOLDER          makes such a copy
#   bugs.sh hunted [LESSON]      the names of those that the run of a lesson shows; hunted_lessons: which lessons
#   bugs.sh show NAME            the change and why it looks as it does
#   bugs.sh check BUILD [NAME... | --third]   plants each and demands that it is caught, as the pages show it; BUILD/bin
#                                holds the right lessons. --third takes every third bug (tests/third.sh)
#   bugs.sh hunt BUILD ...       ./tessera hunt
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$(readlink -f "$here/../../..")

fail() { echo "tessera: $*" >&2; exit 2; }

field() { sed -n "/^diff /q; s/^$2: //p" "$here/$1.patch" 2>/dev/null || true; }
files() { sed -n 's/^+++ b\///p' "$here/$1.patch"; }

names() {
  local patch name
  for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    if [[ -z ${1:-} || $(field "$name" lesson) == "$1" ]]; then echo "$name"; fi
  done
}
hunted() {
  local name
  for name in $(names "${1:-}"); do if [[ $(field "$name" run) != suite* ]]; then echo "$name"; fi; done
}
hunted_lessons() { sed -n 's/^lesson: //p' "$here"/*.patch | sort -u | paste -sd ' '; }

show() {
  sed -n '/^diff /,$p' "$here/$1.patch" | grep '^[-+]' | grep -vE '^(---|\+\+\+) '
  field "$1" why | fold -sw 110
}

tree() {
  mkdir -p "$1"
  tar -C "$root" -cf - CMakeLists.txt CMakePresets.json src lessons tests | tar -C "$1" -xf -
}

# git takes the tree for no part of a repository that lies around it.
plant() {
  local tree
  tree=$(readlink -f "$2")
  GIT_CEILING_DIRECTORIES=$(dirname "$tree") git -C "$tree" apply "${@:3}" "$here/$1.patch" || fail "$1 does not apply"
}

# In FOLDER/tree, a copy of the repository with NAME in it. Its table names no mistake: that is the reader's part. A file
# that is as in the last copy keeps its time and every other is new, so that a build makes again what differs.
hide() {
  local name=$1 folder=$2 screen=$2/new/src/app/screen.cpp
  rm -rf "$folder/new"
  tree "$folder/new"
  plant "$name" "$folder/new"
  grep -q '^ *if (!advice.empty())' "$screen" || fail "$screen prints no advice"
  sed -i '/^ *if (!advice.empty())/d' "$screen"
  (
    cd "$folder/new"
    find . -type f | while IFS= read -r file; do
      if cmp -s "$file" "../tree/$file"; then touch -r "../tree/$file" "$file"; else touch "$file"; fi
    done
  )
  rm -rf "$folder/tree"
  mv "$folder/new" "$folder/tree"
}

# configure TREE BUILD [-DNAME=VALUE...]: warnings are no errors, since a bug may leave a variable unused.
configure() {
  local tree=$1 build=$2 generator=()
  shift 2
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi  # a fresh machine has ninja and no make
  cmake -S "$tree" -B "$build" "${generator[@]}" -DTESSERA_MPI=OFF -DTESSERA_CUDA=OFF -DTESSERA_LEVEL=-O0 -DCMAKE_CXX_FLAGS=-w \
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" "$@" >/dev/null
}

# What the pages show of NAME: the lines of each block that follows `<!-- bug NAME -->`.
shown() {
  awk -v marker="<!-- bug $1 -->" '
    $0 == marker { found = 1; next }
    found && /^```/ { if (++fences == 2) found = fences = 0; next }
    fences == 1' "$root"/notebooks_md/*.md
}
# Bounds stand on the rounding of the machine's BLAS; the errors here are far beyond it.
without_bounds() { sed 's/, the bound is .*//'; }

# holds_lines TEXT LINES: all of them, in their order
holds_lines() {
  local line rest=$'\n'$1$'\n'
  while IFS= read -r line; do
    [[ $rest == *$'\n'"$line"$'\n'* ]] || return 1
    rest=$'\n'${rest#*$'\n'"$line"$'\n'}
  done <<<"$2"
}

# A page shows no failure that is not somebody's: of a bug here, of a command that is run, or of a race.
nobodys() {
  awk 'FNR == 1 { marker = ""; fenced = 0 }
       /^```/ { fenced = !fenced; if (!fenced && marker != "run") marker = ""; next }
       /^<!-- (run|bug|race|end)/ { marker = $2 == "end" ? "" : $2; next }
       fenced && /^  FAIL / && marker == "" { print FILENAME ":" FNR ": " $0 }' "$root"/notebooks_md/*.md
}

# check_one NAME FOLDER RIGHT: FOLDER has a tree and a build of its own, RIGHT is the folder of the right lessons.
check_one() {
  local name=$1 folder=$2 right=$3 began=$SECONDS run lesson shows code=0 output page
  run=$(field "$name" run) shows=$(field "$name" shows) page=$(shown "$name" | without_bounds)
  plant "$name" "$folder/tree"
  if [[ $run == suite* ]]; then
    lesson=tessera_tests
    [[ $run =~ ^suite\ ([^:]*):\ (.*)$ ]] || fail "$name: run suite FILE: CASE"
    configure "$folder/tree" "$folder/build" "-DTESSERA_SUITE=${BASH_REMATCH[1]}"
    run="tessera_tests --test-case=${BASH_REMATCH[2]}*"
  else
    lesson=${run%% *}
    # shellcheck disable=SC2086  # flags are words
    "$right"/$run --quiet >/dev/null || fail "$name: '$run' fails without the bug"
  fi
  if output=$(nice cmake --build "$folder/build" --target "$lesson" 2>&1); then
    if [[ $lesson == tessera_tests ]]; then
      output=$("$folder/build/bin/tessera_tests" "--test-case=${run#*=}" 2>&1) || code=$?
    else
      # shellcheck disable=SC2086
      output=$("$folder"/build/bin/$run 2>&1) || code=$?
    fi
    if ((code == 0)); then
      echo "SURVIVED $name: $run"
    elif [[ $output != *"$shows"* ]]; then
      printf 'caught, but not by its symptom: %s: no "%s" in\n%s\n' "$name" "$shows" "$output"
    elif [[ -n $page ]] && ! holds_lines "$(without_bounds <<<"$output")" "$page"; then
      printf 'caught, but a page shows of %s\n%s\nwhere the lesson prints\n%s\n' "$name" "$page" "$output"
    else
      echo "caught $name in $((SECONDS - began)) s: $(grep -m 1 -F -e "$shows" <<<"$output" | sed 's/^ *//')"
    fi
  else
    printf 'does not build: %s\n%s\n' "$name" "$output"
  fi
  plant "$name" "$folder/tree" -R
}

# Two workers, each with a tree, so that what one changes is not what the other builds. The first also has a core,
# and the bugs in it; the second takes that core as it was without a bug. Who makes a bug's folder takes the bug.
check() {
  local build=$1 folder=$1/bugs all headers caught
  shift
  if [[ ${1:-} == --third ]]; then
    mapfile -t all < <(names | "$root/tests/third.sh")
  elif (($#)); then
    all=("$@")
  else
    mapfile -t all < <(names)
  fi
  headers=$(sed -n 's/^TESSERA_HEADERS:PATH=//p' "$build/CMakeCache.txt")
  worker() {
    local name
    for name in "${all[@]}"; do
      if (($1 == 1)) && files "$name" | grep -q '^src/'; then continue; fi
      if mkdir "$folder/$name" 2>/dev/null; then check_one "$name" "$folder/$1" "$build/bin"; fi
    done >"$folder/$1.log" 2>&1
  }
  rm -rf "$folder"/*/tree "$folder"/[a-z]*_*
  tree "$folder/0/tree"
  tree "$folder/1/tree"
  configure "$folder/0/tree" "$folder/0/build" "-DTESSERA_HEADERS=$headers"
  nice cmake --build "$folder/0/build" --parallel "$(nproc)" --target tessera_core >"$folder/core.log"
  cp "$folder/0/build/libtessera_core.a" "$folder/"
  configure "$folder/1/tree" "$folder/1/build" "-DTESSERA_HEADERS=$headers" "-DTESSERA_CORE=$folder/libtessera_core.a"
  mapfile -t all < <(for name in "${all[@]}"; do echo "$(files "$name" | grep -c '^src/') $name"; done | sort -rns -k 1,1 | cut -d ' ' -f 2)
  worker 0 &
  worker 1 &
  wait
  cat "$folder"/[01].log
  nobodys
  caught=$(cat "$folder"/[01].log | grep -c '^caught [a-z_]* in ' || true)
  echo "$caught of ${#all[@]} bugs are caught by their symptom"
  [[ -z $(nobodys) ]] && ((caught == ${#all[@]}))
}

# Shows on a terminal how far a build is, by its lines "[12/58] Building ...". Any other output is left out. It is no
# awk, since that of Debian waits for the end of its input.
steps() {
  local line
  while IFS= read -r line; do
    if [[ $line == \[* && -t 2 ]]; then printf '\r  building %s]\e[K' "${line%%]*}" >&2; fi
  done
  if [[ -t 2 ]]; then printf '\r\e[K' >&2; fi
}

# hunt BUILD [LESSON | --names | --answer NAME]: hides a bug in a copy of the course and runs it. The name of the bug is
# kept as a checksum, so that nobody finds it faster there than in the table.
hunt() {
  local hunt=$1/hunt lesson=${2:-} name run names
  if [[ $lesson == --names ]]; then hunted; return; fi
  if [[ $lesson == --answer ]]; then
    [[ -f $hunt/secret ]] || fail "nothing is hidden: ./tessera hunt hides a bug"
    name=${3:-}
    [[ -n $name && -f $here/$name.patch ]] || fail "no bug is called '$name': see ./tessera hunt --names"
    if [[ $(cksum <<<"$name") != "$(cat "$hunt/secret")" ]]; then
      echo "No, $name would look different. What holds, what fails, on which rank, and do the bytes agree?"
      return 1
    fi
    echo "Yes, $name, in $(files "$name" | paste -sd ' '):"
    show "$name"
    return
  fi
  mapfile -t names < <(hunted "${lesson%%_*}")
  ((${#names[@]})) || fail "no bug is kept for lesson ${lesson%%_*}; there are some for: $(hunted_lessons)"
  name=${names[RANDOM % ${#names[@]}]}
  run=$(field "$name" run)
  mkdir -p "$hunt"
  cksum <<<"$name" >"$hunt/secret"
  echo "Hiding a bug in a copy of the course (the first time builds its core, about a minute)." >&2
  { hide "$name" "$hunt" && configure "$hunt/tree" "$hunt/build" &&
    cmake --build "$hunt/build" --parallel "$(nproc)" --target "${run%% *}"; } 2>&1 | tee "$hunt/build.log" | steps ||
    { echo "the hunt does not build ($hunt/build.log)" >&2; exit 3; }
  echo "\$ build/hunt/build/bin/$run"
  # shellcheck disable=SC2086  # flags are words
  "$hunt"/build/bin/$run || true
  printf '\nA piece of the code was changed. Which mistake is it? Run it again with other flags as you like, then\n'
  printf './tessera hunt --answer NAME, with one of:\n'
  printf '  %s\n' "${names[@]}"
}

"$@"
