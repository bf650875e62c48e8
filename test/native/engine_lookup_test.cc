// Prompt lookup against a search of the whole text, and what the two estimates behind a draft learn: how likely it is
// to be right, and what a step with it takes.

#include <algorithm>

#include "engine/prompt_lookup.h"
#include "engine/step_cost.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

Speculation lookup_options(int32_t min_ngram, int32_t max_ngram, int32_t max_draft = 12) {
  Speculation s;
  s.max_draft = max_draft, s.min_ngram = min_ngram, s.max_ngram = max_ngram;
  return s;
}

int64_t common(const std::vector<int32_t>& tokens, int64_t end) {
  const int64_t last = static_cast<int64_t>(tokens.size()) - 1;
  int64_t n = 0;
  while (n <= end && tokens[static_cast<size_t>(end - n)] == tokens[static_cast<size_t>(last - n)]) ++n;
  return n;
}

// What follows position `end`, going round where the text ends.
std::vector<int32_t> after(const std::vector<int32_t>& tokens, int64_t end, size_t n) {
  std::vector<int32_t> out = tokens;
  for (size_t i = 0; i < n; ++i) out.push_back(out[static_cast<size_t>(end) + 1 + i]);
  return {out.begin() + static_cast<std::ptrdiff_t>(tokens.size()), out.end()};
}

// The longest match up to max_ngram, the most recent of its kind; beyond max_ngram any match may be followed on.
void agrees_with_search(PromptLookup& lookup, const std::vector<int32_t>& tokens, const Speculation& options) {
  int64_t longest = 0, where = -1;
  for (int64_t end = 0; end + 1 < static_cast<int64_t>(tokens.size()); ++end) {
    const int64_t n = std::min<int64_t>(common(tokens, end), options.max_ngram);
    if (n >= longest) longest = n, where = end;
  }
  const auto draft = lookup.propose(tokens, 1000);
  if (longest < options.min_ngram) {
    CHECK(draft.empty());
    return;
  }
  if (!CHECK(draft.size() == static_cast<size_t>(options.max_draft))) return;
  std::vector<int32_t> said;
  float before = 1;
  for (const PromptLookup::Draft& d : draft) {
    said.push_back(d.token);
    CHECK(d.chance > 0 && d.chance <= before);
    before = d.chance;
  }
  if (longest < options.max_ngram) {
    CHECK(said == after(tokens, where, said.size()));
    return;
  }
  bool known = false;
  for (int64_t end = 0; end + 1 < static_cast<int64_t>(tokens.size()) && !known; ++end) {
    known = common(tokens, end) >= options.max_ngram && said == after(tokens, end, said.size());
  }
  CHECK(known);
  CHECK(lookup.propose(tokens, 3).size() == std::min<size_t>(3, said.size()));
  CHECK(lookup.propose(tokens, 0).empty() && lookup.propose(tokens, -5).empty());
}

void finds_matches(Random& random) {
  for (int i = 0; i < 60; ++i) {
    const int32_t min_ngram = static_cast<int32_t>(random.between(1, 4));
    const Speculation options = lookup_options(min_ngram, static_cast<int32_t>(random.between(min_ngram, 8)),
                                               static_cast<int32_t>(random.between(1, 30)));
    const int32_t alphabet = static_cast<int32_t>(random.between(1, 12));
    std::vector<int32_t> tokens = random.tokens(random.between(1, 200), alphabet);
    PromptLookup lookup(options, tokens);
    agrees_with_search(lookup, tokens, options);
    for (int n = 0; n < 150; ++n) {
      // Text that repeats itself now and then.
      const size_t back = static_cast<size_t>(random.between(1, 20));
      const bool copies = random.between(0, 3) > 0 && back <= tokens.size();
      tokens.push_back(copies ? tokens[tokens.size() - back] : random.tokens(1, alphabet)[0]);
      lookup.push(tokens, random.between(0, 4) > 0);
      agrees_with_search(lookup, tokens, options);
    }
  }
}

// A long text, so that the index grows often, in which the newest of many equal places counts.
void most_recent_of_many() {
  std::vector<int32_t> tokens{1, 2};
  PromptLookup lookup(lookup_options(2, 4, 1), tokens);
  for (int32_t i = 0; i < 30000; ++i) {
    for (const int32_t token : {100 + i, 1, 2}) {
      tokens.push_back(token);
      lookup.push(tokens, true);
    }
    const auto draft = lookup.propose(tokens, 8);
    if (!CHECK(draft.size() == 1)) return;
    if (!CHECK(draft[0].token == 100 + i)) return;  // the newest "1 2" with something behind it
  }
}

// Guesses that are always wrong lose their chance, right ones gain it; forced tokens tell nothing.
void learns_chances() {
  const auto first_chance = [](bool right, bool chosen, int rounds) {
    std::vector<int32_t> tokens{1, 2, 3};
    PromptLookup lookup(lookup_options(2, 2, 4), tokens);
    for (int i = 0; i < rounds; ++i) {
      for (const int32_t token : {1, 2, right ? 3 : 4 + i}) {
        tokens.push_back(token);
        lookup.push(tokens, chosen);
      }
    }
    for (const int32_t token : {1, 2}) {
      tokens.push_back(token);
      lookup.push(tokens, chosen);
    }
    return lookup.propose(tokens, 1).front().chance;
  };
  CHECK(first_chance(false, true, 40) < 0.08f);
  CHECK(first_chance(true, true, 40) > 0.9f);
  CHECK(first_chance(false, false, 40) == first_chance(false, false, 1));
}

void step_cost_learns(Random& random) {
  StepCost fresh;
  for (int64_t rows = 1; rows < 200; ++rows) CHECK(fresh.of(rows) > 0 && fresh.of(rows + 1) >= fresh.of(rows));
  CHECK(fresh.of(8) < 1.5 * fresh.of(1));  // worth a try

  StepCost cost;
  const auto ms = [](int64_t rows) { return rows <= 4 ? 10.0 : 10.0 + 2.0 * static_cast<double>(rows); };
  for (int i = 0; i < 2000; ++i) {
    const int64_t rows = random.between(1, 64);
    // Now and then a mishap, but none at the end: one of the last few steps of a class may weigh a third of its mean.
    const double mishap = i % 50 == 7 && i < 1500 ? 40 : 1;
    cost.observe(rows, ms(rows) * mishap * random.uniform(0.95f, 1.05f));
  }
  for (const int64_t rows : {1, 2, 4}) CHECK(cost.of(rows) > 8 && cost.of(rows) < 15);
  CHECK(cost.of(64) > 90 && cost.of(64) < 180 && cost.of(128) == 2 * cost.of(64));
  for (int64_t rows = 1; rows < 200; ++rows) CHECK(cost.of(rows + 1) >= cost.of(rows));

  // Long without a step of many rows: their price fades, to be asked again.
  StepCost stale;
  stale.observe(1, 10);
  for (int i = 0; i < 30; ++i) stale.observe(8, 80);
  const double dear = stale.of(8);
  for (int i = 0; i < 2000; ++i) stale.observe(1, 10);
  CHECK(dear > 70 && stale.of(8) < 20);

  // One mishap does not make rows look dear for long.
  StepCost mishap;
  for (int i = 0; i < 20; ++i) mishap.observe(1, 10);
  mishap.observe(16, 5000);
  CHECK(mishap.of(16) < 60);
  for (int i = 0; i < 3; ++i) mishap.observe(16, 14);
  CHECK(mishap.of(16) < 30);

  StepCost bad;
  bad.observe(0, 5), bad.observe(-3, 5), bad.observe(65, 5), bad.observe(4, 0), bad.observe(4, -1);
  bad.observe(4, std::nan(""));
  CHECK(bad.of(4) == fresh.of(4) && bad.of(64) == fresh.of(64));
  bad.observe(8, 20);  // the fewest rows seen stand for fewer ones too
  CHECK(bad.of(1) == 20 && bad.of(8) == 20 && bad.of(16) > 20);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  finds_matches(random);
  most_recent_of_many();
  learns_chances();
  step_cost_learns(random);
  return run.finish();
}
