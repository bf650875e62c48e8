#include "cuda/schedule.h"

#include <algorithm>

namespace qwen3::cuda {
namespace {

// From which position on this step writes the keys of a sequence that decodes: its own rows, or, where they are drafts
// behind the end of a prompt, the rows that are prefilled as a sequence of their own. What a step writes has one owner.
int32_t first_written(std::span<const StepSequence> sequences, const StepSequence& s) {
  const int32_t begin = s.position_begin, last = (begin - 1) / kBlockSize;
  for (const StepSequence& other : sequences) {
    if (other.decode || other.n_rows == 0 || other.position_begin + other.n_rows != begin) continue;
    if (other.block_table[static_cast<size_t>(last)] == s.block_table[static_cast<size_t>(last)])
      return other.position_begin;
  }
  return begin;
}

void add_decode(AttentionSchedule& schedule, const AttentionSequence& s, int32_t token, int32_t new_begin) {
  const int32_t n_keys = s.position_begin + token + 1;
  const int32_t size = split_keys(n_keys), n_splits = (n_keys + size - 1) / size;
  for (int32_t i = 0; i < n_splits; ++i) {
    schedule.decode.push_back({s.row_begin + token, s.row_begin, s.table_begin, new_begin, i * size,
                               std::min((i + 1) * size, n_keys), n_splits > 1 ? schedule.n_partials++ : -1,
                               static_cast<int16_t>(i), static_cast<int16_t>(n_splits)});
  }
}

void add_prefill(AttentionSchedule& schedule, int32_t sequence, const StepSequence& s, int32_t tile_tokens) {
  for (int32_t begin = 0; begin < s.n_rows; begin += tile_tokens) {
    const int32_t n = std::min(tile_tokens, s.n_rows - begin);
    schedule.prefill.push_back({sequence, begin, n, s.position_begin + begin + n});
  }
}

// Tiles of 128 keys that pass through a block, and its beginning and end.
int32_t cost_of(const AttentionTile& tile) {
  return 2 * ((tile.key_end + 127) / 128) + 1;
}

// KV heads of a sequence that run side by side. Blocks that work on the same head read the same K and V at about the
// same time; what all of them read within one tile should lie in a part of the L2 (50 MB on a Hopper, either half of
// which holds what its multiprocessors read).
constexpr int64_t kSharedBytes = 16 << 20;
int32_t heads_together(const HeadShape& heads, int32_t n_keys) {
  const int64_t bytes = int64_t{4} * n_keys * heads.head_dim;  // K and V in bf16
  return static_cast<int32_t>(std::clamp<int64_t>(kSharedBytes / bytes, 1, heads.n_kv_heads));
}

}  // namespace

int32_t split_keys(int32_t n_keys) {
  int32_t size = n_keys <= 4096 ? 256 : 512;
  while (n_keys > size * kMostSplits) size *= 2;
  return size;
}

int32_t most_splits(int32_t n_keys) {
  const auto of = [](int32_t n) { return (n + split_keys(n) - 1) / split_keys(n); };
  // The splits double in size at these numbers of keys.
  int32_t most = of(n_keys);
  for (int32_t n = 4096; n < n_keys; n = n == 4096 ? 512 * kMostSplits : n * 2) most = std::max(most, of(n));
  return most;
}

void schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, AttentionSchedule& out) {
  out.sequences.clear(), out.block_table.clear(), out.prefill.clear(), out.decode.clear();
  out.n_partials = 0;
  const int32_t tile_tokens = prefill_tile_tokens(heads);
  const bool mixed = std::any_of(sequences.begin(), sequences.end(), [](const StepSequence& s) { return !s.decode; });
  for (size_t i = 0; i < sequences.size(); ++i) {
    const StepSequence& s = sequences[i];
    const auto id = static_cast<int32_t>(i);
    out.sequences.push_back({s.row_begin, s.n_rows, s.position_begin, static_cast<int32_t>(out.block_table.size())});
    const auto n_blocks = static_cast<size_t>((s.position_begin + s.n_rows + kBlockSize - 1) / kBlockSize);
    out.block_table.insert(out.block_table.end(), s.block_table.begin(),
                           s.block_table.begin() + static_cast<std::ptrdiff_t>(n_blocks));
    if (!s.decode) add_prefill(out, id, s, tile_tokens);
    const int32_t new_begin = s.decode && mixed ? first_written(sequences, s) : s.position_begin;
    for (int32_t token = 0; s.decode && token < s.n_rows; ++token)
      add_decode(out, out.sequences.back(), token, new_begin);
  }
  // Not std::stable_sort, which allocates: ties in the order of the rows and keys.
  const auto longer = [](const DecodeTile& a, const DecodeTile& b) {
    const int32_t x = a.key_end - a.key_begin, y = b.key_end - b.key_begin;
    if (x != y) return x > y;
    return a.row != b.row ? a.row < b.row : a.key_begin < b.key_begin;
  };
  const auto sequence_first = [&](const AttentionTile& a, const AttentionTile& b) {
    if (a.sequence == b.sequence) return a.key_end != b.key_end ? a.key_end > b.key_end : a.token_begin < b.token_begin;
    const auto keys = [&](const AttentionTile& tile) {
      const AttentionSequence& s = out.sequences[static_cast<size_t>(tile.sequence)];
      return s.position_begin + s.n_rows;
    };
    return keys(a) != keys(b) ? keys(a) > keys(b) : a.sequence < b.sequence;
  };
  std::sort(out.prefill.begin(), out.prefill.end(), sequence_first);
  std::sort(out.decode.begin(), out.decode.end(), longer);
}

void share_prefill(const HeadShape& heads, int n_blocks, AttentionSchedule& s) {
  s.tasks.clear();
  if (s.prefill.empty()) return;
  s.tasks.assign(static_cast<size_t>(n_blocks) + 1, 0);
  const auto tiles = static_cast<int32_t>(s.prefill.size());
  struct Block {
    int64_t load;
    int32_t index;
    bool operator<(const Block& other) const {  // of a heap: the least is on top
      return load != other.load ? load > other.load : index > other.index;
    }
  };
  std::vector<Block> blocks;
  for (int32_t i = 0; i < n_blocks; ++i) blocks.push_back({0, i});
  std::vector<int32_t> order, owners;
  for (int32_t begin = 0, end; begin < tiles; begin = end) {
    const AttentionTile& longest = s.prefill[static_cast<size_t>(begin)];
    for (end = begin; end < tiles && s.prefill[static_cast<size_t>(end)].sequence == longest.sequence;) ++end;
    const int32_t together = heads_together(heads, longest.key_end);
    for (int32_t head = 0; head < heads.n_kv_heads; head += together) {
      for (int32_t tile = begin; tile < end; ++tile) {
        for (int32_t h = head; h < std::min(head + together, heads.n_kv_heads); ++h) {
          std::pop_heap(blocks.begin(), blocks.end());
          Block& least = blocks.back();
          order.push_back(tile * heads.n_kv_heads + h), owners.push_back(least.index);
          least.load += cost_of(s.prefill[static_cast<size_t>(tile)]);
          std::push_heap(blocks.begin(), blocks.end());
          ++s.tasks[static_cast<size_t>(owners.back()) + 1];
        }
      }
    }
  }
  const int32_t first = n_blocks + 1;
  s.tasks[0] = first;
  for (int i = 0; i < n_blocks; ++i) s.tasks[static_cast<size_t>(i) + 1] += s.tasks[static_cast<size_t>(i)];
  std::vector<int32_t> next(s.tasks.begin(), s.tasks.end() - 1);
  s.tasks.resize(static_cast<size_t>(first) + order.size());
  for (size_t i = 0; i < order.size(); ++i)
    s.tasks[static_cast<size_t>(next[static_cast<size_t>(owners[i])]++)] = order[i];
}

AttentionSchedule schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, bool one_class) {
  std::vector<StepSequence> marked(sequences.begin(), sequences.end());
  for (StepSequence& s : marked) s.decode = s.n_rows == 1 && !one_class;
  AttentionSchedule out;
  schedule_attention(marked, heads, out);
  return out;
}

}  // namespace qwen3::cuda
