// Speculation changes nothing but the number of steps. Scripted texts that repeat themselves, with noise, tags, ends
// and stop strings strewn in; the text depends on every token of the cache, so that one rejected key or value that is
// ever read or shared shows. Whatever a request asks for, it says with drafts what it says without: tokens, segments,
// log-probabilities bit for bit, and why it ended. 300 random schedules, 5,000 in the long suite.

#include <algorithm>
#include <string_view>

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr int32_t kVocab = 128;

std::vector<int32_t> ids(std::string_view text) {
  return {text.begin(), text.end()};
}
std::string text_of(const std::vector<int32_t>& tokens) {
  return {tokens.begin(), tokens.end()};
}

uint64_t hash_of(const std::vector<int32_t>& tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
  return hash ^ (hash >> 31);
}

// A character is a token, as in segment_machine_test (< > think tags, [ ] tool tags, $ end, _ newline). Most tokens are
// what stood some places before; the others come from the hash of everything before them.
int32_t rambling(const std::vector<int32_t>& tokens) {
  const uint64_t hash = hash_of(tokens);
  const size_t period = 3 + static_cast<size_t>(tokens[0]) % 9;
  if (hash % 9 != 0 && tokens.size() >= period) return tokens[tokens.size() - period];
  constexpr std::string_view kNoise = "abcdefghij_. <>[]$";
  return kNoise[static_cast<size_t>(hash >> 8) % kNoise.size()];
}

// Two likely tokens, so that sampling chooses; the others are possible too.
void two_favourites(const std::vector<int32_t>& tokens, float* row) {
  const uint64_t hash = hash_of(tokens);
  for (int32_t i = 0; i < kVocab; ++i) row[i] = row[i] > 0 ? 8 : 0.01f * static_cast<float>(i);
  row['a' + static_cast<int32_t>((hash >> 40) % 12)] += 6.5f;
}

struct World {
  std::shared_ptr<ScriptedBackend> backend = std::make_shared<ScriptedBackend>();
  std::shared_ptr<const Model> model;
  EngineOptions options;
  World() {
    ModelConfig config = tiny_config();
    config.vocab = kVocab, config.native_window = 4096;
    model = make_tiny_model(config, 1, *backend);
    backend->script.next = [](const std::vector<int32_t>& tokens, int32_t) { return rambling(tokens); };
    backend->script.after_row = [](int64_t, const std::vector<int32_t>& tokens, float* row) {
      two_favourites(tokens, row);
    };
    options.context_length = 256;
    options.kv_cache_bytes = 16 * kBlockSize * 4;
    options.poison_blocks = true;
    options.token_offsets.push_back(0);
    for (int c = 0; c < kVocab; ++c) {
      if (std::string_view("<>[]$").find(static_cast<char>(c)) == std::string_view::npos) {
        options.token_bytes += c == '_' ? '\n' : static_cast<char>(c);
      }
      options.token_offsets.push_back(static_cast<uint32_t>(options.token_bytes.size()));
    }
  }
  // The request alone, a step a token, nothing shared.
  Collected plainly(Request r) const {
    EngineOptions plain = options;
    plain.prefix_cache = false;
    r.speculation = {};
    Driver driver(model, backend, plain);
    driver.submit(0, std::move(r));
    driver.run();
    driver.check_idle();
    CHECK(driver.results[0].last.usage.draft_tokens == 0);
    return driver.results[0];
  }
};

Speculation random_speculation(Random& random) {
  Speculation s;
  s.max_draft = static_cast<int32_t>(random.between(1, 40));
  s.min_ngram = static_cast<int32_t>(random.between(1, 3));
  s.max_ngram = static_cast<int32_t>(random.between(s.min_ngram, 8));
  return s;
}

SegmentPlan random_segments(Random& random) {
  SegmentPlan s;
  s.can_think = true;
  s.starts_in_think = random.between(0, 1);
  s.think_open = '<', s.think_close = '>', s.tool_open = '[', s.tool_close = ']';
  if (random.between(0, 2)) s.wrap_up = ids("so. >_");
  if (random.between(0, 1)) s.budget = random.between(0, 60);
  if (random.between(0, 2) == 0) s.answer_reserve = random.between(0, 40);
  s.loop_breaker = random.between(0, 3) > 0;
  s.soft_landing = random.between(0, 3) > 0;
  return s;
}

Request random_request(Random& random) {
  Request r;
  r.prompt = ids("abcdefghijkl_abc. [x]$<y>");
  r.prompt.resize(static_cast<size_t>(random.between(1, static_cast<int64_t>(r.prompt.size()))));
  for (int64_t n = random.between(0, 90); n > 0; --n) r.prompt.push_back(rambling(r.prompt));
  r.prompt[0] = static_cast<int32_t>(random.between(97, 105));
  r.max_tokens = random.between(0, 4) ? random.between(1, 120) : -1;
  r.eos = {'$', '%'};
  r.ignore_eos = random.between(0, 2) == 0;
  if (random.between(0, 3)) r.segments = random_segments(random);
  if (random.between(0, 2) == 0) r.stop = {"cab", "a\n", "defdefdef"};
  SamplingParams& s = r.sampling;
  s.seed = random.word();
  s.choice = static_cast<int32_t>(random.between(0, 2));
  s.temperature = random.between(0, 2) ? random.uniform(0.3f, 1.3f) : 0;
  if (random.between(0, 1)) s.top_k = static_cast<int32_t>(random.between(1, 20));
  if (random.between(0, 1)) s.top_p = random.uniform(0.5f, 1);
  if (random.between(0, 3) == 0) s.min_p = 0.05f;
  if (random.between(0, 3) == 0) s.presence_penalty = random.uniform(-0.5f, 1);
  if (random.between(0, 3) == 0) s.frequency_penalty = random.uniform(-0.2f, 0.4f);
  if (random.between(0, 3) == 0) s.repetition_penalty = random.uniform(0.9f, 1.3f);
  if (random.between(0, 3) == 0) s.logit_bias = {{'$', -3.0f}, {'a', 1.0f}, {'>', 2.0f}};
  s.top_logprobs = static_cast<int32_t>(random.between(0, 4));
  return r;
}

struct Totals {
  int64_t requests = 0, steps = 0, drafts = 0, accepted = 0, tokens = 0, preemptions = 0, cached = 0, cut = 0,
          tool_tokens = 0, stopped = 0, ended = 0;
};

void count(const Collected& got, Totals& totals) {
  const Usage& u = got.last.usage;
  CHECK(u.accepted_tokens <= u.draft_tokens);
  CHECK(u.accepted_tokens <= got.completion_tokens() - u.forced_tokens);
  CHECK(got.completion_tokens() == static_cast<int64_t>(got.ids.size()));
  ++totals.requests;
  totals.drafts += u.draft_tokens;
  totals.accepted += u.accepted_tokens;
  totals.tokens += got.completion_tokens();
  totals.cached += u.cached_tokens;
  totals.tool_tokens += u.tool_call_tokens;
  totals.cut += u.forced_tokens > 0;
  totals.stopped += got.last.stop_index >= 0;
  totals.ended += got.last.finish_reason == FinishReason::kStop && got.last.stop_index < 0;
}

// Many requests in one engine, some with drafts and some without, on a pool that may be too small, in steps whose
// times, by which drafts are chosen, are random.
void schedule(Random& random, Totals& totals) {
  World world;
  EngineOptions options = world.options;
  options.prefill_chunk = static_cast<int32_t>(random.between(0, 1) ? random.between(1, 60) : 512);
  options.max_sequences = static_cast<int32_t>(random.between(1, 8));
  options.prefix_cache = random.between(0, 3) > 0;
  options.kv_cache_bytes = random.between(4, 20) * kBlockSize * 4;
  std::vector<Request> requests;
  std::vector<Collected> plain;
  for (int64_t n = random.between(1, 5); n > 0; --n) {
    requests.push_back(random_request(random));
    plain.push_back(world.plainly(requests.back()));
    CHECK(plain.back().last.finish_reason != FinishReason::kError);
  }
  Driver driver(world.model, world.backend, options);
  const float row_ms = random.between(0, 1) ? 0 : random.uniform(0, 3);
  world.backend->script.before_run = [&](const StepBatch& batch) {
    driver.clock += 5 + row_ms * static_cast<double>(batch.tokens.size()) * random.uniform(0.5f, 1.5f);
  };
  std::map<int64_t, size_t> asked;
  const int64_t n = random.between(1, 10), haste = random.between(0, 6);
  for (int64_t id = 0; id < n || !driver.loop.idle();) {
    if (id < n && (driver.loop.idle() || random.between(0, haste) == 0)) {
      asked[id] = static_cast<size_t>(random.between(0, static_cast<int64_t>(requests.size()) - 1));
      Request r = requests[asked[id]];
      if (random.between(0, 3)) r.speculation = random_speculation(random);
      driver.submit(id++, std::move(r));
      continue;
    }
    driver.step();
    driver.loop.pool().check();
    ++totals.steps;
    if (id > 0 && random.between(0, 80) == 0) driver.loop.cancel(random.between(0, id - 1));
  }
  driver.gather();
  driver.check_idle();
  for (const auto& [id, which] : asked) {
    const Collected& got = driver.results[id];
    CHECK(got.finished);
    const std::string differs = difference(got, plain[which]);
    CHECK_MSG(differs.empty(), differs + ": " + text_of(got.ids) + ", not " + text_of(plain[which].ids) + " after " +
                                   text_of(requests[which].prompt) + " " + got.last.error_message);
    if (got.last.finish_reason != FinishReason::kAborted) {
      const Usage &a = got.last.usage, &b = plain[which].last.usage;
      CHECK(a.thinking_tokens == b.thinking_tokens && a.answer_tokens == b.answer_tokens);
      CHECK(a.tool_call_tokens == b.tool_call_tokens && a.forced_tokens == b.forced_tokens);
    }
    count(got, totals);
  }
  const EngineStats stats = driver.loop.stats();
  CHECK(stats.accepted_tokens <= stats.draft_tokens && stats.draft_tokens <= world.backend->script.rows);
  totals.preemptions += driver.loop.scheduler().preemptions();
}

// Between two steps a sequence is always in a state that it also has without drafts: what comes from outside there - a
// deadline that passes, an end of thinking, another budget, a cancel - does the same to both.
void outside_events(Random& random, Totals& totals) {
  World world;
  Request r = random_request(random);
  r.segments = random_segments(random);
  r.segments.starts_in_think = true;
  r.segments.budget = -1;
  r.segments.deadline_ms = 1000000;
  r.stop.clear();  // held-back tokens would hide how far a sequence is
  const int64_t kind = random.between(0, 3), budget = random.between(0, 30);
  const auto interfere = [&](Driver& driver) {
    if (kind == 0) driver.loop.end_thinking(1);
    if (kind == 1) driver.loop.set_thinking_budget(1, budget);
    if (kind == 2) driver.clock += 2000000;
    if (kind == 3) driver.loop.cancel(1);
    driver.gather();
  };
  Request drafting = r;
  drafting.speculation = random_speculation(random);
  Driver fast(world.model, world.backend, world.options);
  fast.submit(1, drafting);
  for (int64_t n = random.between(1, 15); n > 0; --n) fast.step();
  const size_t reached = fast.results[1].ids.size();
  if (fast.results[1].finished) return;
  interfere(fast);
  fast.run();
  fast.check_idle();

  Driver slow(world.model, world.backend, world.options);
  slow.submit(1, r);
  while (slow.results[1].ids.size() < reached) slow.step();
  CHECK(slow.results[1].ids.size() == reached && !slow.results[1].finished);
  interfere(slow);
  slow.run();
  const std::string differs = difference(fast.results[1], slow.results[1]);
  CHECK_MSG(differs.empty() && fast.results[1].ids.size() == slow.results[1].ids.size(),
            differs + ", event " + std::to_string(kind) + " after " + std::to_string(reached));
  count(fast.results[1], totals);
}

// A model that says `reply` after the prompt, whatever it is.
World reciting(std::string reply) {
  World world;
  world.backend->script.after_row = nullptr;
  world.backend->script.next = [reply](const std::vector<int32_t>& tokens, int32_t) -> int32_t {
    const std::string said = text_of(tokens);
    const size_t from = said.find('?') + 1;
    size_t wrong = 0;  // a draft that went astray
    while (wrong < said.size() - from && wrong < reply.size() && said[from + wrong] == reply[wrong]) ++wrong;
    return wrong == said.size() - from && wrong < reply.size() ? reply[wrong] : '!';
  };
  return world;
}

Request copying(std::string prompt, int32_t max_draft) {
  Request r;
  r.prompt = ids(prompt);
  r.max_tokens = 60;
  r.eos = {'$'};
  r.sampling.temperature = 0;
  r.sampling.top_logprobs = 1;
  r.speculation.max_draft = max_draft;
  return r;
}

// The steps of a copied text, and that an end inside a draft is one: nothing after it is said, and the cache afterwards
// holds exactly what it holds without drafts.
void end_inside_a_draft() {
  const std::string text = "the quick brown fox$ jumps over the lazy dog";
  World world = reciting("the quick brown fox$");
  for (const int32_t max_draft : {0, 8}) {
    world.backend->script.runs = world.backend->script.max_rows = 0;
    Driver driver(world.model, world.backend, world.options);
    driver.submit(1, copying(text + "?", max_draft));
    driver.run();
    const Collected& got = driver.results[1];
    CHECK(text_of(got.ids) == "the quick brown fox$" && got.last.finish_reason == FinishReason::kStop);
    if (max_draft == 0) {
      CHECK(world.backend->script.runs == 20);
    } else {
      const Usage& u = got.last.usage;
      // A step gives one token and those accepted; the last one ended with an accepted one.
      CHECK(world.backend->script.runs < 10 && u.accepted_tokens == 21 - world.backend->script.runs);
      CHECK(u.draft_tokens >= u.accepted_tokens && world.backend->script.max_rows <= 45 + 8);
    }
    driver.submit(2, copying(text + "?the quick brown fox$ and", 0));
    driver.run();
    CHECK(driver.results[2].last.usage.cached_tokens == 45 + 19);
    driver.check_idle();
  }
}

// Rows after a wrong guess are never looked at: they may hold anything.
void rejected_rows_are_not_read() {
  World world = reciting("abcdefabcxyzabcdefabcuvw$");
  world.backend->script.after_row = [](int64_t, const std::vector<int32_t>& tokens, float* row) {
    if (row['!'] > 0 && tokens.back() != '$') row[3] = std::nanf("");
  };
  Request r = copying("?", 8);
  r.speculation.min_ngram = 1;
  Driver driver(world.model, world.backend, world.options);
  driver.submit(1, r);
  driver.run();
  const Collected& got = driver.results[1];
  CHECK(got.last.finish_reason == FinishReason::kStop && text_of(got.ids) == "abcdefabcxyzabcdefabcuvw$");
  CHECK(got.last.usage.accepted_tokens > 0 && got.last.usage.accepted_tokens < got.last.usage.draft_tokens);

  World broken = reciting("abcdefabcdefabcdef$");  // a row that does count
  broken.backend->script.after_row = [](int64_t, const std::vector<int32_t>& tokens, float* row) {
    if (tokens.size() == 13) row[3] = std::nanf("");
  };
  Driver failing(broken.model, broken.backend, broken.options);
  failing.submit(1, r);
  failing.run();
  CHECK(failing.results[1].last.error_code == "INTERNAL");
  CHECK(text_of(failing.results[1].ids) == "abcdefabcdef");
  failing.check_idle();
}

// Drafts keep to their limit, to the end of the request and to the rows that prefill leaves.
void limits() {
  std::string reply;
  while (reply.size() < 200) reply += "abcdefgh";
  for (const int32_t max_draft : {1, 3, 64}) {
    for (const int64_t max_tokens : {1, 2, 17, 60}) {
      World world = reciting(reply);
      Request r = copying("abcdefgh?", max_draft);
      r.max_tokens = max_tokens;
      Driver driver(world.model, world.backend, world.options);
      driver.submit(1, r);
      driver.step();
      world.backend->script.max_rows = 0;
      driver.run();
      CHECK(text_of(driver.results[1].ids) == reply.substr(0, static_cast<size_t>(max_tokens)));
      CHECK(world.backend->script.max_rows <= std::min<int64_t>(1 + max_draft, max_tokens - 1));
      CHECK(driver.results[1].last.finish_reason == FinishReason::kLength);
    }
  }
  for (const int64_t max_tokens : {1, 2, 3}) {  // the last token needs no row after it
    World world;
    Request r = copying("abcabc", 64);
    r.max_tokens = max_tokens;
    Driver driver(world.model, world.backend, world.options);
    driver.submit(1, r);
    driver.step();
    CHECK(driver.results[1].last.usage.draft_tokens <= max_tokens - 1);
    CHECK(driver.loop.stats().draft_tokens == max_tokens - 1);
  }
  World world = reciting(reply);
  EngineOptions options = world.options;
  options.prefill_chunk = 4, options.max_sequences = 2;  // compiled for 6 rows: more would throw
  Driver driver(world.model, world.backend, options);
  for (int64_t id = 0; id < 2; ++id) driver.submit(id, copying("abcdefgh?", 64));
  driver.run();
  CHECK(world.backend->script.max_rows == 6);
  for (int64_t id = 0; id < 2; ++id) CHECK(text_of(driver.results[id].ids) == reply.substr(0, 60));
}

// Only where it pays: rows that cost their full share, or guesses that are wrong, are soon left out. `period` 0: every
// token is one of twelve at random. The time that the steps take with drafts, as a part of the time without.
double relative_time(double step_ms, double row_ms, size_t period) {
  double times[2];
  for (const int32_t max_draft : {0, 16}) {
    World world;
    world.options.context_length = 1024;
    world.backend->script.after_row = nullptr;
    world.backend->script.next = [period](const std::vector<int32_t>& tokens, int32_t) -> int32_t {
      if (period > 0 && tokens.size() > period) return tokens[tokens.size() - period];
      return static_cast<int32_t>('a' + hash_of(tokens) % 12);
    };
    Request r = copying("abcab", max_draft);
    r.max_tokens = 900;
    Driver driver(world.model, world.backend, world.options);
    double& time = times[max_draft > 0] = 0;
    world.backend->script.before_run = [&](const StepBatch& batch) {
      const double ms = step_ms + row_ms * static_cast<double>(batch.tokens.size());
      time += ms;
      driver.clock += ms;
    };
    driver.submit(1, r);
    driver.run();
    CHECK(driver.results[1].ids.size() == 900);
  }
  return times[1] / times[0];
}

void drafts_pay() {
  CHECK(relative_time(10, 0, 20) < 0.12);
  CHECK(relative_time(10, 1, 20) < 0.3);
  // Right guesses cannot pay here, and wrong ones nowhere.
  for (const double step_ms : {10.0, 1.0, 0.0}) {
    CHECK_MSG(relative_time(step_ms, 10, 20) < 1.05, std::to_string(relative_time(step_ms, 10, 20)));
  }
  for (const double row_ms : {0.1, 0.5, 1.0, 3.0, 10.0, 30.0}) {
    const double ratio = relative_time(10, row_ms, 0);
    CHECK_MSG(ratio < (row_ms < 5 ? 1.02 : 1.05), std::to_string(row_ms) + " ms a row: " + std::to_string(ratio));
  }
}

// A sequence keeps within the unscaled window: the token after it is chosen from scaled keys, as without drafts.
void stays_within_the_window() {
  World world;
  ModelConfig config = tiny_config();
  config.vocab = kVocab, config.native_window = 96;
  world.model = make_tiny_model(config, 1, *world.backend);
  YarnConfig yarn;
  yarn.factor = 4, yarn.original_max_position_embeddings = 96;
  world.options.yarn = yarn;
  world.backend->script.after_row = nullptr;
  world.backend->script.next = [](const std::vector<int32_t>& tokens, int32_t table) -> int32_t {
    return static_cast<int32_t>((table ? 'A' : 'a') + tokens.size() % 7);
  };
  world.backend->script.before_run = [](const StepBatch& batch) {
    for (const StepSequence& s : batch.sequences) CHECK(s.rope_table == 1 || s.position_begin + s.n_rows <= 96);
  };
  for (const int32_t max_draft : {5, 11, 24, 64}) {
    Request r = copying("abcdefgabcdefg", max_draft);
    r.max_tokens = 150;
    const Collected plain = world.plainly(r);
    Driver driver(world.model, world.backend, world.options);
    driver.submit(1, r);
    driver.run();
    CHECK(difference(driver.results[1], plain).empty());
    CHECK(driver.results[1].ids == plain.ids && driver.results[1].last.usage.accepted_tokens > 100);
    CHECK(driver.results[1].last.usage.rescale_ms > 0);
  }
}

// The last block is for whoever needs it for a token: a draft that would reach into it is cut, and nobody is pushed
// out.
void takes_no_block_from_others() {
  World world;
  world.backend->script.after_row = nullptr;
  world.backend->script.next = [](const std::vector<int32_t>& tokens, int32_t) -> int32_t {
    if (tokens[0] == 'B') return static_cast<int32_t>('a' + hash_of(tokens) % 20);
    // Never what followed the same tokens before.
    return tokens.size() >= 58 && tokens.size() < 62 ? "yxx$"[tokens.size() - 58] : '!';
  };
  world.options.kv_cache_bytes = 3 * kBlockSize * 4;
  Driver driver(world.model, world.backend, world.options);
  std::string text = "A_";
  while (text.size() < 58) text += "xy";
  Request a = copying(text, 16);
  a.speculation.min_ngram = 1;
  driver.submit(1, a);
  driver.submit(2, copying("B" + std::string(62, '.'), 0));
  driver.run();
  CHECK(text_of(driver.results[1].ids) == "yxx$" && driver.results[2].ids.size() == 60);
  CHECK(driver.results[1].last.usage.draft_tokens >= 6 && driver.results[1].last.usage.accepted_tokens == 0);
  CHECK(driver.loop.scheduler().preemptions() == 0);
  driver.check_idle();
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const int schedules = whole_suite(argc, argv) ? 5000 : 300;
  Totals totals;
  for (int i = 0; i < schedules; ++i) {
    Random own(seed(), static_cast<uint64_t>(i) + 1);
    schedule(own, totals);
    outside_events(own, totals);
  }
  std::printf(
      "%d schedules, %lld requests, %lld steps, %lld tokens, %lld of %lld draft tokens accepted, %lld preemptions, "
      "%lld "
      "cached tokens, %lld cut thoughts, %lld tool tokens, %lld stop strings, %lld ends\n",
      schedules, static_cast<long long>(totals.requests), static_cast<long long>(totals.steps),
      static_cast<long long>(totals.tokens), static_cast<long long>(totals.accepted),
      static_cast<long long>(totals.drafts), static_cast<long long>(totals.preemptions),
      static_cast<long long>(totals.cached), static_cast<long long>(totals.cut),
      static_cast<long long>(totals.tool_tokens), static_cast<long long>(totals.stopped),
      static_cast<long long>(totals.ended));
  // A run that exercises nothing proves nothing.
  CHECK(totals.accepted > 0 && totals.accepted < totals.drafts && totals.preemptions > 0 && totals.cached > 0);
  CHECK(totals.cut > 0 && totals.tool_tokens > 0 && totals.stopped > 0 && totals.ended > 0);
  end_inside_a_draft();
  rejected_rows_are_not_read();
  limits();
  drafts_pay();
  stays_within_the_window();
  takes_no_block_from_others();
  return run.finish();
}
