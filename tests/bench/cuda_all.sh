#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds, checks and times the CUDA backend in one call, and prints
# what was asked of it beside what was measured.
#
#   tests/bench/cuda_all.sh [FOLDER]
#
# Needs a C++20 compiler, CMake, nvcc and Python 3 with nothing installed; no network. Where doctest's
# header is there (A2SF_DOCTEST_INCLUDE names its folder, if need be), the C++ tests of the backend run on
# the card; where a package index answers, the Python package is built as well and its parity tests run.
# FOLDER (build/cuda-all) gets the output of every step; models are written there (40 GB) and removed
# again.
#
# Timing ends after A2SF_SECONDS (600): what matters most comes first, every step has a limit of its
# own, and what was not reached is "not measured". Exit status: 0 if all that was asked is met.
#
# A2SF_DEVICE=cpu tries the script where there is no GPU; A2SF_SHAPES, A2SF_TYPES, A2SF_DEPTHS and
# A2SF_BUDGET time other models, A2SF_PROGRAM takes a program that is there, A2SF_PIP=0 leaves out pip.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build/cuda-all}
device=${A2SF_DEVICE:-cuda}
budget=${A2SF_BUDGET:-2048}
depths=${A2SF_DEPTHS:-4096,20000,100000}
read -ra shapes <<<"${A2SF_SHAPES:-8b 1b}"
read -ra types <<<"${A2SF_TYPES:-Q8_0 F16 Q4_K_M}"
cuda=ON
[[ $device == cuda ]] || cuda=OFF
export CUDAARCHS=${CUDAARCHS:-native}
if [[ -d /usr/local/cuda/bin ]]; then PATH=$PATH:/usr/local/cuda/bin; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/*.json "$out"/*.log
failed=()
jobs=$(nproc)

# step NAME SECONDS COMMAND...: shows what runs and keeps its output; a failure does not end the rest.
step() {
    local name=$1 limit=$2 status=0
    shift 2
    echo "== $name"
    timeout --signal=INT --kill-after=20 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 15 "$out/$name.log"
    [[ $status -eq 0 ]] || { echo "-- $name: ended with $status" && failed+=("$name"); }
    return $status
}

# The same, but that it could not be done is nothing wrong.
try_step() {
    local n=${#failed[@]} status=0
    step "$@" || status=$?
    failed=("${failed[@]:0:n}")
    return $status
}

build() {
    if [[ -n ${A2SF_PROGRAM:-} ]]; then
        program=$A2SF_PROGRAM
        return
    fi
    command -v cmake >/dev/null || { echo "cmake expected on PATH, found none" && return 1; }
    local options=(-S . -B "$out/build" -DCMAKE_BUILD_TYPE=Release -DA2SF_CUDA="$cuda")
    if command -v ninja >/dev/null; then options+=(-G Ninja); fi
    local targets=(a2sf_cli) doctest=${A2SF_DOCTEST_INCLUDE:-}
    if [[ $cuda == ON ]] && echo '#include <doctest/doctest.h>' |
        c++ ${doctest:+-I"$doctest"} -E -x c++ - >/dev/null 2>&1; then
        options+=(-DA2SF_BUILD_TESTS=ON ${doctest:+-DA2SF_DOCTEST_INCLUDE="$doctest"})
        targets+=(a2sf_cuda_tests)
    fi
    step configure 120 cmake "${options[@]}" &&
        step build 1200 cmake --build "$out/build" -j "$jobs" --target "${targets[@]}" &&
        program=$out/build/cpp/cli/a2sf
}

# The backend's own tests, on the card.
device_tests() {
    local tests=$out/build/tests/cpp/a2sf_cuda_tests
    if [[ ! -x $tests ]]; then
        echo "== no doctest or no build of this script's own: without the C++ tests"
        return
    fi
    step device-tests 600 "$tests" || true
}

model_of() {
    local model=$out/$1-$2.gguf
    [[ -f $model ]] || python3 tests/bench/plain_models.py --shape "$1" --type "$2" --out "$out" >/dev/null
    echo "$model"
}

# time_it NAME SECONDS SHAPE TYPE OPTIONS...: rows to NAME.json, as many as there is time for.
time_it() {
    local name=$1 limit=$2 model left
    model=$(model_of "$3" "$4")
    shift 4
    left=$((deadline - SECONDS))
    if [[ $left -lt 5 ]]; then
        echo "== $name: no time left"
        return
    fi
    echo "== $name ($((limit < left ? limit : left)) s at most)"
    timeout --signal=INT --kill-after=20 "$((limit < left ? limit : left))" \
        "$program" bench -m "$model" --device "$device" -q -o json "$@" \
        >"$out/$name.json" 2>"$out/$name.log" || echo "-- $name: ended with $?: $(tail -n 1 "$out/$name.log")"
}

has() {
    local wanted=$1 one
    shift
    for one in "$@"; do [[ $one != "$wanted" ]] || return 0; done
    return 1
}

# Decode and prompts first, then what scores cost, then depths, which take longest.
time_all() {
    local shape type
    for shape in "${shapes[@]}"; do
        for type in "${types[@]}"; do
            local options=(-p 0)
            [[ $type != F16 ]] || options=(-p "512,2048" --batch 2048)
            time_it "decode-$shape-$type" 60 "$shape" "$type" "${options[@]}" -n 128
        done
    done
    # What it gains that kernels overlap.
    A2SF_CUDA_OVERLAP=0 time_it "apart-${shapes[0]}-${types[0]}" 60 "${shapes[0]}" "${types[0]}" -p 0 -n 128
    for type in "${types[@]}"; do
        for shape in "${shapes[@]}"; do
            time_it "score-$shape-$type" 60 "$shape" "$type" -p 0 -n 64 -d "${depths%%,*}" \
                --policy a2sf,streaming --budget "$budget"
        done
    done
    for type in "${types[@]}"; do
        for shape in "${shapes[@]}"; do
            time_it "depth-$shape-$type" 120 "$shape" "$type" -p 0 -n 64 -d "$depths" \
                --policy a2sf --budget "$budget"
        done
    done
}

sanitize() {
    command -v compute-sanitizer >/dev/null || { echo "== no compute-sanitizer" && return; }
    local tool type
    for tool in memcheck racecheck; do
        step "sanitizer-$tool" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$program" run --device "$device" --budget 64 -n 8 --batch 32 \
            -m "$(ls models/*.gguf)" -p "Nora keeps the stone letter in the white sack." || true
        for type in Q4_K_M Q8_0; do
            step "sanitizer-$tool-$type" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$program" bench --device "$device" -m "$(model_of tiny "$type")" -p 96 -n 8 -r 1 \
                --kv-type q8_0 --policy a2sf,keydiff --budget 48 --batch 32 -q || true
        done
    done
}

# The tests that go over all devices of the package.
python_tests() {
    [[ ${A2SF_PIP:-1} == 1 ]] || return 0
    local python=$out/venv/bin/python
    try_step venv 60 python3 -m venv "$out/venv" || { echo "-- no venv: without the Python tests" && return; }
    try_step pip 1200 "$python" -m pip install --quiet --retries 0 --timeout 10 . pytest gguf \
        -C cmake.define.A2SF_CUDA="$cuda" || { echo "-- no package index: without the Python tests" && return; }
    step python-devices 60 "$python" -c "import a2sf; assert '$device' in a2sf.devices(), a2sf.devices()" || true
    step python-parity 1200 "$python" -m pytest -q -p no:cacheprovider tests/python/test_parity.py \
        tests/python/test_weight_types.py || true
    grep -q ' passed' "$out/python-parity.log" || failed+=("python-parity: no test ran")
}

# Reference models, where they lie beside the tree.
if [[ -z ${A2SF_SHARED:-} && -d ../shared ]]; then A2SF_SHARED=$(cd ../shared && pwd); fi
if [[ -n ${A2SF_SHARED:-} ]]; then
    export A2SF_SHARED A2SF_TEST_MODELS=$A2SF_SHARED/reference/models
fi
if [[ $cuda == ON ]]; then
    step card 60 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.mem --format=csv || true
fi
build || exit 1
device_tests
step parity 300 python3 tests/bench/cuda_parity.py "$program" --device "$device" || true
A2SF_CUDA_OVERLAP=0 step parity-apart 300 python3 tests/bench/cuda_parity.py "$program" --device "$device" || true
deadline=$((SECONDS + ${A2SF_SECONDS:-600}))
time_all
for shape in "${shapes[@]}"; do
    for type in "${types[@]}"; do rm -f "$out/$shape-$type.gguf"; done
done
status=0
python3 tests/bench/cuda_table.py "$out" --shapes "${shapes[@]}" --types "${types[@]}" \
    --last-depth "${depths##*,}" || status=1
[[ $cuda == OFF ]] || sanitize
python_tests
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "failed: ${failed[*]}"
    status=1
fi
echo "== done: $out"
exit $status
