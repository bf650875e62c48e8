// Cases of single kernels: the device's limits, products, attention, norms, sampling.

#include <algorithm>
#include <cmath>

#include "bench.h"
#include "core/random.h"
#include "cuda/kernels.h"
#include "cuda/sampling.h"
#include "cuda/schedule.h"
#include "limits.h"

namespace qwen3::gpu_bench {
namespace {

using namespace qwen3::cuda;

constexpr int kVocab = 151936;
constexpr size_t kLimitBytes = size_t{1} << 30;  // all of the random pool

size_t product(std::initializer_list<int64_t> factors) {
  int64_t n = 1;
  for (const int64_t f : factors) n *= f;
  return static_cast<size_t>(n);
}

// --- limits ---

// A copy is the better of the driver's and of our own kernel's: in a graph the driver takes a copy engine, which is
// slower than the multiprocessors.
void copy_limit(Bench& b) {
  const size_t bytes = b.tiny ? 1 << 16 : kLimitBytes;
  auto* to = static_cast<std::byte*>(b.scratch(bytes));
  const auto* from = b.random(0, bytes);
  const double moved = 2.0 * double(bytes);
  const double driver = stream_seconds(b.stream, [&] { copy_on_device(b.stream, to, from, bytes); });
  const double kernel = b.time(moved, [&](int) { copy_memory(b.stream, to, from, bytes); });
  const double seconds = std::min(driver, kernel);
  b.memory_rate = std::max(b.memory_rate, moved / seconds);
  b.report("limit/copy", {seconds, moved, 0},
           ", \"driver_us\": " + std::to_string(driver * 1e6) + ", \"kernel_us\": " + std::to_string(kernel * 1e6));
}

void read_limit(Bench& b) {
  const size_t bytes = b.tiny ? 1 << 16 : kLimitBytes;
  const auto* from = b.random(0, bytes);
  void* sink = b.scratch(16);
  const double seconds = b.time(double(bytes), [&](int) { read_memory(b.stream, from, bytes, sink); });
  b.memory_rate = std::max(b.memory_rate, double(bytes) / seconds);
  b.report("limit/read", {seconds, double(bytes), 0});
}

// --- products ---

struct Product {
  const char* name;
  int n, k;
  Output output;
};

size_t out_bytes(const Product& p, int rows) {
  return p.output == Output::kSiluMul ? product({rows, p.n / 2, 2}) : product({rows, p.n, 4});
}

// Rows that prefill and rows that decode run different kernels, as executable.cc has it.
void run_linear(Bench& b, const std::string& name, const Product& p, int rows, bool decode) {
  const LinearShape shape{rows, p.n, p.k};
  const size_t weight = product({p.n, p.k, 2}), in = product({rows, p.k, 2}), out = out_bytes(p, rows);
  void* to = b.scratch(out);
  const double bytes = double(weight) + double(in) + double(out) * (p.output == Output::kAddF32 ? 2 : 1);
  const double flops = 2.0 * rows * p.n * p.k;
  const double seconds = b.time(double(weight), [&](int i) {
    const LinearOperands o{b.random(i + 1, in), b.random(i, weight), to};
    if (decode) {
      b.linear_few(o, shape, p.output);
    } else if (b.device.hopper) {
      linear_hopper(b.stream, o, shape, p.output, b.device.multiprocessors);
    } else {
      linear(b.stream, o, shape, p.output);
    }
  });
  if (name == "limit/matrix") b.matrix_rate = flops / seconds;
  b.report(name, {seconds, bytes, flops},
           ", \"m\": " + std::to_string(rows) + ", \"n\": " + std::to_string(p.n) + ", \"k\": " + std::to_string(p.k));
}

void add_products(std::vector<Case>& cases, bool tiny) {
  const int square = tiny ? 64 : 8192;
  cases.push_back({"limit/copy", copy_limit});
  cases.push_back({"limit/read", read_limit});
  cases.push_back({"limit/matrix", [square](Bench& b) {
                     run_linear(b, "limit/matrix", {"square", square, square, Output::kStoreF32}, square, false);
                   }});
  struct Shape {
    const char* name;
    int hidden, q, kv, ffn;
  };
  const std::vector<Shape> models = tiny ? std::vector<Shape>{{"tiny", 64, 128, 128, 96}}
                                         : std::vector<Shape>{{"0.6b", 1024, 2048, 2048, 3072},
                                                              {"4b", 2560, 4096, 2048, 9728},
                                                              {"8b", 4096, 4096, 2048, 12288},
                                                              {"32b", 5120, 8192, 2048, 25600}};
  for (const Shape& m : models) {
    const Product products[] = {{"qkv", m.q + m.kv, m.hidden, Output::kStoreF32},
                                {"o", m.hidden, m.q, Output::kAddF32},
                                {"gate_up", 2 * m.ffn, m.hidden, Output::kSiluMul},
                                {"down", m.hidden, m.ffn, Output::kAddF32}};
    for (const Product& p : products) {
      for (const int rows : tiny ? std::vector<int>{1, 70} : std::vector<int>{1, 8, 16, 64, 4096}) {
        const bool decode = rows <= 64;
        const std::string name =
            std::string(decode ? "stream/" : "gemm/") + m.name + "." + p.name + "/" + std::to_string(rows);
        cases.push_back({name, [=](Bench& b) { run_linear(b, name, p, rows, decode); }});
      }
    }
  }
}

// --- attention ---

// Sequences of equal length with blocks in order; as many caches as it takes to have the L2 cold.
class AttentionBench {
 public:
  AttentionBench(Bench& bench, const HeadShape& heads, int sequences, int keys, bool decode)
      : b_(bench), heads_(heads), decode_(decode), rows_(decode ? 1 : keys), sequences_(sequences), keys_(keys) {
    const int blocks = (keys + 63) / 64;
    n_blocks_ = int64_t{sequences} * blocks;
    std::vector<int32_t> table(static_cast<size_t>(n_blocks_));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    std::vector<StepSequence> step;
    for (int s = 0; s < sequences; ++s) {
      step.push_back({s * rows_, rows_, keys - rows_, {table.data() + s * blocks, static_cast<size_t>(blocks)}, 0});
    }
    AttentionSchedule schedule = schedule_attention(step, heads, false);
    share_prefill(heads, b_.device.multiprocessors, schedule);
    tasks_ = upload(schedule.tasks);
    device_sequences_ = upload(schedule.sequences), table_ = upload(schedule.block_table);
    tiles_ = decode ? upload(schedule.decode) : upload(schedule.prefill);
    n_tiles_ = static_cast<int>(decode ? schedule.decode.size() : schedule.prefill.size());
    partials_ =
        DeviceBuffer(product({std::max(1, schedule.n_partials), static_cast<int64_t>(partial_elements(heads)), 4}));
    arrived_ = DeviceBuffer(static_cast<size_t>(std::max(1, schedule.n_partials)) * heads.n_kv_heads * 4);
    fill_bytes(b_.stream, arrived_.as<void>(), 0, arrived_.bytes());
    pool_elements_ = product({n_blocks_, heads.n_kv_heads, 64, heads.head_dim});
    n_caches_ = std::max(1, static_cast<int>((b_.tiny ? 1.0 : kColdBytes) / (4.0 * double(pool_elements_)) + 1));
    cache_ = b_.random_buffer(pool_elements_ * 4 * static_cast<size_t>(n_caches_));
    out_ = DeviceBuffer(q_bytes());
  }

  void run(const std::string& name) {
    const double cache_bytes = 4.0 * double(pool_elements_);
    const double seconds = b_.time(decode_ ? cache_bytes : 0, [&](int i) { call(i); });
    const double visible = decode_ ? keys_ : double(keys_) * (keys_ + 1) / 2;
    b_.report(name,
              {seconds, cache_bytes + 2.0 * double(q_bytes()),
               4.0 * sequences_ * visible * heads_.n_q_heads * heads_.head_dim},
              ", \"batch\": " + std::to_string(sequences_) + ", \"keys\": " + std::to_string(keys_));
  }

 private:
  template <class T>
  DeviceBuffer upload(const std::vector<T>& v) const {
    DeviceBuffer to(v.size() * sizeof(T) + 16);
    if (!v.empty()) copy_to_device(b_.stream, to.as<void>(), v.data(), v.size() * sizeof(T));
    synchronize(b_.stream);
    return to;
  }
  size_t q_bytes() const { return product({sequences_, rows_, heads_.n_q_heads, heads_.head_dim, 2}); }
  void call(int i) const {
    Bf16* keys = cache_.as<Bf16>() + static_cast<size_t>(i % n_caches_) * 2 * pool_elements_;
    const KvLayer cache{keys, keys + pool_elements_};
    const AttentionWork work{device_sequences_.as<AttentionSequence>(), table_.as<int32_t>(),
                             tiles_.as<AttentionTile>(), n_tiles_, tasks_.as<int32_t>()};
    const Bf16* q = b_.random(i, q_bytes());
    if (decode_) {
      attention_decode(b_.stream, q, cache, {table_.as<int32_t>(), tiles_.as<DecodeTile>(), n_tiles_}, heads_,
                       partials_.as<float>(), arrived_.as<int32_t>(), out_.as<Bf16>());
    } else if (b_.device.hopper && prefill_on_hopper(heads_)) {
      attention_prefill_hopper(b_.stream, q, cache, n_blocks_, work, heads_, sequences_ * rows_,
                               b_.device.multiprocessors, out_.as<Bf16>());
    } else {
      attention_prefill(b_.stream, q, cache, work, heads_, out_.as<Bf16>());
    }
  }

  Bench& b_;
  HeadShape heads_;
  bool decode_;
  int rows_, sequences_, keys_;
  int64_t n_blocks_ = 0;
  size_t pool_elements_ = 0;
  int n_caches_ = 1, n_tiles_ = 0;
  DeviceBuffer device_sequences_, table_, tiles_, tasks_, partials_, arrived_, cache_, out_;
};

void add_attention(std::vector<Case>& cases, bool tiny) {
  struct Shape {
    HeadShape heads;
    int sequences, keys;
    bool decode;
  };
  std::vector<Shape> shapes;
  if (tiny) {
    shapes = {{{4, 2, 128}, 1, 150, false}, {{4, 2, 128}, 2, 700, true}};
  } else {
    for (const int keys : {4096, 8192, 16384, 32768}) shapes.push_back({{32, 8, 128}, 1, keys, false});
    shapes.push_back({{64, 8, 128}, 1, 8192, false}), shapes.push_back({{32, 4, 128}, 1, 8192, false});
    shapes.push_back({{40, 8, 128}, 1, 8192, false});  // a group of five: tiles of 125 rows
    shapes.push_back({{32, 8, 128}, 8, 4096, false});
    const int pairs[][2] = {{1, 8192},  {1, 32768},  {1, 131072}, {8, 8192},
                            {8, 32768}, {8, 131072}, {64, 8192},  {64, 16384}};
    for (const auto& [sequences, keys] : pairs) shapes.push_back({{32, 8, 128}, sequences, keys, true});
    shapes.push_back({{32, 4, 128}, 8, 32768, true}), shapes.push_back({{64, 8, 128}, 8, 32768, true});
  }
  for (const Shape& s : shapes) {
    const std::string name = std::string(s.decode ? "attention_decode/" : "attention_prefill/") +
                             std::to_string(s.heads.n_q_heads) + "-" + std::to_string(s.heads.n_kv_heads) + "-" +
                             std::to_string(s.heads.head_dim) + "/" + std::to_string(s.sequences) + "x" +
                             std::to_string(s.keys);
    cases.push_back({name, [=](Bench& b) { AttentionBench(b, s.heads, s.sequences, s.keys, s.decode).run(name); }});
  }
}

// --- one pass over rows ---

void run_rms_norm(Bench& b, const std::string& name, int rows, int hidden) {
  const size_t elements = product({rows, hidden});
  const int sets = b.tiny ? 1 : static_cast<int>(kColdBytes / (6.0 * double(elements))) + 1;
  auto* x = static_cast<std::byte*>(b.scratch(elements * 6 * static_cast<size_t>(sets)));
  const auto* weight = reinterpret_cast<const float*>(b.random(0, product({hidden, 4})));
  const double seconds = b.time(6.0 * double(elements), [&](int i) {
    std::byte* at = x + static_cast<size_t>(i % sets) * elements * 6;
    rms_norm(b.stream, reinterpret_cast<float*>(at), nullptr, weight, rows, hidden, 1e-6f,
             reinterpret_cast<Bf16*>(at + elements * 4));
  });
  b.report(name, {seconds, 6.0 * double(elements) + 4.0 * hidden, 0});
}

void run_qk_norm_rope(Bench& b, const std::string& name, int rows, const HeadShape& heads) {
  const int width = (heads.n_q_heads + 2 * heads.n_kv_heads) * heads.head_dim, half = heads.head_dim / 2;
  const size_t in = product({rows, width, 4}), out = product({rows, heads.n_q_heads, heads.head_dim, 2});
  const int blocks = (rows + 63) / 64;
  const size_t pool = product({blocks, heads.n_kv_heads, 64, heads.head_dim, 2});
  auto* qkv = static_cast<std::byte*>(b.scratch(in + out + 2 * pool));
  std::vector<int32_t> map(product({3, rows}));  // positions, slots, tables
  for (int i = 0; i < rows; ++i) map[static_cast<size_t>(i)] = map[static_cast<size_t>(rows + i)] = i;
  const DeviceBuffer device_map(map.size() * 4), angles = b.random_buffer(product({2, rows, half, 4}));
  copy_to_device(b.stream, device_map.as<void>(), map.data(), map.size() * 4);
  synchronize(b.stream);
  const auto* ids = device_map.as<int32_t>();
  const RowMap row_map{ids, ids + rows, ids + 2 * rows};
  const auto* weight = reinterpret_cast<const float*>(b.random(0, product({heads.head_dim, 4})));
  const KvLayer cache{reinterpret_cast<Bf16*>(qkv + in + out), reinterpret_cast<Bf16*>(qkv + in + out + pool)};
  const double seconds = b.time(0, [&](int) {
    qk_norm_rope_append(
        b.stream,
        {reinterpret_cast<float*>(qkv), weight, weight, angles.as<float>(), angles.as<float>() + product({rows, half}),
         row_map, heads, 1e-6f, reinterpret_cast<Bf16*>(qkv + in), cache},
        rows);
  });
  b.report(name, {seconds, double(in) + double(out) + 4.0 * rows * heads.n_kv_heads * heads.head_dim, 0});
}

// --- sampling ---

std::vector<float> logit_values() {
  std::vector<float> values(size_t{1} << 20);
  for (size_t i = 0; i < values.size(); ++i) {
    const Philox4 words = random_words(2, 0, i);
    values[i] =
        3 * std::sqrt(-2 * std::log(1 - uniform_f32(words.v[0]))) * std::cos(6.2831853f * uniform_f32(words.v[1]));
  }
  return values;
}

// Without adjustments the sampler leaves its logits as they are; they are in the L2, where a step's product has left
// them.
void run_sampling(Bench& b, const std::string& name, int rows, int vocab, const SamplingRow& parameters) {
  const size_t bytes = product({rows, vocab, 4});
  const DeviceBuffer logits(bytes), scratch(sampling_scratch_bytes(rows, vocab));
  std::vector<SamplingRow> plan(static_cast<size_t>(rows), parameters);
  for (int i = 0; i < rows; ++i) plan[static_cast<size_t>(i)].seed = static_cast<uint64_t>(i);
  const DeviceBuffer plans(plan.size() * sizeof plan[0]), ids(product({rows, 4})),
      logprobs(static_cast<size_t>(rows) * sizeof(RowLogprobs));
  copy_to_device(b.stream, plans.as<void>(), plan.data(), plan.size() * sizeof plan[0]);
  fill_bytes(b.stream, scratch.as<void>(), 0, scratch.bytes());
  // Normal with a deviation of 3, as a model's are; rows share one million of them.
  const auto values = logit_values();
  for (size_t at = 0; at < bytes; at += values.size() * 4) {
    copy_to_device(b.stream, logits.as<std::byte>() + at, values.data(), std::min(values.size() * 4, bytes - at));
  }
  synchronize(b.stream);
  const double seconds = b.time(0, [&](int) {
    sample(b.stream, logits.as<float>(), rows, vocab, plans.as<SamplingRow>(), nullptr, nullptr, ids.as<int32_t>(),
           scratch.as<void>());
    if (parameters.logprobs == 0) return;
    log_probabilities(b.stream, logits.as<float>(), rows, vocab, plans.as<SamplingRow>(), ids.as<int32_t>(),
                      logprobs.as<RowLogprobs>(), scratch.as<void>());
  });
  b.report(name, {seconds, double(bytes), 0});
}

}  // namespace

std::vector<Case> kernel_cases(bool tiny) {
  std::vector<Case> cases;
  add_products(cases, tiny);
  add_attention(cases, tiny);
  for (const int rows : tiny ? std::vector<int>{3} : std::vector<int>{1, 64, 4096}) {
    const std::string norm = "rms_norm/8b/" + std::to_string(rows), rope = "qk_norm_rope/8b/" + std::to_string(rows);
    cases.push_back({norm, [=](Bench& b) { run_rms_norm(b, norm, rows, 4096); }});
    cases.push_back({rope, [=](Bench& b) { run_qk_norm_rope(b, rope, rows, {32, 8, 128}); }});
  }
  SamplingRow reported = sampling_row(0.6f, 0.95f, 20, 0);
  reported.logprobs = 1 + 5;
  const std::pair<const char*, SamplingRow> draws[] = {{"sample/", sampling_row(0.6f, 0.95f, 20, 0)},
                                                       {"sample_logprobs/", reported},
                                                       {"sample_temperature/", sampling_row(1, 1, 0, 0)},
                                                       {"sample_top_p/", sampling_row(1, 0.95f, 0, 0)}};
  for (const auto& [kind, parameters] : draws) {
    for (const int rows : tiny ? std::vector<int>{2} : std::vector<int>{1, 64}) {
      const std::string name = kind + std::to_string(rows);
      const int vocab = tiny ? 1000 : kVocab;
      cases.push_back({name, [=](Bench& b) { run_sampling(b, name, rows, vocab, parameters); }});
    }
  }
  return cases;
}

}  // namespace qwen3::gpu_bench
