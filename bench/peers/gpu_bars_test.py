"""The bars on synthetic records: python3 bench/peers/gpu_bars_test.py"""

import unittest

from gpu_bars import bars, table


def record(case, us, side="ours", **more):
    return {"case": case, "side": side, "us": us, "bytes": 1e9, "flops": 1e12, **more}


def find(rows, bar, case=None):
    return [row for row in rows if row["bar"] == bar and (case is None or row["case"] == case)]


class BarsTest(unittest.TestCase):
    def test_better_of_two_peers_and_medians(self):
        case = "attention_prefill/32-8-128/1x8192"
        rows = bars([
            record(case, 100, tflop_s=660), record(case, 300, tflop_s=200), record(case, 110, tflop_s=600),
            record("limit/matrix", 1, tflop_s=750), record("limit/matrix", 1, "cublas", tflop_s=800),
            record(case, 120, "sdpa_flash"), record(case, 104.5, "sdpa_cudnn"),
        ])  # fmt: skip
        row = find(rows, "attention prefill", case)[0]
        self.assertAlmostEqual(row["value"], 104.5 / 110)  # the median of ours, the faster peer
        self.assertFalse(row["met"])
        self.assertEqual(find(rows, "attention prefill, rate", case)[0]["value"], 0.75)  # of the faster product

    def test_decode_is_judged_by_bandwidth_or_by_floor(self):
        large, small = "attention_decode/32-8-128/64x8192", "attention_decode/32-8-128/1x8192"
        rows = bars([
            record("limit/copy", 1, gb_s=3000.0), record(large, 500, of_copy=0.93, bytes=2e9),
            record(small, 20, bytes=30e6, of_copy=0.5),
        ])  # fmt: skip
        self.assertTrue(find(rows, "attention decode, 512 MB and more", large)[0]["met"])
        self.assertAlmostEqual(find(rows, "attention decode, below", small)[0]["value"], (1.15 * 10 + 8) / 20)
        self.assertTrue(find(rows, "the limit itself", large)[0]["met"])

    def test_reading_is_a_limit_too_and_no_case_beats_it(self):
        small, beyond = "attention_decode/32-8-128/1x8192", "attention_decode/32-8-128/64x8192"
        rows = bars([
            record("limit/copy", 1, gb_s=2000.0), record("limit/read", 1, gb_s=3000.0),
            record(small, 20, bytes=30e6, of_copy=0.5), record(beyond, 500, bytes=2e9, of_copy=1.1),
        ])  # fmt: skip
        self.assertAlmostEqual(find(rows, "attention decode, below", small)[0]["value"], (1.15 * 10 + 8) / 20)
        self.assertFalse(find(rows, "the limit itself", beyond)[0]["met"])

    def test_shares(self):
        rows = bars([
            record("moe/route/4096", 5), record("moe/block/4096", 100), record("sample/64", 50),
            record("model/8b/decode/64x512", 7000), record("moe/experts/4096", 90, of_matrix=0.72),
            record("moe/experts/4096", 180, "cublas_loop"),
        ])  # fmt: skip
        self.assertFalse(find(rows, "router and permutation")[0]["met"])  # 5 %
        self.assertTrue(find(rows, "sampling, batch 64")[0]["met"])
        self.assertTrue(find(rows, "grouped GEMM", "moe/experts/4096")[0]["met"])
        self.assertEqual(find(rows, "grouped GEMM, peer", "moe/experts/4096")[0]["value"], 2.0)

    def test_nothing_measured_is_said(self):
        rows = bars([{"case": "gemm/8b.qkv/4096", "side": "ours", "skipped": "no time was left"}])
        self.assertTrue(all(row["value"] is None and row["met"] is None for row in rows))
        for bar in ("attention prefill", "GEMM", "weight streaming", "decode, batch 1", "prefill 8k, 8B"):
            self.assertTrue(find(rows, bar), bar)
        self.assertIn("not measured", table(rows))


if __name__ == "__main__":
    unittest.main()
