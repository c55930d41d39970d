#!/usr/bin/env bash
# tests/launchers.sh BUILD: how ./tessera run starts mpirun. It must leave a script's standard input alone, take
# ranks with leading zeros, and work inside a shell that a launcher started as its only process.
set -euo pipefail
cd "$(dirname "$0")/.."
run=(tests/tools/run.sh "$1" 04_mlp_block --quiet)

check() {  # check WHAT WANTED COMMAND...: how often it prints that its checks hold
  local got
  got=$("${@:3}" | grep -c 'checks hold\.' || true)
  if [[ $got != "$2" ]]; then
    echo "$1: $got held, not $2"
    exit 1
  fi
}
read_ranks() {
  local n
  printf '%s\n' 1 2 | while read -r n; do "${run[@]}" --transport mpi --ranks "$n"; done
}
check "a script that reads the ranks from its standard input" 2 read_ranks
check "--ranks 02" 1 "${run[@]}" --transport mpi --ranks 02
check "a shell of srun --pty" 1 env SLURM_STEP_ID=3 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=1 \
  "${run[@]}" --transport mpi --ranks 2
check "lesson 13, whose ranks are the product of its axes" 1 \
  tests/tools/run.sh "$1" 13_all_axes --quiet --transport mpi --tp 2 --dp 1 --steps 1
for transport in mpi threads; do
  check "a shell of mpirun -n 1, $transport" 1 mpirun -n 1 bash -c "${run[*]} --transport $transport --ranks 2"
done
# The line that is printed can be typed again, spaces and all.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
line=$("${run[@]}" --transport mpi --ranks 2 --json "$scratch/a b.json" | sed -n 's/^\$ //p')
rm "$scratch/a b.json"
check "the line that ./tessera run prints" 1 bash -c "$line"
[[ -s $scratch/a\ b.json ]] || { echo "$line: writes no file"; exit 1; }
echo "8 runs, each under its launcher"
