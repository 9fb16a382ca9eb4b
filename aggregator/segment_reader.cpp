#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <rankbus/aggregator/boot_id.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/segment.hpp>
#include <utility>

namespace rankbus {
namespace {

using bus::SlotOutcome;
using bus::Word;

// Records that are copied before the file is looked at and they are folded: few enough to stay in
// the cache.
constexpr std::size_t kBatchRecords = 256;
constexpr std::size_t kBatchWords = 64 * 1024 / sizeof(Word);
// No writer makes more than a record a nanosecond; clocks are compared with this much to spare.
constexpr std::uint64_t kJumpSlack = 1'000'000;
// A realtime clock may have been set meanwhile, by less than a day.
constexpr std::uint64_t kRealtimeSlack = 86'400'000'000'000;

std::size_t records_a_batch(const StreamSchema& schema) {
  return std::clamp<std::size_t>(kBatchWords / schema.plan.payload_words, 1, kBatchRecords);
}

std::uint64_t slot_offset(const StreamSchema& schema, std::uint64_t record) {
  return schema.slots_offset + (record & (schema.capacity - 1)) * schema.slot_bytes;
}

std::uint64_t checkpoint_offset(const StreamSchema& schema, int which) {
  return schema.checkpoint_offset + static_cast<std::uint64_t>(which) * schema.checkpoint_stride;
}

// Whether a later body has less than an earlier one of what only grows. A checkpoint that lost a
// page has zeros there. Integer sums wrap, so that only a zero tells.
bool goes_back(const bus::StreamPlan& plan, const std::vector<Word>& now,
               const std::vector<Word>& later) {
  for (const auto word :
       {bus::kBodyInvalid, bus::kBodyNegative, bus::kBodyRowsUsed, bus::kBodyRowsOverflow}) {
    if (later[word] < now[word]) return true;
  }
  for (std::uint32_t f = 0; f < plan.field_count; ++f) {
    const bus::FieldPlan& field = plan.fields[f];
    if (field.kind != bus::Kind::counter && field.kind != bus::Kind::distribution) continue;
    const std::size_t words =
        std::size_t{field.row_words} * (field.by_labels != 0 ? plan.label_rows : 1);
    for (std::size_t i = 0; i < words; ++i) {
      const Word before = now[field.totals_offset + i];
      const Word after = later[field.totals_offset + i];
      const bool is_cell = field.kind == bus::Kind::distribution && i % field.row_words != 0;
      const bool is_real = field.type == bus::Type::f64 && !is_cell;
      if (is_cell ? after < before
                  : (is_real ? bus::double_of(after) < bus::double_of(before)
                             : after == 0 && before != 0)) {
        return true;
      }
    }
  }
  return false;
}

// Of this process; 0 where the kernel knows none.
std::uint64_t time_namespace() {
  static const std::uint64_t inode = [] {
    struct stat status {};
    return stat("/proc/self/ns/time", &status) == 0 ? status.st_ino : 0;
  }();
  return inode;
}

}  // namespace

SegmentReader::~SegmentReader() = default;

std::uint64_t SegmentReader::next_serial() {
  static std::atomic<std::uint64_t> next{1};
  return next.fetch_add(1);
}

// A name ends with the incarnation that made the file. A copy of a segment, or one under another's
// name, would be counted beside the first, or go on where the other was read.
namespace {

std::string misnamed(const std::string& name, const bus::SegmentHeader& header) {
  char made[33];
  bus::write_hex(header.incarnation, sizeof header.incarnation, made);
  if (name.size() >= 32 && name.compare(name.size() - 32, 32, made) == 0) return {};
  return "it was made as incarnation " + std::string(made) +
         ", expected the one in its name: it was renamed or copied, and might count twice. Give "
         "it back its name, or remove it";
}

}  // namespace

Result<std::unique_ptr<SegmentReader>> SegmentReader::open_untrusted(
    int directory, const std::string& name, ByteAccess access, const bus::AllowedOwners& allowed) {
  auto bytes = SegmentBytes::open_untrusted(directory, name, access, allowed);
  if (!bytes) return Error{bytes.error(), bytes.is_transient()};
  std::unique_ptr<SegmentReader> reader(new SegmentReader);
  reader->name_ = name;
  reader->bytes_ = std::move(bytes.value());
  const char* const cut = "it was truncated while it was opened";
  bus::SegmentHeader copy;
  if (!reader->bytes_->copy_untrusted(0, &copy, sizeof copy)) return Error{cut};
  auto header = check_untrusted_header(copy, reader->file_bytes());
  if (!header) return Error{header.error()};
  reader->header_ = header.value();
  if (std::string why = misnamed(name, reader->header_); !why.empty()) return Error{why};
  std::vector<unsigned char> schema(copy.schema_bytes);
  if (!reader->bytes_->copy_untrusted(copy.schema_offset, schema.data(), schema.size()))
    return Error{cut};
  auto streams = parse_untrusted_schema(reader->header_, schema);
  if (!streams) return Error{streams.error()};
  for (StreamSchema& stream : streams.value()) {
    StreamState state;
    state.totals.resize(stream.plan.body_words);
    if (!state.totals.empty()) bus::clear_totals(stream.plan, state.totals.data());
    if (!state.totals.empty()) state.running = RunningTotals(stream.plan);
    reader->hidden_fields_ += stream.refused_fields;
    state.schema = std::move(stream);
    reader->streams_.push_back(std::move(state));
  }
  reader->compare_clocks();
  reader->begin_streams();
  if (!reader->file_is_whole()) return Error{cut};
  return reader;
}

// Where either side could not read its boot's id, the lock alone tells.
bool SegmentReader::is_of_this_boot() const {
  const BootId unknown = {};
  const BootId here = this_boot();
  const auto& made = header_.boot_id;
  return here == unknown || std::equal(here.begin(), here.end(), made) ||
         std::equal(unknown.begin(), unknown.end(), made);
}

// The header is a stranger's: whatever it says, differences only wrap.
void SegmentReader::compare_clocks() {
  const bool same_boot = is_of_this_boot();
  const std::uint64_t ours = time_namespace();
  const bool same_offset =
      ours == 0 || header_.time_namespace == 0 || ours == header_.time_namespace;
  opened_ns_here_ = std::max<std::uint64_t>(1, header_.anchor_monotonic_ns);
  if (same_boot && same_offset) return;
  const auto source = static_cast<bus::ClockSource>(header_.clock_source);
  const std::uint64_t age_ns = bus::clock_ns(CLOCK_REALTIME) - header_.anchor_realtime_ns;
  const std::uint64_t anchor_ns = bus::monotonic_ns() - age_ns;
  const bool is_before_all = static_cast<std::int64_t>(anchor_ns) <= 0;
  opened_ns_here_ = is_before_all ? 1 : anchor_ns;
  if (source == bus::ClockSource::monotonic) clock_shift_ = anchor_ns - header_.anchor_ticks;
  // All namespaces read the same TSC, but it began again with the boot.
  if (source == bus::ClockSource::tsc && !same_boot) {
    const double age_ticks = static_cast<double>(static_cast<std::int64_t>(age_ns)) * 1e-9 *
                             static_cast<double>(header_.ticks_per_second);
    clock_shift_ =
        bus::read_ticks(source) -
        static_cast<std::uint64_t>(static_cast<std::int64_t>(std::clamp(age_ticks, -9e18, 9e18))) -
        header_.anchor_ticks;
  }
}

std::uint64_t SegmentReader::stamp_here(std::uint64_t stamp) const {
  if (clock_shift_ == 0) return stamp;
  const std::uint64_t shifted = stamp + clock_shift_;
  const bool is_before_all = static_cast<std::int64_t>(shifted) <= 0;
  return is_before_all ? 1 : shifted;
}

// How long the writer can have written, by the clocks that it and this process share. Virtual time
// bounds nothing: a writer's records may all be numbered from anywhere.
std::uint64_t SegmentReader::most_published() const {
  if (header_.clock_domain != static_cast<std::uint32_t>(bus::ClockDomain::real))
    return ~std::uint64_t{0};
  const bool is_same_clock = is_of_this_boot() && opened_ns_here_ == header_.anchor_monotonic_ns;
  const std::uint64_t age_ns = is_same_clock
                                   ? bus::monotonic_ns() - opened_ns_here_
                                   : bus::clock_ns(CLOCK_REALTIME) - header_.anchor_realtime_ns;
  const bool is_past = static_cast<std::int64_t>(age_ns) > 0;
  return (is_past ? age_ns : 0) + (is_same_clock ? kJumpSlack : kRealtimeSlack);
}

// What a segment says it published before anybody looked must be possible too: in the time since it
// was opened, and so that the newest record is in its slot, or was.
bool SegmentReader::first_look_is_possible() {
  for (std::size_t s = 0; s < streams_.size(); ++s) {
    const StreamSchema& schema = streams_[s].schema;
    const Word published = load_published(s);
    if (published == 0) continue;
    const std::uint64_t most = most_published();
    if (published > most) {
      contradict("stream " + schema.name + ": " + std::to_string(published) +
                 " records were published, in a time for at most " + std::to_string(most));
      return false;
    }
    Word unused = 0;
    const SlotOutcome newest = bytes_->read_slot_untrusted(
        slot_offset(schema, published - 1), published - 1, schema.capacity, &unused, 0, true);
    // The word of one number is the word of an empty slot.
    const bool is_told = bus::word_when_whole(published - 1) != 0;
    if (is_told && newest != SlotOutcome::whole && newest != SlotOutcome::lapped) {
      contradict("stream " + schema.name + ": record " + std::to_string(published - 1) +
                 " was published, but its slot does not hold it");
      return false;
    }
  }
  return true;
}

// What was sampled before this reader came is not its loss.
void SegmentReader::begin_streams() {
  if (!first_look_is_possible()) return;
  const bool writer_is_dead = !writer_is_alive();
  for (std::size_t s = 0; s < streams_.size(); ++s) {
    StreamState& state = streams_[s];
    begin(state, s, writer_is_dead);
    state.first_position = state.history_from = state.seen_before = state.position;
    state.lost_lapped = state.skipped = 0;
    if (state.totals.empty()) continue;
    const Word published = load_published(s);
    // Of a living writer, the older half of the ring is about to be overwritten.
    const std::uint64_t kept = writer_is_dead ? state.schema.capacity : state.schema.capacity / 2;
    state.history_from = std::min(state.position, published > kept ? published - kept : 0);
  }
  learn_texts();
}

void SegmentReader::resume(std::size_t index, const StreamProgress& progress) {
  StreamState& stream = streams_[index];
  stream.seen_before = progress.next_record + progress.lost_quarantined;
  stream.lost_lapped = progress.lost_lapped;
  stream.lost_quarantined = progress.lost_quarantined;
  stream.verified = progress.verified;
  stream.skipped = progress.skipped;
  stream.mismatches = progress.mismatches;
  stream.running.restore_untrusted(progress.running);
  stream.running.note(stream.totals, stream.position);
  if (stream.seen_before >= stream.first_position) return;
  const Word published = load_published(index);
  const std::uint64_t capacity = stream.schema.capacity;
  const std::uint64_t oldest = published > capacity ? published - capacity : 0;
  // What of these is overwritten by the time that they are shown is counted then.
  stream.history_from = std::min(stream.history_from, std::max(stream.seen_before, oldest));
  if (stream.history_from > stream.seen_before)
    stream.lost_lapped += stream.history_from - stream.seen_before;
}

// Of a stream that is skipped, nothing ever was.
std::uint64_t SegmentReader::load_published(std::size_t stream) const {
  if (streams_[stream].schema.is_skipped) return 0;
  return bytes_->load_published_untrusted(header_.activity_offset + stream * sizeof(Word));
}

// A file that lost bytes contradicts everything; that is the better explanation.
void SegmentReader::contradict(const std::string& what) {
  switch (bytes_->examine()) {
    case FileState::truncated:
      error_ = "the file was truncated while it was read";
      error_kind_ = "truncated";
      break;
    case FileState::has_holes:
      error_ = "holes were made in the file while it was read";
      error_kind_ = "holes";
      break;
    case FileState::whole:
      error_ = what;
      error_kind_ = "inconsistent";
      break;
  }
}

bool SegmentReader::file_is_whole() {
  if (bytes_->examine() == FileState::whole) return true;
  contradict({});
  return false;
}

void SegmentReader::examine() {
  if (error_.empty()) (void)file_is_whole();
}

bool SegmentReader::copy_checkpoint(const StreamState& stream, int which,
                                    std::vector<Word>& body) const {
  body.resize(stream.schema.plan.body_words);
  return bytes_->read_checkpoint_untrusted(checkpoint_offset(stream.schema, which), body.data(),
                                           body.size());
}

// Makes a copied checkpoint the state. The number of rows indexes the body, so it is checked like
// everything that a producer says; and no total of a stream may go back.
bool SegmentReader::take_checkpoint(StreamState& stream, int which, std::vector<Word>& body) {
  const std::uint32_t rows = stream.schema.plan.label_rows;
  if (rows > 0 && (body[bus::kBodyRowsUsed] < 1 || body[bus::kBodyRowsUsed] > rows)) {
    contradict("stream " + stream.schema.name + ": a checkpoint has " +
               std::to_string(body[bus::kBodyRowsUsed]) + " label rows of " + std::to_string(rows));
    return false;
  }
  if (stream.position > 0 && goes_back(stream.schema.plan, stream.totals, body)) {
    contradict("stream " + stream.schema.name + ": totals went back in the checkpoint at record " +
               std::to_string(body[bus::kBodyRecords]));
    return false;
  }
  stream.position = body[bus::kBodyRecords];
  stream.totals.swap(body);
  stream.running.note(stream.totals, stream.position);
  // Comparing a checkpoint with itself would prove nothing.
  stream.checkpoint_seen[static_cast<std::size_t>(which)] = stream.position;
  return true;
}

// Before anything was read: the newest checkpoint is where to begin. Of a dead writer it is the
// older one, because nothing can overtake the reader any more: the newer is then compared on the
// way.
void SegmentReader::begin(StreamState& stream, std::size_t index, bool writer_is_dead) {
  const std::uint32_t capacity = stream.schema.capacity;
  if (stream.totals.empty()) {
    const Word published = load_published(index);
    stream.position = published > capacity ? published - capacity / 2 : 0;
    return;
  }
  if (!writer_is_dead) {
    restart_from_checkpoint(stream, 0);
    return;
  }
  const Word published = load_published(index);
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

// Whether a checkpoint that was copied before this call is of records that there are: each was
// published before it was in a checkpoint, and no faster than time allows since the last look.
bool SegmentReader::is_published(const StreamState& stream, std::uint64_t records) {
  const Word published = load_published(static_cast<std::size_t>(&stream - streams_.data()));
  const std::uint64_t grown = published - stream.published;
  if (records > published) {
    contradict("stream " + stream.schema.name + ": totals of " + std::to_string(records) +
               " records, of which " + std::to_string(published) + " were published");
  } else if (targets_at_ns_ != 0 && grown > bus::monotonic_ns() - targets_at_ns_ + kJumpSlack) {
    contradict("stream " + stream.schema.name + ": `published` grew by " + std::to_string(grown) +
               " while it was read");
  }
  return error_.empty();
}

// Takes the newest whole checkpoint as the state. The writer overwrites the older one, so a second
// attempt finds a whole one even at full speed; without any, the next poll tries again.
bool SegmentReader::restart_from_checkpoint(StreamState& stream, std::uint64_t published) {
  if (stream.totals.empty()) {
    const std::uint64_t half = stream.schema.capacity / 2;
    const std::uint64_t newest_half = published > half ? published - half : 0;
    const std::uint64_t resume = std::max(newest_half, stream.position + (published > 0 ? 1 : 0));
    count_lost(stream, stream.position, resume);
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
    if (!file_is_whole()) return false;
    if (newest < 0 || bodies[newest][bus::kBodyRecords] < stream.position) continue;
    if (!is_published(stream, bodies[newest][bus::kBodyRecords])) return false;
    const std::uint64_t before = stream.position;
    if (!take_checkpoint(stream, newest, bodies[newest])) return false;
    if (stream.position > before) ++stream.skipped;
    count_lost(stream, before, stream.position);
    return true;
  }
  return false;
}

// Samples that were counted before this reader came are not lost to it when it is lapped before it
// has passed them.
void SegmentReader::count_lost(StreamState& stream, std::uint64_t from, std::uint64_t to) {
  const std::uint64_t first = std::max(from, stream.seen_before);
  if (to > first) stream.lost_lapped += to - first;
}

// The record count of the first checkpoint that lies ahead, up to `published`; all ones if none
// does. Only a hint of where to compare: the body is copied and checked when the reader gets there.
std::optional<std::uint64_t> SegmentReader::next_checkpoint(const StreamState& stream,
                                                            std::uint64_t published) const {
  std::optional<std::uint64_t> next;
  for (int i = 0; i < 2 && !stream.totals.empty(); ++i) {
    Word records = 0;
    if (!bytes_->read_checkpoint_untrusted(checkpoint_offset(stream.schema, i), &records, 1))
      continue;
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
    if (!file_is_whole()) return;
    stream.checkpoint_seen[static_cast<std::size_t>(i)] = records;
    if (body == stream.totals) {
      ++stream.verified;
      continue;
    }
    ++stream.mismatches;
    contradict("stream " + stream.schema.name + ": the checkpoint at record " +
               std::to_string(records) + " disagrees with the records before it");
  }
}

// Copies records until one is not whole, or, with `skip_others`, all that are.
void SegmentReader::copy_batch(const StreamState& stream, std::uint64_t from, std::uint64_t count,
                               bool writer_is_dead, bool skip_others) {
  const StreamSchema& schema = stream.schema;
  const std::size_t words = schema.plan.payload_words;
  // Numbers near 2^64 are as good as any, so counts are compared and not ends.
  count = std::min<std::uint64_t>(count, records_a_batch(schema));
  batch_.numbers.clear();
  batch_.payloads.resize(words * records_a_batch(schema));
  batch_.ended_by = SlotOutcome::whole;
  for (std::uint64_t record = from; record - from < count; ++record) {
    Word* copy = batch_.payloads.data() + batch_.numbers.size() * words;
    const SlotOutcome outcome = bytes_->read_slot_untrusted(
        slot_offset(schema, record), record, schema.capacity, copy, words, writer_is_dead);
    if (outcome == SlotOutcome::whole) {
      batch_.numbers.push_back(record);
    } else if (!skip_others) {
      batch_.ended_by = outcome;
      return;
    }
  }
}

void SegmentReader::fold_batch(StreamState& stream, const SampleSink& sink) {
  const StreamSchema& schema = stream.schema;
  const Word* payload = batch_.payloads.data();
  for (const std::uint64_t number : batch_.numbers) {
    const Sample sample{schema, reinterpret_cast<const unsigned char*>(payload), number,
                        number < stream.seen_before};
    if (!stream.totals.empty()) {
      bus::fold_payload(schema.plan, payload, stream.totals.data());
      stream.running.note(stream.totals, number + 1);
    }
    if (schema.info_field >= 0) take_info(stream, sample);
    if (sink) sink(sample);
    payload += schema.plan.payload_words;
  }
  stream.position += batch_.numbers.size();
}

// Reads towards the target of this poll; false if its share of time or work was used up before.
bool SegmentReader::follow(std::size_t index, bool writer_is_dead, const SampleSink& sink) {
  StreamState& stream = streams_[index];
  const std::uint64_t target = stream.published;
  std::uint64_t budget = 2ull * stream.schema.capacity;
  std::optional<std::uint64_t> compare_at = next_checkpoint(stream, target);
  while (error_.empty()) {
    if (compare_at == stream.position) {
      verify_at(stream, stream.position);
      compare_at = next_checkpoint(stream, target);
      if (!error_.empty()) return true;
    }
    if (stream.position >= target) return true;
    if (budget == 0) return false;
    if (target - stream.position > stream.schema.capacity) {
      if (!catch_up(stream, writer_is_dead)) return true;
      compare_at = next_checkpoint(stream, target);
      continue;
    }
    std::uint64_t count = std::min(budget, target - stream.position);
    if (compare_at && *compare_at > stream.position)
      count = std::min(count, *compare_at - stream.position);
    copy_batch(stream, stream.position, count, writer_is_dead, false);
    if (!file_is_whole()) return true;
    budget -= batch_.numbers.size();
    switch (batch_.ended_by) {
      case SlotOutcome::whole:
        fold_batch(stream, sink);
        break;
      case SlotOutcome::lapped:
        fold_batch(stream, sink);
        if (!end_lapped(index, writer_is_dead)) return true;
        compare_at = next_checkpoint(stream, target);
        break;
      // What came just before a record that is not there is not believed either.
      case SlotOutcome::not_yet:
      case SlotOutcome::being_written:
      case SlotOutcome::abandoned:
      case SlotOutcome::damaged:
        contradict("stream " + stream.schema.name + ": record " +
                   std::to_string(stream.position + batch_.numbers.size()) +
                   " was published, but its slot does not hold it");
        break;
    }
    // Whoever is where it wanted to be is not behind, however late it is: its next turn looks for
    // what is new.
    if (bus::monotonic_ns() >= deadline_ns_) return stream.position >= target;
  }
  return true;
}

// More was published than the ring holds. Returns whether reading can go on.
bool SegmentReader::catch_up(StreamState& stream, bool writer_is_dead) {
  const std::uint64_t target = stream.published;
  const bool restarted = restart_from_checkpoint(stream, target);
  if (restarted &&
      (stream.position >= target || target - stream.position <= stream.schema.capacity)) {
    return true;
  }
  // A living writer's next checkpoint may help; a dead one's is where it stays.
  if (writer_is_dead && error_.empty()) {
    contradict("stream " + stream.schema.name + ": no whole checkpoint within a ring of record " +
               std::to_string(target));
  }
  return false;
}

// The record at `position` was overwritten, which takes a writer that has published a whole ring
// since. Returns whether reading can go on.
bool SegmentReader::end_lapped(std::size_t index, bool writer_is_dead) {
  StreamState& stream = streams_[index];
  const std::uint64_t lapped = stream.position;
  // The word that told of the later record was read before this.
  const bus::ProcessMemory memory;
  memory.fence_before_recheck();
  if (load_published(index) - lapped < stream.schema.capacity) {
    contradict("stream " + stream.schema.name + ": the slot of record " + std::to_string(lapped) +
               " is ahead of what was published");
    return false;
  }
  const bool restarted = restart_from_checkpoint(stream, stream.published);
  // A dead writer's newest checkpoint lies ahead of whatever its last record overwrote.
  if (writer_is_dead && stream.position == lapped && error_.empty()) {
    contradict("stream " + stream.schema.name + ": record " + std::to_string(lapped) +
               " is overwritten, and no checkpoint lies behind it");
  }
  // A checkpoint at the lapped record helps nobody; the next poll looks for a later one.
  return restarted && stream.position != lapped;
}

// Totals begin at a checkpoint; windows and percentiles know only what they are shown, so they get
// the samples before it, as far as the ring still has them.
void SegmentReader::show_history(StreamState& stream, bool writer_is_dead, const SampleSink& sink) {
  while (sink && stream.history_from < stream.first_position) {
    const std::uint64_t count = std::min<std::uint64_t>(stream.first_position - stream.history_from,
                                                        records_a_batch(stream.schema));
    const std::uint64_t end = stream.history_from + count;
    copy_batch(stream, stream.history_from, count, writer_is_dead, true);
    if (!file_is_whole()) return;
    // Those from the point on where counting began that are not among the copied ones.
    stream.lost_lapped += end - std::clamp(stream.seen_before, stream.history_from, end);
    stream.history_from = end;
    const Word* payload = batch_.payloads.data();
    for (const std::uint64_t number : batch_.numbers) {
      const bool counts = number >= stream.seen_before;
      if (counts) --stream.lost_lapped;
      sink(Sample{stream.schema, reinterpret_cast<const unsigned char*>(payload), number, !counts});
      payload += stream.schema.plan.payload_words;
    }
  }
  stream.history_from = stream.first_position;
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
  contradict("stream " + stream.schema.name + ": totals of " + std::to_string(farthest) +
             " records, of which " + std::to_string(published) + " were published");
  return true;
}

// Looks at what was published of all streams: as far as that this poll, and those that go on with
// it, will read. Returns false at a contradiction.
bool SegmentReader::load_targets(bool writer_is_dead) {
  const std::uint64_t now_ns = bus::monotonic_ns();
  const std::uint64_t most = now_ns - targets_at_ns_ + kJumpSlack;
  bool any = false;
  for (std::size_t s = 0; s < streams_.size(); ++s) {
    StreamState& stream = streams_[s];
    const Word published = load_published(s);
    if (published < stream.published) {
      contradict("stream " + stream.schema.name + ": `published` went back");
      return false;
    }
    if (targets_at_ns_ != 0 && published - stream.published > most) {
      contradict("stream " + stream.schema.name + ": `published` grew by " +
                 std::to_string(published - stream.published) + " in " +
                 std::to_string(now_ns - targets_at_ns_) + " ns");
      return false;
    }
    if (lies_ahead(stream, published, writer_is_dead)) return false;
    any = any || published > stream.position;
    stream.published = published;
  }
  targets_at_ns_ = now_ns;
  // A record's label texts were interned before it was published.
  if (any) learn_texts();
  return !any || file_is_whole();
}

// The newest record's slot tells whether the writer died in it.
void SegmentReader::look_for_abandoned(StreamState& stream) {
  Word unused = 0;
  const SlotOutcome last =
      bytes_->read_slot_untrusted(slot_offset(stream.schema, stream.published), stream.published,
                                  stream.schema.capacity, &unused, 0, true);
  stream.abandoned = last == SlotOutcome::abandoned || last == SlotOutcome::whole ? 1 : 0;
}

// Returns false if there is more to read than this poll has time for.
bool SegmentReader::read_stream(std::size_t index, bool writer_is_dead, const SampleSink& sink) {
  StreamState& stream = streams_[index];
  if (stream.schema.is_skipped) return true;
  const bool pending = stream.position < stream.published;
  if ((pending || writer_is_dead) && !follow(index, writer_is_dead, sink)) return false;
  if (writer_is_dead && error_.empty() && stream.position == stream.published)
    look_for_abandoned(stream);
  return true;
}

bool SegmentReader::poll(bool writer_is_dead, const SampleSink& sink, std::uint64_t deadline_ns) {
  if (!error_.empty()) return false;
  // A dead writer publishes no more, and what it published last must be seen.
  if ((!is_behind_ || writer_is_dead) && !load_targets(writer_is_dead)) return false;
  deadline_ns_ = deadline_ns;
  is_behind_ = false;
  // Whatever the deadline is: who keeps count of samples takes `position` for where they end.
  for (StreamState& stream : streams_) {
    if (error_.empty() && stream.history_from < stream.first_position)
      show_history(stream, writer_is_dead, sink);
  }
  bool any = false;
  const std::size_t count = streams_.size();
  for (std::size_t done = 0; done < count && error_.empty(); ++done) {
    const std::size_t index = (first_stream_ + done) % count;
    any = any || streams_[index].position < streams_[index].published;
    const bool whole = read_stream(index, writer_is_dead, sink);
    if (whole && bus::monotonic_ns() < deadline_ns_) continue;
    // The others come first the next time.
    first_stream_ = (index + 1) % count;
    is_behind_ = !whole || done + 1 < count;
    break;
  }
  return any;
}

bool SegmentReader::is_drained() const {
  return !error_.empty() ||
         (!is_behind_ &&
          std::all_of(streams_.begin(), streams_.end(), [](const StreamState& stream) {
            return stream.position == stream.published;
          }));
}

void SegmentReader::hide_field(std::size_t stream, std::size_t field) {
  streams_[stream].schema.fields[field].metric.clear();
  ++hidden_fields_;
}

void SegmentReader::judge_row(std::size_t stream, bool is_shown) {
  streams_[stream].rows_are_judged = true;
  streams_[stream].rows_shown.push_back(is_shown);
}

std::vector<std::string> SegmentReader::unknown_to_this_build() const {
  std::vector<std::string> all;
  const bool is_larger = header_.header_bytes > sizeof(bus::SegmentHeader) ||
                         header_.stream_descriptor_bytes > sizeof(bus::StreamDescriptor) ||
                         header_.field_descriptor_bytes > sizeof(bus::FieldDescriptor);
  if (is_larger || header_.layout_version > bus::kLayoutVersion) {
    all.push_back("layout version " + std::to_string(header_.layout_version) +
                  ", this build knows " + std::to_string(bus::kLayoutVersion) +
                  ", and what was appended since is not seen");
  }
  for (const StreamState& stream : streams_) {
    for (const std::string& refusal : stream.schema.refusals) {
      all.push_back(refusal + (stream.schema.is_skipped ? ", so the stream is skipped"
                                                        : ", so the field is not shown"));
    }
  }
  return all;
}

std::uint64_t SegmentReader::hidden_rows() const {
  std::uint64_t hidden = 0;
  for (const StreamState& stream : streams_) {
    const std::uint64_t used = stream.totals.empty() ? 0 : stream.totals[bus::kBodyRowsUsed];
    for (std::uint32_t row = 1; row < used; ++row) hidden += stream.shows_row(row) ? 0 : 1;
  }
  return hidden;
}

// Texts of labels are learnt once. Whatever happens to them later, series keep their labels.
void SegmentReader::learn_texts() {
  const std::uint64_t dictionary = header_.dictionary_offset;
  const std::uint64_t used = std::min<std::uint64_t>(bytes_->load_interned_untrusted(dictionary),
                                                     header_.dictionary_entries);
  const std::uint64_t texts = dictionary + sizeof(Word) * (1 + header_.dictionary_entries);
  while (texts_.size() < used) {
    Word where = 0;
    if (!bytes_->copy_untrusted(dictionary + sizeof(Word) * (texts_.size() + 1), &where,
                                sizeof where)) {
      return;
    }
    const std::uint64_t offset = where >> 32;
    const std::uint64_t size = where & 0xffffffff;
    std::string text;
    // Texts of a producer lie side by side; entries that share one would make much of little.
    if (size <= bus::kMaxLabelTextBytes && offset <= header_.dictionary_text_bytes &&
        offset % 8 == 0 && size <= header_.dictionary_text_bytes - offset &&
        size <= header_.dictionary_text_bytes - text_bytes_) {
      text.resize(size);
      if (!bytes_->copy_untrusted(texts + offset, text.data(), size)) return;
      text_bytes_ += size;
    }
    texts_.push_back(as_utf8_untrusted(text));
  }
}

std::string SegmentReader::dictionary_text(std::uint64_t entry) const {
  return entry == 0 || entry > texts_.size() ? std::string() : texts_[entry - 1];
}

}  // namespace rankbus
