"""Held-out accuracy: `evaluate.py {nano,nano-moe} WEIGHTS [--n 200] [--seeds 1] [--budgets 0,16,...] [--log FILE]`.

WEIGHTS is a checkpoint (.pt) or model.safetensors. Thinking is sampled at temperature 0.6, non-thinking at 0.7 / top-p 0.8,
both top-k 20, as Qwen3 advises; `--same` uses the thinking settings for both.
"""
import argparse
import collections
import json
import os
import time

import torch

from chat import EARLY_STOP, EMPTY_THINK, OPEN, user_turn
from export import CONFIGS
from grade import grade
from model import Qwen3
from safetensors_io import load_bf16
from sample import generate
from tokens import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))


def load(name, path):
    model = Qwen3(CONFIGS[name]).eval()
    step = None
    if path.endswith(".pt"):
        state = torch.load(path, map_location="cpu")
        model.load_state_dict({k: v.bfloat16().float() for k, v in state["model"].items()})
        step = state["step"]
    else:
        model.load_state_dict({k[len("model."):]: v.float() for k, v in load_bf16(path).items()})
    return model, step


class Evaluator:
    def __init__(self, model, problems, batch=250):
        self.model, self.problems, self.batch = model, problems, batch
        self.tok = Tokenizer(os.path.join(HERE, "tokenizer.json"))
        self.end, self.close = self.tok.added["<|im_end|>"], self.tok.added["</think>"]

    def run(self, prompts, limit, seed, break_on=None, **sampling):
        generator = torch.Generator().manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out = [None] * len(prompts)
        for at in range(0, len(order), self.batch):
            rows = order[at:at + self.batch]
            for i, ids in zip(rows, generate(self.model, [prompts[i] for i in rows], limit, self.end, generator, break_on=break_on, **sampling)):
                out[i] = ids
        return out

    def prompt(self, problem, tail=""):
        return self.tok.encode(user_turn(problem["question"]) + OPEN + tail)

    def grades(self, outputs):
        return [grade(self.tok.decode(ids), p["answer"]) for ids, p in zip(outputs, self.problems)]

    def thinking(self, seed):
        out = self.run([self.prompt(p) for p in self.problems], 400, seed)
        return self.grades(out), [ids.index(self.close) - 3 if self.close in ids else len(ids) for ids in out], out

    def non_thinking(self, seed, soft=False, **sampling):
        if soft:
            prompts = [self.tok.encode(user_turn(p["question"] + " /no_think") + OPEN) for p in self.problems]
            out = self.run(prompts, 40, seed, **sampling)
            empty = self.tok.encode(EMPTY_THINK)
            return [g and ids[:len(empty)] == empty for g, ids in zip(self.grades(out), out)]
        return self.grades(self.run([self.prompt(p, EMPTY_THINK) for p in self.problems], 30, seed, **sampling))

    def budgets(self, seed, sizes):
        """The same thoughts cut after each budget; the wrap-up text follows, then the answer."""
        opened = [self.prompt(p, "<think>\n") for p in self.problems]
        thoughts = self.run(opened, max(sizes) + 1, seed, break_on=self.close)
        result, wrap = {}, self.tok.encode(EARLY_STOP)
        for size in sizes:
            prompts = []
            for head, thought in zip(opened, thoughts):
                done = self.close in thought[:size + 1]
                prompts.append(head + (thought[:thought.index(self.close) + 1] if done else thought[:size] + wrap))
            grades = self.grades(self.run(prompts, 40, seed))
            result[size] = round(sum(grades) / len(grades), 4)
        return result


def share(grades):
    return round(sum(grades) / len(grades), 4)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("name", choices=CONFIGS)
    args.add_argument("weights")
    args.add_argument("--n", type=int, default=200)
    args.add_argument("--seeds", type=int, default=1)
    args.add_argument("--budgets", default="")
    args.add_argument("--same", action="store_true")
    args.add_argument("--show", type=int, default=0)
    args.add_argument("--log")
    args = args.parse_args()
    torch.set_num_threads(1)
    began = time.time()
    model, step = load(args.name, args.weights)
    problems = [json.loads(line) for line in open(os.path.join(HERE, "heldout.jsonl"), encoding="utf-8")][:args.n]
    ev = Evaluator(model, problems)
    fast = {} if args.same else {"temperature": 0.7, "top_p": 0.8}
    result = {"model": args.name, "step": step, "n": len(problems), "seeds": args.seeds, "thinking": [], "non_thinking": [], "soft_no_think": []}
    right, of, lengths = collections.Counter(), collections.Counter(), []
    for seed in range(1, args.seeds + 1):
        grades, sizes, out = ev.thinking(seed)
        fast_grades = ev.non_thinking(seed, **fast)
        result["thinking"].append(share(grades))
        result["non_thinking"].append(share(fast_grades))
        result["soft_no_think"].append(share(ev.non_thinking(seed, soft=True, **fast)))
        lengths += sizes
        for p, a, b in zip(problems, grades, fast_grades):
            for key in (f"steps {p['steps']}", p["kind"], p["lang"]):
                of[key] += 1
                right["think " + key] += a
                right["fast " + key] += b
        if seed == 1:
            for p, ok, ids in [x for x in zip(problems, grades, out) if not x[1]][:args.show]:
                print(p["question"], "|", p["answer"], "\n" + ev.tok.decode(ids), "\n")
    result["by"] = {k: [round(right["think " + k] / n, 3), round(right["fast " + k] / n, 3), n] for k, n in sorted(of.items())}
    lengths.sort()
    result["think_tokens"] = {"median": lengths[len(lengths) // 2], "p95": lengths[int(len(lengths) * 0.95)]}
    if args.budgets:
        result["budgets"] = ev.budgets(1, [int(b) for b in args.budgets.split(",")])
    result["took_s"] = round(time.time() - began)
    line = json.dumps(result)
    print(line)
    if args.log:
        open(args.log, "a").write(line + "\n")


if __name__ == "__main__":
    main()
