#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace qwen3 {

// What a step of so many rows takes, learned from the steps that were run: rows that a memory-bound step carries almost
// for nothing are found out and not assumed, whatever the device, the format and the model. Row counts are taken
// together by powers of two. Old observations fade, towards a guess that is worth trying again. Pure: no clock.
class StepCost {
 public:
  // A step of decode rows, drafts included, took this long. Rows beyond kMostRows and times that are not positive tell
  // nothing.
  void observe(int64_t rows, double ms);
  // Milliseconds; before the first observation in units of a step of one row. Never falls with rows.
  double of(int64_t rows) const;

  static constexpr int64_t kMostRows = 64;

 private:
  static constexpr size_t kClasses = 7;  // 1, 2, 4, 8, 16, 32, 64 rows
  static size_t class_of(int64_t rows);
  void estimate();
  struct Record {
    double mean = 0, weight = 0;
  };
  std::array<Record, kClasses> records_;
  bool observed_ = false;
  std::array<double, kClasses> estimates_ = first_guess();
  static std::array<double, kClasses> first_guess();
};

}  // namespace qwen3
