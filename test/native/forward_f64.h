#pragma once

// An independent Qwen3 forward pass in float64, whole sequence at once, no cache, written from the model's formulas
// alone (config, tensors by checkpoint name). Nothing of native/ops or the backends is used: it is what they are held
// against.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/random_weights.h"

namespace qwen3::testing {

using Vector64 = std::vector<double>;
// Values of a checkpoint tensor, row major.
using TensorReader = std::function<Vector64(const std::string& name, int64_t rows, int64_t cols)>;

inline TensorReader random_tensors(uint64_t seed) {
  return [seed](const std::string& name, int64_t rows, int64_t cols) {
    const bool vector = cols == 1;
    const MatrixSource source = random_tensor({name, rows, cols, vector}, seed);
    std::vector<uint16_t> bits(static_cast<size_t>(rows * cols));
    source.read(0, rows, bits.data());
    Vector64 out;
    for (const uint16_t b : bits) out.push_back(bf16_to_f32(b));
    return out;
  };
}

class ForwardF64 {
 public:
  ForwardF64(const ModelConfig& config, TensorReader tensors, const std::optional<YarnConfig>& yarn = std::nullopt)
      : c_(config), tensors_(std::move(tensors)), yarn_(yarn) {}

  // The closest call of any router so far, relative. Where it is below what f32 can tell, another expert may be as
  // right.
  mutable double router_margin = 1;

  // Logits of every position, [n, vocab].
  Vector64 logits(const std::vector<int32_t>& tokens) const {
    const size_t n = tokens.size(), d = static_cast<size_t>(c_.hidden);
    const Vector64 embedding = tensors_("model.embed_tokens.weight", c_.vocab, c_.hidden);
    std::vector<Vector64> x;
    for (const int32_t token : tokens) {
      x.emplace_back(embedding.begin() + static_cast<int64_t>(token) * c_.hidden,
                     embedding.begin() + (static_cast<int64_t>(token) + 1) * c_.hidden);
    }
    for (int32_t i = 0; i < c_.n_layers; ++i) layer(i, x);
    const Vector64 norm = tensors_("model.norm.weight", c_.hidden, 1);
    const Vector64 head = c_.tied_embeddings ? embedding : tensors_("lm_head.weight", c_.vocab, c_.hidden);
    Vector64 out;
    for (size_t r = 0; r < n; ++r) {
      const Vector64 normed = rms(x[r].data(), norm, d);
      const Vector64 row = product(head, normed);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }

 private:
  static Vector64 product(const Vector64& w, const Vector64& x) {
    Vector64 out(w.size() / x.size());
    for (size_t i = 0; i < out.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) out[i] += w[i * x.size() + j] * x[j];
    }
    return out;
  }
  Vector64 rms(const double* x, const Vector64& weight, size_t n) const {
    double square = 0;
    for (size_t i = 0; i < n; ++i) square += x[i] * x[i];
    const double root = std::sqrt(square / static_cast<double>(n) + static_cast<double>(c_.rms_norm_eps));
    Vector64 out(n);
    for (size_t i = 0; i < n; ++i) out[i] = x[i] / root * weight[i];
    return out;
  }
  static double silu(double x) { return x / (1 + std::exp(-x)); }

  // YaRN by wavelengths, arXiv 2309.00071 section 3.2, with the ramp over whole indices that checkpoints use.
  double frequency(int32_t i) const {
    const double base = 1 / std::pow(c_.rope_theta, 2.0 * i / c_.head_dim);
    if (!yarn_) return base;
    auto index = [&](double turns) {
      const double wavelength = yarn_->original_max_position_embeddings / turns;  // in positions
      return c_.head_dim / 2.0 * std::log(wavelength / (2 * M_PI)) / std::log(c_.rope_theta);
    };
    const double low = std::max(0.0, std::floor(index(yarn_->beta_fast)));
    double high = std::min(c_.head_dim - 1.0, std::ceil(index(yarn_->beta_slow)));
    if (high == low) high += 0.001;
    const double keep = 1 - std::min(1.0, std::max(0.0, (i - low) / (high - low)));
    return base * keep + base / yarn_->factor * (1 - keep);
  }

  Vector64 head(const double* x, const Vector64& weight, int64_t position) const {
    const size_t d = static_cast<size_t>(c_.head_dim), half = d / 2;
    const Vector64 n = rms(x, weight, d);
    double factor = 1;
    if (yarn_) factor = yarn_->attention_factor ? *yarn_->attention_factor : 0.1 * std::log(yarn_->factor) + 1;
    Vector64 out(d);
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequency(static_cast<int32_t>(i));
      out[i] = factor * (n[i] * std::cos(angle) - n[i + half] * std::sin(angle));
      out[i + half] = factor * (n[i + half] * std::cos(angle) + n[i] * std::sin(angle));
    }
    return out;
  }

  void layer(int32_t index, std::vector<Vector64>& x) const {
    const std::string p = "model.layers." + std::to_string(index) + ".";
    const Vector64 n1 = tensors_(p + "input_layernorm.weight", c_.hidden, 1);
    const Vector64 n2 = tensors_(p + "post_attention_layernorm.weight", c_.hidden, 1);
    attention(p + "self_attn.", n1, x);
    for (Vector64& row : x) {
      const Vector64 n = rms(row.data(), n2, row.size());
      const Vector64 y = c_.moe_layer[static_cast<size_t>(index)] ? experts(p + "mlp.", n) : mlp(p + "mlp.", n, c_.ffn);
      for (size_t i = 0; i < row.size(); ++i) row[i] += y[i];
    }
  }

  void attention(const std::string& p, const Vector64& norm, std::vector<Vector64>& x) const {
    const int64_t d = c_.head_dim, nq = c_.n_q_heads, nkv = c_.n_kv_heads;
    const Vector64 wq = tensors_(p + "q_proj.weight", nq * d, c_.hidden),
                   wk = tensors_(p + "k_proj.weight", nkv * d, c_.hidden);
    const Vector64 wv = tensors_(p + "v_proj.weight", nkv * d, c_.hidden),
                   wo = tensors_(p + "o_proj.weight", c_.hidden, nq * d);
    const Vector64 qn = tensors_(p + "q_norm.weight", d, 1), kn = tensors_(p + "k_norm.weight", d, 1);
    std::vector<Vector64> q, k, v;
    for (const Vector64& row : x) {
      const Vector64 n = rms(row.data(), norm, row.size());
      q.push_back(product(wq, n)), k.push_back(product(wk, n)), v.push_back(product(wv, n));
    }
    std::vector<std::vector<Vector64>> keys(x.size());
    for (size_t r = 0; r < x.size(); ++r) {
      for (int64_t h = 0; h < nkv; ++h)
        keys[r].push_back(head(&k[r][static_cast<size_t>(h * d)], kn, static_cast<int64_t>(r)));
      Vector64 mixed(static_cast<size_t>(nq * d));
      for (int64_t h = 0; h < nq; ++h) {
        const int64_t g = h / (nq / nkv);
        const Vector64 query = head(&q[r][static_cast<size_t>(h * d)], qn, static_cast<int64_t>(r));
        Vector64 score(r + 1);
        for (size_t j = 0; j <= r; ++j) {
          for (int64_t i = 0; i < d; ++i) score[j] += query[i] * keys[j][g][i] / std::sqrt(static_cast<double>(d));
        }
        const double top = *std::max_element(score.begin(), score.end());
        double total = 0;
        for (double& s : score) total += s = std::exp(s - top);
        for (size_t j = 0; j <= r; ++j) {
          for (int64_t i = 0; i < d; ++i) mixed[h * d + i] += score[j] / total * v[j][g * d + i];
        }
      }
      const Vector64 y = product(wo, mixed);
      for (size_t i = 0; i < y.size(); ++i) x[r][i] += y[i];
    }
  }

  Vector64 mlp(const std::string& p, const Vector64& n, int64_t ffn) const {
    Vector64 g = product(tensors_(p + "gate_proj.weight", ffn, c_.hidden), n);
    const Vector64 u = product(tensors_(p + "up_proj.weight", ffn, c_.hidden), n);
    for (size_t i = 0; i < g.size(); ++i) g[i] = silu(g[i]) * u[i];
    return product(tensors_(p + "down_proj.weight", c_.hidden, ffn), g);
  }

  Vector64 experts(const std::string& p, const Vector64& n) const {
    Vector64 score = product(tensors_(p + "gate.weight", c_.n_experts, c_.hidden), n);
    const double top = *std::max_element(score.begin(), score.end());
    double total = 0;
    for (double& s : score) total += s = std::exp(s - top);
    std::vector<int32_t> order;
    for (int32_t e = 0; e < c_.n_experts; ++e) order.push_back(e);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score[a] > score[b]; });
    if (c_.top_k_experts < c_.n_experts) {
      const double last_in = score[order[c_.top_k_experts - 1]], first_out = score[order[c_.top_k_experts]];
      router_margin = std::min(router_margin, (last_in - first_out) / last_in);
    }
    double chosen = 0;
    for (int32_t i = 0; i < c_.top_k_experts; ++i) chosen += score[order[i]];
    Vector64 out(static_cast<size_t>(c_.hidden));
    for (int32_t i = 0; i < c_.top_k_experts; ++i) {
      const Vector64 y = mlp(p + "experts." + std::to_string(order[i]) + ".", n, c_.moe_ffn);
      const double weight = score[order[i]] / (c_.norm_topk_prob ? chosen : total);
      for (size_t j = 0; j < y.size(); ++j) out[j] += weight * y[j];
    }
    return out;
  }

  ModelConfig c_;
  TensorReader tensors_;
  std::optional<YarnConfig> yarn_;
};

}  // namespace qwen3::testing
