#pragma once

#include <napi.h>

#include <string>

#include "engine/engine.h"
#include "engine/request.h"
#include "model/model.h"
#include "node/packed_tensors.h"

namespace qwen3::node {

// The shapes of lib/native.ts as engine structures and back. Reading checks types and ranges again, so that a wrong
// call is Error(kInvalidArgument, field) and never undefined behaviour; meaning is validated in lib/ and by the engine.

struct LoadSpec {
  std::string key, device;
  ModelConfig config;
  WeightsSource source;  // its tensors are still packed
  PackedTensors tensors;
  WeightFormats formats;
  WeightCache cache;
  int threads = 0;
  std::string isa;
  BatchInvariance invariance = BatchInvariance::kBatch;
  EngineOptions engine;
};

LoadSpec load_spec_from_js(const Napi::Value& value);
Request request_from_js(const Napi::Value& value);
// An output of nothing but tokens as integers, [id (low and high 32 bits), n, n ids, n tags]; the number of those
// written, 0 when it has more to say or does not fit into `room`.
size_t write_plain(const RequestOutput& output, int32_t* to, size_t room);
Napi::Object output_to_js(Napi::Env env, const RequestOutput& output);
Napi::Object stats_to_js(Napi::Env env, const EngineStats& stats);
Napi::Object weight_cache_to_js(Napi::Env env, const WeightCacheUse& use);

}  // namespace qwen3::node
