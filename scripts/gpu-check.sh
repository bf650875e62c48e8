#!/usr/bin/env bash
# On a machine with a GPU, from a fresh checkout with CMake, ninja, nvcc and (for the peers) PyTorch: builds libqwen3_cuda.so,
# gpu_check and gpu_bench, checks every operation and whole models, the same under compute-sanitizer, and measures ours beside
# PyTorch's. Every step has a limit of its own and leaves a log; a step that fails or runs out of time does not stop the next.
# The parts of a check run side by side, each a process of its own: an error that the device keeps costs one part, not all.
#   RESULTS=folder   logs, gpu_bench.json and summary.json (default build-gpu/results)
#   SECONDS_IN_ALL   default 570
#   ARCH="90a"       architectures; by default that of the first GPU
#   BUILT=folder     take the programs from there instead of building them
#   TOOLS="..."      of compute-sanitizer (default: memcheck racecheck synccheck)
#   BENCH_ARGUMENTS  more for bench/peers/torch_gpu.py, such as "--only gemm/ --rounds 1"
#   QWEN3_DRY=1      no GPU: the emulation's programs at tiny shapes and constant peers, to try this script
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=${BUILT:-${BUILD:-$root/build-gpu}}
results=${RESULTS:-$root/build-gpu/results}
total=${SECONDS_IN_ALL:-570}
dry=${QWEN3_DRY:-}
mkdir -p "$results"
failed=0
steps=()

left() { echo $((total - SECONDS > 1 ? total - SECONDS : 1)); }

# What there is, even when the next step never ends.
note() {
  steps+=("{\"step\": \"$1\", \"state\": \"$2\", \"seconds\": $3}")
  (IFS=,; printf '{"steps": [%s]}\n' "${steps[*]}") > "$results/summary.json"
  echo "== $1: $2, $3 s ($SECONDS s in all)"
}

# record NAME LIMIT STATUS SECONDS: how a command ended, and the end of its log.
record() {
  case $3 in
    0) note "$1" passed "$4" ;;
    124 | 137) note "$1" "out of time after $2 s" "$4" ;;
    *) note "$1" "failed with $3" "$4" ;;
  esac
  [[ $3 -eq 0 ]] || failed=1
  tail -n "${TAIL:-4}" "$results/$1.log" | sed 's/^/   /'
  return "$3"
}

# step NAME LIMIT COMMAND...: runs it with what time is left, at most LIMIT seconds; its output goes to NAME.log.
step() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  [[ $limit -gt $(left) ]] && limit=$(left)
  timeout --kill-after=5 "$limit" "$@" > "$results/$name.log" 2>&1
  status=$?
  record "$name" "$limit" "$status" $((SECONDS - begin))
}

# side NAME LIMIT COMMAND...: as step, beside others; together() waits for all and records them.
started=()
side() {
  local name=$1 limit=$2
  shift 2
  [[ $limit -gt $(left) ]] && limit=$(left)
  (
    begin=$SECONDS
    timeout --kill-after=5 "$limit" "$@" > "$results/$name.log" 2>&1
    echo "$limit $? $((SECONDS - begin))" > "$results/$name.ended"
  ) &
  started+=("$name")
}
together() {
  wait
  local name
  for name in "${started[@]}"; do
    # shellcheck disable=SC2046
    record "$name" $(cat "$results/$name.ended")
    rm -f "$results/$name.ended"
  done
  started=()
}

skip() {
  note "$1" "skipped: $2" 0
}

if [[ -n $dry ]]; then
  options=(-DQWEN3_CUDA_TESTS=ON)
  targets=(cuda_ops_test gpu_bench_emulated)
  bench="$build/gpu_bench_emulated"
else
  if [[ -z ${ARCH:-} ]]; then
    ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    [[ $ARCH == 90 ]] && ARCH=90a
  fi
  options=(-DQWEN3_CUDA=ON "-DQWEN3_CUDA_ARCHITECTURES=$ARCH")
  targets=(qwen3_cuda gpu_check gpu_bench)
  bench="$build/gpu_bench"
  TAIL=12 step device 20 nvidia-smi
fi

if [[ -n ${BUILT:-} ]]; then
  export QWEN3_CUDA_LIBRARY=${QWEN3_CUDA_LIBRARY:-$BUILT/libqwen3_cuda.so}
else
  step configure 60 cmake -S "$root" -B "$build" -G Ninja -DQWEN3_ADDON=OFF "${options[@]}"
  if ! step build 280 cmake --build "$build" --target "${targets[@]}"; then
    echo "the build failed: $results/build.log"
    exit 1
  fi
fi

if [[ -n $dry ]]; then
  step check 90 "$build/cuda_ops_test" --seed 1
else
  for part in ops stream attention moe sampling backend model loop; do
    side "check-$part" 90 "$build/gpu_check" --part "$part"
  done
  # Those that read results as a program does, once more with launches that do not wait: kernels overlap.
  for part in backend model loop; do
    side "check-$part-overlapped" 90 env CUDA_LAUNCH_BLOCKING=0 "$build/gpu_check" --part "$part"
  done
  together
fi
for tool in ${TOOLS-memcheck racecheck synccheck}; do
  if [[ -n $dry ]]; then
    skip "$tool" 'no GPU'
  elif ! command -v compute-sanitizer > /dev/null; then
    skip "$tool" 'compute-sanitizer was not found'
  else
    for part in ops stream attention moe sampling backend model loop; do
      side "$tool-$part" "${TOOL_SECONDS:-45}" \
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/gpu_check" --small --seed 1 --part "$part"
    done
    together
  fi
done

# The rest of the time measures. Without python3 ours are measured alone.
TAIL=${BENCH_TAIL:-60}
if command -v python3 > /dev/null; then
  arguments=(--bench "$bench" --out "$results/gpu_bench.json" --seconds "$(($(left) - 25))")
  [[ -n $dry ]] && arguments+=(--tiny --dry --rounds 1)
  # shellcheck disable=SC2206
  arguments+=(${BENCH_ARGUMENTS-})
  PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 step bench "$(left)" python3 bench/peers/torch_gpu.py "${arguments[@]}"
else
  step bench "$(left)" "$bench"
fi
echo "results: $results"
exit $failed
