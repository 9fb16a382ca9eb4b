// What a running process, and a bus, take of the machine: for tests of what must not grow.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace bus_test {

struct Footprint {
  std::uint64_t resident_bytes = 0;
  std::uint64_t descriptors = 0;
  std::uint64_t mapped_segments = 0;

  static Footprint of(pid_t pid) {
    const std::string proc = "/proc/" + std::to_string(pid);
    Footprint result;
    std::ifstream status(proc + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("VmRSS:", 0) == 0) result.resident_bytes = std::stoull(line.substr(6)) * 1024;
    }
    std::error_code gone;
    for (auto at = std::filesystem::directory_iterator(proc + "/fd", gone);
         at != std::filesystem::directory_iterator(); at.increment(gone)) {
      ++result.descriptors;
    }
    std::ifstream maps(proc + "/maps");
    for (std::string line; std::getline(maps, line);)
      result.mapped_segments += line.find("/dev/shm/") != std::string::npos ? 1 : 0;
    return result;
  }
};

// Of the files of a bus, but for the ledger's.
inline std::uint64_t bus_bytes(const std::string& bus) {
  std::uint64_t bytes = 0;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator(bus, gone)) {
    if (entry.path().filename().string().rfind(".ledger", 0) == 0) continue;
    const std::uint64_t size = entry.file_size(gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

}  // namespace bus_test
