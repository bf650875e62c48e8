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
  WeightId input_norm = kNone, qkv = kNone, q_norm = kNone, k_norm = kNone, o = kNone, post_norm = kNone;
  WeightId gate_up = kNone, down = kNone;  // dense
  WeightId router = kNone;                 // sparse
  std::vector<WeightId> expert_gate_up, expert_down;
};

// Which weights a model has and how they are numbered: the loader packs `specs` in order, forward() names them by id.
struct WeightPlan {
  std::vector<WeightSpec> specs;                                    // [n_weights]
  WeightId embedding = kNone, final_norm = kNone, lm_head = kNone;  // lm_head == embedding when one table serves both
  std::vector<LayerWeights> layers;
};

// `config` must be valid. Tied embeddings are one table when both uses have one format, else the checkpoint's tensor is
// packed twice.
WeightPlan plan_weights(const ModelConfig& config, const WeightFormats& formats = {});

}  // namespace qwen3
