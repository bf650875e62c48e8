"""PyTorch's and transformers' side of torch_gpu.py: for a case of gpu_bench, the functions that measure what they do at its shape.

Each returns seconds. Single calls are captured as one CUDA graph over rotating inputs and replayed, as gpu_bench does, so that
neither side pays for launches and the L2 is cold; models are timed by the host's clock around synchronised calls.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

COLD_BYTES = 256e6  # larger than any L2
FAMILY = {  # lib/weights/family.ts: layers, hidden, q heads, KV heads, ffn, experts, top k, tied
    "0.6b": (28, 1024, 16, 8, 3072, 0, 0, True),
    "4b": (36, 2560, 32, 8, 9728, 0, 0, True),
    "8b": (36, 4096, 32, 8, 12288, 0, 0, False),
    "30b-a3b": (48, 2048, 32, 4, 768, 128, 8, False),
    "32b": (64, 5120, 64, 8, 25600, 0, 0, False),
}


def random(*shape, scale=0.05):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def rotating(make, nbytes):
    """Enough copies of make()'s tensors that together they are larger than the L2."""
    return [make() for _ in range(max(1, min(64, int(COLD_BYTES / nbytes) + 1)))]


def graph_seconds(call, nbytes=0.0):
    """Median seconds of call(i), by replays of a graph of enough calls for a millisecond."""
    side = torch.cuda.Stream()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(side):
        call(0)
        begin.record()
        call(1)
        end.record()
    torch.cuda.synchronize()
    wanted = max(1.0 / max(begin.elapsed_time(end), 1e-4), COLD_BYTES / nbytes if nbytes else 1)
    calls = int(max(1, min(256, wanted)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(i)
    samples = []
    for i in range(13):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            samples.append(begin.elapsed_time(end) / 1e3 / calls)
    return statistics.median(samples)


def sdpa(backend, heads, sequences, keys, decode):
    n_q, n_kv, dim = heads
    rows = 1 if decode else keys
    kv_bytes = sequences * keys * n_kv * dim * 4.0

    def make():
        # [batch, tokens, heads, head_dim] as a model has them, seen as SDPA wants them.
        return [random(sequences, keys, n_kv, dim, scale=1).transpose(1, 2) for _ in range(2)]

    q = random(sequences, rows, n_q, dim, scale=1).transpose(1, 2)
    sets = rotating(make, kv_bytes) if decode else [make()]

    def call(i):
        k, v = sets[i % len(sets)]
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=not decode, enable_gqa=n_q != n_kv)

    try:
        call(0)
    except RuntimeError:
        # A backend without grouped queries: K and V are repeated beforehand, and that is not timed.
        sets = [[t.repeat_interleave(n_q // n_kv, dim=1) for t in pair] for pair in sets]
    return graph_seconds(call, kv_bytes if decode else 0)


def cublas(m, n, k):
    weights = rotating(lambda: random(n, k), 2.0 * n * k)
    x = random(m, k)
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    return graph_seconds(lambda i: torch.mm(x, weights[i % len(weights)].t(), out=out), 2.0 * n * k)


def expert_counts(rows, n_experts, top_k):
    ids = torch.rand(rows, n_experts).topk(top_k, dim=1).indices
    return torch.bincount(ids.flatten(), minlength=n_experts).tolist()


def cublas_loop(rows, hidden=2048, ffn=768, n_experts=128, top_k=8):
    """The experts one after another; their rows lie sorted already, which is not timed."""
    gate_up, down = random(n_experts, 2 * ffn, hidden), random(n_experts, hidden, ffn)
    counts = expert_counts(rows, n_experts, top_k)
    x = random(rows * top_k, hidden)
    out = torch.empty_like(x)

    def call(_):
        at = 0
        for expert, n in enumerate(counts):
            if n == 0:
                continue
            both = torch.mm(x[at : at + n], gate_up[expert].t())
            torch.mm(F.silu(both[:, :ffn]) * both[:, ffn:], down[expert].t(), out=out[at : at + n])
            at += n

    return graph_seconds(call)


def grouped_mm(rows, hidden=2048, ffn=768, n_experts=128, top_k=8):
    """torch's own grouped product, where this version has it."""
    product = getattr(F, "grouped_mm", None) or torch._grouped_mm
    gate_up = random(n_experts, 2 * ffn, hidden).transpose(1, 2)
    down = random(n_experts, hidden, ffn).transpose(1, 2)
    ends = torch.tensor(expert_counts(rows, n_experts, top_k)).cumsum(0).to(device="cuda", dtype=torch.int32)
    x = random(rows * top_k, hidden)

    def call(_):
        both = product(x, gate_up, offs=ends)
        product(F.silu(both[:, :ffn]) * both[:, ffn:], down, offs=ends)

    return graph_seconds(call)


def sort_sampling(rows, vocab=151936):
    """Top-k 20, top-p 0.95 at temperature 0.6 with torch's operations."""
    logits = torch.randn(rows, vocab, device="cuda") * 3

    def call(_):
        values, ids = torch.topk(logits / 0.6, 20, dim=-1)
        p = torch.softmax(values, dim=-1)
        p = torch.where(p.cumsum(-1) - p < 0.95, p, torch.zeros_like(p))
        # The exponential race draws without a synchronising call.
        return ids.gather(1, (p / torch.empty_like(p).exponential_(1)).argmax(-1, keepdim=True))

    return graph_seconds(call, rows * vocab * 4.0)


class Transformers:
    """transformers' own Qwen3 and Qwen3-MoE with random weights; the last model is kept."""

    def __init__(self):
        self._name, self._model = None, None

    def release(self):
        self._name, self._model = None, None
        torch.cuda.empty_cache()

    def _load(self, name):
        if self._name == name:
            return self._model
        self.release()
        import transformers

        layers, hidden, n_q, n_kv, ffn, experts, top_k, tied = FAMILY[name]
        active = 3 * ffn * hidden * max(1, experts) + hidden * 128 * (2 * n_q + 2 * n_kv)
        needed = 2 * (layers * active + 2 * 151936 * hidden) * 1.05 + 2e9
        free = torch.cuda.mem_get_info()[0]
        if needed > free:
            raise MemoryError(f"needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free")
        shape = dict(
            vocab_size=151936, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=n_q,
            num_key_value_heads=n_kv, head_dim=128, max_position_embeddings=32768, tie_word_embeddings=tied,
            bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
        )
        if experts:
            config = transformers.Qwen3MoeConfig(
                moe_intermediate_size=ffn, num_experts=experts, num_experts_per_tok=top_k, norm_topk_prob=True, **shape
            )
            make = transformers.Qwen3MoeForCausalLM
        else:
            config = transformers.Qwen3Config(intermediate_size=ffn, **shape)
            make = transformers.Qwen3ForCausalLM
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("cuda"):
                self._model = make(config).eval()
        finally:
            torch.set_default_dtype(before)
        self._name = name
        return self._model

    @torch.inference_mode()
    def prefill(self, name, tokens):
        model = self._load(name)
        ids = torch.randint(0, 151936, (1, tokens), device="cuda")
        samples = []
        for _ in range(4):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1)
            torch.cuda.synchronize()
            samples.append(time.perf_counter() - begin)
        return statistics.median(samples[1:])

    @torch.inference_mode()
    def decode(self, name, sequences, keys, static):
        """Seconds of a step at about `keys` positions: the difference of two generations of different length."""
        model = self._load(name)
        few, more = 4, 20
        ids = torch.randint(0, 151936, (sequences, keys - more), device="cuda")
        options = {"do_sample": False, "pad_token_id": 0}
        if static:
            options["cache_implementation"] = "static"

        def seconds(n):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model.generate(ids, max_new_tokens=n, min_new_tokens=n, **options)
            torch.cuda.synchronize()
            return time.perf_counter() - begin

        # The longer one first: it compiles, for its own cache, which the shorter one then uses; the other way round both compile.
        seconds(more), seconds(few)
        return statistics.median((seconds(more) - seconds(few)) / (more - few) for _ in range(3))


class Peers:
    """of(record): [(side, function that returns seconds)] for one of gpu_bench's records."""

    def __init__(self):
        self._transformers = Transformers()
        self.versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        try:
            import transformers

            self.versions["transformers"] = transformers.__version__
        except ImportError as error:
            self.versions["transformers"] = None
            self._without = str(error)

    def release(self):
        self._transformers.release()

    def of(self, record):
        case = record["case"]
        kind = case.split("/")[0]
        if kind in ("gemm", "stream") or case == "limit/matrix":
            return [("cublas", lambda: cublas(record["m"], record["n"], record["k"]))]
        if kind in ("attention_prefill", "attention_decode"):
            heads = tuple(int(n) for n in case.split("/")[1].split("-"))
            shape = (heads, record["batch"], record["keys"], kind == "attention_decode")
            return [
                ("sdpa_flash", lambda: sdpa(SDPBackend.FLASH_ATTENTION, *shape)),
                ("sdpa_cudnn", lambda: sdpa(SDPBackend.CUDNN_ATTENTION, *shape)),
            ]
        if case.startswith("moe/experts/"):
            rows = record["rows"]
            return [("cublas_loop", lambda: cublas_loop(rows)), ("torch_grouped_mm", lambda: grouped_mm(rows))]
        if kind == "sample":
            rows = int(case.split("/")[1])
            return [("torch_topk", lambda: sort_sampling(rows))]
        return []

    def of_model(self, record):
        """transformers at a case of a whole model; torch_gpu.py chooses which are worth their time."""
        if self.versions["transformers"] is None:
            return [("transformers_eager", self._missing), ("transformers_static", self._missing)]
        peer = self._transformers
        _, name, phase, size = record["case"].split("/")
        if phase == "prefill":
            return [("transformers_eager", lambda: peer.prefill(name, int(size)))]
        sequences, keys = (int(n) for n in size.split("x"))
        return [
            ("transformers_eager", lambda: peer.decode(name, sequences, keys, False)),
            ("transformers_static", lambda: peer.decode(name, sequences, keys, True)),
        ]

    def _missing(self):
        raise ImportError(self._without)
