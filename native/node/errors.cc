#include "node/errors.h"

namespace qwen3::node {

Failure describe(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return {error_code_name(error.code()), error.what(), error.subject()};
  } catch (const std::bad_alloc&) {
    return {error_code_name(ErrorCode::kOutOfMemory),
            "memory could not be allocated; free some, or load a smaller model, context or KV cache", ""};
  } catch (const std::exception& error) {
    return {error_code_name(ErrorCode::kInternal), error.what(), ""};
  } catch (...) {
    return {error_code_name(ErrorCode::kInternal), "a native exception of unknown type was thrown", ""};
  }
}

Napi::Error to_js_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  if (!failure.subject.empty()) error.Set("subject", Napi::String::New(env, failure.subject));
  return error;
}

}  // namespace qwen3::node
