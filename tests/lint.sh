#!/usr/bin/env bash
# What no compiler checks. tests/lint.sh [ROOT] fails on an #include that points the wrong way, on code that has
# outgrown its limit, on leftovers; tests/lint.sh format on code that clang-format would change.
set -euo pipefail

# Lines neither blank nor comment: of the headers that teach; of the mains, proofs, baselines and screens beside them; of
# the core, which has attention in two forms and communicators on three transports.
readonly lesson_code_limit=3000 proof_code_limit=2500 core_code_limit=7000
readonly proofs='/(main\.cpp|[a-z_]*(proof|unsplit|screen|timeline[a-z_]*|sizes|measure|compare|command_line|report)\.hpp)$'
readonly lesson_file_limit=150 core_file_limit=350    # lines of one file

files() {  # tracked, or about to be; an unpacked archive has no .git
  if [[ -e .git ]]; then git ls-files --cached --others --exclude-standard --deduplicate
  else find . -path ./build -prune -o -type f -print | cut -c3-; fi | while read -r f; do
    if [[ -f $f ]]; then echo "$f"; fi
  done
}
sources() { files | grep -E "^($1)/.*\.(hpp|cpp|cu|cuh)$" || true; }

# tensor < report, ops < comm < placement < app < lessons/01 < lessons/02 < ...
arrows() {
  sources 'src|lessons' | xargs -rd '\n' grep -nHE '^ *# *include' | awk '
    function level(folder) {
      if (folder ~ /^[0-9][0-9]_/) return 10 + folder  # 06_pipeline counts as 6
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
      else if (level(other) > level(mine) || (level(other) == level(mine) && other != mine))
        print where mine " must not include " other
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

sizes() {
  local limit n f
  over() { if (($2 > $3)); then echo "$1: $2 lines of code, more than $3"; fi; }
  over lessons/ "$(sources lessons | grep -vE "$proofs" | code_lines)" $lesson_code_limit
  over "lessons/'s mains and proofs" "$(sources lessons | grep -E "$proofs" | code_lines)" $proof_code_limit
  over src/ "$(sources src | code_lines)" $core_code_limit
  sources 'src|lessons' | while read -r f; do
    if [[ $f == src/* ]]; then limit=$core_file_limit; else limit=$lesson_file_limit; fi
    n=$(wc -l <"$f")
    if ((n > limit)); then echo "$f: $n lines, more than $limit"; fi
  done
}

# The patterns are spelled so that they do not match themselves.
leftovers() {
  files | xargs -rd '\n' grep -nIHE '(^|[^[:alnum:]_.-])/(home|root|work)/' | sed 's/$/   <- a path of one machine/' || true
  files | xargs -rd '\n' grep -nIHE '\b(TO)DO\b|\b(FIX)ME\b' || true
}

scripts() {
  local f first
  files | while read -r f; do
    first=
    IFS= read -rn 2 first <"$f" 2>/dev/null || true
    if [[ ($first == '#!' || $f == *.sh) && ! -x $f ]]; then echo "$f: a script that is not executable"; fi
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
  sources 'src|lessons|tests|tools' | xargs -rd '\n' clang-format --dry-run -Werror
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} == format ]]; then format; exit; fi
cd "${1:-.}"
found=$(arrows; sizes; leftovers; scripts; guards)
if [[ -n $found ]]; then printf '%s\n' "$found"; exit 1; fi
echo "clean. Code: $(sources lessons | code_lines) lines in lessons/, $(sources src | code_lines) lines in src/"
