// Each operation of the reference against float64 on random shapes. Tolerances are a few f32 roundings of the values at
// hand; a wrong index, head or order misses them by orders of magnitude.

#include <array>
#include <set>

#include "core/math.h"
#include "cpu/reference/reference.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;
using namespace qwen3::reference;

namespace {

ReferenceWeight random_weight(Random& random, int64_t rows, int64_t cols, float scale = 1) {
  ReferenceWeight w;
  w.rows = rows, w.cols = cols;
  w.values = random.normals(rows * cols, scale);
  return w;
}

Activation random_activation(Random& random, int64_t rows, int64_t cols, DType dtype = DType::kF32) {
  return {random.normals(rows * cols), cols, dtype};
}

Activation zeros(int64_t rows, int64_t cols, DType dtype = DType::kF32) {
  return {std::vector<float>(static_cast<size_t>(rows * cols)), cols, dtype};
}

double dot64(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double silu64(double x) {
  return x / (1 + std::exp(-x));
}

void check_close(const Activation& got, const std::vector<double>& want, double bound, const char* what) {
  const double error = relative_error(got.values.data(), want.data(), want.size());
  CHECK_MSG(error < bound, std::string(what) + " error " + std::to_string(error));
}

void embed_and_logits(Random& random) {
  const int64_t vocab = random.between(1, 90), d = random.between(1, 150), n = random.between(0, 20);
  const ReferenceWeight table = random_weight(random, vocab, d);
  const std::vector<int32_t> tokens = random.tokens(n, static_cast<int32_t>(vocab));
  Activation out = zeros(n, d);
  embed(tokens, table, out);
  for (int64_t r = 0; r < n; ++r) CHECK(std::equal(table.row(tokens[r]), table.row(tokens[r]) + d, out.row(r)));

  std::vector<int32_t> rows;
  for (int32_t r = 0; r < n; ++r) {
    if (random.between(0, 2) == 0) rows.push_back(r);
  }
  std::vector<float> got(rows.size() * static_cast<size_t>(vocab) + 1, -7.0f);
  logits(out, rows, table, got.data());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t v = 0; v < vocab; ++v) {
      CHECK_NEAR(got[i * static_cast<size_t>(vocab) + static_cast<size_t>(v)], dot64(out.row(rows[i]), table.row(v), d),
                 1e-4);
    }
  }
  CHECK(got.back() == -7.0f);  // nothing beyond the rows asked for
}

void norms(Random& random) {
  const int64_t d = random.between(1, 300), n = random.between(0, 6);
  const float eps = 1e-6f;
  Activation x = random_activation(random, n, d);
  if (n > 0) std::fill_n(x.row(0), d, 0.0f);  // eps keeps a zero row at zero
  const ReferenceWeight weight = random_weight(random, d, 1);
  Activation out = zeros(n, d);
  rms_norm(x, n, weight, eps, out);
  std::vector<double> want;
  for (int64_t r = 0; r < n; ++r) {
    const double root = std::sqrt(dot64(x.row(r), x.row(r), d) / static_cast<double>(d) + static_cast<double>(eps));
    for (int64_t i = 0; i < d; ++i) want.push_back(x.row(r)[i] / root * weight.values[i]);
  }
  check_close(out, want, 1e-6, "rms_norm");
  Activation rounded = zeros(n, d, DType::kBF16);
  rms_norm(x, n, weight, eps, rounded);
  for (size_t i = 0; i < out.values.size(); ++i) {
    CHECK(rounded.values[i] == bf16_to_f32(f32_to_bf16(out.values[i])));
  }
}

void linears(Random& random) {
  const int64_t k = random.between(1, 300), n = random.between(1, 80), rows = random.between(0, 9);
  const Activation x = random_activation(random, rows, k);
  const ReferenceWeight w = random_weight(random, n, k), gate_up = random_weight(random, 2 * n, k, 0.2f);
  Activation store = zeros(rows, n), add = random_activation(random, rows, n), silu_mul = zeros(rows, n);
  std::vector<double> want_store, want_add, want_silu;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      want_store.push_back(dot64(x.row(r), w.row(i), k));
      want_add.push_back(add.row(r)[i] + want_store.back());
      want_silu.push_back(silu64(dot64(x.row(r), gate_up.row(i), k)) * dot64(x.row(r), gate_up.row(n + i), k));
    }
  }
  linear(x, rows, w, Epilogue::kStore, store);
  linear(x, rows, w, Epilogue::kAddTo, add);
  linear(x, rows, gate_up, Epilogue::kSiluMul, silu_mul);
  check_close(store, want_store, 2e-6, "linear");
  check_close(add, want_add, 2e-6, "linear add");
  check_close(silu_mul, want_silu, 4e-6, "linear silu mul");
}

// A random step: ragged sequences at random positions, each with blocks of its own in random order.
struct RaggedStep {
  std::vector<std::vector<int32_t>> tables;
  std::vector<StepSequence> sequences;
  std::vector<int32_t> tokens;
  StepBatch batch;
  int32_t n_blocks = 0;

  RaggedStep(Random& random, bool from_zero) {
    const int64_t n = random.between(1, 4);
    std::vector<int32_t> blocks(64);
    for (int32_t i = 0; i < 64; ++i) blocks[i] = i;
    for (int32_t i = 63; i > 0; --i) std::swap(blocks[i], blocks[random.between(0, i)]);
    for (int64_t s = 0; s < n; ++s) {
      const int32_t rows = static_cast<int32_t>(random.between(0, 20));
      const int32_t position = from_zero ? 0 : static_cast<int32_t>(random.between(0, 200));
      auto& table = tables.emplace_back();
      for (int32_t b = 0; b * kBlockSize < position + rows; ++b) table.push_back(blocks[n_blocks++]);
      sequences.push_back({static_cast<int32_t>(tokens.size()), rows, position, {}, 0});
      tokens.resize(tokens.size() + static_cast<size_t>(rows));
    }
    for (size_t s = 0; s < sequences.size(); ++s) sequences[s].block_table = tables[s];
    batch = {tokens, sequences, {}};
  }
};

Program random_shape(Random& random) {
  Program p;
  p.n_layers = static_cast<int32_t>(random.between(1, 3));
  p.n_kv_heads = static_cast<int32_t>(random.between(1, 3));
  constexpr std::array<int32_t, 6> groups{1, 2, 4, 5, 8, 16};
  p.n_q_heads = p.n_kv_heads * groups[static_cast<size_t>(random.between(0, 5))];
  p.head_dim = static_cast<int32_t>(random.between(1, 20)) * 2;
  Program::RopeTable table;
  for (int32_t i = 0; i < p.head_dim / 2; ++i) table.inv_freq.push_back(std::pow(1e6, -2.0 * i / p.head_dim));
  table.factor = random.uniform(0.9f, 1.3f);
  p.rope_tables = {table};
  return p;
}

void qk_norm_rope(Random& random) {
  const Program p = random_shape(random);
  const RaggedStep step(random, false);
  const int64_t d = p.head_dim, n = static_cast<int64_t>(step.tokens.size()), half = d / 2;
  const Activation qkv = random_activation(random, n, (p.n_q_heads + 2 * p.n_kv_heads) * d);
  const ReferenceWeight q_norm = random_weight(random, d, 1), k_norm = random_weight(random, d, 1);
  const DType kv = random.between(0, 1) ? DType::kF32 : DType::kBF16;
  ReferenceKvCache cache(p, kv, 64);
  for (int32_t b = 0; b < 64; ++b) cache.poison_block(b);
  Activation q_out = zeros(n, p.n_q_heads * d);
  const int32_t layer = p.n_layers - 1;
  qk_norm_rope_append(p, {0, 0, 0, 0, layer, 1e-6f}, qkv, q_norm, k_norm, rope_rows(p, step.batch), step.batch, cache,
                      q_out);

  auto expect = [&](const float* in, const ReferenceWeight& weight, int64_t position, const float* got, DType dtype) {
    const double root = std::sqrt(dot64(in, in, d) / static_cast<double>(d) + 1e-6);
    for (int64_t i = 0; i < half; ++i) {
      // A rotation of the pair (i, i + half) is a product of complex numbers.
      const double a = in[i] / root * weight.values[i], b = in[i + half] / root * weight.values[i + half];
      const double angle = static_cast<double>(position) * p.rope_tables[0].inv_freq[i], f = p.rope_tables[0].factor;
      const double x = f * (a * std::cos(angle) - b * std::sin(angle)),
                   y = f * (b * std::cos(angle) + a * std::sin(angle));
      const double bound = (dtype == DType::kBF16 ? 0x1p-8 : 1e-6) * std::max(1.0, std::hypot(x, y));
      CHECK_NEAR(got[i], x, bound);
      CHECK_NEAR(got[i + half], y, bound);
    }
  };
  std::set<float*> written;
  for (const StepSequence& s : step.sequences) {
    for (int32_t i = 0; i < s.n_rows; ++i) {
      const float* row = qkv.row(s.row_begin + i);
      const int64_t position = s.position_begin + i;
      for (int32_t h = 0; h < p.n_q_heads; ++h) {
        expect(row + h * d, q_norm, position, q_out.row(s.row_begin + i) + h * d, DType::kF32);
      }
      for (int32_t h = 0; h < p.n_kv_heads; ++h) {
        expect(row + (p.n_q_heads + h) * d, k_norm, position, cache.key(layer, s, position, h), kv);
        const float* v = row + (p.n_q_heads + p.n_kv_heads + h) * d;
        for (int64_t j = 0; j < d; ++j) CHECK(cache.value(layer, s, position, h)[j] == round_to(kv, v[j]));
        written.insert(cache.key(layer, s, position, h));
      }
    }
    // Slots that are not this step's stay untouched.
    for (int64_t position = 0; position < static_cast<int64_t>(s.block_table.size()) * kBlockSize; ++position) {
      float* key = cache.key(layer, s, position, 0);
      if (!written.count(key)) CHECK(std::isnan(key[0]));
    }
  }
}

void attentions(Random& random) {
  const Program p = random_shape(random);
  const RaggedStep step(random, false);
  const int64_t d = p.head_dim, n = static_cast<int64_t>(step.tokens.size());
  ReferenceKvCache cache(p, DType::kF32, 64);
  for (int32_t b = 0; b < 64; ++b) cache.poison_block(b);
  const int32_t layer = p.n_layers - 1;
  for (const StepSequence& s : step.sequences) {  // only visible positions hold numbers; all else is NaN
    for (int64_t j = 0; j < s.position_begin + s.n_rows; ++j) {
      for (int32_t h = 0; h < p.n_kv_heads; ++h) {
        cache.store(cache.key(layer, s, j, h), random.normals(d).data());
        cache.store(cache.value(layer, s, j, h), random.normals(d).data());
      }
    }
  }
  const Activation q = random_activation(random, n, p.n_q_heads * d);
  Activation out = zeros(n, p.n_q_heads * d);
  attention(p, layer, q, step.batch, cache, out);
  for (const StepSequence& s : step.sequences) {
    for (int32_t i = 0; i < s.n_rows; ++i) {
      for (int32_t h = 0; h < p.n_q_heads; ++h) {
        const int32_t g = h / (p.n_q_heads / p.n_kv_heads);
        const float* query = q.row(s.row_begin + i) + h * d;
        double total = 0;
        std::vector<double> want(static_cast<size_t>(d));
        for (int64_t j = 0; j <= s.position_begin + i; ++j) {
          const double weight =
              std::exp(dot64(query, cache.key(layer, s, j, g), d) / std::sqrt(static_cast<double>(d)));
          total += weight;
          for (int64_t c = 0; c < d; ++c) want[c] += weight * cache.value(layer, s, j, g)[c];
        }
        for (int64_t c = 0; c < d; ++c) CHECK_NEAR(out.row(s.row_begin + i)[h * d + c], want[c] / total, 3e-6);
      }
    }
  }
}

void moes(Random& random) {
  const int64_t d = random.between(4, 60), ffn = random.between(4, 50), n_experts = random.between(1, 16),
                n = random.between(0, 7);
  MoeOp op{};
  op.top_k = static_cast<int32_t>(random.between(1, n_experts));
  op.norm_topk_prob = random.between(0, 1);
  ReferenceWeight router = random_weight(random, n_experts, d);
  const bool tie = n_experts > 2 && random.between(0, 2) == 0;
  if (tie) std::copy_n(router.row(0), d, router.values.begin() + 2 * d);  // experts 0 and 2 always score the same
  std::vector<ReferenceWeight> gate_up, down;
  std::vector<Expert> experts;
  for (int64_t e = 0; e < n_experts; ++e) {
    gate_up.push_back(random_weight(random, 2 * ffn, d, 0.3f)), down.push_back(random_weight(random, d, ffn));
  }
  for (int64_t e = 0; e < n_experts; ++e) experts.push_back({&gate_up[e], &down[e]});
  const Activation x = random_activation(random, n, d);
  Activation out = random_activation(random, n, d);
  std::vector<double> want(out.values.begin(), out.values.end());
  std::vector<int64_t> want_counts(static_cast<size_t>(n_experts)), counts(want_counts);
  for (int64_t r = 0; r < n; ++r) {
    std::vector<std::pair<double, int64_t>> score;
    double total = 0, chosen = 0;
    for (int64_t e = 0; e < n_experts; ++e) {
      score.push_back({-std::exp(dot64(x.row(r), router.row(e), d)), e});
      total -= score.back().first;
    }
    std::sort(score.begin(), score.end());  // descending by score, then ascending by id
    if (op.top_k < n_experts) {  // a call too close for f32, other than an exact tie: another answer may be as right
      const double gap = score[op.top_k].first - score[op.top_k - 1].first;
      if (gap > 0 && gap < -1e-5 * score[op.top_k].first) return;
    }
    for (int32_t k = 0; k < op.top_k; ++k) chosen -= score[k].first;
    for (int32_t k = 0; k < op.top_k; ++k) {
      const int64_t e = score[k].second;
      ++want_counts[e];
      for (int64_t i = 0; i < d; ++i) {
        double y = 0;
        for (int64_t j = 0; j < ffn; ++j) {
          y += down[e].row(i)[j] * silu64(dot64(x.row(r), gate_up[e].row(j), d)) *
               dot64(x.row(r), gate_up[e].row(ffn + j), d);
        }
        want[r * d + i] += -score[k].first / (op.norm_topk_prob ? chosen : total) * y;
      }
    }
  }
  moe(op, x, n, router, experts, out, counts.data());
  check_close(out, want, 1e-5, "moe");
  CHECK(counts == want_counts);
}

void cache_blocks(Random& random) {
  const Program p = random_shape(random);
  ReferenceKvCache cache(p, DType::kF32, 4);
  const std::vector<int32_t> table{2, 0};
  const StepSequence s{0, 1, 64, table, 0};
  for (int32_t b = 0; b < 4; ++b) cache.poison_block(b);
  for (int64_t j = 0; j < 64; ++j) {
    for (int32_t layer = 0; layer < p.n_layers; ++layer) {
      for (int32_t h = 0; h < p.n_kv_heads; ++h) {
        cache.store(cache.key(layer, s, j, h), random.normals(p.head_dim).data());
        cache.store(cache.value(layer, s, j, h), random.normals(p.head_dim).data());
      }
    }
  }
  const int32_t n = static_cast<int32_t>(random.between(0, 64));
  cache.copy_block(2, 0, n);
  for (int32_t layer = 0; layer < p.n_layers; ++layer) {
    for (int32_t h = 0; h < p.n_kv_heads; ++h) {
      for (int64_t j = 0; j < 64; ++j) {
        const float* key = cache.key(layer, s, 64 + j, h);
        const float* value = cache.value(layer, s, 64 + j, h);
        if (j >= n)
          CHECK(std::isnan(key[0]) && std::isnan(value[p.head_dim - 1]));
        else
          CHECK(std::equal(key, key + p.head_dim, cache.key(layer, s, j, h)) &&
                std::equal(value, value + p.head_dim, cache.value(layer, s, j, h)));
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const uint64_t n_rounds = std::getenv("QWEN3_LONG") ? 1000 : std::getenv("QWEN3_SANITIZED") ? 20 : 60;
  for (uint64_t i = 0; i < n_rounds; ++i) {
    Random random(seed(), i);
    embed_and_logits(random);
    norms(random);
    linears(random);
    qk_norm_rope(random);
    attentions(random);
    moes(random);
    cache_blocks(random);
  }
  return run.finish();
}
