#include "node/fields.h"

#include <cmath>
#include <limits>

#include "core/status.h"

namespace qwen3::node {
namespace {

constexpr double kMaxSafeInteger = 9007199254740992.0;  // 2^53

[[noreturn]] void mismatch(const char* name, const char* expected) {
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + ": expected " + expected, name);
}

template <typename T>
std::vector<T> copy(const Napi::TypedArray& array) {
  const auto* begin = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  const T* values = reinterpret_cast<const T*>(begin);
  return std::vector<T>(values, values + array.ElementLength());
}

}  // namespace

Fields::Fields(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) mismatch(what, "an object");
  object_ = value.As<Napi::Object>();
}

Napi::Value Fields::get(const char* name) const {
  return object_.Get(name);
}

bool Fields::has(const char* name) const {
  const Napi::Value value = get(name);
  return !value.IsUndefined() && !value.IsNull();
}

bool Fields::boolean(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsBoolean()) mismatch(name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

double Fields::number(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsNumber()) mismatch(name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t Fields::integer(const char* name) const {
  return integer_from_js(get(name), name);
}

int32_t Fields::integer32(const char* name) const {
  const int64_t value = integer(name);
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
    mismatch(name, "an integer of at most 32 bits");
  }
  return static_cast<int32_t>(value);
}

uint64_t Fields::unsigned64(const char* name) const {
  const Napi::Value value = get(name);
  bool lossless = false;
  if (!value.IsBigInt()) mismatch(name, "a bigint");
  const uint64_t result = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) mismatch(name, "a bigint in [0, 2^64)");
  return result;
}

std::string Fields::string(const char* name) const {
  return string_from_js(get(name), name);
}

Fields Fields::object(const char* name) const {
  return Fields(get(name), name);
}

Napi::Array Fields::array(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsArray()) mismatch(name, "an array");
  return value.As<Napi::Array>();
}

Napi::TypedArray Fields::typed_array(const char* name, napi_typedarray_type type, const char* expected) const {
  const Napi::Value value = get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) mismatch(name, expected);
  return value.As<Napi::TypedArray>();
}

std::vector<int32_t> Fields::int32_array(const char* name) const {
  return copy<int32_t>(typed_array(name, napi_int32_array, "an Int32Array"));
}

std::vector<uint32_t> Fields::uint32_array(const char* name) const {
  return copy<uint32_t>(typed_array(name, napi_uint32_array, "a Uint32Array"));
}

std::vector<float> Fields::float32_array(const char* name) const {
  return copy<float>(typed_array(name, napi_float32_array, "a Float32Array"));
}

std::vector<double> Fields::float64_array(const char* name) const {
  return copy<double>(typed_array(name, napi_float64_array, "a Float64Array"));
}

std::string Fields::bytes(const char* name) const {
  return bytes_from_js(get(name), name);
}

int64_t integer_from_js(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) mismatch(name, "an integer");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(std::fabs(number) <= kMaxSafeInteger) || number != std::trunc(number))
    mismatch(name, "an integer of at most 53 bits");
  return static_cast<int64_t>(number);
}

std::string string_from_js(const Napi::Value& value, const char* name) {
  if (!value.IsString()) mismatch(name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

std::string bytes_from_js(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    mismatch(name, "a Uint8Array");
  }
  const auto array = value.As<Napi::Uint8Array>();
  return std::string(reinterpret_cast<const char*>(array.Data()), array.ByteLength());
}

}  // namespace qwen3::node
