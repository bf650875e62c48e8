#!/usr/bin/env python3
"""gpu_bench and its peers side by side in one run: PyTorch's SDPA (flash and cuDNN), cuBLAS through torch, a loop of it over the
experts, transformers' own Qwen3 (eager, and compiled with a static cache), at the same shapes and alternating with ours.

    python3 bench/peers/torch_gpu.py --bench build-gpu/gpu_bench --out gpu_bench.json [--seconds 240]

Writes one JSON file {"device", "versions", "records", "bars"} after every case, so that a run that is cut short leaves what it
has, and prints the bars. Cases that bars need come first; whole models of the peers, which load and compile for most of a
minute, behind ours. A peer's case that takes longer than --peer-seconds is given up. Without torch the peers' records say so
and ours are measured all the same. --dry stands constant times in the peers' places (for the test of this script).
"""

import argparse
import datetime
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time

from gpu_bars import bars, table

# What the bars need comes first; within a kind as gpu_bench lists them. The compiled peer takes a minute, so it is not left for the end.
FIRST = ["limit/", "model/0.6b/decode/1x512"]
NEEDED = [
    "attention_prefill/", "attention_decode/", "gemm/8b", "gemm/32b", "gemm/4b", "moe/", "stream/8b", "stream/32b",
    "stream/4b", "sample/", "model/8b/decode/1x512", "model/8b/decode/64x512", "model/8b/prefill/8192",
    "model/30b-a3b/decode/1x512", "model/0.6b-full/decode/1x512",
]  # fmt: skip
OTHERS = ["step/", "model/30b-a3b/", "model/0.6b/", "model/8b/", "model/4b/", "model/32b/", "model/"]
# Cases that are another form of ours, measured beside it as a side of its case: what each begins with, the case, the side.
OTHER_FORMS = [("moe/experts_weights_as_rows/", "moe/experts/", "ours_weights_as_rows")]
# Peers' whole models come behind ours of the same part, in this order; what is not named is not worth the time that it takes.
FIRST_MODELS = [("model/0.6b/decode/1x512", "transformers_static")]
OTHER_MODELS = [
    ("model/8b/prefill/8192", "transformers_eager"), ("model/8b/decode/1x512", "transformers_eager"),
    ("model/0.6b/decode/1x512", "transformers_eager"), ("model/4b/decode/1x512", "transformers_eager"),
    ("model/4b/prefill/8192", "transformers_eager"), ("model/30b-a3b/decode/1x512", "transformers_eager"),
]  # fmt: skip


class GpuBench:
    """gpu_bench --serve: one case at a time. A case that does not answer in time costs the process, not the run."""

    def __init__(self, program, tiny, seconds_per_case):
        self._command = [program] + (["--tiny"] if tiny else [])
        self._limit = seconds_per_case
        self.cases = subprocess.run(
            self._command + ["--list"], check=True, capture_output=True, text=True
        ).stdout.split()
        self.device = None
        self._start()

    def _start(self):
        self._process = subprocess.Popen(self._command + ["--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._rest = b""
        header = self._line(60)
        if header is None:
            raise SystemExit("gpu_bench did not start: see its message above")
        self.device = json.loads(header)

    def _line(self, seconds):
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                return None
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def run(self, case):
        try:
            self._process.stdin.write(f"{case}\n".encode())
            self._process.stdin.flush()
            line = self._line(self._limit)
        except BrokenPipeError:
            line = None
        if line is not None:
            return json.loads(line)
        self._process.kill()
        status = self._process.wait()
        self._start()
        # A new process knows no limits yet.
        for limit in ("limit/copy", "limit/read", "limit/matrix"):
            if not case.startswith("limit/"):
                self.run(limit)
        return {"case": case, "side": "ours", "skipped": f"gpu_bench ended ({status}) or took more than {self._limit} s"}

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()


class DryPeers:
    """Stands in for torch: every peer takes 1 ms."""

    versions = {"dry": True}

    def release(self):
        pass

    def of(self, record):
        sides = {
            "attention_prefill": ["sdpa_flash", "sdpa_cudnn"], "attention_decode": ["sdpa_flash"], "gemm": ["cublas"],
            "stream": ["cublas"], "moe": ["cublas_loop"],
        }  # fmt: skip
        return [(side, lambda: 1e-3) for side in sides.get(record["case"].split("/")[0], [])]

    def of_model(self, record):
        return [(side, lambda: 1e-3) for side in ("transformers_eager", "transformers_static")]


class NoPeers:
    def __init__(self, why):
        self.versions = {"torch": None, "reason": why}

    def release(self):
        pass

    def of(self, record):
        return []

    def of_model(self, record):
        return []


def make_peers(dry):
    if dry:
        return DryPeers()
    try:
        from torch_peers import Peers

        return Peers()
    except ImportError as error:
        print(f"the peers are skipped: {error}", file=sys.stderr)
        return NoPeers(str(error))


class Budget:
    """Raises TimeoutError in the block that takes longer: a peer may compile for minutes."""

    def __init__(self, seconds):
        self._seconds = max(seconds, 0.1)

    def _expired(self, *_):
        raise TimeoutError(f"took more than {self._seconds:.0f} s")

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, self._expired)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def measure_peer(side, measure, record, seconds):
    answer = {"case": record["case"], "side": side, "bytes": record.get("bytes", 0), "flops": record.get("flops", 0)}
    try:
        with Budget(seconds):
            taken = measure()
        answer.update(us=taken * 1e6, gb_s=answer["bytes"] / taken / 1e9, tflop_s=answer["flops"] / taken / 1e12)
    except Exception as error:  # a peer that cannot run is a line of the result, not its end
        first = (str(error).splitlines() or [""])[0][:300]
        answer["skipped"] = f"{type(error).__name__}: {first}"
    return answer


def write(path, result):
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    os.replace(path + ".part", path)


def in_order(cases, prefixes):
    """Those that begin as one of the prefixes, in their order."""
    found = {}
    for prefix in prefixes:
        found.update(dict.fromkeys(case for case in cases if case.startswith(prefix)))
    return list(found)


def other_forms(cases, case):
    """[(side, its case)] of what is measured beside ours."""
    found = [(side, begin + case[len(of):]) for begin, of, side in OTHER_FORMS if case.startswith(of)]  # fmt: skip
    return [(side, name) for side, name in found if name in cases]


def run_case(bench, peers, case, rounds, until, peer_seconds):
    """Ours, each other form and peer, ours again, ...: clocks and heat drift over a run, and all sides must see the same."""
    forms = other_forms(bench.cases, case)
    records = []
    for _ in range(rounds):
        ours = bench.run(case)
        records.append(ours)
        sides = peers.of(ours) if "us" in ours else []
        failed = {r["side"] for r in records if "skipped" in r}
        records += [{**bench.run(name), "case": case, "side": side} for side, name in forms if side not in failed]
        for side, measure in sides:
            left = until - time.monotonic()
            if side not in failed and left > 0:
                records.append(measure_peer(side, measure, ours, min(left, peer_seconds)))
        if not (sides or forms) or time.monotonic() > until:
            break
    gc.collect()
    return records


def run_peer_models(peers, models, ours, until, peer_seconds):
    """Yields a record of each of the models of which there is one of ours."""
    model = None
    for case, side in models:
        record = next((r for r in ours if r["case"] == case and "us" in r), None)
        if record is None:
            continue
        if case.split("/")[1] != model:
            model = case.split("/")[1]
            peers.release()
        left = until - time.monotonic()
        if left <= 0:
            yield {"case": case, "side": side, "skipped": "no time was left"}
            continue
        for name, measure in peers.of_model(record):
            if name == side:
                yield measure_peer(side, measure, record, min(left, peer_seconds))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the gpu_bench program")
    parser.add_argument("--out", default="gpu_bench.json")
    parser.add_argument("--seconds", type=float, default=240, help="no case begins later (default 240)")
    parser.add_argument("--case-seconds", type=float, default=120, help="longest wait for one of our cases")
    parser.add_argument("--peer-seconds", type=float, default=60, help="longest measurement of one peer's case")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose names begin so, and the limits")
    parser.add_argument("--tiny", action="store_true", help="gpu_bench's tiny shapes")
    parser.add_argument("--dry", action="store_true", help="constant times instead of torch")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    begin = time.monotonic()
    until = begin + options.seconds
    bench = GpuBench(options.bench, options.tiny, options.case_seconds)
    peers = make_peers(options.dry)
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": bench.device, "versions": peers.versions, "records": [], "bars": [],
    }  # fmt: skip

    def take(records):
        for record in records:
            text = record.get("skipped") or f"{record['us']:.1f} us"
            print(f"{time.monotonic() - begin:6.0f} s  {record['side']:20} {record['case']:40} {text}", flush=True)
        result["records"] += records
        result["bars"] = bars(result["records"])
        write(options.out, result)

    beside = tuple(begin for begin, _, _ in OTHER_FORMS)
    chosen = [
        c for c in bench.cases
        if c != "unload" and not c.startswith(beside) and (c.startswith("limit/") or c.startswith(options.only))
    ]  # fmt: skip
    first = in_order(chosen, FIRST)
    needed = [c for c in in_order(chosen, NEEDED) if c not in first]
    others = [c for c in in_order(chosen, OTHERS + [""]) if c not in first + needed]
    for cases, models in ((first, FIRST_MODELS), (needed, []), (others, OTHER_MODELS)):
        for case in cases:
            if time.monotonic() > until:
                take([{"case": case, "side": "ours", "skipped": "no time was left"}])
            else:
                take(run_case(bench, peers, case, options.rounds, until, options.peer_seconds))
        bench.run("unload")  # the peers need the room
        ours = [record for record in result["records"] if record["side"] == "ours"]
        for record in run_peer_models(peers, models, ours, until, options.peer_seconds):
            take([record])
        peers.release()
    bench.close()
    print(table(result["bars"]))
    measured = sum("us" in record for record in result["records"])
    print(f"{measured} measurements in {time.monotonic() - begin:.0f} s: {options.out}")
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())
