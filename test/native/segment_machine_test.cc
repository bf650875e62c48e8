// The segment machine on replayed streams. A character is a token: < > are the think tags, [ ] the tool tags, $ ends
// the generation, _ is a newline, ~ is 。 and ( ) are its bytes in two tokens; everything else is its own text. In a
// stream, | is where the model goes on after a forced closing, @ calls end_thinking(), {n sets the budget ({- =
// unlimited). The wrap-up is WX>_, of which >_ is the short form.

#include <string>
#include <string_view>

#include "engine/segment_machine.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

const TokenTable& table() {
  static const TokenTable all = [] {
    std::string bytes;
    std::vector<uint32_t> offsets{0};
    for (int c = 0; c < 128; ++c) {
      if (std::string_view("<>[]$").find(static_cast<char>(c)) != std::string_view::npos) {
      } else if (c == '_') {
        bytes += "\n";
      } else if (c == '~') {
        bytes += "。";
      } else if (c == '(') {
        bytes += "\xe3\x80";
      } else if (c == ')') {
        bytes += "\x82";
      } else {
        bytes += static_cast<char>(c);
      }
      offsets.push_back(static_cast<uint32_t>(bytes.size()));
    }
    return TokenTable(bytes, offsets);
  }();
  return all;
}

struct Options {
  bool can_think = true, starts = false, loop = true, soft = true, ignore_eos = false, tools = true;
  int64_t budget = -1, reserve = 0, deadline = -1, max = 1000;
  const char* wrap = "WX>_";
};

SegmentPlan make_plan(const Options& o) {
  SegmentPlan plan;
  plan.can_think = o.can_think, plan.starts_in_think = o.starts;
  plan.think_open = '<', plan.think_close = '>';
  if (o.tools) plan.tool_open = '[', plan.tool_close = ']';
  plan.wrap_up.assign(o.wrap, o.wrap + std::strlen(o.wrap));
  plan.budget = o.budget, plan.deadline_ms = o.deadline, plan.answer_reserve = o.reserve;
  plan.loop_breaker = o.loop, plan.soft_landing = o.soft;
  return plan;
}

struct Replay {
  std::string tokens, segments;  // segments: t think, c closing, C forced closing, a answer, l tool call
  ThinkingStop stop = ThinkingStop::kNone;
  int64_t thought = 0, reserve = 0;
};

char letter(Segment segment) {
  return "ptcal"[static_cast<int>(segment)];
}

// Ten milliseconds a token, as the engine would drive the machine.
class Player {
 public:
  Player(const Options& options, std::string_view stream)
      : options_(options), plan_(make_plan(options)), machine_(plan_, table()), stream_(stream) {}

  Replay play() {
    SegmentMachine::validate(plan_, 128);
    force(machine_.begin(remaining()));
    while (at_ < stream_.size() && remaining() > 0) {
      const char c = stream_[at_++];
      if (c == '|') continue;
      if (c == '@') {
        force(machine_.end_thinking(remaining()));
      } else if (c == '{') {
        const char n = stream_[at_++];
        force(machine_.set_budget(n == '-' ? -1 : n - '0', remaining()));
      } else if (!token(c)) {
        break;
      }
    }
    out_.stop = machine_.stop();
    out_.thought = machine_.thought_tokens();
    out_.reserve = machine_.reserve();
    return out_;
  }

 private:
  int64_t remaining() const { return options_.max - static_cast<int64_t>(out_.tokens.size()); }

  bool token(char c) {
    const bool ends = c == '$' && !options_.ignore_eos;
    const SegmentMachine::Verdict verdict = machine_.push(c, ends, 10.0 * ++pushed_, remaining() - 1);
    if (!verdict.drop) {
      out_.tokens += c;
      out_.segments += letter(verdict.segment);
      if (ends) return false;
    }
    force(verdict.close);
    return true;
  }

  void force(SegmentMachine::Close close) {
    if (close == SegmentMachine::Close::kOpen) return;
    for (const int32_t id : machine_.forced(close)) {
      out_.tokens += static_cast<char>(id);
      out_.segments += 'C';
    }
    const size_t bar = stream_.find('|', at_);
    if (bar != std::string_view::npos) at_ = bar + 1;
  }

  Options options_;
  SegmentPlan plan_;
  SegmentMachine machine_;
  std::string_view stream_;
  Replay out_;
  size_t at_ = 0;
  int pushed_ = 0;
};

struct Case {
  const char* name;
  Options options;
  const char *stream, *tokens, *segments;
  ThinkingStop stop;
};

Options with(void (*change)(Options&)) {
  Options options;
  change(options);
  return options;
}
#define WITH(...) with([](Options& o) { __VA_ARGS__; })

using Stop = ThinkingStop;

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"natural", {}, "<ab>_xy$", "<ab>_xy$", "tttccaaa", Stop::kNatural},
      {"no thought", {}, "xy$", "xy$", "aaa", Stop::kNone},
      {"prompt opens the block", WITH(o.starts = true), "ab>_xy$", "ab>_xy$", "ttccaaa", Stop::kNatural},
      {"prompt opens, closed at once", WITH(o.starts = true), ">_x$", ">_x$", "ccaa", Stop::kNatural},
      {"prompt opens, opened again", WITH(o.starts = true), "<a>_x$", "<a>_x$", "ttccaa", Stop::kNatural},
      {"no thinking at all: tags are text", WITH(o.can_think = false), "<ab>xy$", "<ab>xy$", "aaaaaaa", Stop::kNone},
      {"empty block", {}, "<>_x$", "<>_x$", "tccaa", Stop::kNatural},
      {"whitespace after the block closes it", {}, "<a>_ _x_y$", "<a>_ _x_y$", "ttccccaaaa", Stop::kNatural},
      {"end right after the block", {}, "<a>$", "<a>$", "ttca", Stop::kNatural},
      {"end right after whitespace", {}, "<a>_$", "<a>_$", "ttcca", Stop::kNatural},
      // Budget.
      {"budget", WITH(o.budget = 2), "<abcd|xy$", "<abWX>_xy$", "tttCCCCaaa", Stop::kBudget},
      {"budget not reached", WITH(o.budget = 2), "<a>_x$", "<a>_x$", "ttccaa", Stop::kNatural},
      {"budget met exactly", WITH(o.budget = 3), "<abc|x$", "<abcWX>_x$", "ttttCCCCaa", Stop::kBudget},
      {"budget one more than the thought", WITH(o.budget = 4), "<abc>_x$", "<abc>_x$", "ttttccaa", Stop::kNatural},
      {"budget 1", WITH(o.budget = 1), "<ab|x$", "<aWX>_x$", "ttCCCCaa", Stop::kBudget},
      {"budget 1, empty block", WITH(o.budget = 1), "<>_x$", "<>_x$", "tccaa", Stop::kNatural},
      {"budget 0", WITH(o.budget = 0), "<a|x$", "<WX>_x$", "tCCCCaa", Stop::kBudget},
      {"budget 0, prompt opens", WITH(o.budget = 0, o.starts = true), "a|x$", "WX>_x$", "CCCCaa", Stop::kBudget},
      {"budget 0, does not think", WITH(o.budget = 0), "x$", "x$", "aa", Stop::kNone},
      {"budget, prompt opens", WITH(o.budget = 2, o.starts = true), "abc|x$", "abWX>_x$", "ttCCCCaa", Stop::kBudget},
      {"budget never after the end", WITH(o.budget = 3), "<ab>_abcdef$", "<ab>_abcdef$", "tttccaaaaaaa",
       Stop::kNatural},
      {"budget goes on in a second block", WITH(o.budget = 3), "<ab>x<cd|y$", "<ab>x<cWX>_y$", "tttcattCCCCaa",
       Stop::kBudget},
      {"no wrap-up text", WITH(o.budget = 1, o.wrap = ""), "<a|x$", "<a>x$", "ttCaa", Stop::kBudget},
      {"nested tags are not counted", WITH(o.budget = 3), "<a<b>_x$", "<a<b>_x$", "ttttccaa", Stop::kNatural},
      // Stray tags.
      {"stray close in the answer", {}, "x>y$", "x>y$", "acaa", Stop::kNone},
      {"close as the first token", {}, ">x$", ">x$", "caa", Stop::kNone},
      {"two closes", {}, "<a>>x$", "<a>>x$", "ttccaa", Stop::kNatural},
      {"close again later", {}, "<a>_x>y$", "<a>_x>y$", "ttccacaa", Stop::kNatural},
      {"nested open", {}, "<a<b>_x$", "<a<b>_x$", "ttttccaa", Stop::kNatural},
      {"nested open and two closes", {}, "<a<b>c>x$", "<a<b>c>x$", "ttttcacaa", Stop::kNatural},
      {"thinks again", {}, "<a>x<b>y$", "<a>x<b>y$", "ttcattcaa", Stop::kNatural},
      {"thinks again at once", {}, "<a>_<b>y$", "<a>_<b>y$", "ttccttcaa", Stop::kNatural},
      {"opens again after a cut", WITH(o.budget = 1), "<a|x<by$", "<aWX>_x<by$", "ttCCCCacaaa", Stop::kBudget},
      {"closes again after a cut", WITH(o.budget = 1), "<a|>x>$", "<aWX>_>x>$", "ttCCCCcaca", Stop::kBudget},
      {"newline before the block", {}, "_<a>x$", "_<a>x$", "attcaa", Stop::kNatural},
      {"text before the block", {}, "x<a>y$", "x<a>y$", "attcaa", Stop::kNatural},
      // End of sequence inside thinking.
      {"end inside thinking", {}, "<ab$|xy$", "<ab>_xy$", "tttCCaaa", Stop::kNatural},
      {"end as the first thought", WITH(o.starts = true), "$|x$", ">_x$", "CCaa", Stop::kNatural},
      {"end inside thinking without room", WITH(o.max = 4), "<ab$", "<ab$", "tttt", Stop::kUnfinished},
      {"ignored end inside thinking", WITH(o.ignore_eos = true), "<a$b>_x", "<a$b>_x", "ttttcca", Stop::kNatural},
      {"ignored end in the answer", WITH(o.ignore_eos = true), "<a>x$y", "<a>x$y", "ttcaaa", Stop::kNatural},
      // Tool calls.
      {"tool call", {}, "x[ab]y$", "x[ab]y$", "allllaa", Stop::kNone},
      {"parallel calls", {}, "[a][b]$", "[a][b]$", "lllllla", Stop::kNone},
      {"draft inside thinking",
       {},
       "<[a]>_[b]$",
       "<[a]>_[b]$",
       "ttttcclll"
       "a",
       Stop::kNatural},
      {"draft never closed", {}, "<[a>_x$", "<[a>_x$", "tttccaa", Stop::kNatural},
      {"call never closed", {}, "[ab$", "[ab$", "llll", Stop::kNone},
      {"stray end of a call", {}, "x]y$", "x]y$", "acaa", Stop::kNone},
      {"think tags inside a call", {}, "[<a>]$", "[<a>]$", "llllla", Stop::kNone},
      {"call inside a call", {}, "[a[b]c$", "[a[b]c$", "lllllaa", Stop::kNone},
      {"call after the block",
       {},
       "<a>__[b]$",
       "<a>__[b]$",
       "ttccclll"
       "a",
       Stop::kNatural},
      {"thought between calls",
       {},
       "[a]<b>[c]$",
       "[a]<b>[c]$",
       "lllttclll"
       "a",
       Stop::kNatural},
      {"call after a cut", WITH(o.budget = 1), "<a|[b]$", "<aWX>_[b]$",
       "ttCCCClll"
       "a",
       Stop::kBudget},
      {"no tool tags", WITH(o.tools = false), "x[a]$", "x[a]$", "aaaaa", Stop::kNone},
      // Deadline, ten milliseconds a token.
      {"deadline", WITH(o.deadline = 30), "<abcd|x$", "<abWX>_x$", "tttCCCCaa", Stop::kDeadline},
      {"deadline 0", WITH(o.deadline = 0), "<abcd|x$", "<WX>_x$", "tCCCCaa", Stop::kDeadline},
      {"deadline 0, prompt opens", WITH(o.deadline = 0, o.starts = true), "a|x$", "WX>_x$", "CCCCaa", Stop::kDeadline},
      {"deadline after the end", WITH(o.deadline = 40), "<a>_bcdefg$", "<a>_bcdefg$", "ttccaaaaaaa", Stop::kNatural},
      {"deadline before the block", WITH(o.deadline = 20), "xyz<|x$", "xyz<WX>_x$", "aaatCCCCaa", Stop::kDeadline},
      {"budget before deadline", WITH(o.deadline = 40, o.budget = 2), "<abcd|x$", "<abWX>_x$", "tttCCCCaa",
       Stop::kBudget},
      {"deadline before budget", WITH(o.deadline = 20, o.budget = 4), "<abcd|x$", "<aWX>_x$", "ttCCCCaa",
       Stop::kDeadline},
      // Reserve.
      {"reserve", WITH(o.reserve = 3, o.max = 10), "<abcdefg|xyz", "<abWX>_xyz", "tttCCCCaaa", Stop::kReserve},
      {"reserve, natural in time", WITH(o.reserve = 3, o.max = 10), "<a>_xyz", "<a>_xyz", "ttccaaa", Stop::kNatural},
      {"reserve, short wrap-up", WITH(o.reserve = 3, o.max = 7), "<abcd|xyz", "<a>_xyz", "ttCCaaa", Stop::kReserve},
      {"reserve leaves no thought", WITH(o.reserve = 3, o.max = 6), "<ab|xyz", "<>_xyz", "tCCaaa", Stop::kReserve},
      {"reserve that cannot be kept", WITH(o.reserve = 3, o.max = 4), "<ab|xyz", "<>_x", "tCCa", Stop::kReserve},
      {"no room for an answer", WITH(o.reserve = 3, o.max = 3), "<ab", "<ab", "ttt", Stop::kUnfinished},
      {"reserve 0 uses everything", WITH(o.max = 5), "<abcdef", "<abcd", "ttttt", Stop::kUnfinished},
      {"reserve, prompt opens", WITH(o.reserve = 3, o.max = 10, o.starts = true), "abcdefg|xyz", "abcWX>_xyz",
       "tttCCCCaaa", Stop::kReserve},
      {"automatic reserve", WITH(o.reserve = -1, o.max = 16), "<abcdefghijk|xy", "<abcdefghiWX>_xy", "ttttttttttCCCCaa",
       Stop::kReserve},
      {"automatic reserve, 4 tokens", WITH(o.reserve = -1, o.max = 4), "<abc|x", "<>_x", "tCCa", Stop::kReserve},
      {"automatic reserve, 3 tokens, prompt opens", WITH(o.reserve = -1, o.max = 3, o.starts = true), "abc|x", ">_x",
       "CCa", Stop::kReserve},
      {"automatic reserve, 1 token", WITH(o.reserve = -1, o.max = 1), "<a", "<", "t", Stop::kUnfinished},
      {"budget cut without room for an answer", WITH(o.budget = 2, o.max = 5), "<abc|xy", "<ab>_", "tttCC",
       Stop::kBudget},
      {"budget cut without room for a closing", WITH(o.budget = 2, o.max = 4), "<abc|xy", "<ab>", "tttC",
       Stop::kBudget},
      {"budget cut with no room", WITH(o.budget = 2, o.max = 3), "<abc|xy", "<ab", "ttt", Stop::kBudget},
      {"budget cut with little room", WITH(o.budget = 2, o.max = 6), "<abc|xy", "<ab>_x", "tttCCa", Stop::kBudget},
      {"budget cut, the reserve takes the short form", WITH(o.budget = 2, o.reserve = 2, o.max = 7), "<abc|xy",
       "<ab>_xy", "tttCCaa", Stop::kBudget},
      // Soft landing: budget 20 lands from the 18th token on.
      {"lands on a newline", WITH(o.budget = 20), "<abcdefghijklmnopq_rs|x$", "<abcdefghijklmnopq_WX>_x$",
       "tttttttttttttttttttCCCCaa", Stop::kBudget},
      {"newline too early", WITH(o.budget = 20), "<abcdefghijklmnop_qrstu|x$", "<abcdefghijklmnop_qrsWX>_x$",
       "tttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"lands on a full stop", WITH(o.budget = 20), "<abcdefghijklmnopqr.st|x$", "<abcdefghijklmnopqr.WX>_x$",
       "ttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"no landing inside a number", WITH(o.budget = 20), "<abcdefghijklmnopq3.14|x$", "<abcdefghijklmnopq3.1WX>_x$",
       "tttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"lands on an ideographic full stop", WITH(o.budget = 20), "<abcdefghijklmnopq~rs|x$",
       "<abcdefghijklmnopq~WX>_x$", "tttttttttttttttttttCCCCaa", Stop::kBudget},
      {"lands on one in two tokens", WITH(o.budget = 20), "<abcdefghijklmnopq()rs|x$", "<abcdefghijklmnopq()WX>_x$",
       "ttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"lands after a closing quote", WITH(o.budget = 20), "<abcdefghijklmnopq?\"rs|x$", "<abcdefghijklmnopq?WX>_x$",
       "tttttttttttttttttttCCCCaa", Stop::kBudget},
      // Lines of four: at 54 of 60 the next one fits, at 58 it does not.
      {"a short line still fits", WITH(o.budget = 60),
       "<a_bcd_efg_hij_klm_nop_qrs_tuv_wxy_abc_def_ghi_jkl_mno_pqr_st|x$",
       "<a_bcd_efg_hij_klm_nop_qrs_tuv_wxy_abc_def_ghi_jkl_mno_pqr_WX>_x$",
       "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"landing off", WITH(o.budget = 20, o.soft = false), "<abcdefghijklmnopq_rst|x$", "<abcdefghijklmnopq_rsWX>_x$",
       "tttttttttttttttttttttCCCCaa", Stop::kBudget},
      {"natural end within the landing", WITH(o.budget = 20), "<abcdefghijklmnopqr>_x$", "<abcdefghijklmnopqr>_x$",
       "tttttttttttttttttttccaa", Stop::kNatural},
      // Live.
      {"ended while thinking", {}, "<ab@|x$", "<abWX>_x$", "tttCCCCaa", Stop::kRequested},
      {"ended before thinking", {}, "@<|x$", "<WX>_x$", "tCCCCaa", Stop::kRequested},
      {"ended after thinking", {}, "<a>x@y$", "<a>x@y$", "ttcaaa", Stop::kNatural},
      {"ended twice", {}, "<ab@|@x$", "<abWX>_x$", "tttCCCCaa", Stop::kRequested},
      {"ended, then a late thought", {}, "x@y<|z$", "xy<WX>_z$", "aatCCCCaa", Stop::kRequested},
      {"ended, prompt opens", WITH(o.starts = true), "a@|x$", "aWX>_x$", "tCCCCaa", Stop::kRequested},
      {"budget lowered below the thought", {}, "<ab{1|x$", "<abWX>_x$", "tttCCCCaa", Stop::kBudget},
      {"budget lowered to the thought", {}, "<ab{2|x$", "<abWX>_x$", "tttCCCCaa", Stop::kBudget},
      {"budget raised", WITH(o.budget = 2), "<a{5bcdef|x$", "<abcdeWX>_x$", "ttttttCCCCaa", Stop::kBudget},
      {"budget lifted", WITH(o.budget = 3), "<ab{-cdef>_x$", "<abcdef>_x$", "tttttttccaa", Stop::kNatural},
      {"budget set before", {}, "{0<|x$", "<WX>_x$", "tCCCCaa", Stop::kBudget},
      {"budget set after the end", {}, "<ab>{0x$", "<ab>x$", "tttcaa", Stop::kNatural},
  };
  return all;
}

void replay_cases() {
  for (const Case& c : cases()) {
    const Replay got = Player(c.options, c.stream).play();
    std::string want(c.tokens);
    std::erase(want, '@');
    const bool same = got.tokens == want && got.segments == c.segments && got.stop == c.stop;
    CHECK_MSG(same, std::string(c.name) + ": " + got.tokens + " " + got.segments + " stop " +
                        std::to_string(static_cast<int>(got.stop)));
  }
  std::printf("%zu streams\n", cases().size());
}

// Whatever a model says: the promises hold.
void random_streams(Random& random, int n) {
  for (int i = 0; i < n; ++i) {
    Options o;
    o.starts = random.between(0, 3) == 0;
    o.budget = random.between(-1, 12), o.reserve = random.between(-1, 6), o.deadline = random.between(-1, 200);
    o.max = random.between(1, 60);
    o.soft = random.between(0, 1), o.ignore_eos = random.between(0, 4) == 0;
    std::string stream;
    for (int64_t k = random.between(0, 80); k > 0; --k) {
      static const std::string_view kAlphabet = "abcdefgh<<>>[]_ .$@xyz";
      stream += kAlphabet[static_cast<size_t>(random.between(0, static_cast<int64_t>(kAlphabet.size()) - 1))];
    }
    const Replay got = Player(o, stream).play();
    int64_t thought = 0;
    size_t first_forced = std::string::npos;
    std::string forced;
    for (size_t t = 0; t < got.tokens.size(); ++t) {
      const char token = got.tokens[t], segment = got.segments[t];
      const bool tag = token == '<' || token == '>';
      CHECK_MSG(!tag || segment != 'a', "a tag in the answer: " + stream);
      CHECK_MSG(token != ']' || segment != 'a', "a tool tag in the answer: " + stream);
      if (segment == 't' && token != '<' && !(token == '$' && !o.ignore_eos)) ++thought;
      if (segment == 'C') {
        if (first_forced == std::string::npos) first_forced = t;
        forced += token;
      }
      CHECK_MSG(segment != 't' || first_forced == std::string::npos, "thought after a forced closing: " + stream);
    }
    const bool used_up = static_cast<int64_t>(got.tokens.size()) == o.max;
    CHECK(forced.empty() || forced == "WX>_" || forced == ">_" || (forced == ">" && used_up));
    CHECK_MSG(got.tokens.size() <= static_cast<size_t>(o.max), stream);
    CHECK_MSG(thought == got.thought, stream);
    if (o.budget >= 0) CHECK_MSG(thought <= o.budget, "budget: " + stream);
    if (o.reserve != 0 && used_up && o.max >= 4 && !forced.empty() && got.stop == Stop::kReserve) {
      CHECK_MSG(o.max - static_cast<int64_t>(first_forced + forced.size()) >= 1, "starved: " + stream);
    }
    // A first thought with a reserve never uses everything up.
    const bool only_thought = got.segments.find_first_not_of('t') == std::string::npos;
    if (o.reserve != 0 && o.max >= 4 && used_up) CHECK_MSG(!only_thought, "starved: " + stream);
  }
}

void refuses() {
  Options o;
  SegmentPlan plan = make_plan(o);
  plan.think_close = -1;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.thinkClose");
  plan = make_plan(o), plan.think_open = -1;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.thinkOpen");
  plan = make_plan(o), plan.think_open = '>';
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.thinkOpen");
  plan = make_plan(o), plan.wrap_up = {'W'};
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.wrapUp");
  plan = make_plan(o), plan.wrap_up = {'W', '>', 128};
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.wrapUp");
  plan = make_plan(o), plan.budget = -2;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "thinkingBudget");
  plan = make_plan(o), plan.deadline_ms = -2;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "thinkingDeadlineMs");
  plan = make_plan(o), plan.answer_reserve = -2;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "answerReserve");
  plan = make_plan(o), plan.can_think = false, plan.starts_in_think = true;
  CHECK_THROWS_SUBJECT(SegmentMachine::validate(plan, 128), ErrorCode::kInvalidArgument, "segments.startsInThink");
}

void loops_through_the_machine() {
  const std::string cycle = "abcdefghijklmnopqrst";  // 20 tokens
  const Replay got = Player({}, "<uvwx" + cycle + cycle + cycle + cycle + "|y$").play();
  CHECK(got.tokens == "<uvwx" + cycle + cycle + cycle + "WX>_y$");
  CHECK(got.stop == Stop::kLoop);
  const Replay off = Player(WITH(o.loop = false), "<" + cycle + cycle + cycle + cycle + ">y$").play();
  CHECK(off.stop == Stop::kNatural);
  const Replay answer = Player({}, "<a>" + cycle + cycle + cycle + cycle + "$").play();  // answers may repeat
  CHECK(answer.stop == Stop::kNatural && answer.tokens.size() == 84);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  replay_cases();
  loops_through_the_machine();
  refuses();
  random_streams(random, whole_suite(argc, argv) ? 1000000 : 4000);
  return run.finish();
}
