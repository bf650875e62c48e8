#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/dtype.h"
#include "core/random.h"

namespace qwen3::gpu_bench {
namespace {

constexpr size_t kHostValues = size_t{1} << 22;
constexpr float kDeviation = 0.05f;

// Box-Muller on Philox words.
std::vector<uint16_t> random_values(size_t n) {
  std::vector<uint16_t> values(n);
  for (size_t i = 0; i < n; i += 2) {
    const Philox4 words = random_words(1, 0, i);
    const float radius = kDeviation * std::sqrt(-2 * std::log(1 - uniform_f32(words.v[0])));
    const float angle = 6.2831853f * uniform_f32(words.v[1]);
    values[i] = f32_to_bf16(radius * std::cos(angle)), values[i + 1] = f32_to_bf16(radius * std::sin(angle));
  }
  return values;
}

// What the emulation can hold and a GPU's L2 cannot.
size_t pool_bytes(bool tiny) {
  return tiny ? size_t{1} << 20 : size_t{1} << 30;
}

}  // namespace

Bench::Bench(bool is_tiny)
    : tiny(is_tiny), device(cuda::describe_device(0)), stream(cuda::create_stream()), pool_(pool_bytes(is_tiny)) {
  const auto values = random_values(std::min(kHostValues, pool_.bytes() / 2));
  size_t filled = values.size() * 2;
  cuda::copy_to_device(stream, pool_.as<void>(), values.data(), filled);
  for (; filled < pool_.bytes(); filled *= 2) {  // powers of two both
    cuda::copy_on_device(stream, pool_.as<std::byte>() + filled, pool_.as<void>(), filled);
  }
  if (device.hopper) {
    const int rows = cuda::kMostStreamRows, widest = 151936;
    stream_parts_ =
        cuda::DeviceBuffer(static_cast<size_t>(cuda::stream_part_elements(device.multiprocessors, rows)) * 4);
    stream_arrived_ = cuda::DeviceBuffer(static_cast<size_t>(cuda::stream_counters(rows, widest)) * 4);
    cuda::fill_bytes(stream, stream_arrived_.as<void>(), 0, stream_arrived_.bytes());
  }
  cuda::synchronize(stream);
}

void Bench::linear_few(const cuda::LinearOperands& operands, const cuda::LinearShape& shape, cuda::Output output,
                       const cuda::StreamFusion& fusion) const {
  if (device.hopper && cuda::stream_on_hopper(shape.n, shape.k)) {
    const cuda::StreamScratch scratch{device.multiprocessors, stream_parts_.as<float>(), stream_arrived_.as<int32_t>()};
    cuda::linear_stream_hopper(stream, operands, shape, output, scratch, fusion);
  } else {
    cuda::linear_stream(stream, operands, shape, output, fusion);
  }
}

Bench::~Bench() {
  cuda::destroy_stream(stream);
}

const cuda::Bf16* Bench::random(int i, size_t bytes) const {
  if (bytes > pool_.bytes()) throw Error(ErrorCode::kInternal, "a case asks for more than the random pool holds");
  const size_t part = (bytes + 255) / 256 * 256, parts = std::max<size_t>(1, pool_.bytes() / part);
  return pool_.as<cuda::Bf16>() + static_cast<size_t>(i) % parts * (part / 2);
}

void Bench::randomise(void* to, size_t bytes) const {
  for (size_t at = 0; at < bytes; at += pool_.bytes()) {
    cuda::copy_on_device(stream, static_cast<std::byte*>(to) + at, pool_.as<void>(),
                         std::min(pool_.bytes(), bytes - at));
  }
}

cuda::DeviceBuffer Bench::random_buffer(size_t bytes) const {
  cuda::DeviceBuffer buffer(bytes);
  randomise(buffer.as<void>(), bytes);
  cuda::synchronize(stream);
  return buffer;
}

void* Bench::scratch(size_t bytes) {
  cuda::synchronize(stream);
  if (bytes > scratch_.bytes()) {
    scratch_ = cuda::DeviceBuffer();  // before the larger one: both need not fit
    scratch_ = cuda::DeviceBuffer(bytes);
    cuda::fill_bytes(stream, scratch_.as<void>(), 0, bytes);
  }
  return scratch_.as<void>();
}

void Bench::report(const std::string& name, const Measured& m, const std::string& more) const {
  std::printf("{\"case\": \"%s\", \"side\": \"ours\", \"us\": %.3f, \"bytes\": %.0f, \"flops\": %.0f", name.c_str(),
              m.seconds * 1e6, m.bytes, m.flops);
  std::printf(", \"gb_s\": %.5g, \"tflop_s\": %.5g", m.bytes / m.seconds / 1e9, m.flops / m.seconds / 1e12);
  if (memory_rate > 0) std::printf(", \"of_copy\": %.5g", m.bytes / m.seconds / memory_rate);
  if (matrix_rate > 0) std::printf(", \"of_matrix\": %.5g", m.flops / m.seconds / matrix_rate);
  std::printf("%s}\n", more.c_str());
  std::fflush(stdout);
}

void Bench::skip(const std::string& name, const std::string& reason) {
  std::string text;
  for (const char c : reason) text += c == '"' || c == '\\' ? '\'' : static_cast<unsigned char>(c) < 32 ? ' ' : c;
  std::printf("{\"case\": \"%s\", \"side\": \"ours\", \"skipped\": \"%s\"}\n", name.c_str(), text.c_str());
  std::fflush(stdout);
}

double median_host_seconds(int repetitions, const std::function<void()>& call) {
  std::vector<double> samples;
  for (int i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

}  // namespace qwen3::gpu_bench
