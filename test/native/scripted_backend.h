#pragma once

// A backend whose model is a function from all tokens so far to the next one. Its KV cache stores the token of every
// position, and a step reads the whole sequence back through the block table: a block that is wrong, stale or unwritten
// gives another text or throws. Makes the engine's behaviour testable step by step, and storms of requests cheap.

#include <stdexcept>

#include "core/thread_pool.h"
#include "model/model.h"
#include "testing.h"

namespace qwen3::testing {

struct Script {
  // The most likely next token after `tokens` (all of the sequence, from position 0).
  std::function<int32_t(const std::vector<int32_t>& tokens, int32_t rope_table)> next;
  std::function<void(const StepBatch& batch)> before_run;  // may throw
  std::function<void(int64_t logits_row, const std::vector<int32_t>& tokens, float* logits)>
      after_row;  // may spoil a row
  int64_t runs = 0, rows = 0, max_rows = 0, copies = 0;
};

class ScriptedCache final : public KvCache {
 public:
  explicit ScriptedCache(int64_t n_blocks, Script& script)
      : tokens(static_cast<size_t>(n_blocks * kBlockSize), -1), script_(script) {}
  void copy_block(int32_t from, int32_t to, int32_t n) override {
    ++script_.copies;
    for (int32_t i = 0; i < n; ++i) at(to, i) = at(from, i);
  }
  void poison_block(int32_t block) override {
    for (int32_t i = 0; i < kBlockSize; ++i) at(block, i) = -1;
  }
  int32_t& at(int32_t block, int32_t offset) {
    return tokens.at(static_cast<size_t>(block) * kBlockSize + static_cast<size_t>(offset));
  }
  std::vector<int32_t> tokens;

 private:
  Script& script_;
};

class ScriptedExecutable final : public Executable {
 public:
  ScriptedExecutable(Script& script, int32_t vocab, int64_t max_rows)
      : script_(script), vocab_(vocab), max_rows_(max_rows) {}
  void run(const StepBatch& batch, KvCache& cache_base, float* logits) override {
    auto& cache = dynamic_cast<ScriptedCache&>(cache_base);
    if (static_cast<int64_t>(batch.tokens.size()) > max_rows_) throw std::logic_error("more rows than compiled for");
    ++script_.runs;
    script_.rows += static_cast<int64_t>(batch.tokens.size());
    script_.max_rows = std::max(script_.max_rows, static_cast<int64_t>(batch.tokens.size()));
    if (script_.before_run) script_.before_run(batch);
    size_t next_logit = 0;
    for (const StepSequence& s : batch.sequences) {
      for (int32_t i = 0; i < s.n_rows; ++i) {
        const int32_t p = s.position_begin + i;
        cache.at(s.block_table[static_cast<size_t>(p / kBlockSize)], p % kBlockSize) =
            batch.tokens[static_cast<size_t>(s.row_begin + i)];
      }
      for (; next_logit < batch.logits_rows.size() && batch.logits_rows[next_logit] < s.row_begin + s.n_rows;
           ++next_logit) {
        const int32_t p = s.position_begin + batch.logits_rows[next_logit] - s.row_begin;
        std::vector<int32_t> tokens;
        for (int32_t i = 0; i <= p; ++i) {
          tokens.push_back(cache.at(s.block_table[static_cast<size_t>(i / kBlockSize)], i % kBlockSize));
          if (tokens.back() < 0) throw std::logic_error("an unwritten slot of the cache was read");
        }
        float* const row = logits + next_logit * static_cast<size_t>(vocab_);
        std::fill(row, row + vocab_, 0.0f);
        row[script_.next(tokens, s.rope_table)] = 30;
        if (script_.after_row) script_.after_row(static_cast<int64_t>(next_logit), tokens, row);
      }
    }
  }
  void observe(Observer) override {}
  void for_each(int64_t n, const std::function<void(int64_t)>& task) override {
    pool_.run([&](ThreadPool::Team& team) { team.for_each(n, task); });
  }
  int host_threads() const override { return pool_.size(); }

 private:
  ThreadPool pool_{2};
  Script& script_;
  int32_t vocab_;
  int64_t max_rows_;
};

class ScriptedBackend final : public Backend {
 public:
  Script script;
  int32_t rows_of_prefill = 512;
  std::string_view name() const override { return "scripted"; }
  int32_t prefill_rows(const Program&) const override { return rows_of_prefill; }
  int64_t packed_bytes(WeightUse, WeightFormat, int64_t, int64_t) const override { return 1; }
  std::unique_ptr<Weight> pack(WeightUse, WeightFormat, std::span<const MatrixSource>) override {
    return std::make_unique<Weight>();
  }
  int64_t kv_block_bytes(const Program&, DType) const override { return kBlockSize * 4; }
  std::unique_ptr<KvCache> create_kv_cache(const Program&, DType, int64_t n_blocks) override {
    return std::make_unique<ScriptedCache>(n_blocks, script);
  }
  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::vector<std::shared_ptr<const Weight>>, int64_t max_rows, int64_t) override {
    return std::make_unique<ScriptedExecutable>(script, program->vocab, max_rows);
  }
};

// A text that depends on every token before it: a hash chain.
inline int32_t hashed_next(const std::vector<int32_t>& tokens, int32_t rope_table, int32_t vocab) {
  uint64_t hash = 0xcbf29ce484222325u + static_cast<uint64_t>(rope_table) * 77;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
  return static_cast<int32_t>((hash >> 20) % static_cast<uint64_t>(vocab));
}

}  // namespace qwen3::testing
