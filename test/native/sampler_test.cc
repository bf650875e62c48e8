// The sampler against a naive one in double that sorts everything: the same kept sets, the same probabilities within
// rounding, draws that follow them (long suite: 2,000 parameter sets of 10,000 draws); and ties, bans, penalties,
// log-probabilities and bad input.

#include <algorithm>
#include <ctime>
#include <limits>
#include <map>

#include "engine/sampler.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

using Counts = std::map<int32_t, int32_t>;

struct Naive {
  std::vector<double> p;     // [vocab], 0 = not kept
  double closest_cut = 1e9;  // how near a cut came to the next candidate; ties with rounding are skipped by tests
};

// The order that request.h documents, in double.
Naive naive(std::vector<double> x, const SamplingParams& s, const std::vector<int32_t>& prompt,
            const Counts& generated) {
  const int32_t n = static_cast<int32_t>(x.size());
  for (const auto& [id, bias] : s.logit_bias) x[static_cast<size_t>(id)] += bias;
  for (int32_t i = 0; i < n; ++i) {
    double& v = x[static_cast<size_t>(i)];
    const auto found = generated.find(i);
    if (found != generated.end() || std::find(prompt.begin(), prompt.end(), i) != prompt.end()) {
      v = v > 0 ? v / s.repetition_penalty : v * s.repetition_penalty;
    }
    if (found != generated.end()) v -= s.frequency_penalty * found->second + s.presence_penalty;
  }
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)]; });
  Naive out;
  out.p.assign(x.size(), 0);
  size_t kept = s.top_k > 0 ? std::min<size_t>(static_cast<size_t>(s.top_k), x.size()) : x.size();
  const double top = x[static_cast<size_t>(order[0])];
  if (kept < x.size()) {
    out.closest_cut = x[static_cast<size_t>(order[kept - 1])] - x[static_cast<size_t>(order[kept])];
    if (out.closest_cut == 0) out.closest_cut = 1e9;  // exact ties go to the lower id in both
  }
  std::vector<double> w(x.size());
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += w[i] = std::exp((x[static_cast<size_t>(order[i])] - top) / s.temperature);
  if (s.top_p < 1) {
    double sum = 0;
    size_t i = 0;
    for (; i < kept && sum < s.top_p * total; ++i) {
      sum += w[i];
      out.closest_cut = std::min(out.closest_cut, std::abs(sum / total - s.top_p));
    }
    kept = i;
  }
  if (s.min_p > 0) {
    size_t i = 0;
    for (size_t k = 0; k < kept; ++k) out.closest_cut = std::min(out.closest_cut, std::abs(w[k] - s.min_p));
    while (i < kept && w[i] >= s.min_p) ++i;
    kept = i;
  }
  total = 0;
  for (size_t i = 0; i < kept; ++i) total += w[i];
  for (size_t i = 0; i < kept; ++i) out.p[static_cast<size_t>(order[i])] = w[i] / total;
  return out;
}

struct Example {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<int32_t> prompt;
  Counts generated;
  TokenCounts counts{SamplingParams{}, {}};
};

Example random_example(Random& random, int32_t vocab) {
  Example e;
  e.logits = random.normals(vocab, random.uniform(0.1f, 6));
  if (random.between(0, 3) == 0) {
    for (float& v : e.logits) v = std::round(v);  // many ties
  }
  SamplingParams& p = e.params;
  p.temperature = random.between(0, 1) ? 1.0f : random.uniform(0.05f, 3);
  if (random.between(0, 1)) p.top_k = static_cast<int32_t>(random.between(1, random.between(0, 1) ? 30 : vocab + 5));
  if (random.between(0, 1)) p.top_p = random.uniform(0.02f, 1);
  if (random.between(0, 2) == 0) p.min_p = random.uniform(0, 0.9f);
  if (random.between(0, 2) == 0) p.presence_penalty = random.uniform(-2, 2);
  if (random.between(0, 2) == 0) p.frequency_penalty = random.uniform(-1, 1);
  if (random.between(0, 2) == 0) p.repetition_penalty = random.uniform(0.7f, 1.6f);
  for (int64_t i = random.between(0, 4); i > 0; --i) {
    p.logit_bias.emplace_back(static_cast<int32_t>(random.between(0, vocab - 1)), random.uniform(-5, 5));
  }
  e.prompt = random.tokens(random.between(0, 20), vocab);
  e.counts = TokenCounts(p, e.prompt);
  for (const int32_t id : random.tokens(random.between(0, 20), vocab)) {
    e.counts.add_generated(id);
    ++e.generated[id];
  }
  return e;
}

int32_t draw(Sampler& sampler, const Example& e, uint64_t seed, uint64_t position) {
  std::vector<float> row = e.logits;
  SamplingParams params = e.params;
  params.seed = seed;
  return sampler.sample(row.data(), params, e.counts, {}, position, nullptr);
}

// Every draw lies in the naive kept set; frequencies pass a chi-square test.
void follows_probabilities(Random& random, int cases, int draws) {
  int skipped = 0;
  for (int i = 0; i < cases; ++i) {
    const int32_t vocab = static_cast<int32_t>(random.between(1, 300));
    const Example e = random_example(random, vocab);
    Sampler sampler(vocab);
    const Naive want = naive({e.logits.begin(), e.logits.end()}, e.params, e.prompt, e.generated);
    if (want.closest_cut < 1e-5) {
      ++skipped;
      continue;
    }
    std::vector<int> hits(static_cast<size_t>(vocab), 0);
    for (int d = 0; d < draws; ++d)
      ++hits[static_cast<size_t>(draw(sampler, e, static_cast<uint64_t>(i), static_cast<uint64_t>(d)))];
    double chi = 0;
    int freedom = -1;
    double rest_p = 0, rest_hits = 0;
    for (size_t id = 0; id < hits.size(); ++id) {
      CHECK_MSG(hits[id] == 0 || want.p[id] > 0, "drew a token that is cut, case " + std::to_string(i));
      const double expected = want.p[id] * draws;
      if (expected < 8) {
        rest_p += want.p[id], rest_hits += hits[id];
        continue;
      }
      chi += (hits[id] - expected) * (hits[id] - expected) / expected;
      ++freedom;
    }
    if (rest_p * draws >= 8) {
      chi += (rest_hits - rest_p * draws) * (rest_hits - rest_p * draws) / (rest_p * draws);
      ++freedom;
    }
    // Chance of a false alarm below 1e-6 a case (mean k, variance 2k; heavy-tailed for small k).
    if (freedom > 0) CHECK_MSG(chi < freedom + 6 * std::sqrt(2.0 * freedom) + 25, "chi " + std::to_string(chi));
  }
  CHECK(skipped < cases / 3);
}

void greedy_and_ties() {
  Sampler sampler(200);
  Example e;
  e.logits.assign(200, 1.0f);
  e.params.temperature = 0;
  CHECK(draw(sampler, e, 1, 0) == 0);
  e.logits[70] = e.logits[130] = 3;
  CHECK(draw(sampler, e, 1, 0) == 70);
  e.params.temperature = 1, e.params.top_k = 1;
  for (uint64_t i = 0; i < 50; ++i) CHECK(draw(sampler, e, i, i) == 70);
  e.params.top_k = 3;  // 70, 130 and, of the equals, id 0
  for (uint64_t i = 0; i < 400; ++i) {
    const int32_t id = draw(sampler, e, i, i);
    CHECK(id == 70 || id == 130 || id == 0);
  }
  e.params.top_k = 0, e.params.top_p = 1e-6f;
  for (uint64_t i = 0; i < 50; ++i) CHECK(draw(sampler, e, i, i) == 70);
  e.params.top_p = 1, e.params.min_p = 1;  // equals of the best stay
  std::map<int32_t, int> seen;
  for (uint64_t i = 0; i < 400; ++i) ++seen[draw(sampler, e, i, i)];
  CHECK(seen.size() == 2 && seen.count(70) && seen.count(130));
}

// The same (seed, choice, position) gives the same token; each of them matters.
void counters_matter() {
  Sampler sampler(1000);
  Example e;
  e.logits.assign(1000, 0.0f);
  int same_seed = 0, same_position = 0, same_choice = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const int32_t base = draw(sampler, e, 5, i);
    CHECK(base == draw(sampler, e, 5, i));
    same_seed += base == draw(sampler, e, 6, i);
    same_position += base == draw(sampler, e, 5, i + 1000);
    Example other = e;
    other.params.choice = 1;
    same_choice += base == draw(sampler, other, 5, i);
  }
  CHECK(same_seed < 8 && same_position < 8 && same_choice < 8);
}

void bans() {
  Sampler sampler(100);
  Example e;
  e.logits.assign(100, 0.0f);
  e.logits[10] = 50;
  for (const float temperature : {0.0f, 1.0f}) {
    e.params.temperature = temperature;
    for (uint64_t i = 0; i < 300; ++i) {
      std::vector<float> row = e.logits;
      const std::vector<int32_t> banned{10, 11};
      const int32_t id = sampler.sample(row.data(), e.params, e.counts, banned, i, nullptr);
      CHECK(id != 10 && id != 11);
    }
  }
  std::vector<int32_t> all(100);
  std::iota(all.begin(), all.end(), 0);
  std::vector<float> row = e.logits;
  CHECK(sampler.sample(row.data(), e.params, e.counts, all, 0, nullptr) == 0);  // nothing is left: defined all the same
}

void log_probabilities(Random& random) {
  for (int i = 0; i < 200; ++i) {
    const int32_t vocab = static_cast<int32_t>(random.between(1, 500));
    Example e = random_example(random, vocab);
    e.params.top_logprobs = static_cast<int32_t>(random.between(0, std::min(vocab, 12)));
    Sampler sampler(vocab);
    std::vector<float> row = e.logits;
    TokenLogprob got;
    const int32_t id = sampler.sample(row.data(), e.params, e.counts, {}, 0, &got);
    double max = *std::max_element(e.logits.begin(), e.logits.end()), sum = 0;
    for (const float v : e.logits) sum += std::exp(v - max);
    const auto want = [&](int32_t t) { return e.logits[static_cast<size_t>(t)] - max - std::log(sum); };
    CHECK_NEAR(got.logprob, want(id), 1e-5);
    CHECK(static_cast<int32_t>(got.top.size()) == e.params.top_logprobs);
    std::vector<int32_t> order(static_cast<size_t>(vocab));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return e.logits[static_cast<size_t>(a)] > e.logits[static_cast<size_t>(b)];
    });
    for (size_t t = 0; t < got.top.size(); ++t) {
      CHECK(got.top[t].first == order[t]);
      CHECK_NEAR(got.top[t].second, want(order[t]), 1e-5);
    }
  }
}

void refuses() {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  Sampler sampler(130);
  for (const float bad : {nan, inf, -inf}) {
    for (const size_t at : {size_t{0}, size_t{64}, size_t{129}}) {
      Example e;
      e.logits.assign(130, 0.0f);
      e.logits[at] = bad;
      CHECK_THROWS(draw(sampler, e, 0, 0), ErrorCode::kInternal);
    }
  }
  const auto refused = [](void (*change)(SamplingParams&), const char* field) {
    SamplingParams p;
    validate_sampling(p, 100);
    change(p);
    CHECK_THROWS_SUBJECT(validate_sampling(p, 100), ErrorCode::kInvalidArgument, field);
  };
  refused([](SamplingParams& p) { p.temperature = std::nanf(""); }, "temperature");
  refused([](SamplingParams& p) { p.temperature = -1; }, "temperature");
  refused([](SamplingParams& p) { p.temperature = 1e-9f; }, "temperature");
  refused([](SamplingParams& p) { p.top_p = 0; }, "topP");
  refused([](SamplingParams& p) { p.top_p = 1.01f; }, "topP");
  refused([](SamplingParams& p) { p.top_p = std::nanf(""); }, "topP");
  refused([](SamplingParams& p) { p.top_k = -1; }, "topK");
  refused([](SamplingParams& p) { p.min_p = -0.1f; }, "minP");
  refused([](SamplingParams& p) { p.presence_penalty = std::nanf(""); }, "presencePenalty");
  refused([](SamplingParams& p) { p.frequency_penalty = 1e9f; }, "frequencyPenalty");
  refused([](SamplingParams& p) { p.repetition_penalty = 0; }, "repetitionPenalty");
  refused([](SamplingParams& p) { p.choice = -1; }, "choice");
  refused([](SamplingParams& p) { p.top_logprobs = 101; }, "logprobs");
  refused([](SamplingParams& p) { p.logit_bias = {{100, 1.0f}}; }, "logitBias");
  refused([](SamplingParams& p) { p.logit_bias = {{1, std::nanf("")}}; }, "logitBias");
}

// A large vocabulary takes the histogram's path; the boundary must be the naive one.
void large_vocabulary(Random& random) {
  const int32_t vocab = 151936;
  Sampler sampler(vocab);
  for (int i = 0; i < 6; ++i) {
    Example e;
    e.logits = random.normals(vocab, 3);
    e.params.top_p = i < 3 ? 0.9f : 0.999f;
    e.params.temperature = i % 2 ? 1.0f : 0.6f;
    const Naive want = naive({e.logits.begin(), e.logits.end()}, e.params, {}, {});
    if (want.closest_cut < 1e-9) continue;
    for (uint64_t d = 0; d < 60; ++d) CHECK(want.p[static_cast<size_t>(draw(sampler, e, 3, d))] > 0);
  }
  Example e;
  e.logits = random.normals(vocab, 3);
  e.params.temperature = 0.6f, e.params.top_p = 0.95f, e.params.top_k = 20;
  std::vector<float> row = e.logits;
  const std::clock_t begin = std::clock();
  for (uint64_t d = 0; d < 30; ++d) sampler.sample(row.data(), e.params, e.counts, {}, d, nullptr);
  std::printf("151,936 logits, top-k 20, top-p 0.95: %.1f us\n",
              static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC * 1e6 / 30);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  greedy_and_ties();
  counters_matter();
  bans();
  log_probabilities(random);
  refuses();
  const bool whole = whole_suite(argc, argv);
  follows_probabilities(random, whole ? 2000 : 60, whole ? 10000 : 2000);
  large_vocabulary(random);
  return run.finish();
}
