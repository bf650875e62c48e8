// The operations but moe: how each is cut into tasks. What a task computes is in the kernels.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/executable.h"
#include "cpu/weights_int.h"

namespace qwen3::cpu {
namespace {

// Rows of one head that a task rotates and appends: they share cache lines of the transposed K block.
constexpr int64_t kAppendRows = 16;
// Below this many steps of a column a task costs more to claim than to do.
constexpr int64_t kMinTaskWork = 1 << 14;
// Tasks a thread gets on average, so that a late thread leaves its share to the others: more where tasks are short
// because few rows read the weights.
constexpr int64_t kTasksPerThread = 4, kShortTasksPerThread = 16;
constexpr int64_t kFewRows = 24;
// Bytes of x per task: they should stay in the caches while the panels pass.
constexpr int64_t kRowBytes = 2 << 20;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

LinearCut cut_linear(int64_t n_rows, int64_t row_group, int64_t n_panels, int64_t steps, int n_threads) {
  LinearCut cut;
  const int64_t wanted = (n_rows <= kFewRows ? kShortTasksPerThread : kTasksPerThread) * n_threads;
  const int64_t most_rows = std::max<int64_t>(8 * row_group, kRowBytes / (steps * 4) / row_group * row_group);
  cut.n_row_chunks = ceil_div(n_rows, most_rows);
  if (n_panels * cut.n_row_chunks < wanted) {
    cut.n_row_chunks = std::max(cut.n_row_chunks, std::min(ceil_div(n_rows, row_group), ceil_div(wanted, n_panels)));
  }
  cut.row_chunk = ceil_div(ceil_div(n_rows, cut.n_row_chunks), row_group) * row_group;
  cut.n_row_chunks = ceil_div(n_rows, cut.row_chunk);
  const int64_t panel_work = steps * kPanel * std::min(n_rows, cut.row_chunk);
  cut.panel_chunk = std::max(ceil_div(kMinTaskWork, panel_work), n_panels * cut.n_row_chunks / wanted);
  cut.panel_chunk = std::clamp<int64_t>(cut.panel_chunk, 1, n_panels);
  cut.n_panel_chunks = ceil_div(n_panels, cut.panel_chunk);
  return cut;
}

// cos and sin of each row's angles, once for all layers. Angles are formed in f64.
void CpuExecutable::rope_angles(Team& team) {
  const int64_t half = program_->head_dim / 2;
  team.for_each(n_rows_, [&](int64_t row) {
    const StepSequence& sequence = batch_->sequences[static_cast<size_t>(row_sequence_[static_cast<size_t>(row)])];
    const Program::RopeTable& table = program_->rope_tables[static_cast<size_t>(sequence.rope_table)];
    const double position = row_position_[static_cast<size_t>(row)];
    float* cosine = cosine_.as<float>() + row * half;
    float* sine = sine_.as<float>() + row * half;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * table.inv_freq[static_cast<size_t>(i)];
      cosine[i] = static_cast<float>(std::cos(angle) * table.factor);
      sine[i] = static_cast<float>(std::sin(angle) * table.factor);
    }
  });
}

void CpuExecutable::run(const EmbedOp& op, Team& team) {
  const Activation& out = buffer(op.out);
  const PackedWeight& table = weight(op.table);
  team.for_each(n_rows_, [&](int64_t row) { table.read_row(batch_->tokens[static_cast<size_t>(row)], out.f32(row)); });
}

void CpuExecutable::run(const RmsNormOp& op, Team& team) {
  const Activation& x = buffer(op.x);
  const Activation& out = buffer(op.out);
  const float* w = weight(op.weight).vector();
  team.for_each(n_rows_, [&](int64_t row) {
    const NormArgs args{x.f32(row), w, out.row(row), x.cols, op.eps, out.store};
    kernels_.rms_norm(&args);
  });
}

// Quantises rows [0, n_rows) of x for products with weights of an integer format, and points `args` at them.
void CpuExecutable::quantise(Team& team, const Activation& x, int64_t n_rows, WeightFormat format, LinearArgs& args) {
  const QuantisedRows rows(kernels_, format, x.cols, n_rows);
  const bool own = n_rows <= kOwnRows;
  char* base = (own ? own_quantised_[static_cast<size_t>(team.thread())] : quantised_).as<char>();
  const auto quantise_row = [&](int64_t row) {
    const QuantiseArgs one = rows.args(format, x.row(row), x.store, x.cols, base, row);
    kernels_.quantise(&one);
  };
  rows.set(args, base);
  if (!own) return team.for_each(n_rows, quantise_row);
  for (int64_t row = 0; row < n_rows; ++row) quantise_row(row);
}

void CpuExecutable::linear(Team& team, const Activation& x, int64_t n_rows, const PackedWeight& w, void* out,
                           int64_t out_stride, Store store, Finish finish) {
  LinearArgs args{};
  args.x = x.row(0), args.x_stride = x.stride;
  if (is_integer(w.format)) quantise(team, x, n_rows, w.format, args);
  args.weight = w.data.data(), args.steps = w.steps;
  args.n = finish == Finish::kSiluMul ? w.rows / 2 : w.rows;
  args.out = out, args.out_stride = out_stride, args.store = store, args.finish = finish;
  const LinearKernel kernel = linear_kernel(x.store, w.format);
  const LinearCut cut = cut_linear(n_rows, kernels_.row_group, w.n_panels, w.panel_bytes() / (4 * kPanel), team.size());
  team.for_each(cut.tasks(), [&](int64_t task) {
    const int64_t row = task % cut.n_row_chunks * cut.row_chunk, panel = task / cut.n_row_chunks * cut.panel_chunk;
    kernel(&args, row, std::min(n_rows, row + cut.row_chunk), panel, std::min(w.n_panels, panel + cut.panel_chunk));
  });
}

void CpuExecutable::run_linear(const LinearOp& op, const Activation& x, Team& team) {
  const Activation& out = buffer(op.out);
  const Finish finish = op.epilogue == Epilogue::kStore   ? Finish::kStore
                        : op.epilogue == Epilogue::kAddTo ? Finish::kAddTo
                                                          : Finish::kSiluMul;
  linear(team, x, n_rows_, weight(op.weight), out.row(0), out.stride, out.store, finish);
}

void CpuExecutable::run(const LinearOp& op, Team& team) {
  run_linear(op, buffer(op.x), team);
}

// A norm and the product that reads it, with rows of each thread's own: one meeting less.
void CpuExecutable::run_normed(const RmsNormOp& norm, const LinearOp& op, Team& team) {
  const Activation& x = buffer(norm.x);
  const Activation& own = own_normed_[static_cast<size_t>(team.thread())];
  for (int64_t row = 0; row < n_rows_; ++row) {
    const NormArgs args{x.f32(row), weight(norm.weight).vector(), own.row(row), x.cols, norm.eps, own.store};
    kernels_.rms_norm(&args);
  }
  // The residual that the norm read is not written before the product's barrier.
  run_linear(op, own, team);
}

void CpuExecutable::append_rows(const QkNormRopeAppendOp& op, int64_t head, int64_t row_begin, int64_t row_end,
                                int thread) {
  const Program& p = *program_;
  const int64_t d = p.head_dim, half = d / 2;
  const Activation& qkv = buffer(op.qkv);
  const Activation& q_out = buffer(op.q_out);
  const int64_t k_head = head - p.n_q_heads, v_head = k_head - p.n_kv_heads;
  float* rotated = scratch_[static_cast<size_t>(thread)].as<float>();
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* x = qkv.f32(row) + head * d;
    const int32_t position = row_position_[static_cast<size_t>(row)], slot = position % kBlockSize;
    const StepSequence& sequence = batch_->sequences[static_cast<size_t>(row_sequence_[static_cast<size_t>(row)])];
    const int32_t block = sequence.block_table[static_cast<size_t>(position / kBlockSize)];
    RopeArgs args{x,
                  weight(op.k_norm).vector(),
                  cosine_.as<float>() + row * half,
                  sine_.as<float>() + row * half,
                  rotated,
                  d,
                  op.eps,
                  Store::kF32};
    if (k_head < 0) {
      args.weight = weight(op.q_norm).vector();
      args.out = q_out.row(row) + head * d * q_out.element();
      args.store = q_out.store;
      kernels_.norm_rope(&args);
    } else if (v_head < 0) {
      kernels_.norm_rope(&args);
      cache_->write_key(op.layer, k_head, block, slot, rotated);
    } else {
      cache_->write_value(op.layer, v_head, block, slot, x);
    }
  }
}

void CpuExecutable::run(const QkNormRopeAppendOp& op, Team& team) {
  const int64_t n_heads = program_->n_q_heads + 2 * program_->n_kv_heads, n_chunks = ceil_div(n_rows_, kAppendRows);
  team.for_each(n_heads * n_chunks, [&](int64_t task) {
    const int64_t begin = task % n_chunks * kAppendRows;
    append_rows(op, task / n_chunks, begin, std::min(n_rows_, begin + kAppendRows), team.thread());
  });
}

void CpuExecutable::attention_task(const AttentionOp& op, const AttentionTask& task, int thread) {
  const Activation& q = buffer(op.q);
  const Activation& out = buffer(op.out);
  const int64_t first = int64_t{task.kv_head} * plan_.group() * program_->head_dim;
  AttentionArgs args{};
  args.q = q.row(task.row) + first * q.element();
  args.q_stride = q.stride, args.q_store = q.store;
  args.n_positions = task.n_positions, args.group = plan_.group();
  args.position = row_position_[static_cast<size_t>(task.row)];
  args.head_dim = program_->head_dim, args.v_cols = static_cast<int32_t>(cache_->v_cols());
  args.split_keys = kSplitSize, args.split_begin = task.split_begin, args.split_end = task.split_end;
  args.block_table = batch_->sequences[static_cast<size_t>(task.sequence)].block_table.data();
  args.keys = cache_->keys(op.layer, task.kv_head), args.values = cache_->values(op.layer, task.kv_head);
  args.k_block_stride = args.v_block_stride = cache_->block_stride();
  if (task.partial < 0) args.out = out.row(task.row) + first * out.element();
  args.out_stride = out.stride, args.out_store = out.store;
  args.partial = partials_.as<float>() + std::max<int64_t>(task.partial, 0);
  args.scratch = scratch_[static_cast<size_t>(thread)].data();
  const DType dtype = cache_->dtype();
  (dtype == DType::kInt8   ? kernels_.attention_int8
   : dtype == DType::kBF16 ? kernels_.attention_bf16
                           : kernels_.attention_f32)(&args);
}

void CpuExecutable::run(const AttentionOp& op, Team& team) {
  const auto& tasks = plan_.tasks();
  team.for_each(static_cast<int64_t>(tasks.size()),
                [&](int64_t i) { attention_task(op, tasks[static_cast<size_t>(i)], team.thread()); });
  const auto& combines = plan_.combines();
  if (combines.empty()) return;
  const Activation& out = buffer(op.out);
  team.for_each(static_cast<int64_t>(combines.size()), [&](int64_t i) {
    const CombineTask& task = combines[static_cast<size_t>(i)];
    const int64_t n_tile_rows = int64_t{task.n_positions} * plan_.group();
    for (int64_t row = 0; row < n_tile_rows; ++row) {
      CombineArgs args{};
      args.partial = partials_.as<float>() + task.partial + row * plan_.partial_row();
      args.partial_stride = n_tile_rows * plan_.partial_row();
      args.n_splits = task.n_splits;
      args.head_dim = program_->head_dim, args.v_cols = static_cast<int32_t>(cache_->v_cols());
      const int64_t head = int64_t{task.kv_head} * plan_.group() + row % plan_.group();
      args.out = out.row(task.row + row / plan_.group()) + head * program_->head_dim * out.element();
      args.out_store = out.store;
      args.scratch = scratch_[static_cast<size_t>(team.thread())].as<float>();
      kernels_.combine(&args);
    }
  });
}

void CpuExecutable::run(const LogitsOp& op, Team& team) {
  const auto rows = batch_->logits_rows;
  const int64_t n = static_cast<int64_t>(rows.size());
  if (n == 0) return;
  const Activation& x = buffer(op.x);
  const PackedWeight& w = weight(op.weight);
  if (n == n_rows_) {
    linear(team, x, n, w, logits_, program_->vocab, Store::kF32, Finish::kStore);
    return;
  }
  team.for_each(n, [&](int64_t i) {
    std::memcpy(logits_input_.row(i), x.row(rows[static_cast<size_t>(i)]), static_cast<size_t>(x.cols * x.element()));
  });
  linear(team, logits_input_, n, w, logits_, program_->vocab, Store::kF32, Finish::kStore);
}

}  // namespace qwen3::cpu
