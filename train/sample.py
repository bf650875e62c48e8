"""Batched sampling from a checkpoint with a key-value cache, for evaluation."""
import torch

from model import Cache


@torch.no_grad()
def generate(model, prompts, limit, stop, generator, temperature=0.6, top_p=0.95, top_k=20, break_on=None):
    """Continues every prompt until `stop` or `limit` tokens; with `break_on`, also after that token."""
    width = max(map(len, prompts))
    cache = Cache([width - len(p) for p in prompts], width + limit)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    alive, out = torch.ones(len(prompts), dtype=torch.bool), [[] for _ in prompts]
    for _ in range(limit):
        token = choose(model.extend(ids, cache), temperature, top_p, top_k, generator)
        for row in alive.nonzero().flatten().tolist():
            out[row].append(int(token[row]))
        alive &= token != stop
        if break_on is not None:
            alive &= token != break_on
        if not alive.any():
            break
        ids = token[:, None]
    return out


def choose(logits, temperature, top_p, top_k, generator):
    if temperature == 0:
        return logits.argmax(-1)
    values, index = (logits.float() / temperature).topk(top_k, -1)
    probs = values.softmax(-1)
    probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
    return index.gather(1, torch.multinomial(probs, 1, generator=generator))[:, 0]
