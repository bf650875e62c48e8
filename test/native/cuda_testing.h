#pragma once

// What the tests of the CUDA emulation share.

#include <cstdio>
#include <string>

#include "core/dtype.h"
#include "cuda/emulate/global_memory.h"
#include "cuda/ptx/launch.h"
#include "testing.h"

namespace qwen3::testing {

// Runs `body` with asynchronous work all early, all late, and at `random_schedules` random points; thread and block
// order differ each time.
template <class Body>
void on_every_schedule(Body body, int random_schedules = 3) {
  auto& schedule = cuda::emulate::Session::current().schedule;
  uint64_t n = seed() * 1000;
  for (int i = 0; i < 2 + random_schedules; ++i) {
    schedule.completion = i == 0   ? cuda::emulate::Completion::kEarly
                          : i == 1 ? cuda::emulate::Completion::kLate
                                   : cuda::emulate::Completion::kRandom;
    schedule.seed = ++n;
    try {
      body();
    } catch (const cuda::emulate::EmulationError& error) {
      CHECK_MSG(false, std::string(error.what()) + " (schedule " + std::to_string(i) + ")");
    }
  }
}

}  // namespace qwen3::testing
