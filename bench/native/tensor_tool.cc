// Writes tensors into a file whose header is already there: the second half of bench/peers' writers of GGUF and
// safetensors files, for weights that are too large for JavaScript.
//
//   tensor_tool FILE < plan
//
// One tensor a line, fields separated by tabs:
//   TYPE  STORE  OFFSET  SOURCE...
// TYPE is an element type of gguf_formats.h; STORE `encoded` writes it as such, `decoded` writes what it decodes to as
// f32, so that only the format's error differs. With `decoded` TYPE may be a weight format of the engine too: int8,
// int4 or int4-offset. OFFSET: where in FILE. The sources are stacked along rows:
//   file:DTYPE:ROWS:COLS:OFFSET:PATH     row major in PATH, DTYPE F32, F16 or BF16
//   random:SEED:ROWS:COLS:NAME           model/random_weights.h; COLS 0 = a vector of ROWS elements
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "core/dtype.h"
#include "core/file_reader.h"
#include "core/status.h"
#include "cpu/weights_int.h"
#include "gguf_formats.h"
#include "model/random_weights.h"

using namespace qwen3;
using namespace qwen3::bench;

namespace {

constexpr int64_t kTaskElements = int64_t{1} << 18;

// Rows [begin, end) of a source, and where they go.
struct Task {
  GgufType type;
  std::optional<WeightFormat> own;  // in place of `type`
  bool decoded;
  int64_t offset;  // of row `begin`
  std::shared_ptr<const MatrixSource> source;
  int64_t begin, end;
};

[[noreturn]] void refuse(const std::string& what, const std::string& text) {
  throw Error(ErrorCode::kInvalidArgument, what + ": " + text, "plan");
}

std::vector<std::string> split(const std::string& text, char at, size_t most) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (parts.size() + 1 < most) {
    const size_t end = text.find(at, begin);
    if (end == std::string::npos) break;
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  parts.push_back(text.substr(begin));
  return parts;
}

int64_t number(const std::string& text) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 0) refuse("not a whole number", text);
  return value;
}

DType dtype_of(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  refuse("no such dtype", name);
}

MatrixSource source_of(const std::string& text) {
  if (text.starts_with("file:")) {
    const std::vector<std::string> f = split(text, ':', 6);
    if (f.size() != 6) refuse("a source needs six fields", text);
    const DType dtype = dtype_of(f[1]);
    const int64_t rows = number(f[2]), cols = number(f[3]), offset = number(f[4]);
    auto file = std::make_shared<const FileReader>(f[5]);
    return {rows, cols, dtype, [=](int64_t begin, int64_t end, void* out) {
              const int64_t row_bytes = cols * dtype_bytes(dtype);
              file->read(offset + begin * row_bytes, (end - begin) * row_bytes, out);
            }};
  }
  const std::vector<std::string> f = split(text, ':', 5);
  if (f.size() != 5 || f[0] != "random") refuse("no such source", text);
  const int64_t rows = number(f[2]), cols = number(f[3]);
  return random_tensor({f[4], rows, std::max<int64_t>(cols, 1), cols == 0}, static_cast<uint64_t>(number(f[1])));
}

std::optional<WeightFormat> own_format(const std::string& name) {
  if (name == "int8") return WeightFormat::kInt8;
  if (name == "int4") return WeightFormat::kInt4;
  if (name == "int4-offset") return WeightFormat::kInt4Offset;
  return std::nullopt;
}

int64_t stored_bytes(GgufType type, bool decoded, int64_t elements) {
  return decoded ? 4 * elements : elements / gguf_block_elements(type) * gguf_block_bytes(type);
}

void plan_line(const std::string& line, std::vector<Task>& tasks) {
  const std::vector<std::string> fields = split(line, '\t', SIZE_MAX);
  if (fields.size() < 4) refuse("a line needs four fields", line);
  const std::optional<WeightFormat> own = own_format(fields[0]);
  const GgufType type = own ? GgufType::kF32 : gguf_type(fields[0]);
  const bool decoded = fields[1] == "decoded";
  if (own && !decoded) refuse("a format of the engine has no bytes of its own", fields[0]);
  if (!decoded && fields[1] != "encoded") refuse("neither encoded nor decoded", fields[1]);
  int64_t offset = number(fields[2]);
  for (size_t i = 3; i < fields.size(); ++i) {
    const auto source = std::make_shared<const MatrixSource>(source_of(fields[i]));
    if (source->cols % gguf_block_elements(type) != 0) refuse("rows are no multiple of the type's block", line);
    const int64_t step = std::max<int64_t>(1, kTaskElements / source->cols);
    for (int64_t row = 0; row < source->rows; row += step) {
      const int64_t end = std::min(row + step, source->rows);
      tasks.push_back({type, own, decoded, offset, source, row, end});
      offset += stored_bytes(type, decoded, (end - row) * source->cols);
    }
  }
}

void write_all(int file, const void* from, int64_t bytes, int64_t offset) {
  const char* data = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t written = pwrite(file, data, static_cast<size_t>(bytes), offset);
    if (written <= 0) throw Error(ErrorCode::kInternal, "the file cannot be written: " + std::string(strerror(errno)));
    data += written, bytes -= written, offset += written;
  }
}

void run(const Task& task, int file) {
  const MatrixSource& source = *task.source;
  const int64_t n = (task.end - task.begin) * source.cols;
  std::vector<float> values(static_cast<size_t>(n));
  std::vector<uint16_t> halves(source.dtype == DType::kF32 ? 0 : static_cast<size_t>(n));
  source.read(task.begin, task.end, halves.empty() ? static_cast<void*>(values.data()) : halves.data());
  for (size_t i = 0; i < halves.size(); ++i)
    values[i] = source.dtype == DType::kBF16 ? bf16_to_f32(halves[i]) : f16_to_f32(halves[i]);
  if (task.own) {
    for (int64_t row = 0; row < task.end - task.begin; ++row)
      cpu::quantise_weight_row(*task.own, values.data() + row * source.cols, source.cols);
    write_all(file, values.data(), 4 * n, task.offset);
    return;
  }
  std::vector<uint8_t> encoded(static_cast<size_t>(stored_bytes(task.type, false, n)));
  gguf_encode(task.type, values.data(), n, encoded.data());
  if (!task.decoded) {
    write_all(file, encoded.data(), static_cast<int64_t>(encoded.size()), task.offset);
    return;
  }
  gguf_decode(task.type, encoded.data(), n, values.data());
  write_all(file, values.data(), 4 * n, task.offset);
}

void run_all(const std::vector<Task>& tasks, int file) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    for (size_t i = next++; i < tasks.size(); i = next++) {
      try {
        run(tasks[i], file);
      } catch (...) {
        const std::lock_guard lock(mutex);
        error = std::current_exception();
        next = tasks.size();
      }
    }
  };
  cpu_set_t set;
  const int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::vector<std::thread> threads;
  for (int i = 1; i < cpus; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "tensor_tool FILE < plan\n");
    return 2;
  }
  try {
    std::vector<Task> tasks;
    for (std::string line; std::getline(std::cin, line);)
      if (!line.empty()) plan_line(line, tasks);
    const int file = open(argv[1], O_WRONLY | O_CLOEXEC);
    if (file < 0) throw Error(ErrorCode::kInvalidArgument, std::string(argv[1]) + ": " + strerror(errno), argv[1]);
    run_all(tasks, file);
    if (close(file) != 0) throw Error(ErrorCode::kInternal, std::string(argv[1]) + ": " + strerror(errno), argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tensor_tool: %s\n", error.what());
    return 1;
  }
  return 0;
}
