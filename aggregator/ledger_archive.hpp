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

// Reading refuses what is too large; so does writing, by an archive that says that it is bounded.
template <class Archive>
constexpr bool is_bounded() {
  if constexpr (requires { Archive::kIsBounded; }) return Archive::kIsBounded;
  return Archive::is_loading::value;
}

template <class Archive>
void text(Archive& archive, std::string& value, std::uint64_t most = kMaxTextBytes) {
  std::uint64_t size = value.size();
  archive(size);
  if (is_bounded<Archive>() && size > most)
    throw std::runtime_error("a text of " + std::to_string(size) + " bytes");
  if constexpr (Archive::is_loading::value) {
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
  if (is_bounded<Archive>() && size > most)
    throw std::runtime_error("a list of " + std::to_string(size) + " elements");
  if constexpr (Archive::is_loading::value) {
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

// Appends to a string, without the copy at the end that a string stream makes.
class StringBuffer : public std::streambuf {
 public:
  explicit StringBuffer(std::string& bytes) : bytes_(bytes) {}

 protected:
  std::streamsize xsputn(const char* from, std::streamsize count) override {
    bytes_.append(from, static_cast<std::size_t>(count));
    return count;
  }
  int_type overflow(int_type character) override {
    bytes_.push_back(traits_type::to_char_type(character));
    return character;
  }

 private:
  std::string& bytes_;
};

// Reads bytes in place, without the copy that a string stream makes.
class BytesBuffer : public std::streambuf {
 public:
  explicit BytesBuffer(std::string_view bytes) {
    char* begin = const_cast<char*>(bytes.data());  // A get area; nothing is ever put.
    setg(begin, begin, begin + bytes.size());
  }
};

}  // namespace rankbus::ledger
