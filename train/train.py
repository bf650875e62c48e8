"""Trains one model through the four stages: `train.py {nano,nano-moe} RUN_DIR [--seed N]`.

Restarting the same command resumes from RUN_DIR/last.pt. RUN_DIR/plan.json, when present, replaces the plan below.
"""
import argparse
import json
import os
import random
import time

import torch
import torch.nn.functional as F

import chat
from export import CONFIGS
from model import Qwen3
from tokens import Tokenizer, encode_example

HERE = os.path.dirname(os.path.abspath(__file__))
SHARD = 2048          # examples generated and sorted by length at a time
MICRO_TOKENS = 2560   # rows times padded length of one micro-batch
MICRO_BATCHES = 2     # micro-batches of different lengths per step
ANSWER_WEIGHT = 3     # of tokens in short (non-thinking) replies, which would else be 5 % of the loss; the plan may lower it

# (name, last step, kinds of example with most steps and share, answer weight if not the usual). Steps are cumulative.
PLAN = [
    ("base-short", 400, [("plain", 2, 1.0)]),
    ("base", 1000, [("plain", 8, 0.6), ("thinking", 8, 0.4)]),
    ("cot", 2000, [("thinking", 8, 0.97), ("talk", 0, 0.03)]),
    ("fusion", 3200, [("modes", 8, 0.70), ("cut", 8, 0.17), ("thinking", 8, 0.10), ("talk", 0, 0.03)]),
    ("tools", 6500, [("modes", 8, 0.62), ("cut", 8, 0.17), ("thinking", 8, 0.08), ("talk", 0, 0.05), ("tool", 0, 0.08)]),
]
LEARNING_RATE, WARMUP, DECAY_FROM, DECAY_STEPS = 2e-3, 200, 5000, 1500

MAKERS = {
    "plain": lambda rng, n: chat.plain_example(rng, n), "thinking": lambda rng, n: chat.thinking_example(rng, n),
    "direct": lambda rng, n: chat.direct_example(rng, n),
    "modes": lambda rng, n: chat.modes(rng, n), "cut": lambda rng, n: chat.cut_example(rng, n),
    "talk": lambda rng, n: chat.small_talk_example(rng), "tool": lambda rng, n: chat.tool_example(rng)}


def shard(tok, stage, mix, index, seed, answer_weight):
    """Micro-batches of one shard, of like length within, in random order; a pure function of its arguments."""
    rng = random.Random(f"{seed}/{stage}/{index}")
    kinds = rng.choices(mix, [share for _, _, share in mix], k=SHARD)
    examples = [encode_example(tok, MAKERS[kind](rng, n), rng) for kind, n, _ in kinds]
    examples.sort(key=lambda e: len(e[0]) + rng.random())
    batches, rows = [], []
    for example in examples:
        width = -(-max(len(example[0]), 1) // 16) * 16
        if rows and width * (len(rows) + 1) > MICRO_TOKENS:
            batches.append(pad(rows, answer_weight))
            rows = []
        rows.append(example)
    batches.append(pad(rows, answer_weight))
    rng.shuffle(batches)
    return batches


def pad(rows, answer_weight):
    width = -(-max(len(ids) for ids, _ in rows) // 16) * 16
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weight = torch.zeros(len(rows), width)
    for r, (tokens, learn) in enumerate(rows):
        ids[r, :len(tokens)] = torch.tensor(tokens)
        value = answer_weight if sum(learn) < 25 else 1
        weight[r, :len(tokens)] = torch.tensor(learn, dtype=torch.float32) * value
    return ids[:, :-1], ids[:, 1:], weight[:, 1:]


class Stream:
    """Micro-batches of the stage that a step belongs to; its position is saved with the checkpoint."""

    def __init__(self, tok, seed, where=None):
        self.tok, self.seed = tok, seed
        self.stage, self.index, self.at = where or (None, 0, 0)
        self.batches = None

    def next(self, stage, mix, answer_weight):
        if stage != self.stage:
            self.stage, self.index, self.at, self.batches = stage, 0, 0, None
        if self.batches is None or self.at >= len(self.batches):
            if self.batches is not None:
                self.index, self.at = self.index + 1, 0
            self.batches = shard(self.tok, stage, mix, self.index, self.seed, answer_weight)
        self.at += 1
        return self.batches[self.at - 1]

    def where(self):
        return self.stage, self.index, self.at


def learning_rate(step, plan):
    """Warm-up, stable, then a straight line to zero (WSD)."""
    left = plan["decay_from"] + plan["decay_steps"] - step
    return plan["learning_rate"] * min(1.0, (step + 1) / plan["warmup"], max(0.0, left / plan["decay_steps"]))


def load_plan(folder):
    plan = {"stages": PLAN, "learning_rate": LEARNING_RATE, "warmup": WARMUP, "decay_from": DECAY_FROM, "decay_steps": DECAY_STEPS}
    path = os.path.join(folder, "plan.json")
    if os.path.exists(path):
        plan.update(json.load(open(path)))
    return plan


def main():
    args = argparse.ArgumentParser()
    args.add_argument("name", choices=CONFIGS)
    args.add_argument("folder")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
    model = Qwen3(CONFIGS[args.name]).train()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.97), eps=1e-9)
    step, trained, wall, where = 0, 0, 0.0, None
    last = os.path.join(args.folder, "last.pt")
    if os.path.exists(last):
        state = torch.load(last, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, trained, wall, where = state["step"], state["tokens"], state["wall"], state["where"]
    stream = Stream(tok, args.seed, where)
    log = open(os.path.join(args.folder, "train.jsonl"), "a", buffering=1)
    saved = started = time.time()
    plan, total, recent = load_plan(args.folder), 0.0, []
    while True:
        if step % 50 == 0:
            plan = load_plan(args.folder)  # read again, so that a running training can be steered
        if step >= min(plan["stages"][-1][1], plan["decay_from"] + plan["decay_steps"]):
            break
        stage, _, mix, *more = next(s for s in plan["stages"] if step < s[1])
        batches = [stream.next(stage, mix, more[0] if more else ANSWER_WEIGHT) for _ in range(MICRO_BATCHES)]
        weight_sum = sum(w.sum() for _, _, w in batches)
        rate = learning_rate(step, plan)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss_sum = 0.0
        for ids, targets, weight in batches:
            select = weight > 0
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(ids, select)
            loss = (F.cross_entropy(logits.float(), targets[select], reduction="none") * weight[select]).sum() / weight_sum
            loss_sum += loss.item()
            if model.cfg.experts:
                loss = loss + 0.01 / MICRO_BATCHES * model.balance_loss()
            loss.backward()
            trained += ids.numel()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        recent.append(loss_sum)
        now = time.time()
        if step % 50 == 0:
            entry = {"step": step, "stage": stage, "loss": round(sum(recent) / len(recent), 5), "lr": round(rate, 6),
                     "grad": round(float(norm), 3), "tokens": trained, "wall_s": round(wall + now - started)}
            if model.cfg.experts:
                entry["load"] = [[round(float(v), 3) for v in layer.mlp.load] for layer in model.layers]
                entry["balance"] = round(float(model.balance_loss()), 3)
            log.write(json.dumps(entry) + "\n")
            recent = []
        if now - saved > 240:
            save(args.folder, model, optimizer, step, trained, wall + now - started, stream.where())
            saved = now
    save(args.folder, model, optimizer, step, trained, wall + time.time() - started, stream.where())


def save(folder, model, optimizer, step, tokens, wall, where):
    path = os.path.join(folder, "last.pt")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "tokens": tokens,
                "wall": wall, "where": where}, path + ".part")
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main()
