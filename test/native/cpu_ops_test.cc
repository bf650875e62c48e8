// Every kernel of every ISA level against float64. The bound: over all shapes of an operation, the 2-norm of the error
// is at most 1.5 times that of a naive scalar version with the same storage types and rounding points. All operands end
// at a page that cannot be read or written.

#include <map>

#include "cpu/dispatch.h"
#include "cpu/kv_cache.h"
#include "cpu/weights.h"
#include "guarded.h"
#include "testing.h"

using namespace qwen3;
using namespace qwen3::cpu;
using namespace qwen3::testing;

namespace qwen3::cpu {
const KernelTable* emulated_avxvnni();  // emulated_avxvnni.cc
}

namespace {

float to_bf16_value(float x) {
  return bf16_to_f32(f32_to_bf16(x));
}

// Squared errors of an operation, ours and the naive version's, over all shapes.
struct Errors {
  double ours = 0, naive = 0, norm = 0;
  void add(double got, double plain, double want) {
    ours += (got - want) * (got - want), naive += (plain - want) * (plain - want), norm += want * want;
  }
};

class Report {
 public:
  Errors& operator[](const std::string& op) { return all_[op]; }
  void finish(const std::string& level) {
    for (const auto& [op, e] : all_) {
      const double ours = std::sqrt(e.ours / e.norm), naive = std::sqrt(e.naive / e.norm);
      std::printf("%-10s %-26s error %.2e, naive %.2e, ratio %.2f\n", level.c_str(), op.c_str(), ours, naive,
                  naive > 0 ? ours / naive : 0.0);
      CHECK_MSG(std::isfinite(ours) && ours <= 1.5 * naive,
                level + " " + op + " ratio " + std::to_string(ours / naive));
    }
  }

 private:
  std::map<std::string, Errors> all_;
};

// Activations as the level keeps them.
struct Row {
  Store store;
  float read(const void* row, int64_t i) const {
    return store == Store::kBf16 ? bf16_to_f32(static_cast<const uint16_t*>(row)[i])
                                 : static_cast<const float*>(row)[i];
  }
  void write(void* row, int64_t i, float x) const {
    if (store == Store::kBf16) {
      static_cast<uint16_t*>(row)[i] = f32_to_bf16(x);
    } else {
      static_cast<float*>(row)[i] = store == Store::kRounded ? to_bf16_value(x) : x;
    }
  }
  float round(float x) const { return store == Store::kF32 ? x : to_bf16_value(x); }
  int64_t element() const { return store == Store::kBf16 ? 2 : 4; }
};

MatrixSource matrix(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {rows, cols, DType::kF32, [&values, cols](int64_t begin, int64_t end, void* out) {
            std::memcpy(out, values.data() + begin * cols, static_cast<size_t>((end - begin) * cols) * sizeof(float));
          }};
}

double silu64(double x) {
  return x / (1 + std::exp(-x));
}

struct LinearCase {
  int64_t rows, n, k;
  Finish finish;
  WeightFormat format;
  Row x, out;
};

void linear_case(Random& random, const KernelTable& kernels, const LinearCase& c, Errors& errors) {
  ThreadPool pool(1);
  const bool gated = c.finish == Finish::kSiluMul;
  std::vector<float> w = random.normals(c.n * c.k * (gated ? 2 : 1), 0.5f);
  if (c.format == WeightFormat::kBF16) {
    for (float& value : w) value = to_bf16_value(value);
  }
  const std::vector<float> up(w.begin() + c.n * c.k * (gated ? 1 : 0), w.end());
  std::vector<MatrixSource> sources = {matrix(w, c.n, c.k)};
  if (gated) sources.push_back(matrix(up, c.n, c.k));
  WeightMemory memory;
  const auto packed =
      pack_weight(pool, kernels, memory, gated ? WeightUse::kGateUp : WeightUse::kLinear, c.format, sources);
  Guarded<char> weight(static_cast<size_t>(packed->data.bytes()));
  std::memcpy(weight.data(), packed->data.data(), weight.size());
  const int64_t stride = (c.k + 1) / 2 * 2;
  Guarded<char> x(static_cast<size_t>(c.rows * stride * c.x.element())),
      out(static_cast<size_t>(c.rows * c.n * c.out.element()));
  std::vector<float> before(static_cast<size_t>(c.rows * c.n));
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t i = 0; i < c.k; ++i) c.x.write(x.data() + r * stride * c.x.element(), i, random.normal());
    for (int64_t i = 0; i < c.n; ++i) {
      before[static_cast<size_t>(r * c.n + i)] = c.out.round(random.normal());
      c.out.write(out.data() + r * c.n * c.out.element(), i, before[static_cast<size_t>(r * c.n + i)]);
    }
  }
  const LinearArgs args{x.data(), stride, weight.data(), packed->steps, c.n, out.data(), c.n, c.out.store, c.finish};
  const auto kernel = c.x.store == Store::kBf16        ? kernels.linear_bf16_bf16
                      : c.format == WeightFormat::kF32 ? kernels.linear_f32_f32
                                                       : kernels.linear_f32_bf16;
  kernel(&args, 0, c.rows, 0, packed->n_panels);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t i = 0; i < c.n; ++i) {
      double exact[2] = {0, 0};
      float plain[2] = {0, 0};
      for (int64_t k = 0; k < c.k; ++k) {
        const float a = c.x.read(x.data() + r * stride * c.x.element(), k);
        for (int part = 0; part < (gated ? 2 : 1); ++part) {
          const float b = (part ? up : w)[static_cast<size_t>(i * c.k + k)];
          exact[part] += static_cast<double>(a) * b;
          plain[part] += a * b;
        }
      }
      const float old = before[static_cast<size_t>(r * c.n + i)];
      if (c.finish == Finish::kAddTo) exact[0] += old, plain[0] += old;
      if (gated) exact[0] = silu64(exact[0]) * exact[1], plain[0] = plain[0] / (1.0f + std::exp(-plain[0])) * plain[1];
      errors.add(c.out.read(out.data() + r * c.n * c.out.element(), i), c.out.round(plain[0]), exact[0]);
    }
  }
}

void linears(Random& random, const KernelTable& kernels, Report& report) {
  const Row f32{Store::kF32}, half{kernels.bf16_products ? Store::kBf16 : Store::kRounded};
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 33, 127},  {2, 16, 130},  {3, 31, 64},  {12, 32, 257},
                               {13, 70, 96}, {5, 15, 1024}, {25, 65, 311}, {40, 33, 600}};
  for (const auto& s : shapes) {
    const int64_t rows = s[0], n = s[1], k = s[2];
    linear_case(random, kernels, {rows, n, k, Finish::kStore, WeightFormat::kF32, f32, f32}, report["linear f32"]);
    linear_case(random, kernels, {rows, n, k, Finish::kAddTo, WeightFormat::kF32, f32, f32}, report["linear f32 add"]);
    linear_case(random, kernels, {rows, n, k, Finish::kSiluMul, WeightFormat::kF32, f32, f32},
                report["linear f32 silu*mul"]);
    linear_case(random, kernels, {rows, n, k, Finish::kStore, WeightFormat::kBF16, half, f32}, report["linear bf16"]);
    linear_case(random, kernels, {rows, n, k, Finish::kStore, WeightFormat::kBF16, f32, f32},
                report["linear f32 x bf16"]);
    linear_case(random, kernels, {rows, n, k, Finish::kAddTo, WeightFormat::kBF16, half, f32},
                report["linear bf16 add"]);
    linear_case(random, kernels, {rows, n, k, Finish::kSiluMul, WeightFormat::kBF16, half, half},
                report["linear bf16 silu*mul"]);
  }
}

// TDPBF16PS as its manual has it (linear_amx.inl), in scalar code.
float tile_product(const uint16_t* x, const uint16_t* w, int64_t k) {
  const auto flush = [](float v) { return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v; };
  float sum = 0;
  for (int64_t k0 = 0; k0 < k; k0 += 32) {
    float part[2] = {0, 0};
    for (int64_t i = k0; i < k0 + 32; ++i) {  // zeros fill the last tile up
      const float a = i < k ? flush(bf16_to_f32(x[i])) : 0, b = i < k ? flush(bf16_to_f32(w[i])) : 0;
      part[i % 2] = flush(std::fma(a, b, part[i % 2]));
    }
    sum = flush(sum + flush(part[0] + part[1]));
  }
  return sum;
}

// Every row of every step, whatever its company, has the bits of the sequence above; subnormal numbers included.
void tiles_add_in_their_order(Random& random, const KernelTable& kernels) {
  for (const auto& [rows, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 33, 31},
                                   {1, 5, 700},
                                   {16, 32, 64},
                                   {17, 40, 290},
                                   {33, 65, 520},
                                   {49, 9, 97},
                                   {545, 17, 270}}) {
    for (const float scale : {1.0f, 1e-19f, 3e-20f}) {
      ThreadPool pool(1);
      WeightMemory memory;
      std::vector<float> w = random.normals(n * k, scale);
      const auto packed = pack_weight(pool, kernels, memory, WeightUse::kLinear, WeightFormat::kBF16,
                                      std::vector<MatrixSource>{matrix(w, n, k)});
      const int64_t stride = (k + 1) / 2 * 2;
      Guarded<uint16_t> x(static_cast<size_t>(rows * stride));
      for (int64_t i = 0; i < rows * stride; ++i) {
        x[static_cast<size_t>(i)] = i % stride < k ? f32_to_bf16(random.normal() * (i % 7 ? scale : 1e-39f)) : 0;
      }
      std::vector<uint16_t> halves(w.size());
      for (size_t i = 0; i < w.size(); ++i) halves[i] = f32_to_bf16(w[i]);
      Guarded<float> out(static_cast<size_t>(rows * n));
      LinearArgs args{};
      args.x = x.data(), args.x_stride = stride, args.weight = packed->data.data(), args.steps = packed->steps;
      args.n = n, args.out = out.data(), args.out_stride = n, args.store = Store::kF32, args.finish = Finish::kStore;
      for (int64_t begin = 0; begin < rows;) {
        const int64_t end = std::min(rows, begin + random.between(1, random.between(0, 1) ? rows : 20));
        kernels.linear_bf16_bf16(&args, begin, end, 0, packed->n_panels);
        begin = end;
      }
      for (int64_t i = 0; i < rows * n; ++i) {
        const float want = tile_product(x.data() + i / n * stride, halves.data() + i % n * k, k);
        CHECK(std::memcmp(&want, out.data() + i, sizeof want) == 0);
      }
    }
  }
}

void norms(Random& random, const KernelTable& kernels, Report& report) {
  const Row f32{Store::kF32}, half{kernels.bf16_products ? Store::kBf16 : Store::kRounded};
  for (int64_t n : {2, 10, 64, 127, 128, 1000, 5120}) {
    for (const Row& kind : {f32, half}) {
      Guarded<float> x(random.normals(n)), w(random.normals(n));
      Guarded<char> out(static_cast<size_t>(n * kind.element()));
      const NormArgs args{x.data(), w.data(), out.data(), n, 1e-6f, kind.store};
      kernels.rms_norm(&args);
      double exact = 0;
      float plain = 0;
      for (int64_t i = 0; i < n; ++i)
        exact += static_cast<double>(x[static_cast<size_t>(i)]) * x[static_cast<size_t>(i)],
            plain += x[static_cast<size_t>(i)] * x[static_cast<size_t>(i)];
      exact = 1 / std::sqrt(exact / static_cast<double>(n) + 1e-6),
      plain = 1.0f / std::sqrt(plain / static_cast<float>(n) + 1e-6f);
      for (int64_t i = 0; i < n; ++i) {
        const float a = x[static_cast<size_t>(i)], b = w[static_cast<size_t>(i)];
        report[kind.store == Store::kF32 ? "rms_norm f32" : "rms_norm bf16"].add(
            kind.read(out.data(), i), kind.round(a * plain * b), a * exact * b);
      }
    }
  }
  for (int64_t d : {2, 6, 18, 64, 80, 128, 256}) {
    Guarded<float> x(random.normals(d)), w(random.normals(d)), cosine(static_cast<size_t>(d / 2)),
        sine(static_cast<size_t>(d / 2)), out(static_cast<size_t>(d));
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle = random.uniform(0, 1000);
      cosine[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle)),
      sine[static_cast<size_t>(i)] = static_cast<float>(std::sin(angle));
    }
    const RopeArgs args{x.data(), w.data(), cosine.data(), sine.data(), out.data(), d, 1e-6f, Store::kF32};
    kernels.norm_rope(&args);
    double exact = 0;
    float plain = 0;
    for (size_t i = 0; i < x.size(); ++i) exact += static_cast<double>(x[i]) * x[i], plain += x[i] * x[i];
    exact = 1 / std::sqrt(exact / static_cast<double>(d) + 1e-6),
    plain = 1.0f / std::sqrt(plain / static_cast<float>(d) + 1e-6f);
    for (size_t i = 0; i < cosine.size(); ++i) {
      const size_t j = i + cosine.size();
      const double a = x[i] * exact * w[i], b = x[j] * exact * w[j], c = cosine[i], s = sine[i];
      const float fa = x[i] * plain * w[i], fb = x[j] * plain * w[j];
      report["norm_rope"].add(out[i], fa * cosine[i] - fb * sine[i], a * c - b * s);
      report["norm_rope"].add(out[j], fb * cosine[i] + fa * sine[i], b * c + a * s);
    }
  }
}

void softmaxes(Random& random, const KernelTable& kernels, Report& report) {
  for (int64_t n : {1, 2, 8, 31, 128, 129}) {
    Guarded<float> x(random.normals(n, 4)), out(static_cast<size_t>(n));
    kernels.softmax(x.data(), n, out.data());
    float top = x[0], plain = 0;
    for (size_t i = 0; i < x.size(); ++i) top = std::max(top, x[i]);
    double exact = 0;
    for (size_t i = 0; i < x.size(); ++i)
      exact += std::exp(static_cast<double>(x[i]) - top), plain += std::exp(x[i] - top);
    for (size_t i = 0; i < x.size(); ++i) {
      report["softmax"].add(out[i], std::exp(x[i] - top) / plain, std::exp(static_cast<double>(x[i]) - top) / exact);
    }
  }
}

// A row as an int8 cache keeps it, and a query over one: multiples of largest magnitude / 127.
std::vector<float> to_int8_values(std::vector<float> row) {
  float largest = 0;
  for (float x : row) largest = std::max(largest, std::abs(x));
  for (float& x : row) x = std::nearbyint(x * (127.0f / largest)) * (largest / 127.0f);
  return row;
}

std::vector<float> as_stored(std::vector<float> row, DType cache) {
  if (cache == DType::kInt8) return to_int8_values(std::move(row));
  for (float& x : row) x = cache == DType::kBF16 ? to_bf16_value(x) : x;
  return row;
}

// One sequence, one KV head: rows at the end of a context, several splits, unwritten slots NaN.
struct AttentionCase {
  int32_t group, head_dim, n_positions, position;
  DType cache;
};

struct Context {
  std::vector<float> keys, values;  // as stored, [n_keys, head_dim]
  std::vector<int32_t> blocks;
  std::unique_ptr<Guarded<char>> k_pool, v_pool;
  int64_t k_stride = 0, v_stride = 0, v_cols = 0;
};

Context make_context(Random& random, const AttentionCase& c) {
  Program program;
  program.n_layers = 1, program.n_kv_heads = 1, program.head_dim = c.head_dim;
  const int32_t n_keys = c.position + c.n_positions, n_blocks = (n_keys + 63) / 64;
  CpuKvCache cache(program, c.cache, n_blocks);
  Context out;
  for (int32_t b = 0; b < n_blocks; ++b) cache.poison_block(b), out.blocks.push_back(n_blocks - 1 - b);
  for (int32_t j = 0; j < n_keys; ++j) {
    const std::vector<float> key = random.normals(c.head_dim), value = random.normals(c.head_dim);
    const int32_t block = out.blocks[static_cast<size_t>(j / 64)];
    cache.write_key(0, 0, block, j % 64, key.data());
    cache.write_value(0, 0, block, j % 64, value.data());
    for (float x : as_stored(key, c.cache)) out.keys.push_back(x);
    for (float x : as_stored(value, c.cache)) out.values.push_back(x);
  }
  // In pools of their own, block after block, with a guard page behind each.
  const int64_t element = dtype_bytes(c.cache);
  out.v_cols = cache.v_cols(), out.k_stride = (cache.values(0, 0) - cache.keys(0, 0)) / element;
  out.v_stride = cache.block_stride() - out.k_stride;
  const int64_t k_bytes = out.k_stride * element, v_bytes = out.v_stride * element;
  out.k_pool = std::make_unique<Guarded<char>>(static_cast<size_t>(n_blocks * k_bytes));
  out.v_pool = std::make_unique<Guarded<char>>(static_cast<size_t>(n_blocks * v_bytes));
  for (int32_t b = 0; b < n_blocks; ++b) {
    const int64_t from = b * cache.block_stride() * element;
    std::memcpy(out.k_pool->data() + b * k_bytes, cache.keys(0, 0) + from, static_cast<size_t>(k_bytes));
    std::memcpy(out.v_pool->data() + b * v_bytes, cache.values(0, 0) + from, static_cast<size_t>(v_bytes));
  }
  return out;
}

// exact: float64. Otherwise f32, weights of the softmax rounded as the contract says.
template <class T>
void attend_plainly(const AttentionCase& c, const Context& context, const float* q, int32_t n_keys, bool exact,
                    std::vector<T>& out) {
  const size_t d = static_cast<size_t>(c.head_dim);
  std::vector<T> weight(static_cast<size_t>(n_keys));
  T top = -INFINITY, sum = 0;
  for (size_t j = 0; j < weight.size(); ++j) {
    T s = 0;
    for (size_t i = 0; i < d; ++i) s += static_cast<T>(q[i]) * static_cast<T>(context.keys[j * d + i]);
    weight[j] = s / std::sqrt(static_cast<T>(d));
    top = std::max(top, weight[j]);
  }
  out.assign(d, 0);
  for (size_t j = 0; j < weight.size(); ++j) {
    T p = std::exp(weight[j] - top);
    if (!exact && c.cache == DType::kBF16) p = static_cast<T>(to_bf16_value(static_cast<float>(p)));
    sum += p;
    for (size_t i = 0; i < d; ++i) out[i] += p * static_cast<T>(context.values[j * d + i]);
  }
  for (T& x : out) x /= sum;
}

void attention_case(Random& random, const KernelTable& kernels, const AttentionCase& c, Errors& errors) {
  const Context context = make_context(random, c);
  // An int8 cache goes with any activations: one row f32, several as bf16.
  const bool rounded = c.cache == DType::kBF16 || (c.cache == DType::kInt8 && c.n_positions > 1);
  const Row kind{!rounded ? Store::kF32 : kernels.bf16_products ? Store::kBf16 : Store::kRounded};
  const int64_t width = int64_t{c.group} * c.head_dim, rows = int64_t{c.n_positions} * c.group;
  Guarded<char> q(static_cast<size_t>(c.n_positions * width * kind.element())), out(q.size());
  for (int64_t i = 0; i < c.n_positions * width; ++i) kind.write(q.data(), i, random.normal());
  Guarded<char> scratch(static_cast<size_t>(attention_scratch_bytes(rows, c.head_dim)));
  std::memset(scratch.data(), 0xff, scratch.size());  // NaN: nothing of it may count
  const int32_t n_splits = (c.position + c.n_positions - 1) / kSplitSize + 1;
  AttentionArgs args{};
  args.q = q.data(), args.q_stride = width, args.q_store = kind.store;
  args.n_positions = c.n_positions, args.group = c.group, args.position = c.position;
  args.head_dim = c.head_dim, args.v_cols = static_cast<int32_t>(context.v_cols);
  args.split_keys = kSplitSize, args.split_begin = 0, args.split_end = n_splits;
  args.block_table = context.blocks.data(), args.keys = context.k_pool->data(), args.values = context.v_pool->data();
  args.k_block_stride = context.k_stride, args.v_block_stride = context.v_stride;
  args.out = out.data(), args.out_stride = width, args.out_store = kind.store, args.scratch = scratch.data();
  const auto kernel = c.cache == DType::kInt8   ? kernels.attention_int8
                      : c.cache == DType::kBF16 ? kernels.attention_bf16
                                                : kernels.attention_f32;
  kernel(&args);
  std::vector<double> exact;
  std::vector<float> plain, query(static_cast<size_t>(c.head_dim));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < c.head_dim; ++i) query[static_cast<size_t>(i)] = kind.read(q.data(), row * c.head_dim + i);
    if (c.cache == DType::kInt8) query = to_int8_values(query);
    const int32_t n_keys = c.position + static_cast<int32_t>(row / c.group) + 1;
    attend_plainly(c, context, query.data(), n_keys, true, exact);
    attend_plainly(c, context, query.data(), n_keys, false, plain);
    for (int64_t i = 0; i < c.head_dim; ++i) {
      errors.add(kind.read(out.data(), row * c.head_dim + i), kind.round(plain[static_cast<size_t>(i)]),
                 exact[static_cast<size_t>(i)]);
    }
  }
  // Each position alone, with its splits computed apart and combined: the same bits.
  const int64_t stride = 2 + context.v_cols;
  Guarded<float> partial(static_cast<size_t>(n_splits * c.group * stride)), total(static_cast<size_t>(stride));
  Guarded<char> again(static_cast<size_t>(width * kind.element()));
  for (int32_t p = 0; p < c.n_positions; ++p) {
    AttentionArgs one = args;
    one.q = q.data() + p * width * kind.element(), one.n_positions = 1, one.position = c.position + p,
    one.out = nullptr;
    const int32_t splits = one.position / kSplitSize + 1;
    for (int32_t s = 0; s < splits; ++s) {
      one.split_begin = s, one.split_end = s + 1, one.partial = partial.data() + s * c.group * stride;
      kernel(&one);
    }
    for (int32_t g = 0; g < c.group; ++g) {
      const CombineArgs fold{partial.data() + g * stride,
                             c.group * stride,
                             splits,
                             c.head_dim,
                             args.v_cols,
                             again.data() + g * c.head_dim * kind.element(),
                             kind.store,
                             total.data()};
      kernels.combine(&fold);
    }
    CHECK(std::memcmp(again.data(), out.data() + p * width * kind.element(), again.size()) == 0);
  }
}

void attentions(Random& random, const KernelTable& kernels, Report& report) {
  const AttentionCase cases[] = {
      {1, 64, 1, 0, DType::kF32},      {2, 128, 5, 60, DType::kF32},    {4, 256, 1, 1100, DType::kF32},
      {5, 18, 3, 510, DType::kF32},    {16, 80, 2, 63, DType::kF32},    {1, 128, 1, 0, DType::kBF16},
      {2, 128, 7, 505, DType::kBF16},  {4, 256, 1, 1099, DType::kBF16}, {5, 18, 3, 64, DType::kBF16},
      {8, 64, 8, 126, DType::kBF16},   {2, 32, 30, 40, DType::kBF16},   {16, 80, 2, 700, DType::kBF16},
      {1, 128, 1, 0, DType::kInt8},    {2, 128, 1, 1101, DType::kInt8}, {2, 128, 20, 505, DType::kInt8},
      {4, 256, 1, 1099, DType::kInt8}, {5, 18, 3, 64, DType::kInt8},    {5, 18, 1, 66, DType::kInt8},
      {16, 80, 1, 640, DType::kInt8},  {8, 64, 8, 126, DType::kInt8},   {16, 80, 2, 700, DType::kInt8},
      {1, 66, 33, 40, DType::kInt8},   {3, 64, 17, 560, DType::kBF16},  {1, 96, 64, 100, DType::kBF16},
  };
  for (const AttentionCase& c : cases) {
    attention_case(random, kernels, c,
                   report[c.cache == DType::kF32    ? "attention f32 cache"
                          : c.cache == DType::kBF16 ? "attention bf16 cache"
                          : c.n_positions == 1      ? "attention int8 cache"
                                                    : "attention int8 cache, bf16"]);
  }
}

// What a row of an int8 cache may hold: a NaN or an infinity shows in every output that sees it, a row of zeros and one
// that is too small to count are zero, and the largest magnitude comes back.
void odd_rows(const KernelTable& kernels) {
  constexpr int32_t kDim = 64, kPosition = 70;
  Program program;
  program.n_layers = 1, program.n_kv_heads = 1, program.head_dim = kDim;
  const std::vector<int32_t> table = {1, 0};
  const std::vector<float> q(kDim, 1.0f);
  std::vector<float> out(kDim);
  std::vector<char> scratch(static_cast<size_t>(attention_scratch_bytes(1, kDim)));
  AttentionArgs args{};
  args.q = q.data(), args.q_stride = kDim, args.n_positions = 1, args.group = 1, args.position = kPosition;
  args.head_dim = kDim, args.v_cols = kDim, args.split_keys = kSplitSize, args.split_end = 1;
  args.block_table = table.data(), args.out = out.data(), args.out_stride = kDim, args.scratch = scratch.data();
  for (const float odd : {0.0f, 1e-38f, 3e38f, INFINITY, NAN}) {
    for (const bool in_key : {false, true}) {
      CpuKvCache cache(program, DType::kInt8, 2);
      cache.poison_block(0), cache.poison_block(1);
      const std::vector<float> zeros(kDim), ones(kDim, 1.0f);
      std::vector<float> row(kDim);
      row[3] = odd;
      for (int32_t j = 0; j <= kPosition; ++j) {  // keys of zero: all weights are equal
        cache.write_key(0, 0, table[static_cast<size_t>(j / 64)], j % 64,
                        in_key && j == 66 ? row.data() : zeros.data());
        cache.write_value(0, 0, table[static_cast<size_t>(j / 64)], j % 64,
                          !in_key && j == 66 ? row.data() : ones.data());
      }
      args.keys = cache.keys(0, 0), args.values = cache.values(0, 0);
      args.k_block_stride = args.v_block_stride = cache.block_stride();
      kernels.attention_int8(&args);
      const double others = in_key ? 1.0 : kPosition / (kPosition + 1.0);
      if (!std::isfinite(odd)) {
        for (float x : out) CHECK(std::isnan(x));
      } else if (!in_key) {
        CHECK(std::abs(out[0] - others) < 1e-5);
        const double want = others + (odd >= 1e-30f ? static_cast<double>(odd) / (kPosition + 1) : 0.0);
        CHECK(std::abs(out[3] - want) <= 1e-5 * std::abs(want));
      } else {
        CHECK(std::abs(out[0] - 1) < 1e-5);  // whoever gets the weight has a value of one
      }
    }
  }
}

void test_level(const char* level, const KernelTable& kernels) {
  Random random(seed());
  Report report;
  linears(random, kernels, report);
  if (level == std::string("amx")) tiles_add_in_their_order(random, kernels);
  for (int round = 0; round < 30; ++round) {  // one statistic a row: a few rows would be luck
    norms(random, kernels, report);
    softmaxes(random, kernels, report);
  }
  attentions(random, kernels, report);
  odd_rows(kernels);
  report.finish(level);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  for (const char* level : {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"}) {
    if (isa_available(level)) {
      test_level(level, choose_kernels(level));
    } else {
      std::printf("this machine lacks %s: not tested\n", level);
    }
  }
  if (isa_available("avx2")) test_level("avxvnni, emulated", *emulated_avxvnni());
  return run.finish();
}
