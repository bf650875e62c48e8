"""What the project asks of a Hopper GPU, computed from the records of one run of torch_gpu.py.

A record is {"case", "side", "us", "bytes", "flops", "of_copy", "of_matrix", ...}, one for each case and side; side "ours" is
gpu_bench's, the others are peers'. A bar's value is a ratio of two sides of one run or a fraction of a limit measured in it.
"""

import re


class Records:
    """Records by case and side; of a pair measured several times the median by time counts."""

    def __init__(self, records):
        found = {}
        for record in records:
            if "us" in record:
                found.setdefault((record["case"], record["side"]), []).append(record)
        self._best = {}
        for key, values in found.items():
            values.sort(key=lambda record: record["us"])
            self._best[key] = values[(len(values) - 1) // 2]

    def get(self, case, side="ours"):
        return self._best.get((case, side))

    def us(self, case, side="ours"):
        record = self.get(case, side)
        return record["us"] if record else None

    def fastest(self, case, sides):
        times = [self.us(case, side) for side in sides]
        return min((t for t in times if t is not None), default=None)

    def of_gemm_rate(self, case):
        """Of the faster product of 8192 x 8192 x 8192 in this run, ours or cuBLAS's."""
        record = self.get(case)
        rates = [limit["tflop_s"] for limit in (self.get("limit/matrix"), self.get("limit/matrix", "cublas")) if limit]
        return record["tflop_s"] / max(rates) if record and rates else None

    def memory_rate(self):
        """GB/s of the faster of reading and copying (read plus written)."""
        return max((limit["gb_s"] for limit in (self.get("limit/read"), self.get("limit/copy")) if limit), default=None)

    def largest_fraction(self):
        """(of_copy, case) of what came nearest to the bandwidth limit, or beyond it; None without one."""
        found = [(r["of_copy"], case) for (case, side), r in self._best.items()
                 if side == "ours" and r.get("of_copy") and r.get("bytes", 0) >= 512e6 and not case.startswith("limit/")]  # fmt: skip
        return max(found, default=None)

    def cases(self, pattern):
        return sorted({case for case, side in self._best if side == "ours" and re.fullmatch(pattern, case)})


def _row(bar, case, what, value, required, reach=None):
    row = {"bar": bar, "case": case, "what": what, "value": value, "required": required}
    if reach is not None:
        row["reach"] = reach
    row["met"] = None if value is None else value >= required
    return row


def _over(a, b):
    return a / b if a is not None and b else None


def _attention(r, add):
    for case in r.cases(r"attention_prefill/.*"):
        peer = r.fastest(case, ["sdpa_flash", "sdpa_cudnn"])
        keys = int(case.rsplit("x", 1)[1])
        if 4096 <= keys <= 32768:
            add("attention prefill", case, "better of SDPA's backends / ours", _over(peer, r.us(case)), 1.0, 1.05)
        if keys >= 8192:
            add("attention prefill, rate", case, "of the bf16 GEMM rate", r.of_gemm_rate(case), 0.0, 0.85)
    rate = r.memory_rate()
    for case in r.cases(r"attention_decode/.*"):
        record = r.get(case)
        if record["bytes"] >= 512e6:
            add("attention decode, 512 MB and more", case, "of the memory's rate", record.get("of_copy"), 0.80, 0.92)
        elif rate:
            floor = record["bytes"] / (rate * 1e3)
            add("attention decode, below", case, "(1.15 x floor + 8 us) / ours", (1.15 * floor + 8) / record["us"], 1.0)


def _products(r, add):
    for case in r.cases(r"gemm/(4b|8b|32b)\..*"):
        add("GEMM", case, "cuBLAS / ours", _over(r.us(case, "cublas"), r.us(case)), 0.95, 1.03)
    for case in r.cases(r"stream/(4b|8b|32b)\..*/(1|8|16)"):
        add("weight streaming", case, "of the memory's rate", r.get(case).get("of_copy"), 0.85, 0.93)


def _experts(r, add):
    for rows, required, reach in ((4096, 0.70, None), (16384, 0.85, 0.92)):
        case = f"moe/experts/{rows}"
        record = r.get(case)
        add("grouped GEMM", case, "of our dense rate", record and record.get("of_matrix"), required, reach)
        add("grouped GEMM, peer", case, "per-expert loop of cuBLAS / ours", _over(r.us(case, "cublas_loop"), r.us(case)), 1.5)
    share = _over(r.us("moe/route/4096"), r.us("moe/block/4096"))
    add("router and permutation", "moe/route/4096", "4 % / its share of the block", share and 0.04 / share, 1.0)


def _models(r, add):
    for model, required, reach in (("8b", 0.75, 0.88), ("30b-a3b", 0.60, 0.80), ("0.6b", 0.40, 0.67)):
        case = f"model/{model}/decode/1x512"
        record = r.get(case)
        add("decode, batch 1", case, "of the bandwidth floor", record and record.get("of_copy"), required, reach)
    case = "model/0.6b/decode/1x512"
    add("decode, batch 1, peer", case, "transformers compiled / ours", _over(r.us(case, "transformers_static"), r.us(case)), 2.0)
    case = "model/8b/prefill/8192"
    add("prefill 8k, 8B", case, "of the GEMM rate", r.of_gemm_rate(case), 0.55, 0.70)
    step, sample = r.us("model/8b/decode/64x512"), r.us("sample/64")
    add("sampling, batch 64", "sample/64", "3 % / its share of a decode step of the 8B", step and sample and 0.03 * step / sample, 1.0)
    add("sampling, batch 64, time", "sample/64", "40 us / ours", sample and 40 / sample, 0.0, 1.0)


def bars(records):
    """Every row of 'Bars on a Hopper GPU': value None where the run lacks what it needs."""
    rows = []
    known = Records(records)

    def add(*row):
        rows.append(_row(*row))

    nearest = known.largest_fraction()
    if nearest:
        add("the limit itself", nearest[1], "the memory's rate / the highest of any case: below 1 the limit is void", 1 / nearest[0], 0.98)
    for part in (_attention, _products, _experts, _models):
        part(known, add)
    # A bar without a single case is listed all the same: a run must not look complete when it is not.
    for bar in ("attention prefill", "attention decode, 512 MB and more", "attention decode, below", "GEMM", "weight streaming"):
        if not any(row["bar"] == bar for row in rows):
            add(bar, "-", "not measured", None, 1.0)
    return rows


def table(rows):
    """The rows as lines of text."""
    lines = []
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        state = {None: "not measured", True: "met", False: "MISSED"}[row["met"]]
        if row["required"] == 0.0 and row["value"] is not None:
            state = "-"
        if row["met"] and row.get("reach") and row["value"] >= row["reach"]:
            state = "reached"
        target = f"{row['required']:.2f}" + (f" (reach {row['reach']:.2f})" if "reach" in row else "")
        lines.append(f"{state:12}  {value:>8}  {target:22}  {row['bar']}: {row['what']} [{row['case']}]")
    return "\n".join(lines)
