#!/bin/sh
# Makes both models from nothing: tokenizer, held-out set, training (resumable), evaluation, model directories.
# Needs /usr/bin/python3 with PyTorch, `regex` and `jinja2`
# (Debian: python3-torch libopenblas0-pthread python3-regex python3-jinja2) and Node for the tokenizer.
# Usage: train/run.sh [RUN_DIR]
set -eu
cd "$(dirname "$0")"
runs=${1:-/tmp/qwen3-nano-runs}
python=/usr/bin/python3
mkdir -p "$runs"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

$python make_corpus.py > "$runs/corpus.txt"
npx tsx make_tokenizer.ts "$runs/corpus.txt" tokenizer.json
$python make_heldout.py
$python verify_chat.py

for name in nano nano-moe; do
  mkdir -p "$runs/$name"
  cp "plans/$name.json" "$runs/$name/plan.json"
  $python train.py "$name" "$runs/$name" &  # one core each
done
wait

for name in nano nano-moe; do
  $python export.py "$name" tokenizer.json "../models/$name" "$runs/$name/last.pt"
  $python evaluate.py "$name" "../models/$name/model.safetensors" --n 1200 --seeds 3 --same \
    --budgets 0,16,32,64,96,128,192,256 --log "logs/$name-final.jsonl"
done
