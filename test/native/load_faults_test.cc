// Loading when the system fails: pread is interrupted, short, broken or meets a file that shrank, and every n-th
// allocation fails. Each gives a typed error, keeps no memory and no file descriptor, and the next load works.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <string>

#include "checkpoint_file.h"
#include "failing_allocations.h"

namespace {

enum class ReadFault { kNone, kInterrupted, kShort, kBroken, kShrunk };
ReadFault read_fault = ReadFault::kNone;
std::atomic<int64_t> reads = 0;
int64_t failing_read = -1;

}  // namespace

// The executable's own definitions go before the C library's and the C++ runtime's.
extern "C" __attribute__((visibility("default"))) ssize_t pread(int fd, void* out, size_t bytes, off_t offset) {
  const int64_t n = reads++;
  const bool fault = read_fault != ReadFault::kNone && (failing_read < 0 || n == failing_read);
  if (fault && read_fault == ReadFault::kInterrupted && n % 2) return errno = EINTR, -1;
  if (fault && read_fault == ReadFault::kShort) bytes = (bytes + 6) / 7;
  if (fault && read_fault == ReadFault::kBroken) return errno = EIO, -1;
  if (fault && read_fault == ReadFault::kShrunk) return 0;
  return syscall(SYS_pread64, fd, out, bytes, offset);
}

using namespace qwen3;
using namespace qwen3::testing;

namespace {

int64_t open_files() {
  int64_t n = 0;
  for (int fd = 0; fd < 256; ++fd) n += ::fcntl(fd, F_GETFD) != -1;
  return n;
}

struct Fixture {
  ModelConfig config = tiny_moe_config();
  CheckpointFile file{config, 7};
  std::shared_ptr<Backend> backend;
  std::vector<float> want = probe_logits(*load(), *backend);

  explicit Fixture(std::shared_ptr<Backend> on) : backend(std::move(on)) {}

  std::shared_ptr<const Model> load() { return Model::load(config, file.source(), *backend, WeightFormat::kBF16, {}); }
};

void reads_fail(Fixture& f) {
  for (const ReadFault harmless : {ReadFault::kInterrupted, ReadFault::kShort}) {
    read_fault = harmless, failing_read = -1;
    const auto model = f.load();
    read_fault = ReadFault::kNone;
    CHECK(probe_logits(*model, *f.backend) == f.want);
  }
  reads = 0;
  f.load();
  const int64_t n_reads = reads, files = open_files();
  CHECK(n_reads >= static_cast<int64_t>(f.file.source().tensors.size()));
  for (const ReadFault fault : {ReadFault::kBroken, ReadFault::kShrunk}) {
    for (int64_t n = 0; n < n_reads; ++n) {
      read_fault = fault, failing_read = n, reads = 0;
      const int64_t before = live;
      CHECK_THROWS_SUBJECT(f.load(), ErrorCode::kBadModelFile, f.file.path().c_str());
      CHECK(live == before);
    }
  }
  read_fault = ReadFault::kNone;
  CHECK(open_files() == files);
  CHECK(probe_logits(*f.load(), *f.backend) == f.want);
}

void allocations_fail(Fixture& f) {
  allocations = 0, count_allocations = true, failing_allocation = -1;
  f.load();
  count_allocations = false;
  const int64_t n_allocations = allocations, files = open_files();
  CHECK(n_allocations > 100);
  int64_t refused = 0;
  const int64_t stride = std::getenv("QWEN3_SANITIZED") ? 7 : 1;
  for (int64_t n = 0; n < n_allocations; n += stride) {
    const int64_t before = live;
    int result = 0;  // the check itself allocates, so it comes after
    allocations = 0, failing_allocation = n, count_allocations = true;
    try {
      f.load();
    } catch (const Error& error) {
      result = error.code() == ErrorCode::kOutOfMemory ? 1 : 2;
    } catch (...) {
      result = 3;
    }
    count_allocations = false;
    const int64_t kept = live - before;
    // The standard library may live without a temporary buffer, so a load may also succeed.
    CHECK_MSG(result <= 1, "allocation " + std::to_string(n) + " result " + std::to_string(result));
    CHECK_MSG(kept == 0, "allocation " + std::to_string(n) + " leaks");
    refused += result == 1;
  }
  CHECK(refused > n_allocations / stride / 2 && open_files() == files);
  CHECK(probe_logits(*f.load(), *f.backend) == f.want);
}

int64_t status_kib(const char* field) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(field)) return std::stoll(line.substr(line.find(':') + 1));
  }
  return -1;
}

// The system gives no more memory in the middle of packing, for every format: a typed error, and all is given back.
void memory_runs_out(Backend& backend) {
  if (std::getenv("QWEN3_SANITIZED")) return;  // sanitizers reserve more address space than any limit
  ModelConfig config = tiny_config();
  config.hidden = 1024, config.ffn = 4096, config.n_layers = 12, config.moe_layer.assign(12, 0);
  const WeightsSource source{{}, true, 3};
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kInt4Offset}) {
    const int64_t bytes = Model::weight_bytes(config, backend, format), resident = status_kib("VmRSS");
    struct rlimit before, tight;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    tight = before;
    tight.rlim_cur = static_cast<rlim_t>(status_kib("VmSize") * 1024 + bytes / 8 + (24 << 20));
    CHECK(setrlimit(RLIMIT_AS, &tight) == 0);
    int result = 0;
    try {
      Model::load(config, source, backend, format, {});
    } catch (const Error& error) {
      result = error.code() == ErrorCode::kOutOfMemory ? 1 : 2;
    } catch (...) {
      result = 3;
    }
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    CHECK_MSG(result == 1, std::string(weight_format_name(format)) + " result " + std::to_string(result));
    CHECK_MSG(status_kib("VmRSS") - resident < bytes / 16 / 1024 + 8192, weight_format_name(format));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  for (const char* device : {"reference", "cpu"}) {
    Fixture fixture(create_backend(device, 2));
    reads_fail(fixture);
    allocations_fail(fixture);
  }
  memory_runs_out(*create_cpu_backend(2, "auto"));
  return run.finish();
}
