// wgmma.mma_async.sync.aligned.m64nNk16.f32.bf16.bf16. PTX ISA, sections "Asynchronous Warpgroup Level Matrix
// Multiply-Accumulate": register fragments, shared memory matrix layout, matrix descriptor.

#include <cstring>

#include "core/dtype.h"
#include "cuda/emulate/primitives.h"
#include "cuda/emulate/tensor_map.h"

namespace qwen3::cuda {
namespace {

using emulate::Block;
using emulate::Fault;

struct Descriptor {
  uint32_t start, leading, stride, base_offset;
  Swizzle swizzle;
};

// Bits 0-13 start, 16-29 leading and 32-45 stride byte offset, each divided by 16; 49-51 base offset; 62-63 swizzle:
// 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes.
Descriptor decode(uint64_t bits) {
  constexpr Swizzle kModes[4] = {Swizzle::kNone, Swizzle::k128, Swizzle::k64, Swizzle::k32};
  const auto field = [&](int shift, uint64_t mask) { return static_cast<uint32_t>((bits >> shift) & mask); };
  return {field(0, 0x3fff) << 4, field(16, 0x3fff) << 4, field(32, 0x3fff) << 4, field(49, 7), kModes[field(62, 3)]};
}

// The byte address of element (mn, k) of an operand whose k runs over 16. Core matrices are 8 rows of 16 bytes; a
// swizzle atom of s bytes is 8 rows of s bytes.
//  k-major: rows are mn. Without swizzle a core matrix is 128 contiguous bytes, the leading offset steps along k and
//  the
//    stride offset along mn; with one, rows are s bytes apart, k runs along the row and the stride offset steps 8 rows.
//  mn-major: rows are k. An atom holds s / 2 elements of mn by 8 of k; the leading offset steps along mn, the stride
//    offset along k (without swizzle the other way round).
uint32_t element_address(const Descriptor& d, int mn, int k, bool mn_major) {
  const auto m = static_cast<uint32_t>(mn), kk = static_cast<uint32_t>(k);
  uint32_t offset;
  if (d.swizzle == Swizzle::kNone) {
    offset = mn_major ? m % 8 * 2 + kk % 8 * 16 + m / 8 * d.stride + kk / 8 * d.leading
                      : kk % 8 * 2 + m % 8 * 16 + m / 8 * d.stride + kk / 8 * d.leading;
  } else {
    const uint32_t span = 16u << static_cast<uint32_t>(d.swizzle);  // bytes of an atom's row
    offset = mn_major ? m % (span / 2) * 2 + m / (span / 2) * d.leading + kk % 8 * span + kk / 8 * d.stride
                      : kk * 2 + m % 8 * span + m / 8 * d.stride;
  }
  return emulate::swizzled(d.start + offset, d.swizzle);
}

struct Product {
  WgmmaArguments arguments[128];
  std::vector<float> a, b;  // [64, 16], [16, n]
};

void read_shared(Block& block, uint64_t descriptor, int n_mn, bool mn_major, float* out) {
  const Descriptor d = decode(descriptor);
  for (int mn = 0; mn < n_mn; ++mn) {
    for (int k = 0; k < 16; ++k) {
      uint16_t bits;
      std::memcpy(&bits, block.shared_data() + element_address(d, mn, k, mn_major), 2);
      out[mn * 16 + k] = bf16_to_f32(bits);
    }
  }
}

// Rows 16 w + g + 8 (r % 2) and columns 2 t + 8 (r / 2) of A come from register r of lane 4 g + t of warp w.
void read_registers(const Product& p, float* out) {
  for (int i = 0; i < 128; ++i) {
    const int g = i % 32 / 4, t = i % 4 * 2, w = i / 32;
    for (int r = 0; r < 4; ++r) {
      float* to = out + (w * 16 + g + r % 2 * 8) * 16 + t + r / 2 * 8;
      to[0] = bf16_to_f32(static_cast<uint16_t>(p.arguments[i].a[r]));
      to[1] = bf16_to_f32(static_cast<uint16_t>(p.arguments[i].a[r] >> 16));
    }
  }
}

// D: register i of lane 4 g + t of warp w is row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2.
void multiply(const Product& p) {
  const int n = p.arguments[0].n;
  for (int thread = 0; thread < 128; ++thread) {
    const int g = thread % 32 / 4, t = thread % 4 * 2, w = thread / 32;
    float* d = p.arguments[thread].d;
    for (int i = 0; i < n / 2; ++i) {
      const float* a = p.a.data() + (w * 16 + g + i / 2 % 2 * 8) * 16;
      const float* b = p.b.data() + (i / 4 * 8 + t + i % 2) * 16;
      float sum = p.arguments[0].accumulate ? d[i] : 0.0f;
      for (int k = 0; k < 16; ++k) sum += a[k] * b[k];
      d[i] = sum;
    }
  }
}

void mark_operand(Block& block, uint64_t bits, int n_mn, bool mn_major, const emulate::SharedShadow::Access& as,
                  const emulate::VectorClock& seen, const Where& where) {
  const Descriptor d = decode(bits);
  // Base offsets are for patterns that do not start at a multiple of their size; these kernels have none.
  if (d.base_offset != 0) block.fail(Fault::kDescriptor, "base offset is not 0", where);
  for (int mn = 0; mn < n_mn; ++mn) {
    for (int k = 0; k < 16; ++k) {
      // Runs of 8 elements along the contiguous axis are one chunk of 16 bytes.
      if ((mn_major ? mn : k) % 8 != 0) continue;
      const uint32_t address = element_address(d, mn, k, mn_major);
      block.check_shared(address, 16, 16, where);
      block.mark_read(address, 16, as, seen, true, where);
    }
  }
}

// Wavefronts of an operand beyond what its bytes need: a core matrix is read in one pass over the banks.
void count_conflicts(Block& block, uint64_t bits, int n_mn, bool mn_major, const Where& where) {
  const Descriptor d = decode(bits);
  for (int mn = 0; mn < n_mn; mn += 8) {
    for (int k = 0; k < 16; k += 8) {
      uint32_t rows[32] = {};
      for (int i = 0; i < 8; ++i) rows[i] = element_address(d, mn_major ? mn : mn + i, mn_major ? k + i : k, mn_major);
      const int64_t conflicts = emulate::shared_wavefronts(rows, 0xff, 16) - 1;
      ++block.counters().shared_accesses;
      if (conflicts == 0) continue;
      block.counters().bank_conflicts += conflicts;
      block.counters().conflicts_by_line[static_cast<int>(where.line())] += conflicts;
    }
  }
}

void run_issue(Block& block, void** arguments, const Where& where) {
  auto product = std::make_shared<Product>();
  emulate::VectorClock seen = block.warpgroup_thread(0).clock;
  for (int i = 0; i < 128; ++i) {
    product->arguments[i] = *static_cast<WgmmaArguments*>(arguments[i]);
    if (i % 32 == 0) seen.meet(block.warpgroup_thread(i).clock);
  }
  const WgmmaArguments& first = product->arguments[0];
  auto& queue = block.warpgroup_queue();
  const emulate::SharedShadow::Access as{queue.agent, queue.committed + 1, static_cast<int>(where.line())};
  if (!first.a) {
    mark_operand(block, first.a_descriptor, 64, first.a_mn_major, as, seen, where);
    count_conflicts(block, first.a_descriptor, 64, first.a_mn_major, where);
  }
  mark_operand(block, first.b_descriptor, first.n, first.b_mn_major, as, seen, where);
  count_conflicts(block, first.b_descriptor, first.n, first.b_mn_major, where);
  for (int i = 0; i < 128; ++i) {
    const WgmmaArguments& a = product->arguments[i];
    if (a.a_descriptor != first.a_descriptor || a.b_descriptor != first.b_descriptor ||
        a.accumulate != first.accumulate) {
      block.fail(Fault::kDivergence, "threads of the warpgroup give different descriptors", where);
    }
    if (!a.fenced) block.fail(Fault::kRegistersInUse, "no wgmma.fence since they were modified", where);
    ++*a.d_uses;
    block.warpgroup_thread(i).wgmma_registers.push_back({as.time, a.d_uses});
    if (!a.a) continue;
    ++*a.a_uses;
    block.warpgroup_thread(i).wgmma_registers.push_back({as.time, a.a_uses});
  }
  ++block.counters().matrix_instructions;
  block.counters().matrix_flops += int64_t{2} * 64 * 16 * first.n;
  block.add_async(
      queue,
      [product, &block] {
        const WgmmaArguments& p = product->arguments[0];
        product->a.resize(64 * 16);
        product->b.resize(static_cast<size_t>(p.n) * 16);
        if (p.a) {
          read_registers(*product, product->a.data());
        } else {
          read_shared(block, p.a_descriptor, 64, p.a_mn_major, product->a.data());
        }
        read_shared(block, p.b_descriptor, p.n, p.b_mn_major, product->b.data());
      },
      [product] { multiply(*product); });
}

}  // namespace

void wgmma_issue(WgmmaArguments arguments, const Where& where) {
  Block::current().warpgroup_collective("wgmma", &arguments, run_issue, where);
}

void wgmma_commit(Where where) {
  Block::current().warpgroup_collective(
      "wgmma.commit_group", nullptr, [](Block& block, void**, const Where&) { block.commit(block.warpgroup_queue()); },
      where);
}

void wgmma_wait_groups(int pending) {
  Block& block = Block::current();
  auto& queue = block.warpgroup_queue();
  block.wait_groups(queue, static_cast<uint32_t>(pending), false);
  if (queue.committed < static_cast<uint32_t>(pending)) return;
  const uint32_t last = queue.committed - static_cast<uint32_t>(pending);
  std::erase_if(block.self().wgmma_registers, [&](const emulate::Thread::InFlight& r) {
    if (r.group > last) return false;
    --*r.uses;
    return true;
  });
}

}  // namespace qwen3::cuda
