#include "model/random_weights.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "core/dtype.h"
#include "core/random.h"

namespace qwen3 {
namespace {

constexpr int64_t kBatch = 256;  // elements made at a time: a small array that stays in cache and vectorises
constexpr float kVectorSpread = 0.15f;
// Separates the counters of the channel factors from those of the elements: element indices stay below 2^63.
constexpr uint64_t kChannelCounter = uint64_t{1} << 63;

// Standard deviation of the sum of four bytes: sqrt(4 (256^2 - 1) / 12).
constexpr float kByteSumDeviation = 147.8006f;

inline float heavy_tailed(uint32_t word) {
  const int32_t sum = static_cast<int32_t>((word & 0xff) + ((word >> 8) & 0xff) + ((word >> 16) & 0xff) + (word >> 24));
  const float g = static_cast<float>(sum - 510) * (1.0f / kByteSumDeviation);
  return g * (0.72f + 0.11f * (g * g));
}

// Elements [begin, begin + kBatch) of the tensor; begin is a multiple of 4. Philox with 7 rounds: the least that passes
// BigCrush, and the generator is most of the cost.
void make_batch(uint64_t seed, uint64_t name, uint64_t begin, float* out) {
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t name0 = static_cast<uint32_t>(name), name1 = static_cast<uint32_t>(name >> 32);
  for (int64_t block = 0; block < kBatch / 4; ++block) {
    const uint64_t index = begin / 4 + static_cast<uint64_t>(block);
    const Philox4 words = philox4x32<7>(
        Philox4{{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), name0, name1}}, key0, key1);
    for (int i = 0; i < 4; ++i) out[block * 4 + i] = heavy_tailed(words.v[i]);
  }
}

// 1, or 2 to 6 for about one channel in 128.
std::vector<float> channel_factors(uint64_t seed, uint64_t name, int64_t n) {
  std::vector<float> factors(static_cast<size_t>(n), 1.0f);
  for (int64_t i = 0; i < n; ++i) {
    const Philox4 words = random_words(seed, name, kChannelCounter | static_cast<uint64_t>(i));
    if (words.v[0] % 128 == 0) factors[i] = 2.0f + 4.0f * uniform_f32(words.v[1]);
  }
  return factors;
}

// Factors of a tensor's channels, made when the first row is read: a large model has tens of thousands of tensors, and
// their sources are all made before any is read.
struct Channels {
  std::once_flag made;
  std::vector<float> factors;
};

}  // namespace

MatrixSource random_tensor(const TensorSpec& tensor, uint64_t seed) {
  const uint64_t name = hash_name(tensor.name);
  const bool vector = tensor.vector;
  const int64_t cols = tensor.cols;
  const int64_t n_channels = vector ? tensor.rows : cols;
  const float deviation = vector ? 1.0f : 1.0f / std::sqrt(static_cast<float>(cols));
  auto read = [=, channels = std::make_shared<Channels>()](int64_t row_begin, int64_t row_end, void* to) {
    std::call_once(channels->made, [&] {
      channels->factors = channel_factors(seed, name, n_channels);
      for (float& factor : channels->factors) factor *= deviation;
    });
    const float* channel = channels->factors.data();
    const int64_t begin = row_begin * cols, end = row_end * cols;
    uint16_t* out = static_cast<uint16_t*>(to);
    float batch[kBatch];
    for (int64_t at = begin / 4 * 4; at < end; at += kBatch) {
      make_batch(seed, name, static_cast<uint64_t>(at), batch);
      const int64_t first = std::max(at, begin), last = std::min(at + kBatch, end);
      int64_t c = first % n_channels;
      for (int64_t i = first; i < last; ++i) {
        const float value = vector ? 1.0f + kVectorSpread * batch[i - at] : batch[i - at];
        out[i - begin] = f32_to_bf16(channel[c] * value);
        if (++c == n_channels) c = 0;
      }
    }
  };
  return MatrixSource{tensor.rows, cols, DType::kBF16, std::move(read)};
}

}  // namespace qwen3
