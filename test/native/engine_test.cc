// The threaded engine on a tiny random model: requests of every kind, bad input, cancels, closing, failures.

#include "engine_harness.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

struct Setup {
  std::shared_ptr<Backend> backend = create_reference_backend();
  std::shared_ptr<const Model> model = make_tiny_model(tiny_config(), 5, *backend);
};

Request request(std::vector<int32_t> prompt, int64_t max_tokens) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.seed = 7;
  return r;
}

// The tokens that the model alone gives: no engine, no cache reuse, the whole sequence anew for every token.
std::vector<int32_t> generate_plainly(const Setup& setup, const Request& r) {
  const auto program = setup.model->program({});
  std::vector<int32_t> tokens = r.prompt, out;
  Sampler sampler(program->vocab);
  const TokenCounts counts(r.sampling, r.prompt);
  for (int64_t i = 0; i < r.max_tokens; ++i) {
    const auto cache = setup.backend->create_kv_cache(*program, DType::kF32, 8);
    const auto executable = setup.backend->compile(program, setup.model->weights(), 512, 512);
    std::vector<float> logits = run_sequence(*executable, *program, *cache, tokens);
    float* const row = logits.data() + (tokens.size() - 1) * static_cast<size_t>(program->vocab);
    out.push_back(sampler.sample(row, r.sampling, counts, {}, tokens.size(), nullptr));
    tokens.push_back(out.back());
  }
  return out;
}

void generates(const Setup& setup, Random& random) {
  Inbox inbox;
  EngineOptions options = tiny_options(*setup.model, *setup.backend, 256, 32);
  options.prefill_chunk = 16;
  const auto engine = Engine::create(setup.model, setup.backend, options, inbox.sink());
  std::vector<Request> requests;
  for (int64_t id = 0; id < 6; ++id) {
    requests.push_back(request(random.tokens(random.between(1, 90), 160), 12));
    engine->submit(id, requests.back());
  }
  for (int64_t id = 0; id < 6; ++id) {
    const Collected got = inbox.wait(id);
    CHECK(got.ids == generate_plainly(setup, requests[static_cast<size_t>(id)]));
    CHECK(got.last.finish_reason == FinishReason::kLength);
    CHECK(got.last.usage.prompt_tokens == static_cast<int64_t>(requests[static_cast<size_t>(id)].prompt.size()));
    CHECK(got.completion_tokens() == 12 && got.last.usage.answer_tokens == 12);
    CHECK(got.last.usage.queue_ms >= 0 && got.last.usage.prefill_ms > 0 && got.last.usage.decode_ms > 0);
  }
  const EngineStats stats = engine->stats();
  CHECK(stats.generated_tokens == 72 && stats.running == 0 && stats.waiting == 0);
  CHECK(stats.free_blocks + stats.cached_blocks == stats.total_blocks);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  const Setup setup;
  generates(setup, random);
  return run.finish();
}
