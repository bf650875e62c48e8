// Integer weights: what packing keeps, what a row of activations becomes, and their products. All levels must give the
// same bits as the scalar one, whatever the company of a row; the scalar one is held against float64 on the values that
// the packed weights and the rounded activations stand for. All operands end at a page that cannot be read or written.

#include <algorithm>
#include <array>
#include <limits>

#include "cpu/dispatch.h"
#include "cpu/weights.h"
#include "cpu/weights_int.h"
#include "guarded.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::cpu;
using namespace qwen3::testing;

namespace qwen3::cpu {
const KernelTable* emulated_avxvnni();  // emulated_avxvnni.cc
}

namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kInt4Offset};
const char* const kLevels[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"};
const char* format_name(WeightFormat format) {
  return format == WeightFormat::kInt8 ? "int8" : format == WeightFormat::kInt4 ? "int4" : "int4-offset";
}

std::vector<const KernelTable*> levels_here() {
  std::vector<const KernelTable*> out;
  for (const char* level : kLevels) {
    if (isa_available(level)) {
      out.push_back(&choose_kernels(level));
    } else {
      std::printf("this machine lacks %s: not tested\n", level);
    }
  }
  if (isa_available("avx2")) out.push_back(emulated_avxvnni());
  return out;
}

MatrixSource matrix(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {rows, cols, DType::kF32, [&values, cols](int64_t begin, int64_t end, void* out) {
            std::memcpy(out, values.data() + begin * cols, static_cast<size_t>((end - begin) * cols) * sizeof(float));
          }};
}

bool same_float(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

std::unique_ptr<PackedWeight> pack(const KernelTable& kernels, WeightUse use, WeightFormat format,
                                   const std::vector<MatrixSource>& sources) {
  static ThreadPool pool(2);
  WeightMemory memory;
  return pack_weight(pool, kernels, memory, use, format, sources);
}

std::vector<float> unpack(const PackedWeight& w) {
  std::vector<float> out(static_cast<size_t>(w.rows * w.cols));
  for (int64_t r = 0; r < w.rows; ++r) w.read_row(r, out.data() + r * w.cols);
  return out;
}

// --- packing

// The peer's 4-bit format of equal size: the largest magnitude becomes -8, nothing is searched.
float plain_error(const float* w, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::abs(w[i]) > std::abs(largest) ? w[i] : largest;
  const float scale = f16_to_f32(f32_to_f16(largest / -8));
  float error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float q = scale == 0 ? 0 : std::clamp(std::floor(w[i] / scale + 0.5f), -8.0f, 7.0f);
    error += (w[i] - q * scale) * (w[i] - q * scale);
  }
  return error;
}

void packing_keeps_values(Random& random) {
  for (const WeightFormat format : kFormats) {
    double error = 0, norm = 0, plain = 0;
    for (const auto& [rows, cols] : {std::pair{1, 1}, {33, 63}, {64, 64}, {70, 65}, {31, 130}, {96, 1024}}) {
      const std::vector<float> w = random.normals(int64_t{rows} * cols, 0.05f);
      const auto packed = pack(*kernels_scalar(), WeightUse::kLinear, format, {matrix(w, rows, cols)});
      CHECK(packed->bytes == static_cast<size_t>(packed_weight_bytes(WeightUse::kLinear, format, rows, cols)));
      const std::vector<float> got = unpack(*packed);
      const int64_t group = int_format(format).group;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k0 = 0; k0 < cols; k0 += group) {
          const int64_t n = std::min(group, cols - k0);
          const float* want = w.data() + r * cols + k0;
          plain += plain_error(want, n);
          float largest = 0;
          for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(want[i]));
          for (int64_t i = 0; i < n; ++i) {
            const float off = std::abs(got[static_cast<size_t>(r * cols + k0 + i)] - want[i]);
            // int8: half a step of largest / 127, and the rounding of the scale to f16, which may be subnormal.
            if (format == WeightFormat::kInt8) CHECK(off <= largest / 127 * 0.5f + largest * 0x1p-11f + 0x1p-18f);
            error += static_cast<double>(off) * off, norm += static_cast<double>(want[i]) * want[i];
          }
        }
      }
      // What the reference holds is the same.
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<float> row(w.begin() + r * cols, w.begin() + (r + 1) * cols);
        quantise_weight_row(format, row.data(), cols);
        CHECK(std::memcmp(row.data(), got.data() + r * cols, row.size() * 4) == 0);
      }
    }
    std::printf("%-12s squared error of weights %.3e, of absmax/8 in 4 bits %.3e\n", format_name(format), error / norm,
                plain / norm);
    if (format == WeightFormat::kInt4) CHECK(error < 0.93 * plain);
    if (format == WeightFormat::kInt4Offset) CHECK(error < 0.75 * plain);
  }
}

void packing_is_the_same_everywhere(Random& random) {
  for (const WeightFormat format : kFormats) {
    for (const auto& [rows, cols] : {std::pair{40, 200}, {16, 1}, {50, 640}}) {
      std::vector<float> a = random.normals(int64_t{rows} * cols, 0.02f), b = random.normals(int64_t{rows} * cols);
      for (int64_t i = 0; i < std::min<int64_t>(80, rows * cols); ++i) a[static_cast<size_t>(i)] = 0;  // empty groups
      const auto want =
          pack(*kernels_scalar(), WeightUse::kGateUp, format, {matrix(a, rows, cols), matrix(b, rows, cols)});
      for (const KernelTable* kernels : levels_here()) {
        const auto got = pack(*kernels, WeightUse::kGateUp, format, {matrix(a, rows, cols), matrix(b, rows, cols)});
        CHECK_MSG(want->bytes == got->bytes && std::memcmp(want->data.data(), got->data.data(), want->bytes) == 0,
                  std::string(kernels->name) + " " + format_name(format));
      }
    }
  }
}

void odd_weights_stay_visible() {
  for (const WeightFormat format : kFormats) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> w(256, 0.5f);
      w[70] = bad;  // second group of 64, third of 32
      const std::vector<float> got = unpack(*pack(*kernels_scalar(), WeightUse::kLinear, format, {matrix(w, 1, 256)}));
      CHECK(std::isnan(got[70]) && std::isnan(got[65]));
      CHECK(std::abs(got[0] - 0.5f) < 1e-3f && std::abs(got[255] - 0.5f) < 1e-3f);
    }
  }
}

// --- activations

struct Quantised {
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};

Quantised quantise_plainly(const std::vector<float>& x, int64_t group, int64_t n_groups) {
  Quantised out{std::vector<int8_t>(static_cast<size_t>(group * n_groups)), {}, {}};
  for (int64_t g = 0; g < n_groups; ++g) {
    const int64_t n = std::clamp<int64_t>(static_cast<int64_t>(x.size()) - g * group, 0, group);
    const float* in = x.data() + g * group;
    float largest = 0, scale = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::isfinite(in[i]) ? std::max(largest, std::abs(in[i])) : INFINITY;
    int32_t sum = 0;
    if (largest == INFINITY) {
      scale = std::numeric_limits<float>::quiet_NaN();
    } else if (largest >= 0x1p-100f) {
      scale = largest / 127.0f;
      const float inverse = 127.0f / largest;
      for (int64_t i = 0; i < n; ++i) {
        const int q = static_cast<int>(std::nearbyint(in[i] * inverse));
        out.q[static_cast<size_t>(g * group + i)] = static_cast<int8_t>(q);
        sum += q;
      }
    }
    out.scales.push_back(scale), out.sums.push_back(sum);
  }
  return out;
}

void activations(Random& random, const KernelTable& kernels) {
  for (const WeightFormat format : kFormats) {
    for (const int64_t cols : {1, 31, 64, 65, 96, 130, 1024}) {
      for (const bool half : {false, true}) {
        if (half && !kernels.bf16_products) continue;
        std::vector<float> x = random.normals(cols, random.uniform(0.1f, 100.0f));
        if (cols > 40) x[40] = 1e4f;
        if (cols > 64) std::fill(x.begin() + 32, x.begin() + 64, 0.0f);
        if (cols == 96) x[95] = INFINITY;
        if (cols == 130) x[129] = NAN, x[3] = -INFINITY;
        if (cols == 1024) std::fill_n(x.begin() + 64, 64, 1e-38f), std::fill_n(x.begin() + 128, 64, 1e-29f);
        Guarded<char> input(static_cast<size_t>(cols * (half ? 2 : 4)));
        for (int64_t i = 0; i < cols; ++i) {
          float& v = x[static_cast<size_t>(i)];
          if (half) {
            const uint16_t bits = f32_to_bf16(v);
            v = bf16_to_f32(bits);
            std::memcpy(input.data() + 2 * i, &bits, 2);
          } else {
            std::memcpy(input.data() + 4 * i, &v, 4);
          }
        }
        const QuantisedRows layout(kernels, format, cols, 1);
        // The last correction ends where the page does.
        Guarded<char> out(static_cast<size_t>(layout.bytes - 4 * (layout.meta_stride - 1)));
        const QuantiseArgs args =
            layout.args(format, input.data(), half ? Store::kBf16 : Store::kF32, cols, out.data(), 0);
        kernels.quantise(&args);
        const Quantised want = quantise_plainly(x, int_format(format).group, layout.n_groups);
        if (layout.value_bytes == 1) CHECK(std::memcmp(want.q.data(), args.out, want.q.size()) == 0);
        for (size_t i = 0; layout.value_bytes == 2 && i < want.q.size(); ++i) {
          const size_t at = i / 4 * 4 + std::array{0, 2, 1, 3}[i % 4];
          int16_t got;
          std::memcpy(&got, args.out + 2 * at, 2);
          CHECK(got == want.q[i]);
        }
        for (size_t g = 0; g < want.scales.size(); ++g) {
          CHECK(same_float(args.scales[static_cast<int64_t>(g) * args.meta_stride], want.scales[g]));
          if (args.offset) {
            CHECK(args.corrections[static_cast<int64_t>(g) * args.meta_stride] == -args.offset * want.sums[g]);
          } else {
            float part;
            std::memcpy(&part, args.corrections + static_cast<int64_t>(g) * args.meta_stride, 4);
            CHECK(part * -16 == static_cast<float>(want.sums[g]));
          }
        }
      }
    }
  }
}

// --- products

struct Product {
  WeightFormat format;
  Finish finish;
  int64_t rows, n, k;
  std::unique_ptr<PackedWeight> packed;
  std::unique_ptr<Guarded<char>> weight;
  std::vector<float> input, before;  // [rows, k], [rows, n]

  Product(Random& random, WeightFormat f, Finish fin, int64_t r, int64_t out_cols, int64_t cols, float bad = 0)
      : format(f), finish(fin), rows(r), n(out_cols), k(cols) {
    const bool gated = finish == Finish::kSiluMul;
    const std::vector<float> a = random.normals(n * k, 0.5f), b = random.normals(n * k, 0.5f);
    std::vector<MatrixSource> sources = {matrix(a, n, k)};
    if (gated) sources.push_back(matrix(b, n, k));
    packed = pack(*kernels_scalar(), gated ? WeightUse::kGateUp : WeightUse::kLinear, f, sources);
    weight = std::make_unique<Guarded<char>>(static_cast<size_t>(packed->data.bytes()));
    std::memcpy(weight->data(), packed->data.data(), weight->size());
    input = random.normals(rows * k), before = random.normals(rows * n);
    if (bad != 0) input[static_cast<size_t>(random.between(0, rows * k - 1))] = bad;
  }

  // Rows [begin, end) computed in one call.
  std::vector<float> run(const KernelTable& kernels, int64_t begin, int64_t end) const {
    Guarded<float> out(std::vector<float>(before.begin() + begin * n, before.begin() + end * n));
    const int64_t n_rows = end - begin;
    const QuantisedRows layout(kernels, format, k, n_rows);
    // The last row's last correction ends where the page does.
    Guarded<char> x(static_cast<size_t>(layout.bytes - 4 * (layout.meta_stride - n_rows)));
    for (int64_t i = 0; i < n_rows; ++i) {
      const QuantiseArgs one = layout.args(format, input.data() + (begin + i) * k, Store::kF32, k, x.data(), i);
      kernels.quantise(&one);
    }
    LinearArgs args{};
    layout.set(args, x.data());
    args.weight = weight->data(), args.steps = packed->steps, args.n = n;
    args.out = out.data(), args.out_stride = n, args.store = Store::kF32, args.finish = finish;
    const auto kernel = format == WeightFormat::kInt8   ? kernels.linear_int8
                        : format == WeightFormat::kInt4 ? kernels.linear_int4
                                                        : kernels.linear_int4_offset;
    kernel(&args, 0, n_rows, 0, packed->n_panels);
    return {out.data(), out.data() + out.size()};
  }

  // float64 on the rounded operands.
  double exact(int64_t row, int64_t column) const {
    const int64_t group = int_format(format).group;
    const std::vector<float> xs(input.begin() + row * k, input.begin() + (row + 1) * k);
    const Quantised q = quantise_plainly(xs, group, packed->steps * kBlock / group);
    double sums[2] = {0, 0};
    const bool gated = finish == Finish::kSiluMul;
    for (int part = 0; part < (gated ? 2 : 1); ++part) {
      std::vector<float> w(static_cast<size_t>(k));
      // Packed rows of gate and up: columns 0..15 and 16..31 of a panel.
      packed->read_row(gated ? column / 16 * 32 + column % 16 + part * 16 : column, w.data());
      for (int64_t i = 0; i < k; ++i) {
        const size_t at = static_cast<size_t>(i);
        sums[part] += static_cast<double>(q.q[at]) * q.scales[static_cast<size_t>(i / group)] * w[at];
      }
    }
    if (gated) return sums[0] / (1 + std::exp(-sums[0])) * sums[1];
    return sums[0] + (finish == Finish::kAddTo ? before[static_cast<size_t>(row * n + column)] : 0.0f);
  }
};

void products(Random& random, const std::vector<const KernelTable*>& levels) {
  const bool sanitized = std::getenv("QWEN3_SANITIZED") != nullptr;
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 33, 127},   {2, 16, 130},  {3, 31, 64},
                               {4, 64, 257},  {5, 15, 1024},  {8, 40, 96},   {12, 32, 63},
                               {13, 70, 192}, {16, 33, 320},  {33, 65, 311}, {49, 20, 65},
                               {9, 34, 1090}, {40, 33, 1030}, {275, 17, 520}};  // slices and passes of tiles
  for (const WeightFormat format : kFormats) {
    double error = 0, norm = 0;
    for (const auto& s : shapes) {
      if (sanitized && s[0] > 13 && s[0] != 33) continue;
      for (const Finish finish : {Finish::kStore, Finish::kAddTo, Finish::kSiluMul}) {
        const Product p(random, format, finish, s[0], s[1], s[2]);
        const std::vector<float> want = p.run(*kernels_scalar(), 0, p.rows);
        for (int64_t i = 0; i < p.rows * p.n; ++i) {
          const double exact = p.exact(i / p.n, i % p.n), off = want[static_cast<size_t>(i)] - exact;
          error += off * off, norm += exact * exact;
        }
        for (const KernelTable* kernels : levels) {
          const std::vector<float> got = p.run(*kernels, 0, p.rows);
          const std::string what = std::string(kernels->name) + " " + format_name(format) + " rows " +
                                   std::to_string(p.rows) + " n " + std::to_string(p.n) + " k " + std::to_string(p.k);
          // silu has its own rounding on each level.
          if (finish != Finish::kSiluMul) CHECK_MSG(std::memcmp(want.data(), got.data(), want.size() * 4) == 0, what);
          if (finish == Finish::kSiluMul) CHECK_MSG(relative_error(got.data(), want.data(), got.size()) < 1e-6, what);
          // In company or alone, a row is the same.
          for (int64_t begin = 0; begin < p.rows;) {
            const int64_t end = std::min(p.rows, begin + random.between(1, p.rows > 16 ? 40 : 9));
            const std::vector<float> part = p.run(*kernels, begin, end);
            CHECK_MSG(std::memcmp(part.data(), got.data() + begin * p.n, part.size() * 4) == 0, what + " cut");
            begin = end;
          }
        }
      }
    }
    std::printf("%-12s products: error against float64 %.2e\n", format_name(format), std::sqrt(error / norm));
    CHECK(std::sqrt(error / norm) < 1e-6);
  }
}

// The largest sums: weights at the ends of their range, activations all +-127, signs alike, opposed or by lot.
void extremes(Random& random, const std::vector<const KernelTable*>& levels) {
  for (const WeightFormat format : kFormats) {
    const int64_t weight_bytes = kBlock * kPanel / (format == WeightFormat::kInt8 ? 1 : 2);
    const int64_t block_bytes = int_format(format).block_bytes;
    for (int way = 0; way < 12; ++way) {
      Product p(random, format, Finish::kStore, 7, 64, 192);
      for (float& x : p.input) x = way % 3 == 0 ? 1.0f : way % 3 == 1 ? -1.0f : random.between(0, 1) ? 1.0f : -1.0f;
      const uint8_t low = format == WeightFormat::kInt8 ? 1 : 0;
      for (int64_t block = 0; block < p.packed->n_panels * p.packed->steps; ++block) {
        uint8_t* q = reinterpret_cast<uint8_t*>(p.weight->data()) + block * block_bytes;
        for (int64_t i = 0; i < weight_bytes; ++i) {
          q[i] = way / 3 == 0 ? 255 : way / 3 == 1 ? low : random.between(0, 1) ? 255 : low;
          if (way / 3 == 3 && low == 0) q[i] = random.between(0, 1) ? 0x0f : 0xf0;
        }
      }
      const std::vector<float> want = p.run(*kernels_scalar(), 0, p.rows);
      for (const KernelTable* kernels : levels) {
        const std::vector<float> got = p.run(*kernels, 0, p.rows);
        CHECK_MSG(std::memcmp(want.data(), got.data(), want.size() * 4) == 0,
                  std::string(kernels->name) + " " + format_name(format) + " way " + std::to_string(way));
      }
    }
  }
}

void bad_activations_spoil_their_row_alone(Random& random, const KernelTable& kernels) {
  for (const WeightFormat format : kFormats) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      const Product p(random, format, Finish::kStore, 7, 40, 200, bad);
      const std::vector<float> got = p.run(kernels, 0, p.rows);
      for (int64_t r = 0; r < p.rows; ++r) {
        const bool sick = !std::all_of(p.input.begin() + r * p.k, p.input.begin() + (r + 1) * p.k,
                                       [](float v) { return std::isfinite(v); });
        for (int64_t i = 0; i < p.n; ++i) CHECK(std::isnan(got[static_cast<size_t>(r * p.n + i)]) == sick);
      }
    }
  }
}

void halves() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (!std::isnan(value)) CHECK(f32_to_f16(value) == bits);
  }
  CHECK(f32_to_f16(65519.0f) == 0x7bff && f32_to_f16(65520.0f) == 0x7c00 && f32_to_f16(1e30f) == 0x7c00);
  CHECK(f32_to_f16(1.00048828125f) == 0x3c00 && f32_to_f16(1.00048840f) == 0x3c01);  // a tie goes to even
  CHECK(f32_to_f16(2.9802322e-8f) == 0 && f32_to_f16(3e-8f) == 1 && (f32_to_f16(NAN) & 0x7fff) > 0x7c00);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  Random random(seed());
  halves();
  packing_keeps_values(random);
  packing_is_the_same_everywhere(random);
  odd_weights_stay_visible();
  const auto levels = levels_here();
  for (const KernelTable* kernels : levels) {
    activations(random, *kernels);
    bad_activations_spoil_their_row_alone(random, *kernels);
  }
  extremes(random, levels);
  products(random, levels);
  return run.finish();
}
