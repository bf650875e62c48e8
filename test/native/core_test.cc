// core/: element types over all their bit patterns, exp and log against float64, Philox against published vectors and
// simple statistics, available memory on made-up systems.

#include <sys/stat.h>

#include <cfenv>
#include <filesystem>
#include <fstream>

#include "core/checked.h"
#include "core/dtype.h"
#include "core/math.h"
#include "core/memory.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

// Every bf16 and f16 pattern, decoded by ldexp from its fields.
double decode(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & top;
  const double mantissa = static_cast<double>(bits & ((1u << mantissa_bits) - 1)), one = std::ldexp(1.0, mantissa_bits);
  const double sign = bits >> (exponent_bits + mantissa_bits) ? -1 : 1;
  if (exponent == top) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + one, exponent - bias - mantissa_bits);
}

void dtypes(Random& random) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t b = static_cast<uint16_t>(bits);
    const double bf16 = decode(bits, 8, 7), f16 = decode(bits, 5, 10);
    const float got16 = f16_to_f32(b), gotbf = bf16_to_f32(b);
    CHECK(std::isnan(bf16) ? std::isnan(gotbf)
                           : gotbf == static_cast<float>(bf16) && std::signbit(gotbf) == bits >> 15);
    CHECK(std::isnan(f16) ? std::isnan(got16) : got16 == static_cast<float>(f16) && std::signbit(got16) == bits >> 15);
    CHECK(std::isnan(bf16) ? std::isnan(bf16_to_f32(f32_to_bf16(gotbf))) : f32_to_bf16(gotbf) == b);
  }
  // Rounding: the nearest of the two neighbours, the even one of equals, overflow to infinity.
  for (int i = 0; i < 2000000; ++i) {
    uint32_t bits = random.word();
    if (i % 2) bits = (bits & 0xffff0000u) | (0x7fffu + random.word() % 3);  // around a tie
    const float value = bits_to_f32(bits);
    const uint16_t rounded = f32_to_bf16(value);
    if (std::isnan(value)) {
      CHECK(std::isnan(bf16_to_f32(rounded)));
      continue;
    }
    const uint16_t down = static_cast<uint16_t>(bits >> 16), up = static_cast<uint16_t>(down + 1);
    const uint32_t rest = bits & 0xffffu;
    CHECK(rounded == (rest > 0x8000u || (rest == 0x8000u && down % 2) ? up : down));
  }
}

// The distance to the true value in units of the last place of the true value's float.
double ulps(float got, double want) {
  const int exponent = std::max(std::ilogb(want), -126);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, exponent - 23);
}

void math(bool exhaustive) {
  const uint32_t step = exhaustive ? 1 : 257;
  double worst_exp = 0, worst_tiny = 0, worst_log = 0, worst_silu = 0;
  uint64_t bits = 0;
  for (; bits <= 0xffffffffu; bits += step) {
    const float x = bits_to_f32(static_cast<uint32_t>(bits));
    const float e = exp_f32(x), l = log_f32(x);
    if (std::isnan(x)) {
      CHECK(std::isnan(e) && std::isnan(l));
      continue;
    }
    if (x > kExpMax) {
      CHECK(std::isinf(e));
    } else if (x >= kExpMin) {
      const double want = std::exp(static_cast<double>(x));
      double& worst = want < 0x1p-126 ? worst_tiny : worst_exp;
      if (std::isinf(e)) {  // only where the next float up would be infinity
        CHECK(want > 0x1.fffffcp127);
        continue;
      }
      worst = std::max(worst, ulps(e, want));
    } else {
      CHECK(e == 0.0f);
    }
    if (x > 0 && !std::isinf(x)) {
      const double want = std::log(static_cast<double>(x));
      if (want == 0)
        CHECK(l == 0.0f);
      else
        worst_log = std::max(worst_log, ulps(l, want));
    }
    if (std::abs(x) < 80 && std::abs(x) > 1e-30f) {
      worst_silu = std::max(worst_silu, ulps(silu_f32(x), x / (1 + std::exp(-static_cast<double>(x)))));
    }
  }
  std::printf("largest error in ulp: exp %.3f, exp with subnormal result %.3f, log %.3f, silu %.3f\n", worst_exp,
              worst_tiny, worst_log, worst_silu);
  CHECK(worst_exp < 1.0 && worst_tiny < 1.0 && worst_log < 1.0 && worst_silu < 3.0);
  CHECK(exp_f32(0.0f) == 1.0f && exp_f32(-0.0f) == 1.0f && log_f32(1.0f) == 0.0f);
  CHECK(exp_f32(INFINITY) == INFINITY && exp_f32(-INFINITY) == 0.0f);
  CHECK(log_f32(0.0f) == -INFINITY && log_f32(-0.0f) == -INFINITY && log_f32(INFINITY) == INFINITY);
  CHECK(std::isnan(log_f32(-1.0f)) && std::isnan(log_f32(-INFINITY)));
  CHECK(silu_f32(-INFINITY) != 0.5f && silu_f32(0.0f) == 0.0f && silu_f32(-200.0f) == 0.0f &&
        silu_f32(200.0f) == 200.0f);
  // Monotonic over the range of a softmax: a larger score never gets a smaller probability.
  for (uint32_t b = 0x80000000u; b < 0xc2c80000u; b += 97) {
    CHECK(exp_f32(bits_to_f32(b)) >= exp_f32(bits_to_f32(b + 97)));
  }
}

bool equal(const Philox4& a, std::array<uint32_t, 4> b) {
  return a.v[0] == b[0] && a.v[1] == b[1] && a.v[2] == b[2] && a.v[3] == b[3];
}

void philox(Random& random) {
  // Known answers of the authors' Random123 distribution (kat_vectors).
  CHECK(equal(philox4x32<10>({{0, 0, 0, 0}}, 0, 0), {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const uint32_t f = 0xffffffffu;
  CHECK(equal(philox4x32<10>({{f, f, f, f}}, f, f), {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  CHECK(equal(philox4x32<10>({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u),
              {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
  CHECK(equal(philox4x32<7>({{0, 0, 0, 0}}, 0, 0), {0x5f6fb709u, 0x0d893f64u, 0x4f121f81u, 0x4f730a48u}));

  // Bytes of successive counters: chi-square with 255 degrees of freedom, six standard deviations wide.
  const uint64_t key = random.word();
  std::array<int64_t, 256> counts{};
  std::array<double, 4> mean{};
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const Philox4 words = random_words(key, 5, static_cast<uint64_t>(i));
    for (int w = 0; w < 4; ++w) {
      mean[w] += uniform_f32(words.v[w]) / n;
      for (int byte = 0; byte < 4; ++byte) ++counts[(words.v[w] >> (8 * byte)) & 0xff];
    }
  }
  double chi = 0;
  const double expected = n * 16 / 256.0;
  for (const int64_t count : counts) chi += (count - expected) * (count - expected) / expected;
  CHECK_MSG(std::abs(chi - 255) < 6 * std::sqrt(2 * 255.0), std::to_string(chi));
  for (const double m : mean) CHECK_NEAR(m, 0.5, 6 * 0.2887 / std::sqrt(static_cast<double>(n)));
  // One flipped bit of key or counter flips about half of the output.
  int64_t flipped = 0;
  for (int bit = 0; bit < 64; ++bit) {
    const Philox4 a = random_words(key, 9, 3), b = random_words(key ^ (uint64_t{1} << bit), 9, 3);
    const Philox4 c = random_words(key, 9, 3 ^ (uint64_t{1} << bit));
    for (int w = 0; w < 4; ++w) flipped += __builtin_popcount(a.v[w] ^ b.v[w]) + __builtin_popcount(a.v[w] ^ c.v[w]);
  }
  CHECK_NEAR(flipped / (64.0 * 256), 0.5, 6 * 0.5 / std::sqrt(64.0 * 256));
  CHECK(uniform_f32(0) == 0.0f && uniform_f32(0xffffffffu) < 1.0f);
  CHECK(hash_name("") == 0xcbf29ce484222325u && hash_name("a") == 0xaf63dc4c8601ec8cu);  // FNV-1a test vectors
}

void checked_sizes() {
  const int64_t big = INT64_MAX;
  CHECK(checked_mul(1 << 20, 1 << 20) == int64_t{1} << 40 && checked_add(big - 1, 1) == big &&
        checked_mul(big, 0) == 0);
  CHECK_THROWS(checked_mul(big, 2), ErrorCode::kInvalidArgument);
  CHECK_THROWS(checked_mul(int64_t{1} << 32, int64_t{1} << 31), ErrorCode::kInvalidArgument);
  CHECK_THROWS(checked_add(big, 1), ErrorCode::kInvalidArgument);
  CHECK_THROWS(checked_mul(-1, 2), ErrorCode::kInvalidArgument);
  CHECK_THROWS(checked_add(5, -1), ErrorCode::kInvalidArgument);
}

// A made-up root with the files that the kernel would show.
struct FakeRoot {
  std::filesystem::path path;
  explicit FakeRoot(uint64_t id)
      : path(std::filesystem::temp_directory_path() / ("qwen3-core-test-" + std::to_string(id))) {
    std::filesystem::create_directories(path);
  }
  ~FakeRoot() { std::filesystem::remove_all(path); }
  void file(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
  }
  int64_t available() const { return available_memory(path.string() + "/"); }
};

void memory(Random& random) {
  const FakeRoot root((uint64_t{random.word()} << 20) ^ static_cast<uint64_t>(std::clock()));
  CHECK(root.available() == INT64_MAX);  // a system that says nothing refuses nothing
  root.file("proc/meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable:    5000 kB\n");
  CHECK(root.available() == 5000 * 1024);
  root.file("proc/self/cgroup", "0::/user/task\n");
  root.file("sys/fs/cgroup/user/task/memory.max", "max\n");
  root.file("sys/fs/cgroup/user/task/memory.current", "1000\n");
  CHECK(root.available() == 5000 * 1024);
  root.file("sys/fs/cgroup/user/memory.max", "4000000\n");  // the parent's limit counts
  root.file("sys/fs/cgroup/user/memory.current", "1500000\n");
  CHECK(root.available() == 2500000);
  root.file("sys/fs/cgroup/user/memory.stat", "anon 7\ninactive_file 500000\n");
  CHECK(root.available() == 3000000);
  root.file("sys/fs/cgroup/user/memory.current", "9000000\n");
  CHECK(root.available() == 0);
  root.file("proc/self/cgroup", "3:cpu:/x\n7:blkio,memory:/y\n");
  root.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "777777\n");  // inside a container: the mount is the group
  root.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "77777\n");
  CHECK(root.available() == 700000);

  const int64_t here = available_memory();
  CHECK(here > 0);
  require_memory(1, "this test");
  CHECK_THROWS(require_memory(INT64_MAX - 1, "this test"), ErrorCode::kOutOfMemory);
}

void error_names() {
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    const std::string name = error_code_name(static_cast<ErrorCode>(code));
    CHECK(!name.empty() && (name != "INTERNAL" || code == static_cast<int>(ErrorCode::kInternal)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  dtypes(random);
  math(std::getenv("QWEN3_LONG") != nullptr);
  philox(random);
  checked_sizes();
  memory(random);
  error_names();
  return run.finish();
}
