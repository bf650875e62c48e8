// Mixture of experts, which experts: router and counting sort.
//
//   shares = softmax over all experts of x router^T; the top_k of them (ties to the lower id), divided by their sum
//
// Nothing goes through the host. Many rows: a block takes 32 rows and all experts, then one block per expert sorts. Up
// to 16 rows, where one multiprocessor would read the router's matrix alone: a block per 8 experts, and the last one to
// finish selects and sorts.

#include "cuda/norm.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

// --- scores ---
//
// The order along k is one whatever the number of rows: chunks of 32 belong to 8 classes in turn; a score is the sum of
// the classes' sums in their order, each over its chunks ascending. Within a chunk the matrix instructions take k in a
// permuted order, the same in both operands, so that a lane's 16 bytes of a row are its fragments of two of them.

constexpr int kThreads = 256, kWarps = kThreads / 32, kMaxExperts = kMoeMostExperts;
constexpr int kClasses = 8, kChunk = 32;

// d += the first or the second half of the chunk of 16 rows times that of 8 experts; low, high: of rows lane / 4 and
// lane / 4 + 8.
template <int kHalf>
QWEN3_DEVICE void multiply_half(float (&d)[4], const Words4& low, const Words4& high, const Words4& w) {
  const uint32_t a[4] = {kHalf ? low.z : low.x, kHalf ? high.z : high.x, kHalf ? low.w : low.y,
                         kHalf ? high.w : high.y};
  const uint32_t b[2] = {kHalf ? w.z : w.x, kHalf ? w.w : w.y};
  mma_bf16(d, a, b);
}

// --- selection ---

// One warp: softmax and selection of kRows rows at once, `row` on, the first `n` of which count; their scores are in
// shared memory, `stride` apart. A lane has N of the scores of each.
template <int kRows, int N>
QWEN3_DEVICE void select_experts(Shared<float> scores, int stride, int n, const MoeShape& shape, int64_t row,
                                 int32_t* ids, float* shares) {
  const int lane = thread_index().x % 32;
  const float none = bits_as_f32(0xff800000u);
  // Weights as numbers of the same order: their bits and one; 0 is what cannot be chosen, any more.
  uint32_t keys[kRows][N];
  float total[kRows], chosen[kRows], mine[kRows];  // lane r keeps rank r
  int mine_id[kRows];
  QWEN3_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float p[N], largest = none;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      const int e = j * 32 + lane;
      p[j] = e < shape.n_experts ? scores.load(r * stride + e) : none;
      largest = maximum(largest, p[j]);
    }
    QWEN3_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) largest = maximum(largest, shuffle_xor(largest, mask));
    total[r] = 0;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      const float weight = p[j] == none ? 0.0f : exp2_approx((p[j] - largest) * 1.44269504f);
      keys[r][j] = p[j] == none ? 0 : f32_as_bits(weight) + 1;
      total[r] += weight;
    }
    total[r] = warp_sum(total[r]);
    chosen[r] = mine[r] = 0, mine_id[r] = 0;
  }
  for (int rank = 0; rank < shape.top_k; ++rank) {
    QWEN3_UNROLL
    for (int r = 0; r < kRows; ++r) {
      uint32_t best = 0, id = 0;
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (keys[r][j] > best) best = keys[r][j], id = static_cast<uint32_t>(j * 32 + lane);
      }
      const uint32_t top = warp_maximum(best);
      const uint32_t lowest = kMaxExperts - warp_maximum(best == top ? kMaxExperts - id : 0);  // of those that tie
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (lowest == static_cast<uint32_t>(j * 32 + lane)) keys[r][j] = 0;
      }
      const float weight = bits_as_f32(top - 1);
      if (lane == rank) mine[r] = weight, mine_id[r] = static_cast<int>(lowest);
      chosen[r] += weight;
    }
  }
  QWEN3_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if (r >= n || lane >= shape.top_k) continue;
    store(ids + (row + r) * shape.top_k + lane, mine_id[r]);
    store(shares + (row + r) * shape.top_k + lane, mine[r] / (shape.norm_topk_prob ? chosen[r] : total[r]));
  }
}

// --- many rows ---
//
// A stage is 64 k of 32 rows and of all experts: the chunks of an even class, which four warps multiply, and of the odd
// one behind it, which the other four do, 32 rows x a quarter of the experts each. The k of two classes come in a pass;
// behind it their sums are added to the scores, in order, by the first four warps. Shared memory sets the pace: a
// warp reads 64 bytes of it for each matrix instruction, a tile of 16 rows would take 96.

constexpr int kTileRows = 32, kStageK = 2 * kChunk;

// 16-byte units of odd rows are swapped by halves: what eight lanes read lies in different banks.
QWEN3_DEVICE int unit_at(int row, int unit) {
  return row * kStageK + (unit ^ (row % 2 * 4)) * 8;
}

// As many stages as fit the shared memory of every chip (99 KB).
constexpr int kExperts = kMaxExperts, kStages = 4;
constexpr int kRouteBytes = kStages * (kTileRows + kExperts) * kStageK * 2 + kTileRows * (kExperts + 8) * 4;
static_assert(kRouteBytes <= 99 * 1024);

QWEN3_KERNEL_OF(kThreads, 1)
route_kernel(const Bf16* x, const Bf16* router, MoeShape shape, int32_t* ids, float* shares) {
  constexpr int kStage = (kTileRows + kExperts) * kStageK, kTiles = kExperts / 8 / 4;
  constexpr int kStride = kExperts + 8;  // rows 8 banks apart
  const auto stages = shared_memory<Bf16>(0);
  const auto sums = shared_memory<float>(kStages * kStage * 2);
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32, group = lane / 4, in_group = lane % 4;
  const int odd = warp / 4, expert0 = warp % 4 * (kExperts / 4);
  const int64_t row0 = int64_t{block_index().x} * kTileRows;
  const int n_stages = (shape.hidden + kStageK - 1) / kStageK;
  // Stages come pass by pass: j, j + 4, ... of the row.
  const auto behind = [&](int at) {
    return at + kClasses / 2 < n_stages ? at + kClasses / 2 : at % (kClasses / 2) + 1;
  };
  // A thread copies 16 bytes at the same places of every stage: of a row of x, of every 32nd row of the router's
  // matrix.
  static_assert(kTileRows * 8 == kThreads);
  const int copy_row = thread / 8, copy_k = thread % 8 * 8, copy_at = unit_at(copy_row, thread % 8);
  const bool row_inside = row0 + copy_row < shape.n_rows;
  const Bf16* const from_x = x + (row_inside ? row0 + copy_row : 0) * shape.hidden + copy_k;
  const Bf16* const from_router = router + int64_t{copy_row} * shape.hidden + copy_k;
  const int64_t copy_step = int64_t{kTileRows} * shape.hidden;
  const auto copy = [&](Shared<Bf16> to, const Bf16* from, bool inside, const Bf16* somewhere) {
    cp_async16(to, inside ? from : somewhere, inside ? 16 : 0);
  };
  const auto fetch_experts = [&](int slot, int stage) {
    const auto to = stages + slot * kStage + kTileRows * kStageK + copy_at;
    const bool inside = stage * kStageK + copy_k < shape.hidden;
    QWEN3_UNROLL
    for (int i = 0; i < kExperts / kTileRows; ++i) {
      copy(to + i * kTileRows * kStageK, from_router + i * copy_step + stage * kStageK,
           inside && copy_row + i * kTileRows < shape.n_experts, router);
    }
  };
  const auto fetch_rows = [&](int slot, int stage) {
    copy(stages + slot * kStage + copy_at, from_x + stage * kStageK,
         row_inside && stage * kStageK + copy_k < shape.hidden, x);
  };
  // No kernel writes the router's matrix.
  int next = 0, fetched = 0;
  for (int at = 0; fetched < kStages - 1 && fetched < n_stages; ++fetched, at = behind(at)) fetch_experts(fetched, at);
  grid_dependency_wait();
  grid_dependency_launch();
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < fetched) fetch_rows(i, next), next = behind(next);
    cp_async_commit();
  }

  float acc[2][kTiles][4] = {}, scores[2][kTiles][4] = {};
  for (int i = 0, at = 0; i < n_stages; ++i) {
    cp_async_wait<kStages - 2>();
    block_sync();
    if (fetched < n_stages) {
      const int slot = fetched++ % kStages;
      fetch_experts(slot, next), fetch_rows(slot, next);
      next = behind(next);
    }
    cp_async_commit();
    const auto rows = stages + i % kStages * kStage, experts = rows + kTileRows * kStageK;
    const int unit = odd * 4 + in_group;
    Words4 half[4];  // rows group, group + 8, ...
    QWEN3_UNROLL
    for (int r = 0; r < 4; ++r) half[r] = (rows + unit_at(r * 8 + group, unit)).template as<Words4>().load();
    Words4 w[kTiles];
    QWEN3_UNROLL
    for (int e = 0; e < kTiles; ++e) {
      w[e] = (experts + unit_at(expert0 + e * 8 + group, unit)).template as<Words4>().load();
    }
    // Products that do not wait for each other in a row.
    QWEN3_UNROLL
    for (int e = 0; e < kTiles; ++e) {
      multiply_half<0>(acc[0][e], half[0], half[1], w[e]);
      multiply_half<0>(acc[1][e], half[2], half[3], w[e]);
    }
    QWEN3_UNROLL
    for (int e = 0; e < kTiles; ++e) {
      multiply_half<1>(acc[0][e], half[0], half[1], w[e]);
      multiply_half<1>(acc[1][e], half[2], half[3], w[e]);
    }
    const bool pass_ends = at + kClasses / 2 >= n_stages;
    at = behind(at);
    if (!pass_ends) continue;
    const auto place = [&](int r, int e, int h) {
      return (sums + (r * 16 + group + h * 8) * kStride + expert0 + e * 8 + in_group * 2).template as<Float2>();
    };
    const auto each = [&](const auto& visit) {
      QWEN3_UNROLL
      for (int r = 0; r < 2; ++r) {
        QWEN3_UNROLL
        for (int e = 0; e < kTiles; ++e) {
          QWEN3_UNROLL
          for (int h = 0; h < 2; ++h) {
            float* const a = acc[r][e] + h * 2;
            visit(a, scores[r][e] + h * 2, place(r, e, h));
            a[0] = a[1] = 0;
          }
        }
      }
    };
    if (odd) each([](const float* a, float*, auto to) { to.store(0, {a[0], a[1]}); });
    block_sync();
    if (!odd) {
      each([](const float* a, float* score, auto from) {
        const Float2 later = from.load();
        score[0] = score[0] + a[0] + later.x, score[1] = score[1] + a[1] + later.y;
      });
    }
    if (!odd && i == n_stages - 1)
      each([](const float*, const float* score, auto to) { to.store(0, {score[0], score[1]}); });
  }
  block_sync();
  constexpr int kEach = kTileRows / kWarps;
  const int first = warp * kEach;
  const int64_t left = shape.n_rows - (row0 + first);
  if (left <= 0) return;
  select_experts<kEach, kExperts / 32>(sums + first * kStride, kStride, left < kEach ? static_cast<int>(left) : kEach,
                                       shape, row0 + first, ids, shares);
}

// --- counting sort ---
//
// One block per expert reads all ids (they stay in L2): how many are lower is where its part begins, and each thread
// writes those of its own 32 in their order, behind those of the threads before. No atomics on positions, no step
// between blocks, and the result is stable.

constexpr int kSortThreads = 1024;

QWEN3_DEVICE int block_exclusive(int value, Shared<int32_t> warps, int& total) {
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  const auto inclusive_sum = [&](int x) {
    QWEN3_UNROLL
    for (int delta = 1; delta < 32; delta *= 2) {
      const int below = shuffle_up(x, delta);
      if (lane >= delta) x += below;
    }
    return x;
  };
  const int inclusive = inclusive_sum(value);
  block_sync();  // the sums of the last call have been read
  if (lane == 31) warps.store(warp, inclusive);
  block_sync();
  const int all = inclusive_sum(warps.load(lane));
  total = shuffle(all, 31);
  const int before = shuffle(all, warp > 0 ? warp - 1 : 0);
  return (warp > 0 ? before : 0) + inclusive - value;
}

QWEN3_KERNEL_OF(kSortThreads, 1)
sort_kernel(const int32_t* ids, MoeShape shape, int32_t* order, int32_t* offsets, int32_t* load_total) {
  const auto warps = shared_memory<int32_t>(0);
  const int expert = block_index().x, thread = thread_index().x;
  const int n = (shape.valid_rows ? load(shape.valid_rows) : shape.n_rows) * shape.top_k;
  grid_dependency_wait();
  grid_dependency_launch();
  // Of the 32 ids from `first` on: which are this expert's, and how many are lower.
  const auto look = [&](int first, int& lower) {
    uint32_t mine = 0;
    QWEN3_UNROLL
    for (int i = 0; i < 32; i += 4) {
      const int at = first + i;
      if (at + 4 <= n) {
        const Words4 w = load(reinterpret_cast<const Words4*>(ids + at));
        const uint32_t four[4] = {w.x, w.y, w.z, w.w};
        QWEN3_UNROLL
        for (int c = 0; c < 4; ++c) {
          lower += static_cast<int>(four[c]) < expert ? 1 : 0;
          mine |= static_cast<int>(four[c]) == expert ? 1u << (i + c) : 0u;
        }
      } else {
        for (int c = 0; at + c < n; ++c) {
          lower += load(ids + at + c) < expert ? 1 : 0;
          mine |= load(ids + at + c) == expert ? 1u << (i + c) : 0u;
        }
      }
    }
    return mine;
  };
  int lower = 0, begin;
  uint32_t mine = 0;
  for (int first = thread * 32; first < n; first += kSortThreads * 32) mine = look(first, lower);
  block_exclusive(lower, warps, begin);
  int placed = 0;
  for (int first = thread * 32; first - thread * 32 < n; first += kSortThreads * 32) {
    if (n > kSortThreads * 32) mine = look(first, lower);  // otherwise it is known
    int count, at = begin + placed;
    at += block_exclusive(popcount(mine), warps, count);
    for (; mine != 0; mine &= mine - 1) store(order + at++, first + popcount((mine & (0u - mine)) - 1));
    placed += count;
  }
  if (thread == 0) {
    store(offsets + expert, begin);
    if (expert == shape.n_experts - 1) store(offsets + shape.n_experts, n);
    atomic_add(load_total + expert, placed);
  }
}

// --- both, for few rows ---
//
// The warps take a class of k each, straight from memory into fragments; their sums are joined in order.

constexpr int kFewRows = kMoeFewRows;
static_assert(kWarps == kClasses);
constexpr int kScoreStride = kMaxExperts + 8;  // rows 8 banks apart
constexpr int kSumStride = 16;                 // of 8 experts
constexpr int kSumBytes = kWarps * kFewRows * kSumStride * 4;

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
  const auto last = shared_memory<int32_t>(0);
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
    select_experts<1, kMaxExperts / 32>(scores + row * kScoreStride, kScoreStride, 1, shape, row, to.ids, to.shares);
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
  const LaunchShape grid{{(shape.n_rows + kTileRows - 1) / kTileRows, 1, 1}, {kThreads, 1, 1}, kRouteBytes, true};
  launch(stream, "moe_route", route_kernel, grid, x, router, shape, ids, shares);
}

void moe_sort(Stream stream, const int32_t* ids, const MoeShape& shape, int32_t* order, int32_t* offsets,
              int32_t* load) {
  const LaunchShape grid{{shape.n_experts, 1, 1}, {kSortThreads, 1, 1}, kSortThreads / 32 * 4, true};
  launch(stream, "moe_sort", sort_kernel, grid, ids, shape, order, offsets, load);
}

namespace {

constexpr int kFewBytes = kFewRows * kScoreStride * 4 + kSumBytes;

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
