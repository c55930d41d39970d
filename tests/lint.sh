#!/usr/bin/env bash
# What no compiler checks. tests/lint.sh [ROOT] fails on an #include that points the wrong way, on code that has
# outgrown its limit, on leftovers; tests/lint.sh format on code that clang-format would change.
set -euo pipefail

# Lines neither blank nor comment of src and lessons together, and of tests; and the least share of the lessons that
# teaches: what lies in lessons/NN_name and not in its harness/ or main.cpp.
readonly product_code_limit=19120 tests_code_limit=12850 concept_share=30
readonly concept_header_limit=200 file_limit=300 folder_limit=7  # lines of a file; files of a lesson's folder
readonly page_limit=450  # lines of a page, with its code and outputs

files() {  # tracked, or about to be; an unpacked archive has no .git
  if [[ -e .git ]]; then git ls-files --cached --others --exclude-standard --deduplicate
  else find . -path ./build -prune -o -type f -print | cut -c3-; fi | while read -r f; do
    if [[ -f $f ]]; then echo "$f"; fi
  done
}
sources() { files | grep -E "^($1)/.*\.(hpp|cpp|cu|cuh)$" || true; }

# tensor < report, ops < comm < placement < app < lessons/01 < lessons/02 < ..., with lessons/gpt before the pipeline. What
# teaches never includes what proves, draws or asks for it: lessons/*/harness.
arrows() {
  sources 'src|lessons' | xargs -rd '\n' grep -nHE '^ *# *include' | awk '
    function level(folder) {
      if (folder ~ /^[0-9][0-9]_/) return 10 + folder  # 06_pipeline counts as 6
      if (folder == "gpt") return 15.5
      return folder in levels ? levels[folder] : -1
    }
    BEGIN { levels["tensor"] = 0; levels["report"] = levels["ops"] = 1; levels["comm"] = 2
            levels["placement"] = 3; levels["app"] = 4 }
    {
      split($0, at, ":"); split(at[1], path, "/"); mine = path[2]
      quoted = match($0, /"[^"]*"/)
      if (!quoted && !match($0, /<[^>]*>/)) next
      target = substr($0, RSTART + 1, RLENGTH - 2)
      other = index(target, "/") ? substr(target, 1, index(target, "/") - 1) : (quoted ? mine : "")
      where = at[1] ":" at[2] ": "
      if (!quoted && level(other) < 0) next  # a library
      if (mine ~ /^00_/) print where "00_by_hand stands alone, and includes " target
      else if (level(other) < 0) print where "no folder of the core or lesson: " target
      else if (at[1] == "lessons/08_three_d/main.cpp" && other ~ /^[0-9]/) next  # puts together what later lessons add
      else if (level(other) > level(mine) || (level(other) == level(mine) && other != mine))
        print where mine " must not include " other
      else if (target == "08_three_d/harness/formulas.hpp" && mine ~ /^14_/) next  # the planner asks the formulas
      else if (target ~ /\/harness\// && at[1] !~ /\/harness\/|\/main\.cpp$/)
        print where "what teaches must not include a harness: " target
      else if (at[1] ~ /schedule/ && other ~ /^(comm|placement|app)$/)
        print where "a schedule is pure data, and must not include " other
    }'
}

code_lines() {  # of the files on standard input
  xargs -rd '\n' cat | awk '
    { line = $0; sub(/^ +/, "", line) }
    inside { if (line ~ /\*\//) inside = 0; next }
    line ~ /^\/\*/ { if (line !~ /\*\//) inside = 1; next }
    line != "" && line !~ /^\/\// { n++ }
    END { print n + 0 }'
}

concepts() { sources 'lessons' | grep -vE '/harness/|/main\.cpp$' || true; }

sizes() {
  local limit n f folder all concept
  over() { if (($2 > $3)); then echo "$1: $2 lines of code, more than $3"; fi; }
  over "src/ and lessons/" "$(sources 'src|lessons' | code_lines)" $product_code_limit
  over tests/ "$(sources tests | code_lines)" $tests_code_limit
  all=$(sources lessons | code_lines) concept=$(concepts | code_lines)
  if ((100 * concept < concept_share * all)); then
    echo "lessons/: $concept of $all lines of code teach, less than $concept_share%"
  fi
  sources 'src|lessons' | while read -r f; do
    limit=$file_limit
    if [[ $f =~ ^lessons/[^/]*/[^/]*\.hpp$ ]]; then limit=$concept_header_limit; fi
    n=$(wc -l <"$f")
    if ((n > limit)); then echo "$f: $n lines, more than $limit"; fi
  done
  files | { grep -E '^notebooks_md/.*\.md$' || true; } | while read -r f; do
    n=$(wc -l <"$f")
    if ((n > page_limit)); then echo "$f: $n lines, more than $page_limit"; fi
  done
  sources lessons | grep -v /harness/ | xargs -rd '\n' -n 1 dirname | sort | uniq -c | while read -r n folder; do
    if ((n > folder_limit)); then echo "$folder: $n files, more than $folder_limit"; fi
  done
}

# The patterns are spelled so that they do not match themselves.
leftovers() {
  files | xargs -rd '\n' grep -nIHE '(^|[^[:alnum:]_.-])/(home|root|work)/' | sed 's/$/   <- a path of one machine/' || true
  files | xargs -rd '\n' grep -nIHE '\b(TO)DO\b|\b(FIX)ME\b' || true
  # CMake would take it for two names, of which neither is a case: ctest would run nothing, and pass.
  sources tests | xargs -rd '\n' grep -nHE -A1 '^TEST_CASE[A-Z_]*\(' | grep -E '"[^"]*;[^"]*"\) \{' | sed 's/$/   <- a semicolon in the name of a test case/' || true
}

scripts() {
  local f first
  files | while read -r f; do
    first=
    IFS= read -rn 2 first <"$f" 2>/dev/null || true
    if [[ ($first == '#!' || $f == *.sh) && ! -x $f ]]; then echo "$f: a script that is not executable"; fi
  done
}

# A lesson's last line, "Code: FILE:LINE", points at a declaration: the line of code_line and so many more.
pointers() {
  local f n more line
  sources lessons | xargs -rd '\n' grep -noHE '__LINE__ \+ [0-9]+;' /dev/null | tr ':;+' '   ' | while read -r f n _ more; do
    line=$(sed -n "$((n + more))p" "$f")
    if [[ ! $line =~ ^(template|inline|struct)\  ]]; then echo "$f:$n: code_line points at no declaration, but at '$line'"; fi
  done
}

guards() {
  files | grep '\.hpp$' | xargs -rd '\n' grep -L '^#pragma once$' | sed 's/$/: no #pragma once/' || true
}

format() {
  local version
  version=$(clang-format --version 2>/dev/null | sed -nE 's/.*version ([0-9]+).*/\1/p' || true)
  if [[ $version != 14 ]]; then  # each version formats a little differently
    echo "skipped: clang-format 14 (apt-get install clang-format-14); here: ${version:-none}"
    exit 77
  fi
  sources 'src|lessons|tests' | xargs -rd '\n' clang-format --dry-run -Werror
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} != format ]]; then cd "${1:-.}"; fi
lines=$(sources lessons | code_lines)  # ends here where a tool of this script does not work
if ((lines == 0)); then echo "no line of code is found below $PWD/lessons: does git work there?"; exit 1; fi
if [[ ${1:-} == format ]]; then format; exit; fi
found=$(arrows; sizes; leftovers; scripts; pointers; guards)
if [[ -n $found ]]; then printf '%s\n' "$found"; exit 1; fi
echo "clean. Lines of code: $lines in lessons/, of which $(concepts | code_lines) teach," \
  "$(sources src | code_lines) in src/, $(sources tests | code_lines) in tests/"
