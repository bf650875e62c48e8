#include "cuda/loader.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <thread>
#include <vector>

namespace qwen3::cuda {

Loader::~Loader() {
  if (!open_) return;
  try {
    synchronize(stream_);
  } catch (const std::exception&) {  // the device is lost; its memory is not read any more
  }
  destroy_stream(stream_);
}

void Loader::open() {
  if (open_) return;
  for (Piece& piece : pieces_) {
    if (!piece.memory.bytes()) piece.memory = PinnedBuffer(kPieceBytes);
    if (!piece.copied.get()) piece.copied = OwnedEvent(create_event());
  }
  stream_ = create_stream();
  open_ = true;
}

Stream Loader::stream() {
  open();
  return stream_;
}

void Loader::send_one(int64_t i, Piece& piece, const std::function<size_t(int64_t, std::byte*)>& fill,
                      const std::function<std::byte*(int64_t)>& target) {
  if (piece.used) wait(piece.copied.get());
  const size_t bytes = fill(i, piece.memory.as<std::byte>());
  const std::lock_guard lock(on_stream_);
  copy_to_device(stream_, target(i), piece.memory.as<void>(), bytes);
  record(piece.copied.get(), stream_);
  piece.used = true;
}

// Each thread takes the next piece. Its memory is free when the piece kPieces before was sent, which another thread may
// still be filling; that one waits for nobody behind it.
void Loader::send(int64_t n, const std::function<size_t(int64_t, std::byte*)>& fill,
                  const std::function<std::byte*(int64_t)>& target) {
  open();
  const auto threads = static_cast<int>(
      std::clamp<int64_t>(std::min<int64_t>(n / 2, std::max(1u, std::thread::hardware_concurrency())), 1, kThreads));
  const int first = next_;
  next_ = static_cast<int>((first + n) % kPieces);
  std::atomic<bool> stop{false};
  std::atomic<int64_t> taken{0};
  std::exception_ptr error;
  std::mutex error_lock;
  std::vector<std::atomic<bool>> sent(static_cast<size_t>(n));
  const auto work = [&] {
    try {
      use_device(device_);  // each thread has its own
      for (int64_t i = taken++; i < n && !stop; i = taken++) {
        if (i >= kPieces) sent[static_cast<size_t>(i - kPieces)].wait(false);
        if (stop) break;
        send_one(i, pieces_[static_cast<size_t>((first + i) % kPieces)], fill, target);
        sent[static_cast<size_t>(i)] = true;
        sent[static_cast<size_t>(i)].notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(error_lock);
      if (!error) error = std::current_exception();
      stop = true;
      for (auto& flag : sent) flag = true, flag.notify_all();
    }
  };
  std::vector<std::thread> workers;
  for (int t = 1; t < threads; ++t) {
    try {
      workers.emplace_back(work);
    } catch (const std::exception&) {  // the system has no thread to give
      break;
    }
  }
  work();
  for (std::thread& worker : workers) worker.join();
  if (error) std::rethrow_exception(error);
}

void Loader::finish() {
  if (open_) synchronize(stream_);
}

void Loader::abandon() {
  // Handles of a lost context: giving them back would be an error, or hit somebody else's.
  for (Piece& piece : pieces_) piece.memory.forget(), piece.copied.forget(), piece.used = false;
  stream_ = nullptr, open_ = false;
}

}  // namespace qwen3::cuda
