#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3 {

// The bytes of every token of the vocabulary, so that stop strings and line ends are matched without leaving the
// engine.
class TokenTable {
 public:
  TokenTable() = default;
  // Token i is bytes[offsets[i], offsets[i + 1]). Throws Error(kInvalidArgument) when the offsets do not ascend or
  // reach past the bytes.
  TokenTable(std::string bytes, std::vector<uint32_t> offsets);

  // Empty for ids without bytes: control tokens, ids beyond the table.
  std::string_view operator[](int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) + 1 >= offsets_.size()) return {};
    return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

 private:
  std::string bytes_;
  std::vector<uint32_t> offsets_;
};

// Whether a text whose last bytes are `tail` ends a line or a sentence: a newline; . ! ? … 。 ！ ？ ． ।, also when
// closing quotes, brackets or spaces follow. A full stop right after a digit ends nothing: it may be a decimal or a
// list number.
bool ends_line_or_sentence(std::string_view tail);

bool is_whitespace(std::string_view text);  // one or more of space, \t, \n, \v, \f, \r and nothing else

}  // namespace qwen3
