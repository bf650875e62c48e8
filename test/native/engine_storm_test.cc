// Storms of scripted requests on small pools: preemptions, cancels, chunks, cache hits, wrap-ups in mid-stream. The
// text of a request is a hash of everything before it, so that one wrong token anywhere in its cache shows in its
// output, and two namespaces hold equal prompts whose texts differ by a canary.

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int32_t kVocab = 200, kThinkOpen = 1, kThinkClose = 2;

struct World {
  std::shared_ptr<ScriptedBackend> backend = std::make_shared<ScriptedBackend>();
  std::shared_ptr<const Model> model;
  World() {
    ModelConfig config = tiny_config();
    config.vocab = kVocab, config.native_window = 8192;
    model = make_tiny_model(config, 1, *backend);
    backend->script.next = [](const std::vector<int32_t>& tokens, int32_t table) {
      return hashed_next(tokens, table, kVocab);
    };
  }
};

// What a request must say, from the script alone. Wrap-up and stop rules as in the machine: only budget 4 in a prompt
// that opens thinking is used here.
std::vector<int32_t> expected(const Request& r, int64_t context) {
  std::vector<int32_t> tokens = r.prompt, out;
  const int64_t room = context - static_cast<int64_t>(r.prompt.size());
  const int64_t limit = r.max_tokens < 0 ? room : std::min(room, r.max_tokens);
  const TokenTable table;
  SegmentMachine machine(r.segments, table);
  const auto say = [&](int32_t id) {
    tokens.push_back(id);
    out.push_back(id);
  };
  const auto force = [&](SegmentMachine::Close close) {
    for (const int32_t id : machine.forced(close)) say(id);
  };
  force(machine.begin(limit));
  while (static_cast<int64_t>(out.size()) < limit) {
    int32_t id = hashed_next(tokens, 0, kVocab);
    // Banned ids: the script's row is flat but for its favourite, so the next best is the lowest id that is allowed.
    const auto banned = [&](int32_t t) {
      return (machine.bans_think_open() && t == r.segments.think_open) ||
             (machine.bans_empty_answer() && t == r.segments.think_close);
    };
    if (banned(id)) {
      id = 0;
      while (banned(id)) ++id;
    }
    say(id);
    const auto verdict = machine.push(id, false, 0, limit - static_cast<int64_t>(out.size()));
    force(verdict.close);
  }
  return out;
}

Request random_request(Random& random, const std::vector<int32_t>& common, int64_t context) {
  Request r;
  const int64_t shared = random.between(0, std::min<int64_t>(context - 60, static_cast<int64_t>(common.size())));
  r.prompt.assign(common.begin(), common.begin() + shared);
  const std::vector<int32_t> own = random.tokens(random.between(1, 40), kVocab);
  r.prompt.insert(r.prompt.end(), own.begin(), own.end());
  r.max_tokens = random.between(-1, 60);
  if (r.max_tokens == 0) r.max_tokens = 1;
  r.sampling.temperature = 0;
  r.segments.can_think = r.segments.starts_in_think = random.between(0, 1);
  r.segments.think_open = kThinkOpen, r.segments.think_close = kThinkClose;
  r.segments.wrap_up = {9, 8, 7, 6, kThinkClose, 5};
  r.segments.budget = random.between(-1, 30);
  return r;
}

void storm(Random& random, int64_t& preemptions) {
  World world;
  EngineOptions options;
  const int64_t blocks = random.between(2, 12);
  options.context_length = std::min<int64_t>(256, blocks * 64);
  options.kv_cache_bytes = blocks * kBlockSize * 4;
  options.max_sequences = static_cast<int32_t>(random.between(1, 10));
  options.prefill_chunk = static_cast<int32_t>(random.between(1, 100));
  options.poison_blocks = true;
  Driver driver(world.model, world.backend, options);
  const std::vector<int32_t> common = random.tokens(256, kVocab);
  std::map<int64_t, Request> asked;
  const int64_t n = random.between(2, 25);
  int64_t id = 0;
  while (id < n || !driver.loop.idle()) {
    if (id < n && random.between(0, 3) == 0) {
      asked[id] = random_request(random, common, options.context_length);
      driver.submit(id, asked[id]);
      ++id;
    }
    driver.step();
    driver.loop.pool().check();
    if (id > 0 && random.between(0, 40) == 0) driver.loop.cancel(random.between(0, id - 1));
  }
  driver.gather();
  driver.check_idle();
  for (const auto& [which, request] : asked) {
    const Collected& got = driver.results[which];
    std::vector<int32_t> want = expected(request, options.context_length);
    CHECK(got.finished && got.last.finish_reason != FinishReason::kError);
    if (got.last.finish_reason == FinishReason::kAborted) {
      CHECK(got.ids.size() <= want.size());
      want.resize(std::min(got.ids.size(), want.size()));
    }
    std::string difference;
    for (size_t i = 0; i < std::min(got.ids.size(), want.size()) && difference.empty(); ++i) {
      if (got.ids[i] == want[i]) continue;
      difference = " at " + std::to_string(i) + ": " + std::to_string(got.ids[i]) + ", not " + std::to_string(want[i]);
    }
    CHECK_MSG(got.ids == want, "request " + std::to_string(which) + ", " + std::to_string(got.ids.size()) + " of " +
                                   std::to_string(want.size()) + " tokens" + difference + ", " +
                                   got.last.error_message);
  }
  preemptions += driver.loop.scheduler().preemptions();
}

// Two tenants ask the same; each model text carries its tenant's canary. No canary crosses, no block is shared.
void namespaces_stay_apart(Random& random) {
  World world;
  world.backend->script.next = [](const std::vector<int32_t>& tokens, int32_t) {
    return tokens.size() % 7 == 0 ? tokens[1] : 50 + static_cast<int32_t>(tokens.size() % 20);
  };
  EngineOptions options;
  options.context_length = 512;
  options.kv_cache_bytes = 24 * kBlockSize * 4;
  options.poison_blocks = true;
  Driver driver(world.model, world.backend, options);
  const std::vector<int32_t> common = random.tokens(150, 100);
  for (int64_t id = 0; id < 60; ++id) {
    Request r;
    r.prompt = common;
    r.prompt[1] = 150;  // the same tokens in both
    r.cache_namespace = static_cast<uint64_t>(id % 2);
    r.max_tokens = random.between(1, 30);
    r.sampling.temperature = 0;
    if (id >= 2) r.prompt.resize(static_cast<size_t>(random.between(100, 150)));
    driver.submit(id, r);
    driver.run();
    // The first of each tenant finds nothing, although the other's blocks hold the same tokens.
    CHECK(id >= 2 ? driver.results[id].last.usage.cached_tokens > 0 : driver.results[id].last.usage.cached_tokens == 0);
  }
  driver.check_idle();
}

// Turn two of a chat: exactly the new tokens are prefilled, though the prefix ends inside a block.
void turn_two(Random& random) {
  World world;
  EngineOptions options;
  options.context_length = 512;
  options.kv_cache_bytes = 24 * kBlockSize * 4;
  Driver driver(world.model, world.backend, options);
  std::vector<int32_t> history;
  for (int64_t turn = 0; turn < 8; ++turn) {
    const std::vector<int32_t> user = random.tokens(random.between(1, 30), kVocab);
    Request r;
    r.prompt = history;
    r.prompt.insert(r.prompt.end(), user.begin(), user.end());
    r.max_tokens = 20;
    r.sampling.temperature = 0;
    const int64_t rows = world.backend->script.rows;
    driver.submit(turn, r);
    driver.run();
    const Collected& got = driver.results[turn];
    // The last token of an answer was sampled but never run.
    const int64_t known = history.empty() ? 0 : static_cast<int64_t>(history.size()) - 1;
    CHECK(got.last.usage.cached_tokens == known);
    CHECK(world.backend->script.rows - rows == static_cast<int64_t>(r.prompt.size()) - known + 19);
    history = r.prompt;
    history.insert(history.end(), got.ids.begin(), got.ids.end());
  }
  driver.check_idle();
}

// A long prompt does not hold up a short one, and decoding goes on through both.
void prefill_is_fair() {
  World world;
  EngineOptions options;
  options.context_length = 4096;
  options.kv_cache_bytes = 200 * kBlockSize * 4;
  options.prefill_chunk = 64;
  Driver driver(world.model, world.backend, options);
  Request r;
  r.sampling.temperature = 0;
  r.prompt.assign(10, 3), r.max_tokens = 200;
  driver.submit(0, r);
  driver.step();
  r.prompt.assign(3000, 4), r.max_tokens = 5;
  driver.submit(1, r);
  driver.step();
  const size_t decoded = driver.results[0].ids.size();
  r.prompt.assign(60, 5);
  driver.submit(2, r);
  int64_t steps = 0;
  while (driver.results[2].ids.empty()) {
    driver.step();
    ++steps;
  }
  CHECK(steps <= 2 && driver.results[1].ids.empty());
  CHECK(driver.results[0].ids.size() == decoded + static_cast<size_t>(steps));
  CHECK(world.backend->script.max_rows <= 64 + 64);
  driver.run();
}

// A prompt alone takes as many rows of a step as the backend says, beside a sequence that decodes no more than the
// option says.
void prefill_gives_way() {
  World world;
  world.backend->rows_of_prefill = 1000;
  EngineOptions options;
  options.context_length = 8192;
  options.kv_cache_bytes = 400 * kBlockSize * 4;
  options.prefill_beside = 90;
  Driver driver(world.model, world.backend, options);
  std::vector<size_t> rows;
  world.backend->script.before_run = [&](const StepBatch& batch) { rows.push_back(batch.tokens.size()); };
  Request r;
  r.sampling.temperature = 0;
  r.prompt.assign(2500, 3), r.max_tokens = 30;
  driver.submit(0, r);
  for (int i = 0; i < 4; ++i) driver.step();
  CHECK((rows == std::vector<size_t>{1000, 1000, 500, 1}));
  r.prompt.assign(200, 4), r.max_tokens = 2;
  driver.submit(1, r);
  for (int i = 0; i < 4; ++i) driver.step();
  CHECK((rows == std::vector<size_t>{1000, 1000, 500, 1, 91, 91, 21, 2}));
  driver.run();
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const int storms = whole_suite(argc, argv) ? 10000 : 150;
  Random random(seed());
  int64_t preemptions = 0;
  for (int i = 0; i < storms; ++i) {
    Random own(seed(), static_cast<uint64_t>(i) + 1);
    storm(own, preemptions);
  }
  std::printf("%d storms, %lld preemptions\n", storms, static_cast<long long>(preemptions));
  CHECK(preemptions > 0);
  namespaces_stay_apart(random);
  turn_two(random);
  prefill_is_fair();
  prefill_gives_way();
  return run.finish();
}
