#include "model/weight_file.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <span>

#include "core/checked.h"
#include "core/checksum.h"
#include "core/mapped_file.h"
#include "core/new_file.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace qwen3 {
namespace {

constexpr char kMagic[8] = {'Q', 'W', 'E', 'N', '3', 'W', 'T', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kByteOrder = 0x01020304;
constexpr int64_t kAlignment = 4096;  // a page: weights can be mapped, and start on a cache line
// What a thread checks or writes between two looks at the cancel flag. Checksums are formed over such pieces, so that
// a large weight is checked by several threads.
constexpr int64_t kPieceBytes = int64_t{4} << 20;

struct Head {
  char magic[8];
  uint32_t version, byte_order;
  uint64_t file_bytes, identity_bytes, n_weights, checksum;
};

int64_t aligned(int64_t bytes, int64_t to) {
  return checked_add(bytes, to - 1) / to * to;
}

void check_cancelled(const WeightFile::Watch& watch) {
  if (watch.cancelled && watch.cancelled->load(std::memory_order_relaxed)) {
    throw Error(ErrorCode::kAborted, "loading was cancelled");
  }
}

using Bytes = std::span<const std::byte>;

// The checksum of each range: of the checksums of its pieces. `visit` is called before a piece is read, on the thread
// that will; false gives up, and then the result is empty.
std::vector<uint64_t> checksums(const std::vector<Bytes>& ranges, const std::function<bool(Bytes)>& visit) {
  struct Piece {
    size_t range;
    Bytes bytes;
  };
  std::vector<Piece> pieces;
  std::vector<size_t> first;
  for (size_t r = 0; r < ranges.size(); ++r) {
    first.push_back(pieces.size());
    for (size_t at = 0; at < ranges[r].size(); at += kPieceBytes) {
      pieces.push_back({r, ranges[r].subspan(at, std::min<size_t>(kPieceBytes, ranges[r].size() - at))});
    }
  }
  first.push_back(pieces.size());
  std::vector<uint64_t> sums(pieces.size());
  std::atomic<bool> whole{true};
  ThreadPool pool(std::min<int>(ThreadPool::default_threads(), 8));  // memory is the limit long before that
  pool.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    if (!whole.load(std::memory_order_relaxed)) return;
    if (visit(piece.bytes)) {
      sums[static_cast<size_t>(i)] = checksum(piece.bytes.data(), piece.bytes.size());
    } else {
      whole = false;
    }
  });
  std::vector<uint64_t> result;
  if (!whole) return result;
  for (size_t r = 0; r < ranges.size(); ++r) {
    result.push_back(checksum(sums.data() + first[r], (first[r + 1] - first[r]) * sizeof(uint64_t)));
  }
  return result;
}

}  // namespace

WeightFile::WeightFile(std::string path, const std::string& identity, const WeightPlan& plan, Backend& backend)
    : path_(std::move(path)), identity_(identity), plan_(plan), backend_(backend) {
  identity_.resize(static_cast<size_t>(aligned(static_cast<int64_t>(identity_.size()), 8)));
  const int64_t n = static_cast<int64_t>(plan.specs.size());
  int64_t at = static_cast<int64_t>(sizeof(Head) + identity_.size()) + n * static_cast<int64_t>(sizeof(Entry));
  for (const WeightSpec& spec : plan.specs) {
    at = aligned(at, kAlignment);
    const int64_t bytes = backend.packed_bytes(spec.use, spec.format, spec.rows, spec.cols);
    entries_.push_back({static_cast<uint64_t>(at), static_cast<uint64_t>(bytes), 0, spec.rows, spec.cols,
                        static_cast<uint32_t>(spec.use), static_cast<uint32_t>(spec.format)});
    at = checked_add(at, bytes);
  }
  file_bytes_ = at;
}

std::string WeightFile::head(const std::vector<Entry>& entries) const {
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.version = kVersion, head.byte_order = kByteOrder;
  head.file_bytes = static_cast<uint64_t>(file_bytes_), head.identity_bytes = identity_.size();
  head.n_weights = entries.size();
  std::string text(sizeof head, '\0');
  std::memcpy(text.data(), &head, sizeof head);
  text += identity_;
  text.append(reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(Entry));
  head.checksum = checksum(text.data(), text.size());
  std::memcpy(text.data(), &head, sizeof head);
  return text;
}

WeightFile::Weights WeightFile::read(const Watch& watch, std::string* problem) const {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path_, problem);
  if (!file) return {};
  const Bytes bytes = file->bytes();
  const size_t table = entries_.size() * sizeof(Entry), table_at = sizeof(Head) + identity_.size();
  const auto refuse = [problem](const char* why) {
    *problem = why;
    return Weights{};
  };
  if (bytes.size() < table_at + table) return refuse("it is cut short");
  if (!file->populate(0, static_cast<int64_t>(table_at + table))) return refuse("it cannot be read");
  // The head that this file must have: the checksums of the weights alone are taken from it.
  std::vector<Entry> entries(entries_.size()), expected = entries_;
  std::memcpy(static_cast<void*>(entries.data()), bytes.data() + table_at, table);
  for (size_t i = 0; i < entries.size(); ++i) expected[i].checksum = entries[i].checksum;
  if (std::memcmp(head(expected).data(), bytes.data(), table_at + table) != 0) {
    return refuse("it is damaged, or of another version, layout or model");
  }
  if (bytes.size() != static_cast<size_t>(file_bytes_)) return refuse("it is cut short");

  std::vector<Bytes> ranges;
  int64_t total = 0, done = 0;
  for (const Entry& entry : expected) {
    ranges.push_back(bytes.subspan(entry.offset, entry.bytes));
    total += static_cast<int64_t>(entry.bytes);
  }
  std::mutex mutex;
  const std::vector<uint64_t> sums = checksums(ranges, [&](Bytes piece) {
    check_cancelled(watch);
    const int64_t size = static_cast<int64_t>(piece.size());
    if (!file->populate(piece.data() - bytes.data(), size)) return false;
    const std::lock_guard lock(mutex);
    done += size;
    if (watch.report) watch.report(done, total);
    return true;
  });
  if (sums.size() != expected.size()) return refuse("it cannot be read");
  Weights weights;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (sums[i] != expected[i].checksum) return refuse("a checksum is wrong");
    const WeightSpec& spec = plan_.specs[i];
    weights.push_back(backend_.adopt(spec.use, spec.format, spec.rows, spec.cols, ranges[i], file));
  }
  return weights;
}

bool WeightFile::write(const Weights& weights, const Watch& watch, std::string* problem) const {
  std::vector<Bytes> ranges;
  for (size_t i = 0; i < weights.size(); ++i) {
    ranges.push_back(backend_.packed(*weights[i]));
    if (ranges.back().size() != entries_[i].bytes) {
      *problem = "the weights of this device cannot be kept in a file";
      return false;
    }
  }
  const std::vector<uint64_t> sums = checksums(ranges, [&](Bytes) {
    check_cancelled(watch);
    return true;
  });
  std::vector<Entry> entries = entries_;
  for (size_t i = 0; i < entries.size(); ++i) entries[i].checksum = sums[i];

  NewFile file(path_, file_bytes_);
  const std::string text = head(entries);
  bool good = file.write(0, text.data(), static_cast<int64_t>(text.size()));
  for (size_t i = 0; i < ranges.size() && good; ++i) {
    for (size_t at = 0; at < ranges[i].size() && good; at += kPieceBytes) {
      check_cancelled(watch);
      const size_t size = std::min<size_t>(kPieceBytes, ranges[i].size() - at);
      good =
          file.write(static_cast<int64_t>(entries[i].offset + at), ranges[i].data() + at, static_cast<int64_t>(size));
    }
  }
  if (good) check_cancelled(watch);
  if (good && file.commit()) return true;
  *problem = file.problem();
  return false;
}

}  // namespace qwen3
