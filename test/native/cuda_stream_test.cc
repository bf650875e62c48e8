// linear_stream with rms_norm ahead of it, against the kernels apart: the same bits, for 1 to 4 rows, gathered or not;
// against float64; and what it reads.

#include "cuda/kernels.h"
#include "cuda_testing.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;

namespace {

constexpr float kEps = 1e-6f;

const emulate::Counters& last() {
  return emulate::Session::current().launches.back();
}

template <class T>
struct Filled : DeviceArray<T> {
  Filled(Random& random, size_t n, float scale = 1) : DeviceArray<T>(n, "filled") {
    for (T& x : *this) {
      if constexpr (std::is_same_v<T, Bf16>)
        x = f32_to_bf16(scale * random.normal());
      else
        x = scale * random.normal();
    }
  }
};

template <class T>
void check_same(const DeviceArray<T>& got, const DeviceArray<T>& want, const std::string& what) {
  CHECK_MSG(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0, what);
}

enum class Form { kMma, kHopper };

// linear_stream of either form, on a few multiprocessors.
struct Streamer {
  Form form;
  int multiprocessors;
  Streamer(Random& random, Form f) : form(f), multiprocessors(static_cast<int>(random.between(1, 9))) {}
  void operator()(const LinearOperands& operands, const LinearShape& shape, Output output,
                  const StreamFusion& fusion = {}) const {
    if (form == Form::kMma) {
      linear_stream(nullptr, operands, shape, output, fusion);
      return;
    }
    DeviceArray<float> parts(static_cast<size_t>(stream_part_elements(multiprocessors, shape.n_rows)), "parts");
    DeviceArray<int32_t> arrived(static_cast<size_t>(stream_counters(shape.n_rows, shape.n)), "counters");
    for (int32_t& a : arrived) a = 0;
    linear_stream_hopper(nullptr, operands, shape, output, {multiprocessors, parts.data(), arrived.data()}, fusion);
    for (const int32_t a : arrived) CHECK(a == 0);
  }
};

// Rows of the residual stream and a weight, both ways.
void test_norm(Random& random, Form form, Output output) {
  const Streamer run(random, form);
  const bool even = random.between(0, 1);  // whole warps normalise, as in every model
  const int rows = static_cast<int>(random.between(1, 4)),
            k = even ? 128 * static_cast<int>(random.between(1, 10)) : 8 * static_cast<int>(random.between(1, 160));
  const int n = (output == Output::kSiluMul ? 16 : 8) * static_cast<int>(random.between(1, 9));
  CHECK(stream_takes_norm(rows, k) && !stream_takes_norm(5, k));
  const bool gathered = random.between(0, 1);
  const int source_rows = gathered ? rows + 3 : rows;
  const auto in = static_cast<size_t>(source_rows) * k, out = static_cast<size_t>(rows) * n;
  Filled<float> residual(random, in, 3), norm(random, static_cast<size_t>(k));
  const Filled<Bf16> weight(random, static_cast<size_t>(n) * k, 1 / std::sqrt(static_cast<float>(k)));
  DeviceArray<int32_t> gather(static_cast<size_t>(rows));
  for (int32_t& r : gather) r = static_cast<int32_t>(random.between(0, source_rows - 1));
  DeviceArray<Bf16> normed(in);
  Filled<float> got(random, out);
  DeviceArray<float> want(out), before(out);
  std::copy(got.begin(), got.end(), want.begin());
  std::copy(got.begin(), got.end(), before.begin());
  const LinearShape shape{rows, n, k};
  StreamFusion fusion;
  fusion.residual = residual.data(), fusion.norm_weight = norm.data(), fusion.norm_eps = kEps;
  run({nullptr, weight.data(), got.data(), gathered ? gather.data() : nullptr}, shape, output, fusion);
  if (kCounted) {
    std::string lines;
    for (const auto& [line, n_conflicts] : last().conflicts_by_line)
      lines += " " + std::to_string(n_conflicts) + " in line " + std::to_string(line);
    CHECK_MSG(!even || last().bank_conflicts == 0, "bank conflicts:" + lines);
    CHECK(last().overlaps_previous);
  }
  rms_norm(nullptr, residual.data(), nullptr, norm.data(), source_rows, k, kEps, normed.data());
  run({normed.data(), weight.data(), want.data(), gathered ? gather.data() : nullptr}, shape, output);
  check_same(got, want, "a product that normalises its rows");
  if (output == Output::kSiluMul) return;
  std::vector<double> values, expected;
  for (int r = 0; r < rows; ++r) {
    const float* x = residual.data() + static_cast<size_t>(gathered ? gather[r] : r) * k;
    double squares = 0;
    for (int i = 0; i < k; ++i) squares += double(x[i]) * x[i];
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += x[i] * double(norm[i]) * bf16_to_f32(weight[static_cast<size_t>(j) * k + i]);
      const size_t at = static_cast<size_t>(r) * n + j;
      expected.push_back(sum / std::sqrt(squares / k + kEps) + (output == Output::kAddF32 ? before[at] : 0));
      values.push_back(got[at]);
    }
  }
  const double error = relative_error(values.data(), expected.data(), values.size());
  CHECK_MSG(error < 4e-3, std::to_string(error));
}

// A row alone, among 4 (which normalise for themselves) and among 5 and 13 (which have it done): the same bits. And
// what one launch reads: the weight once, and by every block of 16 of its rows, the residual rows twice (the second
// time they are in L1) and the norm's weight once.
void test_counts(Random& random, Form form) {
  const Streamer run(random, form);
  const int n = 64, k = 512;
  const Filled<float> residual(random, size_t{16} * k), norm(random, static_cast<size_t>(k));
  const Filled<Bf16> weight(random, static_cast<size_t>(n) * k);
  DeviceArray<Bf16> normed(size_t{16} * k);
  rms_norm(nullptr, const_cast<float*>(residual.data()), nullptr, norm.data(), 16, k, kEps, normed.data());
  StreamFusion fusion;
  fusion.norm_weight = norm.data(), fusion.norm_eps = kEps;
  DeviceArray<float> alone(static_cast<size_t>(n)), together(static_cast<size_t>(n) * 16);
  fusion.residual = residual.data() + 3 * k;
  run({nullptr, weight.data(), alone.data()}, {1, n, k}, Output::kStoreF32, fusion);
  for (const int rows : {4, 5, 13}) {
    fusion.residual = rows == 4 ? residual.data() : nullptr;
    run({normed.data(), weight.data(), together.data()}, {rows, n, k}, Output::kStoreF32, fusion);
    for (int i = 0; i < n; ++i) CHECK(together[static_cast<size_t>(3) * n + i] == alone[i]);
    if (!kCounted || rows != 4 || form == Form::kHopper) continue;
    const int64_t weights = int64_t{n} * k * 2 / 32, x = int64_t{rows} * k * 4 / 32, g = int64_t{k} * 4 / 32;
    CHECK(last().distinct_sectors_read == weights + x + g);
    CHECK(last().global_read_sectors == weights + (2 * x + g) * (n / 16));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  uint64_t stream = 0;
  on_every_schedule([&] {
    Random random(seed(), stream++);
    for (const Form form : {Form::kMma, Form::kHopper}) {
      if (form == Form::kHopper && !has_hopper()) continue;
      for (const Output output : {Output::kStoreF32, Output::kAddF32, Output::kSiluMul})
        test_norm(random, form, output);
      test_counts(random, form);
    }
  });
  return run.finish();
}
