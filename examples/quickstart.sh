#!/bin/sh
# The bundled episodes, labelled offline and queried: no key, no network. PYTHON and STORE may be set.
set -eu
PYTHON="${PYTHON:-python}"
STORE="${STORE:-./store}"
export SOTOPIA_RL_DATA_STORE="$STORE"
run() { printf '\n\033[1m$ python cli.py'; for word in "$@"; do case "$word" in *" "*) printf ' "%s"' "$word";; *) printf ' %s' "$word";; esac; done; printf '\033[0m\n'; "$PYTHON" cli.py "$@"; }

run import --name demo/episodes || [ $? -eq 3 ]
run label demo/episodes --judge lexical || [ $? -eq 3 ]
run show demo/episodes-rewards
run query demo/episodes-rewards "SELECT split, count(*) AS utterances, round(avg(reward), 3) AS mean_reward FROM rewards GROUP BY split ORDER BY utterances DESC"
