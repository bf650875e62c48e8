#pragma once

// The experts' products for many rows on sm_90a, as parts of kernels: grouped matrix products by wgmma, in two forms
// that differ in what the rows of a wgmma tile are, the expert's token rows (moe_hopper.cu) or its weight rows
// (moe_hopper_swapped.cu). See gemm_hopper.h for the ring and its warps.
//
// Persistent blocks draw the tiles of all experts from a counter; how many rows each expert has is read on the device.
// A tile is some token rows of one expert times 256 of its weight rows; an expert without rows is not seen. Row tiles
// of an expert run side by side and share its weights in L2. Tiles dealt out in turn would leave the block with the
// fewest half ones at work alone: 8 % of gate and up of 4,096 tokens x 8 over 128 experts, 5 % of down, by simulation.
//
// Gate and up: the token rows are gathered as they are copied, by cp.async of the whole producer warpgroup into the
// swizzled places where wgmma reads them: no permuted copy of x is written. A thread announces a stage when its own
// copies have arrived, two stages after it asked for them. Weights come by TMA. Down: the rows of an expert lie
// together already, so both operands come by TMA; the result goes to the row of its assignment.
//
// A form F has:
//   R                             the ring, a Stages of gemm_hopper.h
//   kRows                         most token rows of a tile
//   tile_rows(rows, row_tiles)    token rows of each tile of an expert that has `rows`; the last one takes what is left
//   kUnit                         token rows are multiplied in multiples of it
//   kBox                          rows of gated that a copy moves; a multiple of kUnit that divides kRows
//   tokens(stage), weights(stage) where they lie, rows of 64 k in the 128-byte swizzle
//   consume<kGateUp>(product, k_tiles)

#include "cuda/gemm_hopper.h"

namespace qwen3::cuda::moe_hopper {

using namespace hopper;

constexpr int kLag = 3;  // stages of a thread's copies in flight
constexpr int kProducers = 128, kN = 256;

struct Product {
  TensorMap rows;  // down: gated
  const Bf16* x;   // gate and up
  const TensorMap* weights;
  const int32_t* order;
  const int32_t* offsets;
  Bf16* out;
  int32_t* drawn;
  int n, k, n_experts, top_k;
};

// Rows [begin, begin + count) of the sorted assignments, weight rows from column0. No rows: there is no tile left.
struct alignas(16) Tile {
  int expert, begin, count, column0;
};

// The tiles in their order: columns of an expert's row tiles, expert by expert. By one thread of a block, which draws
// the second and later ones while it is busy with those before.
template <class F>
class Deck {
 public:
  // offsets, [n_experts + 1], behind the stages.
  QWEN3_DEVICE static Shared<int32_t> offset_table() { return shared_memory<int32_t>(F::R::kSharedBytes); }

  QWEN3_DEVICE Tile first(const Product& p) { return find(block_index().x, p); }
  QWEN3_DEVICE void draw(const Product& p) { drawn_ = atomic_add(p.drawn, 1); }
  QWEN3_DEVICE Tile drawn(const Product& p) {
    const Tile tile = find(grid_dim().x + drawn_, p);
    // As many are drawn as there are tiles: beyond the blocks' first ones, and one by each block that finds none left.
    if (tile.count == 0 && drawn_ == first_ - 1) atomic_add(p.drawn, -first_);
    return tile;
  }

 private:
  // Indices rise.
  QWEN3_DEVICE Tile find(int index, const Product& p) {
    const int columns = (p.n + kN - 1) / kN;
    for (; expert_ < p.n_experts; ++expert_) {
      const int begin = offset_table().load(expert_), rows = offset_table().load(expert_ + 1) - begin;
      const int row_tiles = (rows + F::kRows - 1) / F::kRows, inside = index - first_;
      if (inside < row_tiles * columns) {
        const int each = F::tile_rows(rows, row_tiles), row = inside % row_tiles * each, left = rows - row;
        return {expert_, begin + row, left < each ? left : each, inside / row_tiles * kN};
      }
      first_ += row_tiles * columns;
    }
    return {0, 0, 0, 0};
  }

  int expert_ = 0, first_ = 0;  // tiles before expert_
  int drawn_ = 0;
};

// Hands tiles from the thread that draws them to the warps that work on them, two at a time.
class Hand {
 public:
  // readers: threads. Each lets go of what it has read itself, which once per tile costs nothing.
  QWEN3_DEVICE static void init(int readers) {
    for (int s = 0; s < 2; ++s) mbarrier_init(full(s), 1), mbarrier_init(empty(s), readers);
  }
  QWEN3_DEVICE void give(const Tile& tile) {
    mbarrier_wait(empty(slot_), parity_ ^ 1);
    tiles().store(slot_, tile);
    mbarrier_arrive(full(slot_));
    next();
  }
  QWEN3_DEVICE Tile take() {
    mbarrier_wait(full(slot_), parity_);
    const Tile tile = tiles().load(slot_);
    mbarrier_arrive(empty(slot_));
    next();
    return tile;
  }

 private:
  QWEN3_DEVICE static Shared<uint64_t> full(int slot) { return shared_memory<uint64_t>(128 + slot * 8); }
  QWEN3_DEVICE static Shared<uint64_t> empty(int slot) { return shared_memory<uint64_t>(144 + slot * 8); }
  QWEN3_DEVICE static Shared<Tile> tiles() { return shared_memory<Tile>(160); }
  QWEN3_DEVICE void next() {
    if (slot_ ^= 1; slot_ == 0) parity_ ^= 1;
  }
  int slot_ = 0, parity_ = 0;
};

// One thread: both operands by TMA; of the rows only as many boxes as are multiplied.
template <class F>
QWEN3_DEVICE void produce(const Product& p, int k_tiles) {
  using R = typename F::R;
  Slot slot;
  Deck<F> deck;
  Hand hand;
  Tile tile = deck.first(p);
  for (hand.give(tile); tile.count > 0; hand.give(tile)) {
    deck.draw(p);
    const TensorMap* weight = p.weights + tile.expert;
    tma_acquire(weight);
    const int boxes = (tile.count + F::kBox - 1) / F::kBox;
    for (int k = 0; k < k_tiles; ++k, R::next(slot)) {
      const auto full = R::full(slot.stage);
      mbarrier_wait(R::empty(slot.stage), slot.parity ^ 1);
      mbarrier_arrive_expect(full, (boxes * F::kBox + kN) * kK * 2);
      for (int box = 0; box < boxes; ++box) {
        tma_load(F::tokens(slot.stage) + box * F::kBox * kK, p.rows, full, k * kK, tile.begin + box * F::kBox);
      }
      tma_load(F::weights(slot.stage), *weight, full, k * kK, tile.column0);
    }
    tile = deck.drawn(p);
  }
}

// The producer warpgroup: thread t copies 16 bytes, chunk t % 8, of rows t / 8 + 16 i.
template <class F>
struct Gather {
  uint32_t from[F::kRows / 16];  // of x, in units of 16 bytes
  int count, copied;

  QWEN3_DEVICE void start(const Product& p, const Tile& tile) {
    const int thread = thread_index().x;
    count = tile.count, copied = (count + F::kUnit - 1) / F::kUnit * F::kUnit;
    QWEN3_UNROLL
    for (int i = 0; i < F::kRows / 16; ++i) {
      const int row = thread / 8 + 16 * i;
      const int token = row < count ? load(p.order + tile.begin + row) / p.top_k : 0;
      from[i] = static_cast<uint32_t>(token) * static_cast<uint32_t>(p.k / 8) + static_cast<uint32_t>(thread % 8);
    }
  }
  QWEN3_DEVICE void copy(const Product& p, int stage, int k) const {
    const int thread = thread_index().x, row0 = thread / 8, chunk = thread % 8;
    const bool k_valid = k * kK + chunk * 8 < p.k;
    const auto to = F::tokens(stage) + (row0 * kK + (chunk ^ (row0 & 7)) * 8);
    QWEN3_UNROLL
    for (int i = 0; i < F::kRows / 16; ++i) {
      if (i * 16 % F::kUnit == 0 && i * 16 >= copied) break;  // nobody reads those rows
      const bool valid = k_valid && row0 + 16 * i < count;
      const Bf16* at = p.x + (static_cast<int64_t>(from[i]) + k * (kK / 8)) * 8;
      cp_async16(to + i * 16 * kK, valid ? at : p.x, valid ? 16 : 0);
    }
    cp_async_commit();
  }
};

template <class F>
QWEN3_DEVICE void produce_gathered(const Product& p, int k_tiles) {
  using R = typename F::R;
  const bool first = thread_index().x == 0;
  Slot slot, arrived;  // the stage that is asked for, and the one that is announced next
  int pending = 0;
  const auto announce = [&] {
    fence_proxy_async();  // wgmma reads what cp.async wrote
    mbarrier_arrive(R::full(arrived.stage));
    R::next(arrived), --pending;
  };
  Deck<F> deck;
  Hand given, taken;
  Gather<F> gather;
  if (first) given.give(deck.first(p));
  for (Tile tile = taken.take(); tile.count > 0; tile = taken.take()) {
    const TensorMap* weight = p.weights + tile.expert;
    if (first) {
      deck.draw(p);
      tma_acquire(weight);
    }
    gather.start(p, tile);
    for (int k = 0; k < k_tiles; ++k, R::next(slot)) {
      mbarrier_wait(R::empty(slot.stage), slot.parity ^ 1);
      if (first) {
        mbarrier_arrive_expect(R::full(slot.stage), kN * kK * 2);
        tma_load(F::weights(slot.stage), *weight, R::full(slot.stage), k * kK, tile.column0);
      }
      gather.copy(p, slot.stage, k);
      if (++pending < kLag) continue;
      cp_async_wait<kLag - 1>();
      announce();
    }
    if (first) given.give(deck.drawn(p));
  }
  cp_async_wait<0>();
  while (pending > 0) announce();
}

// What a block does.
template <class F, bool kGateUp>
QWEN3_DEVICE void work(const Product& p) {
  if (thread_index().x == 0) {
    Hand::init(kGateUp ? kThreads : kThreads - kProducers);
    F::R::init(kGateUp ? kProducers + 1 : 1);
  }
  grid_dependency_wait();
  for (int i = thread_index().x; i <= p.n_experts; i += kThreads) {
    Deck<F>::offset_table().store(i, load(p.offsets + i));
  }
  block_sync();
  const int k_tiles = (p.k + kK - 1) / kK;
  if (thread_index().x < kProducers) {
    set_max_registers_down<kProducerRegisters>();
    if constexpr (kGateUp) {
      produce_gathered<F>(p, k_tiles);
    } else if (thread_index().x == 0) {
      produce<F>(p, k_tiles);
    }
  } else {
    set_max_registers_up<kConsumerRegisters>();
    F::template consume<kGateUp>(p, k_tiles);
  }
  grid_dependency_launch();
}

using Kernel = void (*)(Product);

// Both products.
template <class F>
void run_experts(Stream stream, const MoeOperands& o, const MoeShape& shape, int multiprocessors, Kernel gate_up,
                 const char* gate_up_name, Kernel down, const char* down_name) {
  const int assignments = shape.n_rows * shape.top_k;
  const int row_tiles = assignments / F::kRows + (shape.n_experts < assignments ? shape.n_experts : assignments);
  const auto run = [&](Kernel kernel, const char* name, const Product& p) {
    const int most = row_tiles * ((p.n + kN - 1) / kN);
    const LaunchShape grid{{most < multiprocessors ? most : multiprocessors, 1, 1},
                           {kThreads, 1, 1},
                           F::R::kSharedBytes + (p.n_experts + 1) * 4,
                           true};
    launch(stream, name, kernel, grid, p);
  };
  const TensorMap gated = describe_matrix(o.gated, assignments, shape.ffn, F::kBox);
  run(gate_up, gate_up_name,
      {gated, o.x, o.gate_up_maps, o.order, o.offsets, o.gated, o.drawn, 2 * shape.ffn, shape.hidden, shape.n_experts,
       shape.top_k});
  run(down, down_name,
      {gated, nullptr, o.down_maps, o.order, o.offsets, static_cast<Bf16*>(o.products), o.drawn + 1, shape.hidden,
       shape.ffn, shape.n_experts, shape.top_k});
}

}  // namespace qwen3::cuda::moe_hopper
