#pragma once

// What the native tests share: checks that print and count, one seed per run that is printed and can be given, random
// numbers, and tiny random models on any backend.
//
//   int main(int argc, char** argv) {
//     qwen3::testing::Run run(argc, argv);          // prints the seed; `--seed N` replays a run
//     CHECK(2 + 2 == 4); CHECK_NEAR(a, b, 1e-6); CHECK_THROWS(f(), ErrorCode::kBadModelFile);
//     return run.finish();
//   }

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "core/status.h"
#include "model/model.h"

namespace qwen3::testing {

struct Counters {
  std::atomic<int64_t> checks = 0, failures = 0;  // engine threads check too
  uint64_t seed = 0;
};
inline Counters& counters() {
  static Counters all;
  return all;
}

inline bool check(bool holds, const char* expression, const char* file, int line, const std::string& detail = {}) {
  ++counters().checks;
  if (holds) return true;
  if (++counters().failures <= 20) {
    std::fprintf(stderr, "%s:%d: failed: %s %s(seed %llu)\n", file, line, expression,
                 detail.empty() ? "" : (detail + " ").c_str(), static_cast<unsigned long long>(counters().seed));
  }
  return false;
}

// The error that `body` throws must have `code`; a subject is compared when given.
inline bool check_throws(const std::function<void()>& body, ErrorCode code, const std::optional<std::string>& subject,
                         const char* expression, const char* file, int line) {
  try {
    body();
  } catch (const Error& error) {
    const bool same = error.code() == code && (!subject || error.subject() == *subject);
    return check(same, expression, file, line,
                 std::string("threw ") + error_code_name(error.code()) + " [" + error.subject() + "] " + error.what());
  }
  return check(false, expression, file, line, "threw nothing");
}

#define CHECK(condition) ::qwen3::testing::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_MSG(condition, message) ::qwen3::testing::check((condition), #condition, __FILE__, __LINE__, (message))
#define CHECK_NEAR(a, b, tolerance)                                                                           \
  ::qwen3::testing::check(std::abs(double(a) - double(b)) <= (tolerance), #a " near " #b, __FILE__, __LINE__, \
                          std::to_string(double(a)) + " vs " + std::to_string(double(b)))
#define CHECK_THROWS(expression, code) \
  ::qwen3::testing::check_throws([&] { (void)(expression); }, (code), std::nullopt, #expression, __FILE__, __LINE__)
#define CHECK_THROWS_SUBJECT(expression, code, subject) \
  ::qwen3::testing::check_throws([&] { (void)(expression); }, (code), (subject), #expression, __FILE__, __LINE__)

class Run {
 public:
  Run(int argc, char** argv) {
    counters().seed = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) % 1000000;
    for (int i = 1; i + 1 < argc; ++i) {
      if (std::strcmp(argv[i], "--seed") == 0) counters().seed = std::strtoull(argv[i + 1], nullptr, 10);
    }
    std::printf("seed %llu\n", static_cast<unsigned long long>(counters().seed));
  }
  int finish() const {
    std::printf("%lld checks, %lld failed\n", static_cast<long long>(counters().checks),
                static_cast<long long>(counters().failures));
    return counters().failures == 0 && counters().checks > 0 ? 0 : 1;
  }
};

// Whether the whole suite was asked for: `--long` or QWEN3_LONG (npm run test:long).
inline bool whole_suite(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--long") == 0) return true;
  }
  return std::getenv("QWEN3_LONG") != nullptr;
}

// Independent streams: Random(seed(), n) for the n-th case.
inline uint64_t seed() {
  return counters().seed;
}
class Random {
 public:
  explicit Random(uint64_t key, uint64_t stream = 0) : key_(key), stream_(stream) {}
  uint32_t word() {
    if (used_ == 4) {
      words_ = random_words(key_, stream_, counter_++);
      used_ = 0;
    }
    return words_.v[used_++];
  }
  int64_t between(int64_t low, int64_t high) {  // both inclusive; range below 2^32
    return low + static_cast<int64_t>(word() % static_cast<uint64_t>(high - low + 1));
  }
  float uniform(float low = 0, float high = 1) { return low + (high - low) * uniform_f32(word()); }
  float normal() {  // Box-Muller
    const double u = (word() + 1.0) / 4294967297.0, v = word() / 4294967296.0;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
  }
  std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = scale * normal();
    return out;
  }
  std::vector<int32_t> tokens(int64_t n, int32_t vocab) {
    std::vector<int32_t> out(static_cast<size_t>(n));
    for (int32_t& token : out) token = static_cast<int32_t>(word() % static_cast<uint32_t>(vocab));
    return out;
  }

 private:
  uint64_t key_, stream_, counter_ = 0;
  Philox4 words_{};
  int used_ = 4;
};

// ||a - b|| / ||b||, both [n].
template <class A, class B>
double relative_error(const A* a, const B* b, size_t n) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-300);
}

// A small valid model, to be changed as a test needs.
inline ModelConfig tiny_config() {
  ModelConfig c;
  c.n_layers = 2, c.hidden = 64, c.n_q_heads = 4, c.n_kv_heads = 2, c.head_dim = 32, c.ffn = 96, c.vocab = 160;
  c.rms_norm_eps = 1e-6f, c.rope_theta = 1e6, c.tied_embeddings = true, c.native_window = 256;
  c.moe_layer.assign(2, 0);
  return c;
}
inline ModelConfig tiny_moe_config() {
  ModelConfig c = tiny_config();
  c.n_experts = 8, c.top_k_experts = 2, c.moe_ffn = 48;
  c.moe_layer.assign(2, 1);
  return c;
}

// Seeded random weights: the same model on every backend.
inline std::shared_ptr<const Model> make_tiny_model(const ModelConfig& config, uint64_t weights_seed, Backend& backend,
                                                    WeightFormat format = WeightFormat::kF32) {
  WeightsSource source;
  source.random = true;
  source.seed = weights_seed;
  return Model::load(config, source, backend, format, {});
}

// One sequence alone: runs `tokens` from `position` on with blocks 0, 1, 2, ... and returns the logits of every row.
inline std::vector<float> run_sequence(Executable& executable, const Program& program, KvCache& cache,
                                       const std::vector<int32_t>& tokens, int32_t position = 0, int32_t rope_table = 0,
                                       int32_t first_block = 0) {
  const int32_t n = static_cast<int32_t>(tokens.size());
  std::vector<int32_t> blocks(static_cast<size_t>((position + n + kBlockSize - 1) / kBlockSize)), rows(tokens.size());
  std::iota(blocks.begin(), blocks.end(), first_block);
  std::iota(rows.begin(), rows.end(), 0);
  const StepSequence sequence{0, n, position, blocks, rope_table, n == 1};
  std::vector<float> logits(tokens.size() * static_cast<size_t>(program.vocab));
  executable.run(StepBatch{tokens, {&sequence, 1}, rows}, cache, logits.data());
  return logits;
}

}  // namespace qwen3::testing
