#pragma once

/* The C interface of libqwen3_cuda.so. The library exports one function, qwen3_cuda_library; everything else is in the
 * table that it returns. Plain structs only: no C++ type and no exception crosses. Functions that can fail return 0 (or
 * a non-null handle) on success and fill `error` otherwise. Handles belong to the caller, who destroys them:
 * executables and caches before the weights and the backend that they were made with. A backend and its weights are
 * thread safe, an executable and a cache are not. Any change of this file changes the version. */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QWEN3_CUDA_ABI_VERSION 3

typedef struct {
  int32_t code; /* qwen3::ErrorCode */
  char message[1000];
  char subject[100];
} qwen3_cuda_error;

/* A device, or why it is not used. */
typedef struct {
  int32_t index;
  int32_t usable;
  int32_t driver_version;         /* 13000 = 13.0 */
  int32_t minimum_driver_version; /* of this library */
  int32_t compute_major, compute_minor;
  int32_t multiprocessors;
  int64_t memory_bytes, free_bytes;
  char name[256];
  char reason[500]; /* empty when usable */
} qwen3_cuda_device;

/* Reads rows [begin, end) of a matrix as its dtype; 0 on success. Called from several threads at once. */
typedef int32_t (*qwen3_cuda_read)(void* context, int64_t begin, int64_t end, void* out);
typedef struct {
  int64_t rows, cols;
  int32_t dtype; /* qwen3::DType */
  qwen3_cuda_read read;
  void* context;
} qwen3_cuda_source;

/* ops/program.h as plain data. */
typedef struct {
  int64_t cols;
  int32_t dtype;
} qwen3_cuda_buffer;
typedef struct {
  int32_t kind;             /* index of the alternative in qwen3::Op */
  int32_t x, out;           /* buffers; embed: x = -1; logits: out = -1; QK-Norm: out = q_out */
  int32_t weight, weight_2; /* linear, norm, table, router, q_norm; weight_2: k_norm */
  int32_t epilogue, layer, top_k, norm_topk_prob;
  float eps;
  const int32_t *gate_up, *down; /* per expert */
} qwen3_cuda_op;
typedef struct {
  const double* inv_freq; /* [head_dim / 2] */
  double factor;
} qwen3_cuda_rope_table;
typedef struct {
  int32_t n_buffers, n_ops, n_rope_tables;
  const qwen3_cuda_buffer* buffers;
  const qwen3_cuda_op* ops;
  const qwen3_cuda_rope_table* rope_tables;
  int32_t n_layers, n_q_heads, n_kv_heads, head_dim, hidden, vocab, n_experts;
} qwen3_cuda_program;

/* ops/step.h as plain data. */
typedef struct {
  int32_t row_begin, n_rows, position_begin, rope_table;
  int32_t decode; /* then n_rows is at most 65 */
  int32_t n_blocks;
  const int32_t* block_table;
} qwen3_cuda_sequence;
typedef struct {
  int32_t n_rows, n_sequences, n_logits;
  const int32_t* tokens;
  const qwen3_cuda_sequence* sequences;
  const int32_t* logits_rows;
} qwen3_cuda_batch;

/* ops/sampling.h as plain data. */
typedef struct {
  int32_t id;
  float bias;
  int32_t count, banned;
} qwen3_cuda_adjustment;
typedef struct {
  float temperature, top_p, min_p;
  int32_t top_k;
  float presence_penalty, frequency_penalty, repetition_penalty;
  int32_t choice;
  uint64_t seed, position;
  int32_t counts_input, n_adjustments;
  const qwen3_cuda_adjustment* adjustments;
  int32_t top_logprobs;
} qwen3_cuda_sampling;
typedef struct {
  float chosen;
  int32_t n;
  int32_t ids[20];
  float values[20];
} qwen3_cuda_logprobs;

/* Called after each operation but logits with the buffer that it wrote, [rows, cols] f32 on the host. */
typedef void (*qwen3_cuda_observer)(void* context, int32_t op, int64_t rows, int64_t cols, const float* values);

typedef struct qwen3_cuda_backend qwen3_cuda_backend;
typedef struct qwen3_cuda_weight qwen3_cuda_weight;
typedef struct qwen3_cuda_cache qwen3_cuda_cache;
typedef struct qwen3_cuda_executable qwen3_cuda_executable;

typedef struct {
  int32_t abi_version;
  int32_t size;        /* of this struct */
  const char* version; /* of the package */
  /* Fills up to `capacity` devices, returns how many there are; -1: no driver or one that is too old, and `error` says
   * which in one sentence. */
  int32_t (*devices)(qwen3_cuda_device* out, int32_t capacity, qwen3_cuda_error* error);
  /* full_invariance: one kernel class for prefill and decode (DESIGN: the `full` grade), slower. */
  qwen3_cuda_backend* (*create_backend)(int32_t device, int32_t full_invariance, qwen3_cuda_error* error);
  void (*destroy_backend)(qwen3_cuda_backend*);
  int64_t (*packed_bytes)(int32_t use, int32_t format, int64_t rows, int64_t cols,
                          qwen3_cuda_error* error); /* -1: error */
  qwen3_cuda_weight* (*pack)(qwen3_cuda_backend*, int32_t use, int32_t format, const qwen3_cuda_source* sources,
                             int32_t n_sources, qwen3_cuda_error* error);
  void (*destroy_weight)(qwen3_cuda_weight*);
  int64_t (*kv_block_bytes)(const qwen3_cuda_program*, int32_t dtype, qwen3_cuda_error* error); /* -1: error */
  qwen3_cuda_cache* (*create_cache)(qwen3_cuda_backend*, const qwen3_cuda_program*, int32_t dtype, int64_t n_blocks,
                                    qwen3_cuda_error* error);
  void (*destroy_cache)(qwen3_cuda_cache*);
  /* Ordered before the steps that are started later on the same cache. */
  int32_t (*copy_block)(qwen3_cuda_cache*, int32_t from, int32_t to, int32_t n_positions, qwen3_cuda_error* error);
  int32_t (*poison_block)(qwen3_cuda_cache*, int32_t block, qwen3_cuda_error* error);
  /* Copies what it needs of the program; keeps the weights' pointers. */
  qwen3_cuda_executable* (*compile)(qwen3_cuda_backend*, const qwen3_cuda_program*,
                                    const qwen3_cuda_weight* const* weights, int32_t n_weights, int64_t max_rows,
                                    int64_t max_positions, qwen3_cuda_error* error);
  void (*destroy_executable)(qwen3_cuda_executable*);
  /* Once, before steps: room for queued steps of up to decode_rows decoding rows, their graphs captured. */
  int32_t (*prepare)(qwen3_cuda_executable*, qwen3_cuda_cache*, int64_t decode_rows, qwen3_cuda_error* error);
  /* Queues a step that draws a token for each of its logits rows; a token of -1 - i stands for the i-th that the step
   * queued before draws. collect waits for the oldest queued step, of two at most, and writes its n tokens, and to
   * logprobs, null when no row asked for them, those of the rows that did. After a
   * failure nothing is queued, except when enqueue reports out of memory: then nothing of that step shows. */
  int32_t (*enqueue)(qwen3_cuda_executable*, const qwen3_cuda_batch*, const qwen3_cuda_sampling*, qwen3_cuda_cache*,
                     qwen3_cuda_error* error);
  int32_t (*collect)(qwen3_cuda_executable*, int32_t* tokens, qwen3_cuda_logprobs* logprobs, int32_t n,
                     qwen3_cuda_error* error);
  /* 1: log-probabilities of such a row come with its token; 0: they take run(). */
  int32_t (*gives_logprobs)(const qwen3_cuda_executable*, const qwen3_cuda_sampling*);
  /* With nothing queued. logits: host, [n_logits, vocab] f32. */
  int32_t (*run)(qwen3_cuda_executable*, const qwen3_cuda_batch*, qwen3_cuda_cache*, float* logits,
                 qwen3_cuda_error* error);
  void (*observe)(qwen3_cuda_executable*, qwen3_cuda_observer observer, void* context); /* null: off */
  /* [n_layers * n_experts] since the executable was made, as of the last step that was run or collected. */
  int32_t (*expert_counts)(qwen3_cuda_executable*, int64_t* out, qwen3_cuda_error* error);
} qwen3_cuda_table;

/* Null when the library cannot serve this version of the interface. Version 0 asks which one it serves: the table that
 * comes back is only good for abi_version, size and version, which stay where they are for ever. */
const qwen3_cuda_table* qwen3_cuda_library(int32_t abi_version);

#ifdef __cplusplus
}
#endif
