#!/usr/bin/env bash
# other_build.sh FOLDER TARGET CMAKE_OPTIONS...: configures there, builds TARGET (suite, third, programs or tessera_core)
# and runs its tests. For ctests with the label slow. A third: of the suite's files, and the communicator's always; with a
# sanitizer each takes half a minute to compile. `other_build.sh build/asan suite --preset asan` takes them all.
set -euo pipefail
folder=$1 target=$2
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needs() { command -v "$1" >/dev/null || { echo "skipped: needs $2"; exit 77; }; }
case $folder in
  */cuda_compiles) needs "${CUDACXX:-nvcc}" "nvcc (NVIDIA's CUDA toolkit, 12.0 or newer)" ;;
esac
suite='test_*.cpp'  # said each time, since the folder remembers the last third
if [[ $target == third ]]; then
  target=suite suite="test_comm.cpp;$(cd tests && ls test_*.cpp | ./third.sh | paste -sd ';')"
fi
nice cmake -S . -B "$folder" "$@" "-DTESSERA_SUITE=$suite" >/dev/null
nice cmake --build "$folder" --parallel "$(nproc)" --target "$target"

# A test asks for more memory than there is: that is refused, as it is without a sanitizer.
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
run=(nice)
# TSan's shadow memory collides with the random addresses of newer kernels.
if [[ $folder == */tsan ]] && setarch -R true 2>/dev/null; then run+=(setarch -R); fi
cd "$folder"
case $target in
  suite) tests=(--label-exclude 'slow|once|program') ;;
  programs) tests=(--label-regex program) ;;
  *) exit 0 ;;  # to compile it was the test
esac
"${run[@]}" ctest --parallel 2 --output-on-failure --no-tests=error "${tests[@]}"
