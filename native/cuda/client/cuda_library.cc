#include "cuda/client/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

namespace qwen3 {
namespace {

// The folder of the shared object (the addon) or program that holds this function.
std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&own_folder), &info) || !info.dli_fname) return {};
  const std::string file = info.dli_fname;
  const size_t slash = file.find_last_of('/');
  return slash == std::string::npos ? std::string(".") : file.substr(0, slash);
}

std::string library_path() {
  if (const char* chosen = std::getenv("QWEN3_CUDA_LIBRARY")) return chosen;
  // Beside the addon, or where `qwen3 build --cuda` and `npm run build:cuda` leave it: addons are two folders deep in
  // the package (build/Release, prebuilds/linux-x64).
  for (const char* place : {"/", "/../../build-cuda/"}) {
    const std::string file = own_folder() + place + "libqwen3_cuda.so";
    if (access(file.c_str(), R_OK) == 0) return file;
  }
  return "libqwen3_cuda.so";
}

}  // namespace

std::shared_ptr<const CudaLibrary> CudaLibrary::open() {
  const std::string path = library_path();
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::kUnsupported, why, "device"); };
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* reason = dlerror();
    refuse("the CUDA library of qwen3 cannot be opened: " + std::string(reason ? reason : path));
  }
  const auto entry = reinterpret_cast<decltype(&qwen3_cuda_library)>(dlsym(handle, "qwen3_cuda_library"));
  const qwen3_cuda_table* table = entry ? entry(QWEN3_CUDA_ABI_VERSION) : nullptr;
  if (!table) {
    // Version 0 asks what it does speak; the first library could not be asked.
    const qwen3_cuda_table* other = entry ? entry(0) : nullptr;
    const std::string theirs = other
                                   ? "version " + std::to_string(other->abi_version) + " (qwen3 " + other->version + ")"
                                   : "an older version";
    dlclose(handle);
    refuse(path + " speaks " + theirs + " of the CUDA interface, this addon version " +
           std::to_string(QWEN3_CUDA_ABI_VERSION) + "; install the same version of both");
  }
  return std::make_shared<CudaLibrary>(table, path);
}

}  // namespace qwen3
