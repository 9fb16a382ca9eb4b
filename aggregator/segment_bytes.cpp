#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <rankbus/aggregator/segment_bytes.hpp>

namespace rankbus {
namespace {

namespace ipc = boost::interprocess;
using bus::SlotOutcome;
using bus::Word;

// Slots are copied this many bytes at a time: three copies of it stay in the cache.
constexpr std::size_t kWindowWords = 64 * 1024 / sizeof(Word);

// Errors that a later attempt may not meet again; any other is a property of the file.
bool is_transient(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR ||
         error == EAGAIN || error == ENOENT;
}

Error error_of(int error, const std::string& what) {
  return Error{what + std::strerror(error), is_transient(error)};
}

// What Boost maps, by a descriptor that is open. A path to it would need /proc, and a container may
// have none.
class OpenFile {
 public:
  explicit OpenFile(int fd) : fd_(fd) {}
  ipc::mapping_handle_t get_mapping_handle() const { return {fd_, false}; }
  ipc::mode_t get_mode() const { return ipc::read_only; }

 private:
  int fd_;
};

// The protocol of bus/slot.hpp over three copies that lie one behind the other.
struct CopiedMemory {
  std::size_t words;
  Word load_word(const Word* word) const { return word[0]; }
  Word load_field(const Word* word) const { return word[words]; }
  void fence_before_recheck() const {}
  Word load_word_again(const Word* word) const { return word[2 * words]; }
};

}  // namespace

SegmentBytes::~SegmentBytes() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::unique_ptr<SegmentBytes>> SegmentBytes::open_untrusted(
    int directory, const std::string& name, ByteAccess access, const bus::AllowedOwners& allowed) {
  std::unique_ptr<SegmentBytes> bytes(new SegmentBytes);
  bytes->fd_ = openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (bytes->fd_ < 0) return error_of(errno, "");
  if (std::string why = bytes->judge_untrusted(directory, allowed); !why.empty()) return Error{why};
  if (access == ByteAccess::mapped && MappingGuard::is_installed()) {
    if (auto error = bytes->map_untrusted()) return *error;
  }
  return bytes;
}

// What a file must be before a byte of it is read; the directory decides who may put one there,
// these checks decide which of them is a segment.
std::string SegmentBytes::judge_untrusted(int directory, const bus::AllowedOwners& allowed) {
  struct stat status {};
  if (fstat(fd_, &status) != 0) return std::string("cannot be examined: ") + std::strerror(errno);
  if (!S_ISREG(status.st_mode)) return "not a regular file";
  // In a group's directory its members are trusted to write, as the setgid bit made the files
  // theirs.
  struct stat parent {};
  const bool of_group = fstat(directory, &parent) == 0 && bus::is_group_directory(parent) &&
                        parent.st_gid == status.st_gid;
  if (status.st_uid != geteuid() && status.st_uid != 0 && geteuid() != 0 && !of_group &&
      !allowed.include(status.st_uid)) {
    return "owned by uid " + std::to_string(status.st_uid) + ", expected " +
           std::to_string(geteuid()) + ", root or one of --allow-uid";
  }
  if ((status.st_mode & S_IWOTH) != 0) return "every user may write it";
  if (status.st_nlink > 1) return "it has several names";
  file_bytes_ = static_cast<std::uint64_t>(status.st_size);
  id_ = {status.st_dev, status.st_ino};
  if (file_bytes_ < sizeof(bus::SegmentHeader) || file_bytes_ > bus::kMaxSegmentBytes) {
    return std::to_string(file_bytes_) + " bytes, expected " +
           std::to_string(sizeof(bus::SegmentHeader)) + " to " +
           std::to_string(bus::kMaxSegmentBytes);
  }
  if (static_cast<std::uint64_t>(status.st_blocks) * 512 < file_bytes_) return "it has holes";
  return {};
}

std::optional<Error> SegmentBytes::map_untrusted() {
  try {
    const OpenFile file(fd_);
    region_ = std::make_unique<ipc::mapped_region>(file, ipc::read_only, 0,
                                                   static_cast<std::size_t>(file_bytes_));
  } catch (const ipc::interprocess_exception& failure) {
    return error_of(failure.get_native_error(), "cannot be mapped: ");
  }
  range_ = std::make_unique<GuardedRange>(region_->get_address(), file_bytes_);
  // With a full table of mappings this one would be deadly; it is read by copies.
  if (range_->is_guarded()) base_ = static_cast<const unsigned char*>(region_->get_address());
  return std::nullopt;
}

bool SegmentBytes::writer_is_alive() const {
  return bus::write_lock_is_held(fd_);
}

FileState SegmentBytes::examine() {
  struct stat status {};
  was_cut_ = was_cut_ || (range_ != nullptr && range_->is_cut()) || fstat(fd_, &status) != 0 ||
             static_cast<std::uint64_t>(status.st_size) < file_bytes_;
  if (was_cut_) return FileState::truncated;
  return static_cast<std::uint64_t>(status.st_blocks) * 512 < file_bytes_ ? FileState::has_holes
                                                                          : FileState::whole;
}

bool SegmentBytes::has_its_name(int directory, const std::string& name) const {
  struct stat status {};
  if (fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT;
  return FileId{status.st_dev, status.st_ino} == id_;
}

bool SegmentBytes::copy_untrusted(std::uint64_t offset, void* to, std::size_t bytes) {
  auto* next = static_cast<unsigned char*>(to);
  while (bytes > 0) {
    const ssize_t got = pread(fd_, next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      was_cut_ = true;
      std::memset(next, 0, bytes);
      return false;
    }
    next += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

const Word* SegmentBytes::mapped_word(std::uint64_t offset) const {
  return reinterpret_cast<const Word*>(base_ + offset);
}

void SegmentBytes::take_copies(Copies& copies, std::uint64_t offset, std::size_t words) {
  copies.offset = offset;
  copies.words = words;
  copies.three.resize(3 * words);
  for (std::size_t copy = 0; copy < 3; ++copy) {
    copy_untrusted(offset, copies.three.data() + copy * words, words * sizeof(Word));
  }
}

Word SegmentBytes::load_published_untrusted(std::uint64_t offset) {
  const bus::ProcessMemory memory;
  if (is_mapped()) return memory.load_published(mapped_word(offset));
  window_.words = 0;
  Word word = 0;
  copy_untrusted(offset, &word, sizeof word);
  return word;
}

Word SegmentBytes::load_interned_untrusted(std::uint64_t offset) {
  const bus::ProcessMemory memory;
  if (is_mapped()) return memory.load_interned(mapped_word(offset));
  Word word = 0;
  copy_untrusted(offset, &word, sizeof word);
  return word;
}

SlotOutcome SegmentBytes::read_slot_untrusted(std::uint64_t offset, Word record, Word capacity,
                                              Word* copy, std::size_t words, bool writer_is_dead) {
  if (is_mapped()) {
    const bus::ProcessMemory memory;
    return bus::read_slot(memory, mapped_word(offset), record, capacity, copy, words,
                          writer_is_dead);
  }
  const std::uint64_t end = offset + (1 + words) * sizeof(Word);
  if (offset < window_.offset || end > window_.offset + window_.words * sizeof(Word)) {
    const std::size_t left = (file_bytes_ - offset) / sizeof(Word);
    take_copies(window_, offset, std::min(left, std::max(kWindowWords, 1 + words)));
  }
  const CopiedMemory memory{window_.words};
  return bus::read_slot(memory, window_.three.data() + (offset - window_.offset) / sizeof(Word),
                        record, capacity, copy, words, writer_is_dead);
}

bool SegmentBytes::read_checkpoint_untrusted(std::uint64_t offset, Word* body, std::size_t words) {
  if (is_mapped()) {
    const bus::ProcessMemory memory;
    return bus::read_checkpoint(memory, mapped_word(offset), body, words);
  }
  take_copies(body_, offset, 1 + words);
  const CopiedMemory memory{body_.words};
  return bus::read_checkpoint(memory, body_.three.data(), body, words);
}

}  // namespace rankbus
