#include "cuda/executable.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/checked.h"
#include "core/dtype.h"
#include "cuda/operations.h"

namespace qwen3::cuda {

static_assert(sizeof(qwen3_cuda_logprobs) == sizeof(RowLogprobs));

namespace {

// Steps of more decoding rows than this are launched kernel by kernel: their kernels take longer than launching does.
constexpr int kMostGraphRows = 256;
// What prepare() reserves at most; longer steps grow the buffers when they come.
constexpr size_t kMostTableBlocks = 1 << 20, kMostTiles = 1 << 17, kMostPartialBytes = 64 << 20;
constexpr size_t kAdjustments = 1 << 14;

// Kernels work on 8 rows at a time, so that finer buckets would save nothing.
int round_to_bucket(int rows) {
  for (const int small : {1, 2, 4, 8}) {
    if (rows <= small) return small;
  }
  return rows <= 64 ? (rows + 7) / 8 * 8 : (rows + 31) / 32 * 32;
}

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

bool ran_out_of_memory(const std::exception& failure) {
  const auto* const error = dynamic_cast<const Error*>(&failure);
  return error ? error->code() == ErrorCode::kOutOfMemory : dynamic_cast<const std::bad_alloc*>(&failure) != nullptr;
}

}  // namespace

DeviceExecutable::DeviceExecutable(Stream loading, const DeviceDescription& device, const qwen3_cuda_program& p,
                                   std::vector<const DeviceWeight*> weights, int64_t max_rows, int64_t max_positions,
                                   bool one_class)
    : n_layers_(p.n_layers),
      n_experts_(p.n_experts),
      hidden_(p.hidden),
      vocab_(p.vocab),
      heads_{p.n_q_heads, p.n_kv_heads, p.head_dim},
      hopper_(device.hopper),
      multiprocessors_(device.multiprocessors),
      max_rows_(max_rows),
      max_positions_(max_positions),
      one_class_(one_class),
      described_(p.buffers, p.buffers + p.n_buffers),
      weights_(std::move(weights)),
      // Three blocks of two warps are on a multiprocessor at a time; more even out tiles of different lengths.
      tables_(heads_, one_class, (8 * multiprocessors_ + p.n_kv_heads - 1) / p.n_kv_heads,
              hopper_ && prefill_on_hopper(heads_) ? multiprocessors_ : 0) {
  check_supported(p);
  for (const qwen3_cuda_buffer& b : described_) {
    buffers_.emplace_back(
        static_cast<size_t>(checked_mul(checked_mul(max_rows, b.cols), dtype_bytes(static_cast<DType>(b.dtype)))));
    fill_bytes(loading, buffers_.back().as<void>(), 0, buffers_.back().bytes());  // padding rows stay finite
  }
  const int64_t half = p.head_dim / 2;
  std::vector<double> inv_freq, factor;
  for (int32_t i = 0; i < p.n_rope_tables; ++i) {
    inv_freq.insert(inv_freq.end(), p.rope_tables[i].inv_freq, p.rope_tables[i].inv_freq + half);
    factor.push_back(p.rope_tables[i].factor);
  }
  inv_freq_ = upload_array(loading, inv_freq.data(), inv_freq.size());
  rope_factor_ = upload_array(loading, factor.data(), factor.size());
  cos_ = DeviceBuffer(static_cast<size_t>(max_rows * half) * 4);
  sin_ = DeviceBuffer(static_cast<size_t>(max_rows * half) * 4);
  tokens_ = DeviceBuffer(static_cast<size_t>(max_rows) * 4);
  make_operations(loading, p);
  find_fusions();
  if (hopper_ && !one_class_) make_stream_buffers(loading);
  const auto experts = static_cast<size_t>(expert_load_.bytes() / 4);
  expert_totals_.resize(experts), expert_seen_.resize(experts);
  for (Turn& turn : turns_) {
    turn.uploaded = OwnedEvent(create_event()), turn.ran = OwnedEvent(create_event());
    turn.done = OwnedEvent(create_event());
    turn.drawn = DeviceBuffer(static_cast<size_t>(max_rows) * 4);
    turn.tokens = PinnedBuffer(static_cast<size_t>(max_rows) * 4);
    if (experts > 0) turn.expert_load = PinnedBuffer(experts * 4);
  }
  synchronize(loading);
}

void DeviceExecutable::make_operations(Stream loading, const qwen3_cuda_program& p) {
  int64_t most_assigned = 0, widest = 0;
  for (int32_t i = 0; i < p.n_ops; ++i) {
    Operation op;
    op.plain = p.ops[i];
    if (op.plain.kind == kMoe) {
      std::vector<const Bf16*> gate_up, down;
      for (int32_t e = 0; e < n_experts_; ++e) {
        gate_up.push_back(weight(op.plain.gate_up[e]).data.as<Bf16>());
        down.push_back(weight(op.plain.down[e]).data.as<Bf16>());
      }
      op.ffn = static_cast<int32_t>(weight(op.plain.down[0]).cols);
      op.gate_up = upload_array(loading, gate_up.data(), gate_up.size());
      op.down = upload_array(loading, down.data(), down.size());
      if (hopper_) {
        std::vector<TensorMap> gate_up_maps, down_maps;
        for (const Bf16* w : gate_up) gate_up_maps.push_back(describe_expert(w, 2 * op.ffn, hidden_));
        for (const Bf16* w : down) down_maps.push_back(describe_expert(w, hidden_, op.ffn));
        op.gate_up_maps = upload_array(loading, gate_up_maps.data(), gate_up_maps.size());
        op.down_maps = upload_array(loading, down_maps.data(), down_maps.size());
        gate_up_maps.clear(), down_maps.clear();
        for (const Bf16* w : gate_up) gate_up_maps.push_back(describe_streamed_expert(w, 2 * op.ffn, hidden_));
        for (const Bf16* w : down) down_maps.push_back(describe_streamed_expert(w, hidden_, op.ffn));
        op.gate_up_stream_maps = upload_array(loading, gate_up_maps.data(), gate_up_maps.size());
        op.down_stream_maps = upload_array(loading, down_maps.data(), down_maps.size());
      }
      op.plain.gate_up = op.plain.down = nullptr;
      most_assigned = std::max(most_assigned, checked_mul(max_rows_, op.plain.top_k));
      widest = std::max<int64_t>(widest, op.ffn);
    }
    ops_.push_back(std::move(op));
  }
  if (most_assigned > 0) make_expert_buffers(loading, most_assigned, widest);
}

void DeviceExecutable::make_stream_buffers(Stream loading) {
  const auto rows = static_cast<int>(std::min<int64_t>(max_rows_, kMostStreamRows));
  int64_t counters = stream_counters(rows, vocab_);
  for (const Operation& op : ops_) {
    if (op.plain.kind != kLinear) continue;
    counters = std::max(counters, stream_counters(rows, static_cast<int>(weight(op.plain.weight).rows)));
  }
  stream_parts_ = DeviceBuffer(static_cast<size_t>(stream_part_elements(multiprocessors_, rows)) * 4);
  stream_arrived_ = DeviceBuffer(static_cast<size_t>(counters) * 4);
  fill_bytes(loading, stream_arrived_.as<void>(), 0, stream_arrived_.bytes());
}

void DeviceExecutable::find_fusions() {
  // Whether some operation behind `first` reads what it wrote, before another one writes there.
  const auto read_again = [&](size_t first, int32_t buffer) {
    for (size_t i = first + 1; i < ops_.size(); ++i) {
      if (ops_[i].plain.x == buffer) return true;
      if (ops_[i].plain.out == buffer) return false;
    }
    return false;
  };
  for (size_t i = 1; i < ops_.size(); ++i) {
    const qwen3_cuda_op &before = ops_[i - 1].plain, &op = ops_[i].plain;
    const bool product = op.kind == kLinear || op.kind == kLogits;
    // The router writes the normalised rows; the products do not.
    if (before.kind == kRmsNorm && before.out == op.x && (op.kind == kMoe || (product && !read_again(i, op.x))))
      ops_[i].norm = static_cast<int32_t>(i) - 1;
    if (op.kind != kAttention) continue;
    // Padding rows of a graph have no place in the cache: nothing but the attention may append there.
    if (before.kind != kQkNormRope || before.out != op.x)
      throw Error(ErrorCode::kInternal, "attention without QK-Norm and RoPE ahead of it");
    ops_[i].heads = static_cast<int32_t>(i) - 1;
  }
}

void DeviceExecutable::make_expert_buffers(Stream loading, int64_t assignments, int64_t widest) {
  const auto n = static_cast<size_t>(assignments);
  ids_ = DeviceBuffer(n * 4), shares_ = DeviceBuffer(n * 4), order_ = DeviceBuffer(n * 4);
  offsets_ = DeviceBuffer(static_cast<size_t>(n_experts_ + 1) * 4);
  gated_ = DeviceBuffer(n * static_cast<size_t>(widest) * 2);
  products_ = DeviceBuffer(n * static_cast<size_t>(hidden_) * 4);
  for (const DeviceBuffer* added : {&products_, &shares_})  // by padding rows, too
    fill_bytes(loading, added->as<void>(), 0, added->bytes());
  route_scores_ = DeviceBuffer(static_cast<size_t>(kMoeFewRows) * static_cast<size_t>(n_experts_) * 4);
  route_arrived_ = DeviceBuffer(4);
  fill_bytes(loading, route_arrived_.as<void>(), 0, route_arrived_.bytes());
  combine_arrived_ = DeviceBuffer(static_cast<size_t>(moe_combine_counters(hidden_)) * 4);
  fill_bytes(loading, combine_arrived_.as<void>(), 0, combine_arrived_.bytes());
  tiles_drawn_ = DeviceBuffer(8);
  fill_bytes(loading, tiles_drawn_.as<void>(), 0, tiles_drawn_.bytes());
  expert_load_ = DeviceBuffer(static_cast<size_t>(n_layers_) * static_cast<size_t>(n_experts_) * 4);
  fill_bytes(loading, expert_load_.as<void>(), 0, expert_load_.bytes());
}

// What was queued may still be running, on memory that goes now.
DeviceExecutable::~DeviceExecutable() {
  forget_queue();
}

void check_supported(const qwen3_cuda_program& p) {
  if (p.head_dim != 32 && p.head_dim != 64 && p.head_dim != 128) unsupported("head_dim " + std::to_string(p.head_dim));
  if (p.n_q_heads % p.n_kv_heads != 0 || p.n_q_heads / p.n_kv_heads > 16)
    unsupported("more than 16 q heads per KV head");
  if (p.hidden % 8 != 0 || p.hidden > kMaxNormWidth) unsupported("hidden size " + std::to_string(p.hidden));
  if (p.n_experts % 8 != 0 || p.n_experts > kMoeMostExperts) unsupported(std::to_string(p.n_experts) + " experts");
  for (int32_t i = 0; i < p.n_ops; ++i) {
    if (p.ops[i].kind == kMoe && p.ops[i].top_k > kMoeMostChosen)
      unsupported(std::to_string(p.ops[i].top_k) + " experts per token");
  }
}

// Steps run on the cache's stream; graphs hold its addresses.
void DeviceExecutable::use(DeviceCache& cache) {
  if (stream_ == cache.stream()) return;
  if (queued_ > 0) throw Error(ErrorCode::kInternal, "a step is queued on another cache");
  moved();
  stream_ = cache.stream();
}

// Waits for everything that was queued; whether all of it went well.
bool DeviceExecutable::drain() noexcept {
  bool well = true;
  for (const Stream stream : {ahead_.get(), stream_, behind_.get()}) {
    try {
      synchronize(stream);
    } catch (const std::exception&) {
      well = false;
    }
  }
  return well;
}

// Waits for the device and drops what it was to give. Errors have been reported, or nobody is left to hear them.
void DeviceExecutable::forget_queue() noexcept {
  if (queued_ > 0) drain();
  queued_ = 0;
}

// Room for so many partial results of attention.
void DeviceExecutable::reserve_partials(size_t n) {
  if (partials_.reserve(n * static_cast<size_t>(partial_elements(heads_)) * 4)) moved();
  reserve_zeroed(arrived_, n * static_cast<size_t>(heads_.n_kv_heads) * 4);
}

// Room for so many rows of logits and for drawing from them.
void DeviceExecutable::reserve_logits(int64_t n) {
  if (logits_.reserve(static_cast<size_t>(n) * static_cast<size_t>(vocab_) * 4)) moved();
  reserve_zeroed(sampling_scratch_, sampling_scratch_bytes(static_cast<int>(n), vocab_));
}

void DeviceExecutable::reserve_zeroed(DeviceBuffer& buffer, size_t bytes) {
  if (bytes <= buffer.bytes()) return;
  DeviceBuffer grown;
  grown.reserve(bytes);
  fill_bytes(stream_, grown.as<void>(), 0, grown.bytes());
  buffer = std::move(grown);
  moved();
}

// Of a turn that has no step: nobody uses what is given back.
void DeviceExecutable::reserve_logprobs(Turn& turn, int n) {
  const size_t bytes = static_cast<size_t>(n) * sizeof(RowLogprobs);
  if (bytes <= turn.logprobs.bytes()) return;
  PinnedBuffer host(bytes + bytes / 2);
  DeviceBuffer device(host.bytes());
  turn.logprobs = std::move(host), turn.found_logprobs = std::move(device);
}

bool DeviceExecutable::gives_logprobs(const qwen3_cuda_sampling& row) const {
  SamplingRow plain = sampling_row(row.temperature, row.top_p, row.top_k, row.min_p);
  plain.adjustments_begin = 0, plain.adjustments_end = row.n_adjustments;
  plain.input_row = row.counts_input ? 0 : -1, plain.logprobs = row.top_logprobs + 1;
  return cuda::gives_logprobs(plain, vocab_);
}

// Something that graphs know the address of.
void DeviceExecutable::moved() {
  for (Turn& turn : turns_) turn.graphs.clear();
}

void DeviceExecutable::prepare(DeviceCache& cache, int64_t decode_rows) {
  use(cache);
  const auto rows = static_cast<size_t>(std::min(decode_rows, max_rows_));
  const auto blocks = static_cast<size_t>((max_positions_ + kBlockSize - 1) / kBlockSize);
  const auto splits = static_cast<size_t>(most_splits(static_cast<int32_t>(max_positions_)));
  const auto prefill_tiles = static_cast<size_t>(max_rows_);  // each has a row at least
  tables_.reserve(static_cast<int>(max_rows_), std::min(rows * splits, kMostTiles) + prefill_tiles,
                  std::min(rows * blocks, kMostTableBlocks), kAdjustments);
  reserve_partials(std::min(rows * splits, kMostPartialBytes / (static_cast<size_t>(partial_elements(heads_)) * 4)));
  reserve_logits(static_cast<int64_t>(rows));
  moved();
  if (one_class_) return;
  const auto most = static_cast<int>(std::min<size_t>(rows, kMostGraphRows));
  for (int n = 1; n <= most; n = round_to_bucket(n) + 1) {
    for (int turn = 0; turn < kQueue && round_to_bucket(n) <= max_rows_; ++turn)
      capture(round_to_bucket(n), turn, cache);
  }
}

// Log-probabilities are the few rows' that ask for them: not every step's graph has their kernels.
int DeviceExecutable::bucket_of(const qwen3_cuda_batch& batch, bool logprobs) const {
  if (one_class_ || observer_ || logprobs || !tables_.decode_only() || batch.n_logits != batch.n_rows) return 0;
  const int bucket = round_to_bucket(batch.n_rows);
  return bucket <= std::min<int64_t>(kMostGraphRows, max_rows_) ? bucket : 0;
}

// Memory that is given back may still be in use: cudaFree waits for that.
void DeviceExecutable::make_room(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket) {
  reserve_logits(std::max(batch.n_logits, bucket));
  reserve_partials(static_cast<size_t>(tables_.n_partials()));
  if (tables_.reserve_planned(batch, sampling, bucket)) moved();
}

void DeviceExecutable::capture(int bucket, int turn_index, DeviceCache& cache) {
  view_ = tables_.bucket_view(bucket, turn_index), turn_ = turn_index;
  begin_capture(stream_);
  try {
    launch_all(cache);
    launch_sampling();
    turn(turn_).graphs[bucket] = OwnedGraph(end_capture(stream_));
  } catch (...) {
    abandon_capture(stream_);
    throw;
  }
}

// A graph spares launches and no more: without the memory for it the same kernels are launched one by one.
bool DeviceExecutable::run_graph(int bucket, DeviceCache& cache) {
  auto& graphs = turn(next_).graphs;
  try {
    if (!graphs.contains(bucket)) capture(bucket, next_, cache);
    launch_graph(graphs.at(bucket).get(), stream_);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    graphs.erase(bucket);
    return false;
  }
}

void DeviceExecutable::enqueue(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, DeviceCache& cache) {
  if (queued_ == kQueue) throw Error(ErrorCode::kInternal, "a third step was queued");
  try {
    start(batch, sampling, cache);
  } catch (const std::exception& failure) {
    // Part of it may run, on what the next attempt takes. For want of memory that is all: it has drawn nothing, it
    // wrote what will be written again (its experts are counted twice), and the step before it goes on.
    if (drain() && ran_out_of_memory(failure)) throw;
    queued_ = 0;
    throw Error(ErrorCode::kInternal, failure.what());
  }
  next_ = (next_ + 1) % kQueue;
  ++queued_;
}

void DeviceExecutable::start(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, DeviceCache& cache) {
  if (batch.n_rows > max_rows_) throw Error(ErrorCode::kInternal, "more rows than the executable was compiled for");
  use(cache);
  tables_.plan(batch);
  Turn& turn = this->turn(next_);
  turn.n_tokens = batch.n_logits, turn.wants_logprobs = false;
  for (int32_t i = 0; i < batch.n_logits; ++i) {
    if (sampling[i].top_logprobs < 0) continue;
    if (!gives_logprobs(sampling[i]))
      throw Error(ErrorCode::kInternal, "log-probabilities that the device cannot give");
    turn.wants_logprobs = true;
  }
  const int bucket = bucket_of(batch, turn.wants_logprobs);
  make_room(batch, sampling, bucket);
  if (turn.wants_logprobs) reserve_logprobs(turn, batch.n_logits);
  tables_.upload(batch, sampling, bucket, next_, ahead_.get());
  record(turn.uploaded.get(), ahead_.get());
  wait_on(stream_, turn.uploaded.get());
  if (bucket == 0 || !run_graph(bucket, cache)) {
    view_ = bucket > 0 ? tables_.bucket_view(bucket, next_) : tables_.view(batch, next_), turn_ = next_;
    launch_all(cache);
    launch_sampling();
    if (turn.wants_logprobs) {
      log_probabilities(stream_, logits_.as<float>(), view_.n_logits, vocab_, view_.sampling, drawn(turn_),
                        turn.found_logprobs.as<RowLogprobs>(), sampling_scratch_.as<void>());
    }
  }
  finish_step(turn);
}

// What the host will read, and the point that it waits for. The experts' load grows with the next step and is copied
// before that begins.
void DeviceExecutable::finish_step(Turn& turn) {
  if (expert_load_.bytes() > 0)
    copy_to_host(stream_, turn.expert_load.as<void>(), expert_load_.as<void>(), expert_load_.bytes());
  record(turn.ran.get(), stream_);
  wait_on(behind_.get(), turn.ran.get());
  if (turn.n_tokens > 0) {
    copy_to_host(behind_.get(), turn.tokens.as<void>(), turn.drawn.as<void>(), static_cast<size_t>(turn.n_tokens) * 4);
  }
  if (turn.n_tokens > 0 && turn.wants_logprobs) {
    copy_to_host(behind_.get(), turn.logprobs.as<void>(), turn.found_logprobs.as<void>(),
                 static_cast<size_t>(turn.n_tokens) * sizeof(RowLogprobs));
  }
  record(turn.done.get(), behind_.get());
}

void DeviceExecutable::collect(int32_t* tokens, qwen3_cuda_logprobs* logprobs, int32_t n) {
  if (queued_ == 0) throw Error(ErrorCode::kInternal, "no step is queued");
  const Turn& first = turn(next_ + kQueue - queued_);
  try {
    wait(first.done.get());
    if (n != first.n_tokens) throw Error(ErrorCode::kInternal, "a queued step drew another number of tokens");
  } catch (...) {
    forget_queue();
    throw;
  }
  --queued_;
  std::copy_n(first.tokens.as<int32_t>(), n, tokens);
  if (logprobs && first.wants_logprobs)
    std::memcpy(logprobs, first.logprobs.as<void>(), static_cast<size_t>(n) * sizeof(RowLogprobs));
  count_experts(first);
}

// The device counts in 32 bits and may wrap between no two steps.
void DeviceExecutable::count_experts(const Turn& turn) {
  for (size_t i = 0; i < expert_totals_.size(); ++i) {
    const uint32_t now = turn.expert_load.as<uint32_t>()[i];
    expert_totals_[i] += static_cast<int64_t>(now - expert_seen_[i]);
    expert_seen_[i] = now;
  }
}

void DeviceExecutable::run(const qwen3_cuda_batch& batch, DeviceCache& cache, float* logits) {
  if (batch.n_rows > max_rows_) throw Error(ErrorCode::kInternal, "more rows than the executable was compiled for");
  if (queued_ > 0) throw Error(ErrorCode::kInternal, "a step is queued");
  if (batch.n_rows == 0) return;
  use(cache);
  tables_.plan(batch);
  make_room(batch, nullptr, 0);
  tables_.upload(batch, nullptr, 0, next_, stream_);
  view_ = tables_.view(batch, next_), turn_ = next_;
  Turn& turn = this->turn(next_);
  turn.n_tokens = 0, turn.wants_logprobs = false;
  try {
    launch_all(cache);
    if (batch.n_logits > 0) {
      copy_to_host(stream_, logits, logits_.as<float>(),
                   static_cast<size_t>(batch.n_logits) * static_cast<size_t>(vocab_) * 4);
    }
    finish_step(turn);
    synchronize(stream_);
  } catch (...) {
    queued_ = 1;
    forget_queue();
    throw;
  }
  count_experts(turn);
}

}  // namespace qwen3::cuda
