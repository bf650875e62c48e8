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
// Each output has one accumulator that walks the steps in ascending order, for any number of rows: that is what makes a
// row's bits independent of its neighbours.

constexpr int64_t kPanel = 32;     // columns of a weight panel: two 512-bit or four 256-bit vectors
constexpr int64_t kKeys = 64;      // keys of a cache block
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
  // Panels [panel_begin, panel_end) for rows [row_begin, row_end).
  void (*linear_f32_f32)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                         int64_t panel_end);
  void (*linear_f32_bf16)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                          int64_t panel_end);
  void (*linear_bf16_bf16)(const LinearArgs* args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                           int64_t panel_end);
  void (*rms_norm)(const NormArgs* args);
  void (*norm_rope)(const RopeArgs* args);
  void (*attention_f32)(const AttentionArgs* args);   // f32 cache
  void (*attention_bf16)(const AttentionArgs* args);  // bf16 cache
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
const KernelTable* kernels_avx512();
const KernelTable* kernels_avx512bf16();

}  // namespace qwen3::cpu
