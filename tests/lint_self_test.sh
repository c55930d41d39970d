#!/usr/bin/env bash
# Each rule of lint.sh must catch its violation: seeded into a small tree of its own, which is clean without it.
set -euo pipefail
lint=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lint.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

put() { mkdir -p "$(dirname "$tree/$1")" && printf '%b' "$2" >"$tree/$1"; }

fresh() {
  rm -rf "${tree:?}"/*
  put src/tensor/tensor.hpp '#pragma once\n#include <vector>\n'
  put src/ops/ops.hpp '#pragma once\n#include "tensor/tensor.hpp"\n'
  put src/report/table.hpp '#pragma once\n'
  put src/comm/comm.hpp '#pragma once\n#include "ops/ops.hpp"\n#include "report/table.hpp"\n'
  put src/app/app.hpp '#pragma once\n#include "comm/comm.hpp"\n'
  put lessons/00_by_hand/by_hand.cpp '#include <cstdio>\n'
  put lessons/01_mlp/mlp.hpp '#pragma once\n#include "app/app.hpp"\n'
  put lessons/02_cut/main.cpp '#include "01_mlp/mlp.hpp"\n#include "comm/comm.hpp"\n'
  put lessons/06_pipeline/schedule.hpp '#pragma once\n#include "tensor/tensor.hpp"\n'
  put lessons/08_three_d/main.cpp '#include "09_later/parts.hpp"\n'  # it puts together what later lessons add
  put run.sh '#!/bin/sh\n'
  chmod +x "$tree/run.sh"
}

# catches WHAT MESSAGE: lint fails on the tree as it is, and says MESSAGE.
catches() {
  local output code=0
  output=$("$lint" "$tree") || code=$?
  if ((code == 0)) || [[ $output != *"$2"* ]]; then
    printf 'not caught: %s. lint exits %d and says: %s\n' "$1" "$code" "$output"
    failures=$((failures + 1))
  fi
  fresh
}
lines() { yes "$2" | head -n "$1" || true; }  # lines COUNT TEXT

fresh
"$lint" "$tree" >/dev/null || { echo "the clean tree is not clean"; "$lint" "$tree" || true; exit 1; }

rm -r "$tree/lessons";                                       catches "no sources" "no line of code is found below"
put src/tensor/up.cpp '#include "ops/ops.hpp"\n';            catches "tensor -> ops" "tensor must not include ops"
put src/ops/side.cpp '#include "report/table.hpp"\n';        catches "ops -> report" "ops must not include report"
put src/report/side.cpp '#  include <ops/ops.hpp>\n';        catches "report -> ops" "report must not include ops"
put src/comm/up.cpp '#include "app/app.hpp"\n';              catches "comm -> app" "comm must not include app"
put src/app/up.cpp '#include "01_mlp/mlp.hpp"\n';            catches "app -> lesson" "app must not include 01_mlp"
put lessons/01_mlp/later.hpp '#pragma once\n#include "02_cut/x.hpp"\n'; catches "later lesson" "must not include 02_cut"
put lessons/08_three_d/train.hpp '#pragma once\n#include "09_later/x.hpp"\n'; catches "08 -> 09" "must not include 09_later"
put lessons/02_cut/x.cpp '#include "../01_mlp/mlp.hpp"\n';   catches "relative" "no folder of the core or lesson"
put lessons/00_by_hand/x.cpp '#include "tensor/tensor.hpp"\n'; catches "00 includes" "00_by_hand stands alone"
put lessons/06_pipeline/schedule.hpp '#pragma once\n#include "comm/comm.hpp"\n'; catches "schedule" "pure data"
put lessons/02_cut/cut.hpp '#pragma once\ninline constexpr int code_line = __LINE__ + 1;\n/// What\nstruct Cut {};\n'
catches "pointer" "cut.hpp:2: code_line points at no declaration"
put src/tensor/open.hpp '// no guard\n';                     catches "guard" "no #pragma once"
put bare.sh '#!/bin/sh\n';                                   catches "mode" "bare.sh: a script that is not executable"
put src/tensor/a.cpp '// /'"home/me/tessera\n";              catches "home" "a path of one machine"
put notes.md 'see /'"root/x and more\n";                     catches "root" "a path of one machine"
put src/tensor/a.cpp '// TO'"DO: later\n";                   catches "to do" "src/tensor/a.cpp:1"
put src/tensor/a.cpp '// FIX'"ME\n";                         catches "fix me" "src/tensor/a.cpp:1"
put tests/a.cpp 'TEST_CASE("this; and that") {}\n';          catches "semicolon" "a semicolon in the name of a test case"
put tests/a.cpp 'TEST_CASE(\n    "this; and that") {}\n';      catches "semicolon, wrapped" "a semicolon in the name of a test case"
put notebooks_md/01_long.md "$(lines 451 word)\n";               catches "page" "451 lines, more than 450"
put src/tensor/long.cpp "$(lines 301 //)\n";                 catches "file" "301 lines, more than 300"
put lessons/01_mlp/long.hpp "#pragma once\n$(lines 200 //)\n"; catches "concept header" "201 lines, more than 200"
put lessons/01_mlp/harness/proof.hpp '#pragma once\n'
put lessons/01_mlp/other.hpp '#pragma once\n#include "01_mlp/harness/proof.hpp"\n'
catches "concept -> harness" "what teaches must not include a harness"
put lessons/gpt/model.hpp '#pragma once\n#include "06_pipeline/schedule.hpp"\n'; catches "gpt -> 06" "gpt must not include 06_pipeline"
put lessons/01_mlp/harness/proof.hpp "#pragma once\n$(lines 20 'int x;')\n"; catches "share" "lines of code teach, less than 30%"
for i in {1..8}; do put "lessons/01_mlp/$i.hpp" '#pragma once\n'; done
catches "folder" "lessons/01_mlp: 9 files, more than 7"
limit() { sed -nE "s/.*\b$1=([0-9]+).*/\1/p" "$lint"; }
product=$(limit product_code_limit) tests=$(limit tests_code_limit)
for ((i = 0; i <= product / 260; ++i)); do put "src/tensor/$i.cpp" "$(lines 260 'int x;')\n"; done
catches "product outgrows" "lines of code, more than $product"
for ((i = 0; i <= tests / 260; ++i)); do put "tests/$i.cpp" "$(lines 260 'int x;')\n"; done
catches "tests outgrow" "lines of code, more than $tests"

put src/tensor/quiet.cpp '// a\n\n  // b\n/* c\n d */\n/* e */\nint x;  // the one line of code\n'
"$lint" "$tree" | grep -q ' 11 in src/,' || { echo "comments and blanks are counted"; failures=$((failures + 1)); }

if ((failures)); then exit 1; fi
echo "lint catches each of its rules"
