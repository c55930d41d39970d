#!/usr/bin/env bash
# run.sh BUILD [LESSON] [FLAGS]: runs one lesson of BUILD/bin, or all of them with a table at the end. With --transport
# mpi a lesson runs under mpirun.
set -euo pipefail
build=$1
shift
die() { local code=$1; shift; echo "tessera: $*" >&2; exit "$code"; }

# value_of --ranks ARGS...: prints the flag's value, nothing where it is absent.
value_of() {
  local flag=$1 value=
  shift
  while (($#)); do
    case $1 in
      "$flag") value=${2:-} ;;
      "$flag="*) value=${1#*=} ;;
    esac
    shift
  done
  echo "$value"
}

# start LESSON ARGS...: with --transport mpi through mpirun, unless a launcher has already started this process.
start() {
  local binary ranks axes axis size launched line word
  launched=$((${OMPI_COMM_WORLD_SIZE:-0} > 1 || ${PMI_SIZE:-0} > 1 || ${SLURM_STEP_NUM_TASKS:-0} > 1))
  binary=$(realpath --relative-to=. "$build/bin/$1")
  if [[ $binary != */* ]]; then binary=./$binary; fi  # in its own folder
  shift
  ranks=$(value_of --ranks "$@")
  axes=()  # with their defaults, where the number of ranks is their product
  case $binary in
    */08_*) axes=(--tp=2 --pp=2 --dp=2 --cp=1) ;;
    */13_*)
      ranks=${ranks:-8}
      if [[ " $*" =~ \ --(tp|pp|dp|cp)[=\ ] ]]; then axes=(--tp=1 --pp=1 --dp=1 --cp=1); fi ;;
  esac
  ranks=${ranks:-4}
  if [[ $ranks =~ ^0+([1-9].*)$ ]]; then ranks=${BASH_REMATCH[1]}; fi  # --ranks 04
  if ((${#axes[@]})); then
    ranks=1
    for axis in "${axes[@]}"; do
      size=$(value_of "${axis%=*}" "$@")
      if [[ ${size:=${axis#*=}} =~ ^0*([1-9][0-9]?)$ ]]; then size=${BASH_REMATCH[1]}
      else size=100; fi  # one process says what would work
      ranks=$((ranks * size))
    done
  fi
  # A number of ranks that every lesson refuses is refused by one process: mpirun can hang when 100 do it at once.
  if [[ $(value_of --transport "$@") != mpi || ! $ranks =~ ^[1-9][0-9]?$ ]] || ((launched || ranks > 64)); then
    "$binary" "$@"
    return
  fi
  command -v mpirun >/dev/null || die 2 "--transport mpi needs mpirun: sudo apt-get install libopenmpi-dev openmpi-bin"
  line=(mpirun -n "$ranks")
  if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
    line+=(--oversubscribe --bind-to none)  # more ranks than cores is what a laptop has
    if ((EUID == 0)); then line+=(--allow-run-as-root); fi
  fi
  line+=("$binary" "$@")
  printf '$'
  for word in "${line[@]}"; do  # as one would type it
    if [[ $word =~ ^[[:alnum:]_./:=,+@%-]+$ ]]; then printf ' %s' "$word"; else printf ' %q' "$word"; fi
  done
  echo
  if [[ -n ${OMPI_COMM_WORLD_SIZE:-}${PMI_SIZE:-} ]]; then  # a launcher's only shell: mpirun refuses to start below it
    # shellcheck disable=SC2046  # names are words
    unset $(compgen -e | grep -E '^(OMPI|PMIX|PMI)_' | grep -v '^OMPI_ALLOW_')
  fi
  "${line[@]}" </dev/null  # mpirun reads its standard input to the end, which may be a script's own
}

run_all() {
  local flag flags lesson name names code began before worst=0 hold=() failed=()
  names=("$(dirname "$0")"/../../lessons/[0-9][0-9]_*/)
  mapfile -t names < <(basename -a "${names[@]}")
  for flag in --json --trace --svg --dump; do
    [[ -z $(value_of $flag "$@") ]] || die 2 "$flag takes one lesson, e.g. ./tessera run 04 $flag FILE"
  done
  export TESSERA_SUMMARY=$build/summary  # a line a lesson, its cells apart by tabs
  : >"$TESSERA_SUMMARY"
  for lesson in "${names[@]}"; do
    flags=("$@")
    if [[ $lesson == 00_* ]]; then  # stands alone: the number of ranks is all it knows, if that
      flags=()
      if [[ $lesson == 00_by_hand && -n $(value_of --ranks "$@") ]]; then flags=(--ranks "$(value_of --ranks "$@")"); fi
    fi
    code=0 began=$SECONDS before=$(wc -l <"$TESSERA_SUMMARY")
    start "$lesson" "${flags[@]}" || code=$?
    echo
    if (($(wc -l <"$TESSERA_SUMMARY") == before)); then  # 00 knows no table; a lesson that broke has none
      printf '%s\t-\t-\t-\t%s s\t%s\n' "${lesson//_/ }" $((SECONDS - began)) "$(ended "$code")" >>"$TESSERA_SUMMARY"
    fi
    name=${lesson%%_*}
    if [[ $lesson == 00_gpt ]]; then name=gpt; fi
    if ((code)); then failed+=("$name"); else hold+=("$name"); fi
    worst=$(worse "$worst" "$code")
  done
  while IFS=$'\t' read -r -a cells; do printf '%-22s %10s %12s %12s %8s  %s\n' "${cells[@]}"; done < <(
    printf 'lesson\tchecks\tof a bound\tsent\ttook\tverdict\n' && cat "$TESSERA_SUMMARY")
  printf '%d lessons, %d hold (%s)' ${#names[@]} ${#hold[@]} "${hold[*]}"
  if ((${#failed[@]})); then printf ', %d do not (%s)' ${#failed[@]} "${failed[*]}"; fi
  echo
  return "$worst"
}

ended() { case $1 in 0) echo holds ;; 1) echo FAILS ;; 2) echo refused ;; *) echo broke ;; esac; }

# worse A B: a broken run outweighs a failed check, which outweighs a refused command line.
worse() {
  local code
  for code in 0 2 1; do
    if (($1 == code)); then echo "$2"; return; fi
    if (($2 == code)); then echo "$1"; return; fi
  done
  echo 3
}

if [[ $# -gt 0 && $1 != -* ]]; then start "$@"; else run_all "$@"; fi
