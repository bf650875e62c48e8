// The emulation of the CUDA primitives against the tables of the PTX ISA (9.0): fragment layouts, swizzling modes,
// matrix descriptors, mbarrier phases, counters. Each on every schedule: all early, all late, and random ones.

#include "cuda_testing.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;

namespace {

void fill_bf16(Random& random, DeviceArray<Bf16>& array) {
  for (Bf16& x : array) x = f32_to_bf16(random.normal());
}

// --- ldmatrix, stmatrix, mma ---

// One warp: D = A B with A [16, 16] and B [16, 8] row major in shared memory, A through ldmatrix, B through
// ldmatrix.trans, D written as the table says.
QWEN3_KERNEL(32) warp_product(const Bf16* a, const Bf16* b, float* d) {
  const int lane = thread_index().x;
  const auto sa = shared_memory<Bf16>(0), sb = shared_memory<Bf16>(512);
  for (int i = lane; i < 256; i += 32) sa.store(i, load(a + i));
  for (int i = lane; i < 128; i += 32) sb.store(i, load(b + i));
  warp_sync();
  uint32_t ra[4], rb[2];
  ldmatrix_x4(ra, sa + (lane % 16 * 16 + lane / 16 * 8));
  ldmatrix_x2_trans(rb, sb + lane % 16 * 8);
  float c[4] = {1, 2, 3, 4};
  mma_bf16(c, ra, rb);
  // PTX ISA: c0, c1 belong to row groupID, c2, c3 to groupID + 8; columns are threadID_in_group * 2 + (i & 1).
  for (int i = 0; i < 4; ++i) store(d + (lane / 4 + (i < 2 ? 0 : 8)) * 8 + lane % 4 * 2 + (i & 1), c[i] - float(i + 1));
}

void test_warp_product(Random& random) {
  DeviceArray<Bf16> a(256), b(128);
  DeviceArray<float> d(128);
  fill_bf16(random, a), fill_bf16(random, b);
  launch(nullptr, "warp_product", warp_product, {{1, 1, 1}, {32, 1, 1}, 768}, a.data(), b.data(), d.data());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double want = 0;
      for (int k = 0; k < 16; ++k) want += double(bf16_to_f32(a[i * 16 + k])) * bf16_to_f32(b[k * 8 + j]);
      CHECK_NEAR(d[i * 8 + j], want, 1e-4);
    }
  }
}

// The register of every element, after the tables for the fragments of mma.m16n8k16 (.bf16): elements a0..a7, b0..b3.
QWEN3_KERNEL(32) table_product(const Bf16* a, const Bf16* b, float* d) {
  const int lane = thread_index().x, group = lane >> 2, in_group = lane % 4;
  uint32_t ra[4] = {}, rb[2] = {};
  for (int i = 0; i < 8; ++i) {
    const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
    const int col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    ra[i / 2] |= static_cast<uint32_t>(load(a + row * 16 + col)) << (i & 1 ? 16 : 0);
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    rb[i / 2] |= static_cast<uint32_t>(load(b + row * 8 + group)) << (i & 1 ? 16 : 0);
  }
  float c[4] = {};
  mma_bf16(c, ra, rb);
  for (int i = 0; i < 4; ++i) store(d + (group + (i < 2 ? 0 : 8)) * 8 + in_group * 2 + (i & 1), c[i]);
}

void test_table_product(Random& random) {
  DeviceArray<Bf16> a(256), b(128);
  DeviceArray<float> d(128);
  fill_bf16(random, a), fill_bf16(random, b);
  launch(nullptr, "table_product", table_product, {{1, 1, 1}, {32, 1, 1}, 0}, a.data(), b.data(), d.data());
  for (int i = 0; i < 128; ++i) {
    double want = 0;
    for (int k = 0; k < 16; ++k) want += double(bf16_to_f32(a[i / 8 * 16 + k])) * bf16_to_f32(b[k * 8 + i % 8]);
    CHECK_NEAR(d[i], want, 1e-4);
  }
}

// stmatrix and ldmatrix are inverse: a round trip through padded rows.
QWEN3_KERNEL(32) store_and_load(uint32_t* out) {
  const int lane = thread_index().x;
  const auto s = shared_memory<Bf16>(0);
  const uint32_t r[4] = {lane * 4u, lane * 4u + 1, lane * 4u + 2, lane * 4u + 3};
  uint32_t back[4], transposed[4];
  stmatrix_x4(s + lane * 8, r);
  warp_sync();
  ldmatrix_x4(back, s + lane * 8);
  ldmatrix_x4_trans(transposed, s + lane * 8);
  for (int i = 0; i < 4; ++i) store(out + lane * 8 + i, back[i]), store(out + lane * 8 + 4 + i, transposed[i]);
}

void test_store_and_load() {
  DeviceArray<uint32_t> out(256);
  launch(nullptr, "store_and_load", store_and_load, {{1, 1, 1}, {32, 1, 1}, 512}, out.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      CHECK(out[lane * 8 + m] == lane * 4 + m);
      // Element (row, col) of matrix m came from lane 4 row + col / 2; transposed, lane 4 r + t holds (2t, r), (2t + 1,
      // r).
      const uint32_t r = lane / 4, t = lane % 4;
      const auto element = [&](uint32_t row, uint32_t col) {
        const uint32_t word = (row * 4 + col / 2) * 4 + m;
        return col % 2 ? word >> 16 : word & 0xffff;
      };
      CHECK(out[lane * 8 + 4 + m] == (element(2 * t, r) | element(2 * t + 1, r) << 16));
    }
  }
}

// --- TMA ---

QWEN3_KERNEL(32) copy_box(QWEN3_GRID_CONSTANT const TensorMap map, int c0, int c1, int elements, Bf16* out) {
  const auto barrier = shared_memory<uint64_t>(0);
  const auto box = shared_memory<Bf16>(1024);
  if (thread_index().x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  warp_sync();
  if (thread_index().x == 0) {
    mbarrier_arrive_expect(barrier, elements * 2);
    tma_load(box, map, barrier, c0, c1);
  }
  mbarrier_wait(barrier, 0);
  for (int i = thread_index().x; i < elements; i += 32) store(out + i, box.load(i));
}

// PTX ISA, "Swizzling modes": 16-byte chunk c of row r lies at chunk c ^ r % 8 (128-byte rows), c ^ r / 2 % 4 (64),
// c ^ r / 4 % 2 (32). Outside of the tensor are zeros.
void test_swizzles(Random& random) {
  const int rows = 21, cols = 128;
  DeviceArray<Bf16> tensor(static_cast<size_t>(rows) * cols);
  for (size_t i = 0; i < tensor.size(); ++i) tensor[i] = static_cast<Bf16>(i + 1);
  for (const Swizzle swizzle : {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128}) {
    const int row_bytes = swizzle == Swizzle::kNone ? 64 : 16 << static_cast<int>(swizzle);
    const int box_cols = row_bytes / 2, box_rows = 16;
    TensorShape shape;
    shape.base = tensor.data(), shape.size[0] = cols, shape.size[1] = rows, shape.stride[0] = cols * 2;
    shape.box[0] = static_cast<uint32_t>(box_cols), shape.box[1] = box_rows, shape.swizzle = swizzle;
    const int c0 = static_cast<int>(random.between(-8, cols - 8)), c1 = static_cast<int>(random.between(-4, 8));
    DeviceArray<Bf16> out(static_cast<size_t>(box_rows * box_cols));
    launch(nullptr, "copy_box", copy_box, {{1, 1, 1}, {32, 1, 1}, 1024 + box_rows * row_bytes},
           encode_tensor_map(shape), c0, c1, box_rows * box_cols, out.data());
    for (int r = 0; r < box_rows; ++r) {
      for (int x = 0; x < box_cols; ++x) {
        int chunk = x / 8;
        if (swizzle == Swizzle::k128) chunk ^= r % 8;
        if (swizzle == Swizzle::k64) chunk ^= r / 2 % 4;
        if (swizzle == Swizzle::k32) chunk ^= r / 4 % 2;
        const bool inside = c0 + x >= 0 && c0 + x < cols && c1 + r >= 0 && c1 + r < rows;
        const Bf16 want = inside ? tensor[static_cast<size_t>((c1 + r) * cols + c0 + x)] : Bf16{0};
        CHECK(out[static_cast<size_t>(r * box_cols + chunk * 8 + x % 8)] == want);
      }
    }
  }
}

// --- wgmma ---

constexpr int kWidth = 32;  // n of the products below

// D [64, 32] = A [64, 64] B [64, 32], through one box (or a row of boxes) per operand.
struct WgmmaCase {
  Swizzle swizzle;
  bool a_mn_major, b_mn_major;
};

template <bool kAMn, bool kBMn>
QWEN3_KERNEL(128)
tma_product(QWEN3_GRID_CONSTANT const TensorMap map_a, QWEN3_GRID_CONSTANT const TensorMap map_b, int span,
            Swizzle swizzle, float* d) {
  const int thread = thread_index().x;
  const auto barrier = shared_memory<uint64_t>(0);
  const auto a = shared_memory<Bf16>(1024), b = shared_memory<Bf16>(1024 + 8192);
  const int per_box = span / 2;  // elements along the contiguous axis
  if (thread == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  block_sync();
  if (thread == 0) {
    mbarrier_arrive_expect(barrier, 64 * 64 * 2 + 64 * kWidth * 2);
    // Boxes of [other axis, per_box] one after another.
    for (int i = 0; i < 64 / per_box; ++i) tma_load(a + i * 64 * per_box, map_a, barrier, i * per_box, 0);
    const int b_contiguous = kBMn ? kWidth : 64, b_rows = kBMn ? 64 : kWidth;
    for (int i = 0; i < b_contiguous / per_box; ++i) tma_load(b + i * b_rows * per_box, map_b, barrier, i * per_box, 0);
  }
  mbarrier_wait(barrier, 0);
  WgmmaRegisters<float, kWidth / 2> acc;
  wgmma_fence();
  for (int k = 0; k < 64; k += 16) {
    // k-major: 16 k are 32 bytes along a row, in box k / per_box. mn-major: 16 rows of `span` bytes further down.
    const auto at = [&](Shared<Bf16> base, bool mn_major, int rows) {
      return mn_major ? base + k * per_box : base + k / per_box * rows * per_box + k % per_box;
    };
    const auto describe = [&](Shared<Bf16> base, bool mn_major, int rows) {
      // mn-major: the next span of mn is the next box (rows x span bytes), the next 8 k are 8 rows below.
      return matrix_descriptor(at(base, mn_major, rows).address(), mn_major ? 64 * span : 16, 8 * span, swizzle);
    };
    wgmma<kWidth, kAMn, kBMn>(acc, describe(a, kAMn, 64), describe(b, kBMn, kWidth), k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  const int warp = thread / 32, lane = thread % 32;
  for (int i = 0; i < kWidth / 2; ++i) {
    const int row = warp * 16 + lane / 4 + ((i & 2) ? 8 : 0), col = i / 4 * 8 + lane % 4 * 2 + (i & 1);
    store(d + row * kWidth + col, acc.get(i));
  }
}

template <bool kAMn, bool kBMn>
void test_wgmma(Random& random, Swizzle swizzle) {
  DeviceArray<Bf16> a(64 * 64), b(64 * kWidth);  // a: [64 m, 64 k] or [k, m]; b: [n, k] or [k, n]
  fill_bf16(random, a), fill_bf16(random, b);
  const int span = 16 << static_cast<int>(swizzle);
  const auto describe = [&](const DeviceArray<Bf16>& x, int cols, int rows) {
    TensorShape s;
    s.base = x.data(), s.size[0] = static_cast<uint64_t>(cols), s.size[1] = static_cast<uint64_t>(rows);
    s.stride[0] = static_cast<uint64_t>(cols) * 2;
    s.box[0] = static_cast<uint32_t>(span / 2), s.box[1] = static_cast<uint32_t>(rows), s.swizzle = swizzle;
    return encode_tensor_map(s);
  };
  if (kBMn && kWidth * 2 < span) return;  // the span is wider than the matrix
  DeviceArray<float> d(64 * kWidth);
  launch(nullptr, "tma_product", tma_product<kAMn, kBMn>, {{1, 1, 1}, {128, 1, 1}, 1024 + 8192 + 4096},
         describe(a, 64, 64), kBMn ? describe(b, kWidth, 64) : describe(b, 64, kWidth), span, swizzle, d.data());
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < kWidth; ++j) {
      double want = 0;
      for (int k = 0; k < 64; ++k) {
        want += double(bf16_to_f32(kAMn ? a[k * 64 + i] : a[i * 64 + k])) *
                bf16_to_f32(kBMn ? b[k * kWidth + j] : b[j * 64 + k]);
      }
      CHECK_NEAR(d[i * kWidth + j], want, 1e-3);
    }
  }
}

// Without a swizzle: core matrices of 8 rows x 16 bytes written by hand, A from registers as well.
QWEN3_KERNEL(128) core_matrix_product(const Bf16* a, const Bf16* b, float* d) {
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const auto sa = shared_memory<Bf16>(0), sb = shared_memory<Bf16>(2048);
  // Core matrix (i, j) of A [64, 16]: i-th 8 rows, j-th 8 columns, at (i * 2 + j) * 128 bytes: leading 128, stride 256.
  for (int i = thread; i < 64 * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    sa.store((row / 8 * 2 + k / 8) * 64 + row % 8 * 8 + k % 8, load(a + i));
  }
  for (int i = thread; i < kWidth * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    sb.store((row / 8 * 2 + k / 8) * 64 + row % 8 * 8 + k % 8, load(b + i));
  }
  fence_proxy_async();
  block_sync();
  WgmmaRegisters<float, kWidth / 2> shared_a, register_a;
  WgmmaRegisters<uint32_t, 4> fragment;
  for (int r = 0; r < 4; ++r) {
    const int row = warp * 16 + lane / 4 + (r & 1 ? 8 : 0), k = lane % 4 * 2 + (r & 2 ? 8 : 0);
    fragment.set(r, load(a + row * 16 + k) | static_cast<uint32_t>(load(a + row * 16 + k + 1)) << 16);
  }
  const uint64_t db = matrix_descriptor(sb.address(), 128, 256, Swizzle::kNone);
  wgmma_fence();
  wgmma<kWidth>(shared_a, matrix_descriptor(sa.address(), 128, 256, Swizzle::kNone), db, false);
  wgmma_commit();
  wgmma<kWidth>(register_a, fragment, db, false);
  wgmma_commit();
  wgmma_wait<1>();
  for (int i = 0; i < kWidth / 2; ++i) {
    const int row = warp * 16 + lane / 4 + ((i & 2) ? 8 : 0), col = i / 4 * 8 + lane % 4 * 2 + (i & 1);
    store(d + row * kWidth + col, shared_a.get(i));
  }
  wgmma_wait<0>();
  for (int i = 0; i < kWidth / 2; ++i) {
    const int row = warp * 16 + lane / 4 + ((i & 2) ? 8 : 0), col = i / 4 * 8 + lane % 4 * 2 + (i & 1);
    store(d + (64 + row) * kWidth + col, register_a.get(i));
  }
}

void test_core_matrices(Random& random) {
  DeviceArray<Bf16> a(64 * 16), b(kWidth * 16);
  DeviceArray<float> d(2 * 64 * kWidth);
  fill_bf16(random, a), fill_bf16(random, b);
  launch(nullptr, "core_matrix_product", core_matrix_product, {{1, 1, 1}, {128, 1, 1}, 4096}, a.data(), b.data(),
         d.data());
  for (int i = 0; i < 64 * kWidth; ++i) {
    double want = 0;
    for (int k = 0; k < 16; ++k)
      want += double(bf16_to_f32(a[i / kWidth * 16 + k])) * bf16_to_f32(b[i % kWidth * 16 + k]);
    CHECK_NEAR(d[i], want, 1e-3);
    CHECK_NEAR(d[64 * kWidth + i], want, 1e-3);
  }
}

// The fields of the descriptor, bit by bit.
void test_descriptor_fields() {
  CHECK(matrix_descriptor(0x12340, 0, 0, Swizzle::kNone) == 0x1234u);
  CHECK(matrix_descriptor(0, 0x80, 0, Swizzle::kNone) == uint64_t{8} << 16);
  CHECK(matrix_descriptor(0, 0, 1024, Swizzle::kNone) == uint64_t{64} << 32);
  CHECK(matrix_descriptor(0, 0, 0, Swizzle::k128) == uint64_t{1} << 62);
  CHECK(matrix_descriptor(0, 0, 0, Swizzle::k64) == uint64_t{2} << 62);
  CHECK(matrix_descriptor(0, 0, 0, Swizzle::k32) == uint64_t{3} << 62);
}

// --- pipelines and counters ---

// Two stages of cp.async and a ring of two mbarriers with a producer warp: the sum of all tiles.
QWEN3_KERNEL(64) ring(QWEN3_GRID_CONSTANT const TensorMap map, int tiles, float* out) {
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  const auto full = shared_memory<uint64_t>(0), empty = shared_memory<uint64_t>(16);
  const auto stages = shared_memory<Bf16>(1024);
  if (thread_index().x == 0) {
    for (int s = 0; s < 2; ++s) mbarrier_init(full + s, 1), mbarrier_init(empty + s, 32);
    fence_mbarrier_init();
  }
  block_sync();
  if (warp == 0) {
    for (int i = 0; i < tiles && lane == 0; ++i) {
      mbarrier_wait(empty + i % 2, (i / 2 & 1) ^ 1);  // the first round passes at once
      mbarrier_arrive_expect(full + i % 2, 8 * 64 * 2);
      tma_load(stages + i % 2 * 512, map, full + i % 2, 0, i * 8);
    }
  } else {
    float sum = 0;
    for (int i = 0; i < tiles; ++i) {
      mbarrier_wait(full + i % 2, i / 2 & 1);
      for (int j = lane; j < 512; j += 32) sum += bf16_value((stages + i % 2 * 512).load(j));
      mbarrier_arrive(empty + i % 2);
    }
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) store(out, sum);
  }
}

void test_ring(Random& random) {
  const int tiles = 7;
  DeviceArray<Bf16> tensor(static_cast<size_t>(tiles) * 8 * 64);
  DeviceArray<float> out(1);
  double want = 0;
  for (Bf16& x : tensor) x = f32_to_bf16(random.normal()), want += bf16_to_f32(x);
  TensorShape shape;
  shape.base = tensor.data(), shape.size[0] = 64, shape.size[1] = tiles * 8, shape.stride[0] = 128;
  shape.box[0] = 64, shape.box[1] = 8, shape.swizzle = Swizzle::k128;
  launch(nullptr, "ring", ring, {{1, 1, 1}, {64, 1, 1}, 1024 + 2048}, encode_tensor_map(shape), tiles, out.data());
  CHECK_NEAR(out[0], want, 1e-2);
  const auto& c = emulate::Session::current().launches.back();
  CHECK(c.global_read_bytes == tiles * 1024 && c.global_read_sectors == tiles * 32);
  CHECK(c.distinct_sectors_read == c.global_read_sectors);
}

// Lanes read words `stride` apart: the conflicts of the textbook.
QWEN3_KERNEL(32) strided(int stride, float* out) {
  const int lane = thread_index().x;
  const auto s = shared_memory<float>(0);
  for (int i = lane; i < 32 * stride; i += 32) s.store(i, 1.0f);
  warp_sync();
  store(out + lane, s.load(lane * stride));
}

void test_counters() {
  DeviceArray<float> out(32);
  const std::pair<int, int> expected[] = {{1, 0}, {2, 1}, {3, 0}, {4, 3}, {8, 7}, {32, 31}, {33, 0}};
  for (const auto& [stride, conflicts] : expected) {
    launch(nullptr, "strided", strided, {{1, 1, 1}, {32, 1, 1}, 32 * 4 * 33}, stride, out.data());
    const auto& c = emulate::Session::current().launches.back();
    CHECK_MSG(c.bank_conflicts == conflicts, std::to_string(stride) + ": " + std::to_string(c.bank_conflicts));
    CHECK(c.global_written_bytes == 128 && c.global_written_sectors == 4);
  }
  // 16-byte accesses go in quarters of a warp: contiguous lanes are free of conflicts.
  uint32_t addresses[32];
  for (uint32_t i = 0; i < 32; ++i) addresses[i] = i * 16;
  CHECK(emulate::shared_wavefronts(addresses, 0xffffffffu, 16) == 4);
  for (uint32_t i = 0; i < 32; ++i) addresses[i] = i * 128;
  CHECK(emulate::shared_wavefronts(addresses, 0xffffffffu, 16) == 32);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  uint64_t stream = 0;
  on_every_schedule([&] {
    Random random(seed(), stream++);
    test_warp_product(random);
    test_table_product(random);
    test_store_and_load();
    test_swizzles(random);
    for (const Swizzle swizzle : {Swizzle::k32, Swizzle::k64, Swizzle::k128}) {
      test_wgmma<false, false>(random, swizzle);
      test_wgmma<true, false>(random, swizzle);
      test_wgmma<false, true>(random, swizzle);
      test_wgmma<true, true>(random, swizzle);
    }
    test_core_matrices(random);
    test_ring(random);
  });
  test_descriptor_fields();
  without_faults([] { test_counters(); });
  return run.finish();
}
