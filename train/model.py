"""Qwen3 (dense and MoE) in PyTorch, plainly from the formulas; parameter names are the published ones."""
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    hidden: int = 256
    layers: int = 3
    q_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    ffn: int = 384            # dense layers
    experts: int = 0          # 0: dense
    active: int = 2
    expert_ffn: int = 128
    vocab: int = 896
    rope_theta: float = 10000.0
    eps: float = 1e-6
    positions: int = 2048

    def to_hf(self):
        """The config.json of this model, every usual field present."""
        moe = self.experts > 0
        out = {
            "architectures": ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"],
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None,
            "head_dim": self.head_dim, "hidden_act": "silu", "hidden_size": self.hidden, "initializer_range": 0.02,
            "intermediate_size": self.ffn, "max_position_embeddings": self.positions,
            "max_window_layers": self.layers, "model_type": "qwen3_moe" if moe else "qwen3",
            "num_attention_heads": self.q_heads, "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads, "rms_norm_eps": self.eps, "rope_scaling": None,
            "rope_theta": self.rope_theta, "sliding_window": None, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True,
            "use_sliding_window": False, "vocab_size": self.vocab}
        if moe:
            out.update({"decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": self.expert_ffn,
                        "norm_topk_prob": True, "num_experts": self.experts, "num_experts_per_tok": self.active,
                        "output_router_logits": False, "router_aux_loss_coef": 0.001})
        return out


NANO = Config()
NANO_MOE = Config(kv_heads=1, experts=8)


class Cache:
    """Keys and values of a batch whose rows are padded on the left; RoPE is relative, so padding costs nothing but a mask."""

    def __init__(self, pad_counts, capacity):
        self.length, self.capacity, self.store = 0, capacity, {}
        hidden = torch.arange(capacity)[None, :] < torch.tensor(pad_counts)[:, None]
        self.padding = torch.zeros(hidden.shape).masked_fill(hidden, -1e9)[:, None, None, None]

    def extend(self, owner, k, v):
        if owner not in self.store:
            shape = (k.shape[0], k.shape[1], self.capacity, k.shape[3])
            self.store[owner] = torch.zeros(shape), torch.zeros(shape)
        keys, values = self.store[owner]
        keys[:, :, self.length - k.shape[2]:self.length] = k
        values[:, :, self.length - v.shape[2]:self.length] = v
        return keys[:, :, :self.length], values[:, :, :self.length]


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(cfg, length):
    inverse = cfg.rope_theta ** (-torch.arange(0, cfg.head_dim, 2).double() / cfg.head_dim)
    angles = torch.outer(torch.arange(length).double(), inverse)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.q_proj = nn.Linear(cfg.hidden, cfg.q_heads * cfg.head_dim, bias=False)
        self.k_proj = nn.Linear(cfg.hidden, cfg.kv_heads * cfg.head_dim, bias=False)
        self.v_proj = nn.Linear(cfg.hidden, cfg.kv_heads * cfg.head_dim, bias=False)
        self.o_proj = nn.Linear(cfg.q_heads * cfg.head_dim, cfg.hidden, bias=False)
        self.q_norm = RMSNorm(cfg.head_dim, cfg.eps)
        self.k_norm = RMSNorm(cfg.head_dim, cfg.eps)

    def forward(self, x, cos, sin, mask, cache=None):
        c, (rows, length, _) = self.cfg, x.shape
        group = c.q_heads // c.kv_heads
        q = self.q_proj(x).view(rows, length, c.q_heads, c.head_dim)
        k = self.k_proj(x).view(rows, length, c.kv_heads, c.head_dim)
        v = self.v_proj(x).view(rows, length, c.kv_heads, c.head_dim).transpose(1, 2)
        q = rotate(self.q_norm(q), cos, sin).transpose(1, 2)
        k = rotate(self.k_norm(k), cos, sin).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        # The queries of one kv head become extra rows of one product: no copy of k and v.
        q = (q * c.head_dim ** -0.5).to(v.dtype).reshape(rows, c.kv_heads, group * length, c.head_dim)
        scores = (q @ k.to(v.dtype).transpose(2, 3)).float().view(rows, c.kv_heads, group, length, -1) + mask
        probs = scores.softmax(-1).to(v.dtype).view(rows, c.kv_heads, group * length, -1)
        out = (probs @ v).view(rows, c.q_heads, length, c.head_dim)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, hidden, ffn):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Softmax over all experts in f32, the best `active`, their weights divided by their sum; no shared expert."""

    def __init__(self, cfg):
        super().__init__()
        self.active = cfg.active
        self.gate = nn.Linear(cfg.hidden, cfg.experts, bias=False)
        self.experts = nn.ModuleList(MLP(cfg.hidden, cfg.expert_ffn) for _ in range(cfg.experts))
        self.balance = None  # load-balance loss of the last forward
        self.load = None     # share of tokens per expert, averaged over recent micro-batches

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        probs = F.linear(x, self.gate.weight).float().softmax(-1)
        weights, chosen = probs.topk(self.active, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # the (token, rank) pairs by expert
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        if self.training:
            # experts * sum(share of tokens * mean probability). The share is taken over several micro-batches
            # (a "global batch"), so that an expert may specialise within one kind of text.
            load = counts.float() / counts.sum()
            self.load = load if self.load is None else 0.9 * self.load + 0.1 * load
            self.balance = len(self.experts) * (self.load * probs.mean(0)).sum()
        token = order // self.active
        runs = x[token].split(counts.tolist())
        out = torch.cat([expert(run) for expert, run in zip(self.experts, runs)])
        out = out.float() * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros(x.shape, dtype=torch.float32).index_add(0, token, out).view(shape)


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden, cfg.eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.hidden, cfg.eps)
        self.mlp = MoE(cfg) if cfg.experts else MLP(cfg.hidden, cfg.ffn)

    def forward(self, x, cos, sin, mask, cache=None):
        dtype = torch.bfloat16 if torch.is_autocast_cpu_enabled() else torch.float32
        x = x + self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x).to(dtype))


class Qwen3(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab, cfg.hidden)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.norm = RMSNorm(cfg.hidden, cfg.eps)
        cos, sin = rope_table(cfg, cfg.positions)
        self.register_buffer("cos", cos[:, None], persistent=False)
        self.register_buffer("sin", sin[:, None], persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * cfg.layers) if deep else 0.02)

    def forward(self, ids, select=None):
        """Logits of every position, or of the positions where the boolean `select` is true. Documents do not share rows."""
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.embed_tokens(ids).float()
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length], mask)
        if select is not None:
            x = x[select]
        return F.linear(self.norm(x), self.embed_tokens.weight)

    def extend(self, ids, cache):
        """Logits of the last position of `ids`, which follows what the cache holds."""
        start, length = cache.length, ids.shape[1]
        cache.length += length
        columns = torch.arange(cache.length)
        hidden = columns[None, :] > columns[start:, None]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[None, None, None] + cache.padding[..., :cache.length]
        x = self.embed_tokens(ids).float()
        for layer in self.layers:
            x = layer(x, self.cos[start:cache.length], self.sin[start:cache.length], mask, cache)
        return F.linear(self.norm(x[:, -1]), self.embed_tokens.weight)

    def balance_loss(self):
        return sum(layer.mlp.balance for layer in self.layers) / len(self.layers)

    def state_for_export(self):
        return {"model." + name: p.detach() for name, p in self.named_parameters()}


def config_dict(cfg):
    return asdict(cfg)
