// The reference backend, whole forward pass, against the independent float64 one: dense, sparse and mixed layers, every
// grouping of heads, tied and untied logits, YaRN; and against itself: chunks and company leave no trace in a row's
// bits.

#include "forward_f64.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

ModelConfig random_config(Random& random, int32_t group, int kind) {
  ModelConfig c;
  c.n_layers = static_cast<int32_t>(random.between(1, 3));
  c.n_kv_heads = static_cast<int32_t>(random.between(1, 2));
  c.n_q_heads = c.n_kv_heads * group;
  c.head_dim = static_cast<int32_t>(random.between(4, 24)) * 2;
  c.hidden = static_cast<int32_t>(random.between(20, 90));
  c.ffn = static_cast<int32_t>(random.between(20, 120));
  c.vocab = static_cast<int32_t>(random.between(30, 200));
  c.rope_theta = random.between(0, 1) ? 1e6 : 1e4;
  c.tied_embeddings = random.between(0, 1) != 0;
  c.native_window = 64;
  c.moe_layer.assign(static_cast<size_t>(c.n_layers), 0);
  if (kind > 0) {
    c.n_experts = static_cast<int32_t>(random.between(2, 12));
    c.top_k_experts = static_cast<int32_t>(random.between(1, std::min(4, c.n_experts)));
    c.moe_ffn = static_cast<int32_t>(random.between(8, 40));
    c.norm_topk_prob = random.between(0, 3) != 0;
    for (uint8_t& flag : c.moe_layer) flag = kind == 1 || random.between(0, 1);
  }
  return c;
}

struct Setup {
  std::unique_ptr<Backend> backend = create_reference_backend();
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Program> program;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Executable> executable;

  Setup(const ModelConfig& config, uint64_t weights_seed, WeightFormat format = WeightFormat::kF32,
        DType kv = DType::kF32) {
    model = make_tiny_model(config, weights_seed, *backend, format);
    program = model->program(config.yarn);
    cache = backend->create_kv_cache(*program, kv, 16);
    for (int32_t b = 0; b < 16; ++b) cache->poison_block(b);
    executable = backend->compile(program, model->weights(), 256, 1024);
  }
};

void against_float64(Random& random, int32_t group, int kind, bool yarn) {
  ModelConfig config = random_config(random, group, kind);
  if (yarn) {
    config.yarn = YarnConfig{};
    config.yarn->factor = random.uniform(1.5f, 5.0f);
    config.yarn->original_max_position_embeddings = 64;
    if (random.between(0, 1)) config.yarn->attention_factor = random.uniform(0.8f, 1.4f);
  }
  const uint64_t weights_seed = random.word();
  Setup s(config, weights_seed);
  const std::vector<int32_t> tokens = random.tokens(random.between(1, 90), config.vocab);
  const std::vector<float> got = run_sequence(*s.executable, *s.program, *s.cache, tokens, 0, yarn ? 1 : 0);
  const ForwardF64 forward(config, random_tensors(weights_seed), config.yarn);
  const Vector64 want = forward.logits(tokens);
  if (forward.router_margin < 1e-5) return against_float64(random, group, kind, yarn);  // a tie: draw again
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error < 1e-5,
            "group " + std::to_string(group) + " kind " + std::to_string(kind) + " error " + std::to_string(error));
  std::printf("group %2d kind %d yarn %d: error %.2e\n", group, kind, yarn, error);
}

// A prompt in one step, in random chunks, and beside another sequence: the same bits.
void schedules_agree(Random& random, WeightFormat format, DType kv) {
  const ModelConfig config = random_config(random, 2, 2);
  Setup s(config, random.word(), format, kv);
  const std::vector<int32_t> tokens = random.tokens(140, config.vocab), other = random.tokens(77, config.vocab);
  const std::vector<float> whole = run_sequence(*s.executable, *s.program, *s.cache, tokens);
  for (const float value : whole) CHECK(std::isfinite(value));

  std::vector<float> chunked;
  for (size_t at = 0; at < tokens.size();) {
    const size_t n = std::min(tokens.size() - at, static_cast<size_t>(random.between(1, 50)));
    const std::vector<int32_t> piece(tokens.begin() + at, tokens.begin() + at + n);
    const auto part = run_sequence(*s.executable, *s.program, *s.cache, piece, static_cast<int32_t>(at), 0, 4);
    chunked.insert(chunked.end(), part.begin(), part.end());
    at += n;
  }
  CHECK(chunked == whole);

  std::vector<int32_t> together = other, rows;
  together.insert(together.end(), tokens.begin(), tokens.end());
  const std::vector<int32_t> blocks_a{9, 8}, blocks_b{12, 10, 11};
  const StepSequence sequences[] = {{0, 77, 0, blocks_a, 0}, {77, 140, 0, blocks_b, 0}};
  for (int32_t r = 77; r < 217; r += 3) rows.push_back(r);
  std::vector<float> logits(rows.size() * static_cast<size_t>(config.vocab));
  s.executable->run(StepBatch{together, sequences, rows}, *s.cache, logits.data());
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* expected = &whole[static_cast<size_t>(rows[i] - 77) * static_cast<size_t>(config.vocab)];
    CHECK(std::equal(expected, expected + config.vocab, &logits[i * static_cast<size_t>(config.vocab)]));
  }
}

// Storage types cost accuracy, and about as much as they should.
void bf16_is_near(Random& random) {
  const ModelConfig config = random_config(random, 4, 0);
  const uint64_t weights_seed = random.word();
  Setup s(config, weights_seed, WeightFormat::kBF16, DType::kBF16);
  const std::vector<int32_t> tokens = random.tokens(60, config.vocab);
  const std::vector<float> got = run_sequence(*s.executable, *s.program, *s.cache, tokens);
  const Vector64 want = ForwardF64(config, random_tensors(weights_seed)).logits(tokens);
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error > 1e-4 && error < 3e-2, std::to_string(error));
  std::printf("bf16 weights, inputs and cache: error %.2e\n", error);
}

// The bound of 1e-5 tells a right formula from a slightly wrong one: each change of one number of the configuration
// moves the logits by a hundred times as much.
void sensitivity(Random& random) {
  ModelConfig config = tiny_moe_config();
  config.moe_layer = {0, 1};
  config.yarn = YarnConfig{.factor = 2, .original_max_position_embeddings = 64};
  const uint64_t weights_seed = random.word();
  const std::vector<int32_t> tokens = random.tokens(40, config.vocab);
  const auto logits = [&](const ModelConfig& c) {
    return ForwardF64(c, random_tensors(weights_seed), c.yarn).logits(tokens);
  };
  const Vector64 right = logits(config);
  const auto moves = [&](const char* what, const std::function<void(ModelConfig&)>& change) {
    ModelConfig changed = config;
    change(changed);
    const Vector64 wrong = logits(changed);
    const double error = relative_error(wrong.data(), right.data(), right.size());
    CHECK_MSG(error > 1e-3, std::string(what) + " " + std::to_string(error));
  };
  moves("eps", [](ModelConfig& c) { c.rms_norm_eps = 1e-4f; });
  moves("theta", [](ModelConfig& c) { c.rope_theta = 5e5; });
  moves("attention factor", [](ModelConfig& c) { c.yarn->attention_factor = 1; });
  moves("factor", [](ModelConfig& c) { c.yarn->factor = 2.5; });
  moves("beta", [](ModelConfig& c) { c.yarn->beta_slow = 4; });
  moves("top k", [](ModelConfig& c) { c.top_k_experts = 3; });
  moves("normalised shares", [](ModelConfig& c) { c.norm_topk_prob = false; });
}

void empty_and_observed(Random& random) {
  const ModelConfig config = random_config(random, 2, 1);
  Setup s(config, random.word());
  s.executable->run(StepBatch{}, *s.cache, nullptr);  // no rows at all

  std::vector<std::string> names;
  s.executable->observe([&](std::string_view name, int64_t rows, int64_t cols, const float* values) {
    names.emplace_back(name);
    CHECK(rows == 5 && cols > 0);
    for (int64_t i = 0; i < rows * cols; ++i) CHECK(std::isfinite(values[i]));
  });
  const std::vector<int32_t> tokens = random.tokens(5, config.vocab), blocks{3};
  const StepSequence sequences[] = {{0, 5, 0, blocks, 0}, {5, 0, 7, blocks, 0}};  // a sequence without rows
  s.executable->run(StepBatch{tokens, sequences, {}}, *s.cache, nullptr);         // no logits wanted
  CHECK(names.size() + 1 == s.program->ops.size() && names.front() == "embed" && names.back() == "final_norm");
  int64_t routed = 0;
  for (const int64_t count : s.executable->expert_counts()) routed += count;
  CHECK(routed == int64_t{5} * config.top_k_experts * config.n_layers);

  const std::vector<int32_t> bad_token{config.vocab}, bad_block{16};
  const StepSequence one{0, 1, 0, blocks, 0}, beyond{0, 1, 0, bad_block, 0}, short_table{0, 1, 64, blocks, 0};
  const std::vector<int32_t> token{0};
  CHECK_THROWS(s.executable->run(StepBatch{bad_token, {&one, 1}, {}}, *s.cache, nullptr), ErrorCode::kInternal);
  CHECK_THROWS(s.executable->run(StepBatch{token, {&beyond, 1}, {}}, *s.cache, nullptr), ErrorCode::kInternal);
  CHECK_THROWS(s.executable->run(StepBatch{token, {&short_table, 1}, {}}, *s.cache, nullptr), ErrorCode::kInternal);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  for (const int32_t group : {1, 2, 4, 5, 8, 16}) {
    for (int kind = 0; kind < 3; ++kind) {
      against_float64(random, group, kind, false);
      against_float64(random, group, kind, true);
    }
  }
  schedules_agree(random, WeightFormat::kF32, DType::kF32);
  schedules_agree(random, WeightFormat::kBF16, DType::kBF16);
  schedules_agree(random, WeightFormat::kF32, DType::kBF16);
  bf16_is_near(random);
  sensitivity(random);
  empty_and_observed(random);
  return run.finish();
}
