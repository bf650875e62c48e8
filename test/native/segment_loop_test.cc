// The loop breaker against its definition, on planted cycles, on text that must pass, and on random text of few
// symbols.

#include <algorithm>
#include <ctime>
#include <string_view>

#include "engine/loop_detector.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

// The definition: for some period p, the last 3 p tokens, and at least kMinTokens, repeat with period p.
bool looped(const std::vector<int32_t>& tokens) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  for (int64_t p = 1; 3 * p <= n; ++p) {
    int64_t run = 0;
    while (run < n - p && tokens[static_cast<size_t>(n - 1 - run)] == tokens[static_cast<size_t>(n - 1 - run - p)])
      ++run;
    if (run >= 2 * p && run + p >= LoopDetector::kMinTokens) return true;
  }
  return false;
}

// Where the definition and the detector first fire; -1 = never.
std::pair<int64_t, int64_t> first_hits(const std::vector<int32_t>& tokens) {
  LoopDetector detector;
  std::vector<int32_t> so_far;
  int64_t want = -1, got = -1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    so_far.push_back(tokens[i]);
    if (want < 0 && looped(so_far)) want = static_cast<int64_t>(i);
    if (detector.push(tokens[i]) && got < 0) got = static_cast<int64_t>(i);
  }
  return {want, got};
}

void planted_cycles(Random& random) {
  for (int64_t period : {1, 2, 3, 5, 8, 13, 19, 20, 21, 34, 55, 89, 144}) {
    std::vector<int32_t> tokens = random.tokens(random.between(0, 150), 5000), cycle = random.tokens(period, 5000);
    const size_t lead = tokens.size();
    for (int32_t& token : cycle) token += 5000;  // none of the lead's: the cycle begins where it is planted
    for (int64_t i = 0; i < 6 * period + 70; ++i) tokens.push_back(cycle[static_cast<size_t>(i % period)]);
    const auto [want, got] = first_hits(tokens);
    CHECK_MSG(want >= 0 && got == want,
              "period " + std::to_string(period) + " want " + std::to_string(want) + " got " + std::to_string(got));
    if (period >= 20) CHECK(got == static_cast<int64_t>(lead) + 3 * period - 1);
  }
}

// Few symbols: many false candidates. The detector may be late by a constant, never early.
void random_text(Random& random, int n) {
  for (int i = 0; i < n; ++i) {
    const int32_t symbols = static_cast<int32_t>(random.between(1, 6));
    std::vector<int32_t> tokens = random.tokens(random.between(0, 200), symbols);
    const std::vector<int32_t> cycle = random.tokens(random.between(1, 70), symbols);
    for (int repeat = 0; repeat < 8; ++repeat) tokens.insert(tokens.end(), cycle.begin(), cycle.end());
    const auto [want, got] = first_hits(tokens);
    CHECK_MSG(got < 0 || (want >= 0 && got >= want), "early");
    if (want >= 0 && want + 200 < static_cast<int64_t>(tokens.size())) {
      CHECK_MSG(got >= 0 && got <= want + 130, "late: want " + std::to_string(want) + " got " + std::to_string(got));
    }
  }
}

// A token a character.
void natural_text_passes() {
  std::string list;
  for (int i = 1; i <= 200; ++i) list += std::to_string(i) + ". item\n";
  std::string table;
  for (int row = 0; row < 30; ++row) table += "| " + std::to_string(row * row) + " | a | b | c |\n";
  const std::string rule =
      "text " + std::string(50, '-') + " text " + std::string(50, '=') + " 0.3333333333333333333333";
  std::string matrix;  // rows of a unit matrix: alike, never the same three times
  for (int row = 0; row < 12; ++row) {
    for (int column = 0; column < 12; ++column) matrix += row == column ? "1 " : "0 ";
    matrix += '\n';
  }
  for (const std::string& text : {list, table, rule, matrix}) {
    LoopDetector detector;
    bool fired = false;
    for (const char c : text) fired |= detector.push(c);
    CHECK_MSG(!fired, text.substr(0, 40));
  }
}

// CPU time, the best of several rounds, and a factor far above what caches explain: a busy machine does not matter, a
// quadratic detector would be 20 times slower.
void is_linear() {
  const auto time = [](int64_t n) {
    double best = 1e9;
    for (int round = 0; round < 5; ++round) {
      LoopDetector detector;
      const std::clock_t begin = std::clock();
      for (int64_t i = 0; i < n; ++i) detector.push(static_cast<int32_t>(i * i % 7 + (i % 101 == 0)));
      best = std::min(best, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC / static_cast<double>(n));
    }
    return best;
  };
  const double small = time(20000), large = time(400000);
  std::printf("%.0f ns a token at 20,000, %.0f ns at 400,000\n", small * 1e9, large * 1e9);
  CHECK(large < 10 * small + 1e-7);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  planted_cycles(random);
  random_text(random, 300);
  natural_text_passes();
  is_linear();
  return run.finish();
}
