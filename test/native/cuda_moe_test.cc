// The mixture-of-experts kernels on the host emulation against float64: router with ties, stable counting sort, grouped
// products for many rows and for few, weighted sum; and their counts.

#include <algorithm>
#include <set>
#include <span>

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

double value(const Bf16& x) {
  return bf16_to_f32(x);
}
double silu64(double x) {
  return x / (1 + std::exp(-x));
}
void fill(Random& random, DeviceArray<Bf16>& array, float scale) {
  for (Bf16& x : array) x = f32_to_bf16(scale * random.normal());
}

// Scores of a row in float64, and the ids in the order of the contract.
std::vector<int32_t> expected_choice(const std::vector<double>& scores, int top_k) {
  std::vector<int32_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  ids.resize(static_cast<size_t>(top_k));
  return ids;
}

// The kernels of a phase: streaming for few rows, tiles for many, wgmma for many on sm_90a, in two forms.
enum class Path { kStream, kTiles, kHopper, kSwapped, kStreamHopper };
bool by_wgmma(Path path) {
  return path == Path::kHopper || path == Path::kSwapped;
}

struct Layer {
  MoeShape shape;
  int multiprocessors = 3;
  DeviceArray<Bf16> x, router, gate_up, down;
  DeviceArray<const Bf16*> gate_up_of, down_of;
  DeviceArray<int32_t> ids, order, offsets, load;
  DeviceArray<float> shares, products, out;
  DeviceArray<Bf16> gated, rounded_products;
  DeviceArray<TensorMap> gate_up_maps, down_maps, gate_up_stream_maps, down_stream_maps;
  DeviceArray<int32_t> drawn;

  Layer(Random& random, const MoeShape& s)
      : shape(s),
        x(size_t(s.n_rows) * s.hidden, "x"),
        router(size_t(s.n_experts) * s.hidden, "router"),
        gate_up(size_t(s.n_experts) * 2 * s.ffn * s.hidden, "gate_up"),
        down(size_t(s.n_experts) * s.ffn * s.hidden, "down"),
        gate_up_of(size_t(s.n_experts)),
        down_of(size_t(s.n_experts)),
        ids(size_t(s.n_rows) * s.top_k),
        order(size_t(s.n_rows) * s.top_k),
        offsets(size_t(s.n_experts) + 1),
        load(size_t(s.n_experts)),
        shares(size_t(s.n_rows) * s.top_k),
        products(size_t(s.n_rows) * s.top_k * s.hidden, "products"),
        out(size_t(s.n_rows) * s.hidden),
        gated(size_t(s.n_rows) * s.top_k * s.ffn, "gated"),
        rounded_products(size_t(s.n_rows) * s.top_k * s.hidden, "rounded_products"),
        gate_up_maps(size_t(s.n_experts)),
        down_maps(size_t(s.n_experts)),
        gate_up_stream_maps(size_t(s.n_experts)),
        down_stream_maps(size_t(s.n_experts)),
        drawn(2) {
    drawn[0] = drawn[1] = 0;
    const float scale = 1 / std::sqrt(static_cast<float>(s.hidden));
    fill(random, x, 1), fill(random, router, 2 * scale), fill(random, gate_up, scale), fill(random, down, scale);
    for (int e = 0; e < s.n_experts; ++e) {
      gate_up_of[e] = gate_up.data() + size_t(e) * 2 * s.ffn * s.hidden;
      down_of[e] = down.data() + size_t(e) * s.ffn * s.hidden;
      gate_up_maps[e] = describe_expert(gate_up_of[e], 2 * s.ffn, s.hidden);
      down_maps[e] = describe_expert(down_of[e], s.hidden, s.ffn);
      gate_up_stream_maps[e] = describe_streamed_expert(gate_up_of[e], 2 * s.ffn, s.hidden);
      down_stream_maps[e] = describe_streamed_expert(down_of[e], s.hidden, s.ffn);
      load[e] = 0;
    }
  }
  // What moe_combine left, by the product itself.
  void check_combine_taken_in(const MoeOperands& o, const std::vector<float>& before) const {
    if (!stream_takes_combine(shape.n_rows)) return;
    const std::vector<float> apart(out.begin(), out.end());
    std::copy(before.begin(), before.end(), out.begin());
    DeviceArray<int32_t> arrived(size_t(moe_combine_counters(shape.hidden)), "arrived");
    std::fill(arrived.begin(), arrived.end(), 0);
    moe_stream_hopper(nullptr, o, shape, multiprocessors, {shares.data(), out.data(), arrived.data()});
    CHECK(std::equal(apart.begin(), apart.end(), out.begin()));
    CHECK(std::all_of(arrived.begin(), arrived.end(), [](int32_t n) { return n == 0; }));
  }
  // The products of the chosen experts; `combined` adds them up too.
  void run(Path path, bool combined) const {
    MoeOperands o{x.data(),       gate_up_of.data(), down_of.data(), order.data(),
                  offsets.data(), gated.data(),      products.data()};
    if (by_wgmma(path)) {
      o.products = rounded_products.data();
      o.gate_up_maps = gate_up_maps.data(), o.down_maps = down_maps.data(), o.drawn = drawn.data();
      (path == Path::kHopper ? moe_experts_hopper : moe_experts_hopper_swapped)(nullptr, o, shape, multiprocessors);
      CHECK(drawn[0] == 0 && drawn[1] == 0);
      if (combined) moe_combine(nullptr, rounded_products.data(), shares.data(), shape, out.data());
      return;
    }
    if (path == Path::kStreamHopper) {
      o.gate_up_maps = gate_up_stream_maps.data(), o.down_maps = down_stream_maps.data();
      moe_stream_hopper(nullptr, o, shape, multiprocessors);
    } else {
      moe_experts(nullptr, o, shape, path == Path::kStream);
    }
    if (!combined) return;
    const std::vector<float> before(out.begin(), out.end());
    moe_combine(nullptr, products.data(), shares.data(), shape, out.data());
    if (path == Path::kStreamHopper) check_combine_taken_in(o, before);
  }
  std::vector<double> scores(int row) const {
    std::vector<double> dots(size_t(shape.n_experts));
    for (int e = 0; e < shape.n_experts; ++e) {
      for (int i = 0; i < shape.hidden; ++i)
        dots[e] += value(x[size_t(row) * shape.hidden + i]) * value(router[size_t(e) * shape.hidden + i]);
    }
    return dots;
  }
};

void check_router(const Layer& layer) {
  const MoeShape& s = layer.shape;
  for (int r = 0; r < s.n_rows; ++r) {
    const auto scores = layer.scores(r);
    const auto want = expected_choice(scores, s.top_k);
    double total = 0, chosen = 0;
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (const double x : scores) total += std::exp(x - largest);
    for (const int32_t e : want) chosen += std::exp(scores[e] - largest);
    for (int k = 0; k < s.top_k; ++k) {
      const int32_t id = layer.ids[size_t(r) * s.top_k + k];
      // Equal up to what f32 can tell apart.
      CHECK(id >= 0 && id < s.n_experts && (id == want[k] || std::abs(scores[id] - scores[want[k]]) < 1e-4));
      CHECK_NEAR(layer.shares[size_t(r) * s.top_k + k],
                 std::exp(scores[id] - largest) / (s.norm_topk_prob ? chosen : total), 1e-5);
    }
  }
}

void check_sort(const Layer& layer) {
  const MoeShape& s = layer.shape;
  std::vector<int32_t> want(size_t(s.n_rows) * s.top_k);
  std::iota(want.begin(), want.end(), 0);
  std::stable_sort(want.begin(), want.end(), [&](int32_t a, int32_t b) { return layer.ids[a] < layer.ids[b]; });
  for (size_t i = 0; i < want.size(); ++i) CHECK(layer.order[i] == want[i]);
  CHECK(layer.offsets[0] == 0 && layer.offsets[s.n_experts] == s.n_rows * s.top_k);
  for (int e = 0; e < s.n_experts; ++e) CHECK(layer.load[e] == layer.offsets[e + 1] - layer.offsets[e]);
}

// The router with the norm ahead of it: what rms_norm and the router do, to the bit.
void check_route_norm(const Layer& layer, Random& random, const RouteFew& to) {
  const MoeShape& s = layer.shape;
  if (!route_takes_norm(s.n_rows, s.hidden)) return;
  const size_t size = size_t(s.n_rows) * s.hidden, n = size_t(s.n_rows) * s.top_k;
  DeviceArray<float> residual(size), weight(size_t(s.hidden));
  DeviceArray<Bf16> normed(size), apart(size);
  for (float& x : residual) x = 2 * random.normal();
  for (float& x : weight) x = random.normal();
  rms_norm(nullptr, residual.data(), nullptr, weight.data(), s.n_rows, s.hidden, 1e-6f, apart.data());
  moe_route_few(nullptr, apart.data(), layer.router.data(), s, to);
  const std::vector<int32_t> ids(to.ids, to.ids + n), order(to.order, to.order + n);
  const std::vector<float> shares(to.shares, to.shares + n);
  moe_route_few(nullptr, nullptr, layer.router.data(), s, to, {residual.data(), weight.data(), 1e-6f, normed.data()});
  CHECK(std::equal(normed.begin(), normed.end(), apart.begin()));
  CHECK(std::equal(ids.begin(), ids.end(), to.ids) && std::equal(order.begin(), order.end(), to.order));
  CHECK(std::equal(shares.begin(), shares.end(), to.shares));
}

// One launch for few rows: the results of the two launches to the bit, padding left out.
void check_route_few(const Layer& layer, Random& random) {
  MoeShape s = layer.shape;
  if (s.n_rows > kMoeFewRows) return;
  const size_t n = size_t(s.n_rows) * s.top_k;
  DeviceArray<int32_t> valid(1), ids(n), order(n), offsets(size_t(s.n_experts) + 1), load(size_t(s.n_experts)),
      arrived(1);
  DeviceArray<float> shares(n), scores(size_t(kMoeFewRows) * s.n_experts, "scores");
  std::fill(load.begin(), load.end(), 0);
  arrived[0] = 0;
  const RouteFew to{ids.data(),  shares.data(), order.data(),  offsets.data(),
                    load.data(), scores.data(), arrived.data()};
  for (int round = 0; round < 2; ++round) {
    moe_route_few(nullptr, layer.x.data(), layer.router.data(), s, to);
    for (size_t i = 0; i < n; ++i) {
      CHECK(ids[i] == layer.ids[i] && shares[i] == layer.shares[i] && order[i] == layer.order[i]);
    }
    for (int e = 0; e < s.n_experts; ++e) CHECK(load[e] == (round + 1) * layer.load[e]);
    for (int e = 0; e <= s.n_experts; ++e) CHECK(offsets[e] == layer.offsets[e]);
    CHECK(arrived[0] == 0);
  }
  check_route_norm(layer, random, to);
  valid[0] = static_cast<int32_t>(random.between(0, s.n_rows));
  s.valid_rows = valid.data();
  moe_route_few(nullptr, layer.x.data(), layer.router.data(), s, to);
  CHECK(offsets[s.n_experts] == valid[0] * s.top_k);
}

void check_products(const Layer& layer, const std::vector<float>& before, double bound) {
  const MoeShape& s = layer.shape;
  std::vector<double> got, want;
  for (int r = 0; r < s.n_rows; ++r) {
    std::vector<double> sum(size_t(s.hidden));
    for (int k = 0; k < s.top_k; ++k) {
      const int32_t e = layer.ids[size_t(r) * s.top_k + k];
      const Bf16* w = layer.gate_up_of[e];
      std::vector<double> gated(size_t(s.ffn));
      for (int j = 0; j < s.ffn; ++j) {
        double gate = 0, up = 0;
        for (int i = 0; i < s.hidden; ++i) {
          const double v = value(layer.x[size_t(r) * s.hidden + i]);
          gate += v * value(w[size_t(j / 8 * 16 + j % 8) * s.hidden + i]);
          up += v * value(w[size_t(j / 8 * 16 + 8 + j % 8) * s.hidden + i]);
        }
        gated[j] = bf16_to_f32(f32_to_bf16(static_cast<float>(silu64(gate) * up)));
      }
      for (int i = 0; i < s.hidden; ++i) {
        double v = 0;
        for (int j = 0; j < s.ffn; ++j) v += gated[j] * value(layer.down_of[e][size_t(i) * s.ffn + j]);
        sum[i] += layer.shares[size_t(r) * s.top_k + k] * v;
      }
    }
    for (int i = 0; i < s.hidden; ++i) {
      want.push_back(sum[i]);
      got.push_back(double(layer.out[size_t(r) * s.hidden + i]) - before[size_t(r) * s.hidden + i]);
    }
  }
  // gated is rounded to bf16; a value next to a rounding edge may round the other way.
  const double error = relative_error(got.data(), want.data(), want.size());
  CHECK_MSG(error < bound, std::to_string(error));
}

void test_layer(Random& random, Path path) {
  MoeShape shape{};
  shape.n_rows = static_cast<int>(random.between(1, path == Path::kStream ? 32 : 90));
  if (path == Path::kStreamHopper && random.between(0, 1)) shape.n_rows = static_cast<int>(random.between(1, 5));
  const int widest = by_wgmma(path) || path == Path::kStreamHopper ? 20 : 8;  // several stages of 64
  shape.hidden = 8 * static_cast<int>(random.between(1, widest));
  shape.ffn = 8 * static_cast<int>(random.between(1, widest - 2));
  shape.n_experts = 8 * static_cast<int>(random.between(1, 5));
  shape.top_k = static_cast<int>(random.between(1, std::min(8, shape.n_experts)));
  shape.norm_topk_prob = random.between(0, 1);
  Layer layer(random, shape);
  // Two equal experts tie in every row.
  std::copy_n(layer.router.data(), shape.hidden, layer.router.data() + size_t(shape.n_experts - 1) * shape.hidden);
  std::vector<float> before(layer.out.size());
  for (size_t i = 0; i < before.size(); ++i) before[i] = layer.out[i] = random.normal();
  moe_route(nullptr, layer.x.data(), layer.router.data(), shape, layer.ids.data(), layer.shares.data());
  check_router(layer);
  for (int r = 0; r < shape.n_rows; ++r) {
    const int32_t* ids = layer.ids.data() + size_t(r) * shape.top_k;
    const auto tied = std::find(ids, ids + shape.top_k, shape.n_experts - 1);
    if (tied != ids + shape.top_k) CHECK(std::find(ids, tied, 0) != tied);  // the lower id comes first
  }
  moe_sort(nullptr, layer.ids.data(), shape, layer.order.data(), layer.offsets.data(), layer.load.data());
  check_sort(layer);
  check_route_few(layer, random);
  // As in a step, the kernel ahead of the products.
  moe_sort(nullptr, layer.ids.data(), shape, layer.order.data(), layer.offsets.data(), layer.load.data());
  layer.run(path, true);
  // Products rounded to bf16 carry 2^-9 / sqrt(3) each.
  check_products(layer, before, by_wgmma(path) ? 2.5e-3 : 1e-3);
}

// What moe_sort does, at once.
void sort_on_host(const Layer& layer) {
  const int32_t* const ids = layer.ids.data();
  std::iota(layer.order.begin(), layer.order.end(), 0);
  std::stable_sort(layer.order.begin(), layer.order.end(), [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
  for (const int32_t id : std::span(ids, layer.ids.size())) ++layer.load[size_t(id)];
  layer.offsets[0] = 0;
  for (int e = 0; e < layer.shape.n_experts; ++e)
    layer.offsets[size_t(e) + 1] = layer.offsets[size_t(e)] + layer.load[size_t(e)];
}

// The two forms of wgmma at widths by lot, where an expert has several tiles and some have no rows: the same bits on
// the emulation, which adds k in one order whatever the rows of a product are.
void test_forms(Random& random) {
  std::vector<int32_t> ids;
  for (int32_t e = 0; e < 8; ++e) {
    const int64_t rows = e == 0 ? random.between(193, 400) : random.between(0, 3) ? random.between(1, 192) : 0;
    ids.insert(ids.end(), size_t(rows), e);
  }
  for (size_t i = ids.size() - 1; i > 0; --i) std::swap(ids[i], ids[size_t(random.between(0, int64_t(i)))]);
  const int hidden = 8 * static_cast<int>(random.between(1, 36)), ffn = 8 * static_cast<int>(random.between(1, 18));
  const Layer layer(random, {int(ids.size()), hidden, ffn, 8, 1, true});
  std::copy(ids.begin(), ids.end(), layer.ids.begin());
  for (float& share : layer.shares) share = random.uniform();
  sort_on_host(layer);
  const std::vector<float> before(layer.out.size());
  std::vector<Bf16> gated, products;
  for (const Path path : {Path::kHopper, Path::kSwapped}) {
    std::fill(layer.gated.begin(), layer.gated.end(), Bf16{0xffff});
    std::fill(layer.rounded_products.begin(), layer.rounded_products.end(), Bf16{0xffff});
    std::fill(layer.out.begin(), layer.out.end(), 0.0f);
    layer.run(path, true);
    check_products(layer, before, 2.5e-3);
    if (path == Path::kHopper) {
      gated.assign(layer.gated.begin(), layer.gated.end());
      products.assign(layer.rounded_products.begin(), layer.rounded_products.end());
    }
  }
  if (!kCounted) return;
  CHECK(std::equal(gated.begin(), gated.end(), layer.gated.begin()));
  CHECK(std::equal(products.begin(), products.end(), layer.rounded_products.begin()));
}

// The router alone: several chunks of each class of k, more experts and ranks than layers above have; of up to 16 rows
// the bits of both kernels.
void test_router(Random& random) {
  MoeShape shape{};
  shape.n_rows = static_cast<int>(random.between(1, random.between(0, 1) ? 16 : 40));
  shape.hidden = 8 * static_cast<int>(random.between(1, 80));
  shape.ffn = 8;
  shape.n_experts = 8 * static_cast<int>(random.between(1, kMoeMostExperts / 8));
  shape.top_k = static_cast<int>(random.between(1, std::min(kMoeMostChosen, shape.n_experts)));
  shape.norm_topk_prob = random.between(0, 1);
  const Layer layer(random, shape);
  moe_route(nullptr, layer.x.data(), layer.router.data(), shape, layer.ids.data(), layer.shares.data());
  check_router(layer);
  moe_sort(nullptr, layer.ids.data(), shape, layer.order.data(), layer.offsets.data(), layer.load.data());
  check_sort(layer);
  check_route_few(layer, random);
}

// More assignments than the threads of a block have in one round.
void test_long_sort(Random& random) {
  const MoeShape shape{static_cast<int>(random.between(4097, 6000)), 8, 8, 8, 8, true};
  const Layer layer(random, shape);
  for (int32_t& id : layer.ids) id = static_cast<int32_t>(random.between(0, 7));
  moe_sort(nullptr, layer.ids.data(), shape, layer.order.data(), layer.offsets.data(), layer.load.data());
  check_sort(layer);
}

// Loads as Zipf's law has them, hidden and ffn scaled down: matrix FLOPs at most 1.02 times the rows rounded up to 64
// per expert, or 16 where they are columns; weights of unused experts are never read. QWEN3_LONG takes the 4,096 tokens
// x 8 over 128 experts of the bar; hidden and ffn are as small as whole tiles allow.
void test_counts(Random& random, Path path, bool whole) {
  const MoeShape shape{
      whole ? 4096 : 384, by_wgmma(path) ? 256 : 128, by_wgmma(path) ? 128 : 64, whole ? 128 : 32, whole ? 8 : 4, true};
  Layer layer(random, shape);
  if (whole) layer.multiprocessors = 96;  // what a block did is searched again and again
  const double used = shape.n_experts - 2;
  for (int r = 0; r < shape.n_rows; ++r) {
    std::set<int32_t> chosen;
    while (chosen.size() < size_t(shape.top_k)) {
      chosen.insert(static_cast<int32_t>(std::min(used - 1, std::pow(used + 1, random.uniform()) - 1)));
    }
    std::copy(chosen.begin(), chosen.end(), layer.ids.data() + size_t(r) * shape.top_k);
  }
  for (float& share : layer.shares) share = 0.25f;
  sort_on_host(layer);
  const int unused[] = {shape.n_experts - 2, shape.n_experts - 1};
  CHECK(layer.load[unused[0]] == 0 && layer.load[unused[1]] == 0);
  int64_t rounded = 0;
  const int unit = path == Path::kSwapped ? 16 : 64;
  for (int e = 0; e < shape.n_experts; ++e) rounded += (layer.load[e] + unit - 1) / unit * unit;
  for (const int e : unused) {  // reading them would be a fault
    layer.gate_up_of[e] = layer.down_of[e] = nullptr;
    layer.gate_up_maps[e] = layer.down_maps[e] = TensorMap{};
  }
  emulate::Session::current().launches.clear();
  layer.run(path, false);
  int64_t flops = 0, conflicts = 0;
  for (const auto& c : emulate::Session::current().launches) flops += c.matrix_flops, conflicts += c.bank_conflicts;
  const double minimum = double(rounded) * 2 * (2.0 * shape.ffn * shape.hidden + double(shape.ffn) * shape.hidden);
  std::printf("%s, %d tokens x %d over %d: FLOPs %.3f of rows rounded up to %d, %lld conflicts\n",
              last().kernel.c_str(), shape.n_rows, shape.top_k, shape.n_experts, double(flops) / minimum, unit,
              static_cast<long long>(conflicts));
  std::fflush(stdout);
  CHECK(double(flops) <= 1.02 * minimum);
  CHECK(conflicts == 0);
}

// Loads as a step of 4,096 tokens x 8 over 128 experts has them, about 256 rows each, hidden and ffn scaled down: what
// both forms read per tile, and which FLOPs they spend.
void test_traffic(Random& random, bool whole) {
  MoeShape shape{0, 256, 256, whole ? 32 : 8, 1, true};
  std::vector<int> loads;
  for (int e = 0; e < shape.n_experts; ++e) loads.push_back(std::max(1, int(256 + 30 * random.normal())));
  shape.n_rows = std::accumulate(loads.begin(), loads.end(), 0);
  const Layer layer(random, shape);
  for (size_t e = 0, at = 0; e < loads.size(); at += size_t(loads[e++]))
    std::fill_n(layer.ids.data() + at, loads[e], static_cast<int32_t>(e));
  sort_on_host(layer);
  double sectors[2], flops[2];
  for (int form = 0; form < 2; ++form) {
    auto& launches = emulate::Session::current().launches;
    launches.clear();
    layer.run(form == 0 ? Path::kHopper : Path::kSwapped, false);
    sectors[form] = flops[form] = 0;
    for (const auto& c : launches) {
      sectors[form] += double(c.global_read_sectors), flops[form] += double(c.matrix_flops);
      std::printf("%s: %d experts of about 256 rows: %lld sectors read, %lld written, %.0f MFLOP\n", c.kernel.c_str(),
                  shape.n_experts, static_cast<long long>(c.global_read_sectors),
                  static_cast<long long>(c.global_written_sectors), double(c.matrix_flops) * 1e-6);
    }
  }
  std::printf("token rows as columns: %.3f of the sectors, %.3f of the FLOPs\n", sectors[1] / sectors[0],
              flops[1] / flops[0]);
  CHECK(sectors[1] < sectors[0] && flops[1] < flops[0]);
}

// Decode: only the chosen experts, every weight byte once.
void test_stream_counts(Random& random, Path path) {
  const MoeShape few{8, 128, 64, 32, 4, true};
  Layer layer(random, few);
  for (int i = 0; i < 32; ++i) layer.ids[i] = i / 4 % 2 * 9 + i % 4 * 5 % 30;
  moe_sort(nullptr, layer.ids.data(), few, layer.order.data(), layer.offsets.data(), layer.load.data());
  int64_t used = 0;
  for (int e = 0; e < few.n_experts; ++e) used += layer.load[e] > 0;
  emulate::Session::current().launches.clear();
  layer.run(path, false);
  int64_t distinct = 0;
  for (const auto& c : emulate::Session::current().launches) distinct += c.distinct_sectors_read;
  const int64_t weights = used * 3 * few.ffn * few.hidden * 2 / 32;
  const int64_t rest = (8 * few.hidden + 32 * few.ffn) * 2 / 32 + 200;  // activations and tables
  CHECK_MSG(distinct >= weights && distinct <= weights + rest,
            std::to_string(distinct) + " of " + std::to_string(weights));
}

// Router: x and the router's matrix once per 16 rows.
void test_router_counts(Random& random) {
  const MoeShape shape{16, 512, 8, 128, 8, true};
  Layer layer(random, shape);
  moe_route(nullptr, layer.x.data(), layer.router.data(), shape, layer.ids.data(), layer.shares.data());
  const auto& c = last();
  const int64_t minimum = (int64_t{16} * 512 + 128 * 512) * 2 / 32;
  std::printf("router: sectors %.3f, conflicts %lld\n", double(c.global_read_sectors) / double(minimum),
              static_cast<long long>(c.bank_conflicts));
  CHECK(c.global_read_sectors == minimum && c.distinct_sectors_read == minimum && c.bank_conflicts == 0);
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  const bool counts = counts_alone(argc, argv), whole = counts || whole_suite(argc, argv);
  const int repeats = whole ? 20 : 2;
  uint64_t stream = 0;
  on_every_schedule([&] {
    if (counts) return;
    Random random(seed(), stream++);
    for (int i = 0; i < repeats; ++i) {
      test_layer(random, Path::kStream);
      test_layer(random, Path::kTiles);
      test_router(random);
      if (!has_hopper()) continue;
      test_layer(random, Path::kHopper), test_layer(random, Path::kStreamHopper);
      i % 2 ? test_layer(random, Path::kSwapped) : test_forms(random);
    }
    if (stream == 1) test_long_sort(random);
  });
  if (!kCounted) return run.finish();
  Random random(seed(), 1000);
  without_faults([&] { test_counts(random, Path::kTiles, whole); });
  without_faults([&] { test_counts(random, Path::kHopper, whole); });
  without_faults([&] { test_counts(random, Path::kSwapped, whole); });
  without_faults([&] { test_traffic(random, whole); });
  without_faults([&] { test_stream_counts(random, Path::kStream); });
  without_faults([&] { test_stream_counts(random, Path::kStreamHopper); });
  without_faults([&] { test_router_counts(random); });
  return run.finish();
}
