#pragma once

#include <cstdint>

namespace qwen3::cpu {

// Inner kernels of one ISA level, as plain functions over plain structs: this header is included by files compiled for
// different instruction sets, so it holds no inline function and no member function that the linker could merge.
//
// Layouts. A product of matrices always has the shape acc[row, column] += a[row, step] * b[step, column], where a step
// is one k for f32 and a pair (2 step, 2 step + 1) for bf16, and lanes are columns:
//   weights   panels of 32 columns   [n / 32][steps][32][depth]
//   K cache   64 keys of one block   [head_dim / depth][64][depth]
//   V cache   steps are keys         [64 / depth][v_cols][depth]     v_cols = head_dim rounded up to 16
//
// An int8 cache keeps a row of K or V of one head as s8 and one f32 scale (round_row_s8 in kv_int8.h), in bytes:
//   K cache   [k_cols / 4][64][4] u8, key + 128     then [64] f32 scales    k_cols = head_dim rounded up to 4, 0 there
//   V cache   [64][v_cols] s8                       then [64] f32 scales
//
// Each output has one accumulator that walks the steps in ascending order, for any number of rows: that is what makes a
// row's bits independent of its neighbours. (Tiles of bf16 have two inside each 32 k: linear_amx.inl.)
//
// Integer weights: the k of a panel are walked in blocks of 64, and a block holds everything that belongs to it, so
// that a panel is one forward stream of bytes. Four k of a column share a 32-bit lane.
//   int8         [16 steps][32][4] u8, weight + 128                          [32] f16 scales
//   int4         2 groups of 32 k, each [4][32][4] bytes: the low half of    [2][32] f16 scales
//                byte [t][c][j] is k = 4 t + j, the high half 16 + 4 t + j
//   int4 offset  as int4                                                     then [2][32] u8 zero points, sixteenths
// A weight is scale * (q - 128), scale * (q - 8), scale * (q - zero / 16). Rows of activations are quantised to s8 with
// one f32 scale a group; the products of a group are summed exactly in int32, corrected by the sum of the group's
// activations, and folded as acc += f32(sum) * (weight scale * activation scale), groups ascending, never fused: every
// level gives the same bits.

constexpr int64_t kPanel = 32;  // columns of a weight panel: two 512-bit or four 256-bit vectors
constexpr int64_t kKeys = 64;   // keys of a cache block
constexpr int64_t kBlock = 64;  // k of a block of integer weights
constexpr int64_t kInt8BlockBytes = kBlock * kPanel + 2 * kPanel;
constexpr int64_t kInt4BlockBytes = kBlock * kPanel / 2 + 2 * 2 * kPanel;
constexpr int64_t kInt4OffsetBlockBytes = kInt4BlockBytes + 2 * kPanel;
constexpr int64_t kTileRows = 64;  // query rows (position x head of the group) that share a pass over the keys

// How an activation is kept. kRounded: the value is a bf16 but stored as f32, for levels that multiply in f32 anyway.
enum class Store : int32_t { kF32, kRounded, kBf16 };
enum class Finish : int32_t { kStore, kAddTo, kSiluMul };

struct LinearArgs {
  const void* x;       // [n_rows, x_stride], f32 or bf16; elements past k up to the next even one are 0
  int64_t x_stride;    // elements
  const void* weight;  // panels
  int64_t steps;
  int64_t n;  // columns of the output (for kSiluMul half of the weight's rows)
  void* out;  // [n_rows, out_stride]
  int64_t out_stride;
  Store store;
  Finish finish;
  // Integer weights: x is rows of QuantiseArgs::out, x_stride in bytes, steps counts blocks.
  const float* x_scales;         // [groups, x_meta_stride], a column per row of x
  const int32_t* x_corrections;  // likewise
  int64_t x_meta_stride;
};

// One row of activations to s8. A group that holds a NaN or an infinity gets a NaN for its scale: its outputs are NaN.
// A group whose largest magnitude is below 2^-100 counts as zero.
struct QuantiseArgs {
  const void* x;  // [cols]
  Store store;
  int64_t cols;
  int64_t group, n_groups;  // 32 or 64; n_groups * group >= cols, the rest is 0
  // What a correction is: -offset * (sum of the group's s8) as int32; offset 0: -(sum / 16) as f32.
  int32_t offset;
  int32_t value_bytes;   // of an element of out: 1, or KernelTable::int8_activation_bytes
  int8_t* out;           // [n_groups * group]
  float* scales;         // [n_groups], meta_stride apart
  int32_t* corrections;  // likewise
  int64_t meta_stride;
};

// How weights are quantised; the same bits on every level. Rows of n_groups groups, padded with zeros.
struct FitArgs {
  const float* w;  // [n_groups * group]
  int64_t n_groups;
  bool offset;   // choose a zero point too; otherwise it is 8
  float* scale;  // [n_groups], NaN for a group that holds a NaN or an infinity
  float* zero;   // [n_groups], multiples of 1/16 in [0, 15]
};
// q = round(w / scale + zero), clamped to [low, high].
struct EncodeArgs {
  const float* w;  // [n_groups * group]
  int64_t n_groups, group;
  const float* scale;  // [n_groups]
  const float* zero;   // [n_groups]
  float low, high;
  uint8_t* q;  // [n_groups * group]
};

struct NormArgs {
  const float* x;       // [cols]
  const float* weight;  // [cols]
  void* out;            // [cols]
  int64_t cols;
  float eps;
  Store store;
};

struct RopeArgs {
  const float* x;       // [head_dim], one head
  const float* weight;  // [head_dim] of q_norm or k_norm
  const float* cosine;  // [head_dim / 2]
  const float* sine;    // [head_dim / 2]
  void* out;            // [head_dim]
  int64_t head_dim;
  float eps;
  Store store;
};

// Rows of one sequence and the query heads of one KV head, over the keys of splits [split_begin, split_end).
struct AttentionArgs {
  const void* q;     // first row of the tile, first head of the group: [n_positions, q_stride]
  int64_t q_stride;  // elements
  Store q_store;
  int32_t n_positions;
  int32_t group;     // query heads per KV head
  int32_t position;  // absolute, of the first row
  int32_t head_dim, v_cols;
  int32_t split_keys;  // keys of a split, a multiple of 64
  int32_t split_begin, split_end;
  const int32_t* block_table;
  const void* keys;  // this layer and KV head, of block 0
  const void* values;
  int64_t k_block_stride;  // elements between blocks
  int64_t v_block_stride;
  void* out;  // [n_positions, out_stride]; null: write `partial` instead
  int64_t out_stride;
  Store out_store;
  float* partial;  // [n_positions * group, 2 + v_cols]: maximum, sum, weighted values of a single split
  void* scratch;   // attention_scratch_bytes()
};

// Folds partial results of consecutive splits into one row of the output.
struct CombineArgs {
  const float* partial;  // [n_splits], partial_stride floats apart
  int64_t partial_stride;
  int32_t n_splits;
  int32_t head_dim, v_cols;
  void* out;  // [head_dim]
  Store out_store;
  float* scratch;  // [2 + v_cols]
};

struct KernelTable {
  const char* name;
  bool bf16_products;  // products of bf16 with bf16 are native: activations of that type are kept as Store::kBf16
  int64_t row_group;   // rows of the highest register tile of a product: rows are cut into multiples of it
  // How rows for int8 weights are kept. 2: as int16, each four in the order 0 2 1 3 (linear_words.inl).
  int32_t int8_activation_bytes = 1;
  // Panels [panel_begin, panel_end) for rows [row_begin, row_end).
  void (*linear_f32_f32)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                         int64_t panel_end);
  void (*linear_f32_bf16)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                          int64_t panel_end);
  void (*linear_bf16_bf16)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                           int64_t panel_end);
  void (*linear_int8)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                      int64_t panel_end);
  void (*linear_int4)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                      int64_t panel_end);
  void (*linear_int4_offset)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                             int64_t panel_end);
  void (*quantise)(const QuantiseArgs* args);
  // Scales of groups of 64 for int8, of groups of 32 for the others.
  void (*fit_int8)(const FitArgs* args);
  void (*fit_int4)(const FitArgs* args);
  void (*encode)(const EncodeArgs* args);
  void (*rms_norm)(const NormArgs* args);
  void (*norm_rope)(const RopeArgs* args);
  void (*attention_f32)(const AttentionArgs* args);   // f32 cache
  void (*attention_bf16)(const AttentionArgs* args);  // bf16 cache
  void (*attention_int8)(const AttentionArgs* args);  // int8 cache
  void (*combine)(const CombineArgs* args);
  // probabilities[n] = softmax(logits[n]); in place allowed.
  void (*softmax)(const float* logits, int64_t n, float* probabilities);
  // out[n] += sum over i of scale[i] * rows[place[i], n], i ascending, the sum formed first. rows: [.., stride].
  void (*add_scaled)(const float* rows, int64_t stride, const int32_t* place, const float* scale, int64_t n_scales,
                     int64_t n, float* out);
};

// Scratch of one thread for attention over tiles of at most `rows` query rows.
int64_t attention_scratch_bytes(int64_t rows, int64_t head_dim);

const KernelTable* kernels_scalar();
const KernelTable* kernels_avx2();  // null where the build has none
const KernelTable* kernels_avxvnni();
const KernelTable* kernels_avx512();
const KernelTable* kernels_avx512vnni();
const KernelTable* kernels_avx512bf16();
const KernelTable* kernels_amx();

}  // namespace qwen3::cpu
