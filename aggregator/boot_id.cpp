#include <cstdlib>
#include <fstream>
#include <rankbus/aggregator/boot_id.hpp>
#include <string>

namespace rankbus {

BootId this_boot() {
  static const BootId id = [] {
    BootId bytes = {};
    std::ifstream file("/proc/sys/kernel/random/boot_id");
    std::string text;
    std::getline(file, text);
    std::erase(text, '-');
    for (std::size_t i = 0; i < bytes.size() && 2 * i + 1 < text.size(); ++i) {
      bytes[i] =
          static_cast<std::uint8_t>(std::strtoul(text.substr(2 * i, 2).c_str(), nullptr, 16));
    }
    return bytes;
  }();
  return id;
}

}  // namespace rankbus
