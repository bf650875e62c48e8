// Whole models of random weights, through libqwen3_cuda.so as the addon uses
// it: prefill of one prompt, and decode of a batch as the engine runs it:
// tokens are drawn on the device and stay there, the host is a step ahead.
// Weights are pieces of one block of random numbers, so that the largest model
// is made at the speed of copying.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>

#include "bench.h"
#include "core/dtype.h"
#include "core/random.h"
#include "model/model.h"
#include "model/weight_plan.h"

namespace qwen3::gpu_bench {
namespace {

// Rows of lib/weights/family.ts.
struct Family {
  const char* name;
  int32_t n_layers, hidden, n_q_heads, n_kv_heads, ffn, n_experts, top_k;
  bool tied;
  BatchInvariance invariance = BatchInvariance::kBatch;
};
constexpr Family kFamily[] = {
    {"0.6b", 28, 1024, 16, 8, 3072, 0, 0, true},
    {"4b", 36, 2560, 32, 8, 9728, 0, 0, true},
    {"8b", 36, 4096, 32, 8, 12288, 0, 0, false},
    {"30b-a3b", 48, 2048, 32, 4, 768, 128, 8, false},
    {"0.6b-full", 28, 1024, 16, 8, 3072, 0, 0, true, BatchInvariance::kFull},
    {"8b-full", 36, 4096, 32, 8, 12288, 0, 0, false, BatchInvariance::kFull},
    {"32b", 64, 5120, 64, 8, 25600, 0, 0, false},
    {"tiny", 2, 64, 4, 2, 96, 0, 0, true},
    {"tiny-moe", 2, 64, 4, 2, 48, 16, 4, false},
    {"tiny-full", 2, 64, 4, 2, 96, 0, 0, true, BatchInvariance::kFull},
};

ModelConfig config_of(const Family& f) {
  const bool tiny = std::string(f.name).starts_with("tiny");
  ModelConfig c;
  c.n_layers = f.n_layers, c.hidden = f.hidden, c.n_q_heads = f.n_q_heads, c.n_kv_heads = f.n_kv_heads;
  c.head_dim = 128, c.ffn = f.n_experts ? 0 : f.ffn, c.vocab = tiny ? 160 : 151936;
  c.rope_theta = 1e6, c.tied_embeddings = f.tied, c.native_window = 32768;
  c.n_experts = f.n_experts, c.top_k_experts = f.top_k, c.moe_ffn = f.n_experts ? f.ffn : 0;
  c.moe_layer.assign(static_cast<size_t>(f.n_layers), f.n_experts ? 1 : 0);
  c.validate();
  return c;
}

// Random bf16 on the host; matrices read pieces of it. Norm weights are
// about 1.
class RandomBlock {
 public:
  RandomBlock() : values_(kValues) {
    for (size_t i = 0; i < kValues; i += 4) {
      const Philox4 words = random_words(3, 0, i);
      // The sum of two uniform numbers, deviation 0.02 as a model's initial
      // weights.
      for (size_t j = 0; j < 4; ++j) {
        values_[i + j] =
            f32_to_bf16(0.049f * (uniform_f32(words.v[j] << 8) + uniform_f32(words.v[j] & 0xffff0000u) - 1));
      }
    }
  }
  MatrixSource source(const TensorSpec& tensor) const {
    MatrixSource source;
    source.rows = tensor.rows, source.cols = tensor.cols, source.dtype = DType::kBF16;
    const size_t cols = static_cast<size_t>(tensor.cols), start = hash_name(tensor.name) % kValues / 8 * 8;
    if (tensor.vector) {
      source.read = [](int64_t begin, int64_t end, void* out) {
        std::fill_n(static_cast<uint16_t*>(out), end - begin, f32_to_bf16(1.0f));
      };
      return source;
    }
    source.read = [this, cols, start](int64_t begin, int64_t end, void* out) {
      auto* to = static_cast<uint16_t*>(out);
      size_t left = static_cast<size_t>(end - begin) * cols, at = (start + static_cast<size_t>(begin) * cols) % kValues;
      while (left > 0) {
        const size_t n = std::min(left, kValues - at);
        std::memcpy(to, values_.data() + at, n * 2);
        to += n, left -= n, at = 0;
      }
    };
    return source;
  }

 private:
  static constexpr size_t kValues = (size_t{1} << 22) + 1016;  // no power of two: rows do not repeat
  std::vector<uint16_t> values_;
};

// One model on the device with a cache; the last one asked for is kept.
class LoadedModel {
 public:
  LoadedModel(const Family& family, int max_rows)
      : name(family.name),
        config(config_of(family)),
        backend_(create_cuda_backend("cuda:0", family.invariance)),
        max_rows_(max_rows) {
    const auto begin = std::chrono::steady_clock::now();
    const RandomBlock block;
    const WeightFormats formats(WeightFormat::kBF16);
    const WeightPlan plan = plan_weights(config, formats);
    for (const WeightSpec& spec : plan.specs) {
      std::vector<MatrixSource> sources;
      for (const TensorSpec& t : spec.tensors) sources.push_back(block.source(t));
      weights_.push_back(backend_->pack(spec.use, spec.format, sources));
    }
    count_bytes(plan);
    program_ = record_forward(config, std::nullopt, formats);
    executable_ = backend_->compile(program_, weights_, max_rows, 1 << 15);
    load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  const std::string name;
  const ModelConfig config;
  double load_seconds = 0;

  void drop_cache() { cache_.reset(); }
  int64_t kv_bytes_per_block() const { return backend_->kv_block_bytes(*program_, DType::kBF16); }
  // A cache for `sequences` of up to `keys` positions each; the first `filled`
  // of them hold a prompt's keys and values.
  void make_cache(int sequences, int keys, int filled) {
    blocks_of_sequence_ = (keys + kBlockSize - 1) / kBlockSize;
    cache_.reset();  // before the larger one
    cache_ = backend_->create_kv_cache(*program_, DType::kBF16, int64_t{sequences} * blocks_of_sequence_);
    for (int at = 0; at < filled; at += max_rows_) prefill(at, std::min(max_rows_, filled - at));
    for (int s = 1; s < sequences && filled > 0; ++s) {
      for (int i = 0; i * kBlockSize < filled; ++i) {
        cache_->copy_block(i, s * blocks_of_sequence_ + i, std::min(kBlockSize, filled - i * kBlockSize));
      }
    }
  }
  // Rows [begin, begin + n) of the first sequence, logits of the last one.
  void prefill(int begin, int n) {
    const auto tokens = random_tokens(n);
    const std::vector<int32_t> table = table_of(0, begin + n);
    const StepSequence sequence{0, n, begin, table, 0};
    const int32_t row = n - 1;
    logits_.resize(static_cast<size_t>(config.vocab));
    executable_->run({tokens, {&sequence, 1}, {&row, 1}}, *cache_, logits_.data());
  }
  // One token for each sequence at `position`: the one that the step before
  // drew, or (first) a random one.
  void enqueue_decode(int sequences, int position, bool first) {
    std::vector<int32_t> tokens = random_tokens(sequences), rows(static_cast<size_t>(sequences));
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<std::vector<int32_t>> tables;
    std::vector<StepSequence> step;
    std::vector<RowSampling> sampling(static_cast<size_t>(sequences));
    for (int s = 0; s < sequences; ++s) tables.push_back(table_of(s, position + 1));
    for (int s = 0; s < sequences; ++s) {
      const auto at = static_cast<size_t>(s);
      if (!first) tokens[at] = -1 - s;
      step.push_back({s, 1, position, tables[at], 0, true});
      sampling[at].temperature = 0.6f, sampling[at].top_p = 0.95f, sampling[at].top_k = 20;
      sampling[at].seed = at, sampling[at].position = static_cast<uint64_t>(position) + 1;
    }
    const auto begin = std::chrono::steady_clock::now();
    executable_->enqueue({tokens, step, rows}, *cache_, sampling);
    enqueue_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  void collect(int sequences) {
    drawn_.resize(static_cast<size_t>(sequences));
    const auto begin = std::chrono::steady_clock::now();
    executable_->collect(drawn_, {});
    collect_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (std::any_of(drawn_.begin(), drawn_.end(), [](int32_t token) { return token < 0; })) {
      throw Error(ErrorCode::kInternal, "logits that are no finite numbers");
    }
  }
  // Steps at positions [position, position + n), one of them always queued
  // behind the one that runs.
  void decode(int sequences, int position, int n) {
    enqueue_seconds_ = collect_seconds_ = 0;
    for (int i = 0; i < n; ++i) {
      enqueue_decode(sequences, position + i, i == 0);
      if (i > 0) collect(sequences);
    }
    collect(sequences);
  }
  void prepare(int sequences) { executable_->prepare(*cache_, sequences); }
  // Of the last decode(): what the host spent in enqueue (its own work) and in collect (mostly waiting for the device).
  std::string host_members(int steps) const {
    return ", \"enqueue_us\": " + std::to_string(enqueue_seconds_ / steps * 1e6) +
           ", \"collect_us\": " + std::to_string(collect_seconds_ / steps * 1e6);
  }

  // Distinct experts that `step` uses, summed over the layers.
  template <class Step>
  int64_t experts_used(Step step) const {
    const ExpertCounts before = executable_->expert_counts();
    step();
    const ExpertCounts after = executable_->expert_counts();
    int64_t used = 0;
    for (size_t i = 0; i < after.size(); ++i) used += after[i] > before[i] ? 1 : 0;
    return used;
  }
  // What a step reads once: every weight but the embedding's table and the
  // experts; one expert; one position's K, V.
  double dense_bytes() const { return dense_bytes_; }
  double expert_bytes() const { return 6.0 * config.moe_ffn * config.hidden; }
  double kv_bytes_per_position() const { return 4.0 * config.n_layers * config.n_kv_heads * config.head_dim; }
  // Of one token, without attention and logits.
  double flops_per_token() const {
    const double layer = double(config.hidden) * config.head_dim * (2 * config.n_q_heads + 2 * config.n_kv_heads);
    const double ffn = config.n_experts ? config.top_k_experts * 3.0 * config.moe_ffn * config.hidden +
                                              double(config.n_experts) * config.hidden
                                        : 3.0 * config.ffn * config.hidden;
    return 2.0 * config.n_layers * (layer + ffn);
  }
  double logits_flops() const { return 2.0 * config.vocab * config.hidden; }
  double attention_flops(double visible) const {
    return 4.0 * config.n_layers * visible * config.n_q_heads * config.head_dim;
  }

 private:
  void count_bytes(const WeightPlan& plan) {
    std::vector<uint8_t> counted(plan.specs.size(), 1);
    for (const LayerWeights& layer : plan.layers) {
      for (const WeightId id : layer.expert_gate_up) counted[static_cast<size_t>(id)] = 0;
      for (const WeightId id : layer.expert_down) counted[static_cast<size_t>(id)] = 0;
    }
    if (plan.lm_head != plan.embedding) counted[static_cast<size_t>(plan.embedding)] = 0;
    for (size_t i = 0; i < counted.size(); ++i) dense_bytes_ += counted[i] ? double(weights_[i]->bytes) : 0;
  }
  std::vector<int32_t> random_tokens(int n) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    for (int32_t& t : tokens) {
      t = static_cast<int32_t>(random_words(4, 0, counter_++).v[0] % static_cast<uint32_t>(config.vocab));
    }
    return tokens;
  }
  std::vector<int32_t> table_of(int sequence, int positions) const {
    std::vector<int32_t> table(static_cast<size_t>((positions + kBlockSize - 1) / kBlockSize));
    std::iota(table.begin(), table.end(), sequence * blocks_of_sequence_);
    return table;
  }

  std::unique_ptr<Backend> backend_;
  int max_rows_;
  std::vector<std::shared_ptr<const Weight>> weights_;
  std::shared_ptr<const Program> program_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Executable> executable_;
  std::vector<float> logits_;
  std::vector<int32_t> drawn_;
  int blocks_of_sequence_ = 0;
  double dense_bytes_ = 0, enqueue_seconds_ = 0, collect_seconds_ = 0;
  uint64_t counter_ = 0;
};

struct Loaded {
  std::unique_ptr<LoadedModel> model;
};

LoadedModel& load(Bench& b, Loaded& loaded, const Family& family) {
  b.drop_scratch();
  if (!loaded.model || loaded.model->name != family.name) {
    loaded.model.reset();  // before the next one
    loaded.model = std::make_unique<LoadedModel>(family, b.tiny ? 96 : 8192);
  }
  return *loaded.model;
}

std::string load_member(const LoadedModel& model) {
  return ", \"load_s\": " + std::to_string(model.load_seconds);
}

void run_prefill(Bench& b, Loaded& loaded, const std::string& name, const Family& family, int tokens) {
  LoadedModel& m = load(b, loaded, family);
  m.make_cache(1, tokens, 0);
  m.prefill(0, tokens);  // warm
  const int64_t used = m.experts_used([&] { m.prefill(0, tokens); });
  const double seconds = median_host_seconds(b.tiny ? 1 : 5, [&] { m.prefill(0, tokens); });
  const double visible = double(tokens) * (tokens + 1) / 2;
  b.report(name,
           {seconds, m.dense_bytes() + double(used) * m.expert_bytes() + tokens * m.kv_bytes_per_position(),
            tokens * m.flops_per_token() + m.attention_flops(visible) + m.logits_flops()},
           ", \"tokens_per_s\": " + std::to_string(tokens / seconds) + load_member(m));
}

void run_decode(Bench& b, Loaded& loaded, const std::string& name, const Family& family, int sequences, int keys) {
  LoadedModel& m = load(b, loaded, family);
  m.drop_cache();
  const double needed = double(m.kv_bytes_per_block()) * sequences * ((keys + 32 + kBlockSize - 1) / kBlockSize);
  const double left = double(cuda::describe_device(0).free_bytes);
  if (!b.tiny && needed + 1e9 > left) {
    return Bench::skip(name, "the cache needs " + std::to_string(static_cast<int64_t>(needed / 1e6)) + " MB, " +
                                 std::to_string(static_cast<int64_t>(left / 1e6)) + " are free");
  }
  const int steps = b.tiny ? 2 : 32;
  m.make_cache(sequences, keys + steps, keys);
  m.prepare(sequences);
  m.decode(sequences, keys, std::min(steps, 4));  // captures graphs, where that was not done
  const int64_t used = m.experts_used([&] { m.decode(sequences, keys, 1); });
  const double seconds = median_host_seconds(b.tiny ? 1 : 3, [&] { m.decode(sequences, keys, steps); }) / steps;
  const double visible = keys + (steps + 1) / 2.0;  // on average
  b.report(
      name,
      {seconds, m.dense_bytes() + double(used) * m.expert_bytes() + sequences * visible * m.kv_bytes_per_position(),
       sequences * (m.flops_per_token() + m.logits_flops() + m.attention_flops(visible))},
      ", \"tokens_per_s\": " + std::to_string(sequences / seconds) + m.host_members(steps) + load_member(m));
}

}  // namespace

std::vector<Case> model_cases(bool tiny) {
  std::vector<Case> cases;
  const auto loaded = std::make_shared<Loaded>();
  // For --serve: a peer needs the memory.
  cases.push_back({"unload", [=](Bench&) {
                     loaded->model.reset();
                     std::printf("{\"case\": \"unload\"}\n");
                     std::fflush(stdout);
                   }});
  for (const Family& family : kFamily) {
    if (std::string(family.name).starts_with("tiny") != tiny) continue;
    const std::string prefix = std::string("model/") + family.name;
    // The price of full invariance is decode's: everything takes the kernels of
    // prefill.
    const bool full = family.invariance == BatchInvariance::kFull;
    for (const int tokens : full   ? std::vector<int>{}
                            : tiny ? std::vector<int>{24}
                                   : std::vector<int>{512, 2048, 8192}) {
      const std::string name = prefix + "/prefill/" + std::to_string(tokens);
      cases.push_back({name, [=](Bench& b) { run_prefill(b, *loaded, name, family, tokens); }});
    }
    for (const int sequences : tiny ? std::vector<int>{1, 3} : std::vector<int>{1, 8, 64}) {
      for (const int keys : tiny ? std::vector<int>{20} : std::vector<int>{512, 8192}) {
        if (full && (sequences > (tiny ? 1 : 8) || keys > 512)) continue;
        const std::string name = prefix + "/decode/" + std::to_string(sequences) + "x" + std::to_string(keys);
        cases.push_back({name, [=](Bench& b) { run_decode(b, *loaded, name, family, sequences, keys); }});
      }
    }
  }
  return cases;
}

}  // namespace qwen3::gpu_bench
