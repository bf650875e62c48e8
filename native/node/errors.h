#pragma once

#include <napi.h>

#include <exception>
#include <new>
#include <string>

#include "core/status.h"

namespace qwen3::node {

// A failure in the form in which it waits to cross into JavaScript: a code of lib/errors.ts, a sentence, the part at
// fault.
struct Failure {
  std::string code;
  std::string message;
  std::string subject;
};

// What a caught exception means to the caller: qwen3::Error keeps its code, std::bad_alloc is OUT_OF_MEMORY, anything
// else is INTERNAL. Never throws.
Failure describe(std::exception_ptr exception);

// An Error object with `code` and, when there is one, `subject`. lib/native.ts turns it into a Qwen3Error.
Napi::Error to_js_error(Napi::Env env, const Failure& failure);

// The one error translator: every function that JavaScript calls runs its body in here.
template <typename Body>
auto translated(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, describe(std::current_exception()));
  }
}

}  // namespace qwen3::node
