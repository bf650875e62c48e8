"""Writes a model directory in the usual layout: `export.py {nano,nano-moe} TOKENIZER.json OUT [CHECKPOINT.pt]`.

Without a checkpoint the weights are random.
"""
import json
import os
import shutil
import sys

import torch

from model import NANO, NANO_MOE, Qwen3
from safetensors_io import save_bf16

CONFIGS = {"nano": NANO, "nano-moe": NANO_MOE}


def main(name, tokenizer, out, checkpoint=None):
    torch.manual_seed(0)
    model = Qwen3(CONFIGS[name])
    if checkpoint:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu")["model"])
    os.makedirs(out, exist_ok=True)
    spec = json.load(open(tokenizer, encoding="utf-8"))
    ids = {t["content"]: t["id"] for t in spec["added_tokens"]}
    shutil.copyfile(tokenizer, os.path.join(out, "tokenizer.json"))
    write(out, "config.json", {**model.cfg.to_hf(), "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]})
    write(out, "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": True, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"})
    template = open(os.path.join(os.path.dirname(__file__), "chat_template.jinja"), encoding="utf-8").read()
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    write(out, "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in fields} for t in spec["added_tokens"]},
        "additional_special_tokens": [t["content"] for t in spec["added_tokens"] if t["special"]][1:],
        "bos_token": None, "chat_template": template, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
        "errors": "replace", "model_max_length": model.cfg.positions, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})
    # A reader may map the file at any moment: write beside it, then rename.
    target = os.path.join(out, "model.safetensors")
    save_bf16(target + ".part", model.state_for_export())
    os.replace(target + ".part", target)


def write(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
