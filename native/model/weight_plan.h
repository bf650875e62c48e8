#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weight_formats.h"
#include "ops/backend.h"

namespace qwen3 {

// A checkpoint tensor and the shape it must have; a vector has cols = 1 (its rows are its elements).
struct TensorSpec {
  std::string name;
  int64_t rows = 0, cols = 1;
  bool vector = false;
};

// One packed weight and the checkpoint tensors that are stacked along rows to make it.
struct WeightSpec {
  WeightUse use = WeightUse::kLinear;
  WeightFormat format = WeightFormat::kBF16;  // kF32 for vectors
  std::vector<TensorSpec> tensors;
  int64_t rows = 0, cols = 0;  // of the stack
};

struct LayerWeights {
  WeightId input_norm = kNoId, qkv = kNoId, q_norm = kNoId, k_norm = kNoId, o = kNoId, post_norm = kNoId;
  WeightId gate_up = kNoId, down = kNoId;  // dense
  WeightId router = kNoId;                 // sparse
  std::vector<WeightId> expert_gate_up, expert_down;
};

// Which weights a model has and how they are numbered: the loader packs `specs` in order, forward() names them by id.
struct WeightPlan {
  std::vector<WeightSpec> specs;                                    // [n_weights]
  WeightId embedding = kNoId, final_norm = kNoId, lm_head = kNoId;  // lm_head == embedding when one table serves both
  std::vector<LayerWeights> layers;
};

// `config` must be valid. Tied embeddings are one table when both uses have one format, else the checkpoint's tensor is
// packed twice.
WeightPlan plan_weights(const ModelConfig& config, const WeightFormats& formats = {});

}  // namespace qwen3
