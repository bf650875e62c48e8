// Mixture of experts: router, counting sort, the experts' products, weighted sum.
//
//   shares = softmax over all experts of x router^T; the top_k of them (ties to the lower id), divided by their sum
//   out += sum over ranks of share * down_e(silu(gate_e x) * up_e x), in rank order
//
// Nothing goes through the host: every grid is sized for the worst case and blocks without work leave at once.

#include "cuda/gemm.h"

namespace qwen3::cuda {
namespace {

// --- router ---
//
// A block takes 16 rows: one mma tile, so that the router's matrix is read once per 16 rows. Eight warps take 8 experts
// at a time each; the scores of a row (at most 256) then fit one warp, 8 per lane, for the softmax and the selection.

constexpr int kRouterRows = 16, kRouterThreads = 256, kMaxExperts = 256;
constexpr int kScoreStride = kMaxExperts + 8;  // rows 8 banks apart

QWEN3_DEVICE void route_scores(const Bf16* x, const Bf16* router, const MoeShape& shape, Shared<float> scores) {
  const int warp = thread_index().x / 32, lane = thread_index().x % 32, group = lane / 4, in_group = lane % 4;
  const int row0 = block_index().x * kRouterRows;
  const Words4 zero{0, 0, 0, 0};
  for (int e0 = warp * 8; e0 < shape.n_experts; e0 += kRouterThreads / 32 * 8) {
    float acc[4] = {};
    for (int begin = 0; begin < shape.hidden; begin += 32) {
      const int at = begin + in_group * 8;
      const bool inside = at < shape.hidden;
      const auto row = [&](int i) {
        const int64_t r = row0 + i;
        return inside && r < shape.n_rows ? load(reinterpret_cast<const Words4*>(x + r * shape.hidden + at)) : zero;
      };
      const Words4 low = row(group), high = row(group + 8);
      const Words4 w =
          inside ? load(reinterpret_cast<const Words4*>(router + int64_t{e0 + group} * shape.hidden + at)) : zero;
      const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
      const uint32_t b0[2] = {w.x, w.y}, b1[2] = {w.z, w.w};
      mma_bf16(acc, a0, b0);
      mma_bf16(acc, a1, b1);
    }
    for (int h = 0; h < 2; ++h) {
      (scores + ((group + h * 8) * kScoreStride + e0 + in_group * 2))
          .as<Float2>()
          .store(0, {acc[h * 2], acc[h * 2 + 1]});
    }
  }
}

// The largest value of the warp and its id, ties to the lower id.
QWEN3_DEVICE void warp_best(float& value, int& id) {
  QWEN3_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    const int other_id = shuffle_xor(id, mask);
    if (other > value || (other == value && other_id < id)) value = other, id = other_id;
  }
}

QWEN3_KERNEL(kRouterThreads)
route_kernel(const Bf16* x, const Bf16* router, MoeShape shape, int32_t* ids, float* shares) {
  const auto scores = shared_memory<float>(0);
  grid_dependency_wait();
  route_scores(x, router, shape, scores);
  block_sync();
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  for (int i = warp; i < kRouterRows; i += kRouterThreads / 32) {
    const int64_t row = block_index().x * kRouterRows + i;
    if (row >= shape.n_rows) break;
    constexpr int N = kMaxExperts / 32;
    const float none = bits_as_f32(0xff800000u);
    float p[N], largest = none, total = 0;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      const int e = j * 32 + lane;
      p[j] = e < shape.n_experts ? scores.load(i * kScoreStride + e) : none;
      largest = maximum(largest, p[j]);
    }
    QWEN3_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) largest = maximum(largest, shuffle_xor(largest, mask));
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      p[j] = p[j] == none ? -1.0f : exp2_approx((p[j] - largest) * 1.44269504f);
      total += p[j] < 0 ? 0.0f : p[j];
    }
    total = warp_sum(total);
    float mine = 0, chosen = 0;  // lane r keeps rank r
    int mine_id = 0;
    for (int rank = 0; rank < shape.top_k; ++rank) {
      float best = -2.0f;
      int id = kMaxExperts;
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (p[j] > best) best = p[j], id = j * 32 + lane;
      }
      warp_best(best, id);
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (id == j * 32 + lane) p[j] = -2.0f;
      }
      if (lane == rank) mine = best, mine_id = id;
      chosen += best;
    }
    if (lane < shape.top_k) {
      store(ids + row * shape.top_k + lane, mine_id);
      store(shares + row * shape.top_k + lane, mine / (shape.norm_topk_prob ? chosen : total));
    }
  }
  grid_dependency_launch();
}

// --- counting sort ---
//
// One block per expert reads all ids (they stay in L2): how many are lower is where its part begins, and a second pass
// writes its assignments in their order. No atomics on positions, no step between blocks, and the result is stable.

constexpr int kSortThreads = 256;

QWEN3_DEVICE int block_exclusive(int value, Shared<int32_t> warps, int& total) {
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  int inclusive = value;
  QWEN3_UNROLL
  for (int delta = 1; delta < 32; delta *= 2) {
    const int below = shuffle_up(inclusive, delta);
    if (lane >= delta) inclusive += below;
  }
  block_sync();  // the sums of the last call have been read
  if (lane == 31) warps.store(warp, inclusive);
  block_sync();
  int before = 0;
  total = 0;
  for (int w = 0; w < kSortThreads / 32; ++w) {
    const int sum = warps.load(w);
    if (w < warp) before += sum;
    total += sum;
  }
  return before + inclusive - value;
}

QWEN3_KERNEL(kSortThreads)
sort_kernel(const int32_t* ids, MoeShape shape, int32_t* order, int32_t* offsets, int32_t* load_total) {
  const auto warps = shared_memory<int32_t>(0);
  const int expert = block_index().x, thread = thread_index().x;
  const int n = (shape.valid_rows ? load(shape.valid_rows) : shape.n_rows) * shape.top_k;
  grid_dependency_wait();
  int lower = 0;
  for (int i = thread; i < n; i += kSortThreads) lower += load(ids + i) < expert ? 1 : 0;
  int begin;
  block_exclusive(lower, warps, begin);
  int placed = 0;
  for (int i0 = 0; i0 < n; i0 += kSortThreads) {
    const int i = i0 + thread;
    const bool mine = i < n && load(ids + i) == expert;
    int count;
    const int at = block_exclusive(mine ? 1 : 0, warps, count);
    if (mine) store(order + begin + placed + at, i);
    placed += count;
  }
  if (thread == 0) {
    store(offsets + expert, begin);
    if (expert == shape.n_experts - 1) store(offsets + shape.n_experts, n);
    atomic_add(load_total + expert, placed);
  }
  grid_dependency_launch();
}

// --- experts ---
//
// Many rows: tiles of 64 rows of one expert x 128 columns, so that an expert's last tile wastes less than 64 rows.
// Block y finds its tile among the experts' counts; there are at most n / 64 + n_experts of them. Rows are gathered by
// index while they are copied to shared memory. Few rows: one block per expert and 16 weight rows, streaming.

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
  const ExpertTile tile = find_tile(p.offsets, p.n_experts, block_index().y);
  if (tile.count == 0) return;
  gemm_tile<kTileRows>(p.x, load(p.weights + tile.expert), expert_rows(p, tile.begin, tile.count), p.k,
                       block_index().x * gemm::kN, {p.out, p.n, p.output});
}

template <int kTiles>
QWEN3_KERNEL(stream::kThreads)
expert_stream_kernel(ExpertProduct p) {
  grid_dependency_wait();
  const int expert = block_index().y;
  const int begin = load(p.offsets + expert), end = load(p.offsets + expert + 1);
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
      const LaunchShape grid{{(p.n + 15) / 16, shape.n_experts, 1}, {stream::kThreads, 1, 1}, shared};
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
      {(p.n + gemm::kN - 1) / gemm::kN, most_tiles, 1}, {gemm::kThreads, 1, 1}, gemm::kSharedBytes<kTileRows>};
  launch(stream, "moe_tiles", expert_tiles_kernel, grid, p);
}

// --- weighted sum ---

// Four neighbouring values.
QWEN3_DEVICE Float4 load4(const float* p) {
  return load(reinterpret_cast<const Float4*>(p));
}
QWEN3_DEVICE Float4 load4(const Bf16* p) {
  const Words2 w = load(reinterpret_cast<const Words2*>(p));
  return {bf16_low(w.x), bf16_high(w.x), bf16_low(w.y), bf16_high(w.y)};
}

template <class T>
QWEN3_KERNEL(256)
combine_experts_kernel(const T* products, const float* shares, MoeShape shape, float* out) {
  const int64_t row = block_index().x;
  grid_dependency_wait();
  for (int i = thread_index().x; i < shape.hidden / 4; i += 256) {
    Float4 sum{0, 0, 0, 0};
    for (int rank = 0; rank < shape.top_k; ++rank) {
      const int64_t assignment = row * shape.top_k + rank;
      const float share = load(shares + assignment);
      const Float4 v = load4(products + assignment * shape.hidden + i * 4);
      sum = {sum.x + share * v.x, sum.y + share * v.y, sum.z + share * v.z, sum.w + share * v.w};
    }
    auto* to = reinterpret_cast<Float4*>(out + row * shape.hidden) + i;
    const Float4 old = load(to);
    store(to, {old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w});
  }
  grid_dependency_launch();
}

}  // namespace

void moe_route(Stream stream, const Bf16* x, const Bf16* router, const MoeShape& shape, int32_t* ids, float* shares) {
  const LaunchShape grid{
      {(shape.n_rows + kRouterRows - 1) / kRouterRows, 1, 1}, {kRouterThreads, 1, 1}, kRouterRows * kScoreStride * 4};
  launch(stream, "moe_route", route_kernel, grid, x, router, shape, ids, shares);
}

void moe_sort(Stream stream, const int32_t* ids, const MoeShape& shape, int32_t* order, int32_t* offsets,
              int32_t* load) {
  const LaunchShape grid{{shape.n_experts, 1, 1}, {kSortThreads, 1, 1}, kSortThreads / 32 * 4};
  launch(stream, "moe_sort", sort_kernel, grid, ids, shape, order, offsets, load);
}

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
  launch(stream, "moe_combine", combine_experts_kernel<float>, {{shape.n_rows, 1, 1}, {256, 1, 1}, 0, true}, products,
         shares, shape, out);
}
void moe_combine(Stream stream, const Bf16* products, const float* shares, const MoeShape& shape, float* out) {
  launch(stream, "moe_combine", combine_experts_kernel<Bf16>, {{shape.n_rows, 1, 1}, {256, 1, 1}, 0, true}, products,
         shares, shape, out);
}

}  // namespace qwen3::cuda
