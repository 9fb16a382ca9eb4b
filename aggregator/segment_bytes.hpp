// aggregator/segment_bytes.hpp: the file of a segment, and the only way to its bytes.
//
// Whoever may write the file may cut it or punch holes into it at any moment. Bytes are therefore
// got in one of two ways, neither of which can kill the reader: from a mapping behind the guard
// (the aggregator, which polls all day), or as private copies made by pread (tools and libraries,
// which must not touch the signals of the program that they are in). Either way what was read is
// worth something only after `examine` has said that the file still had all its bytes: copy, then
// check, then use.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <rankbus/aggregator/mapping_guard.hpp>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/bus/slot.hpp>
#include <string>
#include <vector>

namespace boost::interprocess {
class mapped_region;
}

namespace rankbus {

enum class ByteAccess : std::uint8_t {
  copied,  // By pread; safe in any process.
  mapped,  // Where MappingGuard is installed; else copied all the same.
};

// What tells a file from every other that bears its name, before or after.
struct FileId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const FileId&) const = default;
};

// What became of a file since it was opened.
enum class FileState : std::uint8_t { whole, truncated, has_holes };

class SegmentBytes {
 public:
  // Opens `name` in the directory and judges it by what the kernel says of it. Of what may be
  // different in a second (no descriptor, no memory, no such name any more) the error says so.
  static Result<std::unique_ptr<SegmentBytes>> open_untrusted(
      int directory, const std::string& name, ByteAccess access,
      const bus::AllowedOwners& allowed = {});
  ~SegmentBytes();
  SegmentBytes(const SegmentBytes&) = delete;
  SegmentBytes& operator=(const SegmentBytes&) = delete;

  std::uint64_t file_bytes() const { return file_bytes_; }
  FileId file_id() const { return id_; }
  // Whether the process that made the file still has it mapped.
  bool writer_is_alive() const;
  // Asks the kernel. What is longer than it was is whole: nobody reads what came later.
  FileState examine();
  // Whether the name still leads to this file; true as well if nothing bears the name any more.
  bool has_its_name(int directory, const std::string& name) const;

  // Copies by pread; false if the file ends before.
  bool copy_untrusted(std::uint64_t offset, void* to, std::size_t bytes);
  // A count that the writer published; what is read afterwards is at least as new.
  bus::Word load_published_untrusted(std::uint64_t offset);
  bus::Word load_interned_untrusted(std::uint64_t offset);
  // The reader's half of the slot protocol, on either kind of bytes.
  bus::SlotOutcome read_slot_untrusted(std::uint64_t offset, bus::Word record, bus::Word capacity,
                                       bus::Word* copy, std::size_t words, bool writer_is_dead);
  bool read_checkpoint_untrusted(std::uint64_t offset, bus::Word* body, std::size_t words);

 private:
  // Bytes that were copied three times, one copy after the other was complete. The protocol's first
  // look at a sequence word, its fields and its second look each get a copy of their own, which
  // orders them as the protocol wants it, whatever order a single copy is made in.
  struct Copies {
    std::uint64_t offset = 0;
    std::size_t words = 0;  // Of one copy.
    std::vector<bus::Word> three;
  };

  SegmentBytes() = default;
  std::string judge_untrusted(int directory, const bus::AllowedOwners& allowed);
  std::optional<Error> map_untrusted();
  void take_copies(Copies& copies, std::uint64_t offset, std::size_t words);
  const bus::Word* mapped_word(std::uint64_t offset) const;
  bool is_mapped() const { return base_ != nullptr; }

  int fd_ = -1;
  std::uint64_t file_bytes_ = 0;
  FileId id_;
  bool was_cut_ = false;  // Seen once, true for ever: bytes may come back, what they were does not.
  std::unique_ptr<boost::interprocess::mapped_region> region_;
  std::unique_ptr<GuardedRange> range_;
  const unsigned char* base_ = nullptr;
  Copies window_;  // Slots, as they were some time after the last look at a published count.
  Copies body_;
};

}  // namespace rankbus
