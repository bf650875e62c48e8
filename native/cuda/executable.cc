#include "cuda/executable.h"

#include <algorithm>
#include <cstring>
#include <variant>

#include "core/checked.h"
#include "core/dtype.h"
#include "ops/program.h"

namespace qwen3::cuda {
namespace {

// qwen3_cuda_op::kind is the index of the alternative.
enum Kind : int32_t { kEmbed, kRmsNorm, kLinear, kQkNormRope, kAttention, kMoe, kLogits };
static_assert(std::is_same_v<std::variant_alternative_t<kEmbed, Op>, EmbedOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kRmsNorm, Op>, RmsNormOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kLinear, Op>, LinearOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kQkNormRope, Op>, QkNormRopeAppendOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kAttention, Op>, AttentionOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kMoe, Op>, MoeOp>);
static_assert(std::is_same_v<std::variant_alternative_t<kLogits, Op>, LogitsOp>);

[[noreturn]] void unsupported(const std::string& what) {
  throw Error(ErrorCode::kUnsupported, what + "; this model cannot run on CUDA in this version", "device");
}

template <class T>
DeviceBuffer upload_array(Stream stream, const T* values, size_t n) {
  DeviceBuffer buffer(n * sizeof(T));
  if (n) copy_to_device(stream, buffer.as<void>(), values, n * sizeof(T));
  synchronize(stream);
  return buffer;
}

}  // namespace

DeviceExecutable::DeviceExecutable(Stream stream, const DeviceDescription& device, const qwen3_cuda_program& p,
                                   std::vector<const DeviceWeight*> weights, int64_t max_rows, bool one_class)
    : stream_(stream),
      n_layers_(p.n_layers),
      n_experts_(p.n_experts),
      hidden_(p.hidden),
      vocab_(p.vocab),
      heads_{p.n_q_heads, p.n_kv_heads, p.head_dim},
      hopper_(device.hopper),
      multiprocessors_(device.multiprocessors),
      max_rows_(max_rows),
      one_class_(one_class),
      described_(p.buffers, p.buffers + p.n_buffers),
      weights_(std::move(weights)) {
  check_program();
  for (const qwen3_cuda_buffer& b : described_) {
    buffers_.emplace_back(
        static_cast<size_t>(checked_mul(checked_mul(max_rows, b.cols), dtype_bytes(static_cast<DType>(b.dtype)))));
  }
  const int64_t half = p.head_dim / 2;
  std::vector<double> inv_freq, factor;
  for (int32_t i = 0; i < p.n_rope_tables; ++i) {
    inv_freq.insert(inv_freq.end(), p.rope_tables[i].inv_freq, p.rope_tables[i].inv_freq + half);
    factor.push_back(p.rope_tables[i].factor);
  }
  inv_freq_ = upload_array(stream, inv_freq.data(), inv_freq.size());
  rope_factor_ = upload_array(stream, factor.data(), factor.size());
  cos_ = DeviceBuffer(static_cast<size_t>(max_rows * half) * 4);
  sin_ = DeviceBuffer(static_cast<size_t>(max_rows * half) * 4);
  int64_t most_assigned = 0, widest = 0;
  for (int32_t i = 0; i < p.n_ops; ++i) {
    Step op{p.ops[i], {}, {}, 0};
    if (op.plain.kind == kMoe) {
      std::vector<const Bf16*> gate_up, down;
      for (int32_t e = 0; e < n_experts_; ++e) {
        gate_up.push_back(weight(op.plain.gate_up[e]).data.as<Bf16>());
        down.push_back(weight(op.plain.down[e]).data.as<Bf16>());
      }
      op.ffn = static_cast<int32_t>(weight(op.plain.down[0]).cols);
      op.gate_up = upload_array(stream, gate_up.data(), gate_up.size());
      op.down = upload_array(stream, down.data(), down.size());
      op.plain.gate_up = op.plain.down = nullptr;
      most_assigned = std::max(most_assigned, checked_mul(max_rows, op.plain.top_k));
      widest = std::max<int64_t>(widest, op.ffn);
    }
    ops_.push_back(std::move(op));
  }
  if (most_assigned > 0) {
    const auto n = static_cast<size_t>(most_assigned);
    ids_ = DeviceBuffer(n * 4), shares_ = DeviceBuffer(n * 4), order_ = DeviceBuffer(n * 4);
    offsets_ = DeviceBuffer(static_cast<size_t>(n_experts_ + 1) * 4);
    gated_ = DeviceBuffer(n * static_cast<size_t>(widest) * 2);
    products_ = DeviceBuffer(n * static_cast<size_t>(hidden_) * 4);
    expert_load_ = DeviceBuffer(static_cast<size_t>(n_layers_) * static_cast<size_t>(n_experts_) * 4);
    fill_bytes(stream, expert_load_.as<void>(), 0, expert_load_.bytes());
  }
}

void DeviceExecutable::check_program() const {
  const HeadShape& h = heads_;
  if (h.head_dim != 32 && h.head_dim != 64 && h.head_dim != 128) unsupported("head_dim " + std::to_string(h.head_dim));
  if (h.n_q_heads % h.n_kv_heads != 0 || h.n_q_heads / h.n_kv_heads > 16)
    unsupported("more than 16 q heads per KV head");
  if (hidden_ % 8 != 0 || hidden_ > kMaxNormWidth) unsupported("hidden size " + std::to_string(hidden_));
  if (n_experts_ % 8 != 0 || n_experts_ > 256) unsupported(std::to_string(n_experts_) + " experts");
}

// Decoding sequences first; in each group as they came.
void DeviceExecutable::plan_rows(const qwen3_cuda_batch& batch) {
  sequences_.clear(), row_of_.clear(), ranges_.clear();
  for (const bool decode : {true, false}) {
    const int begin = static_cast<int>(row_of_.size());
    for (int32_t i = 0; i < batch.n_sequences; ++i) {
      const qwen3_cuda_sequence& s = batch.sequences[i];
      if (s.n_rows == 0 || (s.n_rows == 1 && !one_class_) != decode) continue;
      sequences_.push_back({static_cast<int32_t>(row_of_.size()),
                            s.n_rows,
                            s.position_begin,
                            {s.block_table, static_cast<size_t>(s.n_blocks)},
                            s.rope_table});
      for (int32_t r = 0; r < s.n_rows; ++r) row_of_.push_back(s.row_begin + r);
    }
    const int count = static_cast<int>(row_of_.size()) - begin;
    if (count > 0) ranges_.push_back({begin, count, decode});
  }
  n_rows_ = static_cast<int>(row_of_.size());
  n_logits_ = batch.n_logits;
}

void DeviceExecutable::upload(const qwen3_cuda_batch& batch) {
  plan_rows(batch);
  const AttentionSchedule schedule = schedule_attention(sequences_, heads_, one_class_);
  std::vector<int32_t> tokens, positions, slots, ropes, logits_rows, device_row(row_of_.size());
  for (size_t i = 0; i < row_of_.size(); ++i) {
    tokens.push_back(batch.tokens[row_of_[i]]);
    device_row[static_cast<size_t>(row_of_[i])] = static_cast<int32_t>(i);
  }
  for (const StepSequence& s : sequences_) {
    for (int32_t r = 0; r < s.n_rows; ++r) {
      const int32_t position = s.position_begin + r;
      positions.push_back(position);
      slots.push_back(s.block_table[static_cast<size_t>(position / 64)] * 64 + position % 64);
      ropes.push_back(s.rope_table);
    }
  }
  for (int32_t i = 0; i < batch.n_logits; ++i) {
    logits_rows.push_back(device_row[static_cast<size_t>(batch.logits_rows[i])]);
  }
  // One piece of pinned memory, one copy; every array on its own 32 bytes.
  size_t bytes = 0;
  std::vector<std::pair<const void*, size_t>> arrays;
  const auto place = [&](const auto& values) {
    const size_t at = bytes, n = values.size() * sizeof(values[0]);
    arrays.emplace_back(values.data(), n);
    bytes += (n + 31) / 32 * 32;
    return at;
  };
  const size_t at_tokens = place(tokens), at_positions = place(positions), at_slots = place(slots),
               at_ropes = place(ropes);
  const size_t at_logits = place(logits_rows), at_sequences = place(schedule.sequences),
               at_table = place(schedule.block_table);
  const size_t at_prefill = place(schedule.prefill), at_decode = place(schedule.decode),
               at_combine = place(schedule.combine);
  tables_.reserve(bytes);
  if (staging_.bytes() < bytes) staging_ = PinnedBuffer(bytes + bytes / 2);
  size_t at = 0;
  for (const auto& [data, n] : arrays) {
    if (n) std::memcpy(staging_.as<std::byte>() + at, data, n);
    at += (n + 31) / 32 * 32;
  }
  copy_to_device(stream_, tables_.as<void>(), staging_.as<std::byte>(), bytes);
  partials_.reserve(static_cast<size_t>(schedule.n_partials) * static_cast<size_t>(partial_elements(heads_)) * 4);

  const auto i32 = [&](size_t offset) { return reinterpret_cast<const int32_t*>(tables_.as<std::byte>() + offset); };
  step_.tokens = i32(at_tokens);
  step_.rows = {i32(at_positions), i32(at_slots), i32(at_ropes)};
  step_.logits_rows = i32(at_logits);
  const auto* sequences = reinterpret_cast<const AttentionSequence*>(tables_.as<std::byte>() + at_sequences);
  const auto tiles = [&](size_t offset) {
    return reinterpret_cast<const AttentionTile*>(tables_.as<std::byte>() + offset);
  };
  step_.prefill = {sequences, i32(at_table), tiles(at_prefill), static_cast<int>(schedule.prefill.size())};
  step_.decode = {sequences, i32(at_table), tiles(at_decode), static_cast<int>(schedule.decode.size())};
  step_.combine = reinterpret_cast<const CombineRow*>(tables_.as<std::byte>() + at_combine);
  step_.n_combine = static_cast<int>(schedule.combine.size());
}

void DeviceExecutable::run(const qwen3_cuda_batch& batch, DeviceCache& cache, float* logits) {
  if (batch.n_rows > max_rows_) throw Error(ErrorCode::kInternal, "more rows than the executable was compiled for");
  if (batch.n_rows == 0) return;
  upload(batch);
  rope_rows(stream_, step_.rows, inv_freq_.as<double>(), rope_factor_.as<double>(), n_rows_, heads_.head_dim,
            cos_.as<float>(), sin_.as<float>());
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Step& op = ops_[i];
    if (op.plain.kind == kLogits) {
      run_logits(op, logits);
      continue;
    }
    run_op(op, cache);
    if (observer_) show(static_cast<int32_t>(i), op.plain.out);
  }
  synchronize(stream_);
}

void DeviceExecutable::run_op(const Step& op, DeviceCache& cache) {
  const qwen3_cuda_op& o = op.plain;
  switch (o.kind) {
    case kEmbed:
      embed(stream_, weight(o.weight).data.as<Bf16>(), step_.tokens, n_rows_, hidden_, f32(o.out));
      return;
    case kRmsNorm:
      rms_norm(stream_, f32(o.x), nullptr, weight(o.weight).data.as<float>(), n_rows_, hidden_, o.eps, bf16(o.out));
      return;
    case kLinear:
      run_linear(op);
      return;
    case kQkNormRope:
      qk_norm_rope_append(stream_, f32(o.x), weight(o.weight).data.as<float>(), weight(o.weight_2).data.as<float>(),
                          cos_.as<float>(), sin_.as<float>(), step_.rows, n_rows_, heads_, o.eps, bf16(o.out),
                          cache.layer(o.layer));
      return;
    case kAttention:
      if (hopper_ && prefill_on_hopper(heads_)) {
        attention_prefill_hopper(stream_, bf16(o.x), cache.layer(o.layer), cache.n_blocks(), step_.prefill, heads_,
                                 n_rows_, bf16(o.out));
      } else {
        attention_prefill(stream_, bf16(o.x), cache.layer(o.layer), step_.prefill, heads_, bf16(o.out));
      }
      attention_decode(stream_, bf16(o.x), cache.layer(o.layer), step_.decode, heads_, partials_.as<float>(),
                       bf16(o.out));
      attention_combine(stream_, partials_.as<float>(), step_.combine, step_.n_combine, heads_, bf16(o.out));
      return;
    case kMoe:
      run_moe(op);
      return;
    default:
      throw Error(ErrorCode::kInternal, "unknown operation " + std::to_string(o.kind));
  }
}

void DeviceExecutable::run_linear(const Step& op) {
  const qwen3_cuda_op& o = op.plain;
  const DeviceWeight& w = weight(o.weight);
  const auto n = static_cast<int>(w.rows), k = static_cast<int>(w.cols);
  for (const Range& range : ranges_) {
    const Bf16* x = bf16(o.x) + int64_t{range.begin} * k;
    void* out;
    Output output;
    if (static_cast<Epilogue>(o.epilogue) == Epilogue::kSiluMul) {
      output = Output::kSiluMul, out = bf16(o.out) + int64_t{range.begin} * (n / 2);
    } else {
      output = static_cast<Epilogue>(o.epilogue) == Epilogue::kAddTo ? Output::kAddF32 : Output::kStoreF32;
      out = f32(o.out) + int64_t{range.begin} * n;
    }
    const LinearOperands operands{x, w.data.as<Bf16>(), out};
    const LinearShape shape{range.count, n, k};
    if (range.decode) {
      linear_stream(stream_, operands, shape, output);
    } else if (hopper_) {
      linear_hopper(stream_, operands, shape, output, multiprocessors_);
    } else {
      linear(stream_, operands, shape, output);
    }
  }
}

void DeviceExecutable::run_moe(const Step& op) {
  const qwen3_cuda_op& o = op.plain;
  for (const Range& range : ranges_) {
    const MoeShape shape{range.count, hidden_, op.ffn, n_experts_, o.top_k, o.norm_topk_prob != 0};
    const Bf16* x = bf16(o.x) + int64_t{range.begin} * hidden_;
    moe_route(stream_, x, weight(o.weight).data.as<Bf16>(), shape, ids_.as<int32_t>(), shares_.as<float>());
    moe_sort(stream_, ids_.as<int32_t>(), shape, order_.as<int32_t>(), offsets_.as<int32_t>(),
             expert_load_.as<int32_t>() + int64_t{o.layer} * n_experts_);
    moe_experts(stream_,
                {x, op.gate_up.as<const Bf16*>(), op.down.as<const Bf16*>(), order_.as<int32_t>(),
                 offsets_.as<int32_t>(), gated_.as<Bf16>(), products_.as<float>()},
                shape, range.decode);
    moe_combine(stream_, products_.as<float>(), shares_.as<float>(), shape,
                f32(o.out) + int64_t{range.begin} * hidden_);
  }
}

// Logits belong to decoding mostly; the class is the stream's for every row, so that neighbours do not matter.
void DeviceExecutable::run_logits(const Step& op, float* logits) {
  if (n_logits_ == 0) return;
  const DeviceWeight& w = weight(op.plain.weight);
  const size_t bytes = static_cast<size_t>(n_logits_) * static_cast<size_t>(vocab_) * 4;
  logits_.reserve(bytes);
  const LinearShape shape{n_logits_, vocab_, static_cast<int>(w.cols)};
  (one_class_ ? linear : linear_stream)(
      stream_, {bf16(op.plain.x), w.data.as<Bf16>(), logits_.as<float>(), step_.logits_rows}, shape, Output::kStoreF32);
  copy_to_host(stream_, logits, logits_.as<float>(), bytes);
}

void DeviceExecutable::show(int32_t index, int32_t buffer) {
  const qwen3_cuda_buffer& desc = described_[static_cast<size_t>(buffer)];
  const auto dtype = static_cast<DType>(desc.dtype);
  const size_t cols = static_cast<size_t>(desc.cols), rows = static_cast<size_t>(n_rows_);
  std::vector<std::byte> raw(rows * cols * static_cast<size_t>(dtype_bytes(dtype)));
  copy_to_host(stream_, raw.data(), buffers_[static_cast<size_t>(buffer)].as<void>(), raw.size());
  synchronize(stream_);
  std::vector<float> values(rows * cols);
  for (size_t r = 0; r < rows; ++r) {
    float* to = values.data() + static_cast<size_t>(row_of_[r]) * cols;
    for (size_t c = 0; c < cols; ++c) {
      const std::byte* from = raw.data() + (r * cols + c) * static_cast<size_t>(dtype_bytes(dtype));
      uint16_t half;
      if (dtype == DType::kF32) {
        std::memcpy(&to[c], from, 4);
      } else {
        std::memcpy(&half, from, 2);
        to[c] = bf16_to_f32(half);
      }
    }
  }
  observer_(observer_context_, index, n_rows_, desc.cols, values.data());
}

void DeviceExecutable::expert_counts(int64_t* out) {
  std::vector<int32_t> counts(expert_load_.bytes() / 4);
  if (counts.empty()) return;
  copy_to_host(stream_, counts.data(), expert_load_.as<void>(), expert_load_.bytes());
  synchronize(stream_);
  std::copy(counts.begin(), counts.end(), out);
}

}  // namespace qwen3::cuda
