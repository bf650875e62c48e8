#include "core/memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/status.h"

namespace qwen3 {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number in a one-number file; -1 when there is none ("max", no such file).
int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (!(file >> value)) return -1;
  return value > static_cast<uint64_t>(kUnlimited) ? kUnlimited : static_cast<int64_t>(value);
}

// The value of "key 123" (memory.stat) or "key: 123 kB" (meminfo), in the file's unit; -1 when absent.
int64_t read_field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return -1;
}

// What one control group leaves. File cache counts as used there, yet is given back under pressure.
int64_t group_available(const std::string& folder, const char* limit_file, const char* usage_file,
                        const char* cache_key) {
  const int64_t limit = read_number(folder + limit_file);
  const int64_t used = read_number(folder + usage_file);
  if (limit < 0 || used < 0) return kUnlimited;
  const int64_t cache = std::max<int64_t>(0, read_field(folder + "memory.stat", cache_key));
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

// The least over a group and all its ancestors; inside a container the path may not exist below the mount, and then the
// mount's own files are the container's.
int64_t tree_available(const std::string& mount, std::string path, const char* limit_file, const char* usage_file,
                       const char* cache_key) {
  int64_t least = group_available(mount + "/", limit_file, usage_file, cache_key);
  while (path.size() > 1) {
    least = std::min(least, group_available(mount + path + "/", limit_file, usage_file, cache_key));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return least;
}

int64_t groups_available(const std::string& root) {
  int64_t least = kUnlimited;
  std::ifstream file(root + "proc/self/cgroup");  // "hierarchy:controllers:path"
  std::string line;
  while (std::getline(file, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least,
                       tree_available(root + "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file"));
    } else if (controllers.find(",memory,") != std::string::npos) {
      least = std::min(least, tree_available(root + "sys/fs/cgroup/memory", path, "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_inactive_file"));
    }
  }
  return least;
}

}  // namespace

int64_t available_memory(const std::string& root) {
  const int64_t kib = read_field(root + "proc/meminfo", "MemAvailable:");
  const int64_t machine = kib < 0 ? kUnlimited : kib * 1024;
  return std::min(machine, groups_available(root));
}

void require_memory(int64_t bytes, const std::string& what) {
  require_memory(bytes, what, available_memory());
}

void require_memory(int64_t bytes, const std::string& what, int64_t available) {
  if (bytes <= available) return;
  constexpr int64_t kMiB = int64_t{1} << 20;
  throw Error(ErrorCode::kOutOfMemory, what + " needs " + std::to_string(bytes / kMiB) + " MiB and " +
                                           std::to_string(available / kMiB) +
                                           " MiB are available; use a smaller model, a smaller format or free memory");
}

}  // namespace qwen3
