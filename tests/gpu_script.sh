#!/usr/bin/env bash
# tests/gpu_script.sh: tools/gpu.sh, without a GPU and without time, fails by name for what is missing and what had no time.
set -euo pipefail

out=$(mktemp -d "${TMPDIR:-/tmp}/gpu_script.XXXXXX")
trap 'rm -rf "$out"' EXIT
code=0
TESSERA_DEVICE=cpu TESSERA_GPU_SECONDS=0 TESSERA_GPU_OUT=$out \
  "$(dirname "${BASH_SOURCE[0]}")/tools/gpu.sh" lessons sanitizer tf32 >"$out/said" || code=$?
for line in 'FAILED  04_mlp_block.2: no time is left of the call.s 0 s' 'missing sanitizer: needs a GPU' \
  'missing bench_tf32: needs a GPU' '0 passed, [0-9]* failed, 2 missing'; do
  grep -q "^$line" "$out/said" || { echo "tools/gpu.sh does not say: $line"; exit 1; }
done
((code == 1)) || { echo "tools/gpu.sh ends with code $code"; exit 1; }
echo "what is missing fails, and what has no time"
