#!/usr/bin/env bash
# tests/with_python.sh MODULE SCRIPT ARGS: runs the script with a python that has the module.
set -euo pipefail

module=$1
shift
for python in python3 /usr/bin/python3; do
  if "$python" -c "import $module" 2>/dev/null; then exec "$python" -B "$@"; fi
done
echo "skipped: needs python3 with $module (apt-get install python3 python3-numpy)"
exit 77
