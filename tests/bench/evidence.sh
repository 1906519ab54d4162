#!/usr/bin/env bash
# What eviction costs, by policy and budget: the tables of README and docs/evaluation.md, and a page
# with all plots. Hours on a small machine; a second start goes on where the first one stopped. With
# A2SF_CALIBRATE=1 also what a calibration on the user's text adds.
#
#   tests/bench/evidence.sh MODEL.gguf WIKITEXT2_TEST.txt TINYSHAKESPEARE.txt [FOLDER]
set -euo pipefail
model=$1 wiki=$2 shakespeare=$3 out=${4:-build/evidence}
policies=${A2SF_POLICIES:-a2sf,h2o,streaming,a2sf-dual,snapkv,keydiff,tova,a2sf-paper}
mkdir -p "$out"
held_out=$out/$(basename "$wiki" .txt)-last-third.txt
tail -c $(($(wc -c <"$wiki") / 3)) "$wiki" | tail -n +2 >"$held_out"
measured=("$out/perplexity.jsonl" "$out/needle.jsonl")

perplexity() {
    a2sf-eval perplexity -m "$model" -f "$held_out" -f "$shakespeare" --windows 3 --ctx 1536 \
        -o "$out/perplexity.jsonl" "$@"
}
needle() { a2sf-eval needle -m "$model" -o "$out/needle.jsonl" --policy "$policies" "$@"; }

for budget in 8%,20% 5%,10% 50%; do
    perplexity --budget $budget --policy "$policies"
    perplexity --budget $budget --policy a2sf --allocation equal
done
perplexity --budget 5%,8%,20% --policy a2sf --forgetting-factor 0.97,0.995,0.999
for length in 1000 2000 4000 7000; do
    needle --length $length --depth 10,30,50,70,90 --trials 2 --budget 25%
    needle --length $length --depth 10,50,90 --trials 2 --budget 128,256,512
done
if [[ ${A2SF_CALIBRATE:-0} != 0 ]]; then
    # What calibrates lies in the first 60 % of the text (4 of 6 windows), what is measured behind it.
    a2sf-eval calibrate -m "$model" -f "$wiki" --windows 6 --ctx 1536 --budget 123 \
        -o "$out/calibrate.jsonl" --write "$out/model.eviction"
    measured+=("$out/calibrate.jsonl")
    perplexity --budget 8%,20% --policy full --eviction-file "$out/model.eviction"
fi
a2sf-eval report "${measured[@]}" -o "$out/report.html"
