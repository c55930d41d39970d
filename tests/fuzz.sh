#!/usr/bin/env bash
# fuzz.sh FOLDER SECONDS [NAME]: builds tests/fuzz_NAME.cpp, or each of them, with libFuzzer and the sanitizers for
# addresses and undefined behaviour, in FOLDER, and runs it that long from its corpus, tests/corpus/NAME. The program's
# line "sources:" says what it is linked with. An input that it fails on stays in FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1 seconds=$2
mkdir -p "$folder"
flags=(-std=c++20 -O1 -g -Isrc -Ilessons -Itests -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all)
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$folder/probe.cpp"
if ! clang++ "${flags[@]}" "$folder/probe.cpp" -o "$folder/probe" 2>/dev/null; then
  echo "skipped: needs clang with libFuzzer (apt-get install clang)"
  exit 77
fi
for program in tests/fuzz_${3:-*}.cpp; do
  name=${program#tests/fuzz_} name=${name%.cpp}
  # shellcheck disable=SC2046  # names are words, and patterns
  read -r -a sources <<<$(echo $(sed -n 's/^\/\/ sources: //p' "$program"))
  clang++ "${flags[@]}" "$program" "${sources[@]}" -lfmt -lpthread -o "$folder/$name"
  mkdir -p "$folder/corpus_$name"
  "$folder/$name" -max_total_time="$seconds" -max_len=4096 -artifact_prefix="$folder/" -print_final_stats=1 -verbosity=0 \
    "$folder/corpus_$name" "tests/corpus/$name" >"$folder/$name.log" 2>&1 ||
    { tail -n 30 "$folder/$name.log"; exit 1; }
  sed -n "s/^stat::number_of_executed_units: /$name, inputs without a crash: /p" "$folder/$name.log"
done
