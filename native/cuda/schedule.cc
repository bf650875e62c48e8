#include "cuda/schedule.h"

#include <algorithm>

namespace qwen3::cuda {
namespace {

void add_decode(AttentionSchedule& schedule, int32_t sequence, const StepSequence& s) {
  const int32_t n_keys = s.position_begin + 1;
  const int32_t n_splits = (n_keys + kSplitSize - 1) / kSplitSize;
  if (n_splits > 1) schedule.combine.push_back({s.row_begin, schedule.n_partials, n_splits});
  for (int32_t i = 0; i < n_splits; ++i) {
    schedule.decode.push_back({sequence, 0, 1, i * kSplitSize, std::min((i + 1) * kSplitSize, n_keys),
                               n_splits > 1 ? schedule.n_partials++ : -1});
  }
}

void add_prefill(AttentionSchedule& schedule, int32_t sequence, const StepSequence& s, int32_t tile_tokens) {
  for (int32_t begin = 0; begin < s.n_rows; begin += tile_tokens) {
    const int32_t n = std::min(tile_tokens, s.n_rows - begin);
    schedule.prefill.push_back({sequence, begin, n, 0, s.position_begin + begin + n, -1});
  }
}

}  // namespace

AttentionSchedule schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, bool one_class) {
  AttentionSchedule schedule;
  const int32_t tile_tokens = prefill_tile_tokens(heads);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const StepSequence& s = sequences[i];
    const auto id = static_cast<int32_t>(i);
    schedule.sequences.push_back(
        {s.row_begin, s.n_rows, s.position_begin, static_cast<int32_t>(schedule.block_table.size())});
    const auto n_blocks = static_cast<size_t>((s.position_begin + s.n_rows + kBlockSize - 1) / kBlockSize);
    schedule.block_table.insert(schedule.block_table.end(), s.block_table.begin(),
                                s.block_table.begin() + static_cast<std::ptrdiff_t>(n_blocks));
    if (s.n_rows == 1 && !one_class) {
      add_decode(schedule, id, s);
    } else {
      add_prefill(schedule, id, s, tile_tokens);
    }
  }
  const auto longer = [](const AttentionTile& a, const AttentionTile& b) {
    return a.key_end - a.key_begin > b.key_end - b.key_begin;
  };
  std::stable_sort(schedule.prefill.begin(), schedule.prefill.end(), longer);
  std::stable_sort(schedule.decode.begin(), schedule.decode.end(), longer);
  return schedule;
}

}  // namespace qwen3::cuda
