#!/usr/bin/env bash
# The bugs of mutants.txt.
#   mutants.sh names [LESSON]       their names
#   mutants.sh field NAME WORD      what NAME's line WORD says
#   mutants.sh plant NAME TREE      puts NAME into a copy of the repository
#   mutants.sh tree FOLDER          makes such a copy
#   mutants.sh hide NAME FOLDER     FOLDER/tree has NAME, and tells nobody
#   mutants.sh hunted [LESSON]      the names of those that a lesson's own run shows; hunted_lessons: which
#   mutants.sh show NAME            the change and why it looks as it does
#   mutants.sh check BUILD [NAME]   plants each and demands that it is caught, as the pages show it; BUILD/bin
#                                   holds the right lessons
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
root=$here/../..

fail() { echo "mutants: $*" >&2; exit 1; }

# The lines of one bug.
block() {
  awk -v name="== $1" '$0 == name { found = 1; next } /^== / { found = 0 } found' "$here/mutants.txt"
}
field() { block "$1" | sed -n "s/^$2 //p"; }

names() {
  local name
  for name in $(sed -n 's/^== //p' "$here/mutants.txt"); do
    if [[ -z ${1:-} || $(field "$name" lesson) == "$1" ]]; then echo "$name"; fi
  done
}

hunted() {
  local name
  for name in $(names "${1:-}"); do if [[ $(field "$name" run) != suite* ]]; then echo "$name"; fi; done
}
hunted_lessons() { sed -n 's/^lesson //p' "$here/mutants.txt" | sort -u | paste -sd ' '; }

show() {
  block "$1" | grep '^[-+]'
  field "$1" why | fold -sw 110
}

tree() {
  mkdir -p "$1"
  tar -C "$root" -cf - CMakeLists.txt CMakePresets.json cmake src lessons tests | tar -C "$1" -xf -
}

# Reads the block line by line: after - comes the old piece, after + the lines of the new one.
plant() {
  local name=$1 tree=$2 file='' old='' new='' line
  replace() {
    if [[ -z $old ]]; then return; fi
    local text rest
    text=$(cat "$tree/$file"; echo x)
    rest=${text/"$old"/}
    [[ $rest != "$text" ]] || fail "$name: $file holds no '$old'"
    [[ ${rest/"$old"/} == "$rest" ]] || fail "$name: $file holds '$old' twice"
    text=${text/"$old"/"$new"}
    printf '%s' "${text%x}" >"$tree/$file"
    old='' new=''
  }
  while IFS= read -r line; do
    case $line in
      'in '*) replace; file=${line#in } ;;
      '- '*) replace; old=${line#- } ;;
      '+'*) line=${line#+}; new+=${new:+$'\n'}${line# } ;;
      *) replace ;;
    esac
  done < <(block "$name"; echo end)
}

# In FOLDER/tree, a copy of the repository with NAME in it. Its table names no mistake: that is the reader's part.
# A file that is as in the last copy keeps its time and every other is new, so that a build makes again what differs.
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
  local name=$1 folder=$2 right=$3 began=$SECONDS run lesson shows file code=0 output page
  run=$(field "$name" run) shows=$(field "$name" shows) page=$(shown "$name" | without_bounds)
  plant "$name" "$folder/tree"
  if [[ $run == suite* ]]; then
    lesson=tessera_tests
    [[ $run =~ ^suite\ ([^:]*):\ (.*)$ ]] || fail "$name: run suite FILE: CASE"
    configure "$folder/tree" "$folder/build" "-DTESSERA_SUITE=tests/${BASH_REMATCH[1]}"
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
  for file in $(field "$name" in); do cp "$root/$file" "$folder/tree/$file"; done
}

# Two workers, each with a tree, so that what one changes is not what the other builds. The first also has a core,
# and the bugs in it; the second takes that core as it was without a bug. Who makes a bug's folder takes the bug.
check() {
  local build=$1 folder=$1/mutants all headers caught
  shift
  if (($#)); then all=("$@"); else mapfile -t all < <(names); fi
  headers=$(sed -n 's/^TESSERA_HEADERS:PATH=//p' "$build/CMakeCache.txt")
  worker() {
    local name
    for name in "${all[@]}"; do
      if (($1 == 1)) && field "$name" in | grep -q '^src/'; then continue; fi
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
  mapfile -t all < <(for name in "${all[@]}"; do echo "$(field "$name" in | grep -c '^src/') $name"; done | sort -rns -k 1,1 | cut -d ' ' -f 2)
  worker 0 &
  worker 1 &
  wait
  cat "$folder"/[01].log
  nobodys
  caught=$(cat "$folder"/[01].log | grep -c '^caught [a-z_]* in ' || true)
  echo "$caught of ${#all[@]} bugs are caught by their symptom"
  [[ -z $(nobodys) ]] && ((caught == ${#all[@]}))
}

"$@"
