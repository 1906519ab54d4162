#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and nvcc: builds, checks and times the CUDA backend in one call.
#
#   tests/bench/cuda_all.sh [FOLDER]
#
# Writes to FOLDER (build/cuda-all): the card, what the tests and compute-sanitizer say, and the
# tables of `a2sf bench` with the fraction of the card's measured copy bandwidth. Needs Python with
# venv, and a package index. A2SF_DEVICE=cpu tries the script itself where there is no GPU;
# A2SF_SHAPES and A2SF_DEPTHS name other models (tests/bench/write_models.py) and depths.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build/cuda-all}
device=${A2SF_DEVICE:-cuda}
shapes=${A2SF_SHAPES:-1b 8b}
depths=${A2SF_DEPTHS:-0,10000,100000}
cuda=ON
[[ $device == cuda ]] || cuda=OFF
mkdir -p "$out"
if [[ -z ${A2SF_SHARED:-} && -d ../shared ]]; then A2SF_SHARED=$(cd ../shared && pwd); fi
if [[ -n ${A2SF_SHARED:-} ]]; then
    export A2SF_SHARED A2SF_TEST_MODELS=$A2SF_SHARED/reference/models
fi

# Shows what runs, and keeps its output.
step() {
    local name=$1
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$out/$name.log"
}

[[ $cuda == OFF ]] || step card nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.mem --format=csv
[[ -d $out/venv ]] || python3 -m venv "$out/venv"
export PATH=$PWD/$out/venv/bin:$PATH
step build pip install --quiet . pytest pytest-timeout numpy gguf -C cmake.define.A2SF_CUDA="$cuda"
python - "$device" <<'PY'
import sys

import a2sf

if sys.argv[1] not in a2sf.devices():
    sys.exit(f"device {sys.argv[1]} expected, found {', '.join(a2sf.devices())}")
PY
# Logits and kept positions of every device, beside the CPU's.
step parity python -m pytest -q -p no:cacheprovider tests/python/test_parity.py tests/python/test_weight_types.py
if [[ $cuda == ON ]] && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            a2sf run --device cuda --budget 64 -n 8 -p "Nora keeps the stone letter in the white sack."
    done
fi
for shape in $shapes; do
    for type in Q8_0 F16 Q4_K_M; do
        model=$out/$shape-$type.gguf
        [[ -f $model ]] ||
            python tests/bench/write_models.py --shape "$shape" --type "$type" --out "$out"
        step "bench-$shape-$type" a2sf bench -m "$model" --device "$device" -p 512 -n 64
        step "depth-$shape-$type" a2sf bench -m "$model" --device "$device" -p 0 -n 64 \
            -d "$depths" --policy a2sf,streaming --budget 2048
        rm -f "$model"
    done
done
echo "== done: $out"
