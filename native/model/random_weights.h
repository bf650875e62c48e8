#pragma once

#include <cstdint>

#include "model/weight_plan.h"
#include "ops/backend.h"

namespace qwen3 {

// Changes with the formulas below: packed weights that are kept in files name it.
constexpr int kRandomWeightsVersion = 1;

// Rows of a synthetic checkpoint tensor as bf16, a pure function of (seed, tensor name, element index) on every
// machine:
//   matrix  value = channel[col] * heavy(g) / sqrt(cols)     g ~ sum of four bytes, standard deviation 1, nearly normal
//   vector  value = channel[i] * (1 + 0.15 heavy(g))         (norm weights)
// heavy(g) = g (0.72 + 0.11 g^2) has kurtosis far above a normal's; channel is 1 but for about one column in 128, which
// is 2 to 6 times larger: trained models have such outlier channels, and quantisation has to live with them.
MatrixSource random_tensor(const TensorSpec& tensor, uint64_t seed);

}  // namespace qwen3
