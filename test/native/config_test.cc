// Configurations that must be refused, by field, and the rotary tables against direct formulas.

#include "core/checked.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

void refused(const char* subject, const std::function<void(ModelConfig&)>& change, bool moe = false) {
  ModelConfig c = moe ? tiny_moe_config() : tiny_config();
  c.validate();
  change(c);
  CHECK_THROWS_SUBJECT(c.validate(), ErrorCode::kInvalidArgument, subject);
}

void configs() {
  using C = ModelConfig;
  refused("num_hidden_layers", [](C& c) { c.n_layers = 0; });
  refused("num_hidden_layers", [](C& c) { c.n_layers = -3; });
  refused("num_hidden_layers", [](C& c) { c.n_layers = 1000000000; });
  refused("hidden_size", [](C& c) { c.hidden = 0; });
  refused("hidden_size", [](C& c) { c.hidden = INT32_MAX; });
  refused("num_attention_heads", [](C& c) { c.n_q_heads = 0; });
  refused("num_key_value_heads", [](C& c) { c.n_kv_heads = 0; });
  refused("num_key_value_heads", [](C& c) { c.n_kv_heads = 3; });
  refused("num_key_value_heads", [](C& c) { c.n_kv_heads = 8; });
  refused("head_dim", [](C& c) { c.head_dim = 0; });
  refused("head_dim", [](C& c) { c.head_dim = 33; });
  refused("head_dim", [](C& c) { c.head_dim = 4098; });
  refused("intermediate_size", [](C& c) { c.ffn = 0; });
  refused("intermediate_size", [](C& c) { c.ffn = INT32_MAX; });
  refused("vocab_size", [](C& c) { c.vocab = 0; });
  refused("vocab_size", [](C& c) { c.vocab = INT32_MAX; });
  refused("native_window", [](C& c) { c.native_window = 0; });
  refused("rms_norm_eps", [](C& c) { c.rms_norm_eps = 0; });
  refused("rms_norm_eps", [](C& c) { c.rms_norm_eps = NAN; });
  refused("rope_theta", [](C& c) { c.rope_theta = 0; });
  refused("rope_theta", [](C& c) { c.rope_theta = 1; });
  refused("rope_theta", [](C& c) { c.rope_theta = INFINITY; });
  refused("moe_layer", [](C& c) { c.moe_layer.pop_back(); });
  refused("num_experts", [](C& c) { c.moe_layer[1] = 1; });
  refused("num_experts", [](C& c) { c.n_experts = -1; });
  refused(
      "num_experts", [](C& c) { c.n_experts = 1000000; }, true);
  refused(
      "num_experts_per_tok", [](C& c) { c.top_k_experts = 0; }, true);
  refused(
      "num_experts_per_tok", [](C& c) { c.top_k_experts = 9; }, true);
  refused(
      "moe_intermediate_size", [](C& c) { c.moe_ffn = 0; }, true);
  refused("rope_scaling.factor", [](C& c) { c.yarn = YarnConfig{.factor = 0.5}; });
  refused("rope_scaling.factor", [](C& c) { c.yarn = YarnConfig{.factor = NAN}; });
  refused("rope_scaling.beta_fast", [](C& c) { c.yarn = YarnConfig{.beta_fast = 1}; });
  refused("rope_scaling.beta_slow", [](C& c) { c.yarn = YarnConfig{.beta_slow = -1}; });
  refused("rope_scaling.attention_factor", [](C& c) { c.yarn = YarnConfig{.attention_factor = 0.0}; });
  refused("rope_scaling.original_max_position_embeddings",
          [](C& c) { c.yarn = YarnConfig{.original_max_position_embeddings = 0}; });
  // Each field within its own bounds, the whole far beyond 64 bits.
  refused(
      "num_experts * num_hidden_layers",
      [](C& c) { c.n_layers = 4096, c.n_experts = 4096, c.moe_layer.assign(4096, 1); }, true);
  refused(
      "num_hidden_layers * hidden_size",
      [](C& c) {
        c.n_layers = 4096, c.n_experts = 256, c.moe_layer.assign(4096, 1);
        c.hidden = 1 << 20, c.moe_ffn = 1 << 22, c.vocab = 1 << 24;
      },
      true);
  ModelConfig sparse = tiny_moe_config();
  sparse.ffn = 0;  // no dense layer needs it
  sparse.validate();
  const auto backend = create_reference_backend();
  CHECK_THROWS(Model::load(ModelConfig{}, {}, *backend, WeightFormat::kF32, {}), ErrorCode::kInvalidArgument);
}

// Random configurations: refused with a typed error or usable; never a crash, an overflow or a hang.
void fuzz(Random& random) {
  const auto backend = create_reference_backend();
  const int n_rounds = std::getenv("QWEN3_SANITIZED") ? 4000 : 20000;
  int accepted = 0;
  for (int i = 0; i < n_rounds; ++i) {
    ModelConfig c = random.between(0, 1) ? tiny_config() : tiny_moe_config();
    int32_t* fields[] = {&c.n_layers, &c.hidden,        &c.n_q_heads, &c.n_kv_heads,    &c.head_dim, &c.ffn,
                         &c.vocab,    &c.native_window, &c.n_experts, &c.top_k_experts, &c.moe_ffn};
    for (int64_t changes = random.between(1, 3); changes > 0; --changes) {
      const int32_t values[] = {0,         -1,        1,       2,    3,
                                INT32_MAX, INT32_MIN, 1 << 20, 4096, static_cast<int32_t>(random.word())};
      *fields[random.between(0, 10)] = values[random.between(0, 9)];
    }
    if (c.n_layers > 0 && c.n_layers <= 4096) c.moe_layer.resize(static_cast<size_t>(c.n_layers), c.moe_layer[0]);
    try {
      c.validate();
      // Planning is linear in the number of weights: huge models are planned now and then only.
      const int64_t n_weights = int64_t{c.n_layers} * (c.n_experts + 8);
      if (n_weights < 2000 || i % 1000 == 0) CHECK(Model::weight_bytes(c, *backend, WeightFormat::kF32) > 0);
      ++accepted;
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kInvalidArgument && !error.subject().empty());
    }
  }
  CHECK(accepted > 100 && accepted < n_rounds - 100);
}

void rope(Random& random) {
  for (int i = 0; i < 200; ++i) {
    ModelConfig c = tiny_config();
    c.head_dim = static_cast<int32_t>(random.between(1, 128)) * 2;
    c.rope_theta = std::pow(10.0, random.uniform(3, 7));
    const auto plain = rope_table(c, std::nullopt);
    CHECK(plain.inv_freq.size() == static_cast<size_t>(c.head_dim / 2) && plain.factor == 1.0);
    for (size_t j = 0; j < plain.inv_freq.size(); ++j) {
      CHECK_NEAR(plain.inv_freq[j] * std::pow(c.rope_theta, 2.0 * static_cast<double>(j) / c.head_dim), 1.0, 1e-12);
    }
    YarnConfig yarn;
    yarn.factor = random.uniform(1.1f, 16.0f);
    const auto scaled = rope_table(c, yarn);
    CHECK_NEAR(scaled.factor, 0.1 * std::log(yarn.factor) + 1, 1e-12);
    double last = 1.0001;
    for (size_t j = 0; j < scaled.inv_freq.size(); ++j) {
      // Never faster than unscaled, never slower than fully interpolated; the slow-down only grows with the index.
      const double ratio = scaled.inv_freq[j] / plain.inv_freq[j];
      CHECK(ratio <= last && ratio >= 1 / yarn.factor - 1e-12);
      last = ratio + 1e-12;
    }
    // Fast waves stay, slow waves are interpolated: by turns over the original window, one index of slack each side.
    for (size_t j = 1; j + 1 < scaled.inv_freq.size(); ++j) {
      auto turns = [&](size_t index) {
        return yarn.original_max_position_embeddings * plain.inv_freq[index] / (2 * M_PI);
      };
      if (turns(j + 1) > yarn.beta_fast) CHECK_NEAR(scaled.inv_freq[j] / plain.inv_freq[j], 1.0, 1e-12);
      if (turns(j - 1) < yarn.beta_slow) CHECK_NEAR(scaled.inv_freq[j] / plain.inv_freq[j] * yarn.factor, 1.0, 1e-12);
    }
  }
  // Qwen3's own numbers (head_dim 128, theta 1e6, window 32,768, factor 4), from the formula by hand: the ramp runs
  // from floor(64 ln(32768 / (32 * 2 pi)) / ln 1e6) = 23 to ceil(64 ln(32768 / (2 pi)) / ln 1e6) = 40.
  ModelConfig c = tiny_config();
  c.head_dim = 128, c.rope_theta = 1e6;
  const auto table = rope_table(c, YarnConfig{});
  const auto plain = rope_table(c, std::nullopt);
  CHECK(table.inv_freq[23] == plain.inv_freq[23] && table.inv_freq[24] < plain.inv_freq[24]);
  CHECK_NEAR(table.inv_freq[40] * 4, plain.inv_freq[40], 1e-18);
  CHECK(table.inv_freq[39] * 4 > plain.inv_freq[39] * (1 + 1e-9));
  CHECK_NEAR(table.factor, 1.138629436111989, 1e-12);
  CHECK(rope_table(c, YarnConfig{.attention_factor = 1.5}).factor == 1.5);
  CHECK(rope_table(c, YarnConfig{.factor = 1}).factor == 1.0);
  CHECK_THROWS_SUBJECT(rope_table(c, YarnConfig{.factor = INFINITY}), ErrorCode::kInvalidArgument,
                       "rope_scaling.factor");
}

// The recorded program names weights and buffers that exist, in shapes that fit each other.
void programs() {
  ModelConfig c = tiny_moe_config();
  c.moe_layer = {0, 1};
  c.tied_embeddings = false;
  const auto program = record_forward(c, YarnConfig{}, WeightFormat::kBF16);
  CHECK(program->ops.size() == program->op_names.size() && program->rope_tables.size() == 2);
  CHECK(program->op_names[1] == "layers.0.attention_norm" && program->op_names.back() == "logits");
  int moe = 0, dense = 0;
  for (const Op& op : program->ops) {
    if (std::holds_alternative<MoeOp>(op)) {
      ++moe;
      CHECK(std::get<MoeOp>(op).gate_up.size() == 8 && std::get<MoeOp>(op).layer == 1);
    }
    if (const auto* linear = std::get_if<LinearOp>(&op)) {
      dense += linear->epilogue == Epilogue::kSiluMul;
      CHECK(program->buffers[linear->x].dtype == DType::kBF16);
    }
  }
  CHECK(moe == 1 && dense == 1);
  CHECK(record_forward(c, std::nullopt, WeightFormat::kF32)->rope_tables.size() == 1);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  configs();
  fuzz(random);
  rope(random);
  programs();
  return run.finish();
}
