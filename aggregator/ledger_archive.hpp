// aggregator/ledger_archive.hpp: texts, lists and identities in the ledger's bytes.
//
// One function per type says what is stored, for writing and for reading alike. Reading is bounded:
// lists and texts grow element by element, so a length that lies costs no more memory than there
// are bytes, and whatever is wrong throws.
#pragma once

#include <algorithm>
#include <cereal/archives/portable_binary.hpp>
#include <cstdint>
#include <rankbus/aggregator/identity.hpp>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus::ledger {

// More of anything than a bus can have in thirty days is damage.
inline constexpr std::uint64_t kMostElements = 1u << 20;
inline constexpr std::uint64_t kMaxTextBytes = 64 * 1024;

template <class Archive>
void text(Archive& archive, std::string& value, std::uint64_t most = kMaxTextBytes) {
  std::uint64_t size = value.size();
  archive(size);
  if constexpr (Archive::is_loading::value) {
    if (size > most) throw std::runtime_error("a text of " + std::to_string(size) + " bytes");
    value.clear();
    char part[4096];
    for (std::uint64_t left = size; left > 0;) {
      const std::uint64_t next = std::min<std::uint64_t>(left, sizeof part);
      archive(cereal::binary_data(part, static_cast<std::size_t>(next)));
      value.append(part, static_cast<std::size_t>(next));
      left -= next;
    }
  } else {
    archive(cereal::binary_data(value.data(), value.size()));
  }
}

template <class Archive, class Item, class Each>
void list(Archive& archive, std::vector<Item>& items, Each&& each,
          std::uint64_t most = kMostElements) {
  std::uint64_t size = items.size();
  archive(size);
  if constexpr (Archive::is_loading::value) {
    if (size > most) throw std::runtime_error("a list of " + std::to_string(size) + " elements");
    items.clear();
    for (std::uint64_t i = 0; i < size; ++i) each(items.emplace_back());
  } else {
    for (Item& item : items) each(item);
  }
}

template <class Archive>
void fields(Archive& archive, Identity& who) {
  text(archive, who.server);
  text(archive, who.server_label);
  text(archive, who.model);
  archive(who.engine, who.role, who.rank, who.lane);
}

// Reads bytes in place, without the copy that a string stream makes.
class BytesBuffer : public std::streambuf {
 public:
  explicit BytesBuffer(std::string_view bytes) {
    char* begin = const_cast<char*>(bytes.data());  // A get area; nothing is ever put.
    setg(begin, begin, begin + bytes.size());
  }
};

}  // namespace rankbus::ledger
