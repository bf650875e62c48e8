// Thinking, stop strings and endings through the step loop, on scripted text: a character is a token, as in
// segment_machine_test (< > think tags, [ ] tool tags, $ end, _ newline).

#include <string_view>

#include "engine_harness.h"
#include "scripted_backend.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

constexpr std::string_view kWrapUp = "WX>_";

std::vector<int32_t> ids(std::string_view text) {
  return {text.begin(), text.end()};
}
std::string text_of(const std::vector<int32_t>& tokens) {
  return {tokens.begin(), tokens.end()};
}

std::string segments_of(const Collected& c) {
  std::string out;
  for (size_t i = 0; i < c.ids.size(); ++i) out += c.forced[i] ? 'C' : "ptcal"[static_cast<int>(c.segments[i])];
  return out;
}

// The model says `reply` after the prompt "?"; after a wrap-up or a forced </think> it says `after`.
struct Scene {
  std::shared_ptr<ScriptedBackend> backend = std::make_shared<ScriptedBackend>();
  std::shared_ptr<const Model> model;
  std::unique_ptr<Driver> driver;

  Scene(std::string reply, std::string after, int64_t context = 512, int64_t blocks = 64) {
    ModelConfig config = tiny_config();
    config.vocab = 128, config.native_window = 4096;
    model = make_tiny_model(config, 1, *backend);
    backend->script.next = [reply, after](const std::vector<int32_t>& tokens, int32_t) -> int32_t {
      const std::string said = text_of(tokens);
      const size_t from = said.find('?') + 1;
      const size_t cut = said.rfind(">_");
      const bool forced =
          cut != std::string::npos && said.compare(from, said.size() - from, reply, 0, said.size() - from) != 0;
      const size_t at = forced ? said.size() - cut - 2 : said.size() - from;
      const std::string& source = forced ? after : reply;
      return at < source.size() ? source[at] : '.';
    };
    EngineOptions options;
    options.context_length = context;
    options.kv_cache_bytes = blocks * kBlockSize * 4;
    options.poison_blocks = true;
    options.token_offsets.push_back(0);
    for (int c = 0; c < 128; ++c) {
      if (std::string_view("<>[]$").find(static_cast<char>(c)) == std::string_view::npos) {
        options.token_bytes += c == '_' ? '\n' : static_cast<char>(c);
      }
      options.token_offsets.push_back(static_cast<uint32_t>(options.token_bytes.size()));
    }
    driver = std::make_unique<Driver>(model, backend, options);
  }
  Request request(int64_t max_tokens = 40) const {
    Request r;
    r.prompt = ids("q?");
    r.max_tokens = max_tokens;
    r.eos = {'$'};
    r.sampling.temperature = 0;
    r.segments.can_think = true;
    r.segments.think_open = '<', r.segments.think_close = '>', r.segments.tool_open = '[', r.segments.tool_close = ']';
    r.segments.wrap_up = ids(kWrapUp);
    return r;
  }
  Collected run(const Request& r) {
    driver->submit(1, r);
    driver->run();
    driver->check_idle();
    return driver->results[1];
  }
};

void budget_and_usage() {
  Scene scene("<abcdefgh>_x$", "yz$");
  Request r = scene.request();
  r.segments.budget = 3;
  const Collected got = scene.run(r);
  CHECK(text_of(got.ids) == "<abcWX>_yz$" && segments_of(got) == "ttttCCCCaaa");
  CHECK(got.last.thinking_stop == ThinkingStop::kBudget && got.last.finish_reason == FinishReason::kStop);
  const Usage& u = got.last.usage;
  CHECK(u.prompt_tokens == 2 && u.thinking_tokens == 4 && u.forced_tokens == 4 && u.answer_tokens == 3);
  // One step for the prompt, one a token; the wrap-up is one chunk with the token before it. Nothing is run twice.
  CHECK(scene.backend->script.rows == 2 + 11 - 1);
  CHECK(scene.backend->script.max_rows == 5);
}

void closes_before_the_first_token() {
  Scene scene("unused", "yz$");
  Request r = scene.request();
  r.prompt = ids("q?<");
  r.segments.starts_in_think = true;
  r.segments.budget = 0;
  const Collected got = scene.run(r);
  CHECK(text_of(got.ids) == "WX>_yz$" && segments_of(got) == "CCCCaaa");
  CHECK(scene.backend->script.runs == 3);  // prompt and wrap-up together, then y, z
}

// After a cut the answer cannot be empty and cannot think again, whatever the model prefers.
void answer_is_not_empty() {
  Scene scene("<abcdefgh>_x$", "$<");
  Request r = scene.request(16);
  r.segments.budget = 2;
  const Collected got = scene.run(r);
  CHECK(segments_of(got).substr(0, 8) == "tttCCCCa");
  CHECK(got.ids[7] != '$' && got.ids[7] != '>' && got.ids[7] != '<');
  CHECK(std::find(got.ids.begin() + 7, got.ids.end(), '<') == got.ids.end());
}

void end_inside_thinking_is_dropped() {
  Scene scene("<ab$", "yz$");
  const Collected got = scene.run(scene.request());
  CHECK(text_of(got.ids) == "<ab>_yz$" && segments_of(got) == "tttCCaaa");
  CHECK(got.last.thinking_stop == ThinkingStop::kNatural);
  CHECK(scene.backend->script.rows == 2 + 8 - 1);
}

void reserve_keeps_an_answer() {
  Scene scene("<abcdefghijklmnopqrstuvwxyz", "yz0123456789");
  const Collected got = scene.run(scene.request(24));  // automatic: 3 of 24
  CHECK(got.ids.size() == 24 && got.last.finish_reason == FinishReason::kLength);
  CHECK(got.last.thinking_stop == ThinkingStop::kReserve && got.last.usage.answer_tokens == 3);
  Scene cramped("<abcdefghijklmnopqrstuvwxyz", "yz0123456789", 30);  // by the context
  Request r = cramped.request(-1);
  r.segments.answer_reserve = 5;
  const Collected close = cramped.run(r);
  CHECK(close.ids.size() == 28 && close.last.usage.answer_tokens == 5);
}

void live_changes() {
  Scene scene("<abcdefghijklmnopqrstuvwxyz>_x$", "yz$");
  Driver& driver = *scene.driver;
  driver.submit(1, scene.request());
  for (int i = 0; i < 4; ++i) driver.step();
  CHECK(text_of(driver.results[1].ids) == "<abc");
  const int64_t rows = scene.backend->script.rows;
  driver.loop.end_thinking(1);
  driver.loop.end_thinking(1);
  driver.loop.end_thinking(99);
  driver.step();
  CHECK(scene.backend->script.rows == rows + 5);  // only the wrap-up, with the token that was pending
  driver.run();
  CHECK(text_of(driver.results[1].ids) == "<abcWX>_yz$");
  CHECK(driver.results[1].last.thinking_stop == ThinkingStop::kRequested);

  Scene other("<abcdefghijklmnopqrstuvwxyz>_x$", "yz$");
  other.driver->submit(1, other.request());
  for (int i = 0; i < 4; ++i) other.driver->step();
  other.driver->loop.set_thinking_budget(1, 6);
  other.driver->run();
  CHECK(text_of(other.driver->results[1].ids) == "<abcdefWX>_yz$");
  other.driver->check_idle();

  Scene last("<abc", "");  // a closing that fills what was left
  Request r = last.request(5);
  r.segments.answer_reserve = 0;
  last.driver->submit(1, r);
  for (int i = 0; i < 4; ++i) last.driver->step();
  last.driver->loop.end_thinking(1);
  last.driver->gather();
  CHECK(last.driver->results[1].finished && text_of(last.driver->results[1].ids) == "<abc>");
  last.driver->check_idle();
}

void deadline() {
  Scene scene("<abcdefghijklmnopqrstuvwxyz>_x$", "yz$");
  Request r = scene.request();
  r.segments.deadline_ms = 12;  // the driver's clock ticks with every reading
  const Collected got = scene.run(r);
  CHECK(got.last.thinking_stop == ThinkingStop::kDeadline);
  CHECK(text_of(got.ids).ends_with("WX>_yz$") && got.last.usage.thinking_tokens < 12);
}

// Stop strings: found across tokens, only in the answer, held back until decided.
void stop_strings() {
  Scene scene("<stop>_the sto, the stopper$", "");
  Request r = scene.request();
  r.stop = {"stop", "xx"};
  Driver& driver = *scene.driver;
  driver.submit(1, r);
  std::vector<size_t> sent;
  while (!driver.loop.idle()) {
    driver.step();
    sent.push_back(driver.results[1].ids.size());
  }
  const Collected& got = driver.results[1];
  CHECK(text_of(got.ids) == "<stop>_the sto, the stop");
  CHECK(got.last.stop_index == 0 && got.last.trim_bytes == 4 && got.last.finish_reason == FinishReason::kStop);
  CHECK(sent[11] == 11 && sent[12] == 11 && sent[13] == 11 && sent[14] == 15);  // s, t, o held; the comma frees them
  Scene undecided("abcst$", "");
  r.segments.can_think = false;
  const Collected rest = undecided.run(r);
  CHECK(text_of(rest.ids) == "abcst$" && rest.last.stop_index == -1 && rest.last.trim_bytes == 0);
  Scene call("ab[xx]_sto[p]xx$", "");
  const Collected calls = call.run(r);
  CHECK(text_of(calls.ids) == "ab[xx]_sto[p]xx" && calls.last.stop_index == 1 && calls.last.trim_bytes == 2);
  Scene newline("<a>__x_y$", "");  // the blank line after </think> is no answer yet
  r.segments.can_think = true, r.stop = {"\n"};
  const Collected line = newline.run(r);
  CHECK(text_of(line.ids) == "<a>__x_" && line.last.trim_bytes == 1);
}

void stop_matcher_alone(Random& random) {
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::string> stops(static_cast<size_t>(random.between(1, 4)));
    for (std::string& stop : stops) {
      for (int64_t n = random.between(1, 5); n > 0; --n) stop += static_cast<char>('a' + random.between(0, 1));
    }
    StopMatcher matcher(stops);
    std::string text;
    for (int piece = 0; piece < 8; ++piece) {
      std::string bytes;
      for (int64_t n = random.between(0, 4); n > 0; --n) bytes += static_cast<char>('a' + random.between(0, 1));
      const size_t before = text.size();
      text += bytes;
      const bool hit = matcher.push(bytes);
      size_t first_end = std::string::npos, start = 0;
      for (size_t end = before + 1; end <= text.size() && first_end == std::string::npos; ++end) {
        for (const std::string& stop : stops) {
          if (end < stop.size() || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
          if (first_end == std::string::npos || end - stop.size() < start) start = end - stop.size();
          first_end = end;
        }
      }
      CHECK(hit == (first_end != std::string::npos));
      if (hit) {
        CHECK(matcher.trim_bytes() == static_cast<int32_t>(text.size() - start));
        break;
      }
      int64_t held = 0;
      for (const std::string& stop : stops) {
        for (size_t n = 1; n < stop.size() && n <= text.size(); ++n) {
          if (text.ends_with(stop.substr(0, n))) held = std::max(held, static_cast<int64_t>(n));
        }
      }
      CHECK(matcher.held_bytes() == held);
    }
  }
}

void context_end_and_logprobs() {
  Scene scene("abcdefghijklmnopqrstuvwxyz", "", 12);
  Request r = scene.request(-1);
  r.segments = {};
  r.sampling.top_logprobs = 2;
  const Collected got = scene.run(r);
  CHECK(text_of(got.ids) == "abcdefghij" && got.last.finish_reason == FinishReason::kLength);
  CHECK(got.logprobs.size() == 10 && got.logprobs[3].top.size() == 2 && got.logprobs[3].top[0].first == 'd');
  CHECK_NEAR(got.logprobs[3].logprob, 0, 1e-6);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  budget_and_usage();
  closes_before_the_first_token();
  answer_is_not_empty();
  end_inside_thinking_is_dropped();
  reserve_keeps_an_answer();
  live_changes();
  deadline();
  stop_strings();
  stop_matcher_alone(random);
  context_end_and_logprobs();
  return run.finish();
}
