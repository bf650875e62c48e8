#include "engine/token_table.h"

#include <utility>

#include "core/status.h"

namespace qwen3 {
namespace {

bool strip(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// What may stand between the end of a sentence and the cut.
bool strip_closing(std::string_view& text) {
  for (const std::string_view mark : {" ", "\t", "\"", "'", ")", "]", "*", "”", "’", "」", "』", "）", "】", "》"}) {
    if (strip(text, mark)) return true;
  }
  return false;
}

}  // namespace

TokenTable::TokenTable(std::string bytes, std::vector<uint32_t> offsets)
    : bytes_(std::move(bytes)), offsets_(std::move(offsets)) {
  for (size_t i = 0; i < offsets_.size(); ++i) {
    if (offsets_[i] > bytes_.size() || (i > 0 && offsets_[i] < offsets_[i - 1])) {
      throw Error(ErrorCode::kInvalidArgument, "the offsets of the token bytes must ascend and stay inside the bytes",
                  "tokenOffsets");
    }
  }
}

bool ends_line_or_sentence(std::string_view tail) {
  if (tail.ends_with('\n')) return true;
  do {
    if (tail.ends_with('\n')) return true;  // spaces that begin the next line
    for (const std::string_view mark : {"!", "?", "…", "。", "！", "？", "．", "।"}) {
      if (tail.ends_with(mark)) return true;
    }
    if (tail.ends_with('.')) {
      tail.remove_suffix(1);
      return tail.empty() || tail.back() < '0' || tail.back() > '9';
    }
  } while (strip_closing(tail));
  return false;
}

bool is_whitespace(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c != ' ' && (c < '\t' || c > '\r')) return false;
  }
  return true;
}

}  // namespace qwen3
