# shellcheck shell=bash disable=SC2034,SC2154
# Sourced: what a refusal advises, taken. A refusal is exit code 2 and one line on stderr, which names a flag and says
# what would work; `heed` does that, once and again, until the program runs. Needs $bin, $fixtures and
# $scratch, where to_resume is a folder that lesson 08 saved.

# drop FLAG: takes it and its value out of `words`, the command line.
drop() {
  local kept=() i
  for ((i = 0; i < ${#words[@]}; i++)); do
    if [[ ${words[i]} == "$1" ]]; then
      if [[ ${words[i + 1]:---} != --* ]]; then i=$((i + 1)); fi
    elif [[ ${words[i]} != "$1="* ]]; then
      kept+=("${words[i]}")
    fi
  done
  words=("${kept[@]}")
}

# put FLAG [VALUE]: the last of two counts.
put() {
  drop "$1"
  case ${2:-} in
    '') words+=("$1") ;;
    N | VALUE) words+=("$1" 4) ;;
    FILE) words+=("$1" "$scratch/advised") ;;
    DIR) words+=("$1" "$scratch/advised_folder") ;;
    *) words+=("$1" "$2") ;;
  esac
}

# take_advice MESSAGE: changes `words` as it says; fails where it names no flag or says nothing that would work.
take_advice() {
  local message=${1#error: } advice flag='' word smaller='' i
  [[ $message == *--[a-z]* && $message == *' would work'* ]] || return 1
  if [[ $message =~ ^there\ is\ no\ flag\ (.*):\ (--[a-z-]+)\ would\ work ]]; then
    for i in "${!words[@]}"; do
      if [[ ${words[i]%%=*} == "${BASH_REMATCH[1]}" ]]; then words[i]=${words[i]/"${BASH_REMATCH[1]}"/"${BASH_REMATCH[2]}"}; fi
    done
    return
  fi
  if [[ $message =~ without\ (--[a-z0-9-]+)\ it\ would\ work ]]; then drop "${BASH_REMATCH[1]}"; return; fi
  if [[ $message =~ without\ \'(.*)\'\ it\ would\ work ]]; then
    for i in "${!words[@]}"; do if [[ ${words[i]} == "${BASH_REMATCH[1]}" ]]; then unset "words[$i]"; fi; done
    words=("${words[@]}")
    return
  fi
  advice=${message%% would work*} advice=${advice##*[:;] } advice=${advice%%, or *}
  if [[ $advice == *--[a-z]* && $advice != *'that --save wrote'* ]]; then  # --ranks 1, 2, 3; --batch 12 --microbatches 4; smaller --width --seq
    for word in $advice; do
      case $word in
        smaller) smaller=1 ;;
        --*) if [[ -n $smaller ]]; then drop "$word"; else put "$word"; flag=$word; fi ;;
        *) if [[ -n $flag ]]; then put "$flag" "${word%,}"; flag=; fi ;;
      esac
    done
    return
  fi
  [[ $message =~ ^(--[a-z0-9-]+) ]] || return 1
  flag=${BASH_REMATCH[1]}
  case $advice in
    'a whole number from '* | 'a number from '*) word=${advice#*from } word=${word%% *} ;;
    *' like '*) word=${advice#*like } word=${word%% *} ;;
    *file* | *text* | *folder* | *name* | *ids* | *checkpoint*)
      case $flag in
        --text) word=$fixtures/make_fixtures.py ;;
        --tokens) word=$fixtures/gpt2/tokens.bin ;;
        --weights) word=$fixtures/gpt2/model.safetensors ;;
        --resume) word=$scratch/to_resume ;;
        --save) word=$scratch/advised_folder ;;
        *) word=$scratch/advised ;;
      esac ;;
    *) word=${advice%%[|,]*} ;;
  esac
  put "$flag" "$word"
}

# heed PROGRAM ARGS...: sets `tries`, how many pieces of advice it took, and `fault`, what went wrong, if anything did.
heed() {
  local code line
  words=("${@:2}") tries=0 fault=
  while :; do
    code=0
    timeout 300 "$bin/$1" "${words[@]}" >"$scratch/out" 2>"$scratch/err" </dev/null || code=$?
    # --trap shows a mistake, so its checks fail.
    if ((code == 0)) || { ((code == 1)) && [[ " ${words[*]} " == *' --trap '* ]]; }; then return; fi
    line=$(head -n 1 "$scratch/err")
    if ((code != 2 || ++tries > 8)) || [[ $(wc -l <"$scratch/err") != 1 ]] || ! take_advice "$line"; then
      fault="$* -> ${words[*]} ends with $code: $line"
      return
    fi
  done
}
