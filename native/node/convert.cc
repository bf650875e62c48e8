#include "node/convert.h"

#include <cstring>

#include "core/status.h"
#include "node/fields.h"

namespace qwen3::node {
namespace {

[[noreturn]] void unknown(const char* name, const std::string& value) {
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + ": '" + value + "' is not a known value", name);
}

DType dtype_from(const char* name, const std::string& value) {
  if (value == "f32") return DType::kF32;
  if (value == "f16") return DType::kF16;
  if (value == "bf16") return DType::kBF16;
  unknown(name, value);
}

ModelConfig config_from(const Fields& fields) {
  ModelConfig config;
  config.n_layers = fields.integer32("layers");
  config.hidden = fields.integer32("hidden");
  config.n_q_heads = fields.integer32("qHeads");
  config.n_kv_heads = fields.integer32("kvHeads");
  config.head_dim = fields.integer32("headDim");
  config.ffn = fields.integer32("ffn");
  config.vocab = fields.integer32("vocab");
  config.rms_norm_eps = static_cast<float>(fields.number("rmsNormEps"));
  config.rope_theta = fields.number("ropeTheta");
  config.tied_embeddings = fields.boolean("tiedEmbeddings");
  config.native_window = fields.integer32("nativeWindow");
  config.n_experts = fields.integer32("experts");
  config.top_k_experts = fields.integer32("topKExperts");
  config.moe_ffn = fields.integer32("moeFfn");
  config.norm_topk_prob = fields.boolean("normTopkProb");
  const std::string moe_layers = fields.bytes("moeLayers");
  config.moe_layer.assign(moe_layers.begin(), moe_layers.end());
  return config;
}

YarnConfig yarn_from(const Fields& fields) {
  YarnConfig yarn;
  yarn.factor = fields.number("factor");
  yarn.original_max_position_embeddings = fields.number("originalMaxPositionEmbeddings");
  yarn.beta_fast = fields.number("betaFast");
  yarn.beta_slow = fields.number("betaSlow");
  if (fields.has("attentionFactor")) yarn.attention_factor = fields.number("attentionFactor");
  return yarn;
}

PackedTensors tensors_from(const Fields& fields) {
  PackedTensors packed;
  packed.names = fields.string("names");
  const Napi::Array paths = fields.array("paths");
  for (uint32_t i = 0; i < paths.Length(); ++i) packed.paths.push_back(string_from_js(paths[i], "paths"));
  packed.files = fields.uint32_array("files");
  packed.dtypes = fields.bytes("dtypes");
  packed.ranges = fields.float64_array("ranges");
  packed.shapes = fields.float64_array("shapes");
  return packed;
}

EngineOptions engine_options_from(const Fields& fields) {
  EngineOptions options;
  options.context_length = fields.integer("contextLength");
  options.kv_cache_bytes = fields.integer("kvCacheBytes");
  const std::string kv = fields.string("kvCache");
  options.kv_dtype = kv == "int8" ? DType::kInt8 : dtype_from("kvCache", kv);
  options.max_sequences = fields.integer32("maxSequences");
  options.max_waiting = fields.integer32("maxWaiting");
  const std::string rope = fields.string("rope");
  if (rope == "auto") {
    options.rope = EngineOptions::Rope::kAuto;
  } else if (rope == "static") {
    options.rope = EngineOptions::Rope::kStatic;
  } else if (rope == "none") {
    options.rope = EngineOptions::Rope::kNever;
  } else {
    unknown("rope", rope);
  }
  if (fields.has("yarn")) options.yarn = yarn_from(fields.object("yarn"));
  options.token_bytes = fields.bytes("tokenBytes");
  options.token_offsets = fields.uint32_array("tokenOffsets");
  return options;
}

SegmentPlan segments_from(const Fields& fields) {
  SegmentPlan plan;
  plan.can_think = fields.boolean("canThink");
  plan.starts_in_think = fields.boolean("startsInThink");
  plan.think_open = fields.integer32("thinkOpen");
  plan.think_close = fields.integer32("thinkClose");
  plan.tool_open = fields.integer32("toolOpen");
  plan.tool_close = fields.integer32("toolClose");
  plan.wrap_up = fields.int32_array("wrapUp");
  plan.budget = fields.integer("budget");
  plan.deadline_ms = fields.integer("deadlineMs");
  plan.answer_reserve = fields.integer("answerReserve");
  plan.loop_breaker = fields.boolean("loopBreaker");
  plan.soft_landing = fields.boolean("softLanding");
  return plan;
}

SamplingParams sampling_from(const Fields& fields) {
  SamplingParams sampling;
  sampling.temperature = static_cast<float>(fields.number("temperature"));
  sampling.top_p = static_cast<float>(fields.number("topP"));
  sampling.top_k = fields.integer32("topK");
  sampling.min_p = static_cast<float>(fields.number("minP"));
  sampling.presence_penalty = static_cast<float>(fields.number("presencePenalty"));
  sampling.frequency_penalty = static_cast<float>(fields.number("frequencyPenalty"));
  sampling.repetition_penalty = static_cast<float>(fields.number("repetitionPenalty"));
  sampling.seed = fields.unsigned64("seed");
  sampling.choice = fields.integer32("choice");
  sampling.top_logprobs = fields.integer32("topLogprobs");
  const std::vector<int32_t> ids = fields.int32_array("logitBiasIds");
  const std::vector<float> values = fields.float32_array("logitBiasValues");
  if (ids.size() != values.size()) {
    throw Error(ErrorCode::kInvalidArgument, "logitBias: expected as many values as ids", "logitBias");
  }
  for (size_t i = 0; i < ids.size(); ++i) sampling.logit_bias.emplace_back(ids[i], values[i]);
  return sampling;
}

Speculation speculation_from(const Fields& fields) {
  Speculation speculation;
  speculation.max_draft = fields.integer32("maxDraft");
  speculation.min_ngram = fields.integer32("minNgram");
  speculation.max_ngram = fields.integer32("maxNgram");
  return speculation;
}

// The values of lib/native.ts for these enumerations.
const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAborted:
      return "aborted";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

const char* name_of(ThinkingStop stop) {
  switch (stop) {
    case ThinkingStop::kNone:
      return "none";
    case ThinkingStop::kNatural:
      return "natural";
    case ThinkingStop::kBudget:
      return "budget";
    case ThinkingStop::kDeadline:
      return "deadline";
    case ThinkingStop::kReserve:
      return "reserve";
    case ThinkingStop::kLoop:
      return "loop";
    case ThinkingStop::kRequested:
      return "requested";
    case ThinkingStop::kUnfinished:
      return "unfinished";
  }
  return "none";
}

Napi::Float32Array floats_to_js(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

Napi::Object logprobs_to_js(Napi::Env env, const std::vector<TokenLogprob>& logprobs) {
  size_t top_count = 0;
  for (const TokenLogprob& entry : logprobs) top_count = std::max(top_count, entry.top.size());
  Napi::Float32Array logprob = Napi::Float32Array::New(env, logprobs.size());
  Napi::Int32Array top_ids = Napi::Int32Array::New(env, logprobs.size() * top_count);
  Napi::Float32Array top_logprobs = Napi::Float32Array::New(env, logprobs.size() * top_count);
  for (size_t i = 0; i < logprobs.size(); ++i) {
    logprob[i] = logprobs[i].logprob;
    for (size_t j = 0; j < top_count; ++j) {
      const bool present = j < logprobs[i].top.size();
      top_ids[i * top_count + j] = present ? logprobs[i].top[j].first : -1;
      top_logprobs[i * top_count + j] = present ? logprobs[i].top[j].second : 0.0f;
    }
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("logprob", logprob);
  object.Set("topIds", top_ids);
  object.Set("topLogprobs", top_logprobs);
  object.Set("topCount", Napi::Number::New(env, static_cast<double>(top_count)));
  return object;
}

Napi::Object usage_to_js(Napi::Env env, const Usage& usage) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, double value) { object.Set(name, Napi::Number::New(env, value)); };
  set("promptTokens", static_cast<double>(usage.prompt_tokens));
  set("cachedTokens", static_cast<double>(usage.cached_tokens));
  set("thinkingTokens", static_cast<double>(usage.thinking_tokens));
  set("answerTokens", static_cast<double>(usage.answer_tokens));
  set("toolCallTokens", static_cast<double>(usage.tool_call_tokens));
  set("forcedTokens", static_cast<double>(usage.forced_tokens));
  set("draftTokens", static_cast<double>(usage.draft_tokens));
  set("acceptedTokens", static_cast<double>(usage.accepted_tokens));
  set("queueMs", usage.queue_ms);
  set("prefillMs", usage.prefill_ms);
  set("firstTokenMs", usage.first_token_ms);
  set("decodeMs", usage.decode_ms);
  set("rescaleMs", usage.rescale_ms);
  return object;
}

Napi::Object finished_to_js(Napi::Env env, const RequestOutput& output) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("reason", Napi::String::New(env, name_of(output.finish_reason)));
  object.Set("thinkingStop", Napi::String::New(env, name_of(output.thinking_stop)));
  object.Set("stopIndex", Napi::Number::New(env, output.stop_index));
  object.Set("trimBytes", Napi::Number::New(env, output.trim_bytes));
  object.Set("usage", usage_to_js(env, output.usage));
  if (!output.values.empty()) object.Set("values", floats_to_js(env, output.values));
  if (output.finish_reason == FinishReason::kError) {
    Napi::Object error = Napi::Object::New(env);
    error.Set("code", Napi::String::New(env, output.error_code));
    error.Set("message", Napi::String::New(env, output.error_message));
    error.Set("subject", Napi::String::New(env, output.error_subject));
    object.Set("error", error);
  }
  return object;
}

constexpr uint8_t kForcedBit = 0x80;  // NATIVE_FORCED in lib/native.ts

uint8_t tag_of(const OutputToken& token) {
  return static_cast<uint8_t>(static_cast<uint8_t>(token.segment) | (token.forced ? kForcedBit : 0));
}

}  // namespace

LoadSpec load_spec_from_js(const Napi::Value& value) {
  const Fields fields(value, "spec");
  LoadSpec spec;
  spec.key = fields.string("key");
  spec.device = fields.string("device");
  spec.config = config_from(fields.object("config"));
  spec.threads = fields.integer32("threads");
  spec.isa = fields.string("isa");
  const std::string invariance = fields.string("batchInvariance");
  if (invariance != "batch" && invariance != "full") {
    throw Error(ErrorCode::kInvalidArgument, "batchInvariance must be 'batch' or 'full', received '" + invariance + "'",
                "batchInvariance");
  }
  spec.invariance = invariance == "full" ? BatchInvariance::kFull : BatchInvariance::kBatch;
  const auto format = [&](const char* name) { return weight_format_from(fields.string(name), name); };
  spec.formats = {format("weights"), format("embeddingWeights"), format("headWeights")};
  if (fields.has("weightCache")) {
    const Fields cache = fields.object("weightCache");
    spec.cache = {cache.string("folder"), cache.string("name"), spec.key};
  }
  spec.engine = engine_options_from(fields);
  // The source is what lib/ says: a seed makes a synthetic model, otherwise the listed tensors are read.
  if (fields.has("random")) {
    spec.source.random = true;
    spec.source.seed = fields.unsigned64("random");
  } else {
    spec.tensors = tensors_from(fields.object("tensors"));
  }
  return spec;
}

Request request_from_js(const Napi::Value& value) {
  const Fields fields(value, "request");
  Request request;
  request.prompt = fields.int32_array("prompt");
  request.sampling = sampling_from(fields);
  request.segments = segments_from(fields.object("segments"));
  if (fields.has("speculation")) request.speculation = speculation_from(fields.object("speculation"));
  request.max_tokens = fields.integer("maxTokens");
  request.eos = fields.int32_array("eos");
  request.ignore_eos = fields.boolean("ignoreEos");
  const Napi::Array stop = fields.array("stop");
  for (uint32_t i = 0; i < stop.Length(); ++i) request.stop.push_back(bytes_from_js(stop[i], "stop"));
  request.cache_namespace = fields.unsigned64("cacheNamespace");
  const std::string mode = fields.string("mode");
  if (mode != "generate" && mode != "logits" && mode != "score") unknown("mode", mode);
  request.want_prompt_logits = mode == "logits";
  request.want_score = mode == "score";
  return request;
}

size_t write_plain(const RequestOutput& output, int32_t* to, size_t room) {
  const size_t n = output.tokens.size(), size = 3 + 2 * n;
  if (output.finished || !output.logprobs.empty() || size > room) return 0;
  to[0] = static_cast<int32_t>(static_cast<uint32_t>(output.request_id));
  to[1] = static_cast<int32_t>(output.request_id >> 32);
  to[2] = static_cast<int32_t>(n);
  for (size_t i = 0; i < n; ++i) {
    to[3 + i] = output.tokens[i].id;
    to[3 + n + i] = tag_of(output.tokens[i]);
  }
  return size;
}

Napi::Object output_to_js(Napi::Env env, const RequestOutput& output) {
  const size_t n = output.tokens.size();
  Napi::Int32Array ids = Napi::Int32Array::New(env, n);
  Napi::Uint8Array segments = Napi::Uint8Array::New(env, n);
  int32_t* const id_values = ids.Data();
  uint8_t* const segment_values = segments.Data();
  for (size_t i = 0; i < n; ++i) {
    id_values[i] = output.tokens[i].id;
    segment_values[i] = tag_of(output.tokens[i]);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", Napi::Number::New(env, static_cast<double>(output.request_id)));
  object.Set("ids", ids);
  object.Set("segments", segments);
  if (!output.logprobs.empty()) object.Set("logprobs", logprobs_to_js(env, output.logprobs));
  if (output.finished) object.Set("finished", finished_to_js(env, output));
  return object;
}

Napi::Object stats_to_js(Napi::Env env, const EngineStats& stats) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, int64_t value) {
    object.Set(name, Napi::Number::New(env, static_cast<double>(value)));
  };
  set("running", stats.running);
  set("waiting", stats.waiting);
  set("totalBlocks", stats.total_blocks);
  set("freeBlocks", stats.free_blocks);
  set("cachedBlocks", stats.cached_blocks);
  set("blockBytes", stats.block_bytes);
  set("weightBytes", stats.weight_bytes);
  set("steps", stats.steps);
  set("promptTokens", stats.prompt_tokens);
  set("cachedTokens", stats.cached_tokens);
  set("generatedTokens", stats.generated_tokens);
  set("draftTokens", stats.draft_tokens);
  set("acceptedTokens", stats.accepted_tokens);
  Napi::Float64Array counts = Napi::Float64Array::New(env, stats.expert_counts.size());
  for (size_t i = 0; i < stats.expert_counts.size(); ++i) counts[i] = static_cast<double>(stats.expert_counts[i]);
  object.Set("expertCounts", counts);
  return object;
}

Napi::Object weight_cache_to_js(Napi::Env env, const WeightCacheUse& use) {
  const auto state = [&] {
    switch (use.state) {
      case WeightCacheUse::State::kOff:
        return "off";
      case WeightCacheUse::State::kMapped:
        return "mapped";
      case WeightCacheUse::State::kWritten:
        return "written";
      case WeightCacheUse::State::kFailed:
        return "failed";
    }
    return "off";
  };
  Napi::Object object = Napi::Object::New(env);
  object.Set("state", state());
  object.Set("path", use.path);
  object.Set("problem", use.problem);
  return object;
}

}  // namespace qwen3::node
