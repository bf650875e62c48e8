// The experts' products for few rows on sm_90a: only what the chosen experts' weights are, each byte once
// (stream_hopper.h: the tiling).
//
// Persistent blocks walk the chosen experts' tiles of 128 weight rows, and a block asks for the next tile's weights
// while it writes this one's results. Rows of an expert share its weights; more than a stage holds take them again,
// from L2. A tile is never cut along k: how many experts are chosen depends on the step, and the order of a row's sums
// must not.
//
// Which experts are chosen stood before gate and up began: these let down begin only when they have waited for it. So
// down does not wait to see it, nor to ask for weights: its blocks start beside those of gate and up, of which one row
// has fewer than multiprocessors, and what their rings hold, for one row half of down's weights, can be on its way when
// gate and up end. For few rows the last of the experts to bring a column tile adds it up: a kernel less, with its trip
// through memory.

#include <cstddef>

#include "cuda/moe_combine.h"
#include "cuda/stream_hopper.h"

namespace qwen3::cuda {
namespace {

using namespace stream_hopper;

constexpr int kMostExperts = kMoeMostExperts;

struct Product {
  const Bf16* x;
  const TensorMap* weights;
  const int32_t* order;
  const int32_t* offsets;
  void* out;
  int n, k, n_experts, top_k;
  Output output;
  bool down;
  int n_rows;
  MoeCombine combine;  // of down; combine.out null: somebody else does it
};

// The experts that have rows, and where their rows begin; behind the ring.
struct Chosen {
  int at;  // bytes
  static constexpr int kBytes = (2 * kMostExperts + 2) * 4;
  QWEN3_DEVICE Shared<int32_t> expert() const { return shared_memory<int32_t>(at); }
  QWEN3_DEVICE Shared<int32_t> begin() const { return shared_memory<int32_t>(at) + kMostExperts; }
  QWEN3_DEVICE Shared<int32_t> count() const { return shared_memory<int32_t>(at) + 2 * kMostExperts + 1; }

  // By the first warp. Past the L1: the kernel ahead may still run, and has not been waited for.
  QWEN3_DEVICE void find(const int32_t* offsets, int n_experts) const {
    const int lane = thread_index().x;
    int from[kMostExperts / 32], to[kMostExperts / 32];
    QWEN3_UNROLL
    for (int i = 0; i < kMostExperts / 32; ++i) {
      const int e = i * 32 + lane;
      from[i] = e < n_experts ? load_l2(offsets + e) : 0;
      to[i] = e < n_experts ? load_l2(offsets + e + 1) : 0;
    }
    int found = 0;
    QWEN3_UNROLL
    for (int i = 0; i < kMostExperts / 32; ++i) {
      const uint32_t chosen = ballot(to[i] > from[i]);
      const int index = found + popcount(chosen & ((1u << lane) - 1u));
      if (to[i] > from[i]) expert().store(index, i * 32 + lane), begin().store(index, from[i]);
      found += popcount(chosen);
    }
    if (lane == 0) count().store(0, found), begin().store(found, load_l2(offsets + n_experts));
  }
};

// A tile of 128 weight rows of one expert, and its rows [begin, end) of the sorted assignments.
struct Tile {
  int expert, begin, end, n0;
};

// Calls visit(tile) for those of this block.
template <class Visit>
QWEN3_DEVICE void walk(const Product& p, const Chosen& chosen, Visit visit) {
  const int columns = (p.n + kM - 1) / kM, tiles = chosen.count().load() * columns;
  for (int i = block_index().x; i < tiles; i += grid_dim().x) {
    const int index = i / columns;
    visit(Tile{chosen.expert().load(index), chosen.begin().load(index), chosen.begin().load(index + 1),
               i % columns * kM});
  }
}

// Which experts' maps will be needed is not known yet; all of them are 16 KB. From memory, a map would be one more trip
// between the wait and the first weights.
QWEN3_DEVICE void prefetch_maps(const Product& p) {
  const auto* maps = reinterpret_cast<const std::byte*>(p.weights);
  const int parts = p.n_experts * static_cast<int>(sizeof(TensorMap)) / 32;
  for (int i = block_index().x * kThreads + thread_index().x; i < parts; i += grid_dim().x * kThreads) {
    prefetch_l2(maps + i * 32);
  }
}

// The rows that a stage holds at a time, from `begin` on: gate and up read the token's, down writes the assignment's.
template <int kN>
QWEN3_DEVICE TileRows tile_rows(const Product& p, const Tile& tile, int begin) {
  const int left = tile.end - begin;
  return {begin, left < kN ? left : kN, p.down ? nullptr : p.order, p.down ? p.order : nullptr, p.top_k};
}

// Adds up the 128 columns from n0 on if this block's expert is the last of n to bring them. By the consumers.
QWEN3_DEVICE void combine_columns(const Product& p, int n0, int n) {
  if (!last_to_arrive(p.combine.arrived + n0 / kM, n)) return;
  const auto* products = static_cast<const float*>(p.out);
  for (int i = thread_index().x; i < p.n_rows * (kM / 4); i += kConsumers) {
    const int column = n0 + i % (kM / 4) * 4;
    const int64_t row = i / (kM / 4), first = row * p.top_k;
    if (column >= p.n) continue;
    add_products(products + first * p.n + column, p.n, p.combine.shares + first, p.top_k,
                 p.combine.out + row * p.n + column);
  }
}

template <int kN>
QWEN3_KERNEL_OF(kThreads, 2)
moe_stream_hopper_kernel(QWEN3_GRID_CONSTANT const Product p, int stages) {
  const Ring<kN> ring{stages};
  const Chosen chosen{ring.end()};
  if (is_weight_thread()) ring.init();
  if (!p.down) {
    prefetch_maps(p);
    grid_dependency_wait();
    grid_dependency_launch();  // not earlier: that is how down knows that the offsets are there
  }
  if (thread_index().x < 32) chosen.find(p.offsets, p.n_experts);
  block_sync();
  // Whole warps: the neighbours of the weight thread would hold it back.
  if (p.down && (is_consumer() || is_row_copier())) {
    grid_dependency_wait();
    grid_dependency_launch();
  }
  const int k_steps = (p.k + kK - 1) / kK;
  if (is_consumer()) {
    Slot slot;
    walk(p, chosen, [&](const Tile& tile) {
      for (int begin = tile.begin; begin < tile.end; begin += kN) {
        Accumulator<kN> acc;
        multiply_stages<kN>(acc, ring, slot, k_steps, [&](int, int stage) { return ring.rows(stage); });
        write_tile<kN>(acc, tile_rows<kN>(p, tile, begin), {p.out, p.n, p.output}, tile.n0);
      }
      if (p.combine.out) combine_columns(p, tile.n0, chosen.count().load());
    });
  } else if (is_row_copier()) {
    RowCopier<kN> copier(ring);
    walk(p, chosen, [&](const Tile& tile) {
      for (int begin = tile.begin; begin < tile.end; begin += kN) {
        copier.start(p.x, tile_rows<kN>(p, tile, begin), p.k);
        for (int k = 0; k < k_steps; ++k) copier.copy(k * kK);
      }
    });
    copier.finish();
  } else if (is_weight_thread()) {
    Slot slot;
    walk(p, chosen, [&](const Tile& tile) {
      const TensorMap* weight = p.weights + tile.expert;
      tma_acquire(weight);
      for (int begin = tile.begin; begin < tile.end; begin += kN) {
        for (int k = 0; k < k_steps; ++k) ring.fetch_weight(slot, *weight, k * kK, tile.n0);
      }
    });
  }
}

}  // namespace

TensorMap describe_streamed_expert(const Bf16* weight, int rows, int k) {
  return describe_weight(weight, rows, k);
}

bool stream_takes_combine(int n_rows) {
  return n_rows <= 4;
}
int64_t moe_combine_counters(int hidden) {
  return (hidden + kM - 1) / kM;
}

void moe_stream_hopper(Stream stream, const MoeOperands& o, const MoeShape& shape, int multiprocessors,
                       const MoeCombine& combine) {
  const int assignments = shape.n_rows * shape.top_k;
  const int most = shape.n_experts < assignments ? shape.n_experts : assignments;
  const auto run = [&](auto kernel, int stage_bytes, const Product& p) {
    const int tiles = most * ((p.n + kM - 1) / kM), blocks = 2 * multiprocessors;
    const int stages = stages_of(kHalfShared, stage_bytes, Chosen::kBytes);
    const LaunchShape grid{{tiles < blocks ? tiles : blocks, 1, 1},
                           {kThreads, 1, 1},
                           kHeaderBytes + stages * stage_bytes + Chosen::kBytes,
                           true};
    launch(stream, "moe_stream", kernel, grid, p, stages);
  };
  const auto run_rows = [&](const Product& p) {
    if (shape.n_rows <= 8) {
      run(moe_stream_hopper_kernel<8>, Ring<8>::kStageBytes, p);
    } else if (shape.n_rows <= 64) {
      run(moe_stream_hopper_kernel<16>, Ring<16>::kStageBytes, p);
    } else {
      run(moe_stream_hopper_kernel<32>, Ring<32>::kStageBytes, p);
    }
  };
  run_rows({o.x,
            o.gate_up_maps,
            o.order,
            o.offsets,
            o.gated,
            2 * shape.ffn,
            shape.hidden,
            shape.n_experts,
            shape.top_k,
            Output::kSiluMul,
            false,
            shape.n_rows,
            {}});
  run_rows({o.gated, o.down_maps, o.order, o.offsets, o.products, shape.hidden, shape.ffn, shape.n_experts, shape.top_k,
            Output::kStoreF32, true, shape.n_rows, combine});
}

}  // namespace qwen3::cuda
