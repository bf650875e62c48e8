// out = x W^T for few rows on sm_90a, with what comes before it in a decoding layer (stream_hopper.h: the tiling;
// linear_stream.cu: why that).
//
// The product is cut into stages of 128 weight rows x 64 k, and the multiprocessors share them evenly: a block takes a
// run of stages, whatever tiles it begins or ends in. What a block has of a tile that others share goes to memory, and
// the last of them to arrive adds the parts, ascending along k. Where a tile is cut depends on the weight's shape and
// the chip, never on the rows: the order of a row's sums is one.
//
// Nothing of that waits for the kernel ahead: a block's first stages, all that its ring holds, are on their way before
// grid_dependency_wait. A block takes more than half of a multiprocessor's shared memory: with room for two, behind an
// attention whose blocks end at odd times, those of one product would double up on some multiprocessors, those of the
// next on the others, and so on down the layers. It leaves room for a block of that attention.

#include <cstddef>

#include "cuda/norm.h"
#include "cuda/stream_hopper.h"

namespace qwen3::cuda {
namespace {

using namespace stream_hopper;

// Below that a product is over before the parts of a tile are joined: 4 us of an H200's memory.
constexpr int64_t kLeastBytes = int64_t{16} << 20;
constexpr int kLeastSteps = 4;  // of a block: 64 KB of weights, else joining the parts costs more than it saves

// The stages of a product in their order, tile by tile, and the blocks' shares.
struct Shares {
  int k_steps, steps, blocks;  // steps: of all tiles
  QWEN3_DEVICE int begin(int block) const { return static_cast<int>(int64_t{block} * steps / blocks); }
  // Whose the step is: the last block that begins at or before it.
  QWEN3_DEVICE int owner(int step) const { return static_cast<int>(((int64_t{step} + 1) * blocks - 1) / steps); }
};

struct StreamPlan {
  Shares shares;
  int stages;
  int norm_weight_at;  // bytes; behind it the norm's partial sums
  float* parts;        // [row groups, blocks, 2, 128 x kN]: of the tile that a block ends, of the one that it begins
  int32_t* arrived;    // [row groups, tiles]
};

// Normalised rows: line r of 64 k of all rows together, so that the 8 rows that wgmma reads are the lines from there
// on; those beyond n_rows are of the next 64 k, and give columns that nobody writes. Behind the last there are lines of
// zeros.
struct NormedLines {
  Shared<Bf16> lines;
  int n_rows;
  QWEN3_DEVICE Shared<Bf16> of(int k_step) const { return lines + k_step * n_rows * kK; }
  QWEN3_DEVICE void store(int row, int i, const Words2& four) const {  // four k from 4 i on
    const int line = i / 16 * n_rows + row, chunk = i / 2 % 8;
    (lines + (line * kK + (chunk ^ (line & 7)) * 8 + i % 2 * 4)).as<Words2>().store(0, four);
  }
};

int normed_line_bytes(int n_rows, int k) {
  return ((k + kK - 1) / kK * n_rows + 8) * kK * 2;
}

// rms_norm of the rows by the consumers.
QWEN3_DEVICE void normalise_lines(const StreamFusion& fusion, const TileRows& rows, int k, int weight_at,
                                  const NormedLines& to) {
  const auto partial = shared_memory<float>(weight_at + k * 4);
  const auto put = [&](int row, int i, const Words2& four) { to.store(row, i, four); };
  normalise_rows(
      fusion.residual, [&](int r) { return rows.in_row(r); }, rows.count, k, fusion.norm_eps,
      shared_memory<Float4>(weight_at), partial, [] { consumer_sync(); }, put);
  const int steps = (k + kK - 1) / kK, thread = thread_index().x;
  for (int r = 0; r < rows.count; ++r) {
    for (int i = k / 4 + thread; i < steps * 16; i += kConsumers) to.store(r, i, {0, 0});
  }
  for (int i = thread; i < 8 * 16; i += kConsumers) {
    (to.lines + (steps * rows.count * kK + i * 4)).as<Words2>().store(0, {0, 0});
  }
  fence_proxy_async();
  consumer_sync();
}

// Puts a block's part of a shared tile where the others find it. True, in every consumer of the block that is the last
// to arrive: acc is the sum of all.
template <int kN>
QWEN3_DEVICE bool join_parts(Accumulator<kN>& acc, const StreamPlan& plan, int tile) {
  const Shares& shares = plan.shares;
  const int thread = thread_index().x, block = block_index().y, group = block_index().x;
  const int first = shares.owner(tile * shares.k_steps), last = shares.owner((tile + 1) * shares.k_steps - 1);
  const auto part = [&](int of) {
    const int64_t slot = (int64_t{group} * shares.blocks + of) * 2 + (of == first ? 1 : 0);
    return reinterpret_cast<Float4*>(plan.parts + slot * kM * kN) + thread;
  };
  QWEN3_UNROLL
  for (int j = 0; j < kN / 8; ++j) {
    store(part(block) + j * kConsumers, {acc.get(j * 4), acc.get(j * 4 + 1), acc.get(j * 4 + 2), acc.get(j * 4 + 3)});
  }
  if (!last_to_arrive(plan.arrived + group * (shares.steps / shares.k_steps) + tile, last - first + 1)) return false;
  // So many parts' loads are on their way together: one trip to L2 for few rows.
  constexpr int kAtOnce = kN == 8 ? 8 : kN == 16 ? 4 : 2;
  for (int of = first; of <= last; of += kAtOnce) {
    Float4 v[kAtOnce][kN / 8];
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      QWEN3_UNROLL
      for (int j = 0; j < kN / 8; ++j) {
        v[u][j] = of + u <= last ? load(part(of + u) + j * kConsumers) : Float4{0, 0, 0, 0};
      }
    }
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (of + u > last) break;
      const bool adds = of + u > first;
      QWEN3_UNROLL
      for (int j = 0; j < kN / 8; ++j) {
        acc.set(j * 4, adds ? acc.get(j * 4) + v[u][j].x : v[u][j].x);
        acc.set(j * 4 + 1, adds ? acc.get(j * 4 + 1) + v[u][j].y : v[u][j].y);
        acc.set(j * 4 + 2, adds ? acc.get(j * 4 + 2) + v[u][j].z : v[u][j].z);
        acc.set(j * 4 + 3, adds ? acc.get(j * 4 + 3) + v[u][j].w : v[u][j].w);
      }
    }
  }
  return true;
}

template <int kN, bool kNorm>
QWEN3_DEVICE void consume(const LinearOperands& o, const LinearShape& shape, Output output, const StreamFusion& fusion,
                          const StreamPlan& plan, const TileRows& rows) {
  const Ring<kNorm ? 0 : kN> ring{plan.stages};
  const NormedLines lines{shared_memory<Bf16>(ring.end()), rows.count};
  if constexpr (kNorm) fetch_norm_weight(fusion.norm_weight, {plan.norm_weight_at, 0, 0}, shape.k);
  grid_dependency_wait();
  if constexpr (kNorm) normalise_lines(fusion, rows, shape.k, plan.norm_weight_at, lines);
  const Shares& shares = plan.shares;
  const Target to{o.out, shape.n, output};
  Slot slot;
  for (int at = shares.begin(block_index().y), end = shares.begin(block_index().y + 1); at < end;) {
    const int tile = at / shares.k_steps, first = at % shares.k_steps;
    const int steps = shares.k_steps - first < end - at ? shares.k_steps - first : end - at;
    Accumulator<kN> acc;
    multiply_stages<kN>(acc, ring, slot, steps, [&](int step, int stage) {
      if constexpr (kNorm)
        return lines.of(first + step);
      else
        return ring.rows(stage);
    });
    at += steps;
    if (steps < shares.k_steps && !join_parts<kN>(acc, plan, tile)) continue;
    write_tile<kN>(acc, rows, to, tile * kM);
  }
}

template <int kN, bool kNorm>
QWEN3_KERNEL_OF(kThreads, kN == 64 ? 1 : 2)
linear_stream_hopper_kernel(QWEN3_GRID_CONSTANT const TensorMap weight, LinearOperands o, LinearShape shape,
                            Output output, QWEN3_GRID_CONSTANT const StreamFusion fusion, StreamPlan plan) {
  grid_dependency_launch();
  const Ring<kNorm ? 0 : kN> ring{plan.stages};
  if (is_weight_thread()) {
    tma_prefetch(weight);
    ring.init();
  }
  block_sync();
  const int row_begin = block_index().x * kN, left = shape.n_rows - row_begin;
  const TileRows rows{row_begin, left < kN ? left : kN, o.gather, nullptr, 1};
  const Shares& shares = plan.shares;
  const int begin = shares.begin(block_index().y), end = shares.begin(block_index().y + 1);
  if (is_consumer()) {
    consume<kN, kNorm>(o, shape, output, fusion, plan, rows);
  } else if (is_row_copier()) {
    if constexpr (!kNorm) {
      grid_dependency_wait();
      RowCopier<kN> copier(ring);
      copier.start(o.x, rows, shape.k);
      for (int at = begin; at < end; ++at) copier.copy(at % shares.k_steps * kK);
      copier.finish();
    }
  } else if (is_weight_thread()) {
    Slot slot;
    for (int at = begin; at < end; ++at) {
      ring.fetch_weight(slot, weight, at % shares.k_steps * kK, at / shares.k_steps * kM);
    }
  }
}

// Rows of x that are multiplied at a time.
int rows_at_a_time(int n_rows) {
  return n_rows <= 8 ? 8 : n_rows <= 16 ? 16 : n_rows <= 32 ? 32 : 64;
}

Shares shares_of(int multiprocessors, int n, int k) {
  const int k_steps = (k + kK - 1) / kK, steps = (n + kM - 1) / kM * k_steps;
  const int most = steps / kLeastSteps > 0 ? steps / kLeastSteps : 1;
  return {k_steps, steps, most < multiprocessors ? most : multiprocessors};
}

void run_rows(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
              const StreamScratch& scratch, const StreamFusion& fusion) {
  const int group = rows_at_a_time(shape.n_rows);
  const bool normed = fusion.residual != nullptr;
  const int line_bytes = normed ? normed_line_bytes(shape.n_rows, shape.k) : 0;
  const int norm_bytes = normed ? shape.k * 4 + kMostNormRows * kNormWarps * 4 : 0;
  const int stage_bytes = (kM + (normed ? 0 : group)) * kK * 2, beside = line_bytes + norm_bytes;
  int stages = group > 32 ? 0 : stages_of(kMostOfShared, stage_bytes, beside);
  if (stages < lag_of(8)) stages = stages_of(kWholeShared, stage_bytes, beside);
  const StreamPlan plan{shares_of(scratch.multiprocessors, shape.n, shape.k), stages,
                        kHeaderBytes + stages * stage_bytes + line_bytes, scratch.parts, scratch.arrived};
  const auto run = [&](auto kernel) {
    const LaunchShape launch_shape{{(shape.n_rows + group - 1) / group, plan.shares.blocks, 1},
                                   {kThreads, 1, 1},
                                   kHeaderBytes + stages * stage_bytes + beside,
                                   true};
    launch(stream, "linear_stream", kernel, launch_shape, describe_weight(o.weight, shape.n, shape.k), o, shape, output,
           fusion, plan);
  };
  if (group == 64) {
    run(linear_stream_hopper_kernel<64, false>);
  } else if (group == 32) {
    run(linear_stream_hopper_kernel<32, false>);
  } else if (group == 16) {
    run(linear_stream_hopper_kernel<16, false>);
  } else if (normed) {
    run(linear_stream_hopper_kernel<8, true>);
  } else {
    run(linear_stream_hopper_kernel<8, false>);
  }
}

}  // namespace

bool stream_on_hopper(int n, int k) {
  return int64_t{n} * k * 2 >= kLeastBytes;
}
int64_t stream_part_elements(int multiprocessors, int n_rows) {
  const int group = rows_at_a_time(n_rows);
  return int64_t{(n_rows + group - 1) / group} * multiprocessors * 2 * kM * group;
}
int64_t stream_counters(int n_rows, int n) {
  const int group = rows_at_a_time(n_rows);
  return int64_t{(n_rows + group - 1) / group} * ((n + kM - 1) / kM);
}

void linear_stream_hopper(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
                          const StreamScratch& scratch, const StreamFusion& fusion) {
  for (int begin = 0; begin < shape.n_rows; begin += kMostStreamRows) {
    const int left = shape.n_rows - begin;
    const LinearShape part{left < kMostStreamRows ? left : kMostStreamRows, shape.n, shape.k};
    LinearOperands at = o;
    if (o.gather) {
      at.gather += begin;
    } else {
      at.x += int64_t{begin} * shape.k;
    }
    const int64_t row_bytes = output == Output::kSiluMul ? shape.n : int64_t{4} * shape.n;
    at.out = static_cast<std::byte*>(o.out) + begin * row_bytes;
    run_rows(stream, at, part, output, scratch, fusion);
  }
}

}  // namespace qwen3::cuda
