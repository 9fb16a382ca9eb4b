#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/bus/directory.hpp>
#include <utility>

namespace rankbus {
namespace {

namespace ipc = boost::interprocess;
using bus::SlotOutcome;
using bus::Word;

// What a file must be before it is mapped; the directory decides who may put one there, these
// checks decide which of them is a segment.
std::string judge_file(int directory, int fd, std::uint64_t& file_bytes) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return std::string("cannot be examined: ") + std::strerror(errno);
  if (!S_ISREG(status.st_mode)) return "not a regular file";
  // In a group's directory its members are trusted to write, as the setgid bit made the files
  // theirs.
  struct stat parent {};
  const bool of_group = fstat(directory, &parent) == 0 && bus::is_group_directory(parent) &&
                        parent.st_gid == status.st_gid;
  if (status.st_uid != geteuid() && status.st_uid != 0 && geteuid() != 0 && !of_group) {
    return "owned by uid " + std::to_string(status.st_uid) + ", expected " +
           std::to_string(geteuid()) + " or root";
  }
  if ((status.st_mode & S_IWOTH) != 0) return "every user may write it";
  if (status.st_nlink > 1) return "it has several names";
  file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (file_bytes < sizeof(bus::SegmentHeader) || file_bytes > bus::kMaxSegmentBytes) {
    return std::to_string(file_bytes) + " bytes, expected " +
           std::to_string(sizeof(bus::SegmentHeader)) + " to " +
           std::to_string(bus::kMaxSegmentBytes);
  }
  if (static_cast<std::uint64_t>(status.st_blocks) * 512 < file_bytes) return "it has holes";
  return {};
}

}  // namespace

SegmentReader::~SegmentReader() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::unique_ptr<SegmentReader>> SegmentReader::open_untrusted(int directory,
                                                                     const std::string& name) {
  std::unique_ptr<SegmentReader> reader(new SegmentReader);
  reader->name_ = name;
  reader->fd_ = openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (reader->fd_ < 0) return Error{std::strerror(errno)};
  if (std::string why = judge_file(directory, reader->fd_, reader->file_bytes_); !why.empty())
    return Error{why};
  try {
    const std::string path = "/proc/self/fd/" + std::to_string(reader->fd_);
    const ipc::file_mapping file(path.c_str(), ipc::read_only);
    reader->region_ = std::make_unique<ipc::mapped_region>(
        file, ipc::read_only, 0, static_cast<std::size_t>(reader->file_bytes_));
  } catch (const ipc::interprocess_exception& failure) {
    return Error{std::string("cannot be mapped: ") + failure.what()};
  }
  reader->base_ = static_cast<const unsigned char*>(reader->region_->get_address());
  bus::SegmentHeader copy;
  std::memcpy(&copy, reader->base_, sizeof copy);
  auto header = check_untrusted_header(copy, reader->file_bytes_);
  if (!header) return Error{header.error()};
  reader->header_ = header.value();
  const std::vector<unsigned char> schema(reader->base_ + copy.schema_offset,
                                          reader->base_ + copy.schema_offset + copy.schema_bytes);
  auto streams = parse_untrusted_schema(reader->header_, schema);
  if (!streams) return Error{streams.error()};
  for (StreamSchema& stream : streams.value()) {
    StreamState state;
    state.totals.resize(stream.plan.body_words);
    if (!state.totals.empty()) bus::clear_totals(stream.plan, state.totals.data());
    state.schema = std::move(stream);
    reader->streams_.push_back(std::move(state));
  }
  // What was sampled before this reader came is not its loss.
  const bool writer_is_dead = !reader->writer_is_alive();
  for (std::size_t s = 0; s < reader->streams_.size(); ++s) {
    StreamState& state = reader->streams_[s];
    reader->begin(state, static_cast<std::uint32_t>(s), writer_is_dead);
    state.first_position = state.history_from = state.position;
    state.lost_lapped = state.skipped = 0;
    if (state.totals.empty()) continue;
    const Word published =
        bus::ProcessMemory().load_published(reader->word_at(reader->header_.activity_offset) + s);
    // Of a living writer, the older half of the ring is about to be overwritten.
    const std::uint64_t kept = writer_is_dead ? state.schema.capacity : state.schema.capacity / 2;
    state.history_from = std::min(state.position, published > kept ? published - kept : 0);
  }
  return reader;
}

const Word* SegmentReader::word_at(std::uint64_t offset) const {
  return reinterpret_cast<const Word*>(base_ + offset);
}

bool SegmentReader::writer_is_alive() const {
  return bus::write_lock_is_held(fd_);
}

bool SegmentReader::copy_checkpoint(const StreamState& stream, int which,
                                    std::vector<Word>& body) const {
  const bus::ProcessMemory memory;
  const Word* checkpoint =
      word_at(stream.schema.checkpoint_offset +
              static_cast<std::uint64_t>(which) * stream.schema.checkpoint_stride);
  body.resize(stream.schema.plan.body_words);
  return bus::read_checkpoint(memory, checkpoint, body.data(), body.size());
}

// Makes a copied checkpoint the state. The number of rows indexes the body, so it is checked like
// everything that a producer says.
bool SegmentReader::take_checkpoint(StreamState& stream, int which, std::vector<Word>& body) {
  const std::uint32_t rows = stream.schema.plan.label_rows;
  if (rows > 0 && (body[bus::kBodyRowsUsed] < 1 || body[bus::kBodyRowsUsed] > rows)) {
    error_ = "stream " + stream.schema.name + ": a checkpoint has " +
             std::to_string(body[bus::kBodyRowsUsed]) + " label rows of " + std::to_string(rows);
    return false;
  }
  stream.position = body[bus::kBodyRecords];
  stream.totals.swap(body);
  // Comparing a checkpoint with itself would prove nothing.
  stream.checkpoint_seen[static_cast<std::size_t>(which)] = stream.position;
  return true;
}

// Before anything was read: the newest checkpoint is where to begin. Of a dead writer it is the
// older one, because nothing can overtake the reader any more: the newer is then compared on the
// way.
void SegmentReader::begin(StreamState& stream, std::uint32_t index, bool writer_is_dead) {
  const bus::ProcessMemory memory;
  const Word* activity = word_at(header_.activity_offset) + index;
  const std::uint32_t capacity = stream.schema.capacity;
  if (stream.totals.empty()) {
    const Word published = memory.load_published(activity);
    stream.position = published > capacity ? published - capacity / 2 : 0;
    return;
  }
  if (!writer_is_dead) {
    restart_from_checkpoint(stream, 0);
    return;
  }
  const Word published = memory.load_published(activity);
  std::vector<Word> bodies[2];
  for (int older = 0; older < 2; ++older) {
    const int newer = 1 - older;
    if (!copy_checkpoint(stream, older, bodies[older]) ||
        !copy_checkpoint(stream, newer, bodies[newer])) {
      continue;
    }
    const std::uint64_t records = bodies[older][bus::kBodyRecords];
    if (records > bodies[newer][bus::kBodyRecords] || published - records >= capacity) continue;
    take_checkpoint(stream, older, bodies[older]);
    return;
  }
  restart_from_checkpoint(stream, 0);
}

// Takes the newest whole checkpoint as the state. The writer overwrites the older one, so a second
// attempt finds a whole one even at full speed; without any, the next poll tries again.
bool SegmentReader::restart_from_checkpoint(StreamState& stream, std::uint64_t published) {
  if (stream.totals.empty()) {
    const std::uint64_t half = stream.schema.capacity / 2;
    const std::uint64_t newest_half = published > half ? published - half : 0;
    const std::uint64_t resume = std::max(newest_half, stream.position + (published > 0 ? 1 : 0));
    stream.lost_lapped += resume - stream.position;
    stream.position = resume;
    return true;
  }
  std::vector<Word> bodies[2];
  for (int attempt = 0; attempt < 4; ++attempt) {
    const bool whole[2] = {copy_checkpoint(stream, 0, bodies[0]),
                           copy_checkpoint(stream, 1, bodies[1])};
    int newest = -1;
    for (int i = 0; i < 2; ++i) {
      if (!whole[i]) continue;
      if (newest < 0 || bodies[i][bus::kBodyRecords] > bodies[newest][bus::kBodyRecords])
        newest = i;
    }
    if (newest < 0 || bodies[newest][bus::kBodyRecords] < stream.position) continue;
    const std::uint64_t before = stream.position;
    if (!take_checkpoint(stream, newest, bodies[newest])) return false;
    if (stream.position > before) ++stream.skipped;
    stream.lost_lapped += stream.position - before;
    return true;
  }
  return false;
}

// The record count of the first checkpoint that lies ahead, up to `published`; all ones if none
// does. Only a hint of where to compare: the body is copied and checked when the reader gets there.
std::optional<std::uint64_t> SegmentReader::next_checkpoint(const StreamState& stream,
                                                            std::uint64_t published) const {
  std::optional<std::uint64_t> next;
  const bus::ProcessMemory memory;
  for (int i = 0; i < 2 && !stream.totals.empty(); ++i) {
    const Word* checkpoint =
        word_at(stream.schema.checkpoint_offset +
                static_cast<std::uint64_t>(i) * stream.schema.checkpoint_stride);
    Word records = 0;
    if (!bus::read_checkpoint(memory, checkpoint, &records, 1)) continue;
    const bool ahead = records >= stream.position && records <= published;
    if (ahead && stream.checkpoint_seen[static_cast<std::size_t>(i)] != records)
      next = std::min(next.value_or(records), records);
  }
  return next;
}

void SegmentReader::verify_at(StreamState& stream, std::uint64_t records) {
  std::vector<Word> body;
  for (int i = 0; i < 2; ++i) {
    if (!copy_checkpoint(stream, i, body) || body[bus::kBodyRecords] != records) continue;
    stream.checkpoint_seen[static_cast<std::size_t>(i)] = records;
    if (body == stream.totals) {
      ++stream.verified;
      continue;
    }
    ++stream.mismatches;
    error_ = "stream " + stream.schema.name + ": the checkpoint at record " +
             std::to_string(records) + " disagrees with the records before it";
  }
}

bool SegmentReader::follow(StreamState& stream, std::uint64_t published, bool writer_is_dead,
                           const SampleSink& sink) {
  const bus::ProcessMemory memory;
  const StreamSchema& schema = stream.schema;
  std::vector<Word> copy(schema.plan.payload_words);
  // Two capacities bound the work of one poll, whatever the writer does meanwhile.
  std::uint64_t budget = 2ull * schema.capacity;
  std::optional<std::uint64_t> compare_at = next_checkpoint(stream, published);
  while (error_.empty()) {
    if (compare_at == stream.position) {
      verify_at(stream, stream.position);
      compare_at = next_checkpoint(stream, published);
      if (!error_.empty()) return true;
    }
    if (stream.position >= published || budget-- == 0) return true;
    if (published - stream.position > schema.capacity) {
      const bool restarted = restart_from_checkpoint(stream, published);
      const bool within = restarted && published - stream.position <= schema.capacity;
      // A living writer's next checkpoint may help; a dead one's is where it stays.
      if (!within && writer_is_dead && error_.empty()) {
        error_ = "stream " + schema.name + ": no whole checkpoint within a ring of record " +
                 std::to_string(published);
      }
      if (!within) return true;
      compare_at = next_checkpoint(stream, published);
      continue;
    }
    const Word* slot = word_at(schema.slots_offset +
                               (stream.position & (schema.capacity - 1)) * schema.slot_bytes);
    switch (bus::read_slot(memory, slot, stream.position, schema.capacity, copy.data(), copy.size(),
                           writer_is_dead)) {
      case SlotOutcome::whole: {
        const Sample sample{schema, reinterpret_cast<const unsigned char*>(copy.data()),
                            stream.position};
        if (!stream.totals.empty())
          bus::fold_payload(schema.plan, copy.data(), stream.totals.data());
        if (schema.info_field >= 0) take_info(stream, sample);
        if (sink) sink(sample);
        ++stream.position;
        break;
      }
      case SlotOutcome::lapped: {
        const std::uint64_t before = stream.position;
        const bool restarted = restart_from_checkpoint(stream, published);
        // A dead writer's newest checkpoint lies ahead of whatever its last record overwrote.
        if (writer_is_dead && stream.position == before && error_.empty()) {
          error_ = "stream " + schema.name + ": record " + std::to_string(before) +
                   " is overwritten, and no checkpoint lies behind it";
        }
        if (!restarted) return true;
        compare_at = next_checkpoint(stream, published);
        break;
      }
      case SlotOutcome::not_yet:
      case SlotOutcome::being_written:
      case SlotOutcome::abandoned:
      case SlotOutcome::damaged:
        error_ = "stream " + schema.name + ": record " + std::to_string(stream.position) +
                 " was published, but its slot does not hold it";
        break;
    }
  }
  return true;
}

// Totals begin at a checkpoint; windows and percentiles know only what they are shown, so they get
// the samples before it, as far as the ring still has them.
void SegmentReader::show_history(StreamState& stream, bool writer_is_dead,
                                 const SampleSink& sink) const {
  const bus::ProcessMemory memory;
  const StreamSchema& schema = stream.schema;
  std::vector<Word> copy(schema.plan.payload_words);
  for (; stream.history_from < stream.first_position; ++stream.history_from) {
    const Word* slot = word_at(schema.slots_offset +
                               (stream.history_from & (schema.capacity - 1)) * schema.slot_bytes);
    const SlotOutcome outcome = bus::read_slot(memory, slot, stream.history_from, schema.capacity,
                                               copy.data(), copy.size(), writer_is_dead);
    if (outcome != SlotOutcome::whole || !sink) continue;
    Sample sample{schema, reinterpret_cast<const unsigned char*>(copy.data()), stream.history_from};
    sample.is_history = true;
    sink(sample);
  }
}

// Long texts come in parts, one behind the other, and end with a NUL. Until then the former text
// stands; parts without their beginning, or longer than any text, are none.
void SegmentReader::take_info(StreamState& stream, const Sample& sample) {
  if (sample.part() == 0) {
    stream.info_parts.clear();
    stream.info_next = 0;
  }
  if (sample.part() != stream.info_next || stream.info_parts.size() > bus::kMaxInfoBytes) return;
  ++stream.info_next;
  const std::size_t words = sample.count(stream.schema.info_field);
  for (std::size_t i = 0; i < words; ++i) {
    const std::uint64_t word = sample.element(stream.schema.info_field, i);
    char bytes[sizeof word];
    std::memcpy(bytes, &word, sizeof word);
    const std::size_t length = strnlen(bytes, sizeof bytes);
    stream.info_parts.append(bytes, length);
    if (length == sizeof bytes) continue;
    stream.info = std::move(stream.info_parts);
    stream.info_parts.clear();
    stream.info_stamp = sample.raw(0);
    stream.info_next = ~std::uint64_t{0};
    return;
  }
}

// Whether totals are of records that were never published, which no writer's are: it publishes
// first.
bool SegmentReader::lies_ahead(const StreamState& stream, std::uint64_t published,
                               bool writer_is_dead) {
  std::uint64_t farthest = stream.position;
  std::vector<Word> body;
  for (int i = 0; i < 2 && writer_is_dead && !stream.totals.empty(); ++i) {
    if (copy_checkpoint(stream, i, body)) farthest = std::max(farthest, body[bus::kBodyRecords]);
  }
  if (farthest <= published) return false;
  error_ = "stream " + stream.schema.name + ": totals of " + std::to_string(farthest) +
           " records, of which " + std::to_string(published) + " were published";
  return true;
}

bool SegmentReader::poll(bool writer_is_dead, const SampleSink& sink) {
  bool any = false;
  const bus::ProcessMemory memory;
  const Word* activity = word_at(header_.activity_offset);
  for (std::size_t s = 0; s < streams_.size() && error_.empty(); ++s) {
    StreamState& stream = streams_[s];
    const Word published = memory.load_published(activity + s);
    if (published < stream.published) {
      error_ = "stream " + stream.schema.name + ": `published` went back";
      break;
    }
    if (lies_ahead(stream, published, writer_is_dead)) break;
    if (stream.history_from < stream.first_position) show_history(stream, writer_is_dead, sink);
    const bool pending = stream.position < published;
    stream.published = published;
    if (pending || writer_is_dead)
      any = (follow(stream, published, writer_is_dead, sink) && pending) || any;
    if (writer_is_dead && error_.empty() && stream.position == published) {
      const Word* slot =
          word_at(stream.schema.slots_offset +
                  (published & (stream.schema.capacity - 1)) * stream.schema.slot_bytes);
      Word unused = 0;
      const SlotOutcome last =
          bus::read_slot(memory, slot, published, stream.schema.capacity, &unused, 0, true);
      stream.abandoned = last == SlotOutcome::abandoned || last == SlotOutcome::whole ? 1 : 0;
    }
  }
  return any;
}

bool SegmentReader::is_drained() const {
  return !error_.empty() ||
         std::all_of(streams_.begin(), streams_.end(),
                     [](const StreamState& stream) { return stream.position == stream.published; });
}

std::string SegmentReader::dictionary_text(std::uint64_t entry) const {
  const bus::ProcessMemory memory;
  const Word* dictionary = word_at(header_.dictionary_offset);
  const Word used = std::min<Word>(memory.load_interned(dictionary), header_.dictionary_entries);
  if (entry == 0 || entry > used) return {};
  const Word where = memory.load_field(dictionary + entry);
  const std::uint64_t offset = where >> 32;
  const std::uint64_t size = where & 0xffffffff;
  if (size > bus::kMaxLabelTextBytes || offset > header_.dictionary_text_bytes || offset % 8 != 0 ||
      size > header_.dictionary_text_bytes - offset) {
    return {};
  }
  std::string text(size, '\0');
  const Word* texts = dictionary + 1 + header_.dictionary_entries + offset / 8;
  for (std::size_t at = 0; at < size; at += sizeof(Word)) {
    const Word word = memory.load_field(texts + at / sizeof(Word));
    std::memcpy(text.data() + at, &word, std::min(sizeof word, size - at));
  }
  return text;
}

}  // namespace rankbus
