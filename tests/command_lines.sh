#!/usr/bin/env bash
# tests/command_lines.sh build/bin COUNT SEED: runs COUNT random command lines of lessons 01 to 08. Each one runs, and its
# checks hold, or it is refused, and then what the refusal advises runs in the end.
set -euo pipefail
bin=$(cd "$1" && pwd) count=$2
RANDOM=$3
fixtures=$(cd "$(dirname "$0")/fixtures" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# shellcheck source=tests/advice.sh
source "$(dirname "$0")/advice.sh"
cd "$scratch"
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE PMI_SIZE PMIX_RANK SLURM_STEP_ID
printf 'to be or not to be, that is the question: whether it is nobler in the mind\n' >text
"$bin/08_three_d" --text text --steps 2 --save run --quiet >/dev/null
cp -r run to_resume

pick() { picked=${*:RANDOM % $# + 1:1}; }  # one of the words
random_value() {  # random_value FLAG PLACEHOLDER
  case $1 in
    --steps | --sample | --every) pick 0 1 2 3 -1 few ;;
    --layers | --chunks) pick 0 1 2 3 4 8 2000000 ;;  # too many for any machine
    --vocab) pick 0 2 3 16 67 256 1000 65537 ;;
    --ranks | --tp | --pp | --dp) pick 1 2 3 4 5 8 0 65 two ;;
    --cp) pick 1 2 3 4 0 65 two ;;  # 8, times the others' 8, are too many threads for --timeout 1
    --text) pick text "$0" nothing "$scratch" ;;
    --tokens) [[ $2 == N ]] && pick 1 2 3 4 8 12 24 0 || pick "$fixtures/gpt2/tokens.bin" nothing text ;;
    --weights) pick "$fixtures/gpt2/model.safetensors" "$fixtures/mlp.safetensors" nothing ;;
    --resume) pick run nowhere ;;
    --save) pick saved text/x ;;
    --lr) pick 0 0.01 0.1 -1 nan 2000 ;;
    --pace) pick 10us 1ms 5min ms ;;
    --partition) pick balance 2,2,2,2 1,1 4,4 even ;;
    --memory-per-rank | --bucket) pick 64MiB 1GiB 1KiB 100B 5KB 0 ;;
    --seed | --timeout) pick 1 7 60 -1 0 ;;
    *) case $2 in
         N) pick 1 2 3 4 6 8 12 16 24 32 0 -4 1048577 ten '' ;;
         X) pick 0 0.1 0.5 1 -1 nan x ;;
         *'|'*) local IFS='|'; pick $2 $2 nonsense ;;
         FILE) pick "out$RANDOM" "out$RANDOM" missing/x "$scratch" ;;
         *) pick x ;;
       esac ;;
  esac
}

declare -A flags  # of each lesson, a line each with the placeholder of its value
lessons=()
for program in "$bin"/0[1-8]_*; do
  lesson=$(basename "$program")
  lessons+=("$lesson")
  # --blocking and --trap are mistakes to look at: their runs end with 3 and 1.
  flags[$lesson]=$("$program" --help all | sed -nE 's/^ +(--[a-z-]+)( ([^ ]+))?( .*)?$/\1 \3/p' | grep -vE '^--(blocking|trap) ')
done
ran=0 refused=0 faults=0
for ((n = 0; n < count; ++n)); do
  pick "${lessons[@]}"
  lesson=$picked line=(--quiet)
  mapfile -t known <<<"${flags[$lesson]}"
  for ((i = RANDOM % 6; i > 0; --i)); do
    pick "${known[@]}"
    read -r flag placeholder <<<"$picked"
    if ((RANDOM % 40 == 0)); then flag+=x; fi
    random_value "$flag" "$placeholder"
    if [[ -z $placeholder ]]; then line+=("$flag"); elif ((RANDOM % 2)); then line+=("$flag=$picked")
    else line+=("$flag" "$picked"); fi
  done
  heed "$lesson" "${line[@]}"
  if ((tries)); then refused=$((refused + 1)); else ran=$((ran + 1)); fi
  if [[ -n $fault ]]; then printf '%s\n' "$fault"; faults=$((faults + 1)); fi
done
echo "$count random command lines: $ran ran, $refused were refused, with advice that works; $faults faults"
((faults == 0))
