#!/usr/bin/env bash
# On a machine with a GPU, from a fresh checkout with CMake, ninja, nvcc and (for the peers) PyTorch: builds libqwen3_cuda.so,
# gpu_check and gpu_bench, checks every operation and whole models, the same under compute-sanitizer, and measures ours beside
# PyTorch's. Every step has a limit of its own and leaves a log; a step that fails or runs out of time does not stop the next.
#   RESULTS=folder   logs, gpu_bench.json and summary.json (default build-gpu/results)
#   SECONDS_IN_ALL   default 570
#   ARCH="90a"       architectures; by default that of the first GPU
#   QWEN3_DRY=1      no GPU: the emulation's programs at tiny shapes and constant peers, to try this script
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=${BUILD:-$root/build-gpu}
results=${RESULTS:-$build/results}
total=${SECONDS_IN_ALL:-570}
dry=${QWEN3_DRY:-}
mkdir -p "$results"
failed=0
steps=()

left() { echo $((total - SECONDS > 1 ? total - SECONDS : 1)); }

# step NAME LIMIT COMMAND...: runs it with what time is left, at most LIMIT seconds; its output goes to NAME.log.
step() {
  local name=$1 limit=$2 begin=$SECONDS status state
  shift 2
  [[ $limit -gt $(left) ]] && limit=$(left)
  timeout --kill-after=5 "$limit" "$@" > "$results/$name.log" 2>&1
  status=$?
  case $status in
    0) state=passed ;;
    124 | 137) state="out of time after $limit s" ;;
    *) state="failed with $status" ;;
  esac
  [[ $status -eq 0 ]] || failed=1
  steps+=("{\"step\": \"$name\", \"state\": \"$state\", \"seconds\": $((SECONDS - begin))}")
  # What there is, even when the next step never ends.
  (IFS=,; printf '{"steps": [%s]}\n' "${steps[*]}") > "$results/summary.json"
  echo "== $name: $state, $((SECONDS - begin)) s ($SECONDS s in all)"
  tail -n "${TAIL:-4}" "$results/$name.log" | sed 's/^/   /'
  return $status
}

skip() {
  steps+=("{\"step\": \"$1\", \"state\": \"skipped: $2\", \"seconds\": 0}")
  echo "== $1: skipped, $2"
}

if [[ -n $dry ]]; then
  options=(-DQWEN3_CUDA_TESTS=ON)
  targets=(cuda_ops_test gpu_bench_emulated)
  check=("$build/cuda_ops_test" --seed 1)
  bench=("$build/gpu_bench_emulated" --tiny)
else
  if [[ -z ${ARCH:-} ]]; then
    ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    [[ $ARCH == 90 ]] && ARCH=90a
  fi
  options=(-DQWEN3_CUDA=ON "-DQWEN3_CUDA_ARCHITECTURES=$ARCH")
  targets=(qwen3_cuda gpu_check gpu_bench)
  check=("$build/gpu_check")
  bench=("$build/gpu_bench")
  step device 20 nvidia-smi
fi

step configure 60 cmake -S "$root" -B "$build" -G Ninja -DQWEN3_ADDON=OFF "${options[@]}"
if ! step build 280 cmake --build "$build" --target "${targets[@]}"; then
  echo "the build failed: $results/build.log"
  exit 1
fi

step check 90 "${check[@]}"
for tool in memcheck racecheck synccheck; do
  if [[ -n $dry ]]; then
    skip "$tool" 'no GPU'
  elif ! command -v compute-sanitizer > /dev/null; then
    skip "$tool" 'compute-sanitizer was not found'
  else
    step "$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 1 "${check[@]}" --small --seed 1
  fi
done

# The rest of the time measures. Without python3 ours are measured alone.
TAIL=60
if command -v python3 > /dev/null; then
  arguments=(--bench "${bench[0]}" --out "$results/gpu_bench.json" --seconds "$(($(left) - 25))")
  [[ -n $dry ]] && arguments+=(--tiny --dry --rounds 1)
  PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 step bench "$(left)" python3 bench/peers/torch_gpu.py "${arguments[@]}"
else
  step bench "$(left)" "${bench[@]}"
fi
echo "results: $results"
exit $failed
