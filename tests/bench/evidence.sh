#!/usr/bin/env bash
# What eviction costs, by policy and budget: the tables of README and docs/evaluation.md, and a page
# with all plots. Hours on a small machine; a second start goes on where the first one stopped.
#
#   tests/bench/evidence.sh MODEL.gguf WIKITEXT2_TEST.txt TINYSHAKESPEARE.txt [FOLDER]
#
# A2SF_PARTS       which of the parts below, all unless given: policies factors needles other chunk
#                  recall tasks bundled. Also calibrate: what a calibration adds, only if named.
# A2SF_POLICIES    of the tables by policy
set -euo pipefail
if [[ $# -lt 3 ]]; then
    sed -n 's/^# \?//; 2,9p' "$0" >&2
    exit 2
fi
model=$1 wiki=$2 shakespeare=$3 out=${4:-build/evidence}
policies=${A2SF_POLICIES:-a2sf,h2o,streaming,a2sf-dual,snapkv,keydiff,tova,a2sf-paper}
parts=${A2SF_PARTS:-policies factors needles other chunk recall tasks bundled}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out"
third() { echo $(($(wc -c <"$1") / 3)); } # bytes
held_out=$out/$(basename "$wiki" .txt)-last-third.txt
tail -c "$(third "$wiki")" "$wiki" | tail -n +2 >"$held_out"

windows() { a2sf-eval perplexity -m "$model" --windows 3 --ctx 1536 "$@"; }
perplexity() { windows -f "$held_out" -f "$shakespeare" -o "$out/perplexity.jsonl" "$@"; }
details() { windows -f "$held_out" -f "$shakespeare" -o "$out/details.jsonl" "$@"; }
needle() { a2sf-eval needle -o "$out/needle.jsonl" -m "$@"; }
recall() { a2sf-eval recall -o "$out/recall.jsonl" --budget 20% "$@"; }
tasks() {
    a2sf-eval tasks -f "$out/questions.jsonl" -o "$out/tasks.jsonl" --protocol paper --budget 20% \
        --policy full,local,h2o,a2sf-paper,a2sf "$@"
}

# nll lost by every policy: the two tables of the default, and README's.
part_policies() {
    for budget in 8%,20% 5%,10% 50%; do
        perplexity --budget $budget --policy "$policies"
        perplexity --budget $budget --policy a2sf --allocation equal
        perplexity --budget $budget --policy h2o,snapkv --allocation auto
    done
}
# Of which the default takes one for each budget.
part_factors() {
    details --budget 3%,5%,8%,10%,20%,50% --policy a2sf \
        --forgetting-factor auto,0.9,0.95,0.97,0.98,0.99,0.995
    windows --windows 2 --ctx 6000 -f "$held_out" -f "$shakespeare" -o "$out/details.jsonl" \
        --budget 77,123,307,600 --policy a2sf \
        --forgetting-factor auto,0.95,0.97,0.98,0.99,0.995,0.998
    for option in "--sinks 0" "--sinks 1" "--sinks 8" "--recent 10%" "--recent 40%" \
        "--pooling 3" "--pooling 7"; do
        # shellcheck disable=SC2086
        details --budget 8%,20% --policy a2sf $option
    done
}
part_needles() {
    for length in 1000 2000 4000 7000; do
        needle "$model" --policy a2sf --length $length --depth 10,30,50,70,90 --budget 25% --trials 6
    done
    for length in 1000 2000 4000 7000; do
        needle "$model" --policy "$policies" --length $length --depth 10,30,50,70,90 --budget 25%
        needle "$model" --policy "$policies" --length $length --depth 10,50,90 --budget 128,256,512
    done
}
# Texts that had no part in choosing the default.
part_other() {
    local first=$out/wikitext-first-third.txt middle=$out/shakespeare-middle-third.txt
    head -c "$(third "$wiki")" "$wiki" >"$first"
    tail -c "+$(($(third "$shakespeare") + 1))" "$shakespeare" | head -c "$(third "$shakespeare")" \
        >"$middle" || true # head closes the pipe
    windows -f "$first" -f "$middle" -o "$out/other.jsonl" --budget 8%,20% \
        --policy a2sf,h2o,streaming
}
# What the guard costs where nothing is looked for, and the factor between a chunk's queries.
part_chunk() {
    local factors=0.99,0.995,0.998,0.999,1
    details --prefill chunk --budget 77,123,307 --policy a2sf --forgetting-factor $factors
    local questions=(--length 2000 --depth 10,30,50,70,90 --trials 4 --budget 128,256,512)
    a2sf-eval needle -m "$model" -o "$out/details.jsonl" "${questions[@]}" --policy a2sf \
        --forgetting-factor $factors
    a2sf-eval needle -m "$model" -o "$out/details.jsonl" "${questions[@]}" --policy a2sf --guard 0.4
    details --prefill chunk --budget 123,307 --policy a2sf,h2o,streaming
    for guard in 0.25 0.4; do
        details --prefill chunk --budget 123,307 --policy a2sf --guard $guard
    done
}
part_recall() {
    recall -m "$model" -f "$held_out" -f "$shakespeare" --policy "$policies"
    recall -m "$model" -f "$held_out" -f "$shakespeare" --policy a2sf --allocation equal
}
questions() {
    python3 "$root/tests/python/eval_items.py" "$out/questions.jsonl" -n 100 --tokens 320
}
part_tasks() { questions && tasks -m "$model"; }
# The model in the repository, on its own kind of text and on one far outside it.
part_bundled() {
    local bundled=$root/models/notes-1m-f16.gguf
    for more in "--policy $policies" "--policy a2sf --allocation equal"; do
        # shellcheck disable=SC2086
        a2sf-eval perplexity -m "$bundled" -f "$shakespeare" -o "$out/bundled.jsonl" \
            --budget 8%,20%,50% $more
        # shellcheck disable=SC2086
        recall -m "$bundled" -f "$root/models/demo.txt" -f "$shakespeare" $more
    done
    questions && tasks -m "$bundled"
    python3 "$root/models/evaluate.py" -n 100 --questions "$out/recall-questions.jsonl"
    for more in "--policy $policies" "--policy snapkv,h2o --allocation auto"; do
        # shellcheck disable=SC2086
        needle "$bundled" --questions "$out/recall-questions.jsonl" --budget 512,256,128,64 $more
    done
}
# What calibrates lies in the first 60 % of the text (4 of 6 windows), what is measured behind it.
part_calibrate() {
    if a2sf-eval calibrate -m "$model" -f "$wiki" --windows 6 --ctx 1536 --budget 123 \
        -o "$out/calibrate.jsonl" --write "$out/model.eviction"; then
        details --budget 8%,20% --policy full --eviction-file "$out/model.eviction"
    fi
}

for part in $parts; do
    declare -F "part_$part" >/dev/null || { echo "A2SF_PARTS: unknown part $part" >&2; exit 2; }
done
for part in $parts; do "part_$part"; done
# page NAME TITLE MEASUREMENT...: of those that are there
page() {
    local name=$1 title=$2 found=() file
    for file in "${@:3}"; do
        if [[ -s $out/$file.jsonl ]]; then found+=("$out/$file.jsonl"); fi
    done
    [[ ${#found[@]} -eq 0 ]] ||
        a2sf-eval report "${found[@]}" -o "$out/$name.html" --title "$title"
}
page report "What a bounded KV cache loses" perplexity other needle recall tasks bundled
page details "Forgetting factors, guard, calibration" details calibrate
