// Mixture of experts: the experts' products and their weighted sum. Which experts: moe_route.cu.
//
//   out += sum over ranks of share * down_e(silu(gate_e x) * up_e x), in rank order
//
// Nothing goes through the host: every grid is sized for the worst case and blocks without work leave at once.

#include "cuda/linear_stream.h"
#include "cuda/moe_combine.h"

namespace qwen3::cuda {
namespace {

// --- experts ---
//
// Many rows: tiles of 64 rows of one expert x 128 columns, so that an expert's last tile wastes less than 64 rows.
// Block y finds its tile among the experts' counts; there are at most n / 64 + n_experts of them. Rows are gathered by
// index while they are copied to shared memory. Few rows: one block per chosen expert and 16 weight rows, streaming; as
// many as there can be, and each finds its own among the counts, so that an expert without rows costs no block.

constexpr int kTileRows = 64;

// The tile that is the `index`-th when experts' rows are cut into tiles of 64; count 0: there are fewer.
struct ExpertTile {
  int expert, begin, count;
};
QWEN3_DEVICE ExpertTile find_tile(const int32_t* offsets, int n_experts, int index) {
  const int lane = thread_index().x % 32;
  for (int e0 = 0; e0 < n_experts; e0 += 32) {
    const int e = e0 + lane;
    const int begin = e < n_experts ? load(offsets + e) : 0, end = e < n_experts ? load(offsets + e + 1) : 0;
    const int tiles = (end - begin + kTileRows - 1) / kTileRows;
    int inclusive = tiles;
    QWEN3_UNROLL
    for (int delta = 1; delta < 32; delta *= 2) {
      const int below = shuffle_up(inclusive, delta);
      if (lane >= delta) inclusive += below;
    }
    const uint32_t reached = ballot(inclusive > index);
    if (reached) {
      int first = 0;
      while (!(reached >> first & 1u)) ++first;
      const int at = index - (shuffle(inclusive, first) - shuffle(tiles, first));
      const int row = shuffle(begin, first) + at * kTileRows, left = shuffle(end, first) - row;
      return {e0 + first, row, left < kTileRows ? left : kTileRows};
    }
    index -= shuffle(inclusive, 31);
  }
  return {0, 0, 0};
}

struct ExpertProduct {
  const Bf16* x;
  const Bf16* const* weights;
  const int32_t* order;
  const int32_t* offsets;
  void* out;
  int n, k, n_experts, top_k;
  Output output;
};

QWEN3_DEVICE TileRows expert_rows(const ExpertProduct& p, int begin, int count) {
  // gate and up read the token's row; down writes to the assignment's.
  const bool first = p.output == Output::kSiluMul;
  return {begin, count, first ? p.order : nullptr, first ? nullptr : p.order, p.top_k};
}

QWEN3_KERNEL(gemm::kThreads) expert_tiles_kernel(QWEN3_GRID_CONSTANT const ExpertProduct p) {
  grid_dependency_wait();
  grid_dependency_launch();
  const ExpertTile tile = find_tile(p.offsets, p.n_experts, block_index().y);
  if (tile.count == 0) return;
  gemm_tile<kTileRows>(p.x, load(p.weights + tile.expert), expert_rows(p, tile.begin, tile.count), p.k,
                       block_index().x * gemm::kN, {p.out, p.n, p.output});
}

// The index-th expert that has rows, and which; -1: there are fewer.
QWEN3_DEVICE int chosen_expert(const int32_t* offsets, int n_experts, int index, int& begin, int& end) {
  const int lane = thread_index().x % 32;
  for (int e0 = 0; e0 < n_experts; e0 += 32) {
    const int e = e0 + lane;
    const int from = e < n_experts ? load(offsets + e) : 0, to = e < n_experts ? load(offsets + e + 1) : 0;
    const uint32_t chosen = ballot(to > from), below = chosen & ((1u << lane) - 1u);
    const uint32_t mine = ballot(to > from && popcount(below) == index);
    if (mine) {
      const int at = popcount(mine - 1u);
      begin = shuffle(from, at), end = shuffle(to, at);
      return e0 + at;
    }
    index -= popcount(chosen);
  }
  return -1;
}

template <int kTiles>
QWEN3_KERNEL(stream::kThreads)
expert_stream_kernel(ExpertProduct p) {
  grid_dependency_wait();
  grid_dependency_launch();
  int begin = 0, end = 0;
  const int expert = chosen_expert(p.offsets, p.n_experts, block_index().y, begin, end);
  if (expert < 0) return;
  for (int at = begin; at < end; at += kTiles * 8) {
    const int left = end - at;
    if (at > begin) block_sync();  // the sums of the last round have been read
    stream_rows<kTiles>(p.x, load(p.weights + expert), expert_rows(p, at, left < kTiles * 8 ? left : kTiles * 8), p.k,
                        block_index().x * 16, {p.out, p.n, p.output});
  }
}

void run_product(Stream stream, const ExpertProduct& p, const MoeShape& shape, bool few_rows) {
  const int assignments = shape.n_rows * shape.top_k;
  if (few_rows) {
    // Rows of one expert: at most n_rows.
    const auto run = [&](auto kernel, int shared) {
      const int most = shape.n_experts < assignments ? shape.n_experts : assignments;
      const LaunchShape grid{{(p.n + 15) / 16, most, 1}, {stream::kThreads, 1, 1}, shared, true};
      launch(stream, "moe_stream", kernel, grid, p);
    };
    if (shape.n_rows <= 8) {
      run(expert_stream_kernel<1>, stream::kSharedBytes<1>);
    } else if (shape.n_rows <= 16) {
      run(expert_stream_kernel<2>, stream::kSharedBytes<2>);
    } else {
      run(expert_stream_kernel<4>, stream::kSharedBytes<4>);
    }
    return;
  }
  const int most_tiles = assignments / kTileRows + (shape.n_experts < assignments ? shape.n_experts : assignments);
  const LaunchShape grid{
      {(p.n + gemm::kN - 1) / gemm::kN, most_tiles, 1}, {gemm::kThreads, 1, 1}, gemm::kSharedBytes<kTileRows>, true};
  launch(stream, "moe_tiles", expert_tiles_kernel, grid, p);
}

// --- weighted sum ---

constexpr int kCombineThreads = 128;  // of four columns each

template <class T>
QWEN3_KERNEL(kCombineThreads)
combine_experts_kernel(const T* products, const float* shares, MoeShape shape, float* out) {
  const int64_t row = block_index().x, first = row * shape.top_k;
  const int column = (block_index().y * kCombineThreads + thread_index().x) * 4;
  grid_dependency_wait();
  grid_dependency_launch();
  if (column >= shape.hidden) return;
  add_products(products + first * shape.hidden + column, shape.hidden, shares + first, shape.top_k,
               out + row * shape.hidden + column);
}

template <class T>
void run_combine(Stream stream, const T* products, const float* shares, const MoeShape& shape, float* out) {
  const int parts = (shape.hidden / 4 + kCombineThreads - 1) / kCombineThreads;
  launch(stream, "moe_combine", combine_experts_kernel<T>, {{shape.n_rows, parts, 1}, {kCombineThreads, 1, 1}, 0, true},
         products, shares, shape, out);
}

}  // namespace

void moe_experts(Stream stream, const MoeOperands& o, const MoeShape& shape, bool few_rows) {
  run_product(stream,
              {o.x, o.gate_up, o.order, o.offsets, o.gated, 2 * shape.ffn, shape.hidden, shape.n_experts, shape.top_k,
               Output::kSiluMul},
              shape, few_rows);
  run_product(stream,
              {o.gated, o.down, o.order, o.offsets, o.products, shape.hidden, shape.ffn, shape.n_experts, shape.top_k,
               Output::kStoreF32},
              shape, few_rows);
}

void moe_combine(Stream stream, const float* products, const float* shares, const MoeShape& shape, float* out) {
  run_combine(stream, products, shares, shape, out);
}
void moe_combine(Stream stream, const Bf16* products, const float* shares, const MoeShape& shape, float* out) {
  run_combine(stream, products, shares, shape, out);
}

}  // namespace qwen3::cuda
