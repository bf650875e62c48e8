// Products of integer weights where no instruction sums products of bytes, as linear_int.inl. What there is saturates
// at 16 bits (VPMADDUBSW), so the sums of a group, which are exact, are formed in two other ways:
//   int4   a pair of products is at most 2 * 15 * 127, and all 16 of a group that meet in a word are below 2^15: one
//          addition of words for 32 products, and one widening a group;
//   int8   as words. Activations are kept as words (KernelTable::int8_activation_bytes), each four in the order
//          0 2 1 3, so that the lower and the upper bytes of a weight's words meet them without another instruction.
//          Two products and two additions for 32; with bytes it was a sign besides.
// Tiles have 6 rows x 2 vectors: 12 accumulators, two weights, an activation and a product fill the 16 registers.

struct Int4Words : Int4 {
  template <int R, int C>
  static inline __attribute__((always_inline)) void add_group(I (&sum)[R][C], const int8_t* x, int64_t ldx,
                                                              const uint8_t* w) {
    I words[R][C];
#pragma GCC unroll 8
    for (int word = 0; word < kWords; ++word) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        I q[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          const I both = iload(w + (word * kPanel + c * W) * 4);
          q[c] = half ? ihigh_halves(both) : ilow_halves(both);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          int32_t four;
          __builtin_memcpy(&four, x + r * ldx + half * 16 + word * 4, sizeof four);
#pragma GCC unroll 8
          for (int c = 0; c < C; ++c) {
            const I products = ibyte_products(q[c], iset(four));
            words[r][c] = ikept(word + half == 0 ? products : iadd_words(words[r][c], products));
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = idot_words(sum[r][c], words[r][c], iset(0x00010001));
    }
  }
};

struct Int4OffsetWords : Int4Words {
  static constexpr int64_t kBytes = Int4Offset::kBytes;
  static constexpr bool kCorrect = Int4Offset::kCorrect;
  static constexpr bool kOffset = Int4Offset::kOffset;
  static constexpr int64_t kZeros = Int4Offset::kZeros;
};

struct Int8Words : Int8 {
  static constexpr int64_t kValue = 2;
  static constexpr bool kCorrect = true;
  template <int R, int C>
  static inline __attribute__((always_inline)) void add_group(I (&sum)[R][C], const int8_t* x, int64_t ldx,
                                                              const uint8_t* w) {
#pragma GCC unroll 16
    for (int word = 0; word < kWords; ++word) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        I q[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          const I bytes = iload(w + (word * kPanel + c * W) * 4);
          q[c] = half ? iupper_bytes(bytes) : ilower_bytes(bytes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          int32_t two;
          __builtin_memcpy(&two, x + r * ldx + (word * 2 + half) * 4, sizeof two);
#pragma GCC unroll 8
          for (int c = 0; c < C; ++c) sum[r][c] = ikept(idot_words(sum[r][c], q[c], iset(two)));
        }
      }
    }
  }
};

// As quantise; bytes that shall be words are written to the end of their room and widened from there, first group
// first.
void quantise_words(const QuantiseArgs* args) {
  if (args->value_bytes == 1) return quantise(args);
  QuantiseArgs bytes = *args;
  const int64_t n = args->n_groups * args->group;
  bytes.out = args->out + n;
  quantise(&bytes);
  for (int64_t at = 0; at < n; at += 4 * W) {
    istore_pairs(reinterpret_cast<int16_t*>(args->out) + at, iload(bytes.out + at));
  }
}
