#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "ops/step.h"

namespace qwen3 {

// Whose blocks may be shared with whom. Weights and KV type are the same within a pool, so they need no part in it.
struct CacheNamespace {
  uint64_t tenant = 0;     // Request::cache_namespace
  int32_t rope_table = 0;  // a scaled key is another key
  auto operator<=>(const CacheNamespace&) const = default;
};

// The part of a prompt that is in the cache already.
struct PrefixHit {
  std::vector<int32_t> blocks;  // full blocks, retained for the caller
  int32_t partial_block = -1;   // one more block whose first partial_tokens positions match; retained, to be copied
  int32_t partial_tokens = 0;
};

// The physical KV blocks of an engine: reference counts, and a tree of blocks whose contents are known. A tree node is
// a block of up to 64 tokens below the block that precedes it; a path from the root is a token sequence. Matches
// compare token ids. A block is free, in use (references > 0) or cached (no reference, in the tree); cached blocks are
// evicted in order of last use. Every use of a block uses its ancestors too and releases go from the last block to the
// first, so descendants are always evicted before their ancestors. Not thread safe.
class BlockPool {
 public:
  BlockPool(int32_t n_blocks, bool prefix_cache);

  // A block with one reference whose contents are unknown; evicts the longest unused cached block. -1: all are in use.
  int32_t allocate();
  void retain(int32_t block);
  // Releases one reference; the last one leaves the block cached when it is in the tree, free otherwise.
  void release(int32_t block);

  // Longest cached prefix of tokens[0, max_tokens), full blocks and then a part of one.
  PrefixHit match(const CacheNamespace& ns, std::span<const int32_t> tokens, int64_t max_tokens);

  // Records that `block` (in use) holds the keys and values of tokens[0, n), n <= 64, after `parent` (a full block of
  // the tree; -1 = at the start). Returns the block to use from now on: when an equal block is in the tree already,
  // that one, with the caller's reference moved to it. A block that is a part of a known one is not recorded.
  int32_t insert(const CacheNamespace& ns, int32_t parent, std::span<const int32_t> tokens, int32_t block);

  int32_t total() const { return static_cast<int32_t>(nodes_.size()); }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached_blocks() const { return n_cached_; }
  int32_t available() const { return free_blocks() + n_cached_; }
  int32_t references(int32_t block) const { return nodes_[block].references; }
  // Changes whenever a block became available.
  uint64_t version() const { return version_; }
  // For tests: throws std::logic_error when counts, lists and tree contradict each other.
  void check() const;

 private:
  struct Node {
    int32_t references = 0;
    int32_t n_tokens = 0;                                             // 0: not in the tree
    int32_t parent = -1, first_child = -1, next = -1, previous = -1;  // siblings, newest first
    int32_t lru_next = -1, lru_previous = -1;
    int32_t* head = nullptr;  // of the sibling list, for children of a root
  };
  int32_t& head_of(int32_t node);
  void unlink_from_tree(int32_t node);
  void lru_push(int32_t node);
  void lru_remove(int32_t node);
  std::pair<int32_t, int32_t> best_child(int32_t first, std::span<const int32_t> tokens) const;

  std::vector<Node> nodes_;                              // [n_blocks]
  std::vector<std::array<int32_t, kBlockSize>> tokens_;  // [n_blocks][64], the first n_tokens are valid
  std::vector<int32_t> free_;
  std::map<CacheNamespace, int32_t> roots_;  // first child; empty roots are erased
  int32_t lru_first_ = -1, lru_last_ = -1, n_cached_ = 0;
  uint64_t version_ = 0;
  bool prefix_cache_;
};

}  // namespace qwen3
