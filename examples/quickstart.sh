#!/bin/sh
# The bundled episodes, labelled offline and queried: no key, no network. PYTHON and STORE may be set.
set -eu
PYTHON="${PYTHON:-python}"
STORE="${STORE:-./store}"

run() {
  [ "$STORE" = ./store ] || set -- "$@" --store "$STORE"
  printf '\n$ python cli.py'
  for word in "$@"; do
    case "$word" in *[!A-Za-z0-9_./@=,-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '\n'
  "$PYTHON" cli.py "$@" || [ $? -eq 3 ] # 3: done, with failures listed (one sample's evaluation failed on purpose)
}

run import --name demo/episodes
run label demo/episodes --judge lexical
run show demo/episodes-rewards
run query demo/episodes-rewards "SELECT split, count(*) AS utterances, round(avg(reward), 3) AS mean_reward FROM rewards GROUP BY split ORDER BY utterances DESC"
[ "$STORE" = ./store ] && own= || own=" --store $STORE"
printf 'Read a dialogue with its rewards, then label your own episodes with a judge:\n'
printf '  %s cli.py show demo/episodes-rewards sample-last-tram-1%s\n' "$PYTHON" "$own"
printf '  export OPENAI_API_KEY=...; %s cli.py label ./episodes.jsonl --judge gpt-4o%s\n' "$PYTHON" "$own"
