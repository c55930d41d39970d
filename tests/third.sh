#!/usr/bin/env bash
# third.sh: every third line of its input, from one commit to the next another third. For what takes `./tessera test
# --all` a build each: what it leaves out today, it does within the next two commits.
set -euo pipefail
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
commits=$(git -C "$root" rev-list --count HEAD 2>/dev/null || echo 0)
awk -v third=$((commits % 3)) 'NR % 3 == third'
