// Every CUDA kernel on the host emulation, on random small shapes, against the formula in float64 over the same bf16
// inputs; and the counts that the mathematics bounds: bytes read once, no bank conflicts, FLOPs.

#include <cstring>

#include "cuda/kernels.h"
#include "cuda_testing.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;

namespace {

const emulate::Counters& last() {
  return emulate::Session::current().launches.back();
}

struct Bf16Matrix {
  DeviceArray<Bf16> data;
  int rows, cols;
  Bf16Matrix(Random& random, int r, int c, float scale = 1)
      : data(static_cast<size_t>(r) * c, "matrix"), rows(r), cols(c) {
    for (Bf16& x : data) x = f32_to_bf16(scale * random.normal());
  }
  double at(int r, int c) const { return bf16_to_f32(data[static_cast<size_t>(r) * cols + c]); }
};

double silu64(double x) {
  return x / (1 + std::exp(-x));
}

// Results that were rounded to bf16: half a unit of their last place off, and what f32 adds, slack times the result and
// the mean of all.
void check_rounded(const std::vector<double>& got, const std::vector<double>& want, double slack,
                   const std::string& what) {
  double squares = 0, most = 0;
  for (const double x : want) squares += x * x;
  const double mean = std::sqrt(squares / static_cast<double>(want.size()));
  for (size_t i = 0; i < want.size(); ++i) {
    const double size = std::max(std::abs(got[i]), std::abs(want[i]));
    const double half_unit = size > 0 ? std::ldexp(1.0, std::ilogb(size) - 8) : 0;
    most = std::max(most, (std::abs(got[i] - want[i]) - half_unit) / (std::abs(want[i]) + mean));
  }
  CHECK_MSG(most <= slack, what + ": " + std::to_string(most * 1e6) + "e-6 beyond the rounding");
}

// 2-norm over everything.
void check_error(const std::vector<double>& got, const std::vector<double>& want, double bound,
                 const std::string& what) {
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error <= bound, what + ": " + std::to_string(error));
}

void test_begin_step(Random& random) {
  constexpr int kDims[] = {32, 64, 128};
  const int rows = static_cast<int>(random.between(1, 9)), hidden = 8 * static_cast<int>(random.between(1, 200)),
            vocab = 50, head_dim = kDims[random.between(0, 2)], half = head_dim / 2;
  const auto n = static_cast<size_t>(rows), angles = n * half;
  const Bf16Matrix table(random, vocab, hidden);
  DeviceArray<int32_t> given(n), drawn(4), tokens(n), position(n), slot(n), rope_table(n);
  DeviceArray<double> inv_freq(static_cast<size_t>(2 * half)), factor(2);
  DeviceArray<float> cos(angles), sin(angles), out(n * hidden);
  drawn[0] = 7, drawn[1] = -1, drawn[2] = 49, drawn[3] = 0;
  factor[0] = 1, factor[1] = 1.25;
  for (int i = 0; i < 2 * half; ++i) inv_freq[i] = std::pow(i < half ? 1e-6 : 2e-6, double(i % half) / half);
  for (int r = 0; r < rows; ++r) {
    given[r] = static_cast<int32_t>(random.between(0, vocab + 3)) - 4;
    position[r] = static_cast<int32_t>(random.between(0, 262143)), slot[r] = -1;
    rope_table[r] = static_cast<int32_t>(random.between(0, 1));
  }
  begin_step(nullptr,
             {given.data(),
              drawn.data(),
              {position.data(), slot.data(), rope_table.data()},
              inv_freq.data(),
              factor.data(),
              table.data.data(),
              hidden,
              head_dim,
              tokens.data(),
              cos.data(),
              sin.data(),
              out.data()},
             rows);
  for (int r = 0; r < rows; ++r) {
    const int32_t want = std::max(0, given[r] < 0 ? drawn[-1 - given[r]] : given[r]);
    CHECK(tokens[r] == want);
    for (int i = 0; i < hidden; ++i) CHECK(out[static_cast<size_t>(r) * hidden + i] == table.at(want, i));
    for (int i = 0; i < half; ++i) {
      const double angle = position[r] * inv_freq[rope_table[r] * half + i], f = factor[rope_table[r]];
      CHECK(std::fabs(cos[r * half + i] - std::cos(angle) * f) < 1e-6);
      CHECK(std::fabs(sin[r * half + i] - std::sin(angle) * f) < 1e-6);
    }
  }
}

void test_rms_norm(Random& random) {
  const int rows = static_cast<int>(random.between(1, 5)), hidden = 4 * static_cast<int>(random.between(1, 2048));
  const size_t n = static_cast<size_t>(rows) * hidden;
  DeviceArray<float> x(n), add(n), weight(static_cast<size_t>(hidden));
  DeviceArray<Bf16> out(n);
  const bool with_add = random.between(0, 1);
  std::vector<double> sum(n), want(n), got(n);
  for (size_t i = 0; i < n; ++i) {
    x[i] = random.normal(), add[i] = random.normal();
    sum[i] = with_add ? static_cast<double>(x[i] + add[i]) : x[i];
  }
  for (float& w : weight) w = random.normal();
  rms_norm(nullptr, x.data(), with_add ? add.data() : nullptr, weight.data(), rows, hidden, 1e-6f, out.data());
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int i = 0; i < hidden; ++i)
      squares += sum[static_cast<size_t>(r) * hidden + i] * sum[static_cast<size_t>(r) * hidden + i];
    for (int i = 0; i < hidden; ++i) {
      const size_t at = static_cast<size_t>(r) * hidden + i;
      want[at] = sum[at] / std::sqrt(squares / hidden + 1e-6) * weight[i];
      got[at] = bf16_to_f32(out[at]);
      CHECK(x[at] == static_cast<float>(sum[at]));
    }
  }
  check_rounded(got, want, 2e-6, "rms_norm");
  if (kCounted && hidden % 16 == 0) {  // whole sectors per row: every byte once
    CHECK(last().global_read_sectors ==
          static_cast<int64_t>((n * (with_add ? 2 : 1) * 4 + static_cast<size_t>(rows) * hidden * 4) / 32));
    CHECK(last().global_written_bytes == static_cast<int64_t>(n * 2 + (with_add ? n * 4 : 0)));
  }
}

// --- linear ---

enum class Path { kTiles, kStream, kHopper, kStreamHopper };

// linear_stream of either form.
void run_stream(Path path, const LinearOperands& operands, const LinearShape& shape, Output output,
                int multiprocessors) {
  if (path == Path::kStream) {
    linear_stream(nullptr, operands, shape, output);
    return;
  }
  DeviceArray<float> parts(static_cast<size_t>(stream_part_elements(multiprocessors, shape.n_rows)), "parts");
  DeviceArray<int32_t> arrived(static_cast<size_t>(stream_counters(shape.n_rows, shape.n)), "arrived");
  for (int32_t& a : arrived) a = 0;
  linear_stream_hopper(nullptr, operands, shape, output, {multiprocessors, parts.data(), arrived.data()});
  for (const int32_t a : arrived) CHECK(a == 0);
}

void test_linear(Random& random, Path path, Output output) {
  const bool streaming = path == Path::kStream || path == Path::kStreamHopper, hopper = path == Path::kHopper;
  const int rows = static_cast<int>(random.between(1, streaming ? 70 : 200));
  const int n = (output == Output::kSiluMul ? 16 : 8) * static_cast<int>(random.between(1, hopper ? 40 : 20));
  const int k = 8 * static_cast<int>(random.between(1, 40));
  const bool gathered = !hopper && random.between(0, 1);
  const int source_rows = gathered ? rows + 7 : rows;
  const Bf16Matrix x(random, source_rows, k), w(random, n, k, 1 / std::sqrt(static_cast<float>(k)));
  DeviceArray<int32_t> gather(static_cast<size_t>(rows));
  for (int32_t& r : gather) r = static_cast<int32_t>(random.between(0, source_rows - 1));
  const int out_cols = output == Output::kSiluMul ? n / 2 : n;
  DeviceArray<float> out32(static_cast<size_t>(rows) * n);
  DeviceArray<Bf16> out16(static_cast<size_t>(rows) * out_cols);
  std::vector<float> before(out32.size());
  if (output == Output::kAddF32) {
    for (size_t i = 0; i < before.size(); ++i) before[i] = out32[i] = random.normal();
  }
  const LinearOperands operands{x.data.data(), w.data.data(),
                                output == Output::kSiluMul ? static_cast<void*>(out16.data()) : out32.data(),
                                gathered ? gather.data() : nullptr};
  if (hopper) {
    linear_hopper(nullptr, operands, {rows, n, k}, output, static_cast<int>(random.between(1, 4)));
  } else if (streaming) {
    run_stream(path, operands, {rows, n, k}, output, static_cast<int>(random.between(1, 12)));
  } else {
    linear(nullptr, operands, {rows, n, k}, output);
  }
  const std::string name = last().kernel;
  std::vector<double> got, want;
  for (int r = 0; r < rows; ++r) {
    const int source = gathered ? gather[r] : r;
    const auto product = [&](int row) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += x.at(source, i) * w.at(row, i);
      return sum;
    };
    for (int j = 0; j < out_cols; ++j) {
      const size_t at = static_cast<size_t>(r) * out_cols + j;
      if (output == Output::kSiluMul) {
        const int gate = j / 8 * 16 + j % 8;
        want.push_back(silu64(product(gate)) * product(gate + 8));
        got.push_back(bf16_to_f32(out16[at]));
      } else {
        want.push_back(product(j) + before[at]);
        got.push_back(out32[at]);
      }
    }
  }
  if (output == Output::kSiluMul) {
    check_rounded(got, want, 5e-6, name);
  } else {
    check_error(got, want, 2e-6, name);
  }
  if (kCounted) CHECK_MSG(last().bank_conflicts == 0, name + " conflicts");
}

// On sm_90a: at most 1.05 times the sectors of tiles of 128 x 256, no conflicts, no FLOP beyond the tiles.
void test_hopper_counts(Random& random) {
  const int rows = 256, n = 512, k = 192;
  const Bf16Matrix w(random, n, k), x(random, rows, k);
  DeviceArray<float> out(static_cast<size_t>(rows) * n);
  linear_hopper(nullptr, {x.data.data(), w.data.data(), out.data()}, {rows, n, k}, Output::kStoreF32, 2);
  const auto& c = last();
  const int64_t minimum = int64_t{rows / 128} * (n / 256) * (128 + 256) * k * 2 / 32;
  CHECK(double(c.global_read_sectors) <= 1.05 * double(minimum) && c.tma_read_sectors == c.global_read_sectors);
  CHECK(c.global_written_sectors == int64_t{rows} * n * 4 / 32);
  CHECK(c.matrix_flops == int64_t{2} * rows * n * k && c.bank_conflicts == 0);
  DeviceArray<Bf16> gated(static_cast<size_t>(rows) * n / 2);
  linear_hopper(nullptr, {x.data.data(), w.data.data(), gated.data()}, {rows, n, k}, Output::kSiluMul, 2);
  CHECK(last().global_written_sectors == int64_t{rows} * n / 32);
  // What is added to is read once besides.
  std::fill(out.begin(), out.end(), 0.0f);
  linear_hopper(nullptr, {x.data.data(), w.data.data(), out.data()}, {rows, n, k}, Output::kAddF32, 2);
  const int64_t sectors = int64_t{rows} * n * 4 / 32;
  CHECK(last().global_written_sectors == sectors);
  CHECK(last().global_read_sectors == last().tma_read_sectors + sectors && last().bank_conflicts == 0);
}

// Tiles of every width give the same bits.
void test_hopper_widths(Random& random) {
  const int rows = static_cast<int>(random.between(129, 200)), n = 640, k = 8 * static_cast<int>(random.between(1, 40));
  const LinearShape shape{rows, n, k};
  const Bf16Matrix w(random, n, k), x(random, rows, k);
  const Output output = static_cast<Output>(random.between(0, 2));
  const size_t size = static_cast<size_t>(rows) * n;
  std::vector<float> before(size), first;
  for (float& v : before) v = random.normal();
  for (const auto& [multiprocessors, width] : {std::pair{10, 128}, {6, 256}, {4, 320}}) {
    CHECK(linear_hopper_width(shape, multiprocessors) == width);
    DeviceArray<float> out(size);
    std::copy(before.begin(), before.end(), out.begin());
    linear_hopper(nullptr, {x.data.data(), w.data.data(), out.data()}, shape, output, multiprocessors);
    if (first.empty()) first.assign(out.begin(), out.end());
    CHECK(std::memcmp(first.data(), out.data(), size * 4) == 0);
  }
}

// The widths that the shapes of the family take on the 132 multiprocessors of an H200.
void test_hopper_choice() {
  CHECK(linear_hopper_width({4096, 4096, 4096}, 132) == 256);   // 8B o: 3.9 of 4 waves
  CHECK(linear_hopper_width({4096, 2560, 4096}, 132) == 320);   // 4B o: 1.9 of 2, not 2.4 of 3
  CHECK(linear_hopper_width({512, 4096, 4096}, 132) == 128);    // 128 tiles, not 64
  CHECK(linear_hopper_width({4096, 24576, 4096}, 132) == 320);  // 18.7 of 19 waves, not 23.3 of 24
}

// More row tiles than a band of the tile order has, and a band that is not full: each tile once.
void test_bands(Random& random, Path path) {
  const int rows = 17 * 128 + 5, n = path == Path::kHopper ? 264 : 136, k = 8;
  const Bf16Matrix w(random, n, k), x(random, rows, k);
  DeviceArray<float> out(static_cast<size_t>(rows) * n);
  const LinearOperands operands{x.data.data(), w.data.data(), out.data()};
  if (path == Path::kHopper) {
    linear_hopper(nullptr, operands, {rows, n, k}, Output::kStoreF32, 5);
  } else {
    linear(nullptr, operands, {rows, n, k}, Output::kStoreF32);
  }
  std::vector<double> got(out.begin(), out.end()), want;
  for (int r = 0; r < rows; ++r) {
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += x.at(r, i) * w.at(j, i);
      want.push_back(sum);
    }
  }
  check_error(got, want, 2e-6, "bands");
}

// Every weight byte once, in full sectors, for 1 to 64 rows; and a row's bits do not depend on the other rows.
void test_stream_counts(Random& random, Path path) {
  const bool hopper = path == Path::kStreamHopper;
  const int n = hopper ? 304 : 48, k = 512, blocks = 5;
  const Bf16Matrix w(random, n, k), x(random, 70, k);
  DeviceArray<float> alone(n), together(static_cast<size_t>(70) * n);
  run_stream(path, {x.data.data() + 2 * k, w.data.data(), alone.data()}, {1, n, k}, Output::kStoreF32, blocks);
  for (const int rows : {3, 6, 13, 16, 27, 64, 70}) {
    run_stream(path, {x.data.data(), w.data.data(), together.data()}, {rows, n, k}, Output::kStoreF32, blocks);
    for (int i = 0; i < n; ++i) CHECK(together[static_cast<size_t>(2) * n + i] == alone[i]);
    if (!kCounted || rows > 64) continue;
    const auto& c = last();
    const int64_t weight_sectors = int64_t{n} * k * 2 / 32, x_sectors = int64_t{rows} * k * 2 / 32;
    CHECK(c.bank_conflicts == 0);
    if (hopper) {
      CHECK(c.tma_read_sectors == weight_sectors);  // each once
      continue;
    }
    CHECK(c.distinct_sectors_read == weight_sectors + x_sectors);
    // x is read by each block of 16 weight rows (8 where columns and rows are few); the weight once.
    CHECK(c.global_read_sectors == weight_sectors + x_sectors * (n / (rows <= 4 ? 8 : 16)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  uint64_t stream = 0;
  on_every_schedule([&] {
    Random random(seed(), stream++);
    test_begin_step(random);
    test_rms_norm(random);
    for (const Path path : {Path::kTiles, Path::kStream, Path::kHopper, Path::kStreamHopper}) {
      if ((path == Path::kHopper || path == Path::kStreamHopper) && !has_hopper()) continue;
      for (const Output output : {Output::kStoreF32, Output::kAddF32, Output::kSiluMul})
        test_linear(random, path, output);
    }
    test_stream_counts(random, Path::kStream);
    if (has_hopper()) test_stream_counts(random, Path::kStreamHopper);
    if (kCounted) test_hopper_counts(random);
    if (has_hopper()) test_hopper_widths(random);
  });
  test_hopper_choice();
  Random random(seed(), 1000);
  without_faults([&] { test_bands(random, Path::kTiles); });
  if (has_hopper()) without_faults([&] { test_bands(random, Path::kHopper); });
  return run.finish();
}
