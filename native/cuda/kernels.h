#pragma once

// The launchers of every kernel. Shapes in brackets, row major; bf16 tensors and weights, f32 residual stream and
// accumulation. All pointers are device memory, 16-byte aligned; the caller has checked shapes (executable.cc).

#include <cstdint>

#include "cuda/ptx/types.h"

namespace qwen3::cuda {

// out[r, i] = x[r, i] / sqrt(mean_j x[r, j]^2 + eps) * weight[i]. x: f32 [n_rows, hidden], out: bf16; hidden % 4 == 0,
// at most kMaxNormWidth. With `add` (f32, same shape, may be null): x += add first, written back.
constexpr int kMaxNormWidth = 8192;
void rms_norm(Stream stream, float* x, const float* add, const float* weight, int n_rows, int hidden, float eps,
              Bf16* out);

// Where each row of a step belongs. All arrays in device memory, [n_rows].
struct RowMap {
  const int32_t* position;    // absolute
  const int32_t* slot;        // physical block * 64 + position % 64: where K and V of the row go
  const int32_t* rope_table;  // 0 or 1
};

// What a step does before its first layer. tokens[r] = given[r] >= 0 ? given[r] : drawn[-1 - given[r]], never negative;
// out[r, :] = table[tokens[r], :]; cos and sin of the row's position from angles formed in f64.
struct StepBegin {
  const int32_t* given;  // [n_rows]
  const int32_t* drawn;  // by the step before: the host need not have seen it yet
  RowMap rows;
  const double* inv_freq;  // [n_tables, head_dim / 2]
  const double* factor;    // [n_tables]
  const Bf16* table;       // [vocab, hidden]; hidden % 8 == 0
  int hidden, head_dim;
  int32_t* tokens;  // [n_rows]
  float* cos;       // [n_rows, head_dim / 2]
  float* sin;
  float* out;  // [n_rows, hidden]
};
void begin_step(Stream stream, const StepBegin& operands, int n_rows);

struct HeadShape {
  int n_q_heads, n_kv_heads, head_dim;  // head_dim: 32, 64 or 128
};

// K and V of one layer: bf16 [n_blocks, n_kv_heads, 64, head_dim] each.
struct KvLayer {
  Bf16* keys;
  Bf16* values;
};

// q' = rope(rms_norm(q, q_norm)), k' likewise; k' and v into the cache, q' to q_out.
struct QkNormRope {
  const float* qkv;  // [n_rows, (n_q_heads + 2 n_kv_heads) * head_dim]
  const float* q_norm;
  const float* k_norm;
  const float* cos;  // from begin_step
  const float* sin;
  RowMap rows;
  HeadShape heads;
  float eps;
  Bf16* q_out;  // [n_rows, n_q_heads * head_dim]
  KvLayer cache;
};
void qk_norm_rope_append(Stream stream, const QkNormRope& operands, int n_rows);

enum class Output : uint8_t {
  kStoreF32,  // out f32 = x W^T
  kAddF32,    // out f32 += x W^T
  kSiluMul,   // weight rows come as 8 of gate, 8 of up, ...: out bf16 [n_rows, n / 2] = silu(x gate^T) * (x up^T)
};

struct LinearShape {
  int n_rows, n, k;  // n % 8 == 0 (kSiluMul: 16), k % 8 == 0
};

// out[r, :] from x[gather ? gather[r] : r, :]. x: bf16 [., k], weight: bf16 [n, k].
struct LinearOperands {
  const Bf16* x;
  const Bf16* weight;
  void* out;
  const int32_t* gather = nullptr;
};
// For many rows: tensor cores, tiles of 128 x 128.
void linear(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output);
// The same on sm_90a, by TMA and wgmma; no gather. Its tiles are 128 rows by linear_hopper_width columns: 128, 256 or
// 320, what takes the fewest cycles on so many multiprocessors. No bit of the result depends on it.
int linear_hopper_width(const LinearShape& shape, int multiprocessors);
void linear_hopper(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output,
                   int multiprocessors);
// What linear_stream takes in when rows are very few (linear_stream.cu says why), with the same bits as the kernels
// that it replaces.
struct StreamFusion {
  // rms_norm: the product is of the normalised rows of `residual`, and operands.x is not read. residual: f32 [., k].
  const float* residual = nullptr;
  const float* norm_weight = nullptr;
  float norm_eps = 0;
};
bool stream_takes_norm(int n_rows, int k);
// For few: every weight byte is read once per 64 rows, at memory speed. Sums of a row do not depend on the others.
void linear_stream(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output,
                   const StreamFusion& fusion = {});
// The same on sm_90a, by TMA and wgmma; more than kMostStreamRows rows in several launches.
constexpr int kMostStreamRows = 256;
struct StreamScratch {
  int multiprocessors = 0;
  float* parts = nullptr;  // [stream_part_elements(multiprocessors, n_rows)], n_rows at most kMostStreamRows
  // [stream_counters(n_rows, n)], zero before the first launch, and each leaves it so.
  int32_t* arrived = nullptr;
};
bool stream_on_hopper(int n, int k);  // whether it is the faster form for a weight [n, k]
int64_t stream_part_elements(int multiprocessors, int n_rows);
int64_t stream_counters(int n_rows, int n);
void linear_stream_hopper(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output,
                          const StreamScratch& scratch, const StreamFusion& fusion = {});

// --- attention ---

// One sequence of a step. block_table: physical blocks, in device memory.
struct alignas(16) AttentionSequence {
  int32_t row_begin, n_rows, position_begin;
  int32_t table_begin;  // of its blocks in the table of all sequences
};
// One tile of prefill: rows [token_begin, token_begin + n_tokens) of the sequence, keys [0, key_end).
struct alignas(16) AttentionTile {
  int32_t sequence, token_begin, n_tokens, key_end;
};
struct AttentionWork {
  const AttentionSequence* sequences;
  const int32_t* block_table;
  const AttentionTile* tiles;
  int n_tiles = 0;
  // Of attention_prefill_hopper: which block takes which (share_prefill), in device memory.
  const int32_t* tasks = nullptr;
};
// Tokens of a prefill tile: its 128 rows are (token, q head of the group), so that K and V are read once per group.
int prefill_tile_tokens(const HeadShape& heads);
// q, out: bf16 [n_rows, n_q_heads * head_dim].
void attention_prefill(Stream stream, const Bf16* q, const KvLayer& cache, const AttentionWork& work,
                       const HeadShape& heads, Bf16* out);
// The same on sm_90a, by TMA and wgmma, for head_dim 128 and groups of up to 16. n_blocks: of the cache; n_rows: of
// q. work.tasks deals the tiles to `multiprocessors` blocks.
bool prefill_on_hopper(const HeadShape& heads);
void attention_prefill_hopper(Stream stream, const Bf16* q, const KvLayer& cache, int64_t n_blocks,
                              const AttentionWork& work, const HeadShape& heads, int n_rows, int multiprocessors,
                              Bf16* out);
// A row that decodes, or one split of it: all that a block needs to find its keys, as every load that waits for another
// one is a trip to the L2.
struct alignas(32) DecodeTile {
  int32_t row;                 // of q and of the output
  int32_t new_row;             // of key new_begin, in a step that only decodes
  int32_t table_begin;         // of its sequence's blocks in the table of all sequences
  int32_t new_begin;           // keys from here on are of rows of this step: kernels of it write them
  int32_t key_begin, key_end;  // key_begin % 64 == 0; every key is visible to the row
  int32_t partial;             // index of the partial result, or -1: writes the output
  int16_t split, n_splits;
};
static_assert(sizeof(DecodeTile) == 32);
struct DecodeWork {
  const int32_t* block_table;
  const DecodeTile* tiles;
  int n_tiles = 0;
  // For launches whose shape must not depend on the step (in a graph): how many tiles there are, in device memory;
  // n_tiles blocks per KV head then share them, and there is memory for n_tiles tiles at least.
  const int32_t* count = nullptr;
};
// partials: f32 [n_partials, n_q_heads, head_dim + 8]: weighted sum,
// largest score (log2 units), sum of weights, padding. The last block to arrive joins the splits of a row, at most
// kMostSplits; arrived: i32 [n_partials, n_kv_heads], zero before the first launch, and each leaves it so.
constexpr int kMostSplits = 64;
int partial_elements(const HeadShape& heads);  // of one partial result
void attention_decode(Stream stream, const Bf16* q, const KvLayer& cache, const DecodeWork& work,
                      const HeadShape& heads, float* partials, int32_t* arrived, Bf16* out);
// The same for a step of rows that decode alone, straight from the projection: does what qk_norm_rope_append does as
// well, with the same bits; raw.q_out and raw.rows are not used. At most kMostDecodeRows rows of a sequence, a token
// and the most drafts that there can be: their keys are in the last two blocks of the cache.
constexpr int kMostDecodeRows = 65;
void attention_decode(Stream stream, const QkNormRope& raw, const DecodeWork& work, float* partials, int32_t* arrived,
                      Bf16* out);

// --- mixture of experts ---

struct MoeShape {
  int n_rows, hidden, ffn, n_experts, top_k;  // n_experts % 8 == 0, at most 256; top_k at most 16
  bool norm_topk_prob;
  // How many rows there are, in device memory; null: n_rows. What lies behind them is padding: it may be anything, and
  // no expert is run or counted for it.
  const int32_t* valid_rows = nullptr;
};
// Router: softmax over all experts of x router^T in f32, the top_k (ties to the lower id), renormalised.
// x: bf16 [n_rows, hidden], router: bf16 [n_experts, hidden]; ids: i32 [n_rows, top_k] in rank order, shares: f32.
void moe_route(Stream stream, const Bf16* x, const Bf16* router, const MoeShape& shape, int32_t* ids, float* shares);
// Counting sort of the n_rows * top_k assignments by expert, stable. order: i32 [n_rows * top_k] (row * top_k + rank),
// offsets: i32 [n_experts + 1]; load: i64-free i32 [n_experts] running totals, added to.
void moe_sort(Stream stream, const int32_t* ids, const MoeShape& shape, int32_t* order, int32_t* offsets,
              int32_t* load);

// Router and sort in one launch, for up to kMoeFewRows rows and 256 assignments: the same results to the bit.
constexpr int kMoeFewRows = 16;
// Of a layer, and of them for a token: what the router's tile has shared memory for, and kMoeFewRows rows threads.
constexpr int kMoeMostExperts = 128, kMoeMostChosen = 256 / kMoeFewRows;
struct RouteFew {
  int32_t* ids;  // as moe_route and moe_sort write them
  float* shares;
  int32_t* order;
  int32_t* offsets;
  int32_t* load;
  float* scores;     // scratch, [kMoeFewRows, n_experts]
  int32_t* arrived;  // scratch, 1; zero before the first launch, and each leaves it so
};
// rms_norm taken in: x is not read, `normed` is written, with the same bits as by rms_norm.
struct RouteNorm {
  const float* residual = nullptr;  // f32 [n_rows, hidden]
  const float* weight = nullptr;
  float eps = 0;
  Bf16* normed = nullptr;
};
bool route_takes_norm(int n_rows, int hidden);
void moe_route_few(Stream stream, const Bf16* x, const Bf16* router, const MoeShape& shape, const RouteFew& to,
                   const RouteNorm& norm = {});

struct MoeOperands {
  const Bf16* x;               // [n_rows, hidden]
  const Bf16* const* gate_up;  // [n_experts] of [2 ffn, hidden], 8 rows of gate, 8 of up, ...
  const Bf16* const* down;     // [n_experts] of [hidden, ffn]
  const int32_t* order;        // from moe_sort
  const int32_t* offsets;
  Bf16* gated;     // [n_rows * top_k, ffn], sorted by expert
  void* products;  // [n_rows * top_k, hidden], by row * top_k + rank: f32, from moe_experts_hopper bf16
  // [n_experts] in device memory: from describe_expert for moe_experts_hopper, from describe_streamed_expert for
  // moe_stream_hopper.
  const TensorMap* gate_up_maps = nullptr;
  const TensorMap* down_maps = nullptr;
  int32_t* drawn = nullptr;  // scratch of moe_experts_hopper, [2], zero before the first launch, and each leaves it so
};
// gated = silu(x gate^T) * (x up^T) and products = gated down^T for the chosen experts. few_rows: the streaming
// version.
void moe_experts(Stream stream, const MoeOperands& operands, const MoeShape& shape, bool few_rows);
// The same for many rows on sm_90a, by TMA and wgmma. Products are rounded to bf16: at f32 their way to memory and back
// would cost as much as two fifths of the matrix products.
void moe_experts_hopper(Stream stream, const MoeOperands& operands, const MoeShape& shape, int multiprocessors);
// The same products and bits by another kernel, which has the weight rows and not the token rows as the rows of its
// tiles. Not measured yet: the benchmark runs both, and the slower one is to go.
void moe_experts_hopper_swapped(Stream stream, const MoeOperands& operands, const MoeShape& shape, int multiprocessors);
TensorMap describe_expert(const Bf16* weight, int rows, int k);  // weight: bf16 [rows, k] of one expert
// The same for few rows; products are f32. What wrote the offsets must be waited for by the kernel launched last before
// this, if not by an earlier one: down reads them ahead of its wait.
// combine: moe_combine taken in where stream_takes_combine, with the same bits.
struct MoeCombine {
  const float* shares = nullptr;
  float* out = nullptr;        // as of moe_combine
  int32_t* arrived = nullptr;  // scratch, [moe_combine_counters], zero before the first launch, and each leaves it so
};
bool stream_takes_combine(int n_rows);
int64_t moe_combine_counters(int hidden);
void moe_stream_hopper(Stream stream, const MoeOperands& operands, const MoeShape& shape, int multiprocessors,
                       const MoeCombine& combine = {});
TensorMap describe_streamed_expert(const Bf16* weight, int rows, int k);
// out[r, :] += sum over ranks of shares[r, rank] * products[r * top_k + rank, :], in rank order. out: f32.
void moe_combine(Stream stream, const float* products, const float* shares, const MoeShape& shape, float* out);
void moe_combine(Stream stream, const Bf16* products, const float* shares, const MoeShape& shape, float* out);

}  // namespace qwen3::cuda
