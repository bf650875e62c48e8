// Mixture of experts: out[row] += sum over ranks of share * down_e(silu(gate_e x) * up_e x).
// Rows are gathered by expert, so that an expert's weights are read once for all of them; results are scattered back
// and summed per row in rank order, whatever order the experts ran in.
#include <algorithm>
#include <cstring>

#include "core/checked.h"
#include "cpu/executable.h"
#include "cpu/weights_int.h"

namespace qwen3::cpu {
namespace {
constexpr int64_t kAloneRows = 2;  // routed by one thread: less than the threads' meetings would cost
constexpr int64_t kFewExpertRows = 64, kTasksPerThread = 16;
}  // namespace

void CpuExecutable::prepare_moe() {
  const Program& p = *program_;
  int64_t ffn = 0;
  for (const Op& op : p.ops) {
    if (const auto* moe = std::get_if<MoeOp>(&op)) {
      moe_.top_k = std::max<int64_t>(moe_.top_k, moe->top_k);
      ffn = std::max(ffn, weight(moe->down[0]).cols);
    }
  }
  if (moe_.top_k == 0) return;
  const int64_t rows = checked_mul(max_rows_, moe_.top_k);
  moe_.router = activation(max_rows_, p.n_experts, DType::kF32);
  moe_.gathered = activation(rows, p.hidden, p.linear_input);
  moe_.hidden = activation(rows, ffn, p.linear_input);
  moe_.output = activation(rows, p.hidden, DType::kF32);
  const size_t n = static_cast<size_t>(rows);
  moe_.expert.resize(n), moe_.share.resize(n), moe_.place.resize(n), moe_.source.resize(n);
  moe_.begin.resize(static_cast<size_t>(p.n_experts) + 1), moe_.active.resize(static_cast<size_t>(p.n_experts));
  expert_counts_.assign(static_cast<size_t>(p.n_layers) * static_cast<size_t>(p.n_experts), 0);
}

// Softmax over all experts, then the top_k largest in descending order, ties to the lower id.
void CpuExecutable::route_row(const MoeOp& op, int64_t row) {
  constexpr float kTaken = -1.0f;  // below every probability
  float* p = moe_.router.f32(row);
  kernels_.softmax(p, program_->n_experts, p);
  int32_t* expert = moe_.expert.data() + row * op.top_k;
  float* share = moe_.share.data() + row * op.top_k;
  float sum = 0;
  for (int32_t rank = 0; rank < op.top_k; ++rank) {
    int32_t best = -1;
    for (int32_t e = 0; e < program_->n_experts; ++e) {
      if (p[e] != kTaken && (best < 0 || p[e] > p[best])) best = e;
    }
    expert[rank] = best;
    share[rank] = p[best];
    sum += p[best];
    p[best] = kTaken;
  }
  if (!op.norm_topk_prob) return;
  for (int32_t rank = 0; rank < op.top_k; ++rank) share[rank] /= sum;
}

// Counting sort of (row, rank) by expert; rows stay in order within an expert.
void CpuExecutable::group_by_expert(const MoeOp& op) {
  const size_t n_experts = static_cast<size_t>(program_->n_experts), n = static_cast<size_t>(n_rows_ * op.top_k);
  std::fill(moe_.begin.begin(), moe_.begin.end(), 0);
  for (size_t i = 0; i < n; ++i) ++moe_.begin[static_cast<size_t>(moe_.expert[i]) + 1];
  moe_.n_active = 0;
  for (size_t e = 0; e < n_experts; ++e) {
    const int32_t count = moe_.begin[e + 1];
    if (count > 0) moe_.active[moe_.n_active++] = static_cast<int32_t>(e);
    expert_counts_[static_cast<size_t>(op.layer) * n_experts + e] += count;
    moe_.begin[e + 1] += moe_.begin[e];
  }
  for (size_t i = 0; i < n; ++i) {
    const int32_t place = moe_.begin[static_cast<size_t>(moe_.expert[i])]++;
    moe_.place[i] = place;
    moe_.source[static_cast<size_t>(place)] = static_cast<int32_t>(i) / op.top_k;
  }
  for (size_t e = n_experts; e > 0; --e) moe_.begin[e] = moe_.begin[e - 1];  // undo the advance
  moe_.begin[0] = 0;
}

// x: rows by expert. Integer weights: rows [0, n) are quantised first.
void CpuExecutable::expert_products(Team& team, const std::vector<WeightId>& weights, const Activation& x, int64_t n,
                                    const Activation& out, Finish finish) {
  const PackedWeight& any = weight(weights[0]);
  const int64_t rows = std::max<int64_t>(1, n / static_cast<int64_t>(moe_.n_active));
  LinearCut cut = cut_linear(rows, kernels_.row_group, any.n_panels, any.panel_bytes() / (4 * kPanel), team.size());
  if (n <= kFewExpertRows) {  // the experts themselves are tasks enough: longer streams
    const int64_t all_panels = any.n_panels * static_cast<int64_t>(moe_.n_active);
    cut.panel_chunk = std::clamp(all_panels / (kTasksPerThread * team.size()), cut.panel_chunk, any.n_panels);
    cut.n_panel_chunks = (any.n_panels + cut.panel_chunk - 1) / cut.panel_chunk;
  }
  const LinearKernel kernel = linear_kernel(x.store, any.format);
  LinearArgs args{};
  args.x = x.row(0), args.x_stride = x.stride, args.steps = any.steps;
  if (is_integer(any.format)) quantise(team, x, n, any.format, args);
  args.n = finish == Finish::kSiluMul ? any.rows / 2 : any.rows;
  args.out = out.row(0), args.out_stride = out.stride, args.store = out.store, args.finish = finish;
  team.for_each(static_cast<int64_t>(moe_.n_active) * cut.n_panel_chunks, [&](int64_t task) {
    const size_t e = static_cast<size_t>(moe_.active[static_cast<size_t>(task / cut.n_panel_chunks)]);
    LinearArgs mine = args;
    mine.weight = weight(weights[e]).data.data();
    const int64_t panel = task % cut.n_panel_chunks * cut.panel_chunk;
    kernel(&mine, moe_.begin[e], moe_.begin[e + 1], panel, std::min(any.n_panels, panel + cut.panel_chunk));
  });
}

void CpuExecutable::run(const MoeOp& op, Team& team) {
  const Activation& x = buffer(op.x);
  const Activation& out = buffer(op.out);
  linear(team, x, n_rows_, weight(op.router), moe_.router.row(0), moe_.router.stride, Store::kF32, Finish::kStore);
  const auto gather = [&](int64_t i) {
    const int64_t source = moe_.source[static_cast<size_t>(i)];
    std::memcpy(moe_.gathered.row(i), x.row(source), static_cast<size_t>(x.cols * x.element()));
  };
  const int64_t n = n_rows_ * op.top_k;
  if (n_rows_ <= kAloneRows) {
    if (team.thread() == 0) {
      for (int64_t row = 0; row < n_rows_; ++row) route_row(op, row);
      group_by_expert(op);
      for (int64_t i = 0; i < n; ++i) gather(i);
    }
    team.barrier();
  } else {
    team.for_each(n_rows_, [&](int64_t row) { route_row(op, row); });
    if (team.thread() == 0) group_by_expert(op);
    team.barrier();
    team.for_each(n, gather);
  }
  expert_products(team, op.gate_up, moe_.gathered, n, moe_.hidden, Finish::kSiluMul);
  expert_products(team, op.down, moe_.hidden, n, moe_.output, Finish::kStore);
  team.for_each(n_rows_, [&](int64_t row) {
    const int64_t first = row * op.top_k;
    kernels_.add_scaled(moe_.output.f32(0), moe_.output.stride, moe_.place.data() + first, moe_.share.data() + first,
                        op.top_k, out.cols, out.f32(row));
  });
}

}  // namespace qwen3::cpu
