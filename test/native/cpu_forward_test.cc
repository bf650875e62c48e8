// The CPU backend, whole forward pass, on every ISA level of this machine: f32 against the independent float64 forward,
// bf16 against the reference backend; and against itself, bit for bit: chunks, company, threads and cache copies leave
// no trace in a row.

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "forward_f64.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

const char* const kLevels[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"};
constexpr int32_t kBlocks = 64;

std::vector<std::string> levels_here() {
  std::vector<std::string> out;
  for (const char* level : kLevels) {
    if (cpu::isa_available(level)) {
      out.push_back(level);
    } else {
      std::printf("this machine lacks %s: not tested\n", level);
      CHECK_THROWS_SUBJECT(create_cpu_backend(1, level), ErrorCode::kUnsupported, "isa");
    }
  }
  return out;
}

ModelConfig random_config(Random& random, int32_t group, int32_t head_dim, bool experts) {
  ModelConfig c;
  c.n_layers = static_cast<int32_t>(random.between(1, 2));
  c.n_kv_heads = static_cast<int32_t>(random.between(1, 2));
  c.n_q_heads = c.n_kv_heads * group;
  c.head_dim = head_dim;
  c.hidden = static_cast<int32_t>(random.between(20, 150));
  c.ffn = static_cast<int32_t>(random.between(20, 150));
  c.vocab = static_cast<int32_t>(random.between(30, 300));
  c.rope_theta = random.between(0, 1) ? 1e6 : 1e4;
  c.tied_embeddings = random.between(0, 1) != 0;
  c.native_window = 4096;
  c.moe_layer.assign(static_cast<size_t>(c.n_layers), 0);
  if (experts) {
    c.n_experts = static_cast<int32_t>(random.between(2, 40));
    c.top_k_experts = static_cast<int32_t>(random.between(1, std::min(8, c.n_experts)));
    c.moe_ffn = static_cast<int32_t>(random.between(8, 70));
    c.norm_topk_prob = random.between(0, 3) != 0;
    c.moe_layer.back() = 1;
  }
  return c;
}

// A model on one backend, with a poisoned cache.
struct Setup {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Program> program;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Executable> executable;

  Setup(std::unique_ptr<Backend> b, const ModelConfig& config, uint64_t weights_seed, WeightFormat format, DType kv,
        int64_t max_rows = 2048)
      : backend(std::move(b)) {
    model = make_tiny_model(config, weights_seed, *backend, format);
    program = model->program(config.yarn);
    cache = backend->create_kv_cache(*program, kv, kBlocks);
    for (int32_t block = 0; block < kBlocks; ++block) cache->poison_block(block);
    executable = backend->compile(program, model->weights(), max_rows, 4096);
  }
};

bool same_bits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

bool all_finite(const std::vector<float>& values) {
  for (float value : values) {
    if (!std::isfinite(value)) return false;
  }
  return true;
}

void f32_against_float64(Random& random, const std::string& level, int32_t group, int32_t head_dim, bool experts,
                         int64_t n) {
  ModelConfig config = random_config(random, group, head_dim, experts);
  const bool yarn = random.between(0, 3) == 0;
  if (yarn) {
    config.yarn = YarnConfig{};
    config.yarn->original_max_position_embeddings = 64;
  }
  const uint64_t weights_seed = random.word();
  Setup s(create_cpu_backend(static_cast<int>(random.between(1, 3)), level), config, weights_seed, WeightFormat::kF32,
          DType::kF32);
  const std::vector<int32_t> tokens = random.tokens(n, config.vocab);
  const std::vector<float> got = run_sequence(*s.executable, *s.program, *s.cache, tokens, 0, yarn ? 1 : 0);
  const ForwardF64 forward(config, random_tensors(weights_seed), config.yarn);
  const Vector64 want = forward.logits(tokens);
  if (forward.router_margin < 1e-5) return f32_against_float64(random, level, group, head_dim, experts, n);
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error < 1e-5, level + " group " + std::to_string(group) + " error " + std::to_string(error));
  std::printf("%-10s f32  group %2d head_dim %3d experts %2d rows %4d: error %.2e\n", level.c_str(), group, head_dim,
              config.n_experts, static_cast<int>(n), error);
}

// bf16: what rounding does to the result is bounded by how far the reference backend, which rounds at the same points
// (but keeps the weights of the softmax in f32), is from float64.
void bf16_against_reference(Random& random, const std::string& level, int32_t group, int32_t head_dim, bool experts,
                            int64_t n, DType kv) {
  const ModelConfig config = random_config(random, group, head_dim, experts);
  const uint64_t weights_seed = random.word();
  Setup fast(create_cpu_backend(2, level), config, weights_seed, WeightFormat::kBF16, kv);
  Setup slow(create_reference_backend(), config, weights_seed, WeightFormat::kBF16, kv);
  const std::vector<int32_t> tokens = random.tokens(n, config.vocab);
  const std::vector<float> got = run_sequence(*fast.executable, *fast.program, *fast.cache, tokens);
  const std::vector<float> peer = run_sequence(*slow.executable, *slow.program, *slow.cache, tokens);
  const ForwardF64 forward(config, random_tensors(weights_seed));
  const Vector64 want = forward.logits(tokens);
  if (forward.router_margin < 3e-2) {
    if (experts) return;  // another expert may be as right in bf16
  }
  const double ours = relative_error(got.data(), want.data(), want.size());
  const double theirs = relative_error(peer.data(), want.data(), want.size());
  CHECK_MSG(ours < 1.5 * theirs, level + " error " + std::to_string(ours) + " reference " + std::to_string(theirs));
  std::printf("%-10s bf16 group %2d head_dim %3d experts %2d rows %4d kv %s: error %.2e, reference %.2e\n",
              level.c_str(), group, head_dim, config.n_experts, static_cast<int>(n), kv == DType::kF32 ? "f32" : "bf16",
              ours, theirs);
}

const char* kv_name(DType kv) {
  return kv == DType::kF32 ? "f32" : kv == DType::kBF16 ? "bf16" : "int8";
}

const char* format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBF16:
      return "bf16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
    default:
      return "int4-offset";
  }
}

// Integer formats, of weights or of the cache: the reference holds the same values and rounds activations to the same
// eight bits. Mostly the two are as close as in f32. Where a last bit of f32 puts an activation on the other side of a
// tie, that counts for a step of 1 in 127 of a group, which in these small models moves the logits of later rows by up
// to a few percent; a wrong scale or correction moves all of them by more than their size. The median over rows,
// because another expert is as right in a row whose router is near a tie. Returns whether no tie mattered.
bool integers_against_reference(Random& random, const std::string& level, WeightFormat format, bool experts, int64_t n,
                                DType kv = DType::kF32) {
  const ModelConfig config = random_config(random, 2, 64, experts);
  const uint64_t weights_seed = random.word();
  Setup fast(create_cpu_backend(2, level), config, weights_seed, format, kv);
  Setup slow(create_reference_backend(), config, weights_seed, format, kv);
  const std::vector<int32_t> tokens = random.tokens(n, config.vocab);
  const std::vector<float> got = run_sequence(*fast.executable, *fast.program, *fast.cache, tokens);
  const std::vector<float> peer = run_sequence(*slow.executable, *slow.program, *slow.cache, tokens);
  const size_t vocab = static_cast<size_t>(config.vocab);
  std::vector<double> apart;
  for (size_t row = 0; row < tokens.size(); ++row) {
    apart.push_back(relative_error(got.data() + row * vocab, peer.data() + row * vocab, vocab));
  }
  std::sort(apart.begin(), apart.end());
  const double median = apart[apart.size() / 2];
  const Vector64 want = ForwardF64(config, random_tensors(weights_seed)).logits(tokens);
  const double rounding = relative_error(peer.data(), want.data(), want.size());
  CHECK_MSG(median < 0.1, level + " " + format_name(format) + " apart " + std::to_string(median));
  if ((format == WeightFormat::kInt8 || format == WeightFormat::kF32) && !experts)
    CHECK_MSG(rounding < 0.3, "rounding " + std::to_string(rounding));
  std::printf("%-10s %-11s kv %s experts %2d rows %4d: to the reference %.2e, reference to float64 %.2e\n",
              level.c_str(), format_name(format), kv_name(kv), config.n_experts, static_cast<int>(n), median, rounding);
  return median < 1e-5;
}

// One sequence in a schedule: where its blocks lie and how far it is.
struct Sequence {
  std::vector<int32_t> tokens, blocks;
  int32_t done = 0;
  std::vector<float> logits;  // [tokens, vocab], as they come
};

// Runs the sequences side by side in random chunks until all are through.
void run_schedule(Random& random, Setup& s, std::vector<Sequence>& all, int32_t max_chunk) {
  const size_t vocab = static_cast<size_t>(s.program->vocab);
  for (;;) {
    std::vector<int32_t> tokens, logits_rows;
    std::vector<StepSequence> sequences;
    std::vector<Sequence*> who;
    for (Sequence& sequence : all) {
      const int32_t left = static_cast<int32_t>(sequence.tokens.size()) - sequence.done;
      if (left == 0 || random.between(0, 3) == 0) continue;
      const int32_t n = static_cast<int32_t>(random.between(1, std::min(left, random.between(0, 1) ? 1 : max_chunk)));
      sequences.push_back({static_cast<int32_t>(tokens.size()), n, sequence.done, sequence.blocks, 0});
      who.push_back(&sequence);
      for (int32_t i = 0; i < n; ++i) {
        logits_rows.push_back(static_cast<int32_t>(tokens.size()));
        tokens.push_back(sequence.tokens[static_cast<size_t>(sequence.done + i)]);
      }
    }
    bool finished = true;
    for (const Sequence& sequence : all)
      finished = finished && static_cast<size_t>(sequence.done) == sequence.tokens.size();
    if (finished) return;
    std::vector<float> logits(logits_rows.size() * vocab);
    s.executable->run(StepBatch{tokens, sequences, logits_rows}, *s.cache, logits.data());
    const float* at = logits.data();
    for (size_t i = 0; i < who.size(); ++i) {
      const size_t n = static_cast<size_t>(sequences[i].n_rows) * vocab;
      who[i]->logits.insert(who[i]->logits.end(), at, at + n);
      who[i]->done += sequences[i].n_rows;
      at += n;
    }
  }
}

void schedules_agree(Random& random, const std::string& level, WeightFormat format, DType kv, int32_t group,
                     int32_t head_dim) {
  const ModelConfig config = random_config(random, group, head_dim, random.between(0, 1) != 0);
  const uint64_t weights_seed = random.word();
  Setup alone(create_cpu_backend(1, level), config, weights_seed, format, kv);
  std::vector<Sequence> all(4);
  const int32_t lengths[] = {1, static_cast<int32_t>(random.between(2, 70)), 200, 600};
  for (size_t i = 0; i < all.size(); ++i) all[i].tokens = random.tokens(lengths[i], config.vocab);
  std::vector<std::vector<float>> whole;
  for (const Sequence& sequence : all) {
    for (int32_t block = 0; block < kBlocks; ++block) alone.cache->poison_block(block);
    whole.push_back(run_sequence(*alone.executable, *alone.program, *alone.cache, sequence.tokens));
    CHECK(all_finite(whole.back()));
  }
  const int step = std::getenv("QWEN3_SANITIZED") ? 2 : 1;
  for (int threads = 1; threads <= 4; threads += step) {
    Setup s(create_cpu_backend(threads, level), config, weights_seed, format, kv);
    std::vector<int32_t> blocks(kBlocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.word() % i]);
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t n = (all[i].tokens.size() + kBlockSize - 1) / kBlockSize;
      all[i].blocks.assign(blocks.end() - static_cast<int64_t>(n), blocks.end());
      blocks.resize(blocks.size() - n);
      all[i].done = 0, all[i].logits.clear();
    }
    run_schedule(random, s, all, threads == 1 ? 64 : 300);
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK_MSG(
          all[i].logits.size() == whole[i].size() && same_bits(all[i].logits.data(), whole[i].data(), whole[i].size()),
          level + " threads " + std::to_string(threads) + " sequence " + std::to_string(i) + " group " +
              std::to_string(group) + " head_dim " + std::to_string(head_dim));
    }
  }
  std::printf("%-10s schedules agree: %s, kv %s, group %d, head_dim %d\n", level.c_str(), format_name(format),
              kv_name(kv), group, head_dim);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const bool sanitized = std::getenv("QWEN3_SANITIZED") != nullptr;
  const bool all = std::getenv("QWEN3_LONG") != nullptr && !sanitized;
  Random random(seed());
  const int32_t groups[] = {1, 2, 4, 5, 8, 16};
  const int32_t head_dims[] = {64, 128, 256, 18, 80, 128};
  const int64_t rows[] = {1, 2, 13, 65, 130, all ? 700 : 70};
  int turn = 0, exact = 0;
  for (const std::string& level : levels_here()) {
    for (int i = sanitized ? 3 : 0; i < (sanitized ? 4 : 6); ++i) {
      const DType kv = i % 2 ? DType::kF32 : DType::kBF16;
      f32_against_float64(random, level, groups[i], head_dims[i], i % 2 == 1, rows[i]);
      bf16_against_reference(random, level, groups[i], head_dims[5 - i], i % 3 == 2, rows[i], kv);
    }
    for (int i = 0; i < 6; ++i) {  // all of them in the long run, else two a level, in turn
      if (!all && turn++ % (sanitized ? 6 : 3) != 0) continue;
      constexpr WeightFormat kFormats[] = {WeightFormat::kF32,  WeightFormat::kBF16,       WeightFormat::kInt8,
                                           WeightFormat::kInt4, WeightFormat::kInt4Offset, WeightFormat::kBF16};
      const WeightFormat format = kFormats[i];
      constexpr DType kCaches[] = {DType::kBF16, DType::kF32, DType::kInt8};
      schedules_agree(random, level, format, kCaches[(i + i / 3) % 3], groups[i], head_dims[i]);
    }
    ++turn;
    exact += integers_against_reference(random, level, WeightFormat::kF32, false, sanitized ? 40 : 130, DType::kInt8);
    exact += integers_against_reference(random, level, WeightFormat::kF32, true, sanitized ? 5 : 13, DType::kInt8);
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kInt4Offset}) {
      exact += integers_against_reference(random, level, format, false, 40);
      exact += integers_against_reference(random, level, format, true, sanitized ? 5 : 13);
    }
  }
  CHECK(exact >= 2);  // of 12 or more, most
  return run.finish();
}
