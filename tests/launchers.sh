#!/usr/bin/env bash
# tests/launchers.sh BUILD: how ./tessera starts mpirun. It must leave a script's standard input alone, take ranks
# with leading zeros, and work inside a shell that a launcher started as its only process.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1090  # the door without its last line, which runs a command
source <(sed '/^main "\$@"$/d' "$here/tessera")
build=$1
root=$here
cd "$here"
if [[ ${2:-} == inner ]]; then
  start 04_mlp_block --quiet "${@:3}"
  exit
fi

check() {  # check WHAT WANTED GOT
  if [[ $2 != "$3" ]]; then
    echo "$1: $3, not $2"
    exit 1
  fi
}
lines_of() { "$@" | grep -c 'checks hold' || true; }
read_ranks() {
  local n
  printf '%s\n' 1 2 | while read -r n; do start 04_mlp_block --quiet --transport mpi --ranks "$n"; done
}
check "runs of a script that reads the ranks from its standard input" 2 "$(lines_of read_ranks)"
check "runs with --ranks 02" 1 "$(lines_of start 04_mlp_block --quiet --transport mpi --ranks 02)"
SLURM_STEP_ID=3 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=1
export SLURM_STEP_ID SLURM_STEP_NUM_TASKS SLURM_NTASKS
check "runs in a shell of srun --pty" 1 "$(lines_of start 04_mlp_block --quiet --transport mpi --ranks 2)"
unset SLURM_STEP_ID SLURM_STEP_NUM_TASKS SLURM_NTASKS
for transport in mpi threads; do
  check "runs below mpirun -n 1, $transport" 1 \
    "$(lines_of mpirun -n 1 "$0" "$build" inner --transport $transport --ranks 2 </dev/null)"
done
echo "6 runs, each under its launcher"
