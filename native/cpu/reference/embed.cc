#include <algorithm>

#include "cpu/reference/reference.h"

namespace qwen3::reference {

// out[r, :] = table[tokens[r], :]
void embed(std::span<const int32_t> tokens, const ReferenceWeight& table, Activation& out) {
  for (size_t r = 0; r < tokens.size(); ++r) {
    std::copy_n(table.row(tokens[r]), table.cols, out.row(static_cast<int64_t>(r)));
  }
}

}  // namespace qwen3::reference
