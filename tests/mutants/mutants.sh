#!/usr/bin/env bash
# The bugs of mutants.txt.
#   mutants.sh names [LESSON]       their names
#   mutants.sh field NAME WORD      what NAME's line WORD says
#   mutants.sh plant NAME TREE      puts NAME into a copy of the repository
#   mutants.sh tree FOLDER          makes such a copy
#   mutants.sh hunted [LESSON]      the names of those that a lesson's own run shows; hunted_lessons: which
#   mutants.sh show NAME            the change and why it looks as it does
#   mutants.sh check BUILD [NAME]   plants each and demands that it is caught; BUILD/bin holds the right lessons
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

# configure TREE BUILD [-DNAME=VALUE...]: warnings are no errors, since a bug may leave a variable unused.
configure() {
  local tree=$1 build=$2 generator=()
  shift 2
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi  # a fresh machine has ninja and no make
  cmake -S "$tree" -B "$build" "${generator[@]}" -DTESSERA_MPI=OFF -DTESSERA_CUDA=OFF -DCMAKE_CXX_FLAGS=-w \
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" "$@" >/dev/null
}

# check_one NAME FOLDER RIGHT: FOLDER has a tree and a build of its own, RIGHT is the folder of the right lessons.
check_one() {
  local name=$1 folder=$2 right=$3 began=$SECONDS run lesson shows file code=0 output
  run=$(field "$name" run) shows=$(field "$name" shows) file=$(field "$name" in)
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
    else
      echo "caught $name in $((SECONDS - began)) s: $(grep -m 1 -F -e "$shows" <<<"$output" | sed 's/^ *//')"
    fi
  else
    printf 'does not build: %s\n%s\n' "$name" "$output"
  fi
  cp "$root/${file%%$'\n'*}" "$folder/tree/${file%%$'\n'*}"  # one file a bug
}

# Two workers, each with a tree, so that what one changes is not what the other builds.
check() {
  local build=$1 all worker folder headers
  shift
  if (($#)); then all=("$@"); else mapfile -t all < <(names); fi
  headers=$(sed -n 's/^TESSERA_HEADERS:PATH=//p' "$build/CMakeCache.txt")
  for worker in 0 1; do
    folder=$build/mutants/$worker
    (
      rm -rf "$folder/tree"
      tree "$folder/tree"
      configure "$folder/tree" "$folder/build" "-DTESSERA_HEADERS=$headers"
      for ((i = worker; i < ${#all[@]}; i += 2)); do check_one "${all[i]}" "$folder" "$build/bin"; done
    ) >"$build/mutants.$worker.log" 2>&1 &
  done
  wait
  cat "$build"/mutants.[01].log
  caught=$(cat "$build"/mutants.[01].log | grep -c '^caught [a-z_]* in ' || true)
  echo "$caught of ${#all[@]} bugs are caught by their symptom"
  ((caught == ${#all[@]}))
}

"$@"
