// Which kernels an operation takes. Nothing here waits or allocates: the same calls run a step or record a graph.

#include "cuda/operations.h"

#include <cstring>

#include "core/dtype.h"
#include "cuda/executable.h"

namespace qwen3::cuda {

void DeviceExecutable::launch_all(DeviceCache& cache) {
  const qwen3_cuda_op& embed = ops_[0].plain;
  begin_step(stream_,
             {view_.given, drawn(turn_ + 1), view_.rows, inv_freq_.as<double>(), rope_factor_.as<double>(),
              weight(embed.weight).data.as<Bf16>(), hidden_, heads_.head_dim, tokens_.as<int32_t>(), cos_.as<float>(),
              sin_.as<float>(), f32(embed.out)},
             view_.n_rows);
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Operation& op = ops_[i];
    if (taken(i)) continue;
    if (op.plain.kind == kLogits) {
      launch_logits(op);
      continue;
    }
    launch_op(op, cache);
    if (observer_) show(static_cast<int32_t>(i), op.plain.out);
  }
}

// --- what kernels take in: the same bits, so that it may depend on the number of rows ---

bool DeviceExecutable::decodes_only() const {
  return view_.ranges.size() == 1 && view_.ranges[0].decode;
}

// An observer is shown what every operation writes. Of the last norm no more is wanted than the logits' rows.
bool DeviceExecutable::takes_norm(const Operation& op) const {
  if (observer_ || op.norm < 0) return false;
  const bool logits = op.plain.kind == kLogits;
  if (op.plain.kind == kMoe) return decodes_only() && route_takes_norm(view_.n_rows, hidden_);
  return (logits ? !one_class_ : decodes_only()) &&
         stream_takes_norm(logits ? view_.n_logits : view_.n_rows, static_cast<int>(weight(op.plain.weight).cols));
}

bool DeviceExecutable::takes_heads(const Operation& op) const {
  return !observer_ && op.heads >= 0 && decodes_only();
}

bool DeviceExecutable::taken(size_t index) const {
  if (index + 1 == ops_.size()) return false;
  const auto i = static_cast<int32_t>(index);
  const Operation& next = ops_[index + 1];
  return (next.norm == i && takes_norm(next)) || (next.heads == i && takes_heads(next));
}

QkNormRope DeviceExecutable::heads_of(const qwen3_cuda_op& o, DeviceCache& cache) const {
  return {f32(o.x),
          weight(o.weight).data.as<float>(),
          weight(o.weight_2).data.as<float>(),
          cos_.as<float>(),
          sin_.as<float>(),
          view_.rows,
          heads_,
          o.eps,
          bf16(o.out),
          cache.layer(o.layer)};
}

StreamFusion DeviceExecutable::fusion_of(const Operation& op) const {
  StreamFusion fusion;
  if (takes_norm(op)) {
    const qwen3_cuda_op& norm = ops_[static_cast<size_t>(op.norm)].plain;
    fusion.residual = f32(norm.x), fusion.norm_weight = weight(norm.weight).data.as<float>();
    fusion.norm_eps = norm.eps;
  }
  return fusion;
}

void DeviceExecutable::launch_op(const Operation& op, DeviceCache& cache) {
  const qwen3_cuda_op& o = op.plain;
  switch (o.kind) {
    case kEmbed:  // begin_step did it
      return;
    case kRmsNorm:
      rms_norm(stream_, f32(o.x), nullptr, weight(o.weight).data.as<float>(), view_.n_rows, hidden_, o.eps,
               bf16(o.out));
      return;
    case kLinear:
      launch_linear(op);
      return;
    case kQkNormRope:
      qk_norm_rope_append(stream_, heads_of(o, cache), view_.n_rows);
      return;
    case kAttention:
      launch_attention(op, cache);
      return;
    case kMoe:
      launch_moe(op);
      return;
    default:
      throw Error(ErrorCode::kInternal, "unknown operation " + std::to_string(o.kind));
  }
}

void DeviceExecutable::launch_attention(const Operation& op, DeviceCache& cache) {
  const qwen3_cuda_op& o = op.plain;
  if (takes_heads(op)) {
    attention_decode(stream_, heads_of(ops_[static_cast<size_t>(op.heads)].plain, cache), view_.decode,
                     partials_.as<float>(), arrived_.as<int32_t>(), bf16(o.out));
    return;
  }
  const KvLayer layer = cache.layer(o.layer);
  if (hopper_ && prefill_on_hopper(heads_)) {
    attention_prefill_hopper(stream_, bf16(o.x), layer, cache.n_blocks(), view_.prefill, heads_, view_.n_rows,
                             multiprocessors_, bf16(o.out));
  } else {
    attention_prefill(stream_, bf16(o.x), layer, view_.prefill, heads_, bf16(o.out));
  }
  attention_decode(stream_, bf16(o.x), layer, view_.decode, heads_, partials_.as<float>(), arrived_.as<int32_t>(),
                   bf16(o.out));
}

void DeviceExecutable::launch_linear(const Operation& op) {
  const qwen3_cuda_op& o = op.plain;
  const DeviceWeight& w = weight(o.weight);
  const auto n = static_cast<int>(w.rows), k = static_cast<int>(w.cols);
  for (const RowRange& range : view_.ranges) {
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
      launch_stream(operands, shape, output, fusion_of(op));
    } else if (hopper_) {
      linear_hopper(stream_, operands, shape, output, multiprocessors_);
    } else {
      linear(stream_, operands, shape, output);
    }
  }
}

void DeviceExecutable::launch_stream(const LinearOperands& operands, const LinearShape& shape, Output output,
                                     const StreamFusion& fusion) {
  if (hopper_ && stream_on_hopper(shape.n, shape.k)) {
    linear_stream_hopper(stream_, operands, shape, output,
                         {multiprocessors_, stream_parts_.as<float>(), stream_arrived_.as<int32_t>()}, fusion);
  } else {
    linear_stream(stream_, operands, shape, output, fusion);
  }
}

void DeviceExecutable::launch_moe(const Operation& op) {
  const qwen3_cuda_op& o = op.plain;
  for (const RowRange& range : view_.ranges) {
    const MoeShape shape{range.count, hidden_, op.ffn, n_experts_, o.top_k, o.norm_topk_prob != 0, view_.valid_rows};
    const Bf16* x = bf16(o.x) + int64_t{range.begin} * hidden_;
    int32_t* load = expert_load_.as<int32_t>() + int64_t{o.layer} * n_experts_;
    const Bf16* router = weight(o.weight).data.as<Bf16>();
    RouteNorm norm;
    if (takes_norm(op)) {
      const qwen3_cuda_op& from = ops_[static_cast<size_t>(op.norm)].plain;
      norm = {f32(from.x), weight(from.weight).data.as<float>(), from.eps, bf16(o.x)};
    }
    if (range.decode && range.count <= kMoeFewRows) {
      moe_route_few(stream_, x, router, shape,
                    {ids_.as<int32_t>(), shares_.as<float>(), order_.as<int32_t>(), offsets_.as<int32_t>(), load,
                     route_scores_.as<float>(), route_arrived_.as<int32_t>()},
                    norm);
    } else {
      moe_route(stream_, x, router, shape, ids_.as<int32_t>(), shares_.as<float>());
      moe_sort(stream_, ids_.as<int32_t>(), shape, order_.as<int32_t>(), offsets_.as<int32_t>(), load);
    }
    MoeOperands operands{x,
                         op.gate_up.as<const Bf16*>(),
                         op.down.as<const Bf16*>(),
                         order_.as<int32_t>(),
                         offsets_.as<int32_t>(),
                         gated_.as<Bf16>(),
                         products_.as<void>()};
    operands.drawn = tiles_drawn_.as<int32_t>();
    float* out = f32(o.out) + int64_t{range.begin} * hidden_;
    if (hopper_ && !range.decode) {
      operands.gate_up_maps = op.gate_up_maps.as<TensorMap>(), operands.down_maps = op.down_maps.as<TensorMap>();
      moe_experts_hopper(stream_, operands, shape, multiprocessors_);
      moe_combine(stream_, products_.as<Bf16>(), shares_.as<float>(), shape, out);
    } else if (hopper_) {
      operands.gate_up_maps = op.gate_up_stream_maps.as<TensorMap>();
      operands.down_maps = op.down_stream_maps.as<TensorMap>();
      MoeCombine combine;
      if (stream_takes_combine(range.count)) combine = {shares_.as<float>(), out, combine_arrived_.as<int32_t>()};
      moe_stream_hopper(stream_, operands, shape, multiprocessors_, combine);
      if (!combine.out) moe_combine(stream_, products_.as<float>(), shares_.as<float>(), shape, out);
    } else {
      moe_experts(stream_, operands, shape, range.decode);
      moe_combine(stream_, products_.as<float>(), shares_.as<float>(), shape, out);
    }
  }
}

// Logits belong to decoding mostly; the class is the stream's for every row, so that neighbours do not matter.
void DeviceExecutable::launch_logits(const Operation& op) {
  if (view_.n_logits == 0) return;
  const DeviceWeight& w = weight(op.plain.weight);
  const LinearShape shape{view_.n_logits, vocab_, static_cast<int>(w.cols)};
  const LinearOperands operands{bf16(op.plain.x), w.data.as<Bf16>(), logits_.as<float>(), view_.logits_rows};
  if (one_class_) {
    linear(stream_, operands, shape, Output::kStoreF32);
  } else {
    launch_stream(operands, shape, Output::kStoreF32, fusion_of(op));
  }
}

void DeviceExecutable::launch_sampling() {
  if (view_.n_logits == 0) return;
  sample(stream_, logits_.as<float>(), view_.n_logits, vocab_, view_.sampling, view_.adjustments, nullptr, drawn(turn_),
         sampling_scratch_.as<void>(), tokens_.as<int32_t>());
}

void DeviceExecutable::show(int32_t index, int32_t buffer) {
  const qwen3_cuda_buffer& desc = described_[static_cast<size_t>(buffer)];
  const auto dtype = static_cast<DType>(desc.dtype);
  const size_t cols = static_cast<size_t>(desc.cols), rows = static_cast<size_t>(view_.n_rows);
  std::vector<std::byte> raw(rows * cols * static_cast<size_t>(dtype_bytes(dtype)));
  copy_to_host(stream_, raw.data(), buffers_[static_cast<size_t>(buffer)].as<void>(), raw.size());
  synchronize(stream_);
  std::vector<float> values(rows * cols);
  for (size_t r = 0; r < rows; ++r) {
    float* to = values.data() + static_cast<size_t>(tables_.row_of(r)) * cols;
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
  observer_(observer_context_, index, view_.n_rows, desc.cols, values.data());
}

}  // namespace qwen3::cuda
