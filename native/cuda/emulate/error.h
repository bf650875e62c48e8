#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

namespace qwen3::cuda::emulate {

using Where = std::source_location;

// What a kernel did wrong. Every one is a defect on real hardware too, on some schedule if not on each.
enum class Fault : uint8_t {
  kGlobalBounds,      // an access outside every allocation
  kGlobalAlignment,   // an address that is not a multiple of the access's size
  kSharedBounds,      // outside the launch's shared memory
  kSharedAlignment,   // also tensor copies and descriptors that need 16, 128 or 1,024 bytes
  kUninitialised,     // a read of shared memory that nobody wrote
  kRace,              // two accesses, one a write, without a happens-before between them
  kGlobalRace,        // the same in global memory, between threads or blocks of one launch
  kDependency,        // touched before griddepcontrol.wait what a kernel that may still run writes or reads
  kProxyFence,        // the async proxy reads what the generic proxy wrote without fence.proxy.async
  kRegistersInUse,    // wgmma registers touched between issue and wait, or modified without wgmma.fence
  kBarrierCount,      // a barrier whose participants disagree, or with a count that cannot be met
  kMbarrier,          // not initialised, too many arrivals, transaction count out of range
  kDivergence,        // lanes of one warp at different collective instructions
  kDeadlock,          // nobody can run
  kUnfinishedCopies,  // asynchronous work not waited for when the thread ends
  kDescriptor,        // fields that the instruction does not accept
  kLaunch,            // shared memory, threads or grid beyond the device's limits
};

const char* fault_name(Fault fault);

// Thrown by a launch; the message names kernel, block, thread, file and line.
class EmulationError : public std::runtime_error {
 public:
  EmulationError(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}
  Fault fault() const { return fault_; }

 private:
  Fault fault_;
};

}  // namespace qwen3::cuda::emulate
