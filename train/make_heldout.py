"""Writes heldout.jsonl: 1,200 problems from the held-out side of the split, seed 2026."""
import json
import os
import random

from data import make_problem

rng, seen = random.Random(2026), set()
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "heldout.jsonl"), "w", encoding="utf-8") as f:
    while len(seen) < 1200:
        p = make_problem(rng, held=True)
        if p["id"] not in seen:
            seen.add(p["id"])
            f.write(json.dumps({k: p[k] for k in ("id", "lang", "kind", "steps", "question", "answer")}, ensure_ascii=False) + "\n")
