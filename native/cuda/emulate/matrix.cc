// Warp-wide instructions: shuffles, ldmatrix, stmatrix, mma. Fragment layouts after the PTX ISA, sections "Matrix
// Fragments for mma.m16n8k16 with floating point type" and "Warp-level matrix load instruction: ldmatrix".

#include <cstring>

#include "core/dtype.h"
#include "cuda/emulate/primitives.h"

namespace qwen3::cuda {
namespace {

using emulate::Block;

struct Shuffle {
  uint32_t value;
  int source;
  uint32_t result;
};

struct MatrixAccess {
  uint32_t* registers;
  uint32_t address;
  int n;
  bool transposed;
};

// One 16-byte row per lane of matrices 0 to n - 1: lane 8 m + i holds the address of row i of matrix m.
void check_rows(Block& block, void** arguments, int n, bool write, const Where& where) {
  for (int m = 0; m < n; ++m) {
    uint32_t addresses[32] = {};
    for (int i = 0; i < 8; ++i) {
      const uint32_t address = static_cast<MatrixAccess*>(arguments[m * 8 + i])->address;
      emulate::Thread& lane = block.lane_thread(m * 8 + i);
      const emulate::SharedShadow::Access as{static_cast<emulate::Agent>(lane.index), lane.time,
                                             static_cast<int>(where.line())};
      block.check_shared(address, 16, 16, where);
      if (write) {
        block.mark_write(address, 16, as, lane.clock, true, where);
      } else {
        block.mark_read(address, 16, as, lane.clock, false, where);
      }
      addresses[i] = address;
    }
    const int64_t conflicts = emulate::shared_wavefronts(addresses, 0xff, 16) - 1;
    ++block.counters().shared_accesses;
    if (conflicts > 0) {
      block.counters().bank_conflicts += conflicts;
      block.counters().conflicts_by_line[static_cast<int>(where.line())] += conflicts;
    }
  }
}

void run_ldmatrix(Block& block, void** arguments, const Where& where) {
  const auto* first = static_cast<MatrixAccess*>(arguments[0]);
  check_rows(block, arguments, first->n, false, where);
  for (int m = 0; m < first->n; ++m) {
    uint16_t matrix[8][8];
    for (int i = 0; i < 8; ++i) {
      std::memcpy(matrix[i], block.shared_data() + static_cast<MatrixAccess*>(arguments[m * 8 + i])->address, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, pair = lane % 4 * 2;
      const uint32_t low = first->transposed ? matrix[pair][row] : matrix[row][pair];
      const uint32_t high = first->transposed ? matrix[pair + 1][row] : matrix[row][pair + 1];
      static_cast<MatrixAccess*>(arguments[lane])->registers[m] = low | (high << 16);
    }
  }
}

void run_stmatrix(Block& block, void** arguments, const Where& where) {
  const auto* first = static_cast<MatrixAccess*>(arguments[0]);
  check_rows(block, arguments, first->n, true, where);
  for (int m = 0; m < first->n; ++m) {
    uint16_t matrix[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      std::memcpy(&matrix[lane / 4][lane % 4 * 2], &static_cast<MatrixAccess*>(arguments[lane])->registers[m], 4);
    }
    for (int i = 0; i < 8; ++i) {
      std::memcpy(block.shared_data() + static_cast<MatrixAccess*>(arguments[m * 8 + i])->address, matrix[i], 16);
    }
  }
}

struct Mma {
  float* d;
  const uint32_t *a, *b;
};

// Lane = 4 g + t. A: a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8), each with its right neighbour.
// B: b0 (2t, g), b1 (2t + 8, g), each with the one below. D: d0 d1 (g, 2t), d2 d3 (g + 8, 2t).
void run_mma(Block& block, void** arguments, const Where&) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4 * 2;
    const auto* m = static_cast<Mma*>(arguments[lane]);
    for (int r = 0; r < 4; ++r) {
      const int row = g + r % 2 * 8, k = t + r / 2 * 8;
      a[row][k] = bf16_to_f32(static_cast<uint16_t>(m->a[r]));
      a[row][k + 1] = bf16_to_f32(static_cast<uint16_t>(m->a[r] >> 16));
    }
    for (int r = 0; r < 2; ++r) {
      b[t + r * 8][g] = bf16_to_f32(static_cast<uint16_t>(m->b[r]));
      b[t + r * 8 + 1][g] = bf16_to_f32(static_cast<uint16_t>(m->b[r] >> 16));
    }
    for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][t + i % 2] = m->d[i];
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4 * 2;
    float* out = static_cast<Mma*>(arguments[lane])->d;
    for (int i = 0; i < 4; ++i) out[i] = d[g + i / 2 * 8][t + i % 2];
  }
  ++block.counters().matrix_instructions;
  block.counters().matrix_flops += 2 * 16 * 8 * 16;
}

}  // namespace

uint32_t shuffle_bits(uint32_t value, int source_lane, const Where& where) {
  Shuffle shuffle{value, source_lane, 0};
  Block::current().warp_collective(
      "shuffle", &shuffle,
      [](Block&, void** arguments, const Where&) {
        for (int lane = 0; lane < 32; ++lane) {
          auto* s = static_cast<Shuffle*>(arguments[lane]);
          s->result = static_cast<Shuffle*>(arguments[s->source & 31])->value;
        }
      },
      where);
  return shuffle.result;
}

uint32_t ballot(bool predicate, Where where) {
  Shuffle shuffle{predicate ? 1u : 0u, 0, 0};
  Block::current().warp_collective(
      "ballot", &shuffle,
      [](Block&, void** arguments, const Where&) {
        uint32_t bits = 0;
        for (int lane = 0; lane < 32; ++lane) bits |= static_cast<Shuffle*>(arguments[lane])->value << lane;
        for (int lane = 0; lane < 32; ++lane) static_cast<Shuffle*>(arguments[lane])->result = bits;
      },
      where);
  return shuffle.result;
}

void ldmatrix_x4(uint32_t (&r)[4], Shared<uint16_t> row, Where where) {
  MatrixAccess access{r, row.address(), 4, false};
  Block::current().warp_collective("ldmatrix.x4", &access, run_ldmatrix, where);
}
void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<uint16_t> row, Where where) {
  MatrixAccess access{r, row.address(), 4, true};
  Block::current().warp_collective("ldmatrix.x4.trans", &access, run_ldmatrix, where);
}
void ldmatrix_x2(uint32_t (&r)[2], Shared<uint16_t> row, Where where) {
  MatrixAccess access{r, row.address(), 2, false};
  Block::current().warp_collective("ldmatrix.x2", &access, run_ldmatrix, where);
}
void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<uint16_t> row, Where where) {
  MatrixAccess access{r, row.address(), 2, true};
  Block::current().warp_collective("ldmatrix.x2.trans", &access, run_ldmatrix, where);
}
void stmatrix_x4(Shared<uint16_t> row, const uint32_t (&r)[4], Where where) {
  MatrixAccess access{const_cast<uint32_t*>(r), row.address(), 4, false};
  Block::current().warp_collective("stmatrix.x4", &access, run_stmatrix, where);
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where) {
  Mma mma{d, a, b};
  Block::current().warp_collective("mma.m16n8k16", &mma, run_mma, where);
}

uint32_t pack_bf16(float low, float high) {
  return f32_to_bf16(low) | (static_cast<uint32_t>(f32_to_bf16(high)) << 16);
}

}  // namespace qwen3::cuda
