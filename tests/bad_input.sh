#!/usr/bin/env bash
# tests/bad_input.sh build/bin [1|2]: what cannot be honoured ends with exit code 2 and one line on stderr that says what
# would work; it leaves no verdict and no file behind, and takes no time. What it advises does work: of each kind of
# message that is tried once. 1 is what all lessons refuse, of 01 to 04; 2 the rest. Without a number all is tried, and
# no refusal in the sources may have been left out.
set -euo pipefail

bin=$(cd "$1" && pwd)
fixtures=$(cd "$(dirname "$0")/fixtures" && pwd)
door=$(cd "$(dirname "$0")/.." && pwd)/tessera
# shellcheck source=tests/advice.sh
source "$(dirname "$0")/advice.sh"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/empty"
cd "$scratch/empty"  # stays empty
printf '%64s\n' text >"$scratch/file"
mkfifo "$scratch/pipe"  # stands for /dev/null, which a mistake here would cost root
mkdir "$scratch/folder"
# As on a machine without GPU and launcher.
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE PMI_SIZE PMIX_RANK SLURM_STEP_ID
count=0 faults=0 half=${2:-}
declare -A heeded=()  # kinds of messages

# refused PATTERN PROGRAM ARGS...
refused() {
  local pattern=$1 code=0 found='' kind
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
  cat "$scratch/err" >>"$scratch/seen"
  kind=$(head -n 1 "$scratch/err" | sed -E 's/[0-9]+//g; s#[^ ]*/[^ ]*##g')
  if [[ -z $found && -z $half && -z ${heeded[$kind]:-} ]]; then  # the halves are for quick tests
    heeded[$kind]=1
    heed "$@"
    if [[ -n $fault ]]; then found+="advises what does not work: $fault; "; fi
    find . "$scratch/folder" -mindepth 1 -delete
  fi
  if [[ -n $found ]]; then
    faults=$((faults + 1))
    printf '%s: %s\n' "$*" "$found"
    head -n 5 "$scratch/err"
  fi
}

case $half in
  1) lessons=$(cd "$bin" && echo 0[1-4]_*) ;;
  2) lessons=$(cd "$bin" && echo 0[5-7]_*) ;;
  *) lessons=$(cd "$bin" && echo 0[1-7]_*) ;;
esac
for lesson in $lessons; do
  # 01 is one device's: it has no ranks, and reads a text.
  ranks=(--ranks 2) text=() one=()
  if [[ $lesson == 01_* ]]; then ranks=() text=(--text "$scratch/file"); fi
  sizes=(--tokens --width --ffn)
  if [[ $lesson == 05_* ]]; then sizes=(--seq --width --heads) one=(--batch 1); fi
  if [[ $lesson == 06_* ]]; then sizes=(--seq --width --heads) one=(--batch 1 --microbatches 1 --vocab 2); fi
  if [[ $lesson == 07_* ]]; then sizes=(--width --heads --vocab --batch --seq) one=(--batch 4 --seq 1 --layers 1); fi

  refused "no flag ${sizes[0]}z: ${sizes[0]} would work" "$lesson" "${sizes[0]}z" 4
  refused 'no flag --wdith: --width would work' "$lesson" --wdith=4
  refused 'no flag stray' "$lesson" stray
  refused '--exact takes no value' "$lesson" --exact=yes
  refused '--json needs a value' "$lesson" --json= --quiet
  numbers=(-4 ten) limits=(5KB) files=(--json)  # one parser serves all: the whole sweep for the first lesson
  if [[ $lesson == 01_* ]]; then
    numbers=(-4 0 99999999999999999999 1048577 ten 4.5 '' ' 4' 0x10)
    limits=(0 -5 abc 5KB 99999999999999999999 9000000TiB) files=(--json --dump --svg --trace)
  fi
  for flag in "${sizes[@]}"; do
    for value in "${numbers[@]}"; do
      refused "$flag $value: a whole number from 1 to 1048576" "$lesson" $flag "$value"
    done
    refused "$flag needs a value" "$lesson" $flag
  done
  refused '--seed -1: a whole number from 0' "$lesson" --seed -1
  refused '--timeout 0: a whole number from 1' "$lesson" --timeout 0
  refused '--dtype f16: f32\|f64\|bf16 would work' "$lesson" --dtype f16
  refused '--math tf32 is for products of f32 on GPUs: without --math it would work, or with --device cuda --dtype f32' "$lesson" --math tf32
  if [[ $lesson == 02_* ]]; then
    refused '--exact needs sums below 256 in bf16.*--dtype f64 would work' "$lesson" --exact --dtype bf16 --width 2000
    refused '--no-baseline: .* on the unsplit run: --dtype f32 would work' "$lesson" --no-baseline --dtype bf16
  fi
  refused '--device tpu: auto\|cpu\|cuda would work' "$lesson" --device tpu
  refused '--device cuda: no GPU found.*--device cpu would work' "$lesson" --device cuda
  refused '--transport nccl.*--transport threads' "$lesson" --transport nccl
  refused '--transport mpi.*(mpirun|this build has no MPI)' "$lesson" --transport mpi "${ranks[@]}"
  for flag in "${files[@]}"; do
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
  for value in "${limits[@]}"; do
    refused 'is no size: 48MiB' "$lesson" --memory-per-rank $value
  done
  refused 'out of memory.*allows 1024 B.*would work' "$lesson" --memory-per-rank 1KiB --json x "${text[@]}"
  # Beyond any machine: refused, not killed.
  refused '(no [0-9]+ B of memory left|need .* GB of memory).* would work' "$lesson" "${sizes[@]/%/=1048576}" "${one[@]}" \
    --json x --dump y --svg z --trace w "${text[@]}"

  if [[ $lesson == 01_* ]]; then continue; fi
  for value in -1 0 65 two 99999999999999999999; do
    refused "--ranks $value: a whole number from 1 to 64 would work" "$lesson" --ranks $value
  done
  if [[ $lesson == 06_* ]]; then continue; fi  # its ranks divide nothing
  if [[ $lesson == 07_* ]]; then continue; fi  # its ranks need not divide anything
  refused "--ranks 5 does not divide ${sizes[-1]} 12.*: --ranks 1, 2, 3, 4, 6, 12 would work" "$lesson" --ranks 5 \
    "${sizes[@]/%/=12}" --json x --dump y
done

# The longest piece of each refusal in the sources that no message above has in it. Two are for launchers and programs.
left_out() {
  find "${door%/tessera}"/{src/app,lessons} -name '*.?pp' -exec cat {} + | awk 'BEGIN { RS = ";" } /UsageError\(|refuse_if\(/ {
    text = $0; sub(/.*(UsageError\([ \n]*(format\([ \n]*)?|refuse_if\([^"]*)/, "", text); said = longest = ""
    while (match(text, /^"([^"\\]|\\.)*"/)) {
      said = said substr(text, 2, RLENGTH - 2); text = substr(text, RLENGTH + 1); sub(/^[ \n]+/, "", text)
    }
    n = split(said, pieces, /\{[^}]*\}/)
    for (i = 1; i <= n; ++i) if (length(pieces[i]) > length(longest)) longest = pieces[i]
    if (longest != "") print longest }' | sort -u | grep -vE 'a launcher of|a pipeline needs at least one|rounds the router' |
    while IFS= read -r piece; do
      if ! grep -qF -- "$piece" "$scratch/seen"; then echo "nothing here is refused with '$piece'"; fi
    done
}

report() {
  local missing=
  if [[ -z $half ]]; then missing=$(left_out); fi
  if [[ -n $missing ]]; then printf '%s\n' "$missing"; exit 1; fi
  if ((faults)); then echo "$faults of $count refusals are wrong"; exit 1; fi
  echo "$count refusals hold; the advice was tried of ${#heeded[@]} kinds of them"
  exit
}

# says CODE PATTERN COMMAND...: what ends without a lesson's refusal.
says() {
  local code=0
  "${@:3}" >"$scratch/out" 2>&1 || code=$?
  if ((code == $1)) && grep -qE "$2" "$scratch/out"; then return; fi
  faults=$((faults + 1))
  printf "%s: ends with %s, not %s and '%s': %s\n" "${*:3}" "$code" "$1" "$2" "$(head -n 3 "$scratch/out")"
}

# Few steps, and a text in which there is nothing to learn.
head -c 5000 /dev/urandom >"$scratch/noise"
for few in '--steps 1' '--steps 3' "--steps 120 --text $scratch/noise"; do says 0 'checks hold' "$bin/01_mlp" $few --quiet; done
# An output that nobody gets.
says 3 'error: the output cannot be written: No space' bash -c "$bin/01_mlp --steps 1 --quiet 2>&1 >/dev/full"
# Names that are too long as they are, or with the suffix of a new file.
for name in "$(printf 'x%.0s' {1..300})" "$(printf 'x%.0s' {1..250})"; do
  refused '--json: cannot write x+: File name too long; another name would work' 02_column_split --json "$name"
done
# A name that is no UTF-8 is a name, and the results are not lost.
says 0 'checks hold' "$bin/02_column_split" --quiet --json "$scratch/"$'\xff.json'
grep -q '"ok": true' "$scratch/"$'\xff.json' || { echo "no results where a file's name is no UTF-8"; faults=$((faults + 1)); }
# A lesson runs from any folder, its program's own too.
cd "$bin"
says 0 'checks hold' "${door%/tessera}/tests/tools/run.sh" "${bin%/bin}" 02_column_split --quiet
cd "$scratch/empty"
# A checkout or a build folder in which this user cannot write.
mkdir "$scratch/checkout"
cp "$door" "$scratch/checkout"
chmod 755 "$scratch" "$scratch/checkout"
as=()
if ((EUID == 0)); then as=(setpriv --reuid 65534 --regid 65534 --clear-groups); fi
chmod a-w "$scratch/checkout"
says 2 '^tessera: cannot write in .*/build; TESSERA_BUILD=DIR' "${as[@]}" "$scratch/checkout/tessera" run 04
says 2 "^tessera: no lesson '04'" env TESSERA_BUILD="$scratch/folder" "$scratch/checkout/tessera" run 04
if [[ $half == 1 ]]; then report; fi

# The ranks that a lesson names do work, and no others.
for ranks in 1 2 3 6; do "$bin/03_row_split" --ranks $ranks --tokens 18 --ffn 12 --quiet >/dev/null; done
refused '--ranks 1, 2, 3, 6 would work' 03_row_split --ranks 4 --tokens 18 --ffn 12

# Heads: they divide the width, the ranks divide them, and of keys there are as many as divide, or one.
five=(05_attention_heads --json x --dump y)
refused '--heads 7 does not divide --width 96: --width 98 would work' "${five[@]}" --heads 7 --ranks 7
refused '--ranks 8 does not divide --heads 12: --ranks 1, 2, 3, 4, 6, 12 would work, or --heads 16' "${five[@]}" --ranks 8
refused '--kv-heads 4 on 3 ranks: .*--kv-heads 1, 3, 6, 12 would work' "${five[@]}" --ranks 3 --kv-heads 4
refused '--kv-heads 5 on 1 rank: .*--kv-heads 1, 2, 3, 4, 6, 12 would work' "${five[@]}" --ranks 1 --kv-heads 5
refused '--kv-heads 24 on 4 ranks: .*--kv-heads 1, 4, 12 would work' "${five[@]}" --ranks 4 --kv-heads 24
refused '--batch 2 and --seq 1048576 make 2097152 tokens: up to 1048576 would work' "${five[@]}" --seq 1048576
refused '--batch 0: a whole number from 1' "${five[@]}" --batch 0
refused '--kv-heads -1: a whole number from 0' "${five[@]}" --kv-heads -1
for value in 1 -0.1 nan inf half; do
  refused "--dropout $value: a number from 0 to 0.99 would work" "${five[@]}" --dropout $value
done
refused '--mask causual: causal\|none\|padding would work' "${five[@]}" --mask causual
refused '--part mlp: attention\|block would work' "${five[@]}" --part mlp
refused '--form tiled: auto\|plain\|streaming would work' "${five[@]}" --form tiled
refused '--exact: a layer norm is exact nowhere; --part attention covers' "${five[@]}" --part block --exact
refused '--no-baseline is for lessons 01 to 04: without --no-baseline it would work' "${five[@]}" --no-baseline
refused '--trap all: qkv would work' "${five[@]}" --trap all
for alone in '--ranks 1' '--ranks 4 --kv-heads 1' '--part block'; do
  refused '--trap qkv cuts K and V .*--part attention --kv-heads 0 --ranks 4 would work' "${five[@]}" --trap qkv $alone
done
for heads in 1 3 6 12; do "$bin/05_attention_heads" --ranks 3 --kv-heads $heads --quiet >/dev/null; done
"$bin/05_attention_heads" --heads 7 --ranks 7 --width 98 --quiet >/dev/null

# Tokens: the ranks divide them, and the heads of keys too.
nine=(09_sequence_parallel --json x --dump y --svg z --trace w)
refused '8 ranks do not divide the 20 tokens of --batch 1 --seq 20: --seq 24 would work' "${nine[@]}" --ranks 8 --batch 1 --seq 20
refused '--kv-heads 1 on 4 ranks: .*--kv-heads 24, would work; lesson 05' "${nine[@]}" --ranks 4 --kv-heads 1
refused "--trap is lesson 05's: without --trap it would work" "${nine[@]}" --trap qkv
refused '--exact: a layer norm is exact nowhere; --part attention covers' "${nine[@]}" --exact
for ranks in 1 2 3 6; do "$bin/09_sequence_parallel" --ranks $ranks --batch 1 --seq 6 --quiet >/dev/null; done

# ZeRO: microbatches of equal size on every rank, and a prefetch where weights are gathered.
ten=(10_zero --json x --dump y --svg z --trace w)
refused '--batch 2 leaves a microbatch of --ranks 3 --microbatches 1 without a sequence: --batch 3 would work' "${ten[@]}" --ranks 3 --batch 2
refused '--batch 10 is no multiple of --microbatches 3: --batch 12 would work' "${ten[@]}" --microbatches 3 --ranks 3
refused '--no-prefetch is for --stage 3: without --no-prefetch it would work' "${ten[@]}" --stage 1 --no-prefetch
refused '--stage 4: a whole number from 0 to 3 would work' "${ten[@]}" --stage 4
for batch in 3 4 5; do "$bin/10_zero" --ranks 3 --batch $batch --steps 1 --quiet >/dev/null; done
for stage in 0 1 2 3; do "$bin/10_zero" --ranks 3 --stage $stage --steps 0 --clip 1 --quiet >/dev/null; done

# Context: chunks of equal length; and for Ulysses heads that the ranks divide.
eleven=(11_context_parallel --json x --dump y --svg z --trace w)
refused '--seq 50 on 4 ranks cannot be cut into the 8 equal chunks of --placement zigzag: --seq 56 would work' "${eleven[@]}" --seq 50
refused '--heads 12 cannot be shared out over 8 ranks.*--way ring would work' "${eleven[@]}" --ranks 8 --way ulysses
refused '--kv-heads 3 on 4 ranks: .* that divides the ranks or .*: --kv-heads 1, 2, 4, 12 would work' "${eleven[@]}" \
  --way ulysses --kv-heads 3
refused '--kv-heads 5 on 4 ranks: .*: --kv-heads 1, 2, 3, 4, 6, 12 would work' "${eleven[@]}" --way ring --kv-heads 5
refused '--exact: a softmax is exact nowhere' "${eleven[@]}" --exact
for kv in 1 2 4 12; do "$bin/11_context_parallel" --way ulysses --kv-heads $kv --quiet >/dev/null; done
"$bin/11_context_parallel" --seq 56 --quiet >/dev/null
"$bin/11_context_parallel" --seq 100 --placement contiguous --quiet >/dev/null
"$bin/11_context_parallel" --ranks 8 --way ring --quiet >/dev/null

# Experts: whole ones on every rank of ep, and no more choices than there are.
twelve=(12_experts --json x --dump y --svg z --trace w)
refused '3 ranks cannot share out 8 experts over --ep 3: --ep 1 would work' "${twelve[@]}" --ranks 3
refused '6 ranks cannot share out 12 experts over --ep 4: --ep 1, 2, 3, 6 would work' "${twelve[@]}" --ranks 6 --experts 12 --ep 4
refused '--top-k 3 of --experts 2: --top-k 2 or less would work' "${twelve[@]}" --ranks 2 --experts 2 --top-k 3
refused '--exact: a softmax is exact nowhere' "${twelve[@]}" --exact
for ep in 1 2 3 6; do "$bin/12_experts" --ranks 6 --experts 12 --ep $ep --tokens 5 --quiet >/dev/null; done
"$bin/12_experts" --ranks 2 --experts 2 --top-k 2 --quiet >/dev/null
refused '--experts are in every second block, and --layers 1 has none: --layers 2 would work' 08_three_d --experts 4 --layers 1 --pp 1
refused '--eval asks for the next token: without --objective it would work' 08_three_d --objective mlm --eval

# All axes: what 08 refuses, too; so many ranks are a product of axes; and a sweep has all of them.
thirteen=(13_all_axes --text "$fixtures/make_fixtures.py" --json x --dump y --svg z --trace w)
refused '--ranks 8, but the axes make 2: --ranks 2 would work' "${thirteen[@]}" --ranks 8 --tp 2
refused '--sweep takes every cut of a model .*: without --tp it would work' "${thirteen[@]}" --sweep 64 --tp 2
for flag in '--svg z' '--dump y' '--width 64' '--zero 1' '--lr 7' --eval '--dtype f64'; do
  refused "--sweep .* draws nothing: without ${flag%% *} it would work" 13_all_axes --sweep 64 $flag
done
refused '--tp 3 does not divide the 4 heads: --tp 1, 2, 4 would work' "${thirteen[@]}" --tp 3
refused '--ep 4 does not divide the 2 ranks of --cp 2 --dp 1: --ep 1, 2 would work' "${thirteen[@]}" --tp 2 --cp 2 --ep 4
refused '--ep 2 does not divide the 3 experts: --experts 4 would work' "${thirteen[@]}" --cp 2 --ep 2 --experts 3
refused '--batch 16 cannot be shared out over 7 replicas .*: --batch 28 would work' "${thirteen[@]}" --ranks 7
refused '--layers 4 cannot fill 8 virtual stages: --layers 8 or more would work' "${thirteen[@]}" --pp 4 --schedule interleaved
refused '--cp 1 cuts no tokens: without --way it would work' "${thirteen[@]}" --tp 2 --way ring
refused '--ranks 65: a whole number from 1 to 64' "${thirteen[@]}" --ranks 65

# A plan: known names, and axes that divide what they cut.
fourteen=(14_plan plan --json x --svg z)
refused '--machine dgx is not known: --machine dgx-v100, dgx-a100, dgx-h100 would work' "${fourteen[@]}" --machine dgx
refused '--model gpt5 is not known: --model gpt2, .* would work' "${fourteen[@]}" --model gpt5
refused '--batch 7 is no multiple of --dp 8 times --microbatch 1: --batch 8 would work' "${fourteen[@]}" --gpus 8 --dp 8 --batch 7
refused '--gpus 8 is no multiple of the given --tp, --cp, --pp and --dp: --gpus 7 would work' "${fourteen[@]}" --pp 7
refused '--gpus 8 is no multiple of the given --tp, --cp, --pp and --dp: --tp 1 would work' "${fourteen[@]}" --tp 1048576 --dp 2
refused '--tp 4 does not divide --heads 25: --tp 1, 5, 25 would work' "${fourteen[@]}" --gpus 4 --batch 8 --tp 4
refused "--cp 4 does not divide a rank's share of --heads 25: --cp 1, 5, 25 would work" "${fourteen[@]}" --gpus 4 --batch 8 --cp 4 --way ulysses
refused '--chunks 2 is what interleaved has: --schedule interleaved would work' "${fourteen[@]}" --chunks 2 --schedule 1f1b
refused '--pp 8 stages of --chunks 9 are more than the 48 layers: --pp 5 would work' "${fourteen[@]}" --pp 8 --chunks 9 --batch 40
for kv in 7 50; do
  refused "--kv-heads $kv does not divide --heads 25: --kv-heads 1, 5, 25 would work" "${fourteen[@]}" --kv-heads $kv
done
refused '--ep shares out experts, and there are none: without --ep it would work' "${fourteen[@]}" --ep 4
refused '--top-k 2 of 0 experts: --top-k 1 would work' "${fourteen[@]}" --top-k 2
refused '--wide-bytes 3 is no multiple of --weight-bytes 2: --wide-bytes 4 would work' "${fourteen[@]}" --wide-bytes 3
refused '--gpus 0: a whole number from 1 to 1048576 would work' "${fourteen[@]}" --gpus 0
for flag in --tflops --bandwidth --inside --between; do
  refused "$flag 0: a number from 0.001 to .* would work" 14_plan plan $flag 0
done
refused '--json: .*nowhere' 14_plan plan --json nowhere/x
fourteen+=(--model gpt2 --gpus 2 --batch 8)
refused '--machine this has no 65 GPUs: --gpus 2 would work, as two threads' "${fourteen[@]}" --machine this --gpus 65
refused 'cp needs attention that streams: without --attention it would work' "${fourteen[@]}" --cp 2 --attention plain
refused 'every rank of tp .*: without --no-sequence-parallel it would work' "${fourteen[@]}" --experts 4 --tp 2 --no-sequence-parallel

# Stages: each has a layer, microbatches divide the batch, and no layer is dropped in silence.
six=(06_pipeline --json x --dump y --svg z --trace w)
refused '--layers 8 cannot fill 9 stages: --layers 9 or more, or --ranks 8 would work' "${six[@]}" --ranks 9
refused '--layers 8 cannot fill 4 stages of 3 chunks: --layers 12 or more, or --ranks 2 would work' "${six[@]}" \
  --schedule interleaved --chunks 3
refused '--microbatches 3 does not divide --batch 16: --microbatches 1, 2, 4, 8, 16 would work' "${six[@]}" --microbatches 3
refused '--microbatches 2 cannot be divided by --ranks 4, .*: --microbatches 4, 8, 16 would work' "${six[@]}" \
  --schedule interleaved --microbatches 2
refused '--microbatches 9 cannot be divided by --ranks 4, .*: --batch 12 --microbatches 4 would work' "${six[@]}" \
  --schedule interleaved --microbatches 9 --batch 9
refused '--microbatches 6 does not divide --batch 16: --microbatches 4, 8, 16 would work' "${six[@]}" \
  --schedule interleaved --microbatches 6
for schedule in gpipe 1f1b zb-h1; do
  refused '--chunks 2: only interleaved has several; --chunks 1 would work' "${six[@]}" --schedule $schedule --chunks 2
done
refused '--chunks 2: a single stage .*; --chunks 1 would work' "${six[@]}" --schedule interleaved --chunks 2 --ranks 1
for partition in 3,2,2 3,2,2,2 2,2,2,2,0 4,4,0,0 3,3,3,-1 a,2,2,2 2,2,2,2, ,2,2,4 '2,2,2, 2' 2,2,2,2.0 8 , even \
  99999999999999999999,1,1,1 9999999,1,1,1; do
  refused "--partition $partition: 4 numbers of at least 1, of sum 8, or balance: --partition 2,2,2,2 would work" \
    "${six[@]}" --partition "$partition"
done
refused '8 numbers of at least 1, of sum 8, .*--partition 1,1,1,1,1,1,1,1 would work' "${six[@]}" --schedule interleaved \
  --partition 2,2,2,2
refused '--partition balance evens out what layers really cost: without --pace it would work' "${six[@]}" --partition balance --pace 5ms
for value in 5 -5ms 0ms nanms infs 5min ms 11s '5 ms' 5ms5 1e99s 1e-16s 0.9us; do
  refused "--pace $value: a time from 1us to 1s like 5ms or 0.5ms would work" "${six[@]}" --pace "$value"
done
refused '--heads 5 does not divide --width 32: --width 35 would work' "${six[@]}" --heads 5
refused '--batch 16 and --seq 1048576 make 16777216 tokens: up to 1048576 would work' "${six[@]}" --seq 1048576
for flag in --microbatches --layers; do
  refused "$flag 1025: a whole number from 1 to 1024 would work" "${six[@]}" $flag 1025
done
refused '--schedule dualpipe: gpipe\|1f1b\|interleaved\|zb-h1 would work' "${six[@]}" --schedule dualpipe
refused '--exact: a transformer block is exact nowhere: lessons 01 to 05 have it' "${six[@]}" --exact
refused '--no-baseline is for lessons 01 to 04: without --no-baseline it would work' "${six[@]}" --no-baseline
"$bin/06_pipeline" --ranks 8 --quiet >/dev/null

# Data parallelism: a sequence for each rank. The ranks need not divide the batch.
seven=(07_data_parallel --json x --dump y)
refused '--batch 3 leaves some of 4 ranks without a sequence: --batch 4 or more would work' "${seven[@]}" --batch 3
refused '--batch 10 leaves some of 64 ranks' "${seven[@]}" --ranks 64
refused '--heads 5 does not divide --width 32: --width 35 would work' "${seven[@]}" --heads 5
refused '--heads 64 does not divide --width 32: --width 64 would work' "${seven[@]}" --heads 64
refused '--batch 4 and --seq 1048576 make 4194304 tokens: up to 1048576 would work' "${seven[@]}" --batch 4 --seq 1048576
refused '--exact: a transformer block is exact nowhere: lessons 01 to 05' "${seven[@]}" --exact
refused '--no-baseline is for lessons 01 to 04: without --no-baseline it would work' "${seven[@]}" --no-baseline
for value in 0 -1 0B 1KB '' 9000000TiB; do
  refused "--bucket $value is no size: 48MiB" "${seven[@]}" --bucket "$value"
done
for value in -1 nan inf 1001 ''; do refused "--lr $value: a number from 0 to 1000" "${seven[@]}" --lr "$value"; done
for value in 0 4097 many; do refused "--layers $value: a whole number from 1 to 4096" "${seven[@]}" --layers $value; done
for value in -1 1048577 1.5; do refused "--steps $value: a whole number from 0 to" "${seven[@]}" --steps $value; done
for batch in 3 4 5; do "$bin/07_data_parallel" --ranks 3 --batch $batch --steps 1 --bucket 1B --quiet >/dev/null; done

# Three dimensions: the ranks are a product, and each factor has its own limits.
printf 'to be or not to be, that is the question: whether it is nobler in the mind\n' >"$scratch/text"
"$bin/08_three_d" --text "$scratch/text" --steps 2 --save "$scratch/to_resume" --quiet >/dev/null  # what advice.sh resumes
eight=(08_three_d --text "$scratch/text" --json x --dump y --svg z --trace w)
refused 'no flag --ranks' "${eight[@]}" --ranks 8
refused '--tp 3 does not divide the 4 heads: --tp 1, 2, 4 would work' "${eight[@]}" --tp 3
refused '--layers 4 cannot fill 5 virtual stages: --layers 5 or more would work' "${eight[@]}" --pp 5
refused '--batch 16 cannot be shared out over 3 replicas of 4 microbatches: --batch 24 would work' "${eight[@]}" --dp 3
refused '--heads 5 does not divide --width 32: --width 35 would work' "${eight[@]}" --heads 5
refused '--schedule dualpipe: gpipe\|1f1b\|interleaved\|zb-h1 would work' "${eight[@]}" --schedule dualpipe
refused '--tp 65: a whole number from 1 to 64' "${eight[@]}" --tp 65
refused 'without --experts there are none: without --ep it would work' "${eight[@]}" --ep 2
refused '--ep 3 does not divide the 2 ranks of --cp 1 --dp 2: --ep 1, 2 would work' "${eight[@]}" --experts 6 --ep 3
refused '--ep 2 does not divide the 7 experts: --experts 8 would work' "${eight[@]}" --experts 7 --ep 2
refused '--top-k 3 of --experts 2: --top-k 2 would work' "${eight[@]}" --experts 2 --top-k 3
refused '75 bytes are less than a sequence: --seq 74 or less would work' "${eight[@]}" --seq 80
refused '--text nothing: cannot read nothing: No such file' 08_three_d --text nothing
for text in "$scratch/pipe" /dev/zero "$scratch/folder"; do
  refused 'it is no regular file; any file of 64 bytes' 01_mlp --text "$text"
  refused 'it is no regular file; a file of uint16 ids' 08_three_d --tokens "$text"
done
refused '--resume nowhere: ' "${eight[@]}" --resume nowhere
refused '--regather is of --sequence-parallel: without --regather it would work' "${eight[@]}" --regather
refused '--sequence-parallel cuts the 31 tokens of a microbatch over --tp 2: --seq 32 would work' "${eight[@]}" \
  --sequence-parallel --seq 31 --batch 8
refused '--seq 30 on --cp 2 cannot be cut into the 4 equal chunks .* zigzag: --cp 1, 3, 5, 15 would work' "${eight[@]}" --cp 2 --seq 30
refused '--heads 4 cannot be shared out over --tp 2 --cp 4, as --way ulysses does: --way ring' "${eight[@]}" --cp 4 --way ulysses \
  --pp 1 --dp 1
refused '--cp 1 cuts no tokens: without --placement it would work' "${eight[@]}" --placement contiguous
refused '--exact: a transformer block is exact nowhere' "${eight[@]}" --exact
refused '--no-baseline is for lessons 01 to 04: without --no-baseline it would work' "${eight[@]}" --no-baseline
for value in -1 nan inf 1001; do refused "--lr $value: a number from 0 to 1000" "${eight[@]}" --lr "$value"; done
refused '64 ranks at most: --tp 4 --pp 4 --dp 5 make 80' "${eight[@]}" --tp 4 --pp 4 --dp 5 --batch 20
refused '64 ranks at most: --tp 2 --cp 64 --pp 2 --dp 2 make 512' "${eight[@]}" --cp 64
for value in 0 1KB ''; do refused "--bucket $value is no size: 48MiB" "${eight[@]}" --bucket "$value"; done
for value in -1 1048577 few; do refused "--sample $value: a whole number from 0 to" "${eight[@]}" --sample $value; done
for value in -1 nan 101; do refused "--temperature $value: a number from 0 to 100" "${eight[@]}" --temperature $value; done
refused '--svg draws the losses: --steps 2 or more would work' "${eight[@]}" --steps 1
refused '--save .*: cannot write|cannot write .*there is no folder' "${eight[@]}" --save "$scratch/file/x"

# Bytes and ids: each has a row of the vocabulary, and a rank some of the rows.
refused "byte 119 at place .* is outside of a vocabulary of 100: --vocab 12[0-9] or more would work" "${eight[@]}" --vocab 100
refused '--vocab 0: a whole number from 1 to 65536' "${eight[@]}" --vocab 0
refused '--vocab 3 leaves some of 4 ranks without an id: --vocab 4 or more would work' "${eight[@]}" --vocab 3 --tp 4
eight=(08_three_d --json x --trace w)
printf '\1\0\2\0\144\0\3\0%b' "$(printf '\\1%.0s' {1..80})" >"$scratch/ids"  # 1 2 100 3, then 257 over and over
refused '--tokens nothing: cannot read nothing: No such file .*; a file of uint16 ids would work' "${eight[@]}" --tokens nothing
refused '--tokens .* needs --vocab, how many ids there are: --vocab 258 would work' "${eight[@]}" --tokens "$scratch/ids"
refused 'id 257 at place 4 is outside of a vocabulary of 256: --vocab 258 or more would work' "${eight[@]}" \
  --tokens "$scratch/ids" --vocab 256
refused '44 ids are less than a sequence: --seq 43 or less would work' "${eight[@]}" --tokens "$scratch/ids" --vocab 258 --seq 44
refused '--text and --tokens both say what to read: without --text it would work' "${eight[@]}" --tokens "$scratch/ids" --text "$scratch/text"
printf abc >"$scratch/odd"
refused 'has 3 bytes, no multiple of 2; uint16 ids take two each' "${eight[@]}" --tokens "$scratch/odd" --vocab 256
printf '\1\0\0\0\2\0\0\0\3\0\0\0\2\0\0\0' >"$scratch/wide"
refused 'every second id is 0, .*: --token-bytes 4 would work' "${eight[@]}" --tokens "$scratch/wide" --vocab 256 --seq 3
"$bin/08_three_d" --tokens "$scratch/wide" --vocab 256 --seq 3 --token-bytes 4 --steps 1 --quiet >/dev/null
: >"$scratch/none"
refused '0 ids are too few; two or more would work' "${eight[@]}" --tokens "$scratch/none" --vocab 256

# GPT-2's weights: whole, of a GPT-2, and of the sizes that the command line says.
eight+=(--text "$scratch/text" --weights)
gpt2=$fixtures/gpt2/model.safetensors
refused 'cannot read nothing: No such file' "${eight[@]}" nothing
refused 'goes beyond the file' "${eight[@]}" "$scratch/text"
refused 'there is no wte.weight; a GPT-2 with Hugging Face.s names would work' "${eight[@]}" "$fixtures/mlp.safetensors"
head -c 100000 "$gpt2" >"$scratch/half"
refused 'tensor .* ends at .* B of data' "${eight[@]}" "$scratch/half" --heads 8
refused 'has a width of 32, no multiple of GPT-2.s 64 a head: --heads 1, 2, 4, 8, 16, 32 would work' "${eight[@]}" "$gpt2"
for wrong in '--layers 4.* has 8' '--width 64.* has 32' '--vocab 300.* has 67' '--seq 13.* has 12 positions: --seq 12 or less'; do
  refused "$wrong" "${eight[@]}" "$gpt2" --heads 8 ${wrong%%.*}
done
mkdir "$scratch/hf"
cp "$gpt2" "$scratch/hf/model.safetensors"
echo '{"n_head": 4, "layer_norm_epsilon": 0.1}' >"$scratch/hf/config.json"
refused '--heads 8: --weights .* has 4; without --heads it would work' "${eight[@]}" "$scratch/hf/model.safetensors" --heads 8
"$bin/08_three_d" --weights "$scratch/hf/model.safetensors" --tokens "$fixtures/gpt2/tokens.bin" --steps 2 --quiet >/dev/null
echo '{"n_head": 4, "activation_function": "relu"}' >"$scratch/hf/config.json"
refused 'has the activation_function relu: gelu_new would work' "${eight[@]}" "$scratch/hf/model.safetensors"
refused '--weights .* has 67 ids, and --text has id 119: without --weights it would work' "${eight[@]}" "$gpt2" --heads 8
refused 'there is no model.safetensors; a folder that --save wrote would work' "${eight[@]/--weights/--resume}" "$scratch"
for flag in '--steps 5' '--optimizer adamw' '--lr 1' '--clip 1' '--bucket 1KiB' '--momentum 0' '--beta1 0' '--zero 1'; do
  refused "--eval trains nothing: without ${flag%% *} it would work" 08_three_d --text "$scratch/text" --eval $flag
done
refused '--zero sums the gradients part by part: without --bucket it would work' 08_three_d --text "$scratch/text" --zero 1 --bucket 1KiB
refused '--zero 4: a whole number from 0 to 3 would work' 08_three_d --text "$scratch/text" --zero 4
refused '--every counts .* of --save: without --every it would work' 08_three_d --text "$scratch/text" --every 5
refused '--temperature is that of --sample: without' 08_three_d --text "$scratch/text" --temperature 2
refused '--token-bytes is the width of the ids of --tokens: without' 08_three_d --text "$scratch/text" --token-bytes 4
for flag in --beta1 --beta2 --weight-decay; do
  refused "--optimizer sgd has no such constant: without $flag" 08_three_d --text "$scratch/text" $flag 0.5
  refused "$flag -1: a number from 0 to" 08_three_d --text "$scratch/text" --optimizer adamw $flag -1
done
refused '--optimizer adamw has no such constant: without --momentum' 08_three_d --text "$scratch/text" --optimizer adamw \
  --momentum 0.5
refused '--momentum 2: a number from 0 to 1' 08_three_d --text "$scratch/text" --momentum 2
for flag in --save --dump --svg; do
  refused "--eval trains nothing: without $flag it would work" 08_three_d --text "$scratch/text" --eval $flag "$scratch/folder/x"
done

# A checkpoint of another model; one that is whole serves any cut, and as --weights.
"$bin/08_three_d" --text "$scratch/text" --steps 2 --save "$scratch/run" --quiet >/dev/null
for size in '--width 16' '--layers 2' '--vocab 300'; do
  refused "$size: --resume .* has .*; without ${size% *} it would work" 08_three_d --text "$scratch/text" \
    --resume "$scratch/run" $size
done
for steps in 0 1 2; do
  refused "--resume .* has done 2 steps, and --steps $steps counts from the first one: --steps 3 or more would work" \
    08_three_d --text "$scratch/text" --resume "$scratch/run" --steps $steps
done
"$bin/08_three_d" --text "$scratch/text" --resume "$scratch/run" --steps 3 --quiet >/dev/null
"$bin/08_three_d" --text "$scratch/text" --resume "$scratch/run" --eval --quiet >/dev/null
# It knows its run: what contradicts it is refused, or said where it may change.
for flag in '--heads 2' '--batch 32' '--seq 16' '--seed 7' '--optimizer adamw'; do
  refused "$flag: --resume .* has .*; without ${flag% *} it would work" 08_three_d --text "$scratch/text" \
    --resume "$scratch/run" --steps 4 $flag
done
"$bin/08_three_d" --text "$scratch/file" --resume "$scratch/run" --steps 4 --lr 0.05 >"$scratch/out"
grep -qE 'goes on after step 2, with --lr 0.05 in place of 0.1, with text 65 ids, CRC-32 .* in place of 75 ids' "$scratch/out"
"$bin/08_three_d" --text "$scratch/text" --steps 2 --heads 8 --batch 24 --microbatches 3 --optimizer adamw --lr 0.003 --seed 5 \
  --seq 16 --save "$scratch/other" --quiet >/dev/null
"$bin/08_three_d" --text "$scratch/text" --resume "$scratch/other" --steps 4 --microbatches 3 --json "$scratch/json" --quiet >/dev/null
for fact in '"heads": 8' '"batch": 24' '"seed": 5' '"seq": 16' '"lr": 0.003' '"optimizer": "adamw"'; do
  grep -q "$fact" "$scratch/json" || { echo "a resumed run forgets $fact"; faults=$((faults + 1)); }
done
# The folder that a run resumes may be the one where it saves.
"$bin/08_three_d" --text "$scratch/text" --steps 4 --resume "$scratch/run" --save "$scratch/run" --quiet >/dev/null
refused '--weights and --resume both say where the model begins: without --weights it would work' 08_three_d --text "$scratch/text" --heads 4 \
  --resume "$scratch/run" --weights "$scratch/run/model.safetensors"
"$bin/08_three_d" --text "$scratch/text" --weights "$scratch/run/model.safetensors" --heads 4 --eval --tp 4 --quiet >/dev/null
refused '--resume .* has 0; without --experts it would work' 08_three_d --text "$scratch/text" --resume "$scratch/run" --steps 5 --experts 4
refused '--resume .* has no experts: without --ep it would work' 08_three_d --text "$scratch/text" --resume "$scratch/run" --steps 5 --ep 2
refused 'names no state of an optimiser; a folder that --save wrote would work' 08_three_d --text "$scratch/text" --resume "$scratch/hf"
# A model with experts goes on under another cut of them, and is not for transformers.
"$bin/08_three_d" --text "$scratch/text" --experts 4 --ep 2 --top-k 2 --aux 0.1 --clip 1 --zero 1 --steps 2 --save "$scratch/experts" >"$scratch/out"
grep -q 'transformers has no such GPT-2' "$scratch/out"
"$bin/08_three_d" --text "$scratch/text" --resume "$scratch/experts" --steps 3 --zero 3 --quiet >/dev/null
"$bin/08_three_d" --text "$scratch/text" --resume "$scratch/experts" --eval --ep 2 --quiet >/dev/null
"$bin/08_three_d" --text "$scratch/text" --weights "$scratch/experts/model.safetensors" --eval --sample 3 --quiet >/dev/null
state=$(echo "$scratch"/run/optimizer-*.safetensors)
cp "$state" "$scratch/whole"
sed 's/"--clip"/"--clap"/; s/"header crc32"/"header crc64"/' "$scratch/whole" >"$state"
refused 'does not say its --clip: a checkpoint of this version would work' 08_three_d --text "$scratch/text" --resume "$scratch/run" --steps 5
cp "$scratch/whole" "$state"
head -c 90000 "$scratch/run/model.safetensors" >"$scratch/half"
cp "$scratch/half" "$scratch/run/model.safetensors"
refused 'ends at .* B of data' 08_three_d --text "$scratch/text" --resume "$scratch/run"

# A loss that is no number: the run breaks, names the step, and leaves the checkpoint before it.
code=0
"$bin/08_three_d" --text "$scratch/text" --lr 1000 --steps 400 --save "$scratch/nan" --every 1 >"$scratch/out" 2>"$scratch/err" ||
  code=$?
if ((code != 3)) || ! grep -qE 'error: (rank [0-9]+: )?the loss of step [0-9]+ is -?(nan|inf): .* the last checkpoint in .* stays' "$scratch/err" ||
  ! "$bin/08_three_d" --text "$scratch/text" --resume "$scratch/nan" --eval --quiet >/dev/null; then
  faults=$((faults + 1))
  printf 'a NaN loss: ends with %s, not 3, or has no checkpoint. ' "$code"
  cat "$scratch/err"
fi

if "$bin/tessera_verify" --help all | grep -E -- '--(dtype|exact|dump) '; then
  faults=$((faults + 1))
  echo "tessera_verify --help lists a flag that it refuses"
fi
refused '--exact is for ./tessera run' tessera_verify --ranks 2 --shapes 1 --exact
for value in 0-3 8-2 x 2- -2 2-65 1-2-3; do
  refused "--ranks $value: 4, or 2-8, would work" tessera_verify --shapes 1 --ranks $value
done
refused 'there is no folder' tessera_verify --ranks 2 --shapes 1 --json "$scratch/missing/x"

# A second run that fails leaves the first one's results as they were.
result=$scratch/result.json
"$bin/02_column_split" --ranks 2 --quiet --json "$result" >/dev/null
cp "$result" "$scratch/first"
refused 'out of memory' 02_column_split --ranks 2 --memory-per-rank 1KiB --json "$result"
cmp "$result" "$scratch/first"

report
