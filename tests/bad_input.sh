#!/usr/bin/env bash
# tests/bad_input.sh build/bin: what cannot be honoured ends with exit code 2 and one line on stderr that says what
# would work; it leaves no verdict and no file behind, and takes no time.
set -euo pipefail

bin=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/empty"
cd "$scratch/empty"  # stays empty
printf '%64s\n' text >"$scratch/file"
mkfifo "$scratch/pipe"  # stands for /dev/null, which a mistake here would cost root
mkdir "$scratch/folder"
# As on a machine without GPU and launcher.
export CUDA_VISIBLE_DEVICES=
unset OMPI_COMM_WORLD_SIZE PMI_SIZE PMIX_RANK SLURM_STEP_ID
count=0 faults=0

# refused PATTERN PROGRAM ARGS...
refused() {
  local pattern=$1 code=0 found=
  shift
  timeout 30 "$bin/$1" "${@:2}" >"$scratch/out" 2>"$scratch/err" </dev/null || code=$?
  count=$((count + 1))
  if ((code != 2)); then found+="ends with $code, not 2; "; fi
  if [[ $(wc -l <"$scratch/err") != 1 ]]; then found+='does not print one line; '; fi
  if ! grep -qE "^error: .*($pattern)" "$scratch/err"; then found+="does not say '$pattern'; "; fi
  if grep -qE 'checks? holds?|FAIL' "$scratch/out"; then found+='prints a verdict; '; fi
  if [[ -n $(ls -A . "$scratch/folder") ]] && [[ -n $(find . "$scratch/folder" -mindepth 1) ]]; then
    found+="leaves $(find . "$scratch/folder" -mindepth 1); "
    find . "$scratch/folder" -mindepth 1 -delete
  fi
  if [[ -n $found ]]; then
    faults=$((faults + 1))
    printf '%s: %s\n' "$*" "$found"
    head -n 5 "$scratch/err"
  fi
}

lessons=$(cd "$bin" && echo 0[1-9]_*)
for lesson in $lessons; do
  # 01 is one device's: it has no ranks, and reads a text.
  ranks=(--ranks 2) text=()
  if [[ $lesson == 01_* ]]; then ranks=() text=(--text "$scratch/file"); fi

  refused 'no flag --tokenz, did you mean --tokens' "$lesson" --tokenz 4
  refused 'no flag --wdith, did you mean --width' "$lesson" --wdith=4
  refused 'no flag stray' "$lesson" stray
  refused '--exact takes no value' "$lesson" --exact=yes
  for flag in --tokens --width --ffn; do
    for value in -4 0 99999999999999999999 1048577 ten 4.5 '' ' 4' 0x10; do
      refused "$flag $value: a whole number from 1 to 1048576" "$lesson" $flag "$value"
    done
    refused "$flag needs a value" "$lesson" $flag
  done
  refused '--seed -1: a whole number from 0' "$lesson" --seed -1
  refused '--timeout 0: a whole number from 1' "$lesson" --timeout 0
  refused '--dtype f16: f32\|f64 would work' "$lesson" --dtype f16
  refused '--device tpu: auto\|cpu\|cuda would work' "$lesson" --device tpu
  refused '--device cuda: no GPU found.*--device cpu would work' "$lesson" --device cuda
  refused '--transport nccl.*--transport threads' "$lesson" --transport nccl
  refused '--transport mpi.*(mpirun|this build has no MPI)' "$lesson" --transport mpi "${ranks[@]}"
  for flag in --json --dump --svg --trace; do
    refused 'there is no folder' "$lesson" $flag "$scratch/missing/x" "${text[@]}"
    refused 'there is no folder' "$lesson" $flag "$scratch/file/x" "${text[@]}"
    refused 'it is a folder' "$lesson" $flag "$scratch/folder" "${text[@]}"
    refused 'is a device or a link' "$lesson" $flag "$scratch/pipe" "${text[@]}"
    refused "$flag needs a" "$lesson" $flag
    if ((EUID)); then
      chmod a-w "$scratch/folder"
      refused 'is not writable' "$lesson" $flag "$scratch/folder/x" "${text[@]}"
      chmod u+w "$scratch/folder"
    fi
  done
  for value in 0 -5 abc 5KB 99999999999999999999 9000000TiB; do
    refused 'is no size: write 48MiB' "$lesson" --memory-per-rank $value
  done
  refused 'out of memory.*allows 1024 B.*would work' "$lesson" --memory-per-rank 1KiB --json x "${text[@]}"
  # Beyond any machine: refused, not killed.
  refused 'no [0-9]+ B of memory left.* would work' "$lesson" --tokens 1048576 --width 1048576 --ffn 1048576 \
    --json x --dump y --svg z --trace w "${text[@]}"

  if [[ $lesson == 01_* ]]; then continue; fi
  for value in -1 0 65 two 99999999999999999999; do
    refused "--ranks $value: a whole number from 1 to 64 would work" "$lesson" --ranks $value
  done
  refused '--ranks 5 does not divide --ffn 12.*: --ranks 1, 2, 3, 4, 6, 12 would work' "$lesson" --ranks 5 \
    --tokens 12 --width 12 --ffn 12 --json x --dump y
done

# The ranks that a lesson names do work, and no others.
for ranks in 1 2 3 6; do "$bin/03_row_split" --ranks $ranks --tokens 18 --ffn 12 --quiet >/dev/null; done
refused '--ranks 1, 2, 3, 6 would work' 03_row_split --ranks 4 --tokens 18 --ffn 12

refused '--exact is for ./tessera run' tessera_verify --exact
for value in 0-3 8-2 x 2- -2 2-65 1-2-3; do
  refused "--ranks $value: 4, or 2-8, would work" tessera_verify --ranks $value
done
refused 'there is no folder' tessera_verify --ranks 2 --json "$scratch/missing/x"

# A second run that fails leaves the first one's results as they were.
result=$scratch/result.json
"$bin/02_column_split" --ranks 2 --quiet --json "$result" >/dev/null
cp "$result" "$scratch/first"
refused 'out of memory' 02_column_split --ranks 2 --memory-per-rank 1KiB --json "$result"
cmp "$result" "$scratch/first"

if ((faults)); then echo "$faults of $count refusals are wrong"; exit 1; fi
echo "$count bad command lines are refused"
