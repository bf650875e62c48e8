// The emulation finds what kernels do wrong: correct kernels with one planted fault each. Faults of synchronisation are
// found on every schedule, not only on those where they would change a result.

#include "cuda_testing.h"

using namespace qwen3;
using namespace qwen3::cuda;
using namespace qwen3::testing;
using emulate::DeviceArray;
using emulate::Fault;

namespace {

// `body` must fail with one of `faults` on every schedule, naming kernel and line.
template <class Body>
void expect(const char* name, const std::vector<Fault>& faults, Body body) {
  auto& schedule = emulate::Session::current().schedule;
  for (int i = 0; i < 5; ++i) {
    schedule.completion = i == 0   ? emulate::Completion::kEarly
                          : i == 1 ? emulate::Completion::kLate
                                   : emulate::Completion::kRandom;
    schedule.seed = seed() * 100 + static_cast<uint64_t>(i);
    try {
      body();
      CHECK_MSG(false, std::string(name) + " was not caught on schedule " + std::to_string(i));
    } catch (const emulate::EmulationError& error) {
      bool expected = false;
      for (const Fault fault : faults) expected = expected || fault == error.fault();
      CHECK_MSG(expected, std::string(name) + ": " + error.what());
      CHECK_MSG(std::string(error.what()).find(name) != std::string::npos, error.what());
      CHECK_MSG(std::string(error.what()).find("cuda_faults_test.cc:") != std::string::npos ||
                    error.fault() == Fault::kLaunch || error.fault() == Fault::kUnfinishedCopies,
                error.what());
      if (i == 0) std::printf("%s\n", error.what());
    }
  }
}

// --- plain memory and barriers ---

enum class Memory { kGlobalBounds, kGlobalAlignment, kSharedBounds, kSharedAlignment, kUninitialised };
QWEN3_KERNEL(32) bad_memory(Memory what, float* p) {
  const auto s = shared_memory<float>(0);
  const int lane = thread_index().x;
  switch (what) {
    case Memory::kGlobalBounds:
      store(p + lane + 1, 0.0f);
      break;
    case Memory::kGlobalAlignment:
      load(reinterpret_cast<const Float4*>(p + lane));
      break;
    case Memory::kSharedBounds:
      s.store(lane + 1, 0.0f);
      break;
    case Memory::kSharedAlignment:
      s.as<Float2>().load(0), (s + lane).as<Float2>().load(0);
      break;
    case Memory::kUninitialised:
      s.load(lane);
      break;
  }
}

// Reverses 64 numbers through shared memory.
QWEN3_KERNEL(64) no_barrier(float* p) {
  const auto s = shared_memory<float>(0);
  const int i = thread_index().x;
  s.store(i, load(p + i));
  store(p + i, s.load(63 - i));
}

// Writes the next round's values before everybody has read this round's.
QWEN3_KERNEL(64) overwritten(float* p) {
  const auto s = shared_memory<float>(0);
  const int i = thread_index().x;
  for (int round = 0; round < 2; ++round) {
    s.store(i, load(p + i));
    block_sync();
    store(p + i, s.load(63 - i));
  }
}

// A warp-wide barrier where a block-wide one is due; and shuffles, which order no memory.
QWEN3_KERNEL(64) only_warp_barrier(float* p) {
  const auto s = shared_memory<float>(0);
  const int i = thread_index().x;
  s.store(i, load(p + i));
  warp_sync();
  store(p + i, s.load(63 - i));
}
QWEN3_KERNEL(32) only_shuffle(float* p) {
  const auto s = shared_memory<float>(0);
  const int i = thread_index().x;
  s.store(i, load(p + i));
  shuffle(0.0f, 0);
  store(p + i, s.load(31 - i));
}

enum class Count { kDisagree, kNotWarps, kTooMany, kLeftOver, kMissing, kDivergent };
QWEN3_KERNEL(128) bad_barrier(Count what) {
  const int warp = thread_index().x / 32;
  switch (what) {
    case Count::kDisagree:
      named_barrier_sync(1, warp < 2 ? 64 : 128);
      break;
    case Count::kNotWarps:
      named_barrier_sync(1, 100);
      break;
    case Count::kTooMany:
      named_barrier_sync(1, 160);
      break;
    case Count::kLeftOver:
      if (warp == 0) named_barrier_arrive(1, 64);
      break;
    case Count::kMissing:
      if (warp != 3) block_sync();
      break;
    case Count::kDivergent:
      if (thread_index().x % 32 == 0) {
        shuffle(0.0f, 0);
      } else {
        warp_sync();
      }
      break;
  }
}

// --- cp.async ---

enum class Copy { kNotWaited, kReadEarly, kOtherThread, kNone };
QWEN3_KERNEL(32) bad_copy(Copy what, const Bf16* from, float* out) {
  const auto s = shared_memory<Bf16>(0);
  const int lane = thread_index().x;
  cp_async16(s + lane * 8, from + lane * 8);
  cp_async_commit();
  if (what == Copy::kReadEarly) store(out + lane, bf16_value(s.load(lane * 8)));
  if (what != Copy::kNotWaited) cp_async_wait<0>();
  if (what != Copy::kOtherThread && what != Copy::kNotWaited) warp_sync();
  if (what != Copy::kNotWaited) store(out + lane, bf16_value(s.load((lane ^ 1) * 8)));
}

// --- the ring of a producer and a consumer warp ---

enum class Ring {
  kNone,
  kReleasedEarly,
  kFullParity,
  kEmptyParity,
  kTooFewBytes,
  kTooManyBytes,
  kNoInit,
  kNoInitFence,
  kNoWait,
  kTooManyArrivals
};
QWEN3_KERNEL(64) bad_ring(Ring what, QWEN3_GRID_CONSTANT const TensorMap map, int tiles, float* out) {
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  const auto full = shared_memory<uint64_t>(0), empty = shared_memory<uint64_t>(16);
  const auto stages = shared_memory<Bf16>(1024);
  if (thread_index().x == 0 && what != Ring::kNoInit) {
    for (int s = 0; s < 2; ++s) mbarrier_init(full + s, 1), mbarrier_init(empty + s, 32);
    if (what != Ring::kNoInitFence) fence_mbarrier_init();
  }
  block_sync();
  const int bytes = 1024 + (what == Ring::kTooFewBytes ? -256 : what == Ring::kTooManyBytes ? 256 : 0);
  if (warp == 0) {
    for (int i = 0; i < tiles && lane == 0; ++i) {
      mbarrier_wait(empty + i % 2, (i / 2 & 1) ^ (what == Ring::kEmptyParity ? 0 : 1));
      mbarrier_arrive_expect(full + i % 2, bytes);
      tma_load(stages + i % 2 * 512, map, full + i % 2, 0, i * 8);
    }
    return;
  }
  float sum = 0;
  for (int i = 0; i < tiles; ++i) {
    if (what != Ring::kNoWait) mbarrier_wait(full + i % 2, (i / 2 & 1) ^ (what == Ring::kFullParity ? 1 : 0));
    if (what == Ring::kReleasedEarly) mbarrier_arrive(empty + i % 2);
    for (int j = lane; j < 512; j += 32) sum += bf16_value((stages + i % 2 * 512).load(j));
    if (what != Ring::kReleasedEarly) mbarrier_arrive(empty + i % 2);
    if (what == Ring::kTooManyArrivals) mbarrier_arrive(full + i % 2);
  }
  store(out + lane, sum);
}

// --- wgmma ---

enum class Wgmma {
  kNone,
  kNoProxyFence,
  kFenceByOthers,
  kReadEarly,
  kNoWait,
  kNoFence,
  kOverwritten,
  kFragmentReused,
  kMisaligned,
  kOutOfBounds,
};
QWEN3_KERNEL(128) bad_wgmma(Wgmma what, const Bf16* a, const Bf16* b, float* d) {
  const int thread = thread_index().x;
  const auto sa = shared_memory<Bf16>(0), sb = shared_memory<Bf16>(2048);
  for (int i = thread; i < 64 * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    sa.store((row / 8 * 2 + k / 8) * 64 + row % 8 * 8 + k % 8, load(a + i));
  }
  for (int i = thread; i < 32 * 16; i += 128) {
    const int row = i / 16, k = i % 16;
    sb.store((row / 8 * 2 + k / 8) * 64 + row % 8 * 8 + k % 8, load(b + i));
  }
  if (what != Wgmma::kNoProxyFence && (what != Wgmma::kFenceByOthers || thread % 2)) fence_proxy_async();
  block_sync();
  WgmmaRegisters<float, 16> acc;
  WgmmaRegisters<uint32_t, 4> fragment;
  for (int i = 0; i < 16; ++i) acc.set(i, 0.0f);
  for (int i = 0; i < 4; ++i) fragment.set(i, 0u);
  if (what != Wgmma::kNoFence) wgmma_fence();
  const uint32_t b_address = sb.address() + (what == Wgmma::kOutOfBounds ? 4096u : 0u);
  const int stride = what == Wgmma::kMisaligned ? 256 + 16 : 256;
  wgmma<32>(acc, matrix_descriptor(sa.address(), 128, 256, Swizzle::kNone),
            matrix_descriptor(b_address, 128, stride, Swizzle::kNone), true);
  wgmma<32>(acc, fragment, matrix_descriptor(sb.address(), 128, 256, Swizzle::kNone), true);
  wgmma_commit();
  if (what == Wgmma::kReadEarly) store(d + thread, acc.get(0));
  if (what == Wgmma::kFragmentReused) fragment.set(0, 1u);
  if (what == Wgmma::kOverwritten) sa.store(thread, Bf16{0});
  if (what != Wgmma::kNoWait) wgmma_wait<0>();
  if (what == Wgmma::kNoWait) return;
  for (int i = 0; i < 16; ++i) store(d + thread * 16 + i, acc.get(i));
}

// A tensor store that reads what was written without a proxy fence, or that nobody waits for.
enum class Store { kNone, kNoProxyFence, kNoWait, kOverwritten };
QWEN3_KERNEL(32) bad_store(Store what, QWEN3_GRID_CONSTANT const TensorMap map) {
  const int lane = thread_index().x;
  const auto s = shared_memory<Bf16>(0);
  for (int i = lane; i < 512; i += 32) s.store(i, static_cast<Bf16>(i));
  if (what != Store::kNoProxyFence) fence_proxy_async();
  warp_sync();
  if (lane == 0) {
    tma_store(map, s, 0, 0);
    tma_store_commit();
    if (what == Store::kOverwritten) s.store(0, Bf16{1});
    if (what != Store::kNoWait) tma_store_wait_read<0>();
  }
}

template <class... Parameters, class... Arguments>
void run(const char* name, void (*kernel)(Parameters...), int threads, int shared, Arguments... arguments) {
  launch(nullptr, name, kernel, {{1, 1, 1}, {threads, 1, 1}, shared}, arguments...);
}

// --- between blocks ---

enum class Between { kNone, kTwoWriters, kNoOrder, kNoRelease, kOthersFence, kNoAcquire, kPlainCounter, kOneBlock };

// Every block writes a sum, the last one to count itself adds them up: barrier, then one thread fences and counts.
// kOthersFence: a fence of each thread ahead of the barrier is not one for the thread that counts.
QWEN3_KERNEL(64) bad_sum(Between what, const float* in, float* sums, int32_t* counter, float* out) {
  const int thread = thread_index().x, block = block_index().x, n = grid_dim().x;
  const auto last = shared_memory<int32_t>(0);
  store(sums + block * 64 + thread, load(in + block * 64 + thread));
  if (what == Between::kTwoWriters && thread == 0) store(out, 0.0f);
  if (what == Between::kOneBlock) {  // within one block it is the same
    store(out + thread, load(sums + block * 64 + (thread ^ 32)));
    return;
  }
  if (what == Between::kOthersFence) thread_fence();
  block_sync();
  if (thread == 0) {
    if (what != Between::kNoRelease && what != Between::kOthersFence) thread_fence();
    if (what == Between::kPlainCounter) {
      store(counter, load(counter) + 1);
      last.store(0, load(counter) == n);
    } else {
      last.store(0, atomic_add(counter, 1) == n - 1 || what == Between::kNoOrder);
    }
    if (what != Between::kNoAcquire) thread_fence();
  }
  block_sync();
  if (!last.load()) return;
  float total = 0;
  for (int b = 0; b < n; ++b) total += load(sums + b * 64 + thread);
  if (what != Between::kNoOrder) store(out + thread, total);
}

// All blocks wait for each other, then each reads what its neighbour wrote: needs all of them to be resident.
QWEN3_KERNEL(64) grid_barrier(bool fenced, int32_t* counter, int32_t* values, int32_t* out) {
  const int thread = thread_index().x, block = block_index().x, n = grid_dim().x;
  store(values + block * 64 + thread, block);
  block_sync();
  if (thread == 0) {
    if (fenced) thread_fence();
    atomic_add(counter, 1);
    while (load_volatile(counter) < n) {
    }
    thread_fence();
  }
  block_sync();
  store(out + block * 64 + thread, load(values + (block + 1) % n * 64 + thread));
}

void test_blocks() {
  constexpr int kBlocks = 5;
  DeviceArray<float> in(kBlocks * 64), sums(kBlocks * 64), out(64);
  DeviceArray<int32_t> counter(1), values(kBlocks * 64), neighbours(kBlocks * 64);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const auto sum = [&](const char* name, Between what) {
    counter[0] = 0;
    launch(nullptr, name, bad_sum, {{kBlocks, 1, 1}, {64, 1, 1}, 16}, what, in.data(), sums.data(), counter.data(),
           out.data());
  };
  for (const Between what : {Between::kTwoWriters, Between::kNoOrder, Between::kNoRelease, Between::kOthersFence,
                             Between::kNoAcquire, Between::kPlainCounter, Between::kOneBlock}) {
    const std::string name = "bad_sum_" + std::to_string(static_cast<int>(what));
    expect(name.c_str(), {Fault::kGlobalRace}, [&] { sum(name.c_str(), what); });
  }
  on_every_schedule([&] {
    sum("good_sum", Between::kNone);
    for (int i = 0; i < 64; ++i) CHECK(out[i] == static_cast<float>(kBlocks * i + 64 * 10));
  });

  auto& schedule = emulate::Session::current().schedule;
  const auto barrier = [&](const char* name, bool fenced, int resident) {
    counter[0] = 0;
    schedule.resident = resident;
    launch(nullptr, name, grid_barrier, {{kBlocks, 1, 1}, {64, 1, 1}, 0}, fenced, counter.data(), values.data(),
           neighbours.data());
  };
  on_every_schedule([&] {
    barrier("good_barrier", true, kBlocks);
    for (int i = 0; i < kBlocks * 64; ++i) CHECK(neighbours[i] == (i / 64 + 1) % kBlocks);
  });
  expect("bad_barrier", {Fault::kGlobalRace}, [&] { barrier("bad_barrier", false, kBlocks); });
  // Waiting for blocks that are not there yet never ends.
  expect("lonely_barrier", {Fault::kDeadlock}, [&] { barrier("lonely_barrier", true, kBlocks - 1); });
  schedule.resident = 1;
}

// Programmatic dependent launch: what may be touched before the wait. between: what the kernel ahead wrote; produced:
// the one ahead of that.
enum class Early { kNone, kRead, kReadProduced, kWrite, kNoWait, kOthersWait };
QWEN3_KERNEL(64)
bad_successor(Early what, const float* weights, const float* produced, const float* between, float* out) {
  const int thread = thread_index().x;
  float value = load(weights + thread);  // no kernel writes them
  if (what == Early::kRead) value += load(between + thread) - 1;
  if (what == Early::kReadProduced) value += load(produced + thread) - 1;
  if (what == Early::kWrite) store(out + thread, value);
  if (what == Early::kNoWait) return;
  if (thread < 32) grid_dependency_wait();
  if (what != Early::kOthersWait) block_sync();  // one thread's wait is enough for whoever hears of it
  store(out + thread, value + load(produced + thread));
}
// When a kernel lets the next one begin.
enum class Lets { kBeforeTheWait, kSomeBeforeTheWait, kAfterIt, kNever };
QWEN3_KERNEL(64) producer(float* produced, Lets lets) {
  const int thread = thread_index().x;
  if (lets == Lets::kBeforeTheWait || (lets == Lets::kSomeBeforeTheWait && thread == 40)) grid_dependency_launch();
  grid_dependency_wait();
  if (lets != Lets::kNever) grid_dependency_launch();
  store(produced + thread, 1.0f);
}

void test_dependent_launch() {
  DeviceArray<float> memory(8192);
  float* weights = memory.data();
  float* produced = weights + 64;
  float* out = produced + 64;  // in the same page, later in another
  for (int i = 0; i < 64; ++i) weights[i] = 2;
  const auto run_both = [&](const char* name, Early what, Lets lets = Lets::kAfterIt) {
    emulate::run_grid("producer", {}, {64, 1, 1}, 0, [&] { producer(produced, Lets::kNever); });
    emulate::run_grid(
        "between", {}, {64, 1, 1}, 0, [&] { producer(out, lets); }, true);
    emulate::run_grid(
        name, {}, {64, 1, 1}, 0, [&] { bad_successor(what, weights, produced, out, out); }, true);
  };
  for (int i = 0; i < 2; ++i, out += 3000) {
    for (const Early what : {Early::kRead, Early::kWrite, Early::kOthersWait}) {
      expect("bad_successor", {Fault::kDependency}, [&] { run_both("bad_successor", what); });
    }
    // Of the kernel before the one ahead: it has ended if the one ahead had waited for it.
    for (const Lets lets : {Lets::kBeforeTheWait, Lets::kSomeBeforeTheWait}) {
      expect("bad_successor", {Fault::kDependency}, [&] { run_both("bad_successor", Early::kReadProduced, lets); });
    }
    on_every_schedule([&] {
      for (const Lets lets : {Lets::kAfterIt, Lets::kNever}) {
        for (const Early what : {Early::kNone, Early::kReadProduced}) {
          run_both("good_successor", what, lets);
          for (int j = 0; j < 64; ++j) CHECK(out[j] == 3);
        }
      }
    });
  }
  out -= 6000;
  // Nobody waits: the message has no line.
  auto& schedule = emulate::Session::current().schedule;
  schedule.completion = emulate::Completion::kEarly;
  try {
    run_both("nobody_waits", Early::kNoWait);
    CHECK(false);
  } catch (const emulate::EmulationError& error) {
    CHECK_MSG(error.fault() == Fault::kDependency, error.what());
  }
}

void test_memory() {
  DeviceArray<float> p(32);
  const std::pair<Memory, Fault> cases[] = {{Memory::kGlobalBounds, Fault::kGlobalBounds},
                                            {Memory::kGlobalAlignment, Fault::kGlobalAlignment},
                                            {Memory::kSharedBounds, Fault::kSharedBounds},
                                            {Memory::kUninitialised, Fault::kUninitialised}};
  for (const auto& [what, fault] : cases) {
    // The last lanes of an unaligned vector also end outside: either is right.
    const auto second = fault == Fault::kGlobalAlignment ? Fault::kGlobalBounds : fault;
    expect("bad_memory", {fault, second}, [&] { run("bad_memory", bad_memory, 32, 128, what, p.data()); });
  }
  expect("bad_memory", {Fault::kSharedAlignment, Fault::kUninitialised},
         [&] { run("bad_memory", bad_memory, 32, 128, Memory::kSharedAlignment, p.data()); });
  expect("too_much", {Fault::kLaunch},
         [&] { run("too_much", bad_memory, 32, 300000, Memory::kGlobalBounds, p.data()); });
}

void test_barriers() {
  DeviceArray<float> p(64);
  for (float& x : p) x = 1;
  expect("no_barrier", {Fault::kRace, Fault::kUninitialised},
         [&] { run("no_barrier", no_barrier, 64, 256, p.data()); });
  expect("overwritten", {Fault::kRace}, [&] { run("overwritten", overwritten, 64, 256, p.data()); });
  expect("only_warp", {Fault::kRace, Fault::kUninitialised},
         [&] { run("only_warp", only_warp_barrier, 64, 256, p.data()); });
  expect("only_shuffle", {Fault::kRace}, [&] { run("only_shuffle", only_shuffle, 32, 128, p.data()); });
  const std::pair<Count, Fault> cases[] = {
      {Count::kDisagree, Fault::kBarrierCount}, {Count::kNotWarps, Fault::kBarrierCount},
      {Count::kTooMany, Fault::kBarrierCount},  {Count::kLeftOver, Fault::kBarrierCount},
      {Count::kMissing, Fault::kDeadlock},      {Count::kDivergent, Fault::kDivergence}};
  for (const auto& [what, fault] : cases) {
    const auto second = what == Count::kDisagree ? Fault::kDeadlock : fault;
    expect("bad_barrier", {fault, second}, [&] { run("bad_barrier", bad_barrier, 128, 0, what); });
  }
}

void test_copies() {
  DeviceArray<Bf16> from(256);
  DeviceArray<float> out(32);
  for (Bf16& x : from) x = 0;
  expect("bad_copy", {Fault::kUnfinishedCopies},
         [&] { run("bad_copy", bad_copy, 32, 512, Copy::kNotWaited, from.data(), out.data()); });
  expect("bad_copy", {Fault::kRace},
         [&] { run("bad_copy", bad_copy, 32, 512, Copy::kReadEarly, from.data(), out.data()); });
  expect("bad_copy", {Fault::kRace, Fault::kUninitialised},
         [&] { run("bad_copy", bad_copy, 32, 512, Copy::kOtherThread, from.data(), out.data()); });
  on_every_schedule([&] { run("good_copy", bad_copy, 32, 512, Copy::kNone, from.data(), out.data()); });
}

void test_rings() {
  const int tiles = 6;
  DeviceArray<Bf16> tensor(tiles * 8 * 64);
  DeviceArray<float> out(32);
  for (Bf16& x : tensor) x = 0;
  TensorShape shape;
  shape.base = tensor.data(), shape.size[0] = 64, shape.size[1] = tiles * 8, shape.stride[0] = 128;
  shape.box[0] = 64, shape.box[1] = 8;
  const TensorMap map = encode_tensor_map(shape);
  const std::pair<Ring, std::vector<Fault>> cases[] = {
      {Ring::kReleasedEarly, {Fault::kRace}},
      {Ring::kFullParity, {Fault::kRace, Fault::kUninitialised, Fault::kDeadlock}},
      {Ring::kEmptyParity, {Fault::kRace, Fault::kDeadlock}},
      {Ring::kTooFewBytes, {Fault::kMbarrier, Fault::kRace, Fault::kDeadlock}},
      {Ring::kTooManyBytes, {Fault::kDeadlock}},
      {Ring::kNoInit, {Fault::kMbarrier}},
      {Ring::kNoInitFence, {Fault::kProxyFence}},
      {Ring::kNoWait, {Fault::kRace, Fault::kUninitialised}},
      {Ring::kTooManyArrivals, {Fault::kMbarrier, Fault::kRace, Fault::kUninitialised, Fault::kDeadlock}},
  };
  for (const auto& [what, faults] : cases) {
    expect("bad_ring", faults,
           [&, what = what] { run("bad_ring", bad_ring, 64, 1024 + 2048, what, map, tiles, out.data()); });
  }
  on_every_schedule([&] { run("good_ring", bad_ring, 64, 1024 + 2048, Ring::kNone, map, tiles, out.data()); });
}

void test_wgmma() {
  DeviceArray<Bf16> a(64 * 16), b(32 * 16);
  DeviceArray<float> d(64 * 32);
  for (Bf16& x : a) x = 0;
  for (Bf16& x : b) x = 0;
  const std::pair<Wgmma, std::vector<Fault>> cases[] = {
      {Wgmma::kNoProxyFence, {Fault::kProxyFence}},
      {Wgmma::kFenceByOthers, {Fault::kProxyFence}},
      {Wgmma::kReadEarly, {Fault::kRegistersInUse}},
      {Wgmma::kNoWait, {Fault::kUnfinishedCopies}},
      {Wgmma::kNoFence, {Fault::kRegistersInUse}},
      {Wgmma::kOverwritten, {Fault::kRace}},
      {Wgmma::kFragmentReused, {Fault::kRegistersInUse}},
      {Wgmma::kMisaligned, {Fault::kUninitialised, Fault::kSharedBounds}},
      {Wgmma::kOutOfBounds, {Fault::kSharedBounds}},
  };
  for (const auto& [what, faults] : cases) {
    expect("bad_wgmma", faults,
           [&, what = what] { run("bad_wgmma", bad_wgmma, 128, 3072, what, a.data(), b.data(), d.data()); });
  }
  on_every_schedule([&] { run("good_wgmma", bad_wgmma, 128, 3072, Wgmma::kNone, a.data(), b.data(), d.data()); });

  DeviceArray<Bf16> tensor(512);
  TensorShape shape;
  shape.base = tensor.data(), shape.size[0] = 64, shape.size[1] = 8, shape.stride[0] = 128, shape.box[0] = 64,
  shape.box[1] = 8;
  const TensorMap map = encode_tensor_map(shape);
  const std::pair<Store, Fault> stores[] = {{Store::kNoProxyFence, Fault::kProxyFence},
                                            {Store::kOverwritten, Fault::kRace},
                                            {Store::kNoWait, Fault::kUnfinishedCopies}};
  for (const auto& [what, fault] : stores) {
    expect("bad_store", {fault}, [&, what = what] { run("bad_store", bad_store, 32, 1024, what, map); });
  }
  on_every_schedule([&] {
    run("good_store", bad_store, 32, 1024, Store::kNone, map);
    for (size_t i = 0; i < 512; ++i) CHECK(tensor[i] == i);
  });
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  test_memory();
  test_blocks();
  test_dependent_launch();
  test_barriers();
  test_copies();
  test_rings();
  test_wgmma();
  return run.finish();
}
