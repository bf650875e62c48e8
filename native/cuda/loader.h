#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <mutex>

#include "cuda/runtime.h"

namespace qwen3::cuda {

// The way of weights to a device: a ring of pinned pieces, filled by several threads and copied on one stream, so that
// reading, converting and several copies go on at once. Opened when it is first used, kept as long as its backend.
class Loader {
 public:
  // One thread copies about 10 GB/s, a link of PCIe 5 takes 50 and more. A copy below kWorthBytes is mostly latency.
  static constexpr size_t kPieceBytes = 4 << 20, kWorthBytes = 512 << 10;
  static constexpr int kThreads = 8;

  explicit Loader(int device) : device_(device) {}
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  Stream stream();  // also for the small tables of executables
  // Fills and copies n pieces, `fill(i, to)` returning how many bytes of piece i belong at `target(i)`; at most
  // kPieceBytes. fill is called from several threads. Copies may still run when this returns: finish(). Throws what
  // fill throws.
  void send(int64_t n, const std::function<size_t(int64_t i, std::byte* to)>& fill,
            const std::function<std::byte*(int64_t i)>& target);
  void finish();  // waits for all copies
  // After the device was reset nothing that this holds exists any more.
  void abandon();

 private:
  static constexpr int kPieces = 16;
  struct Piece {
    PinnedBuffer memory;
    OwnedEvent copied;
    bool used = false;
  };
  void open();
  void send_one(int64_t i, Piece& piece, const std::function<size_t(int64_t, std::byte*)>& fill,
                const std::function<std::byte*(int64_t)>& target);

  int device_;
  Stream stream_ = nullptr;
  bool open_ = false;
  std::array<Piece, kPieces> pieces_;
  int next_ = 0;          // the piece to fill next, across calls
  std::mutex on_stream_;  // one thread at a time copies and records
};

}  // namespace qwen3::cuda
