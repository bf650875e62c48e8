#!/usr/bin/env bash
# On a machine with a GPU: builds libqwen3_cuda.so, gpu_check and gpu_bench from a fresh checkout with CMake, ninja and nvcc alone,
# runs the check (QWEN3_SANITIZER=memcheck|racecheck|synccheck: under compute-sanitizer) and writes the times to gpu_bench.jsonl.
# ARCH chooses the architectures, e.g. ARCH="90a"; by default that of the first GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${ARCH:-} ]]; then
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [[ $ARCH == 90 ]] && ARCH=90a
fi
cmake -S . -B build-gpu -G Ninja -DQWEN3_ADDON=OFF -DQWEN3_CUDA=ON -DQWEN3_CUDA_ARCHITECTURES="$ARCH" > /dev/null
cmake --build build-gpu --target gpu_check gpu_bench qwen3_cuda
if [[ -n ${QWEN3_SANITIZER:-} ]]; then
  compute-sanitizer --tool "$QWEN3_SANITIZER" --error-exitcode 1 build-gpu/gpu_check --seed 1
else
  build-gpu/gpu_check
fi
build-gpu/gpu_bench | tee gpu_bench.jsonl
