// Mixture of experts, which experts: router and counting sort. Up to 16 rows: moe_route_few.cu.
//
//   shares = softmax over all experts of x router^T; the top_k of them (ties to the lower id), divided by their sum
//
// Nothing goes through the host: a block takes 32 rows and all experts, then one block per expert sorts.

#include "cuda/moe_route.h"

namespace qwen3::cuda {
namespace {

using namespace route;

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
  select_experts<kEach, kExperts / 32>(
      sums + first * kStride, kStride, left < kEach ? static_cast<int>(left) : kEach, shape, row0 + first,
      [&](int64_t at, int32_t id, float share) { store(ids + at, id), store(shares + at, share); });
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

}  // namespace qwen3::cuda
