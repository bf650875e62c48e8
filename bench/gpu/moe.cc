// Cases of the mixture of experts at the shape of the 30B-A3B: one layer, routing by a random router.

#include <algorithm>

#include "bench.h"
#include "cuda/kernels.h"

namespace qwen3::gpu_bench {
namespace {

using namespace qwen3::cuda;

size_t bytes_of(std::initializer_list<int64_t> factors) {
  int64_t n = 1;
  for (const int64_t f : factors) n *= f;
  return static_cast<size_t>(n);
}

constexpr const char* kOtherForm = "experts_weights_as_rows";

class MoeBench {
 public:
  MoeBench(Bench& bench, const MoeShape& shape) : b_(bench), s_(shape), assigned_(int64_t{s_.n_rows} * s_.top_k) {
    const size_t gate_up = bytes_of({2, s_.ffn, s_.hidden, 2}), down = bytes_of({s_.hidden, s_.ffn, 2});
    weights_ = b_.random_buffer((gate_up + down) * static_cast<size_t>(s_.n_experts));
    std::vector<const Bf16*> at;
    for (int e = 0; e < s_.n_experts; ++e) at.push_back(weights_.as<Bf16>() + static_cast<size_t>(e) * gate_up / 2);
    for (int e = 0; e < s_.n_experts; ++e) {
      at.push_back(weights_.as<Bf16>() + static_cast<size_t>(s_.n_experts) * gate_up / 2 +
                   static_cast<size_t>(e) * down / 2);
    }
    pointers_ = DeviceBuffer(at.size() * sizeof at[0]);
    copy_to_device(b_.stream, pointers_.as<void>(), at.data(), at.size() * sizeof at[0]);
    if (b_.device.hopper) {
      std::vector<TensorMap> maps;
      for (int e = 0; e < s_.n_experts; ++e) maps.push_back(describe_expert(at[e], 2 * s_.ffn, s_.hidden));
      for (int e = 0; e < s_.n_experts; ++e) {
        maps.push_back(describe_expert(at[s_.n_experts + e], s_.hidden, s_.ffn));
      }
      for (int e = 0; e < s_.n_experts; ++e) maps.push_back(describe_streamed_expert(at[e], 2 * s_.ffn, s_.hidden));
      for (int e = 0; e < s_.n_experts; ++e) {
        maps.push_back(describe_streamed_expert(at[s_.n_experts + e], s_.hidden, s_.ffn));
      }
      maps_ = DeviceBuffer(maps.size() * sizeof maps[0]);
      copy_to_device(b_.stream, maps_.as<void>(), maps.data(), maps.size() * sizeof maps[0]);
      synchronize(b_.stream);
    }
    router_ = b_.random_buffer(bytes_of({s_.n_experts, s_.hidden, 2}));
    ids_ = DeviceBuffer(bytes_of({assigned_, 4})), shares_ = DeviceBuffer(bytes_of({assigned_, 4}));
    order_ = DeviceBuffer(bytes_of({assigned_, 4})), offsets_ = DeviceBuffer(bytes_of({s_.n_experts + 1, 4}));
    load_ = DeviceBuffer(bytes_of({s_.n_experts, 4})), drawn_ = DeviceBuffer(8);
    gated_ = DeviceBuffer(bytes_of({assigned_, s_.ffn, 2}));
    products_ = DeviceBuffer(bytes_of({assigned_, s_.hidden, 4}));
    out_ = DeviceBuffer(bytes_of({s_.n_rows, s_.hidden, 4}));
    few_scores_ = DeviceBuffer(bytes_of({kMoeFewRows, s_.n_experts, 4})), few_arrived_ = DeviceBuffer(16);
    combine_arrived_ = DeviceBuffer(bytes_of({moe_combine_counters(s_.hidden), 4}));
    fill_bytes(b_.stream, combine_arrived_.as<void>(), 0, combine_arrived_.bytes());
    fill_bytes(b_.stream, few_arrived_.as<void>(), 0, 16);
    fill_bytes(b_.stream, drawn_.as<void>(), 0, drawn_.bytes());
    fill_bytes(b_.stream, load_.as<void>(), 0, load_.bytes());
    fill_bytes(b_.stream, out_.as<void>(), 0, out_.bytes());
    synchronize(b_.stream);
  }

  // Router and permutation alone, the permutation alone, the experts' products alone, the same in the other form for
  // many rows on sm_90a (elsewhere there is one form), the weighted sum alone, everything.
  void run(const std::string& name, const std::string& part, bool few_rows) {
    route(0), sort();  // the products alone need an order
    const double used = mean_used_experts();
    const double expert = double(weights_.bytes()) / s_.n_experts;
    const double products = 6.0 * double(assigned_) * s_.ffn * s_.hidden;
    const double rows = double(bytes_of({s_.n_rows, s_.hidden}));
    Measured m;
    if (part == "route") {
      m.bytes = 2 * rows + double(router_.bytes()) + 16.0 * double(assigned_);
      m.flops = 2.0 * rows * s_.n_experts;
      m.seconds = b_.time(2 * rows, [&](int i) { route_and_sort(i); });
    } else if (part == "sort") {
      m.bytes = 8.0 * double(assigned_);
      m.seconds = b_.time(0, [&](int) { sort(); });
    } else if (part == "combine") {
      m.bytes = double(assigned_) * s_.hidden * (on_hopper(few_rows) ? 2 : 4) + 8 * rows;
      m.seconds = b_.time(m.bytes, [&](int) { combine(few_rows); });
    } else if (part.starts_with("experts")) {
      swapped_ = part == kOtherForm;
      m.bytes = used * expert + rows * 2 + 4.0 * double(assigned_) * s_.hidden;
      m.flops = products;
      m.seconds = b_.time(few_rows ? used * expert : 0, [&](int i) { experts(i, few_rows, {}); });
    } else {
      m.bytes = used * expert + double(router_.bytes()) + rows * 10;
      m.flops = products + 2.0 * rows * s_.n_experts;
      m.seconds =
          b_.time(few_rows ? used * expert : 0, [&](int i) { route_and_sort(i), experts_and_combine(i, few_rows); });
    }
    b_.report(name, m, ", \"rows\": " + std::to_string(s_.n_rows) + ", \"experts_used\": " + std::to_string(used));
  }

 private:
  const Bf16* x(int i) const { return b_.random(i, bytes_of({s_.n_rows, s_.hidden, 2})); }
  // As operations.cc has it: few rows are routed and sorted in one launch.
  void route_and_sort(int i) const {
    if (s_.n_rows > kMoeFewRows || assigned_ > 256) {
      route(i), sort();
      return;
    }
    moe_route_few(b_.stream, x(i), router_.as<Bf16>(), s_,
                  {ids_.as<int32_t>(), shares_.as<float>(), order_.as<int32_t>(), offsets_.as<int32_t>(),
                   load_.as<int32_t>(), few_scores_.as<float>(), few_arrived_.as<int32_t>()});
  }
  void route(int i) const {
    moe_route(b_.stream, x(i), router_.as<Bf16>(), s_, ids_.as<int32_t>(), shares_.as<float>());
  }
  void sort() const {
    moe_sort(b_.stream, ids_.as<int32_t>(), s_, order_.as<int32_t>(), offsets_.as<int32_t>(), load_.as<int32_t>());
  }
  // As operations.cc has it: many rows take wgmma where the chip has it.
  bool on_hopper(bool few_rows) const { return b_.device.hopper && !few_rows; }
  void experts(int i, bool few_rows, const MoeCombine& combine) const {
    MoeOperands o{x(i),
                  pointers_.as<const Bf16*>(),
                  pointers_.as<const Bf16*>() + s_.n_experts,
                  order_.as<int32_t>(),
                  offsets_.as<int32_t>(),
                  gated_.as<Bf16>(),
                  products_.as<void>()};
    if (b_.device.hopper) {
      const TensorMap* maps = maps_.as<TensorMap>() + (few_rows ? 2 * s_.n_experts : 0);
      o.gate_up_maps = maps, o.down_maps = maps + s_.n_experts;
      o.drawn = drawn_.as<int32_t>();
      if (few_rows) {
        moe_stream_hopper(b_.stream, o, s_, b_.device.multiprocessors, combine);
      } else {
        (swapped_ ? moe_experts_hopper_swapped : moe_experts_hopper)(b_.stream, o, s_, b_.device.multiprocessors);
      }
    } else {
      moe_experts(b_.stream, o, s_, few_rows);
    }
  }
  // As operations.cc has it: the weighted sum of a few rows is taken in.
  void experts_and_combine(int i, bool few_rows) const {
    const bool taken = b_.device.hopper && few_rows && stream_takes_combine(s_.n_rows);
    MoeCombine taken_in;
    if (taken) taken_in = {shares_.as<float>(), out_.as<float>(), combine_arrived_.as<int32_t>()};
    experts(i, few_rows, taken_in);
    if (!taken) combine(few_rows);
  }
  void combine(bool few_rows) const {
    if (on_hopper(few_rows)) {
      moe_combine(b_.stream, products_.as<const Bf16>(), shares_.as<float>(), s_, out_.as<float>());
    } else {
      moe_combine(b_.stream, products_.as<const float>(), shares_.as<float>(), s_, out_.as<float>());
    }
  }
  // The part "experts" uses one routing for all calls; 8 routings tell what a step reads.
  double mean_used_experts() const {
    std::vector<int32_t> offsets(static_cast<size_t>(s_.n_experts) + 1);
    int64_t used = 0;
    constexpr int kRoutings = 8;
    for (int i = kRoutings - 1; i >= 0; --i) {
      route(i), sort();
      copy_to_host(b_.stream, offsets.data(), offsets_.as<void>(), offsets.size() * 4);
      synchronize(b_.stream);
      for (size_t e = 0; e + 1 < offsets.size(); ++e) used += offsets[e + 1] > offsets[e] ? 1 : 0;
    }
    return double(used) / kRoutings;
  }

  Bench& b_;
  MoeShape s_;
  int64_t assigned_;
  bool swapped_ = false;
  DeviceBuffer weights_, pointers_, maps_, router_, ids_, shares_, order_, offsets_, load_, gated_, products_, out_,
      few_scores_, few_arrived_, combine_arrived_, drawn_;
};

}  // namespace

std::vector<Case> moe_cases(bool tiny) {
  std::vector<Case> cases;
  for (const int rows : tiny ? std::vector<int>{2, 70} : std::vector<int>{1, 8, 32, 4096, 16384}) {
    const bool few_rows = rows <= 64;
    const MoeShape shape = tiny ? MoeShape{rows, 64, 32, 16, 4, true} : MoeShape{rows, 2048, 768, 128, 8, true};
    for (const std::string part : {"route", "sort", "experts", kOtherForm, "combine", "block"}) {
      // The experts of one routing fit the L2 when there are few: only the block, which routes anew, is cold.
      if (few_rows && (part.starts_with("experts") || part == "combine")) continue;
      const std::string name = "moe/" + part + "/" + std::to_string(rows);
      cases.push_back({name, [=](Bench& b) { MoeBench(b, shape).run(name, part, few_rows); }});
    }
  }
  return cases;
}

}  // namespace qwen3::gpu_bench
