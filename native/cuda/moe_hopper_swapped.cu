// The experts' products for many rows on sm_90a, the other way round: the expert's weight rows are the rows of a wgmma
// tile, 256 of them, and its token rows the columns, up to 192. See moe_hopper.h for all around it.
//
// wgmma takes any multiple of 8 columns, so that an expert's rows are rounded up to 16 and not to 64, and are shared
// evenly by as few tiles as hold them: 256 rows are two tiles of 128, 280 two of 144. A stage is 256 rows of the weight
// and as many token rows as the tile has: (256 + columns) * 128 bytes for 256 columns products per k, at 128 columns
// the 48 bytes a cycle of a dense tile, at 192 37.
//
// Each consumer multiplies 128 weight rows in two products of 64, which take groups of 8 rows in turn: a warp then
// holds 32 neighbouring weight rows, in four groups of 8. Group 2 h + q is in the registers 4 j + 2 h + c of product q:
// there lane 4 g + t has its row g for the token rows 8 j + 2 t + c. Of gate and up the groups are gate, up, gate, up.

#include "cuda/moe_hopper.h"

namespace qwen3::cuda {
namespace {

using namespace moe_hopper;

constexpr int kWidest = 192;

struct WeightsAsRows {
  using R = Stages<4, (kN + kWidest) * kK>;  // 224 KB
  static constexpr int kRows = kWidest, kUnit = 16, kBox = 32;
  QWEN3_DEVICE static int tile_rows(int rows, int row_tiles) {
    return ((rows + row_tiles - 1) / row_tiles + kUnit - 1) / kUnit * kUnit;
  }
  QWEN3_DEVICE static Shared<Bf16> weights(int stage) { return R::memory(stage); }
  QWEN3_DEVICE static Shared<Bf16> tokens(int stage) { return R::memory(stage) + kN * kK; }
  template <bool kGateUp>
  QWEN3_DEVICE static void consume(const Product& p, int k_tiles);
};
using R = WeightsAsRows::R;
static_assert(R::kSharedBytes + (256 + 1) * 4 <= 227 * 1024);  // with the offsets of the most experts that there are

// 128 weight rows of a consumer times kWidth token rows. Cleared, not overwritten by the first product: else they would
// be alive in every other width's code of the loop over tiles.
template <int kWidth>
struct Outputs {
  WgmmaRegisters<float, kWidth / 2> part[2];
  QWEN3_DEVICE void clear() {
    QWEN3_UNROLL
    for (int i = 0; i < kWidth / 2; ++i) part[0].set(i, 0), part[1].set(i, 0);
  }
};

// acc += weight rows [128 consumer, 128 consumer + 128) of the tile times its token rows, over k_tiles stages.
// meanwhile(): once, under the first products.
template <int kWidth, class Meanwhile>
QWEN3_DEVICE void multiply(Outputs<kWidth>& acc, Slot& slot, int consumer, int k_tiles, Meanwhile meanwhile) {
  const int lane = thread_index().x % 32;
  int previous = -1;
  for (int k = 0; k < k_tiles; ++k, R::next(slot)) {
    mbarrier_wait(R::full(slot.stage), slot.parity);
    const uint32_t a = (WeightsAsRows::weights(slot.stage) + consumer * (kN / 2) * kK).address();
    const uint32_t b = WeightsAsRows::tokens(slot.stage).address();
    wgmma_fence();
    QWEN3_UNROLL
    for (int step = 0; step < kK / 16; ++step) {  // 16 k are 32 bytes along the swizzled row
      QWEN3_UNROLL
      for (int q = 0; q < 2; ++q) {  // every second group of 8 rows, 1,024 bytes
        wgmma<kWidth>(acc.part[q], matrix_descriptor(a + q * 1024 + step * 32, 16, 2048, Swizzle::k128),
                      matrix_descriptor(b + step * 32, 16, 1024, Swizzle::k128), true);
      }
    }
    wgmma_commit();
    if (k == 0) meanwhile();
    wgmma_wait<1>();  // the products of the stage before are over
    if (previous >= 0 && lane == 0) mbarrier_arrive(R::empty(previous));
    previous = slot.stage;
  }
  wgmma_wait<0>();
  if (lane == 0) mbarrier_arrive(R::empty(previous));
}

// Lanes that differ in `bit` turn a 2 x 2 matrix of words, rows in the lanes.
QWEN3_DEVICE void exchange(uint32_t& a, uint32_t& b, int bit) {
  const bool upper = thread_index().x & bit;
  const uint32_t other = shuffle_xor(upper ? a : b, bit);
  if (upper) {
    a = other;
  } else {
    b = other;
  }
}
// w[i]: what lane 4 g + t has of row g of the i-th of four groups of 8. After it w[i] is of row 4 (g / 4) + i of group
// g % 4: four neighbouring rows, and with those of the lanes that share t whole groups.
QWEN3_DEVICE void turn(uint32_t (&w)[4]) {
  exchange(w[0], w[1], 4), exchange(w[2], w[3], 4);
  exchange(w[0], w[2], 8), exchange(w[1], w[3], 8);
}
// Of four pairs of bf16 the first or the second each.
QWEN3_DEVICE Words2 pick(const uint32_t (&w)[4], int second) {
  if (second) return {(w[0] >> 16) | (w[1] & 0xffff0000u), (w[2] >> 16) | (w[3] & 0xffff0000u)};
  return {(w[0] & 0xffffu) | (w[1] << 16), (w[2] & 0xffffu) | (w[3] << 16)};
}

// Gate and up: rows of the output are those of the sorted assignments. A store writes 32 bytes of eight rows.
template <int kWidth>
QWEN3_DEVICE void write_gated(const Outputs<kWidth>& acc, const Product& p, const Tile& tile) {
  const int thread = thread_index().x, g = thread % 32 / 4, t = thread % 4, n = p.n / 2;
  const int column = tile.column0 / 2 + (thread / 32 - 4) * 16 + g % 2 * 8 + g / 4 * 4;
  QWEN3_UNROLL
  for (int pair = 0; pair < kWidth / 16; ++pair) {  // 16 token rows
    uint32_t w[4];
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = (pair * 2 + i / 2) * 4 + i % 2 * 2;
      const float first = silu(acc.part[0].get(at)) * acc.part[1].get(at);
      w[i] = pack_bf16(first, silu(acc.part[0].get(at + 1)) * acc.part[1].get(at + 1));
    }
    turn(w);
    const int row = pair * 16 + g / 2 % 2 * 8 + t * 2;
    QWEN3_UNROLL
    for (int c = 0; c < 2; ++c) {
      const bool inside = row + c < tile.count && column < n;
      Bf16* to = p.out + static_cast<int64_t>(tile.begin + row + c) * n + column;
      if (inside) store(reinterpret_cast<Words2*>(to), pick(w, c));
    }
  }
}

// Down: rows of the output are those of the assignments. A store writes 64 bytes of four rows.
template <int kWidth>
struct OutputRows {
  static constexpr int kEach = (kWidth + 31) / 32;
  int at[kEach];  // lane l has those of the token rows 32 i + l

  QWEN3_DEVICE void find(const Product& p, const Tile& tile) {
    QWEN3_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int row = i * 32 + thread_index().x % 32;
      at[i] = row < tile.count ? load(p.order + tile.begin + row) : -1;
    }
  }
};
template <int kWidth>
QWEN3_DEVICE void write_products(const Outputs<kWidth>& acc, const Product& p, const OutputRows<kWidth>& rows,
                                 const Tile& tile) {
  const int thread = thread_index().x, g = thread % 32 / 4, t = thread % 4;
  const int column = tile.column0 + (thread / 32 - 4) * 32 + g % 4 * 8 + g / 4 * 4;
  QWEN3_UNROLL
  for (int j = 0; j < kWidth / 8; ++j) {  // 8 token rows
    uint32_t w[4];
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) {
      const auto& part = acc.part[i % 2];
      const int at = j * 4 + i / 2 * 2;
      w[i] = pack_bf16(part.get(at), part.get(at + 1));
    }
    turn(w);
    QWEN3_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int row = shuffle(rows.at[j / 4], j % 4 * 8 + t * 2 + c);
      Bf16* to = p.out + static_cast<int64_t>(row) * p.n + column;
      if (row >= 0 && column < p.n) store(reinterpret_cast<Words2*>(to), pick(w, c));
    }
  }
}

template <bool kGateUp, int kWidth>
QWEN3_DEVICE void consume_tile(const Product& p, Slot& slot, const Tile& tile, int k_tiles) {
  const int consumer = thread_index().x / 128 - 1;
  Outputs<kWidth> acc;
  acc.clear();
  if constexpr (kGateUp) {
    multiply(acc, slot, consumer, k_tiles, [] {});
    write_gated(acc, p, tile);
  } else {
    OutputRows<kWidth> rows{};
    multiply(acc, slot, consumer, k_tiles, [&] { rows.find(p, tile); });
    write_products(acc, p, rows, tile);
  }
}

template <bool kGateUp>
QWEN3_DEVICE void WeightsAsRows::consume(const Product& p, int k_tiles) {
  Slot slot;
  Hand hand;
  for (Tile tile = hand.take(); tile.count > 0; tile = hand.take()) {
    switch ((tile.count + kUnit - 1) / kUnit) {
      case 1:
        consume_tile<kGateUp, 16>(p, slot, tile, k_tiles);
        break;
      case 2:
        consume_tile<kGateUp, 32>(p, slot, tile, k_tiles);
        break;
      case 3:
        consume_tile<kGateUp, 48>(p, slot, tile, k_tiles);
        break;
      case 4:
        consume_tile<kGateUp, 64>(p, slot, tile, k_tiles);
        break;
      case 5:
        consume_tile<kGateUp, 80>(p, slot, tile, k_tiles);
        break;
      case 6:
        consume_tile<kGateUp, 96>(p, slot, tile, k_tiles);
        break;
      case 7:
        consume_tile<kGateUp, 112>(p, slot, tile, k_tiles);
        break;
      case 8:
        consume_tile<kGateUp, 128>(p, slot, tile, k_tiles);
        break;
      case 9:
        consume_tile<kGateUp, 144>(p, slot, tile, k_tiles);
        break;
      case 10:
        consume_tile<kGateUp, 160>(p, slot, tile, k_tiles);
        break;
      case 11:
        consume_tile<kGateUp, 176>(p, slot, tile, k_tiles);
        break;
      default:
        consume_tile<kGateUp, 192>(p, slot, tile, k_tiles);
    }
  }
}

template <bool kGateUp>
QWEN3_KERNEL(kThreads)
moe_hopper_swapped_kernel(QWEN3_GRID_CONSTANT const Product p) {
  work<WeightsAsRows, kGateUp>(p);
}

}  // namespace

void moe_experts_hopper_swapped(Stream stream, const MoeOperands& operands, const MoeShape& shape,
                                int multiprocessors) {
  run_experts<WeightsAsRows>(stream, operands, shape, multiprocessors, moe_hopper_swapped_kernel<true>,
                             "moe_hopper_swapped_gate_up", moe_hopper_swapped_kernel<false>, "moe_hopper_swapped_down");
}

}  // namespace qwen3::cuda
