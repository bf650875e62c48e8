#include "cuda/tables.h"

#include <algorithm>
#include <cstring>

namespace qwen3::cuda {
namespace {

constexpr size_t kAlign = 32;

size_t place(size_t& bytes, size_t n) {
  const size_t at = bytes;
  bytes += (n + kAlign - 1) / kAlign * kAlign;
  return at;
}

template <class T>
T* at(std::byte* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

template <class T>
void upload_vector(const StagedArray& array, const std::vector<T>& values, int staging, Stream stream) {
  if (values.empty()) return;
  std::memcpy(array.host(staging), values.data(), values.size() * sizeof(T));
  array.upload(stream, staging, values.size() * sizeof(T));
}

SamplingRow sampling_of(const qwen3_cuda_sampling& s, int32_t input_row) {
  SamplingRow row = sampling_row(s.temperature, s.top_p, s.top_k, s.min_p);
  row.presence_penalty = s.presence_penalty, row.frequency_penalty = s.frequency_penalty;
  row.repetition_penalty = s.repetition_penalty;
  row.seed = s.seed, row.position = s.position, row.choice = s.choice;
  row.input_row = s.counts_input ? input_row : -1;
  return row;
}

}  // namespace

bool StagedArray::reserve(size_t bytes) {
  if (bytes <= device_.bytes()) return false;
  const size_t grown = bytes + bytes / 2;
  PinnedBuffer first(grown), second(grown);
  device_ = DeviceBuffer(grown);
  host_ = {std::move(first), std::move(second)};
  return true;
}

void StagedArray::upload(Stream stream, int staging, size_t bytes) const {
  if (bytes > 0) copy_to_device(stream, device_.as<void>(), host(staging), bytes);
}

void StepTables::plan(const qwen3_cuda_batch& batch) {
  sequences_.clear(), row_of_.clear(), ranges_.clear();
  for (const bool decode : {true, false}) {
    const int begin = n_rows();
    for (int32_t i = 0; i < batch.n_sequences; ++i) {
      const qwen3_cuda_sequence& s = batch.sequences[i];
      if (s.n_rows == 0 || (s.decode && !one_class_) != decode) continue;
      sequences_.push_back({static_cast<int32_t>(row_of_.size()),
                            s.n_rows,
                            s.position_begin,
                            {s.block_table, static_cast<size_t>(s.n_blocks)},
                            s.rope_table,
                            decode});
      for (int32_t r = 0; r < s.n_rows; ++r) row_of_.push_back(s.row_begin + r);
    }
    if (n_rows() > begin) ranges_.push_back({begin, n_rows() - begin, decode});
  }
  device_row_.resize(row_of_.size());
  for (size_t i = 0; i < row_of_.size(); ++i) device_row_[static_cast<size_t>(row_of_[i])] = static_cast<int32_t>(i);
  schedule_attention(sequences_, heads_, schedule_);
}

StepTables::Layout StepTables::layout(int rows) {
  const auto n = static_cast<size_t>(rows);
  Layout l{};
  l.tokens = place(l.bytes, n * 4), l.positions = place(l.bytes, n * 4), l.slots = place(l.bytes, n * 4);
  l.ropes = place(l.bytes, n * 4), l.logits_rows = place(l.bytes, n * 4), l.counts = place(l.bytes, 8);
  l.sequences = place(l.bytes, n * sizeof(AttentionSequence));
  l.sampling = place(l.bytes, n * sizeof(SamplingRow));
  return l;
}

bool StepTables::reserve(int rows, size_t tiles, size_t blocks, size_t adjustments) {
  bool moved = rows_.reserve(layout(rows).bytes);
  moved |= blocks_.reserve(blocks * 4);
  moved |= decode_.reserve(tiles * sizeof(AttentionTile));
  moved |= prefill_.reserve(static_cast<size_t>(rows) * sizeof(AttentionTile));  // a tile has at least one row
  moved |= adjustments_.reserve(adjustments * sizeof(TokenAdjustment));
  return moved;
}

bool StepTables::reserve_planned(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket) {
  size_t adjustments = 0;
  for (int32_t i = 0; sampling && i < batch.n_logits; ++i)
    adjustments += static_cast<size_t>(sampling[i].n_adjustments);
  return reserve(std::max(bucket, n_rows()), schedule_.decode.size(), schedule_.block_table.size(), adjustments);
}

// Rows beyond the step's own are padding: token 0 at position 0, into a block of nobody.
void StepTables::write_rows(const qwen3_cuda_batch& batch, int rows, int32_t padding_block, std::byte* to) const {
  const Layout l = layout(rows);
  auto *tokens = at<int32_t>(to, l.tokens), *positions = at<int32_t>(to, l.positions),
       *slots = at<int32_t>(to, l.slots), *ropes = at<int32_t>(to, l.ropes),
       *logits_rows = at<int32_t>(to, l.logits_rows);
  int row = 0;
  for (const StepSequence& s : sequences_) {
    for (int32_t r = 0; r < s.n_rows; ++r, ++row) {
      const int32_t position = s.position_begin + r;
      tokens[row] = batch.tokens[row_of_[static_cast<size_t>(row)]];
      positions[row] = position;
      slots[row] = s.block_table[static_cast<size_t>(position / kBlockSize)] * kBlockSize + position % kBlockSize;
      ropes[row] = s.rope_table;
    }
  }
  for (; row < rows; ++row) {
    tokens[row] = positions[row] = ropes[row] = 0;
    slots[row] = padding_block * kBlockSize + row % kBlockSize;
  }
  for (int i = 0; i < rows; ++i)
    logits_rows[i] = i < batch.n_logits ? device_row_[static_cast<size_t>(batch.logits_rows[i])] : i;
  at<int32_t>(to, l.counts)[0] = n_rows();
  at<int32_t>(to, l.counts)[1] = static_cast<int32_t>(schedule_.decode.size());
  std::copy(schedule_.sequences.begin(), schedule_.sequences.end(), at<AttentionSequence>(to, l.sequences));
}

void StepTables::write_sampling(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int rows,
                                std::byte* to, int staging, size_t& n_adjustments) const {
  auto* const out = at<SamplingRow>(to, layout(rows).sampling);
  auto* const adjustments = static_cast<TokenAdjustment*>(adjustments_.host(staging));
  for (int i = 0; i < rows; ++i) {
    if (i >= batch.n_logits) {
      out[i] = SamplingRow{};
      out[i].temperature = -1;  // padding
      continue;
    }
    const qwen3_cuda_sampling& s = sampling[i];
    out[i] = sampling_of(s, device_row_[static_cast<size_t>(batch.logits_rows[i])]);
    out[i].adjustments_begin = static_cast<int32_t>(n_adjustments);
    for (int32_t a = 0; a < s.n_adjustments; ++a) {
      const qwen3_cuda_adjustment& from = s.adjustments[a];
      adjustments[n_adjustments++] = {from.id, from.bias, from.count, from.banned};
    }
    out[i].adjustments_end = static_cast<int32_t>(n_adjustments);
  }
}

void StepTables::upload(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket,
                        int32_t padding_block, int staging, Stream stream) {
  const int rows = bucket > 0 ? bucket : n_rows();
  auto* const to = static_cast<std::byte*>(rows_.host(staging));
  write_rows(batch, rows, padding_block, to);
  size_t n_adjustments = 0;
  if (sampling) write_sampling(batch, sampling, rows, to, staging, n_adjustments);
  rows_.upload(stream, staging, layout(rows).bytes);
  adjustments_.upload(stream, staging, n_adjustments * sizeof(TokenAdjustment));
  upload_vector(blocks_, schedule_.block_table, staging, stream);
  upload_vector(prefill_, schedule_.prefill, staging, stream);
  upload_vector(decode_, schedule_.decode, staging, stream);
}

StepView StepTables::view_of(int rows) const {
  const Layout l = layout(rows);
  std::byte* const base = rows_.device();
  StepView v;
  v.n_rows = v.n_logits = rows;
  v.given = at<int32_t>(base, l.tokens);
  v.rows = {at<int32_t>(base, l.positions), at<int32_t>(base, l.slots), at<int32_t>(base, l.ropes)};
  v.logits_rows = at<int32_t>(base, l.logits_rows);
  v.sampling = at<SamplingRow>(base, l.sampling);
  v.adjustments = adjustments_.device<TokenAdjustment>();
  const auto* const sequences = at<AttentionSequence>(base, l.sequences);
  v.prefill = {sequences, blocks_.device<int32_t>(), prefill_.device<AttentionTile>(), 0};
  v.decode = {sequences, blocks_.device<int32_t>(), decode_.device<AttentionTile>(), 0};
  return v;
}

StepView StepTables::bucket_view(int bucket) const {
  StepView v = view_of(bucket);
  const auto* const counts = at<int32_t>(rows_.device(), layout(bucket).counts);
  v.ranges = {{0, bucket, true}};
  v.valid_rows = counts;
  v.decode.count = counts + 1, v.decode.n_tiles = std::max(bucket, decode_grid_);
  return v;
}

StepView StepTables::view(const qwen3_cuda_batch& batch, int bucket) const {
  if (bucket > 0) return bucket_view(bucket);
  StepView v = view_of(n_rows());
  v.n_logits = batch.n_logits;
  v.ranges = ranges_;
  v.prefill.n_tiles = static_cast<int>(schedule_.prefill.size());
  v.decode.n_tiles = static_cast<int>(schedule_.decode.size());
  return v;
}

}  // namespace qwen3::cuda
