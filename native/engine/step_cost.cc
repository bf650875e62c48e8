#include "engine/step_cost.h"

#include <algorithm>
#include <bit>

namespace qwen3 {
namespace {

// Until it is known better a further row takes this part of a step of the fewest rows known.
constexpr double kRowGuess = 0.04;
// The mean is one of about the last 16 steps of a class, which weighs half after 140 steps of other classes. The guess
// weighs as much as a tenth of a step: one look tells what rows cost, and 500 steps later it is asked again.
constexpr double kMostWeight = 16, kFade = 0.995, kGuessWeight = 0.1;
// A step that was interrupted by something else on the machine counts as this many times what was expected: what is
// really that dear is known after a few steps, and one mishap forbids nothing.
constexpr double kOutlier = 3;

}  // namespace

size_t StepCost::class_of(int64_t rows) {
  return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::clamp<int64_t>(rows, 1, kMostRows) - 1)));
}

std::array<double, StepCost::kClasses> StepCost::first_guess() {
  std::array<double, kClasses> out{};
  for (size_t i = 0; i < kClasses; ++i) out[i] = 1 + kRowGuess * static_cast<double>((1 << i) - 1);
  return out;
}

void StepCost::observe(int64_t rows, double ms) {
  if (rows < 1 || rows > kMostRows || !(ms > 0)) return;
  if (observed_) ms = std::min(ms, kOutlier * of(rows));
  observed_ = true;
  for (Record& record : records_) record.weight *= kFade;
  Record& record = records_[class_of(rows)];
  record.weight = std::min(record.weight + 1, kMostWeight);
  record.mean += (ms - record.mean) / std::max(record.weight, 1.0);
  estimate();
}

void StepCost::estimate() {
  double row = 0;  // the guess for one more row
  for (size_t i = 0; i < kClasses; ++i) {
    const Record& record = records_[i];
    if (row == 0) {  // nothing smaller was observed
      estimates_[i] = record.mean;
      row = kRowGuess * record.mean / (1 + kRowGuess * static_cast<double>((1 << i) - 1));
      if (row > 0) std::fill_n(estimates_.begin(), i, record.mean);
      continue;
    }
    const double guess = estimates_[i - 1] + row * static_cast<double>(1 << (i - 1));
    const double value = (record.weight * record.mean + kGuessWeight * guess) / (record.weight + kGuessWeight);
    estimates_[i] = std::max(value, estimates_[i - 1]);
  }
}

double StepCost::of(int64_t rows) const {
  const double cost = estimates_[class_of(rows)];
  return rows <= kMostRows ? cost : cost * static_cast<double>(rows) / static_cast<double>(kMostRows);
}

}  // namespace qwen3
