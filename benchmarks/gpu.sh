#!/usr/bin/env bash
# Everything that only a GPU can show, from a bare checkout without a network, in at most ten minutes:
#
#     benchmarks/gpu.sh [FOLDER]         # results/speed/<date>-gpu by default
#
# Each part has its own limit of time and writes its own file, so what is done is kept. PARTS names
# some of them, PYTHON another interpreter, DEVICE=cpu sees the script run without a GPU. Part
# `cifar` needs CIFAR-10 in the folder that NORMBALL_DATA names.
set -u
cd "$(dirname "$0")/.."
folder=${1:-results/speed/$(date +%F)-gpu}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
parts=${PARTS:-self tests step-124M step-1B cifar}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$folder"
summary="$folder/summary.txt"
models=(124M 1B)
[ "$device" = cpu ] && models=(tiny tiny)

# part NAME SECONDS COMMAND...: runs it under its limit, unless it was not asked for.
part() {
    local name=$1 limit=$2 started=$SECONDS status=0
    shift 2
    [[ " $parts " == *" $name "* ]] || return 0
    timeout "$limit" "$@" >"$folder/$name.log" 2>&1 || status=$?
    local said="exit $status"
    [ "$status" = 0 ] && said=done
    [ "$status" = 124 ] && said="stopped at its limit"
    echo "$name: $said after $((SECONDS - started)) s of $limit: $(tail -n 1 "$folder/$name.log")" |
        tee -a "$summary"
}

{
    date -u
    "$python" -c 'import platform, torch; print(platform.python_version(), torch.__version__)'
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
} >>"$summary" 2>&1

part self 60 "$python" -m benchmarks.gpu tiny --device cpu --rounds 2 --out "$folder/self"
NORMBALL_GPU_TESTS=$device part tests 150 "$python" -m pytest -q -p no:cacheprovider tests/gpu
part step-124M 90 "$python" -m benchmarks.gpu "${models[0]}" --device "$device" --out "$folder"
part step-1B 120 "$python" -m benchmarks.gpu "${models[1]}" --device "$device" --out "$folder"
# Figure 1 of the paper: fixed steps on CIFAR-10, with and without clipping.
part cifar 180 "$python" -m normball.cli sweep cifar10 --optimizers scion,clipped-scion \
    --lr 2^-5,2^-3,2^-2,2^-1 --epochs 80 --seeds 0 --jobs 4 --out "$folder/cifar"
