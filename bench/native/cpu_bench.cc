// How far the CPU backend is from what the machine can do: read bandwidth and multiply-add rates are measured first, in
// the same run, then every operation and whole steps of a random model in the shape of Qwen3-0.6B.
//
//   cpu_bench [--weights bf16|f32|int8|int4|int4-offset] [--threads N] [--isa L] [--layers N] [--prompt N]
//             [--kv int8|bf16|f32] [--context N] [--rounds N] [--experts] [--ops] [--json]
//
// bytes: weights and cache that an operation must read once. flops: two per multiply-add of its products. The peak is
// that of the weights' format. --ops: a line per operation too.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "cpu/cpu_info.h"
#include "machine_limits.h"
#include "model/model.h"

using namespace qwen3;
using namespace qwen3::bench;

namespace {

struct Options {
  int threads = 0, layers = 28, prompt = 512, context = 1024, rounds = 5;
  std::string isa = "auto";
  WeightFormat weights = WeightFormat::kBF16;
  std::string kv;  // empty: f32 with f32 weights, else bf16
  bool json = false, experts = false, ops = false;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr struct {
  const char* name;
  WeightFormat format;
  double bytes;  // a weight
} kFormats[] = {{"f32", WeightFormat::kF32, 4},
                {"bf16", WeightFormat::kBF16, 2},
                {"int8", WeightFormat::kInt8, 8.25 / 8},
                {"int4", WeightFormat::kInt4, 4.5 / 8},
                {"int4-offset", WeightFormat::kInt4Offset, 4.75 / 8}};

WeightFormat format_of(const std::string& name) {
  for (const auto& format : kFormats) {
    if (name == format.name) return format.format;
  }
  std::fprintf(stderr, "unknown format %s\n", name.c_str());
  std::exit(2);
}

DType kv_of(const Options& o) {
  if (o.kv == "f32" || (o.kv.empty() && o.weights == WeightFormat::kF32)) return DType::kF32;
  if (o.kv == "bf16" || o.kv.empty()) return DType::kBF16;
  if (o.kv == "int8") return DType::kInt8;
  std::fprintf(stderr, "unknown cache format %s\n", o.kv.c_str());
  std::exit(2);
}

double weight_bytes(WeightFormat weights) {
  for (const auto& format : kFormats) {
    if (format.format == weights) return format.bytes;
  }
  return 0;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (flag == "--threads")
      o.threads = std::atoi(value());
    else if (flag == "--isa")
      o.isa = value();
    else if (flag == "--layers")
      o.layers = std::atoi(value());
    else if (flag == "--prompt")
      o.prompt = std::atoi(value());
    else if (flag == "--context")
      o.context = std::atoi(value());
    else if (flag == "--rounds")
      o.rounds = std::atoi(value());
    else if (flag == "--weights")
      o.weights = format_of(value());
    else if (flag == "--kv")
      o.kv = value();
    else if (flag == "--ops")
      o.ops = true;
    else if (flag == "--json")
      o.json = true;
    else if (flag == "--experts")
      o.experts = true;
    else {
      std::fprintf(stderr, "unknown flag %s\n", flag.c_str());
      std::exit(2);
    }
  }
  return o;
}

// Qwen3-0.6B, or with --experts a model of 128 experts, top 8, of half that depth.
ModelConfig shape(const Options& o) {
  ModelConfig c;
  c.n_layers = o.layers, c.hidden = 1024, c.n_q_heads = 16, c.n_kv_heads = 8, c.head_dim = 128, c.ffn = 3072;
  c.vocab = 151936, c.rope_theta = 1e6, c.tied_embeddings = true, c.native_window = 32768;
  c.moe_layer.assign(static_cast<size_t>(o.layers), o.experts ? 1 : 0);
  if (o.experts) c.n_experts = 128, c.top_k_experts = 8, c.moe_ffn = 512;
  return c;
}

// What one step has to move and to compute.
struct Work {
  double bytes = 0, flops = 0;
};

class Bench {
 public:
  explicit Bench(const Options& o)
      : options_(o),
        kv_(kv_of(o)),
        isa_(o.isa == "auto" ? cpu_info().isa : o.isa),
        pool_(o.threads),
        backend_(create_cpu_backend(o.threads, o.isa)) {}

  void run() {
    config_ = shape(options_);
    WeightsSource source;
    source.random = true;
    const double begin = seconds_now();
    model_ = Model::load(config_, source, *backend_, options_.weights, {});
    program_ = model_->program(std::nullopt);
    const int64_t bytes = Model::weight_bytes(config_, *backend_, options_.weights);
    if (!options_.json)
      std::printf("made and packed %.0f MB of weights in %.1f s\n", bytes / 1e6, seconds_now() - begin);
    std::fflush(stdout);
    const int64_t positions = options_.context + options_.prompt;
    const int64_t n_blocks = (positions + kBlockSize - 1) / kBlockSize * 16;
    cache_ = backend_->create_kv_cache(*program_, kv_, n_blocks);
    fill_cache(n_blocks);
    limits_ = measure_limits({.threads = pool_.size(), .one_count = true});
    floor_gbs_ = limits_.read_gbs();
    peak_ = options_.weights == WeightFormat::kF32    ? limits_.f32_flops()
            : options_.weights == WeightFormat::kBF16 ? limits_.bf16_flops()
            : options_.weights == WeightFormat::kInt8 ? limits_.int8_ops()
                                                      : limits_.int4_ops();
    if (options_.json) {
      std::printf("{\"isa\": \"%s\", \"threads\": %d, \"readGBs\": %.2f, \"peakGflops\": %.1f, \"lines\": [",
                  isa_.c_str(), pool_.size(), limits_.read_gbs(), peak_ / 1e9);
    } else {
      std::printf("isa %s, %d threads: read %.1f GB/s, peak %.0f GFLOP/s\n", isa_.c_str(), pool_.size(),
                  limits_.read_gbs(), peak_ / 1e9);
      std::printf("%-26s %10s %10s %10s %9s %7s\n", "", "ms", "MB", "GFLOP", "of read", "of peak");
    }
    if (options_.ops) {
      for (const char* name : {"attention_norm", "qkv", "q_rope", "attention", "attention_residual", "ffn",
                               "ffn_residual", "moe_residual", "logits"}) {
        op_line(name, 1, options_.context);
        op_line(name, options_.prompt, 0);
      }
    }
    for (const int32_t n : {1, 2, 4, 8, 16}) {
      step_line("decode, " + std::to_string(n) + (n == 1 ? " sequence" : " sequences"), n, 1, options_.context);
    }
    step_line("prefill", 1, options_.prompt, 0);
    const double again = read_bandwidth_again(limits_.read.back(), 3);
    if (options_.json) {
      std::printf("], \"readGBsAfter\": %.2f}\n", again);
    } else {
      std::printf("read bandwidth after: %.1f GB/s\n", again);
    }
  }

 private:
  Work op_work(const std::string& name, double rows, double begin) const {
    const ModelConfig& c = config_;
    const double element = weight_bytes(options_.weights), q = 1.0 * c.n_q_heads * c.head_dim,
                 kv = 1.0 * c.n_kv_heads * c.head_dim;
    const auto linear = [&](double n, double k, double times) {
      return Work{times * n * k * element, times * 2 * n * k * rows};
    };
    const double layers = c.n_layers;
    if (name == "qkv") return linear(q + 2 * kv, c.hidden, layers);
    if (name == "attention_residual") return linear(c.hidden, q, layers);
    if (name == "ffn") return c.n_experts ? Work{} : linear(2.0 * c.ffn, c.hidden, layers);
    if (name == "ffn_residual") return c.n_experts ? Work{} : linear(c.hidden, c.ffn, layers);
    if (name == "moe_residual" && c.n_experts) {
      const double touched = c.n_experts * (1 - std::pow(1 - 1.0 * c.top_k_experts / c.n_experts, rows));
      return {layers * (touched * 3 * c.moe_ffn + c.n_experts) * c.hidden * element,
              layers * 2 * rows * c.hidden * (3.0 * c.moe_ffn * c.top_k_experts + c.n_experts)};
    }
    if (name == "logits") return {1.0 * c.vocab * c.hidden * element, 2.0 * c.vocab * c.hidden};
    if (name == "attention") {
      // A value of K or V; an int8 row of a head has four bytes of scale.
      const double kv_bytes = kv_ == DType::kInt8 ? 1 + 4.0 / c.head_dim : 1.0 * dtype_bytes(kv_);
      const double keys = rows * begin + rows * (rows + 1) / 2;  // pairs of query and visible key
      return {layers * 2 * kv * (begin + rows) * kv_bytes, layers * 4 * q * keys};
    }
    return {};
  }

  // Seconds of a step with `n` sequences of `rows` rows from `position`; the median of the rounds.
  double time(Executable& executable, int32_t n, int32_t rows, int32_t position) {
    std::vector<int32_t> tokens(static_cast<size_t>(n * rows)), logits_rows;
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>((i * 7919 + 17) % 151000);
    const int32_t blocks = (position + rows + kBlockSize - 1) / kBlockSize;
    std::vector<int32_t> table(static_cast<size_t>(n * blocks));
    std::iota(table.begin(), table.end(), 0);
    std::vector<StepSequence> sequences;
    for (int32_t i = 0; i < n; ++i) {
      sequences.push_back({i * rows, rows, position,
                           std::span(table).subspan(static_cast<size_t>(i * blocks), static_cast<size_t>(blocks)), 0});
      logits_rows.push_back(i * rows + rows - 1);
    }
    std::vector<float> logits(static_cast<size_t>(n) * static_cast<size_t>(config_.vocab));
    std::vector<double> times;
    for (int round = 0; round <= options_.rounds; ++round) {
      const double begin = seconds_now();
      executable.run(StepBatch{tokens, sequences, logits_rows}, *cache_, logits.data());
      if (round > 0) times.push_back(seconds_now() - begin);  // the first warms up
    }
    std::sort(times.begin(), times.end());
    best_ = times.front();
    return times[times.size() / 2];
  }

  // Keys and values in every block: pages that nobody wrote are all the same page of zeros, which stays in the caches.
  void fill_cache(int64_t n_blocks) {
    time(*backend_->compile(program_, model_->weights(), kBlockSize, kBlockSize), 1, kBlockSize, 0);
    for (int32_t block = 1; block < n_blocks; ++block) cache_->copy_block(0, block, kBlockSize);
  }

  // All layers' operations of one kind, as a program of their own: the weights are too large for the caches.
  void op_line(const std::string& name, int32_t rows, int32_t position) {
    auto part = std::make_shared<Program>(*program_);
    part->ops.clear(), part->op_names.clear();
    for (size_t i = 0; i < program_->ops.size(); ++i) {
      const std::string& full = program_->op_names[i];
      if (full.substr(full.rfind('.') + 1) != name) continue;
      part->ops.push_back(program_->ops[i]);
      part->op_names.push_back(full);
    }
    if (part->ops.empty()) return;
    const auto executable = backend_->compile(part, model_->weights(), rows, position + rows);
    const double seconds = time(*executable, 1, rows, position);
    print(name + (rows == 1 ? ", decode" : ", prefill"), seconds, op_work(name, rows, position), 0);
  }

  // Bandwidth is read again around every line: on a shared machine it halves and doubles from second to second.
  void step_line(const std::string& name, int32_t n, int32_t rows, int32_t position) {
    const auto executable = backend_->compile(program_, model_->weights(), n * rows, position + rows);
    const double before = read_bandwidth_again(limits_.read.back(), 2);
    const double seconds = time(*executable, n, rows, position);
    floor_gbs_ = (before + read_bandwidth_again(limits_.read.back(), 2)) / 2;
    Work work;
    for (const char* op : {"qkv", "attention_residual", "ffn", "ffn_residual", "moe_residual", "logits"}) {
      Work w = op_work(op, 1.0 * n * rows, position);
      if (std::string(op) == "logits") w.flops *= n;
      work.bytes += w.bytes, work.flops += w.flops;
    }
    const Work attention = op_work("attention", rows, position);
    work.bytes += n * attention.bytes, work.flops += n * attention.flops;
    print(name, seconds, work, n * rows / seconds);
  }

  void print(const std::string& name, double seconds, const Work& work, double tokens_per_second) {
    const double of_read = work.bytes / seconds / 1e9 / floor_gbs_, of_peak = work.flops / seconds / peak_;
    if (options_.json) {
      std::printf(
          "%s{\"name\": \"%s\", \"ms\": %.3f, \"bestMs\": %.3f, \"bytes\": %.0f, \"flops\": %.0f, \"ofRead\": %.3f, "
          "\"ofPeak\": %.3f, \"tokensPerSecond\": %.1f, \"readGBs\": %.2f}",
          first_ ? "" : ", ", name.c_str(), seconds * 1e3, best_ * 1e3, work.bytes, work.flops, of_read, of_peak,
          tokens_per_second, floor_gbs_);
      first_ = false;
      return;
    }
    std::printf("%-26s %10.2f %10.1f %10.2f %8.1f%% %6.1f%%  best %.2f ms", name.c_str(), seconds * 1e3,
                work.bytes / 1e6, work.flops / 1e9, 100 * of_read, 100 * of_peak, best_ * 1e3);
    if (tokens_per_second > 0) std::printf("   %.1f tokens/s, floor %.1f GB/s", tokens_per_second, floor_gbs_);
    std::printf("\n");
  }

  Options options_;
  DType kv_;
  std::string isa_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  ModelConfig config_;
  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Program> program_;
  std::unique_ptr<KvCache> cache_;
  Limits limits_;
  double peak_ = 0, floor_gbs_ = 0;
  double best_ = 0;
  bool first_ = true;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    Bench(parse(argc, argv)).run();
  } catch (const qwen3::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error_code_name(error.code()), error.what());
    return 1;
  }
  return 0;
}
