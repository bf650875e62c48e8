#include "engine/stop_matcher.h"

#include <algorithm>

namespace qwen3 {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    Pattern pattern{text, std::vector<int32_t>(text.size(), 0), 0};
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = pattern.border[k - 1];
      if (text[i] == text[k]) ++k;
      pattern.border[i] = static_cast<int32_t>(k);
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool StopMatcher::push(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    int32_t longest = 0;
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      int32_t k = pattern.matched;
      while (k > 0 && bytes[i] != pattern.text[k]) k = pattern.border[k - 1];
      if (bytes[i] == pattern.text[k]) ++k;
      pattern.matched = k;
      if (k == static_cast<int32_t>(pattern.text.size()) && k > longest) {
        longest = k;
        index_ = static_cast<int32_t>(p);
      }
    }
    if (longest > 0) {
      trim_bytes_ = longest + static_cast<int32_t>(bytes.size() - i - 1);
      return true;
    }
  }
  return false;
}

int64_t StopMatcher::held_bytes() const {
  int32_t held = 0;
  for (const Pattern& pattern : patterns_) held = std::max(held, pattern.matched);
  return held;
}

void StopMatcher::reset() {
  for (Pattern& pattern : patterns_) pattern.matched = 0;
}

}  // namespace qwen3
