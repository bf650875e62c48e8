#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace qwen3 {

// The codes that native code can raise. They are a subset of those in lib/errors.ts and cross the boundary by name.
enum class ErrorCode : uint8_t {
  kBadModelFile,
  kUnsupported,
  kInvalidArgument,
  kOutOfMemory,
  kContextOverflow,
  kAborted,
  kBusy,
  kClosed,
  kInternal,
};

// "BAD_MODEL_FILE", "UNSUPPORTED", ...: the spelling of lib/errors.ts.
const char* error_code_name(ErrorCode code);

// The one exception of the engine. `message` is a sentence that says what to do; `subject` is the path, field or option
// at fault (may be empty). Never crosses a C boundary or a thread's top frame.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string subject = {})
      : std::runtime_error(message), code_(code), subject_(std::move(subject)) {}
  ErrorCode code() const { return code_; }
  const std::string& subject() const { return subject_; }

 private:
  ErrorCode code_;
  std::string subject_;
};

}  // namespace qwen3
