#pragma once

// The last of several blocks to finish its part of something goes on with all parts.

#include "cuda/ptx/ptx.h"

namespace qwen3::cuda {

// Whether this block is the last of n to come here: then it sees what the others wrote, and the counter is 0 again. By
// all threads that share sync(), thread 0 among them. answer: a word of shared memory; what was there is gone.
template <class Sync>
QWEN3_DEVICE bool last_to_arrive(int32_t* counter, int n, Shared<int32_t> answer, Sync sync) {
  sync();  // all have written, and read what was in the word
  if (thread_index().x == 0) {
    thread_fence();  // that and what the barrier brought: a fence counts for a later write of its own thread
    const bool last = atomic_add(counter, 1) == n - 1;
    thread_fence();  // what the others wrote
    if (last) store(counter, 0);
    answer.store(0, last ? 1 : 0);
  }
  sync();
  const bool last = answer.load() != 0;
  sync();  // the word is free again
  return last;
}

}  // namespace qwen3::cuda
