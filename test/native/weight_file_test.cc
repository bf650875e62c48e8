// The file of packed weights: what it gives back equals what was packed; whatever is wrong with it (cut, flipped, of
// another model, layout or version) it is packed and written again; a disk that fails, is full or refuses only costs
// the file; cancelled and failed writes leave nothing; writers and readers at one time never see half a file.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <thread>

#include "checkpoint_file.h"
#include "core/checksum.h"
#include "core/mapped_file.h"
#include "core/new_file.h"
#include "failing_allocations.h"

namespace {

enum class DiskFault { kNone, kFullAtOnce, kFullLater, kShort, kInterrupted, kSync, kRename };
std::atomic<DiskFault> disk_fault = DiskFault::kNone;
std::atomic<int> writes_before_full = 0, calls = 0;

}  // namespace

// The executable's own definitions go before the C library's.
extern "C" {
__attribute__((visibility("default"))) ssize_t pwrite(int fd, const void* from, size_t bytes, off_t offset) {
  if (disk_fault == DiskFault::kInterrupted && calls++ % 2) return errno = EINTR, -1;
  if (disk_fault == DiskFault::kShort) bytes = (bytes + 6) / 7;
  if (disk_fault == DiskFault::kFullLater && writes_before_full-- <= 0) return errno = ENOSPC, -1;
  return syscall(SYS_pwrite64, fd, from, bytes, offset);
}
__attribute__((visibility("default"))) int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  if (disk_fault == DiskFault::kFullAtOnce) return errno = ENOSPC, -1;
  if (disk_fault == DiskFault::kFullLater) return errno = EOPNOTSUPP, -1;
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, bytes));
}
__attribute__((visibility("default"))) int fsync(int fd) {
  if (disk_fault == DiskFault::kSync) return errno = EIO, -1;
  return static_cast<int>(syscall(SYS_fsync, fd));
}
__attribute__((visibility("default"))) int rename(const char* from, const char* to) noexcept {
  if (disk_fault == DiskFault::kRename) return errno = EACCES, -1;
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
}

using namespace qwen3;
using namespace qwen3::testing;
using State = WeightCacheUse::State;

namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    static int count = 0;
    path_ =
        fs::temp_directory_path() / ("qwen3-weight-file-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  WeightCache cache(const std::string& key = "key") const { return {path_.string(), "model", key}; }
  const fs::path& path() const { return path_; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    if (fs::exists(path_)) {
      for (const auto& entry : fs::directory_iterator(path_)) found.push_back(entry.path());
    }
    return found;
  }
  fs::path file() const {
    CHECK(files().size() == 1);
    return files().at(0);
  }

 private:
  fs::path path_;
};

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// As the file is read-only and never rewritten, damage comes as another file of that name.
void replace(const fs::path& path, const std::string& bytes) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Fixture {
  ModelConfig config = tiny_moe_config();
  CheckpointFile checkpoint{config, 5};
  std::shared_ptr<Backend> backend = create_cpu_backend(2, "auto");
  WeightFormats formats;

  std::shared_ptr<const Model> load(const WeightCache& cache, const LoadProgress& progress = {}) {
    return Model::load(config, checkpoint.source(), *backend, formats, progress, cache);
  }
  void expect(const WeightCache& cache, State state) {
    const auto model = load(cache);
    CHECK(model->cache_use().state == state);
    CHECK(model->cache_use().problem.empty() == (state != State::kFailed));
    CHECK(probe_logits(*model, *backend) == want());
  }
  const std::vector<float>& want() {
    if (want_.empty()) want_ = probe_logits(*load({}), *backend);
    return want_;
  }

 private:
  std::vector<float> want_;
};

void round_trip() {
  for (const WeightFormats& formats :
       {WeightFormats(WeightFormat::kBF16), WeightFormats(WeightFormat::kF32), WeightFormats(WeightFormat::kInt8),
        WeightFormats(WeightFormat::kInt4), WeightFormats(WeightFormat::kInt4Offset),
        WeightFormats(WeightFormat::kInt4, WeightFormat::kInt8, WeightFormat::kBF16),
        WeightFormats(WeightFormat::kBF16, WeightFormat::kBF16, WeightFormat::kInt8)}) {
    Fixture f;
    Folder folder;
    f.formats = formats;
    CHECK(f.load({})->cache_use().state == State::kOff);
    f.expect(folder.cache(), State::kWritten);
    struct stat info;
    CHECK(::stat(folder.file().c_str(), &info) == 0 && (info.st_mode & 0222) == 0);
    const std::string bytes = read_all(folder.file());
    f.expect(folder.cache(), State::kMapped);
    CHECK(read_all(folder.file()) == bytes);
    // Every byte of every weight is the packed one.
    const auto packed = f.load({}), mapped = f.load(folder.cache());
    for (size_t i = 0; i < packed->weights().size(); ++i) {
      const auto a = f.backend->packed(*packed->weights()[i]), b = f.backend->packed(*mapped->weights()[i]);
      CHECK(a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()));
      CHECK(packed->weights()[i]->rows == mapped->weights()[i]->rows);
    }
    fs::remove(folder.file());  // the mapping outlives its name
    CHECK(probe_logits(*mapped, *f.backend) == f.want());
    // Another number of threads and another level read the same file.
    f.expect(folder.cache(), State::kWritten);
    const auto other = create_cpu_backend(1, "scalar");
    CHECK(Model::load(f.config, f.checkpoint.source(), *other, formats, {}, folder.cache())->cache_use().state ==
          State::kMapped);
  }
}

void another_model() {
  Fixture f;
  Folder folder;
  f.expect(folder.cache("first"), State::kWritten);
  f.expect(folder.cache("second"), State::kWritten);  // a changed source: the file is replaced
  f.expect(folder.cache("second"), State::kMapped);
  CHECK(folder.files().size() == 1);
  f.formats = {WeightFormat::kBF16, WeightFormat::kF32, WeightFormat::kBF16};
  CHECK(f.load(folder.cache("second"))->cache_use().state == State::kWritten);  // other formats: another file
  CHECK(folder.files().size() == 2);
  f.formats = {};
  // The same names, key and sizes, with a tensor elsewhere in its file.
  WeightsSource moved = f.checkpoint.source();
  for (TensorRef& ref : moved.tensors) {
    if (ref.name == "model.norm.weight") ref.offset -= 2;
  }
  CHECK(Model::load(f.config, moved, *f.backend, {}, {}, folder.cache("second"))->cache_use().state == State::kWritten);
  ModelConfig narrow = f.config;
  narrow.n_layers = 1, narrow.moe_layer.resize(1);
  CHECK(Model::load(narrow, f.checkpoint.source(), *f.backend, {}, {}, folder.cache("second"))->cache_use().state ==
        State::kWritten);
  // Random weights of two seeds.
  for (const uint64_t random_seed : {1u, 2u}) {
    const WeightsSource source{{}, true, random_seed};
    const auto model = Model::load(f.config, source, *f.backend, {}, {}, folder.cache("random"));
    CHECK(model->cache_use().state == State::kWritten);
  }
  // The reference backend keeps nothing and says so.
  const auto reference = create_reference_backend();
  const auto kept = Model::load(f.config, f.checkpoint.source(), *reference, {}, {}, folder.cache("second"));
  CHECK(kept->cache_use().state == State::kFailed && !kept->cache_use().problem.empty());
}

// Every byte of the head and of the table, and many of the weights, flipped; every kind of length.
void damaged(Random& random) {
  Fixture f;
  Folder folder;
  f.expect(folder.cache(), State::kWritten);
  const fs::path path = folder.file();
  const std::string good = read_all(path);
  const int64_t size = static_cast<int64_t>(good.size());
  const auto load_state = [&] { return f.load(folder.cache())->cache_use().state; };
  const auto check = [&](const std::string& bytes, const std::string& what) {
    replace(path, bytes);
    CHECK_MSG(load_state() == State::kWritten, what);
    CHECK_MSG(read_all(path) == good, what);
  };
  uint64_t identity_bytes, n_weights;
  std::memcpy(&identity_bytes, good.data() + 24, 8);
  std::memcpy(&n_weights, good.data() + 32, 8);
  const int64_t head = static_cast<int64_t>(48 + identity_bytes + n_weights * 48);
  CHECK(n_weights == plan_weights(f.config).specs.size() && head < size);
  const int64_t stride = std::getenv("QWEN3_LONG") ? 1 : 13;
  for (int64_t at = 0; at < head; at += at < 160 ? 1 : stride) {
    std::string bytes = good;
    bytes[static_cast<size_t>(at)] ^= static_cast<char>(1 << random.between(0, 7));
    check(bytes, "head byte " + std::to_string(at));
  }
  // A byte of some weight, wherever it lies: the padding between weights is the only place where it does not matter.
  const auto model = f.load(folder.cache());
  CHECK(model->cache_use().state == State::kMapped);
  std::vector<int64_t> inside;
  const std::byte* first = f.backend->packed(*model->weights()[0]).data();
  for (const auto& weight : model->weights()) {
    const auto bytes = f.backend->packed(*weight);
    const int64_t begin = bytes.data() - first, n = static_cast<int64_t>(bytes.size());
    for (const int64_t at : {begin, begin + n - 1, begin + random.between(0, n - 1)}) inside.push_back(at);
  }
  const int64_t origin = size - (inside.empty() ? 0 : [&] {
                           const auto last = f.backend->packed(*model->weights().back());
                           return last.data() + last.size() - first;
                         }());
  for (size_t i = 0; i < inside.size(); i += std::getenv("QWEN3_LONG") ? 1 : 5) {
    std::string bytes = good;
    bytes[static_cast<size_t>(origin + inside[i])] ^= static_cast<char>(1 << random.between(0, 7));
    check(bytes, "weight byte " + std::to_string(origin + inside[i]));
  }
  for (int64_t n = 0; n < size; n += n < 200 ? 1 : 1 + size / 40)
    check(good.substr(0, n), "cut to " + std::to_string(n));
  check(good.substr(0, good.size() - 1), "a byte short");
  check(good + '\0', "a byte long");
  check(std::string(good.size(), '\0'), "zeros");
  fs::remove(path);
  fs::create_directory(path);  // a folder of that name: not readable, not replaceable
  CHECK(load_state() == State::kFailed);
  fs::remove(path);
  CHECK(::mkfifo(path.c_str(), 0600) == 0);  // opening it must not wait for a writer
  CHECK(load_state() == State::kWritten);
  CHECK(load_state() == State::kMapped);
}

void disk_fails() {
  Fixture f;
  const auto faulty = [&](DiskFault fault, State state, int before_full = 0) {
    Folder folder;
    disk_fault = fault, writes_before_full = before_full, calls = 0;
    const auto model = f.load(folder.cache());
    disk_fault = DiskFault::kNone;
    CHECK(model->cache_use().state == state && model->cache_use().problem.empty() == (state != State::kFailed));
    CHECK(probe_logits(*model, *f.backend) == f.want());
    CHECK(folder.files().empty() == (state == State::kFailed));
    if (state == State::kWritten) f.expect(folder.cache(), State::kMapped);
  };
  faulty(DiskFault::kShort, State::kWritten);
  faulty(DiskFault::kInterrupted, State::kWritten);
  faulty(DiskFault::kFullAtOnce, State::kFailed);
  for (const int n : {0, 1, 2, 10}) faulty(DiskFault::kFullLater, State::kFailed, n);
  faulty(DiskFault::kSync, State::kFailed);
  faulty(DiskFault::kRename, State::kFailed);
  // The folder is a file; the folder cannot be made.
  Folder folder;
  std::ofstream(folder.path()) << "x";
  for (const fs::path& path : {folder.path(), folder.path() / "deeper"}) {
    const auto model = f.load({path.string(), "model", "key"});
    CHECK(model->cache_use().state == State::kFailed);
    CHECK(probe_logits(*model, *f.backend) == f.want());
  }
  fs::remove(folder.path());
  // An old file survives a failed attempt to replace it.
  f.expect(folder.cache("old"), State::kWritten);
  const std::string old = read_all(folder.file());
  disk_fault = DiskFault::kFullAtOnce;
  f.expect(folder.cache("new"), State::kFailed);
  disk_fault = DiskFault::kNone;
  CHECK(read_all(folder.file()) == old);
  f.expect(folder.cache("old"), State::kMapped);
  // What a killed writer left is swept after an hour, and not before.
  const std::string stale = folder.file().string() + ".1.2.3.tmp", fresh = folder.file().string() + ".4.5.6.tmp";
  std::ofstream(stale) << "x", std::ofstream(fresh) << "x";
  fs::last_write_time(stale, fs::file_time_type::clock::now() - std::chrono::hours(2));
  CHECK(f.load(folder.cache("new"))->cache_use().state == State::kWritten);
  CHECK(!fs::exists(stale) && fs::exists(fresh));
}

void cancelled() {
  Fixture f;
  Folder folder;
  for (const bool present : {false, true}) {
    int64_t n_reports = 0;
    f.load(folder.cache("a"), {[&](int64_t, int64_t) { ++n_reports; }, nullptr});
    if (present) f.expect(folder.cache("a"), State::kMapped);
    const auto files = folder.files().size();
    for (int64_t stop = 0; stop < n_reports; stop += 5) {
      std::atomic<bool> flag{stop == 0};
      int64_t seen = 0;
      const LoadProgress progress{[&](int64_t, int64_t) { flag = ++seen >= stop; }, &flag};
      const WeightCache cache = folder.cache(present ? "a" : "b");
      if (present && stop + 2 >= n_reports) continue;  // the last pieces may end before the flag is seen
      bool aborted = false;
      try {
        f.load(cache, progress);
      } catch (const Error& error) {
        aborted = error.code() == ErrorCode::kAborted;
      }
      CHECK(aborted || stop + 4 >= n_reports || present);
      CHECK(folder.files().size() == files);
    }
  }
}

void allocations_fail() {
  Fixture f;
  f.config = tiny_config();
  CheckpointFile checkpoint(f.config, 5);
  for (const bool present : {false, true}) {
    Folder folder;
    const WeightCache cache = folder.cache();
    const auto load = [&] { return Model::load(f.config, checkpoint.source(), *f.backend, f.formats, {}, cache); };
    allocations = 0, count_allocations = true, failing_allocation = -1;
    load();
    count_allocations = false;
    const int64_t total = allocations;
    for (int64_t n = 0; n < total; n += std::getenv("QWEN3_SANITIZED") ? 7 : 1) {
      if (!present) fs::remove_all(folder.path());
      const int64_t before = live;
      int result = 0;
      allocations = 0, failing_allocation = n, count_allocations = true;
      try {
        load();
      } catch (const Error& error) {
        result = error.code() == ErrorCode::kOutOfMemory ? 1 : 2;
      } catch (...) {
        result = 3;
      }
      count_allocations = false;
      CHECK_MSG(result <= 1, "allocation " + std::to_string(n) + " result " + std::to_string(result));
      const int64_t kept = live - before;
      CHECK_MSG(kept == 0, "allocation " + std::to_string(n) + " keeps " + std::to_string(kept));
      size_t temporary = 0;
      for (const fs::path& path : folder.files()) temporary += path.extension() == ".tmp";
      CHECK(temporary == 0);
    }
    CHECK(load() != nullptr);
  }
}

// Writers replace one file while readers load it: each reader gets the whole file of one of them, or packs.
void writers_and_readers() {
  Folder folder;
  Fixture f;
  const std::vector<float> want = f.want();
  std::atomic<int> wrong{0}, mapped{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const auto backend = create_cpu_backend(1, "auto");
      for (int i = 0; i < 25; ++i) {
        const auto model = Model::load(f.config, f.checkpoint.source(), *backend, {}, {},
                                       folder.cache(t < 2   ? "left"
                                                    : i % 2 ? "left"
                                                            : "right"));
        wrong += model->cache_use().state == State::kFailed || probe_logits(*model, *backend) != want;
        mapped += model->cache_use().state == State::kMapped;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0 && mapped > 0);
  CHECK(folder.files().size() == 1);
}

void checksums(Random& random) {
  std::vector<char> bytes(5000);
  for (char& byte : bytes) byte = static_cast<char>(random.word());
  for (const size_t n :
       {size_t{0}, size_t{1}, size_t{7}, size_t{63}, size_t{64}, size_t{65}, size_t{1000}, size_t{5000}}) {
    const uint64_t sum = checksum(bytes.data(), n);
    CHECK(sum == checksum(std::vector<char>(bytes.begin(), bytes.begin() + static_cast<int64_t>(n)).data(), n));
    if (n > 0) CHECK(sum != checksum(bytes.data(), n - 1));
    for (size_t bit = 0; bit < 8 * n; bit += 1 + 8 * n / 4000) {
      bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
      CHECK(checksum(bytes.data(), n) != sum);
      bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    }
  }
  // Blocks of zeros of different lengths, and swapped words, are different.
  const std::vector<char> zeros(4096);
  CHECK(checksum(zeros.data(), 64) != checksum(zeros.data(), 128) && checksum(zeros.data(), 0) != 0);
  const uint64_t before = checksum(bytes.data(), 4096);
  std::swap_ranges(bytes.begin(), bytes.begin() + 64, bytes.begin() + 64);
  CHECK(checksum(bytes.data(), 4096) != before);
  // The same on every machine and build: a file is not packed again because of a compiler.
  for (int i = 0; i < 200; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(i);
  CHECK(checksum("", 0) == 0x6daed2604dcdf870 && checksum(bytes.data(), 200) == 0x61bb755ab84344cf);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  checksums(random);
  round_trip();
  another_model();
  damaged(random);
  disk_fails();
  cancelled();
  allocations_fail();
  writers_and_readers();
  return run.finish();
}
