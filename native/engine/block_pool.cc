#include "engine/block_pool.h"

#include <algorithm>
#include <stdexcept>

namespace qwen3 {

BlockPool::BlockPool(int32_t n_blocks, bool prefix_cache)
    : nodes_(n_blocks), tokens_(n_blocks), prefix_cache_(prefix_cache) {
  free_.reserve(n_blocks);
  for (int32_t block = n_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockPool::allocate() {
  int32_t block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (lru_first_ >= 0) {
    block = lru_first_;
    lru_remove(block);
    unlink_from_tree(block);
  } else {
    return -1;
  }
  nodes_[block].references = 1;
  return block;
}

void BlockPool::retain(int32_t block) {
  if (nodes_[block].references++ == 0) lru_remove(block);
}

void BlockPool::release(int32_t block) {
  Node& node = nodes_[block];
  if (node.references <= 0) throw std::logic_error("a KV block was released more often than retained");
  if (--node.references > 0) return;
  ++version_;
  if (node.n_tokens > 0) {
    lru_push(block);
  } else {
    free_.push_back(block);
  }
}

// The child that shares the most leading tokens, and how many; of equals the newest.
std::pair<int32_t, int32_t> BlockPool::best_child(int32_t first, std::span<const int32_t> tokens) const {
  int32_t best = -1, best_common = 0;
  for (int32_t child = first; child >= 0; child = nodes_[child].next) {
    const auto& stored = tokens_[child];
    const int32_t n = static_cast<int32_t>(std::min<size_t>(nodes_[child].n_tokens, tokens.size()));
    const int32_t common =
        static_cast<int32_t>(std::mismatch(tokens.begin(), tokens.begin() + n, stored.begin()).first - tokens.begin());
    if (common > best_common) best = child, best_common = common;
    if (best_common == kBlockSize) break;
  }
  return {best, best_common};
}

PrefixHit BlockPool::match(const CacheNamespace& ns, std::span<const int32_t> tokens, int64_t max_tokens) {
  PrefixHit hit;
  const auto root = roots_.find(ns);
  if (root == roots_.end()) return hit;
  int32_t first = root->second;
  auto rest = tokens.first(std::min<size_t>(tokens.size(), std::max<int64_t>(max_tokens, 0)));
  hit.blocks.reserve(rest.size() / kBlockSize);  // before anything is retained
  while (!rest.empty()) {
    const auto [child, common] = best_child(first, rest.first(std::min<size_t>(rest.size(), kBlockSize)));
    if (child < 0) break;
    retain(child);
    if (common < kBlockSize) {
      hit.partial_block = child;
      hit.partial_tokens = common;
      break;
    }
    hit.blocks.push_back(child);
    rest = rest.subspan(kBlockSize);
    first = nodes_[child].first_child;
  }
  return hit;
}

int32_t BlockPool::insert(const CacheNamespace& ns, int32_t parent, std::span<const int32_t> tokens, int32_t block) {
  if (!prefix_cache_ || tokens.empty()) return block;
  const int32_t n = static_cast<int32_t>(tokens.size());
  int32_t* head = nullptr;
  if (parent >= 0) {
    if (nodes_[parent].n_tokens != kBlockSize) throw std::logic_error("a KV block was recorded after an unknown block");
    head = &nodes_[parent].first_child;
  } else {
    head = &roots_.try_emplace(ns, -1).first->second;
  }
  const auto [known, common] = best_child(*head, tokens);
  if (known >= 0 && common == n) {
    if (n < kBlockSize || known == block) return block;
    retain(known);
    release(block);
    return known;
  }
  // Siblings that hold a beginning of this block only are of no further use.
  for (int32_t child = *head; child >= 0;) {
    const int32_t next = nodes_[child].next;
    const bool covered = nodes_[child].n_tokens <= n &&
                         std::equal(tokens.begin(), tokens.begin() + nodes_[child].n_tokens, tokens_[child].begin());
    if (covered && nodes_[child].references == 0) {
      lru_remove(child);
      // The list must not become empty here: that would erase the root below.
      Node& node = nodes_[child];
      if (node.previous >= 0) nodes_[node.previous].next = node.next;
      if (node.next >= 0) nodes_[node.next].previous = node.previous;
      if (*head == child) *head = node.next;
      node = Node{};
      free_.push_back(child);
      ++version_;
    }
    child = next;
  }
  Node& node = nodes_[block];
  node.n_tokens = n;
  node.parent = parent;
  node.head = parent >= 0 ? nullptr : head;
  node.first_child = -1;
  node.previous = -1;
  node.next = *head;
  if (*head >= 0) nodes_[*head].previous = block;
  *head = block;
  std::copy(tokens.begin(), tokens.end(), tokens_[block].begin());
  return block;
}

int32_t& BlockPool::head_of(int32_t node) {
  return nodes_[node].parent >= 0 ? nodes_[nodes_[node].parent].first_child : *nodes_[node].head;
}

void BlockPool::unlink_from_tree(int32_t block) {
  Node& node = nodes_[block];
  if (node.first_child >= 0) throw std::logic_error("a KV block was evicted before its descendants");
  if (node.previous >= 0) nodes_[node.previous].next = node.next;
  if (node.next >= 0) nodes_[node.next].previous = node.previous;
  if (node.previous < 0) {
    int32_t& head = head_of(block);
    head = node.next;
    if (node.parent < 0 && head < 0) {
      std::erase_if(roots_, [&](const auto& root) { return &root.second == &head; });
    }
  }
  node = Node{};
}

void BlockPool::lru_push(int32_t block) {
  Node& node = nodes_[block];
  node.lru_previous = lru_last_;
  node.lru_next = -1;
  (lru_last_ >= 0 ? nodes_[lru_last_].lru_next : lru_first_) = block;
  lru_last_ = block;
  ++n_cached_;
}

void BlockPool::lru_remove(int32_t block) {
  Node& node = nodes_[block];
  (node.lru_previous >= 0 ? nodes_[node.lru_previous].lru_next : lru_first_) = node.lru_next;
  (node.lru_next >= 0 ? nodes_[node.lru_next].lru_previous : lru_last_) = node.lru_previous;
  node.lru_previous = node.lru_next = -1;
  --n_cached_;
}

void BlockPool::check() const {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::logic_error(what);
  };
  std::vector<int32_t> seen(nodes_.size(), 0);
  for (const int32_t block : free_) {
    require(++seen[block] == 1, "a block is free twice");
    require(nodes_[block].references == 0 && nodes_[block].n_tokens == 0, "a free block is in use or in the tree");
  }
  int32_t cached = 0;
  for (int32_t block = lru_first_; block >= 0; block = nodes_[block].lru_next, ++cached) {
    require(++seen[block] == 1, "a block is free and cached");
    require(nodes_[block].references == 0 && nodes_[block].n_tokens > 0, "a cached block is in use or not in the tree");
  }
  require(cached == n_cached_, "the count of cached blocks is wrong");
  for (int32_t block = 0; block < total(); ++block) {
    const Node& node = nodes_[block];
    require(node.references >= 0, "a reference count is negative");
    require((node.references > 0) == (seen[block] == 0), "a block is lost");
    if (node.parent < 0) continue;
    require(nodes_[node.parent].n_tokens == kBlockSize, "a parent is not a full block of the tree");
  }
}

}  // namespace qwen3
