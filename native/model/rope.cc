#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/model.h"

namespace qwen3 {
namespace {

// The (real) frequency index whose wave makes `rotations` turns over the original window: YaRN, section 3.2, the
// inverse of r(d) = L / (2 pi theta^(2d/|D|)).
double index_of_rotations(double rotations, double window, double theta, int32_t head_dim) {
  return head_dim * std::log(window / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

}  // namespace

// NTK-by-parts (arXiv 2309.00071, section 3.2): frequencies that turn more than beta_fast times over the original
// window stay as they are, those below beta_slow are divided by the factor, and between them a ramp over the index
// blends both.
Program::RopeTable rope_table(const ModelConfig& config, const std::optional<YarnConfig>& yarn) {
  const int32_t half = config.head_dim / 2;
  Program::RopeTable table;
  for (int32_t i = 0; i < half; ++i) {
    table.inv_freq.push_back(std::pow(config.rope_theta, -2.0 * i / config.head_dim));
  }
  if (!yarn) return table;
  yarn->validate();

  const double window = yarn->original_max_position_embeddings, theta = config.rope_theta;
  // The published implementations widen the ramp to whole indices and keep it inside the head; checkpoints were
  // evaluated that way.
  double low = std::floor(index_of_rotations(yarn->beta_fast, window, theta, config.head_dim));
  double high = std::ceil(index_of_rotations(yarn->beta_slow, window, theta, config.head_dim));
  low = std::max(low, 0.0);
  high = std::min(high, config.head_dim - 1.0);
  if (low == high) high += 0.001;
  for (int32_t i = 0; i < half; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    const double extrapolated = table.inv_freq[i], interpolated = table.inv_freq[i] / yarn->factor;
    table.inv_freq[i] = interpolated * ramp + extrapolated * (1 - ramp);
  }
  table.factor = yarn->attention_factor.value_or(yarn->factor <= 1 ? 1.0 : 0.1 * std::log(yarn->factor) + 1.0);
  return table;
}

}  // namespace qwen3
