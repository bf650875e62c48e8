// cp.async and TMA. PTX ISA, sections "cp.async", "cp.async.bulk.tensor", "Tensors: tiled mode" and "Swizzling modes".

#include <cstring>

#include "cuda/emulate/global_memory.h"
#include "cuda/emulate/primitives.h"
#include "cuda/emulate/tensor_map.h"

namespace qwen3::cuda {

using emulate::Block;
using emulate::Fault;

void cp_async16(Shared<uint16_t> to, const void* from, int valid, Where where) {
  Block& block = Block::current();
  emulate::Thread& self = block.self();
  const uint32_t address = to.address();
  block.check_shared(address, 16, 16, where);
  if (valid < 0 || valid > 16) block.fail(Fault::kGlobalBounds, "src-size beyond 16", where);
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) block.fail(Fault::kGlobalAlignment, "cp.async of 16 bytes", where);
  if (valid > 0) {
    const auto begin = reinterpret_cast<uintptr_t>(from);
    if (!emulate::GlobalMemory::device().find(begin, static_cast<size_t>(valid))) {
      block.fail(Fault::kGlobalBounds, "cp.async source", where);
    }
    block.check_global_race(from, static_cast<size_t>(valid), block.own_access(where), false, false, where);
    block.grouper().global_access(self.index / 32, self.index % 32, static_cast<int>(where.line()), begin, 16, false);
  }
  const emulate::SharedShadow::Access as{self.copies.agent, self.copies.committed + 1, static_cast<int>(where.line())};
  block.mark_write(address, 16, as, self.clock, true, where);
  block.grouper().shared_access(self.index / 32, self.index % 32, static_cast<int>(where.line()), address, 16);
  auto bytes = std::make_shared<std::array<std::byte, 16>>();
  block.add_async(
      self.copies,
      [=] {
        bytes->fill(std::byte{0});
        if (valid > 0) std::memcpy(bytes->data(), from, static_cast<size_t>(valid));
      },
      [=, &block] { std::memcpy(block.shared_data() + address, bytes->data(), 16); });
}

namespace {

// Visits the box at the coordinates row by row: f(shared address before the swizzle, pointer, bytes inside the tensor).
template <class F>
void for_each_row(const emulate::EmulatedTensorMap& map, uint32_t shared, const int* c, F f) {
  const uint32_t row_bytes = map.box[0] * 2;
  for (uint32_t z = 0; z < map.box[2]; ++z) {
    for (uint32_t y = 0; y < map.box[1]; ++y) {
      const int64_t x0 = c[0], y0 = int64_t{c[1]} + y, z0 = int64_t{c[2]} + z;
      const bool inside =
          y0 >= 0 && z0 >= 0 && static_cast<uint64_t>(y0) < map.size[1] && static_cast<uint64_t>(z0) < map.size[2];
      const auto* row = reinterpret_cast<const uint16_t*>(map.base) + 0;
      const auto* from = reinterpret_cast<const std::byte*>(row) + y0 * static_cast<int64_t>(map.stride[0]) +
                         z0 * static_cast<int64_t>(map.stride[1]);
      f(shared + (z * map.box[1] + y) * row_bytes, from, x0, inside);
    }
  }
}

void check_tensor_copy(Block& block, const emulate::EmulatedTensorMap& map, uint32_t shared, int rank,
                       const Where& where) {
  if (map.magic != emulate::EmulatedTensorMap::kMagic) block.fail(Fault::kDescriptor, "not a tensor map", where);
  if (map.rank != static_cast<uint32_t>(rank)) {
    block.fail(Fault::kDescriptor, std::to_string(rank) + " coordinates for rank " + std::to_string(map.rank), where);
  }
  // 128 bytes for every tensor copy; a swizzle's pattern repeats every 256, 512 or 1,024 bytes and starts there.
  const uint32_t pattern = map.swizzle == Swizzle::kNone ? 128 : 128u << static_cast<uint32_t>(map.swizzle);
  block.check_shared(shared, map.box_bytes(), pattern, where);
}

int64_t count_sectors(const std::byte* begin, int64_t bytes) {
  if (bytes <= 0) return 0;
  const auto first = reinterpret_cast<uintptr_t>(begin) / 32,
             last = (reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes) - 1) / 32;
  return static_cast<int64_t>(last - first + 1);
}

void load_box(Shared<uint16_t> to, const TensorMap& opaque, Shared<uint64_t> barrier, std::array<int, 3> c, int rank,
              const Where& where) {
  Block& block = Block::current();
  const emulate::EmulatedTensorMap map = emulate::read_tensor_map(opaque);
  check_tensor_copy(block, map, to.address(), rank, where);
  const auto as = block.transaction(barrier.address(), where);
  block.mark_write(to.address(), map.box_bytes(), as, block.self().clock, false, where);
  auto& counters = block.counters();
  for_each_row(map, to.address(), c.data(), [&](uint32_t, const std::byte* row, int64_t x0, bool inside) {
    if (!inside) return;
    const int64_t begin = std::max<int64_t>(0, x0),
                  end = std::min<int64_t>(x0 + map.box[0], static_cast<int64_t>(map.size[0]));
    if (end <= begin) return;
    const std::byte* from = row + begin * 2;
    if (!emulate::GlobalMemory::device().find(reinterpret_cast<uintptr_t>(from),
                                              static_cast<size_t>((end - begin) * 2))) {
      block.fail(Fault::kGlobalBounds, "tensor load", where);
    }
    block.check_global_race(from, static_cast<size_t>((end - begin) * 2), block.own_access(where), false, false, where);
    const int64_t sectors = count_sectors(from, (end - begin) * 2);
    counters.global_read_bytes += (end - begin) * 2;
    counters.global_read_sectors += sectors, counters.tma_read_sectors += sectors;
    for (int64_t s = 0; s < sectors; ++s) {
      block.grouper().sectors_read().insert(reinterpret_cast<uintptr_t>(from) / 32 + static_cast<uint64_t>(s));
    }
  });
  auto bytes = std::make_shared<std::vector<std::byte>>(map.box_bytes());
  const uint32_t base = to.address();
  block.add_transaction(
      barrier.address(), map.box_bytes(),
      [=] {
        std::fill(bytes->begin(), bytes->end(), std::byte{0});  // outside of the tensor
        for_each_row(map, 0, c.data(), [&](uint32_t offset, const std::byte* row, int64_t x0, bool inside) {
          for (uint32_t x = 0; inside && x < map.box[0]; ++x) {
            const int64_t column = x0 + x;
            if (column < 0 || static_cast<uint64_t>(column) >= map.size[0]) continue;
            std::memcpy(bytes->data() + offset + x * 2, row + column * 2, 2);
          }
        });
      },
      [=, &block] {
        for (uint32_t i = 0; i < bytes->size(); i += 16) {
          std::memcpy(block.shared_data() + emulate::swizzled(base + i, map.swizzle), bytes->data() + i, 16);
        }
      },
      where);
}

}  // namespace

void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1, Where where) {
  load_box(to, map, barrier, {c0, c1, 0}, 2, where);
}
void tma_load(Shared<uint16_t> to, const TensorMap& map, Shared<uint64_t> barrier, int c0, int c1, int c2,
              Where where) {
  load_box(to, map, barrier, {c0, c1, c2}, 3, where);
}

void tma_store(const TensorMap& opaque, Shared<uint16_t> from, int c0, int c1, Where where) {
  Block& block = Block::current();
  const emulate::EmulatedTensorMap map = emulate::read_tensor_map(opaque);
  check_tensor_copy(block, map, from.address(), 2, where);
  emulate::Thread& self = block.self();
  const emulate::SharedShadow::Access as{self.bulk_stores.agent, self.bulk_stores.committed + 1,
                                         static_cast<int>(where.line())};
  block.mark_read(from.address(), map.box_bytes(), as, self.clock, true, where);
  const std::array<int, 3> c{c0, c1, 0};
  auto bytes = std::make_shared<std::vector<std::byte>>(map.box_bytes());
  const uint32_t base = from.address();
  auto& counters = block.counters();
  for_each_row(map, 0, c.data(), [&](uint32_t, const std::byte* row, int64_t x0, bool inside) {
    const int64_t begin = std::max<int64_t>(0, x0);
    const int64_t end = std::min<int64_t>(x0 + map.box[0], static_cast<int64_t>(map.size[0]));
    if (!inside || end <= begin) return;
    block.check_global_race(row + begin * 2, static_cast<size_t>((end - begin) * 2), as, true, false, where);
  });
  block.add_async(
      self.bulk_stores,
      [=, &block] {
        for (uint32_t i = 0; i < bytes->size(); i += 16) {
          std::memcpy(bytes->data() + i, block.shared_data() + emulate::swizzled(base + i, map.swizzle), 16);
        }
      },
      [=, &counters] {
        for_each_row(map, 0, c.data(), [&](uint32_t offset, const std::byte* row, int64_t x0, bool inside) {
          if (!inside) return;
          const int64_t begin = std::max<int64_t>(0, x0);
          const int64_t end = std::min<int64_t>(x0 + map.box[0], static_cast<int64_t>(map.size[0]));
          if (end <= begin) return;
          auto* to = const_cast<std::byte*>(row) + begin * 2;
          std::memcpy(to, bytes->data() + offset + (begin - x0) * 2, static_cast<size_t>((end - begin) * 2));
          counters.global_written_bytes += (end - begin) * 2;
          counters.global_written_sectors += count_sectors(to, (end - begin) * 2);
        });
      });
}

}  // namespace qwen3::cuda
