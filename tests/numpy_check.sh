#!/usr/bin/env bash
# tests/numpy_check.sh build/bin: runs numpy_check.py with a python that has numpy.
set -euo pipefail

for python in python3 /usr/bin/python3; do
  if "$python" -c 'import numpy' 2>/dev/null; then
    exec "$python" "$(dirname "${BASH_SOURCE[0]}")/numpy_check.py" "$@"
  fi
done
echo "skipped: needs numpy (apt-get install python3-numpy)"
exit 77
