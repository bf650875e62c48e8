#pragma once

// The order in which blocks take the tiles of a matrix product.

#include "cuda/ptx/ptx.h"

namespace qwen3::cuda {

// Tiles in bands of `band` row tiles, column by column within a band. The tiles that run side by side are then about
// `band` rows by (blocks / band) columns of tiles, and what they read from memory together is least where that
// is a square: of `blocks` tiles of m x n outputs at a time band = sqrt(blocks n / m). Column after column over all
// rows, 64 row tiles would read twice as much.
struct TileGrid {
  int rows, columns, band;
  QWEN3_DEVICE int count() const { return rows * columns; }
  QWEN3_DEVICE void locate(int tile, int& row, int& column) const {
    const int first = tile / (band * columns) * band;
    const int height = rows - first < band ? rows - first : band;
    const int inside = tile - first * columns;
    row = first + inside % height, column = inside / height;
  }
};

}  // namespace qwen3::cuda
