// The experts' products for many rows on sm_90a: the expert's token rows are the rows of a wgmma tile. A tile is up to
// 128 of them times 256 columns, as in the dense layers; where it has 64 or fewer, the second consumer only lets the
// stages pass, so that an expert wastes less than 64 rows of products. See moe_hopper.h for all around it.

#include "cuda/moe_hopper.h"

namespace qwen3::cuda {
namespace {

using namespace moe_hopper;

struct TokensAsRows {
  using R = Ring<kN>;
  static constexpr int kRows = kM, kUnit = 64, kBox = 64;
  QWEN3_DEVICE static int tile_rows(int, int) { return kRows; }
  QWEN3_DEVICE static Shared<Bf16> tokens(int stage) { return R::memory(stage); }
  QWEN3_DEVICE static Shared<Bf16> weights(int stage) { return R::memory(stage) + kRows * kK; }
  template <bool kGateUp>
  QWEN3_DEVICE static void consume(const Product& p, int k_tiles);
};

// Rows of the output that a thread holds, [2]; -1: none.
struct Rows {
  int at[2];
};
template <bool kGateUp>
QWEN3_DEVICE Rows find_rows(const Product& p, const Tile& tile) {
  Rows rows;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = held_row() + h * 8;
    rows.at[h] = row >= tile.count ? -1 : kGateUp ? tile.begin + row : load(p.order + tile.begin + row);
  }
  return rows;
}

template <bool kGateUp>
QWEN3_DEVICE void write_tile(const Accumulator<kN>& acc, const Product& p, const Rows& rows, int tile_column) {
  const int t = thread_index().x % 4, n = kGateUp ? p.n / 2 : p.n, column0 = kGateUp ? tile_column / 2 : tile_column;
  constexpr int kQuads = (kGateUp ? kN / 2 : kN) / 32;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    Bf16* to = p.out + static_cast<int64_t>(rows.at[h]) * n + column0;
    QWEN3_UNROLL
    for (int i = 0; i < kQuads; ++i) {
      const bool inside = rows.at[h] >= 0 && column0 + i * 32 + t * 8 < n;
      uint32_t words[4];
      QWEN3_UNROLL
      for (int u = 0; u < 4; ++u) words[u] = kGateUp ? gated_pair(acc, i * 4 + u, h) : plain_pair(acc, i * 4 + u, h);
      store_quad(to + i * 32, words, inside);
    }
  }
}

template <bool kGateUp>
QWEN3_DEVICE void TokensAsRows::consume(const Product& p, int k_tiles) {
  const int consumer = thread_index().x / 128 - 1;
  Slot slot;
  Hand hand;
  for (Tile tile = hand.take(); tile.count > 0; tile = hand.take()) {
    if (consumer * 64 >= tile.count) {
      R::skip(slot, k_tiles);
      continue;
    }
    Accumulator<kN> acc;
    Rows rows{};
    R::multiply(acc, slot, consumer, k_tiles, [&] { rows = find_rows<kGateUp>(p, tile); });
    write_tile<kGateUp>(acc, p, rows, tile.column0);
  }
}

template <bool kGateUp>
QWEN3_KERNEL(kThreads)
moe_hopper_kernel(QWEN3_GRID_CONSTANT const Product p) {
  work<TokensAsRows, kGateUp>(p);
}

}  // namespace

TensorMap describe_expert(const Bf16* weight, int rows, int k) {
  return describe_matrix(weight, rows, k, kN);
}

void moe_experts_hopper(Stream stream, const MoeOperands& operands, const MoeShape& shape, int multiprocessors) {
  run_experts<TokensAsRows>(stream, operands, shape, multiprocessors, moe_hopper_kernel<true>, "moe_hopper_gate_up",
                            moe_hopper_kernel<false>, "moe_hopper_down");
}

}  // namespace qwen3::cuda
