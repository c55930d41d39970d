#!/usr/bin/env bash
# tests/tools/processes.sh N COMMAND...: runs the command in N processes without MPI, for a build whose TESSERA_WITHOUT_MPI
# is file_processes.cpp. The first that fails ends the others, and its code is the script's.
set -u
count=$1
shift
TESSERA_STORE=$(mktemp -d "${TMPDIR:-/tmp}/processes.XXXXXX")
export TESSERA_STORE TESSERA_PROCESSES=$count
# shellcheck disable=SC2046  # process numbers
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$TESSERA_STORE"' EXIT
# NCCL refuses two ranks of one host on one GPU. Therefore each process says that it is a host of its own.
for ((process = 0; process < count; ++process)); do
  TESSERA_PROCESS=$process NCCL_HOSTID=process$process "$@" &
done
for ((ended = 0; ended < count; ++ended)); do wait -n || exit; done
