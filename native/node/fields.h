#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace qwen3::node {

// Reads the fields of one JavaScript object. Every method throws Error(kInvalidArgument, field's name) when the field
// is missing or of another type, and integers when they are fractions or do not fit.
class Fields {
 public:
  Fields(const Napi::Value& value, const char* what);

  bool has(const char* name) const;
  bool boolean(const char* name) const;
  double number(const char* name) const;
  int64_t integer(const char* name) const;  // |value| <= 2^53
  int32_t integer32(const char* name) const;
  uint64_t unsigned64(const char* name) const;  // a BigInt in [0, 2^64)
  std::string string(const char* name) const;
  Fields object(const char* name) const;
  Napi::Array array(const char* name) const;
  std::vector<int32_t> int32_array(const char* name) const;
  std::vector<uint32_t> uint32_array(const char* name) const;
  std::vector<float> float32_array(const char* name) const;
  std::vector<double> float64_array(const char* name) const;
  std::string bytes(const char* name) const;  // a Uint8Array

 private:
  Napi::Value get(const char* name) const;
  Napi::TypedArray typed_array(const char* name, napi_typedarray_type type, const char* expected) const;

  Napi::Object object_;
};

// Of a number outside an object, e.g. an argument: throws as above.
int64_t integer_from_js(const Napi::Value& value, const char* name);
std::string bytes_from_js(const Napi::Value& value, const char* name);
std::string string_from_js(const Napi::Value& value, const char* name);

}  // namespace qwen3::node
