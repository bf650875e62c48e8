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

// Appends an array; where it begins.
template <class T>
size_t append(std::byte* sheet, size_t& bytes, const std::vector<T>& values) {
  const size_t begin = place(bytes, values.size() * sizeof(T));
  std::copy(values.begin(), values.end(), at<T>(sheet, begin));
  return begin;
}

SamplingRow sampling_of(const qwen3_cuda_sampling& s, int32_t input_row) {
  SamplingRow row = sampling_row(s.temperature, s.top_p, s.top_k, s.min_p);
  row.presence_penalty = s.presence_penalty, row.frequency_penalty = s.frequency_penalty;
  row.repetition_penalty = s.repetition_penalty;
  row.seed = s.seed, row.position = s.position, row.choice = s.choice;
  row.input_row = s.counts_input ? input_row : -1;
  row.logprobs = s.top_logprobs + 1;
  return row;
}

}  // namespace

void StepTables::plan(const qwen3_cuda_batch& batch) {
  sequences_.clear(), row_of_.clear(), ranges_.clear();
  for (const bool decode : {true, false}) {
    const int begin = n_rows();
    for (int32_t i = 0; i < batch.n_sequences; ++i) {
      const qwen3_cuda_sequence& s = batch.sequences[i];
      if (s.n_rows == 0 || (s.decode && !one_class_) != decode) continue;
      if (decode && s.n_rows > kMostDecodeRows) {
        throw Error(ErrorCode::kInternal, "a sequence decodes " + std::to_string(s.n_rows) +
                                              " rows in one step, at most " + std::to_string(kMostDecodeRows) +
                                              " can be");
      }
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
  if (prefill_grid_ > 0) share_prefill(heads_, prefill_grid_, schedule_);
}

StepTables::Layout StepTables::layout(int rows) {
  const auto n = static_cast<size_t>(rows);
  size_t bytes = 0;
  Layout l{};
  l.tokens = place(bytes, n * 4), l.positions = place(bytes, n * 4), l.slots = place(bytes, n * 4);
  l.ropes = place(bytes, n * 4), l.logits_rows = place(bytes, n * 4), l.counts = place(bytes, 8);
  l.sequences = place(bytes, n * sizeof(AttentionSequence));
  l.sampling = place(bytes, n * sizeof(SamplingRow));
  l.tiles = bytes;
  return l;
}

// As many as there may be tiles: a block without one costs the launch of the kernel behind.
int StepTables::decode_blocks(int bucket) const {
  return std::max(bucket, std::min(decode_grid_, bucket * kMostSplits));
}

// Tiles: as many as of prefill, at most, whose tasks take a word each. The blocks of a bucket read as many as they are.
size_t StepTables::sheet_bytes(int rows, size_t tiles, size_t blocks, size_t adjustments) const {
  size_t bytes = layout(rows).tiles;
  static_assert(sizeof(DecodeTile) == kAlign && sizeof(AttentionTile) <= kAlign);
  place(bytes, std::max(tiles, static_cast<size_t>(decode_blocks(rows))) * kAlign), place(bytes, blocks * 4);
  if (prefill_grid_ > 0)
    place(bytes, (tiles * static_cast<size_t>(heads_.n_kv_heads) + static_cast<size_t>(prefill_grid_) + 1) * 4);
  place(bytes, adjustments * sizeof(TokenAdjustment));
  return bytes;
}

bool StepTables::reserve(int rows, size_t tiles, size_t blocks, size_t adjustments) {
  const size_t bytes = sheet_bytes(rows, tiles, blocks, adjustments);
  if (bytes <= sheets_[0].host.bytes()) return false;
  const size_t grown = bytes + bytes / 2;
  Sheet first{PinnedBuffer(grown), DeviceBuffer(grown)}, second{PinnedBuffer(grown), DeviceBuffer(grown)};
  sheets_ = {std::move(first), std::move(second)};
  return true;
}

bool StepTables::reserve_planned(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket) {
  size_t adjustments = 0;
  for (int32_t i = 0; sampling && i < batch.n_logits; ++i)
    adjustments += static_cast<size_t>(sampling[i].n_adjustments);
  return reserve(std::max(bucket, n_rows()), schedule_.decode.size() + schedule_.prefill.size(),
                 schedule_.block_table.size(), adjustments);
}

// Rows beyond the step's own are padding: token 0 at position 0, appended nowhere.
void StepTables::write_rows(const qwen3_cuda_batch& batch, int rows, std::byte* to) const {
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
    slots[row] = -1;
  }
  for (int i = 0; i < rows; ++i)
    logits_rows[i] = i < batch.n_logits ? device_row_[static_cast<size_t>(batch.logits_rows[i])] : i;
  at<int32_t>(to, l.counts)[0] = n_rows();
  at<int32_t>(to, l.counts)[1] = static_cast<int32_t>(schedule_.decode.size());
}

// bytes: of the sheet so far; adjustments go behind them. Rows find theirs by indices from the sheet's beginning.
void StepTables::write_sampling(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int rows,
                                std::byte* sheet, size_t& bytes) const {
  auto* const out = at<SamplingRow>(sheet, layout(rows).sampling);
  auto* const adjustments = at<TokenAdjustment>(sheet, 0);
  const size_t begin = bytes / sizeof(TokenAdjustment);
  size_t next = begin;
  for (int i = 0; i < rows; ++i) {
    if (i >= batch.n_logits) {
      out[i] = SamplingRow{};
      out[i].temperature = -1;  // padding
      continue;
    }
    const qwen3_cuda_sampling& s = sampling[i];
    out[i] = sampling_of(s, device_row_[static_cast<size_t>(batch.logits_rows[i])]);
    out[i].adjustments_begin = static_cast<int32_t>(next);
    for (int32_t a = 0; a < s.n_adjustments; ++a) {
      const qwen3_cuda_adjustment& from = s.adjustments[a];
      adjustments[next++] = {from.id, from.bias, from.count, from.banned};
    }
    out[i].adjustments_end = static_cast<int32_t>(next);
  }
  place(bytes, (next - begin) * sizeof(TokenAdjustment));
}

void StepTables::upload(const qwen3_cuda_batch& batch, const qwen3_cuda_sampling* sampling, int bucket, int index,
                        Stream stream) {
  const int rows = bucket > 0 ? bucket : n_rows();
  const Sheet& to = sheets_[static_cast<size_t>(index)];
  auto* const sheet = to.host.as<std::byte>();
  const Layout l = layout(rows);
  write_rows(batch, rows, sheet);
  size_t bytes = l.tiles;
  auto* const decode = at<DecodeTile>(sheet, append(sheet, bytes, schedule_.decode));
  append(sheet, bytes, schedule_.prefill);
  if (prefill_grid_ > 0) append(sheet, bytes, schedule_.tasks);
  const auto table = static_cast<int32_t>(append(sheet, bytes, schedule_.block_table) / 4);
  auto* const sequences = at<AttentionSequence>(sheet, l.sequences);
  std::copy(schedule_.sequences.begin(), schedule_.sequences.end(), sequences);
  for (size_t i = 0; i < schedule_.sequences.size(); ++i) sequences[i].table_begin += table;
  for (size_t i = 0; i < schedule_.decode.size(); ++i) decode[i].table_begin += table;
  if (sampling) write_sampling(batch, sampling, rows, sheet, bytes);
  copy_to_device(stream, to.device.as<void>(), sheet, bytes);
}

StepView StepTables::view_of(int rows, int index) const {
  const Layout l = layout(rows);
  auto* const sheet = sheets_[static_cast<size_t>(index)].device.as<std::byte>();
  StepView v;
  v.n_rows = v.n_logits = rows;
  v.given = at<int32_t>(sheet, l.tokens);
  v.rows = {at<int32_t>(sheet, l.positions), at<int32_t>(sheet, l.slots), at<int32_t>(sheet, l.ropes)};
  v.logits_rows = at<int32_t>(sheet, l.logits_rows);
  v.sampling = at<SamplingRow>(sheet, l.sampling);
  v.adjustments = at<TokenAdjustment>(sheet, 0);
  v.decode = {at<int32_t>(sheet, 0), at<DecodeTile>(sheet, l.tiles)};
  v.prefill.sequences = at<AttentionSequence>(sheet, l.sequences), v.prefill.block_table = at<int32_t>(sheet, 0);
  return v;
}

StepView StepTables::bucket_view(int bucket, int sheet) const {
  StepView v = view_of(bucket, sheet);
  const auto* const counts =
      at<int32_t>(sheets_[static_cast<size_t>(sheet)].device.as<std::byte>(), layout(bucket).counts);
  v.ranges = {{0, bucket, true}};
  v.valid_rows = counts;
  v.decode.count = counts + 1, v.decode.n_tiles = decode_blocks(bucket);
  return v;
}

StepView StepTables::view(const qwen3_cuda_batch& batch, int sheet) const {
  StepView v = view_of(n_rows(), sheet);
  v.n_logits = batch.n_logits;
  v.ranges = ranges_;
  v.decode.n_tiles = static_cast<int>(schedule_.decode.size());
  v.prefill.n_tiles = static_cast<int>(schedule_.prefill.size());
  // As upload() appends them.
  auto* const device = sheets_[static_cast<size_t>(sheet)].device.as<std::byte>();
  size_t bytes = layout(n_rows()).tiles;
  place(bytes, schedule_.decode.size() * sizeof(DecodeTile));
  v.prefill.tiles = at<AttentionTile>(device, place(bytes, schedule_.prefill.size() * sizeof(AttentionTile)));
  v.prefill.tasks = at<int32_t>(device, bytes);
  return v;
}

}  // namespace qwen3::cuda
