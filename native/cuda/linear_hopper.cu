// out = x W^T for many rows on sm_90a: TMA, wgmma, persistent blocks. See gemm_hopper.h for the tiling.
//
// One producer thread fetches both operands by TMA. Blocks walk the tiles in bands of rows that share weights in L2.
// Tiles are 256 columns wide, or 128 or 320 where their waves over the multiprocessors end fuller: each output is the
// same sum whatever the width.
//
// What is added to is added in L2, by a reduction that nobody waits for: each element gets one addition, so its bits
// are those of a load, an addition and a store. All blocks come to the end of their tiles together, and loads there are
// as many trips to memory one after the other as registers are few: a quarter of the time of an 8B's o at 4,096 rows.
// Asked into L2 ahead of that (cp.async.bulk.prefetch by the producer), it took 2 to 3 % longer.

#include "cuda/gemm_hopper.h"
#include "cuda/tile_grid.h"

namespace qwen3::cuda {
namespace {

using namespace hopper;

constexpr int kBand = 16;  // of 132 blocks

struct Product {
  LinearShape shape;
  TileGrid grid;
  void* out;
  Output output;
  QWEN3_DEVICE int k_tiles() const { return (shape.k + kK - 1) / kK; }
};

template <int kN>
QWEN3_DEVICE void produce(const TensorMap& x, const TensorMap& weight, const Product& p) {
  using R = Ring<kN>;
  const int k_tiles = p.k_tiles();
  Slot slot;
  for (int tile = block_index().x; tile < p.grid.count(); tile += grid_dim().x) {
    int row, column;
    p.grid.locate(tile, row, column);
    for (int k = 0; k < k_tiles; ++k, R::next(slot)) {
      const auto full = R::full(slot.stage);
      mbarrier_wait(R::empty(slot.stage), slot.parity ^ 1);
      mbarrier_arrive_expect(full, R::kStageElements * 2);
      const auto to = R::memory(slot.stage);
      tma_load(to, x, full, k * kK, row * kM);
      QWEN3_UNROLL
      for (int i = 0; i < kN; i += R::kBox) tma_load(to + (kM + i) * kK, weight, full, k * kK, column * kN + i);
    }
  }
}

// Rows g and g + 8 of the warp's 16, of the tile that begins at column0. add: to what is there.
template <int kN, bool kAdd>
QWEN3_DEVICE void write_f32(const Accumulator<kN>& acc, float* out, int64_t row, const LinearShape& shape,
                            int column0) {
  const int t = thread_index().x % 4, first = column0 + t % 2 * 8 + t / 2 * 4;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int columns = row + h * 8 < shape.n_rows ? shape.n : 0;
    float* const to = out + (row + h * 8) * shape.n;
    QWEN3_UNROLL
    for (int j = 0; j < kN / 8; j += 2) {
      const int a = j * 4 + h * 2, b = a + 4, at = first + j * 8;
      const Float4 v = join_pairs({acc.get(a), acc.get(a + 1)}, {acc.get(b), acc.get(b + 1)});
      if (at >= columns) continue;
      if (kAdd) {
        reduce_add(reinterpret_cast<Float4*>(to + at), v);
      } else {
        store(reinterpret_cast<Float4*>(to + at), v);
      }
    }
  }
}

template <int kN>
QWEN3_DEVICE void write_gated(const Accumulator<kN>& acc, Bf16* out, int64_t row, const LinearShape& shape,
                              int column0) {
  const int t = thread_index().x % 4, n = shape.n / 2;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    Bf16* to = out + (row + h * 8) * n + column0 / 2;
    QWEN3_UNROLL
    for (int i = 0; i < kN / 64; ++i) {
      const bool inside = row + h * 8 < shape.n_rows && column0 / 2 + i * 32 + t * 8 < n;
      const uint32_t words[4] = {gated_pair(acc, i * 4, h), gated_pair(acc, i * 4 + 1, h),
                                 gated_pair(acc, i * 4 + 2, h), gated_pair(acc, i * 4 + 3, h)};
      store_quad(to + i * 32, words, inside);
    }
  }
}

template <int kN>
QWEN3_DEVICE void consume(const Product& p) {
  const int consumer = thread_index().x / 128 - 1, k_tiles = p.k_tiles();
  Slot slot;
  for (int tile = block_index().x; tile < p.grid.count(); tile += grid_dim().x) {
    Accumulator<kN> acc;
    int row = 0, column = 0;
    Ring<kN>::multiply(acc, slot, consumer, k_tiles, [&] { p.grid.locate(tile, row, column); });
    const int64_t first = row * kM + held_row();
    if (p.output == Output::kSiluMul) {
      write_gated<kN>(acc, static_cast<Bf16*>(p.out), first, p.shape, column * kN);
    } else if (p.output == Output::kAddF32) {
      write_f32<kN, true>(acc, static_cast<float*>(p.out), first, p.shape, column * kN);
    } else {
      write_f32<kN, false>(acc, static_cast<float*>(p.out), first, p.shape, column * kN);
    }
  }
}

template <int kN>
QWEN3_KERNEL(kThreads)
linear_hopper_kernel(QWEN3_GRID_CONSTANT const TensorMap x, QWEN3_GRID_CONSTANT const TensorMap weight,
                     QWEN3_GRID_CONSTANT const Product p) {
  if (thread_index().x == 0) {
    tma_prefetch(x), tma_prefetch(weight);
    Ring<kN>::init(1);
  }
  block_sync();
  grid_dependency_wait();
  if (thread_index().x < 128) {
    set_max_registers_down<kProducerRegisters>();
    if (thread_index().x == 0) produce<kN>(x, weight, p);
  } else {
    set_max_registers_up<kConsumerRegisters>();
    consume<kN>(p);
  }
  grid_dependency_launch();
}

template <int kN>
void launch_tiles(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
                  int multiprocessors) {
  const TileGrid grid{(shape.n_rows + kM - 1) / kM, (shape.n + kN - 1) / kN, kBand};
  const int tiles = grid.rows * grid.columns;
  const LaunchShape launch_shape{
      {tiles < multiprocessors ? tiles : multiprocessors, 1, 1}, {kThreads, 1, 1}, Ring<kN>::kSharedBytes, true};
  launch(stream, "linear_hopper", linear_hopper_kernel<kN>, launch_shape,
         describe_matrix(o.x, shape.n_rows, shape.k, kM), describe_matrix(o.weight, shape.n, shape.k, Ring<kN>::kBox),
         Product{shape, grid, o.out, output});
}

// Cycles of all waves of such tiles, per 64 k. A stage takes as long as its products, 4 a column, or its bytes at 56 a
// cycle from L2.
int64_t cycles(const LinearShape& shape, int columns, int multiprocessors) {
  const int64_t tiles = int64_t{(shape.n_rows + kM - 1) / kM} * ((shape.n + columns - 1) / columns);
  const int64_t waves = (tiles + multiprocessors - 1) / multiprocessors;
  const int products = 4 * columns, bytes = (kM + columns) * kK * 2 / 56;
  return waves * (products > bytes ? products : bytes);
}

}  // namespace

int linear_hopper_width(const LinearShape& shape, int multiprocessors) {
  int best = 320;  // of equals the one that reads least
  for (const int columns : {256, 128}) {
    if (cycles(shape, columns, multiprocessors) < cycles(shape, best, multiprocessors)) best = columns;
  }
  return best;
}

void linear_hopper(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
                   int multiprocessors) {
  switch (linear_hopper_width(shape, multiprocessors)) {
    case 128:
      return launch_tiles<128>(stream, o, shape, output, multiprocessors);
    case 256:
      return launch_tiles<256>(stream, o, shape, output, multiprocessors);
    default:
      return launch_tiles<320>(stream, o, shape, output, multiprocessors);
  }
}

}  // namespace qwen3::cuda
