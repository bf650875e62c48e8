// Mixture of experts, which experts, for up to 16 rows: router and counting sort in one launch, with the results of
// moe_route.cu to the bit.
//
// One multiprocessor would read the router's matrix alone: a block takes 8 experts, and the last one to finish selects
// and sorts. The warps take a class of k each, straight from memory into fragments; their sums are joined in order.

#include "cuda/arrival.h"
#include "cuda/moe_route.h"
#include "cuda/norm.h"

namespace qwen3::cuda {
namespace {

using namespace route;

constexpr int kFewRows = kMoeFewRows;
static_assert(kWarps == kClasses);
constexpr int kScoreStride = kMaxExperts + 8;  // rows 8 banks apart
constexpr int kSumStride = 16;                 // of 8 experts
constexpr int kSumBytes = kWarps * kFewRows * kSumStride * 4;
constexpr int kFewBytes = kFewRows * kScoreStride * 4 + kSumBytes;

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

// Of the router's matrix a lane asks for its first chunks ahead of the kernel before; then it goes by rounds, whose
// loads are all asked for before the first product.
constexpr int kAhead = 8, kRound = 4;

// What a lane needs of its c-th chunk of 8 experts.
QWEN3_DEVICE int few_chunk(int c) {
  return (c * kClasses + thread_index().x / 32) * kChunk + thread_index().x % 4 * 8;
}
template <int n>
QWEN3_DEVICE void load_router(const Bf16* router, const MoeShape& shape, int e0, int c0, Words4 (&w)[n]) {
  QWEN3_UNROLL
  for (int c = 0; c < n; ++c) {
    const int at = few_chunk(c0 + c);
    const auto* row = router + int64_t{e0 + thread_index().x % 32 / 4} * shape.hidden;
    w[c] = at < shape.hidden ? load(reinterpret_cast<const Words4*>(row + at)) : Words4{0, 0, 0, 0};
  }
}

// All rows times experts [e0, e0 + 8), whose first chunks are `ahead`: scores [rows, kScoreStride], columns from 0.
// sums: [kWarps, kFewRows, kSumStride]. X::load(row, at): 8 values of a row.
template <class X>
QWEN3_DEVICE void few_scores(const X& x, const Bf16* router, const MoeShape& shape, int e0,
                             const Words4 (&ahead)[kAhead], Shared<float> scores, Shared<float> sums) {
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32, group = lane / 4, in_group = lane % 4;
  const Words4 zero{0, 0, 0, 0};
  float acc[4] = {};
  const auto multiply_round = [&](int c0, const Words4* w) {
    Words4 low[kRound], high[kRound];
    QWEN3_UNROLL
    for (int c = 0; c < kRound; ++c) {
      const int at = few_chunk(c0 + c);
      low[c] = at < shape.hidden && group < shape.n_rows ? x.load(group, at) : zero;
      high[c] = at < shape.hidden && group + 8 < shape.n_rows ? x.load(group + 8, at) : zero;
    }
    QWEN3_UNROLL
    for (int c = 0; c < kRound; ++c) {
      multiply_half<0>(acc, low[c], high[c], w[c]);
      multiply_half<1>(acc, low[c], high[c], w[c]);
    }
  };
  QWEN3_UNROLL
  for (int c = 0; c < kAhead; c += kRound) multiply_round(c, ahead + c);
  for (int c = kAhead; c * kClasses * kChunk < shape.hidden; c += kRound) {
    Words4 w[kRound];
    load_router(router, shape, e0, c, w);
    multiply_round(c, w);
  }
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = warp * kFewRows + group + h * 8;
    (sums + (row * kSumStride + in_group * 2)).as<Float2>().store(0, {acc[h * 2], acc[h * 2 + 1]});
  }
  block_sync();
  for (int i = thread; i < kFewRows * 8; i += kThreads) {
    const int row = i / 8, column = i % 8;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums.load((w * kFewRows + row) * kSumStride + column);
    scores.store(row * kScoreStride + column, sum);
  }
}

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
  const int thread = thread_index().x, e0 = block_index().x * 8;
  grid_dependency_launch();
  if constexpr (kNorm) fetch_norm_weight(norm.weight, layout, shape.hidden);
  Words4 ahead[kAhead];
  load_router(router, shape, e0, 0, ahead);
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
    few_scores(rows, router, shape, e0, ahead, scores, sums);
  } else {
    few_scores(GlobalX{x, shape.hidden}, router, shape, e0, ahead, scores, sums);
  }
  block_sync();
  if (thread < kFewRows * 8 && thread / 8 < n_rows) {
    store(to.scores + thread / 8 * shape.n_experts + e0 + thread % 8,
          scores.load(thread / 8 * kScoreStride + thread % 8));
  }
  if (!last_to_arrive(to.arrived, grid_dim().x, shared_memory<int32_t>(0), [] { block_sync(); })) return;
  for (int i = thread; i < n_rows * shape.n_experts; i += kThreads) {
    scores.store(i / shape.n_experts * kScoreStride + i % shape.n_experts, load(to.scores + i));
  }
  block_sync();
  const auto ids = sums.as<int32_t>();
  for (int row = thread / 32; row < n_rows; row += kWarps) {
    select_experts<1, kMaxExperts / 32>(scores + row * kScoreStride, kScoreStride, 1, shape, row,
                                        [&](int64_t at, int32_t id, float share) {
                                          ids.store(static_cast<int>(at), id);
                                          store(to.ids + at, id), store(to.shares + at, share);
                                        });
  }
  block_sync();
  sort_few(ids, n_rows * shape.top_k, shape, to.order, to.offsets, to.load);
}

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
