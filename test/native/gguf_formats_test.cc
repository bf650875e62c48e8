// The formats in which the benchmarks give the peer its weights: bytes against the format's definition, errors within
// what its own quantisers reach.

#include "gguf_formats.h"

#include <cmath>
#include <vector>

#include "core/dtype.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::bench;
using namespace qwen3::testing;

namespace {

std::vector<float> decode(GgufType type, const std::vector<uint8_t>& bytes, int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  gguf_decode(type, bytes.data(), n, out.data());
  return out;
}

std::vector<uint8_t> encode(GgufType type, const std::vector<float>& values) {
  const int64_t n = static_cast<int64_t>(values.size());
  std::vector<uint8_t> out(static_cast<size_t>(n / gguf_block_elements(type) * gguf_block_bytes(type)));
  gguf_encode(type, values.data(), n, out.data());
  return out;
}

void put_half(std::vector<uint8_t>& bytes, size_t at, float value) {
  const uint16_t bits = f32_to_f16(value);
  bytes[at] = static_cast<uint8_t>(bits), bytes[at + 1] = static_cast<uint8_t>(bits >> 8);
}

// Root of the mean squared error over that of the values, on values with the tails of real weights. So many that the
// tails' luck is averaged out: over seeds the figure spreads by a quarter of a percent.
double relative_error(GgufType type, Random& random) {
  std::vector<float> x(256 * 1024);
  for (float& v : x) {
    const double g = random.normal();
    v = static_cast<float>(0.03 * g * (0.72 + 0.11 * g * g));
  }
  const std::vector<float> y = decode(type, encode(type, x), static_cast<int64_t>(x.size()));
  double error = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) error += std::pow(y[i] - x[i], 2), norm += std::pow(x[i], 2);
  return std::sqrt(error / norm);
}

// A few percent above what ggml's quantisers give on such values: 0.1156, 0.0577, 0.00725, 0.0880, 0.0230.
void errors(Random& random) {
  CHECK(relative_error(GgufType::kF32, random) == 0);
  CHECK(relative_error(GgufType::kBF16, random) < 0.002);
  CHECK(relative_error(GgufType::kQ4_0, random) < 0.121);
  CHECK(relative_error(GgufType::kQ5_0, random) < 0.061);
  CHECK(relative_error(GgufType::kQ8_0, random) < 0.0077);
  CHECK(relative_error(GgufType::kQ4_K, random) < 0.092);
  CHECK(relative_error(GgufType::kQ6_K, random) < 0.0245);
}

// Element i of a small block is in the low half of byte i, i + 16 in the high half.
void small_blocks() {
  std::vector<float> x(32, 0.0f);
  x[0] = -8, x[1] = 7, x[16] = 1, x[31] = -3;
  const std::vector<uint8_t> q4 = encode(GgufType::kQ4_0, x);
  CHECK(f16_to_f32(static_cast<uint16_t>(q4[0] | q4[1] << 8)) == 1.0f);
  CHECK(q4[2] == (0 | 9 << 4));
  CHECK(q4[3] == (15 | 8 << 4));
  CHECK(q4[17] == (8 | 5 << 4));
  CHECK(decode(GgufType::kQ4_0, q4, 32) == x);
  x[0] = 127;
  const std::vector<uint8_t> q8 = encode(GgufType::kQ8_0, x);
  CHECK(q8[2] == 127 && q8[3] == 7 && static_cast<int8_t>(q8[33]) == -3);
  CHECK(decode(GgufType::kQ8_0, q8, 32) == x);
  x[0] = -16;
  CHECK(decode(GgufType::kQ5_0, encode(GgufType::kQ5_0, x), 32) == x);
}

// Blocks written by hand from the definition.
void large_blocks() {
  std::vector<uint8_t> q4(144, 0);
  put_half(q4, 0, 0.5f), put_half(q4, 2, 0.25f);
  q4[4 + 1] = 3;                                // group 1: scale 3
  q4[4 + 5] = 2;                                //          minimum 2
  q4[4 + 2] = 2 << 6;                           // group 6: upper bits of the scale,
  q4[4 + 10] = 5 | 9 << 4, q4[4 + 6] = 1 << 6;  //          lower bits of both, upper bits of the minimum
  for (size_t i = 0; i < 32; ++i) q4[16 + i] = 7 << 4, q4[16 + 96 + i] = 11;
  const std::vector<float> a = decode(GgufType::kQ4_K, q4, 256);
  CHECK(a[32] == 0.5f * 3 * 7 - 0.25f * 2);
  CHECK(a[6 * 32 + 31] == 0.5f * (2 * 16 + 5) * 11 - 0.25f * (16 + 9));
  CHECK(a[0] == 0 && a[7 * 32] == 0);
  std::vector<uint8_t> q6(210, 0);
  put_half(q6, 208, 0.5f);
  q6[192 + 13] = static_cast<uint8_t>(-4);  // elements 208 to 223 lie in the second half, third row of 32
  q6[64 + 16 + 1] = 9 << 4;                 // element 128 + 64 + 17: low bits
  q6[128 + 32 + 17] = 3 << 4;               //                        high bits
  const std::vector<float> b = decode(GgufType::kQ6_K, q6, 256);
  CHECK(b[128 + 64 + 17] == 0.5f * -4 * ((3 * 16 + 9) - 32));
  CHECK(b[128 + 64 + 18] == 0.5f * -4 * -32);
  CHECK(b[0] == 0);
}

void edges() {
  for (const GgufType type : {GgufType::kQ4_0, GgufType::kQ5_0, GgufType::kQ8_0, GgufType::kQ4_K, GgufType::kQ6_K}) {
    const std::vector<float> zero(256, 0.0f);
    CHECK(decode(type, encode(type, zero), 256) == zero);
    for (const float v : decode(type, encode(type, std::vector<float>(256, -0.75f)), 256)) CHECK_NEAR(v, -0.75, 0.01);
    for (const float v : decode(type, encode(type, std::vector<float>(256, 0.75f)), 256)) CHECK_NEAR(v, 0.75, 0.01);
  }
  CHECK_THROWS_SUBJECT(gguf_type("Q3_K"), ErrorCode::kInvalidArgument, "type");
  CHECK(gguf_type("Q4_K") == GgufType::kQ4_K);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  errors(random);
  small_blocks();
  large_blocks();
  edges();
  return run.finish();
}
