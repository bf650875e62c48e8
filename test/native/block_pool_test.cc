// The block pool against a model of it that keeps whole token sequences, under random use; and its rules one by one.

#include <algorithm>
#include <stdexcept>

#include "engine/block_pool.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

// A sequence as the scheduler keeps it.
struct Holder {
  CacheNamespace ns;
  std::vector<int32_t> tokens, blocks;
  int64_t computed = 0;
};

void release(BlockPool& pool, Holder& h, bool keep_tail = true) {
  const int64_t full = h.computed / kBlockSize, rest = h.computed % kBlockSize;
  if (keep_tail && rest > 0) {
    pool.insert(
        h.ns, full > 0 ? h.blocks[static_cast<size_t>(full) - 1] : -1,
        std::span<const int32_t>(h.tokens).subspan(static_cast<size_t>(full * kBlockSize), static_cast<size_t>(rest)),
        h.blocks[static_cast<size_t>(full)]);
  }
  for (size_t i = h.blocks.size(); i-- > 0;) pool.release(h.blocks[i]);
  h.blocks.clear();
  h.computed = 0;
}

// Computes tokens up to `end`, recording full blocks. False when blocks ran out.
bool compute(BlockPool& pool, Holder& h, int64_t end) {
  while (static_cast<int64_t>(h.blocks.size()) * kBlockSize < end) {
    const int32_t block = pool.allocate();
    if (block < 0) return false;
    h.blocks.push_back(block);
  }
  const int64_t before = h.computed / kBlockSize;
  h.computed = end;
  for (int64_t i = before; i < end / kBlockSize; ++i) {
    int32_t& block = h.blocks[static_cast<size_t>(i)];
    block =
        pool.insert(h.ns, i > 0 ? h.blocks[static_cast<size_t>(i) - 1] : -1,
                    std::span<const int32_t>(h.tokens).subspan(static_cast<size_t>(i * kBlockSize), kBlockSize), block);
  }
  return true;
}

int64_t adopt(BlockPool& pool, Holder& h) {
  const PrefixHit hit = pool.match(h.ns, h.tokens, static_cast<int64_t>(h.tokens.size()) - 1);
  h.blocks = hit.blocks;
  h.computed = static_cast<int64_t>(hit.blocks.size()) * kBlockSize;
  int64_t found = h.computed;
  if (hit.partial_block >= 0) {
    found += hit.partial_tokens;
    const int32_t copy = pool.allocate();
    if (copy >= 0) {
      h.blocks.push_back(copy);
      h.computed = found;
    }
    pool.release(hit.partial_block);
  }
  return found;
}

std::vector<int32_t> counting(int32_t from, int32_t n) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), from);
  return out;
}

void hits_are_exact() {
  BlockPool pool(20, true);
  Holder a{{1, 0}, counting(0, 300), {}};
  CHECK(adopt(pool, a) == 0);
  CHECK(compute(pool, a, 300));
  pool.check();
  CHECK(pool.free_blocks() == 15 && pool.cached_blocks() == 0);

  Holder running{{1, 0}, counting(0, 300), {}};  // while a runs: its full blocks
  CHECK(adopt(pool, running) == 256);
  CHECK(std::equal(running.blocks.begin(), running.blocks.begin() + 4, a.blocks.begin()));
  release(pool, running);
  release(pool, a);
  CHECK(pool.cached_blocks() == 5 && pool.available() == 20);

  Holder turn_two{{1, 0}, counting(0, 400), {}};  // everything, the partly filled block copied
  CHECK(adopt(pool, turn_two) == 300);
  CHECK(turn_two.blocks.size() == 5);
  release(pool, turn_two);
  Holder again{{1, 0}, counting(0, 300), {}};  // one token is always left to compute
  CHECK(adopt(pool, again) == 299);
  release(pool, again);
  Holder fork{{1, 0}, counting(0, 300), {}};  // differs inside the third block
  for (size_t i = 150; i < 300; ++i) fork.tokens[i] += 1000;
  CHECK(adopt(pool, fork) == 150);
  CHECK(compute(pool, fork, 300));
  release(pool, fork);
  Holder first{{1, 0}, counting(1, 64), {}};
  CHECK(adopt(pool, first) == 0);
  for (const CacheNamespace& other : {CacheNamespace{2, 0}, CacheNamespace{1, 1}}) {
    Holder stranger{other, counting(0, 300), {}};
    CHECK(adopt(pool, stranger) == 0);
  }
  pool.check();
  CHECK(pool.available() == 20);
}

// Two sequences that compute the same block keep one copy.
void equal_blocks_are_shared() {
  BlockPool pool(10, true);
  Holder a{{0, 0}, counting(0, 128), {}}, b{{0, 0}, counting(0, 128), {}};
  CHECK(compute(pool, a, 64) && compute(pool, b, 128) && compute(pool, a, 128));
  CHECK(a.blocks == b.blocks && pool.free_blocks() == 8);
  CHECK(pool.references(a.blocks[0]) == 2);
  release(pool, a);
  CHECK(pool.cached_blocks() == 0);
  release(pool, b);
  CHECK(pool.cached_blocks() == 2 && pool.available() == 10);
  pool.check();
}

// Least recently used first, and a block never before those that follow it.
void evicts_in_order() {
  BlockPool pool(6, true);
  Holder a{{0, 0}, counting(0, 128), {}}, b{{0, 0}, counting(500, 128), {}}, c{{0, 0}, counting(900, 128), {}};
  for (Holder* h : {&a, &b, &c}) {
    CHECK(compute(pool, *h, 128));
    release(pool, *h);
  }
  Holder touch{{0, 0}, counting(0, 128), {}};
  CHECK(adopt(pool, touch) == 127);
  release(pool, touch);  // order now b, c, a; two were evicted for the copy: b's second, then nothing else
  Holder big{{0, 0}, counting(2000, 128), {}};
  CHECK(compute(pool, big, 128));
  Holder probe_b{{0, 0}, counting(500, 128), {}}, probe_a{{0, 0}, counting(0, 128), {}};
  CHECK(adopt(pool, probe_b) == 0);
  CHECK(adopt(pool, probe_a) >= 64);
  release(pool, probe_a);
  release(pool, big);
  pool.check();
}

void off_and_misuse() {
  BlockPool pool(2, false);
  Holder a{{0, 0}, counting(0, 128), {}};
  CHECK(compute(pool, a, 128));
  CHECK(pool.allocate() == -1);
  const int32_t block = a.blocks[0];
  release(pool, a);
  CHECK(pool.free_blocks() == 2 && pool.cached_blocks() == 0);
  CHECK(adopt(pool, a) == 0);
  bool thrown = false;
  try {
    pool.release(block);
  } catch (const std::logic_error&) {
    thrown = true;
  }
  CHECK(thrown);
}

// Random holders over few distinct prefixes: counts hold, hits are true prefixes of something computed in that
// namespace and never longer than the longest such, and nothing leaks.
void random_use(Random& random, int steps) {
  const int32_t n_blocks = static_cast<int32_t>(random.between(4, 40));
  BlockPool pool(n_blocks, true);
  std::vector<Holder> live;
  std::vector<Holder> history;
  for (int step = 0; step < steps; ++step) {
    const int64_t what = random.between(0, 9);
    if (what < 4) {
      Holder h;
      h.ns = {static_cast<uint64_t>(random.between(0, 1)), static_cast<int32_t>(random.between(0, 1))};
      for (int64_t part = random.between(1, 4); part > 0; --part) {
        const std::vector<int32_t> more =
            counting(static_cast<int32_t>(random.between(0, 2) * 100), static_cast<int32_t>(random.between(1, 100)));
        h.tokens.insert(h.tokens.end(), more.begin(), more.end());
      }
      const int64_t found = adopt(pool, h);
      int64_t longest = 0;
      for (const Holder& old : history) {
        if (old.ns != h.ns) continue;
        const size_t limit = std::min({old.tokens.size(), h.tokens.size() - 1, static_cast<size_t>(old.computed)});
        size_t common = 0;
        while (common < limit && old.tokens[common] == h.tokens[common]) ++common;
        longest = std::max(longest, static_cast<int64_t>(common));
      }
      CHECK(found <= longest && found < static_cast<int64_t>(h.tokens.size()));
      live.push_back(std::move(h));
    } else if (!live.empty()) {
      const size_t i = static_cast<size_t>(random.between(0, static_cast<int64_t>(live.size()) - 1));
      Holder& h = live[i];
      const int64_t end = std::min<int64_t>(static_cast<int64_t>(h.tokens.size()), h.computed + random.between(1, 150));
      const bool fits = what < 8 && end > h.computed ? compute(pool, h, end) : false;
      if (fits) {
        history.push_back(h);
      } else {
        release(pool, h, random.between(0, 4) > 0);
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    pool.check();
  }
  for (Holder& h : live) release(pool, h);
  pool.check();
  CHECK(pool.available() == n_blocks);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  hits_are_exact();
  equal_blocks_are_shared();
  evicts_in_order();
  off_and_misuse();
  for (int i = 0; i < 20; ++i) random_use(random, 300);
  return run.finish();
}
