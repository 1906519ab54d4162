#!/usr/bin/env bash
# What eviction costs, and what dividing the budget among heads gives back: the tables of README and
# docs/evaluation.md, and a page with all plots. Hours on a small machine; a second start goes on
# where the first one stopped.
#
#   tests/bench/evidence.sh MODEL.gguf WIKITEXT2_TEST.txt TINYSHAKESPEARE.txt [FOLDER]
set -euo pipefail
model=$1 wiki=$2 shakespeare=$3 out=${4:-build/evidence}
policies=${A2SF_POLICIES:-a2sf,h2o,streaming,a2sf-dual,snapkv,keydiff,tova,a2sf-paper}
mkdir -p "$out"

# What calibrates lies in the first 60 % of the text (4 of 6 windows), what is measured behind it.
a2sf-eval calibrate -m "$model" -f "$wiki" --windows 6 --ctx 1536 --budget 123 \
    -o "$out/calibrate.jsonl" --write "$out/model.eviction"
held_out=$out/$(basename "$wiki" .txt)-last-third.txt
tail -c $(($(wc -c <"$wiki") / 3)) "$wiki" | tail -n +2 >"$held_out"

for budget in 8%,20% 5%,50% 10%; do
    a2sf-eval perplexity -m "$model" -f "$held_out" -f "$shakespeare" --windows 3 --budget "$budget" \
        --policy "$policies" --eviction-file "$out/model.eviction" -o "$out/perplexity.jsonl"
done
for length in 1000 2000 4000 7000; do
    a2sf-eval needle -m "$model" --length $length --depth 10,50,90 --trials 2 --budget 128,256,512 \
        --policy "$policies" --eviction-file "$out/model.eviction" -o "$out/needle.jsonl"
done
a2sf-eval report "$out"/{calibrate,perplexity,needle}.jsonl -o "$out/report.html"
