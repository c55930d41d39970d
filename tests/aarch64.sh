#!/usr/bin/env bash
# aarch64.sh FOLDER: builds for 64-bit ARM with Debian's cross compiler in FOLDER, and runs the tests of communicator
# and placements, and the lessons, under emulation.
set -euo pipefail
folder=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
needs() { command -v "$1" >/dev/null || { echo "skipped: needs $2 (apt-get install $2)"; exit 77; }; }
needs aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
needs qemu-aarch64 qemu-user
# The libraries by their headers alone: what is installed is this machine's. Not /usr/include, which has its libc.
mkdir -p "$folder/headers"
for name in CLI doctest fmt nlohmann; do
  [[ -d /usr/include/$name ]] || { echo "skipped: needs /usr/include/$name (./tessera installs it)"; exit 77; }
  ln -sfn "/usr/include/$name" "$folder/headers/$name"
done
lessons=(02_column_split 05_attention_heads 08_three_d)  # the code of the others is in these
nice cmake -S . -B "$folder" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DTESSERA_MPI=OFF -DTESSERA_CUDA=OFF -DTESSERA_BLAS=OFF -DTESSERA_WERROR=ON \
  -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DTESSERA_LEVEL=-O0 \
  "-DTESSERA_HEADERS=$folder/headers" "-DTESSERA_SUITE=test_comm.cpp;test_placement.cpp" "${@:2}" >/dev/null
nice cmake --build "$folder" --parallel "$(nproc)" --target tessera_tests tessera_labs "${lessons[@]}"
run=(nice qemu-aarch64 -L /usr/aarch64-linux-gnu)
"${run[@]}" "$folder/bin/tessera_tests"
for lesson in "${lessons[@]}"; do "${run[@]}" "$folder/bin/$lesson" --quiet; done
