#include "core/status.h"

namespace qwen3 {

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kBadModelFile:
      return "BAD_MODEL_FILE";
    case ErrorCode::kUnsupported:
      return "UNSUPPORTED";
    case ErrorCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case ErrorCode::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case ErrorCode::kContextOverflow:
      return "CONTEXT_OVERFLOW";
    case ErrorCode::kAborted:
      return "ABORTED";
    case ErrorCode::kBusy:
      return "BUSY";
    case ErrorCode::kClosed:
      return "CLOSED";
    case ErrorCode::kInternal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace qwen3
