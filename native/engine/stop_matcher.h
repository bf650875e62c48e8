#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3 {

// Finds the first of several byte strings in a text that arrives in pieces (Knuth, Morris, Pratt: one automaton a
// string; linear in the text for each). Of strings that end at the same byte the one that began first wins.
class StopMatcher {
 public:
  explicit StopMatcher(const std::vector<std::string>& stops);

  // Feeds the bytes of one token. True when a stop string is complete: index() and trim_bytes() then say which one and
  // how many of the newest bytes belong to it or follow it.
  bool push(std::string_view bytes);
  // Of the newest bytes, those that may still turn out to begin a stop string.
  int64_t held_bytes() const;
  void reset();  // the text starts anew
  bool active() const { return !patterns_.empty(); }
  int32_t index() const { return index_; }
  int32_t trim_bytes() const { return trim_bytes_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<int32_t> border;  // [i]: length of the longest proper border of text[0, i]
    int32_t matched = 0;
  };
  std::vector<Pattern> patterns_;
  int32_t index_ = -1, trim_bytes_ = 0;
};

}  // namespace qwen3
