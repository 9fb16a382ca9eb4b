// A segment as bytes that a test may change: for what no producer of this build would write.
#pragma once

#include "bus_fixture.hpp"

namespace bus_test {

// The bytes of a segment, to be changed and put back under a new name.
class Image {
 public:
  explicit Image(std::vector<unsigned char> bytes) : bytes_(std::move(bytes)) {}

  rankbus::bus::SegmentHeader& header() { return at<rankbus::bus::SegmentHeader>(0); }
  rankbus::bus::StreamDescriptor& stream(std::uint32_t index) {
    return at<rankbus::bus::StreamDescriptor>(
        header().schema_offset + std::uint64_t{index} * header().stream_descriptor_bytes);
  }
  rankbus::bus::FieldDescriptor& field(std::uint32_t stream_index, std::uint32_t index) {
    const std::uint64_t fields = header().schema_offset + std::uint64_t{header().stream_count} *
                                                              header().stream_descriptor_bytes;
    return at<rankbus::bus::FieldDescriptor>(
        fields +
        std::uint64_t{stream(stream_index).first_field + index} * header().field_descriptor_bytes);
  }
  // The text or the bounds that a descriptor points to.
  unsigned char* schema(std::uint32_t offset) {
    return bytes_.data() + header().schema_offset + offset;
  }
  Word* published(std::uint32_t stream_index) {
    return &at<Word>(header().activity_offset + 8ull * stream_index);
  }
  Word* checkpoint(std::uint32_t stream_index, int which) {
    const std::uint64_t stride =
        (8 * (1 + std::uint64_t{stream(stream_index).checkpoint_words}) + 127) / 128 * 128;
    return &at<Word>(stream(stream_index).checkpoint_offset +
                     static_cast<std::uint64_t>(which) * stride);
  }
  Word* slot(std::uint32_t stream_index, std::uint64_t record) {
    const rankbus::bus::StreamDescriptor& of = stream(stream_index);
    return &at<Word>(of.slots_offset + record % of.capacity * of.slot_bytes);
  }
  int newest_checkpoint(std::uint32_t stream_index) {
    return checkpoint(stream_index, 1)[1] > checkpoint(stream_index, 0)[1] ? 1 : 0;
  }
  void fix_hash() {
    header().schema_hash =
        rankbus::bus::fnv1a(bytes_.data() + header().schema_offset, header().schema_bytes);
  }
  std::vector<unsigned char>& bytes() { return bytes_; }

  // Writes the image into the directory under a name of its own.
  std::string put(const std::string& bus, const char* prefix = "worker-0-0") {
    static std::uint64_t next = 0;
    ++next;
    char name[64];
    std::snprintf(name, sizeof name, "%s.%032llx", prefix, static_cast<unsigned long long>(next));
    // A name ends with the incarnation that made the file.
    if (bytes_.size() >= sizeof(rankbus::bus::SegmentHeader)) {
      for (unsigned n = 0; n < 16; ++n) {
        header().incarnation[n] =
            static_cast<std::uint8_t>(n < 8 ? 0 : next >> (8 * (15 - n)) & 0xff);
      }
    }
    std::ofstream file(bus + "/" + name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes_.data()),
               static_cast<std::streamsize>(bytes_.size()));
    file.close();
    chmod((bus + "/" + name).c_str(), 0600);
    return name;
  }

 private:
  template <class T>
  T& at(std::uint64_t offset) {
    return *reinterpret_cast<T*>(bytes_.data() + offset);
  }
  std::vector<unsigned char> bytes_;
};

// The bytes of a segment's file; empty if there is none.
inline std::vector<unsigned char> bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace bus_test
