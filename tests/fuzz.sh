#!/usr/bin/env bash
# tests/fuzz.sh FOLDER SECONDS [HEADERS]: builds tests/fuzz.cpp there with clang's libFuzzer, AddressSanitizer and
# UBSan, and runs it from the kept corpus. tests/fuzz.sh FOLDER --keep adds to the corpus what reached new code.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1 seconds=$2
flags=(-std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Isrc -Ilessons -DFMT_HEADER_ONLY)
if [[ -n ${3:-} ]]; then flags+=("-isystem$3"); fi
skipped() { echo "skipped: $1"; exit 77; }
command -v clang++ >/dev/null || skipped 'needs clang++ (apt-get install clang)'
mkdir -p "$folder"
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
  clang++ "${flags[@]}" -x c++ - -o "$folder/probe" 2>/dev/null || skipped 'needs libFuzzer (apt-get install libclang-rt-dev)'
echo '#include <nlohmann/json.hpp>' | clang++ "${flags[@]}" -fsyntax-only -x c++ - 2>/dev/null ||
  skipped 'needs nlohmann/json.hpp on the system (apt-get install nlohmann-json3-dev)'

# All of it is one translation unit, which compiles in a third of the time. Two runs share it.
sources=(tests/fuzz.cpp src/tensor/{device,file,memory,no_cuda,random,safetensors,slice,tensor}.cpp)
if [[ ! -x $folder/readers || -n $(find src lessons tests/fuzz.* -newer "$folder/readers" -print -quit) ]]; then
  printf '#include "%s"\n' "${sources[@]}" | clang++ "${flags[@]}" -I. -x c++ - -o "$folder/readers"
fi
corpus=tests/fixtures/fuzz
if [[ $seconds == --keep ]]; then
  mkdir -p "$folder/found"
  "$folder/readers" -max_total_time=60 -max_len=4096 "$folder/found" $corpus 2>/dev/null
  "$folder/readers" -merge=1 $corpus "$folder/found" 2>/dev/null
  exit
fi
mkdir -p "$folder/new"
if ! "$folder/readers" -max_total_time="$seconds" -max_len=4096 -seed=1 -print_final_stats=1 -artifact_prefix="$folder/" \
  "$folder/new" $corpus 2>"$folder/log"; then
  tail -n 40 "$folder/log"
  exit 1
fi
echo "the readers of files: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/log") inputs, no fault"
