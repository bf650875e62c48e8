// Mixture of experts, which experts: router and counting sort.
//
//   shares = softmax over all experts of x router^T; the top_k of them (ties to the lower id), divided by their sum
//
// Nothing goes through the host. Many rows: a block takes 16 or 32 rows and all experts, then one block per expert
// sorts. Up to 16 rows, where one multiprocessor would read the router's matrix alone: a block per 8 experts, and the
// last one to finish selects and sorts.

#include "cuda/norm.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

// --- scores ---
//
// The warps take every 8th chunk of 32 k each, so that x and the router's matrix are read once by a block, straight
// into fragments by taking k in the same permuted order in both; their sums are joined in the order of the warps. The
// order along k is one whatever the number of rows.

constexpr int kThreads = 256, kWarps = kThreads / 32, kMaxExperts = 256;
constexpr int kScoreStride = kMaxExperts + 8;  // rows 8 banks apart
constexpr int kJoinTiles = 4;                  // tiles of 8 experts whose sums are joined at a time
constexpr int kJoinStride = kJoinTiles * 8 + 8;

struct GlobalX {
  const Bf16* x;
  int hidden;
  QWEN3_DEVICE Words4 load(int64_t row, int at) const {
    return cuda::load(reinterpret_cast<const Words4*>(x + row * hidden + at));
  }
};
struct SharedX {
  Shared<Bf16> x;
  int stride;
  QWEN3_DEVICE Words4 load(int64_t row, int at) const {
    return (x + static_cast<int>(row) * stride + at).as<Words4>().load();
  }
};

// Rows [row0, row0 + 16 kRowTiles) times experts [e0, e0 + 8 kExpertTiles): scores [rows, kScoreStride], columns from
// 0. sums: [kWarps, 16 kRowTiles, kJoinStride]. X::load(row, at): 8 values of a row.
template <int kRowTiles, int kExpertTiles, class X>
QWEN3_DEVICE void route_scores(const X& x, const Bf16* router, const MoeShape& shape, int row0, int e0,
                               Shared<float> scores, Shared<float> sums) {
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32, group = lane / 4, in_group = lane % 4;
  const Words4 zero{0, 0, 0, 0};
  float acc[kRowTiles][kExpertTiles][4] = {};
  for (int begin = warp * 32; begin < shape.hidden; begin += kWarps * 32) {
    const int at = begin + in_group * 8;
    const bool inside = at < shape.hidden;
    Words4 low[kRowTiles], high[kRowTiles];
    QWEN3_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      const int64_t row = row0 + r * 16 + group;
      low[r] = inside && row < shape.n_rows ? x.load(row, at) : zero;
      high[r] = inside && row + 8 < shape.n_rows ? x.load(row + 8, at) : zero;
    }
    QWEN3_UNROLL
    for (int e = 0; e < kExpertTiles; ++e) {
      const int expert = e0 + e * 8 + group;
      const auto* from = reinterpret_cast<const Words4*>(router + int64_t{expert} * shape.hidden + at);
      const Words4 w = inside && expert < shape.n_experts ? load(from) : zero;
      const uint32_t b0[2] = {w.x, w.y}, b1[2] = {w.z, w.w};
      QWEN3_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        const uint32_t a0[4] = {low[r].x, high[r].x, low[r].y, high[r].y};
        const uint32_t a1[4] = {low[r].z, high[r].z, low[r].w, high[r].w};
        mma_bf16(acc[r][e], a0, b0);
        mma_bf16(acc[r][e], a1, b1);
      }
    }
  }
  constexpr int kRows = kRowTiles * 16, kAtOnce = kExpertTiles < kJoinTiles ? kExpertTiles : kJoinTiles;
  QWEN3_UNROLL
  for (int first = 0; first < kExpertTiles; first += kAtOnce) {
    if (first > 0) block_sync();  // the sums before have been read
    QWEN3_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      QWEN3_UNROLL
      for (int e = 0; e < kAtOnce; ++e) {
        QWEN3_UNROLL
        for (int h = 0; h < 2; ++h) {
          const int row = warp * kRows + r * 16 + group + h * 8;
          (sums + (row * kJoinStride + e * 8 + in_group * 2))
              .as<Float2>()
              .store(0, {acc[r][first + e][h * 2], acc[r][first + e][h * 2 + 1]});
        }
      }
    }
    block_sync();
    for (int i = thread; i < kRows * kAtOnce * 8; i += kThreads) {
      const int row = i / (kAtOnce * 8), column = i % (kAtOnce * 8);
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += sums.load((w * kRows + row) * kJoinStride + column);
      scores.store(row * kScoreStride + first * 8 + column, sum);
    }
  }
}
template <int kRowTiles>
constexpr int kSumBytes = kWarps* kRowTiles * 16 * kJoinStride * 4;

// --- selection ---

// The largest value of the warp and its id, ties to the lower id.
QWEN3_DEVICE void warp_best(float& value, int& id) {
  QWEN3_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    const int other_id = shuffle_xor(id, mask);
    if (other > value || (other == value && other_id < id)) value = other, id = other_id;
  }
}

// One warp: softmax and selection of a row whose scores are in shared memory; at most 256 scores are 8 per lane.
QWEN3_DEVICE void select_experts(Shared<float> scores, const MoeShape& shape, int64_t row, int32_t* ids,
                                 float* shares) {
  const int lane = thread_index().x % 32;
  constexpr int N = kMaxExperts / 32;
  const float none = bits_as_f32(0xff800000u);
  float p[N], largest = none, total = 0;
  QWEN3_UNROLL
  for (int j = 0; j < N; ++j) {
    const int e = j * 32 + lane;
    p[j] = e < shape.n_experts ? scores.load(e) : none;
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

template <int kRowTiles, int kExpertTiles>
QWEN3_KERNEL(kThreads)
route_kernel(const Bf16* x, const Bf16* router, MoeShape shape, int32_t* ids, float* shares) {
  constexpr int kRows = kRowTiles * 16;
  const auto scores = shared_memory<float>(0), sums = scores + kRows * kScoreStride;
  const int row0 = block_index().x * kRows;
  grid_dependency_wait();
  grid_dependency_launch();
  route_scores<kRowTiles, kExpertTiles>(GlobalX{x, shape.hidden}, router, shape, row0, 0, scores, sums);
  block_sync();
  for (int i = thread_index().x / 32; i < kRows && row0 + i < shape.n_rows; i += kWarps) {
    select_experts(scores + i * kScoreStride, shape, row0 + i, ids, shares);
  }
}

// --- counting sort ---
//
// One block per expert reads all ids (they stay in L2): how many are lower is where its part begins, and a second pass
// writes its assignments in their order. No atomics on positions, no step between blocks, and the result is stable.

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
  for (int w = 0; w < kThreads / 32; ++w) {
    const int sum = warps.load(w);
    if (w < warp) before += sum;
    total += sum;
  }
  return before + inclusive - value;
}

QWEN3_KERNEL(kThreads)
sort_kernel(const int32_t* ids, MoeShape shape, int32_t* order, int32_t* offsets, int32_t* load_total) {
  const auto warps = shared_memory<int32_t>(0);
  const int expert = block_index().x, thread = thread_index().x;
  const int n = (shape.valid_rows ? load(shape.valid_rows) : shape.n_rows) * shape.top_k;
  grid_dependency_wait();
  grid_dependency_launch();
  int lower = 0;
  for (int i = thread; i < n; i += kThreads) lower += load(ids + i) < expert ? 1 : 0;
  int begin;
  block_exclusive(lower, warps, begin);
  int placed = 0;
  for (int i0 = 0; i0 < n; i0 += kThreads) {
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
}

// --- both, for few rows ---

constexpr int kFewRows = kMoeFewRows;

// The same sort by one block, whose ids are in shared memory: at most 256 assignments, each finds its place alone.
QWEN3_DEVICE void sort_few(Shared<int32_t> ids, int n, const MoeShape& shape, int32_t* order, int32_t* offsets,
                           int32_t* load_total) {
  const int thread = thread_index().x;
  if (thread < n) {
    const int expert = ids.load(thread);
    int at = 0;
    for (int i = 0; i < n; ++i) {
      const int other = ids.load(i);
      at += other < expert || (other == expert && i < thread) ? 1 : 0;
    }
    store(order + at, thread);
  }
  for (int e = thread; e <= shape.n_experts; e += kThreads) {
    int lower = 0, mine = 0;
    for (int i = 0; i < n; ++i) lower += ids.load(i) < e ? 1 : 0, mine += ids.load(i) == e ? 1 : 0;
    store(offsets + e, lower);
    if (mine > 0) atomic_add(load_total + e, mine);
  }
}

// kNorm: x is what it normalises itself; block r writes row r for the experts.
template <bool kNorm>
QWEN3_KERNEL_OF(kThreads, 2)
route_few_kernel(const Bf16* x, const Bf16* router, MoeShape shape, RouteFew to, RouteNorm norm, NormLayout layout) {
  const auto scores = shared_memory<float>(0), sums = scores + kFewRows * kScoreStride;
  const auto last = shared_memory<int32_t>(0);
  const int thread = thread_index().x, e0 = block_index().x * 8;
  grid_dependency_launch();
  if constexpr (kNorm) fetch_norm_weight(norm.weight, layout, shape.hidden);
  grid_dependency_wait();
  const int n_rows = shape.valid_rows ? load(shape.valid_rows) : shape.n_rows;
  if constexpr (kNorm) {
    normalise_rows(
        norm.residual, [](int r) { return int64_t{r}; }, shape.n_rows, shape.hidden, norm.eps, layout, scores);
    block_sync();
    const SharedX rows{shared_memory<Bf16>(layout.rows_at), layout.stride};
    for (int row = block_index().x; row < shape.n_rows; row += grid_dim().x) {
      auto* out = reinterpret_cast<Words4*>(norm.normed + static_cast<int64_t>(row) * shape.hidden);
      for (int i = thread; i < shape.hidden / 8; i += kThreads) store(out + i, rows.load(row, i * 8));
    }
    route_scores<1, 1>(rows, router, shape, 0, e0, scores, sums);
  } else {
    route_scores<1, 1>(GlobalX{x, shape.hidden}, router, shape, 0, e0, scores, sums);
  }
  block_sync();
  if (thread < kFewRows * 8 && thread / 8 < n_rows) {
    store(to.scores + thread / 8 * shape.n_experts + e0 + thread % 8,
          scores.load(thread / 8 * kScoreStride + thread % 8));
  }
  thread_fence();
  block_sync();
  if (thread == 0) {
    last.store(0, atomic_add(to.arrived, 1) == grid_dim().x - 1 ? 1 : 0);
    thread_fence();  // the other blocks' scores
  }
  block_sync();
  const bool mine = last.load() == 1;
  block_sync();
  if (!mine) return;
  for (int i = thread; i < n_rows * shape.n_experts; i += kThreads) {
    scores.store(i / shape.n_experts * kScoreStride + i % shape.n_experts, load(to.scores + i));
  }
  block_sync();
  for (int row = thread / 32; row < n_rows; row += kWarps) {
    select_experts(scores + row * kScoreStride, shape, row, to.ids, to.shares);
  }
  block_sync();
  const auto ids = sums.as<int32_t>();
  const int n = n_rows * shape.top_k;
  if (thread < n) ids.store(thread, load(to.ids + thread));
  if (thread == 0) store(to.arrived, 0);
  block_sync();
  sort_few(ids, n, shape, to.order, to.offsets, to.load);
}

}  // namespace

void moe_route(Stream stream, const Bf16* x, const Bf16* router, const MoeShape& shape, int32_t* ids, float* shares) {
  const auto run = [&](auto kernel, int rows, int sum_bytes) {
    const LaunchShape grid{
        {(shape.n_rows + rows - 1) / rows, 1, 1}, {kThreads, 1, 1}, rows * kScoreStride * 4 + sum_bytes, true};
    launch(stream, "moe_route", kernel, grid, x, router, shape, ids, shares);
  };
  // Every block reads the router's matrix: 32 rows share it where there are many.
  if (shape.n_experts > 128) {
    run(route_kernel<1, 32>, 16, kSumBytes<1>);
  } else if (shape.n_rows < 1024) {
    run(route_kernel<1, 16>, 16, kSumBytes<1>);
  } else {
    run(route_kernel<2, 16>, 32, kSumBytes<2>);
  }
}

void moe_sort(Stream stream, const int32_t* ids, const MoeShape& shape, int32_t* order, int32_t* offsets,
              int32_t* load) {
  const LaunchShape grid{{shape.n_experts, 1, 1}, {kThreads, 1, 1}, kWarps * 4, true};
  launch(stream, "moe_sort", sort_kernel, grid, ids, shape, order, offsets, load);
}

namespace {

constexpr int kFewBytes = kFewRows * kScoreStride * 4 + kSumBytes<1>;

}  // namespace

bool route_takes_norm(int n_rows, int hidden) {
  return n_rows <= kMostNormRows && norm_bytes(norm_layout(kFewBytes, hidden), n_rows) <= 96 * 1024;
}

void moe_route_few(Stream stream, const Bf16* x, const Bf16* router, const MoeShape& shape, const RouteFew& to,
                   const RouteNorm& norm) {
  const NormLayout layout = norm_layout(kFewBytes, shape.hidden);
  const auto run = [&](auto kernel, int bytes) {
    const LaunchShape grid{{shape.n_experts / 8, 1, 1}, {kThreads, 1, 1}, bytes, true};
    launch(stream, "moe_route_few", kernel, grid, x, router, shape, to, norm, layout);
  };
  if (norm.residual) {
    run(route_few_kernel<true>, norm_bytes(layout, shape.n_rows));
  } else {
    run(route_few_kernel<false>, kFewBytes);
  }
}

}  // namespace qwen3::cuda
