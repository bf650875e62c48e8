#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace qwen3 {

// Guesses how a sequence goes on from its own text: where its last tokens stood before, the same tokens may follow
// again (prompt lookup decoding, A. Saxena 2023; the matching is that of LZ77). The longest match counts, of equal ones
// the most recent. What a match of some length is worth is learned from every token that the model chooses, drafted or
// not, so that text without repeats is not drafted for long.
//
// Constant time a token, also for hostile text; at most 16 (max_ngram - min_ngram + 1) bytes a token. Not thread safe.
class PromptLookup {
 public:
  static constexpr int32_t kMaxNgram = 16, kMaxDraft = 64;
  struct Draft {
    int32_t token;
    float chance;  // that this token and all before it in the draft are chosen
  };

  // Throws Error(kInvalidArgument, field) for values out of range.
  static void validate(const Speculation& options);

  // `options` has passed validate() and max_draft is not 0; `tokens`: the prompt.
  PromptLookup(const Speculation& options, std::span<const int32_t> tokens);

  // The last one of `tokens`, which is all of the sequence, is new. `chosen`: by the model, and not forced upon it.
  void push(std::span<const int32_t> tokens, bool chosen);

  // What may follow `tokens`, the most likely first, at most min(most, max_draft) of them; empty without a match. Valid
  // until the next call. Allocates nothing.
  std::span<const Draft> propose(std::span<const int32_t> tokens, int64_t most);

 private:
  // Where each n-gram of one length ended last. Open addressing; the n-grams themselves are read from the tokens.
  class Index {
   public:
    explicit Index(int32_t n) : n_(n) {}
    void insert(std::span<const int32_t> tokens, int64_t end);
    // Where the n-gram that ends at `end` ended before, -1 = nowhere.
    int64_t find(std::span<const int32_t> tokens, int64_t end) const;

   private:
    size_t slot_of(std::span<const int32_t> tokens, int64_t end) const;
    void grow(std::span<const int32_t> tokens);
    int32_t n_;
    size_t used_ = 0;
    std::vector<int32_t> slots_;  // position of the n-gram's last token + 1; 0 = empty
  };
  // The last `length` tokens stood before `next` as well.
  struct Match {
    int64_t next = -1;
    int32_t length = 0;
  };
  // How often a match of about this length told the next token, the latest ones weighing most.
  struct Record {
    float hits = 0, trials = 0;
  };
  static size_t class_of(int32_t length);
  float chance(int32_t length) const;
  void score(int32_t length, bool hit);
  Match find(std::span<const int32_t> tokens) const;

  int32_t max_draft_;
  std::vector<Index> indexes_;  // longest n-grams first
  std::array<Record, 8> records_;
  Match match_;
  std::vector<Draft> draft_;  // [max_draft]
};

}  // namespace qwen3
