#!/usr/bin/env bash
# tests/tools/gpu.sh [PART...]: all that needs a GPU, from a plain checkout, without a network. The parts are suite, lessons,
# dtypes, sanitizer, nccl, nccl4, bench, tf32 and bf16, and build, which does no more. Without arguments it runs what tells most, suite and lessons, within eight minutes on an
# H100 with 16 cores; each other part has a call of its own. After eight minutes a call ends, and what it had no time for
# fails. Every call builds first, which takes no time where the build folder is still there. The last line counts, and what
# is missing fails like an error.
#   TESSERA_HEADERS=DIR   the folders CLI/, doctest/, fmt/ and nlohmann/ with all their headers, where the system has none
#   TESSERA_PYTHON=PYTHON a python3 with torch, to run beside; python3 where it has torch
#   TESSERA_GPU_OUT=DIR   the folder of logs, JSON and traces; build/gpu
#   TESSERA_GPU_SECONDS=N the time of a call; 480
#   TESSERA_DEVICE=cpu    a dry run of the script itself: tiny sizes, nothing of a GPU
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 3

build=build/gpu_build bin=build/gpu_build/bin out=${TESSERA_GPU_OUT:-build/gpu}
device=${TESSERA_DEVICE:-cuda} python=${TESSERA_PYTHON:-python3}
parts=("$@")
if ((${#parts[@]} == 0)); then parts=(suite lessons); fi
mkdir -p "$out"
passed=0 failed=0 missing=0 most=${TESSERA_GPU_SECONDS:-480}
have() { command -v "$1" >/dev/null; }

# check NAME SECONDS COMMAND...: runs the command, for so long or as long as the call has time; its output goes to a log,
# whose end is shown where it fails.
check() {
  local name=$1 seconds=$2 log=$out/$1.log began=$SECONDS left=$((most - SECONDS)) code=0
  shift 2
  if ((left <= 0)); then
    failed=$((failed + 1))
    echo "FAILED  $name: no time is left of the call's $most s"
    return 1
  fi
  if ((seconds > left)); then seconds=$left; fi
  timeout --kill-after 10 "$seconds" "$@" >"$log" 2>&1 || code=$?
  if ((code == 0)); then
    passed=$((passed + 1))
    echo "ok      $name ($((SECONDS - began)) s)"
  else
    failed=$((failed + 1))
    echo "FAILED  $name: code $code after $((SECONDS - began)) s: $*"
    tail -n 15 "$log" | sed 's/^/        /'
  fi
  return "$code"
}
lacks() { missing=$((missing + 1)); echo "missing $1: needs $2"; }

find_one() { find -L "$1" -name "$2" 2>/dev/null | head -n 1; }

part_build() {
  local options=(-S . -B "$build") cuda wheels include
  if have ninja; then options+=(-G Ninja); fi
  # Where no mpirun starts processes, processes.sh does, and files hand out NCCL's ids.
  options+=("-DTESSERA_WITHOUT_MPI=$PWD/tests/tools/file_processes.cpp")
  if ! have mpirun; then options+=(-DTESSERA_MPI=OFF); fi
  if [[ -n ${TESSERA_HEADERS:-} ]]; then options+=("-DTESSERA_HEADERS=$TESSERA_HEADERS"); fi
  if [[ $device == cuda ]]; then
    export CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
    # Where the system has no NCCL or no cuBLAS, torch has brought them; their libraries have no name for the linker.
    cuda=${CUDACXX%/bin/nvcc} wheels=$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)
    if [[ -n $wheels && -z $(find /usr/include /usr/local/include "$cuda/include/" -maxdepth 1 -name nccl.h 2>/dev/null) ]]; then
      options+=("-DNCCL_LIBRARY=$(find_one "$wheels" 'libnccl.so.2')" "-DNCCL_INCLUDE=$(dirname "$(find_one "$wheels" nccl.h)")")
    fi
    if [[ -n $wheels && -z $(find_one "$cuda/" libcublas.so) ]]; then
      include=-I$(dirname "$(find_one "$wheels" cublas_v2.h)")
      options+=("-DCUDA_cublas_LIBRARY=$(find_one "$wheels" 'libcublas.so.*')" "-DCMAKE_CUDA_FLAGS=$include" "-DCMAKE_CXX_FLAGS=$include")
    fi
  else
    options+=(-DTESSERA_CUDA=OFF)
  fi
  check configure 120 cmake "${options[@]}" || return 0
  grep -h 'built with' "$out/configure.log"
  if [[ $device == cuda ]]; then
    grep -q 'built with.*CUDA' "$out/configure.log" || lacks cuda "nvcc, which CMake did not find"
  fi
  check build 470 cmake --build $build --parallel "$(nproc)" --target tessera_tests tessera_verify tessera_bench \
    01_mlp 02_column_split 03_row_split 04_mlp_block 05_attention_heads 06_pipeline 07_data_parallel 08_three_d \
    09_sequence_parallel 10_zero 11_context_parallel 12_experts 13_all_axes
}

part_suite() {
  check gpu_suite 120 $bin/tessera_tests --test-case='cuda*,nccl*,a device*,where to run*'
  check suite 300 $bin/tessera_tests --test-case-exclude='cuda*,nccl*'  # on every device that is there
  if grep -hE '^skipped: |: skipped: ' "$out/gpu_suite.log" "$out/suite.log"; then lacks suite "what is named above"; fi
  check verify_2-4 120 $bin/tessera_verify --device "$device" --transport threads --ranks 2-4 --shapes 3
  check verify_8 60 $bin/tessera_verify --device "$device" --transport threads --ranks 8 --shapes 1
}

# flags_of LESSON RANKS: the flags that make the lesson run on so many ranks.
flags_of() {
  case $1 in
    01_mlp) ;;
    05_attention_heads) echo "--ranks $2 --heads 16 --part block" ;;
    08_three_d)
      case $2 in
        1) echo "--tp 1 --pp 1 --dp 1" ;;
        2) echo "--tp 2 --pp 1 --dp 1" ;;
        4) echo "--tp 2 --pp 2 --dp 1" ;;
        8) echo "--tp 2 --pp 2 --dp 2" ;;
      esac ;;
    *) echo "--ranks $2" ;;
  esac
}
lessons=(01_mlp 02_column_split 03_row_split 04_mlp_block 05_attention_heads 06_pipeline 07_data_parallel 08_three_d
  09_sequence_parallel 10_zero 11_context_parallel 12_experts 13_all_axes)

part_lessons() {
  local lesson ranks flags
  for lesson in "${lessons[@]}"; do
    for ranks in 1 2 4 8; do
      if [[ $lesson == 01_mlp && $ranks != 1 ]]; then continue; fi
      read -ra flags <<<"$(flags_of "$lesson" $ranks)"
      check "$lesson.$ranks" 120 $bin/"$lesson" --device "$device" --transport threads "${flags[@]}"
    done
  done
  # The trace, for Perfetto, shows the all-reduces of buckets that run while the backward goes on.
  check overlap_trace 60 $bin/07_data_parallel --device "$device" --ranks 2 --trace "$out/overlap.json"
}

# The other dtypes, and products in TF32, on as many ranks as a quick look needs.
part_dtypes() {
  local lesson ranks flags math
  for lesson in "${lessons[@]}"; do
    ranks=2
    if [[ $lesson == 01_mlp ]]; then ranks=1; fi
    read -ra flags <<<"$(flags_of "$lesson" $ranks)"
    for math in "--dtype f64" "--dtype bf16" "--math tf32"; do
      # Lessons 12 and 13 refuse TF32: a router that rounds may choose other experts.
      if [[ $math == *tf32 && ($device != cuda || $lesson == 1[23]_*) ]]; then continue; fi
      # shellcheck disable=SC2086  # a flag and its value
      check "$lesson.${math##* }" 120 $bin/"$lesson" --device "$device" --transport threads $math "${flags[@]}"
    done
  done
}

part_sanitizer() {
  local tool
  if [[ $device != cuda ]]; then lacks sanitizer "a GPU"; return; fi
  if ! have compute-sanitizer; then lacks sanitizer "compute-sanitizer (of NVIDIA's CUDA toolkit)"; return; fi
  for tool in memcheck racecheck initcheck; do
    # To load all kernels at the start takes minutes under it.
    local under=(env CUDA_MODULE_LOADING=LAZY compute-sanitizer --tool "$tool" --error-exitcode 9)
    check $tool.suite 60 "${under[@]}" $bin/tessera_tests --test-case='cuda: empty tensors*,cuda: streams*'
    check $tool.04 40 "${under[@]}" $bin/04_mlp_block --device cuda --transport threads --ranks 2 --timeout 600
    check $tool.08 60 "${under[@]}" $bin/08_three_d --device cuda --transport threads --steps 1 --layers 2 --timeout 600
  done
}

has_nccl() {
  if [[ $device != cuda ]]; then lacks nccl "a GPU"; return 1; fi
  if ! grep -q 'built with.*NCCL' "$out/configure.log"; then lacks nccl "NCCL (nccl.h, libnccl)"; return 1; fi
}

# nccl_processes RANKS LESSON...: as processes that share a GPU, which then takes turns between them.
nccl_processes() {
  local ranks=$1 lesson flags line start
  shift
  # NCCL refuses two ranks of one host on one GPU. Therefore each process says that it is a host of its own, which talks
  # through sockets, and with mpirun also that it is the first of its host, which takes GPU 0.
  # shellcheck disable=SC2016  # each process expands it
  line='export NCCL_HOSTID=h$OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK=0; exec "$@"'
  export NCCL_SOCKET_IFNAME=lo NCCL_NET=Socket NCCL_IB_DISABLE=1
  for lesson; do
    read -ra flags <<<"$(flags_of "$lesson" "$ranks")"
    if [[ $lesson != 08_* ]]; then flags=("${flags[@]:2}"); fi  # --ranks is the launcher's
    if [[ $lesson == 13_* && $ranks == 4 ]]; then  # its ten steps would take minutes
      flags=(--tp 2 --cp 2 --steps 1 --batch 2 --microbatches 2)
    fi
    start=(tests/tools/processes.sh "$ranks")
    if grep -q 'built with.*MPI' "$out/configure.log"; then
      start=(mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" bash -c "$line" run)
    fi
    check "nccl_processes.$lesson.$ranks" 150 "${start[@]}" $bin/"$lesson" --device cuda --transport nccl --timeout 60 \
      "${flags[@]}"
  done
}

part_nccl() {
  local lesson ranks gpus flags
  has_nccl || return
  gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
  for ranks in 1 2 4 8; do
    if ((ranks > gpus)); then continue; fi
    for lesson in "${lessons[@]:1}"; do
      read -ra flags <<<"$(flags_of "$lesson" $ranks)"
      check "nccl.$lesson.$ranks" 120 $bin/"$lesson" --device cuda --transport nccl "${flags[@]}"
    done
  done
  if ((gpus < 2)); then lacks nccl_on_several "2 GPUs or more; here is one"; fi
  nccl_processes 2 "${lessons[@]:1}"
}

# Four processes wait for one another's turns on the GPU most of the time: some lessons alone.
part_nccl4() { has_nccl && nccl_processes 4 02_column_split 08_three_d 11_context_parallel 12_experts 13_all_axes; }

part_bench() {
  local quick=() beside=()
  if [[ $device == cpu ]]; then quick=(--quick); fi
  if "$python" -c 'import torch' 2>/dev/null; then beside=(--pytorch "$python"); else lacks pytorch "a python3 with torch"; fi
  check bench_f32 460 $bin/tessera_bench --device "$device" "${beside[@]}" "${quick[@]}" --json "$out/bench_f32.json"
  sed 's/^/  /' "$out/bench_f32.log"
}

# The products, the GPT step and PyTorch beside it, in a coarser arithmetic: tf32 or bf16.
part_coarse() {
  local math=$1 only beside=()
  if [[ $device != cuda ]]; then lacks "bench_$math" "a GPU"; return; fi
  if "$python" -c 'import torch' 2>/dev/null; then beside=(--pytorch "$python"); else lacks pytorch "a python3 with torch"; fi
  for only in mlp_block gpt attention pytorch; do
    if [[ $only == pytorch ]] && ((!${#beside[@]})); then continue; fi
    check "bench_${math}_$only" 240 $bin/tessera_bench --device cuda "--$math" --only $only "${beside[@]}" \
      --json "$out/${only}_$math.json"
    sed 's/^/  /' "$out/bench_${math}_$only.log"
  done
}
part_tf32() { part_coarse tf32; }
part_bf16() { part_coarse bf16; }

if [[ $device == cuda ]] && ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; then
  lacks gpu "a GPU with its driver (nvidia-smi); TESSERA_DEVICE=cpu tries the script alone"
  parts=()
fi
if ((${#parts[@]})); then echo "== build"; part_build; fi
for part in "${parts[@]}"; do
  case $part in
    build) ;;
    suite | lessons | dtypes | sanitizer | nccl | nccl4 | bench | tf32 | bf16) echo "== $part"; "part_$part" || true ;;
    *)
      echo "tests/tools/gpu.sh: there is no part '$part'. There are:" \
        "build suite lessons dtypes sanitizer nccl nccl4 bench tf32 bf16" >&2
      exit 2
      ;;
  esac
done
echo "$passed passed, $failed failed, $missing missing"
((failed == 0 && missing == 0))
