// Where the time of a decode step of one token goes: the kernels of a dense model's step as operations.cc launches
// them, each alone over the weights of all layers, one after another, and the chain that they are. What the chain takes
// beyond the sum of its parts is what a kernel waits for its predecessor; what the step of the whole model
// (model/.../decode) takes beyond the chain is the sampler and the host. The sampler has cases of its own (sample/).

#include <algorithm>

#include "bench.h"
#include "cuda/kernels.h"
#include "cuda/schedule.h"

namespace qwen3::gpu_bench {
namespace {

using namespace qwen3::cuda;

struct Shape {
  const char* name;
  int n_layers, hidden, n_q_heads, n_kv_heads, ffn, vocab, keys;
};
constexpr int kHeadDim = 128;
constexpr float kEps = 1e-6f;

size_t bf16_bytes(int64_t rows, int64_t cols) {
  return static_cast<size_t>(rows * cols * 2);
}

class StepBench {
 public:
  StepBench(Bench& bench, const Shape& shape)
      : b_(bench), s_(shape), heads_{shape.n_q_heads, shape.n_kv_heads, kHeadDim} {
    std::vector<int32_t> table(static_cast<size_t>(s_.keys + 63) / 64);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    const StepSequence sequence{0, 1, s_.keys - 1, table, 0, true};
    AttentionSchedule schedule;
    schedule_attention({&sequence, 1}, heads_, schedule);
    const auto tiles = static_cast<int32_t>(schedule.decode.size());
    table_ = upload(schedule.block_table);
    schedule.decode.resize(std::max(schedule.decode.size(), static_cast<size_t>(decode_blocks())));  // all are read
    tiles_ = upload(schedule.decode);
    // Token, tiles, then the row: position, slot, table of angles.
    numbers_ = upload(std::vector<int32_t>{7 % s_.vocab, tiles, s_.keys - 1, s_.keys - 1, 0});
    inv_freq_ = upload(std::vector<double>(kHeadDim / 2, 1e-3)), factor_ = upload(std::vector<double>{1});
    partials_ = zeros(static_cast<size_t>(tiles) * static_cast<size_t>(partial_elements(heads_)) * 4);
    arrived_ = zeros(static_cast<size_t>(tiles * s_.n_kv_heads) * 4);
    pool_ = table.size() * static_cast<size_t>(s_.n_kv_heads) * 64 * kHeadDim;
    cache_ = b_.random_buffer(pool_ * 4 * static_cast<size_t>(s_.n_layers));
    norm_ = b_.random_buffer(static_cast<size_t>(s_.hidden) * 4 + kHeadDim * 4);
    residual_ = zeros(static_cast<size_t>(s_.hidden) * 4), qkv_ = zeros(static_cast<size_t>(qkv_rows()) * 4);
    attended_ = zeros(bf16_bytes(1, q_width()));
    gated_ = zeros(bf16_bytes(1, s_.ffn)), logits_ = zeros(static_cast<size_t>(s_.vocab) * 4);
    angles_ = zeros(kHeadDim * 4), token_ = zeros(16);
    head_ = b_.random_buffer(bf16_bytes(s_.vocab, s_.hidden));  // larger than any L2: cold each time
  }

  void run(const std::string& name, const std::string& part) {
    const double layer = double(layer_bytes()) + kv_bytes();
    const double head = double(bf16_bytes(s_.vocab, s_.hidden));
    if (part == "layers") return report(name, s_.n_layers * layer, [&](int) { layers(); });
    if (part == "step") {
      return report(name, s_.n_layers * layer + head, [&](int) { begin(), layers(), logits(); });
    }
    if (part == "begin") return report(name, 2.0 * s_.hidden, [&](int) { begin(); });
    if (part == "qkv") return report(name, qkv_bytes(), [&](int i) { qkv(i); });
    if (part == "attention") return report(name, kv_bytes(), [&](int i) { attention(i); });
    if (part == "o") return report(name, o_bytes(), [&](int i) { o(i); });
    if (part == "gate_up") return report(name, gate_up_bytes(), [&](int i) { gate_up(i); });
    if (part == "down") return report(name, down_bytes(), [&](int i) { down(i); });
    report(name, head, [&](int) { logits(); });
  }

 private:
  template <class Call>
  void report(const std::string& name, double bytes, Call call) {
    b_.report(name, {b_.time(bytes, call), bytes, 0});
  }
  template <class T>
  DeviceBuffer upload(const std::vector<T>& v) const {
    DeviceBuffer to(v.size() * sizeof(T) + 16);
    copy_to_device(b_.stream, to.as<void>(), v.data(), v.size() * sizeof(T));
    synchronize(b_.stream);
    return to;
  }
  DeviceBuffer zeros(size_t bytes) const {
    DeviceBuffer to(bytes);
    fill_bytes(b_.stream, to.as<void>(), 0, bytes);
    return to;
  }
  // Of a bucket of one row, per KV head (StepTables).
  int decode_blocks() const {
    return std::min((8 * b_.device.multiprocessors + s_.n_kv_heads - 1) / s_.n_kv_heads, kMostSplits);
  }
  int q_width() const { return heads_.n_q_heads * kHeadDim; }
  int qkv_rows() const { return (heads_.n_q_heads + 2 * heads_.n_kv_heads) * kHeadDim; }
  size_t qkv_bytes() const { return bf16_bytes(qkv_rows(), s_.hidden); }
  size_t o_bytes() const { return bf16_bytes(s_.hidden, q_width()); }
  size_t gate_up_bytes() const { return bf16_bytes(2 * s_.ffn, s_.hidden); }
  size_t down_bytes() const { return bf16_bytes(s_.hidden, s_.ffn); }
  size_t layer_bytes() const { return qkv_bytes() + o_bytes() + gate_up_bytes() + down_bytes(); }
  double kv_bytes() const { return 4.0 * s_.keys * s_.n_kv_heads * kHeadDim; }
  const Bf16* weight(int layer, size_t offset) const {
    return b_.random(layer % s_.n_layers, layer_bytes()) + offset / 2;
  }
  KvLayer kv(int layer) const {
    Bf16* const keys = cache_.as<Bf16>() + static_cast<size_t>(layer % s_.n_layers) * 2 * pool_;
    return {keys, keys + pool_};
  }
  StreamFusion norm_ahead() const {
    StreamFusion fusion;
    fusion.residual = residual_.as<float>(), fusion.norm_weight = norm_.as<float>(), fusion.norm_eps = kEps;
    return fusion;
  }
  RowMap rows() const {
    const auto* const row = numbers_.as<int32_t>() + 2;
    return {row, row + 1, row + 2};
  }

  void begin() const {
    begin_step(b_.stream,
               {numbers_.as<int32_t>(), numbers_.as<int32_t>(), rows(), inv_freq_.as<double>(), factor_.as<double>(),
                head_.as<Bf16>(), s_.hidden, kHeadDim, token_.as<int32_t>(), angles_.as<float>(),
                angles_.as<float>() + kHeadDim / 2, residual_.as<float>()},
               1);
  }
  void qkv(int layer) const {
    b_.linear_few({nullptr, weight(layer, 0), qkv_.as<float>()}, {1, qkv_rows(), s_.hidden}, Output::kStoreF32,
                  norm_ahead());
  }
  // As in a bucket's graph: more blocks than tiles, and how many tiles there are lies on the device.
  void attention(int layer) const {
    const DecodeWork work{table_.as<int32_t>(), tiles_.as<DecodeTile>(), decode_blocks(), numbers_.as<int32_t>() + 1};
    const float* const head_norm = norm_.as<float>() + s_.hidden;
    const QkNormRope raw{qkv_.as<float>(),
                         head_norm,
                         head_norm,
                         angles_.as<float>(),
                         angles_.as<float>() + kHeadDim / 2,
                         {},
                         heads_,
                         kEps,
                         nullptr,
                         kv(layer)};
    attention_decode(b_.stream, raw, work, partials_.as<float>(), arrived_.as<int32_t>(), attended_.as<Bf16>());
  }
  void o(int layer) const {
    b_.linear_few({attended_.as<Bf16>(), weight(layer, qkv_bytes()), residual_.as<float>()}, {1, s_.hidden, q_width()},
                  Output::kAddF32);
  }
  void gate_up(int layer) const {
    b_.linear_few({nullptr, weight(layer, qkv_bytes() + o_bytes()), gated_.as<Bf16>()}, {1, 2 * s_.ffn, s_.hidden},
                  Output::kSiluMul, norm_ahead());
  }
  void down(int layer) const {
    b_.linear_few({gated_.as<Bf16>(), weight(layer, qkv_bytes() + o_bytes() + gate_up_bytes()), residual_.as<float>()},
                  {1, s_.hidden, s_.ffn}, Output::kAddF32);
  }
  void layers() const {
    for (int layer = 0; layer < s_.n_layers; ++layer) {
      qkv(layer), attention(layer), o(layer), gate_up(layer), down(layer);
    }
  }
  void logits() const {
    b_.linear_few({nullptr, head_.as<Bf16>(), logits_.as<float>(), numbers_.as<int32_t>() + 4},
                  {1, s_.vocab, s_.hidden}, Output::kStoreF32, norm_ahead());
  }

  Bench& b_;
  Shape s_;
  HeadShape heads_;
  size_t pool_ = 0;  // elements of a layer's keys
  DeviceBuffer table_, tiles_, numbers_, inv_freq_, factor_, partials_, arrived_, cache_, norm_, residual_, qkv_,
      attended_, gated_, logits_, angles_, token_, head_;
};

}  // namespace

std::vector<Case> step_cases(bool tiny) {
  const std::vector<Shape> shapes = tiny ? std::vector<Shape>{{"tiny", 2, 64, 4, 2, 96, 160, 20}}
                                         : std::vector<Shape>{{"0.6b", 28, 1024, 16, 8, 3072, 151936, 528},
                                                              {"8b", 36, 4096, 32, 8, 12288, 151936, 528}};
  std::vector<Case> cases;
  for (const Shape& shape : shapes) {
    for (const char* part : {"begin", "qkv", "attention", "o", "gate_up", "down", "layers", "head", "step"}) {
      const std::string name = std::string("step/") + shape.name + "/" + part;
      cases.push_back({name, [=](Bench& b) { StepBench(b, shape).run(name, part); }});
    }
  }
  return cases;
}

}  // namespace qwen3::gpu_bench
