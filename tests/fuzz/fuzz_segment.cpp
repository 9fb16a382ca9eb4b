// Goal:   whatever one segment holds, and however it changes while it is attached and read, its
//         reader neither fails nor waits, the segment beside it is read exactly, what was counted
//         never goes back, and everything that is printed can be read.
// Method: libFuzzer over lists of changes to real segments (segment_case.hpp); those that are
// `live`
//         are made and taken back by another thread all the time. Read as the aggregator reads:
//         bus, feeds, snapshot, text, JSON, log.
// Replay: build/fuzz/tests/fuzz/fuzz_segment FILE
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/mapping_guard.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/exporters/engine_log.hpp>
#include <rankbus/exporters/log_output.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <thread>
#include <tuple>

#include "fuzz_lib.hpp"
#include "segment_bases.hpp"
#include "segment_case.hpp"

namespace fuzz {
namespace {

constexpr const char* kName = "worker-0-0.00000000000000000000000000000bad";
constexpr std::uint64_t kPage = 4096;

// What a living writer changes comes after its name.
constexpr std::size_t kAfterIncarnation = offsetof(rankbus::bus::SegmentHeader, boot_id);

// The hostile file: its bytes as they should be by now, and the file itself.
class HostileFile {
 public:
  HostileFile(const std::string& bus, const Base& base) : path_(bus + "/" + kName), base_(base) {}
  ~HostileFile() {
    if (lock_ >= 0) close(lock_);
    if (fd_ >= 0) close(fd_);
    unlink(path_.c_str());
  }
  HostileFile(const HostileFile&) = delete;
  HostileFile& operator=(const HostileFile&) = delete;

  void begin(const Case& of) {
    bytes_ = of.has(kStartsLate) ? base_.late : base_.early;
    make_named(bytes_, kName);
    for (const Change& change : of.changes)
      if (change.moment() == 0 && !is_of_the_file(change)) apply(change);
    if (!of.has(kHashIsWrong)) repair_hash();
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    put(0, bytes_.data(), bytes_.size());
    for (const Change& change : of.changes)
      if (change.moment() == 0 && is_of_the_file(change)) apply(change);
    if (!of.has(kAlive)) return;
    lock_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    rankbus::bus::take_write_lock(lock_);
  }

  void die() {
    if (lock_ >= 0) close(lock_);
    lock_ = -1;
  }

  // There and back, as somebody would who wants to be between a check and a use.
  void flicker(const Change& change) {
    if (is_of_the_file(change) || change.what() == Part::progress) {
      apply(change);
      put(0, bytes_.data(), bytes_.size());
      (void)!ftruncate(fd_, static_cast<off_t>(bytes_.size()));
      return;
    }
    const SegmentMap::Place place = base_.map.place_of(change);
    if (place.offset + place.width > bytes_.size()) return;
    unsigned char changed[8];
    std::memcpy(changed, bytes_.data() + place.offset, sizeof changed);
    change_word(change, changed, place.width);
    put(place.offset, changed, place.width);
    put(place.offset, bytes_.data() + place.offset, place.width);
  }

  void apply(const Change& change) {
    const auto size = static_cast<std::uint64_t>(bytes_.size());
    switch (change.what()) {
      case Part::cut:
        if (fd_ >= 0) (void)!ftruncate(fd_, static_cast<off_t>(change.value % (size + 1)));
        return;
      case Part::grown:
        if (fd_ >= 0) (void)!ftruncate(fd_, static_cast<off_t>(size + change.value % (8 * kPage)));
        return;
      case Part::hole:
        if (fd_ >= 0) {
          (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(change.index % (size / kPage) * kPage),
                          static_cast<off_t>((1 + change.where % 4u) * kPage));
        }
        return;
      case Part::progress:
        if (!change.is_live()) {
          bytes_ = base_.late;
          make_named(bytes_, kName);
        }
        put(kAfterIncarnation, base_.late.data() + kAfterIncarnation,
            base_.late.size() - kAfterIncarnation);
        return;
      case Part::moved: {
        const std::uint64_t from = change.index % (size / kPage) * kPage;
        const std::uint64_t to = change.where % (size / kPage) * kPage;
        write(to, std::vector<unsigned char>(
                      bytes_.begin() + static_cast<std::ptrdiff_t>(from),
                      bytes_.begin() + static_cast<std::ptrdiff_t>(from + kPage)));
        return;
      }
      case Part::records:
        add_records(change);
        return;
      case Part::new_checkpoint:
        add_checkpoint(change);
        return;
      default:
        break;
    }
    const SegmentMap::Place place = base_.map.place_of(change);
    if (place.offset + place.width > size) return;
    std::vector<unsigned char> changed(8);
    std::memcpy(changed.data(), bytes_.data() + place.offset, place.width);
    change_word(change, changed.data(), place.width);
    changed.resize(place.width);
    write(place.offset, changed);
  }

  std::uint64_t word(std::uint64_t offset) const {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }

 private:
  static bool is_of_the_file(const Change& change) {
    return change.what() == Part::cut || change.what() == Part::hole ||
           change.what() == Part::grown;
  }
  static void change_word(const Change& change, unsigned char* bytes, unsigned width) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes, width);
    value = change.how() == How::set   ? change.value
            : change.how() == How::add ? value + change.value
                                       : value ^ change.value;
    std::memcpy(bytes, &value, width);
  }
  void put(std::uint64_t offset, const unsigned char* from, std::size_t count) const {
    if (fd_ >= 0) (void)!pwrite(fd_, from, count, static_cast<off_t>(offset));
  }
  void write(std::uint64_t offset, const std::vector<unsigned char>& changed) {
    std::memcpy(bytes_.data() + offset, changed.data(), changed.size());
    put(offset, changed.data(), changed.size());
  }
  void write_word(std::uint64_t offset, std::uint64_t value) {
    std::memcpy(bytes_.data() + offset, &value, sizeof value);
    put(offset, bytes_.data() + offset, sizeof value);
  }

  // Slots first and then `published`, as a writer does; the payload is that of the record before in
  // that slot, but for one word.
  void add_records(const Change& change) {
    const auto& stream = base_.map.stream(change.where);
    const std::uint64_t published = base_.map.published_offset(change.where);
    const std::uint64_t first = word(published);
    const std::uint64_t count = 1 + (change.index & 0xff) % stream.capacity;
    const std::uint64_t changed = 1 + (change.index >> 8) % (stream.slot_bytes / 8 - 1);
    for (std::uint64_t record = first; record - first < count; ++record) {
      const std::uint64_t slot = base_.map.slot_offset(change.where, record);
      write_word(slot + 8 * changed, change.value);
      write_word(slot, 2 * record + 2);
    }
    write_word(published, first + count);
  }
  // Over the older one, with the totals of the newer, but for one word.
  void add_checkpoint(const Change& change) {
    const auto& stream = base_.map.stream(change.where);
    if (stream.checkpoint_words == 0) return;
    const std::uint64_t both[2] = {base_.map.checkpoint_offset(change.where, 0),
                                   base_.map.checkpoint_offset(change.where, 1)};
    const bool newer = word(both[1] + 8) >= word(both[0] + 8);
    const std::uint64_t from = both[newer ? 1 : 0], to = both[newer ? 0 : 1];
    const auto at = bytes_.begin() + static_cast<std::ptrdiff_t>(from + 8);
    write(to + 8, std::vector<unsigned char>(at, at + 8 * std::ptrdiff_t{stream.checkpoint_words}));
    write_word(to + 8, word(base_.map.published_offset(change.where)));
    if (change.how() != How::set)
      write_word(to + 8 + 8 * (change.index % stream.checkpoint_words), change.value);
    write_word(to, (word(to) | 1) + 1);
  }
  void repair_hash() {
    auto& header = *reinterpret_cast<rankbus::bus::SegmentHeader*>(bytes_.data());
    if (header.schema_offset > bytes_.size() ||
        header.schema_bytes > bytes_.size() - header.schema_offset) {
      return;
    }
    header.schema_hash =
        rankbus::bus::fnv1a(bytes_.data() + header.schema_offset, header.schema_bytes);
  }

  const std::string path_;
  const Base& base_;
  std::vector<unsigned char> bytes_;
  int fd_ = -1;
  int lock_ = -1;
};

// Makes the live changes all the time between `begin` and `end`.
class Meddler {
 public:
  Meddler() : thread_([this] { work(); }) {}
  ~Meddler() {
    is_leaving_ = true;
    turn_.fetch_add(1);
    turn_.notify_all();
    thread_.join();
  }
  void begin(HostileFile& file, const std::vector<Change>& changes) {
    file_ = &file;
    changes_ = &changes;
    is_needed_ = true;
    rounds_ = 0;
    turn_.fetch_add(1);
    turn_.notify_all();
    // It is in the middle of it when reading begins.
    rounds_.wait(0);
  }
  void end() {
    is_needed_ = false;
    is_working_.wait(true);
  }

 private:
  void work() {
    for (std::uint64_t seen = 0;;) {
      turn_.wait(seen);
      seen = turn_.load();
      if (is_leaving_) return;
      is_working_ = true;
      do {
        for (const Change& change : *changes_)
          if (change.is_live()) file_->flicker(change);
        rounds_.fetch_add(1);
        rounds_.notify_all();
      } while (is_needed_);
      is_working_ = false;
      is_working_.notify_all();
    }
  }

  HostileFile* file_ = nullptr;
  const std::vector<Change>* changes_ = nullptr;
  std::atomic<std::uint64_t> turn_{0};
  std::atomic<std::uint32_t> rounds_{0};
  std::atomic<bool> is_needed_{false}, is_working_{false}, is_leaving_{false};
  std::thread thread_;
};

// Everything that lives as long as the process.
struct World {
  std::string bus = folder() + "/bus";
  const std::vector<Base>& kinds = bases(bus);
  rankbus::Producer good;
  std::uint64_t good_records = 0;
  rankbus::Dialect dialects[2] = {rankbus::Dialect::load({"vllm"}).value(),
                                  rankbus::Dialect::load({"sglang", true, true}).value()};
  std::string log_path = folder() + "/log";
  rankbus::LogOutput log =
      rankbus::LogOutput::open({spdlog::level::debug, false, log_path}).value();
  Meddler meddler;

  World() {
    rankbus::OpenOptions options;
    options.bus = bus.c_str();
    options.server = "good";
    options.model = "good";
    options.records[0] = rankbus::record_type<llm_engine::Tally>();
    options.segment_bytes = 1;
    good = rankbus::Producer::open(options);
    FUZZ_REQUIRE(!good.inert(), good.reason());
    FUZZ_REQUIRE(rankbus::MappingGuard::install(), "");
  }
};
World& world() {
  static World all;
  return all;
}

// The segment beside the hostile one has all that was written, and its totals are the formula's.
FUZZ_UNSEEN void require_good_is_exact(const rankbus::BusReader& bus) {
  const World& all = world();
  const auto found = bus.live().find(all.good.segment_name());
  FUZZ_REQUIRE(found != bus.live().end(), "the good segment is not read");
  const rankbus::SegmentReader& reader = *found->second.reader;
  FUZZ_REQUIRE(reader.error().empty() && found->second.quarantine.empty(), reader.error());
  const rankbus::StreamState& stream = reader.streams()[0];
  const std::uint64_t n = all.good_records;
  const auto seen = std::to_string(stream.position) + " of " + std::to_string(n);
  FUZZ_REQUIRE(stream.position == n && stream.mismatches == 0, seen);
  const auto& plan = stream.schema.plan;
  FUZZ_REQUIRE(stream.totals[plan.fields[1].totals_offset] == n, seen);
  FUZZ_REQUIRE(stream.totals[plan.fields[2].totals_offset] == n * (n - 1) / 2, seen);
  std::uint64_t cells = 0;
  for (std::uint32_t i = 1; i < plan.fields[3].row_words; ++i)
    cells += stream.totals[plan.fields[3].totals_offset + i];
  FUZZ_REQUIRE(cells == n, seen);
}

// What was read of the hostile segment never becomes less, and nothing at all changes once it is
// quarantined. Sums of integers are left out: they wrap, and who writes them may do so.
class HostileHistory {
 public:
  FUZZ_UNSEEN void look(const rankbus::BusReader& bus) {
    const auto found = bus.live().find(kName);
    if (found == bus.live().end()) return;
    const rankbus::SegmentReader& reader = *found->second.reader;
    std::vector<Stream> now;
    for (const rankbus::StreamState& stream : reader.streams()) now.push_back(take(stream));
    if (!before_.empty() && serial_ == reader.serial()) compare(now);
    before_ = std::move(now);
    serial_ = reader.serial();
    was_quarantined_ = !found->second.quarantine.empty();
  }

 private:
  struct Stream {
    std::uint64_t position, published, verified, skipped, mismatches;
    std::vector<std::uint64_t> totals;
    std::vector<std::uint64_t> cells;
  };

  FUZZ_UNSEEN static Stream take(const rankbus::StreamState& stream) {
    Stream taken{stream.position,
                 stream.published,
                 stream.verified,
                 stream.skipped,
                 stream.mismatches,
                 {stream.totals.begin(), stream.totals.end()},
                 {}};
    const auto& plan = stream.schema.plan;
    for (std::uint32_t f = 0; f < plan.field_count; ++f) {
      const auto& field = plan.fields[f];
      if (field.kind != rankbus::bus::Kind::distribution) continue;
      const std::uint32_t rows = field.by_labels != 0 ? plan.label_rows : 1;
      for (std::uint32_t i = 0; i < rows * field.row_words; ++i)
        if (i % field.row_words != 0) taken.cells.push_back(stream.totals[field.totals_offset + i]);
    }
    return taken;
  }
  FUZZ_UNSEEN void compare(const std::vector<Stream>& now) const {
    for (std::size_t s = 0; s < now.size(); ++s) {
      const Stream &was = before_[s], &is = now[s];
      const std::string which = "stream " + std::to_string(s);
      FUZZ_REQUIRE(is.position >= was.position && is.published >= was.published, which);
      FUZZ_REQUIRE(is.verified >= was.verified && is.skipped >= was.skipped, which);
      FUZZ_REQUIRE(is.mismatches >= was.mismatches, which);
      for (std::size_t i = 0; i < is.cells.size(); ++i) {
        // A cell that a checkpoint put next to its end may pass it.
        const bool wraps = was.cells[i] > ~std::uint64_t{0} / 2;
        FUZZ_REQUIRE(wraps || is.cells[i] >= was.cells[i], which + ", cell " + std::to_string(i));
      }
      FUZZ_REQUIRE(!was_quarantined_ || (is.totals == was.totals && is.position == was.position),
                   which + " changed in quarantine");
    }
  }

  std::vector<Stream> before_;
  std::uint64_t serial_ = 0;
  bool was_quarantined_ = false;
};

// Counts that outlive the segment: those of its identity, as everybody sees them.
class CountHistory {
 public:
  FUZZ_UNSEEN void look(const rankbus::Snapshot& snapshot) {
    std::map<Key, std::uint64_t> now;
    for (const rankbus::Family& family : snapshot.families) {
      if (family.name != "rankbus_records_total") continue;
      for (const rankbus::Series& series : family.series) {
        const auto& number = std::get<rankbus::Number>(series.value);
        if (const auto* count = std::get_if<std::uint64_t>(&number)) now[series.labels] = *count;
      }
    }
    for (const auto& [labels, count] : before_) {
      const auto found = now.find(labels);
      FUZZ_REQUIRE(found != now.end(), "a series of records is gone");
      FUZZ_REQUIRE(found->second >= count, "rankbus_records_total went back");
    }
    before_ = std::move(now);
  }

 private:
  using Key = rankbus::Labels;
  std::map<Key, std::uint64_t> before_;
};

void render(rankbus::Snapshot& snapshot, rankbus::Feeds& feeds, const Case& of) {
  World& all = world();
  rankbus::AlertBoard board;
  rankbus::AlertWatch watch;
  board.begin(snapshot.monotonic_s);
  watch.look(snapshot.families, snapshot.monotonic_s, board);
  feeds.analysis.raise_alerts(board);
  for (const rankbus::AlertChange& change : board.end()) {
    snapshot.alerts.push_back({change.alert.name, rankbus::alert_level_name(change.alert.level),
                               change.alert.message, change.is_over, change.held_s});
  }
  all.dialects[of.has(kOtherDialect) ? 1 : 0].apply(snapshot.families);
  std::string text;
  rankbus::render_prometheus_text(snapshot, {}, text);
  require_prometheus_text(text);
  for (const rankbus::EngineAnalysis& analysis : feeds.analysis.analyses())
    FUZZ_REQUIRE(nlohmann::json::accept(analysis.json), analysis.json);
  rankbus::EngineLog log(all.log.logger());
  log.observe(snapshot);
  log.log(snapshot);
}

void require_log_is_lines() {
  const std::vector<unsigned char> text = bytes_of(world().log_path);
  require_log_lines({reinterpret_cast<const char*>(text.data()), text.size()});
}

void run(const Case& of) {
  World& all = world();
  HostileFile file(all.bus, all.kinds[of.base % all.kinds.size()]);
  file.begin(of);
  rankbus::BusOptions options;
  options.directory = all.bus;
  options.observe = of.has(kObserve);
  options.access = of.has(kMapped) ? rankbus::ByteAccess::mapped : rankbus::ByteAccess::copied;
  const auto warn = [&](const std::string& text) { all.log.logger()->warn("{}", text); };
  (void)!truncate(all.log_path.c_str(), 0);
  auto opened = rankbus::BusReader::open(options, warn);
  FUZZ_REQUIRE(opened, opened.error());
  rankbus::BusReader& bus = **opened;
  rankbus::TickClock clock;
  rankbus::Feeds feeds;
  HostileHistory history;
  CountHistory counts;
  const bool is_meddled_with = std::any_of(of.changes.begin(), of.changes.end(),
                                           [](const Change& change) { return change.is_live(); });
  if (is_meddled_with) all.meddler.begin(file, of.changes);
  const unsigned passes = of.pass_count();
  double now_s = static_cast<double>(rankbus::bus::monotonic_ns()) * 1e-9;
  for (unsigned pass = 0; pass < passes; ++pass) {
    all.good.record(bus_test::tally(all.good_records++));
    const bool is_last = pass + 1 == passes;
    if (is_last && is_meddled_with) all.meddler.end();
    if (is_last && of.has(kDies)) file.die();
    // Time that passes between two looks, so that nobody has to wait for it.
    now_s += pass % 2 == 0 ? 0.02 : 1.5;
    const bool is_fresh = is_last || pass == 0 || (of.fresh >> pass & 1) != 0;
    clock.update();
    feeds.pass(bus, clock, now_s, is_fresh);
    if (is_fresh) require_good_is_exact(bus);
    history.look(bus);
    if (of.is_shown() && (is_last || (of.fresh >> (4 + pass) & 1) != 0)) {
      rankbus::Snapshot snapshot = rankbus::make_snapshot(bus, feeds, clock, now_s, {});
      counts.look(snapshot);
      if (is_last) {
        snapshot.intervals = feeds.samples.take_interval(bus);
        snapshot.iterations = feeds.samples.take_iterations();
        render(snapshot, feeds, of);
      }
    }
    if (is_last) require_log_is_lines();
    if (is_last) break;
    // Only one of the two writes at a time, so that what is there is what the case says.
    if (is_meddled_with) all.meddler.end();
    for (const Change& change : of.changes)
      if (!change.is_live() && change.moment() == pass + 1) file.apply(change);
    if (is_meddled_with && pass + 2 < passes) all.meddler.begin(file, of.changes);
  }
}

// A value that this place may mind: offsets and sizes near those of other parts, what is there and
// its neighbours, and odd numbers.
void choose_value(Change& change, const Base& base, Random& random) {
  const SegmentMap& map = base.map;
  const auto& stream = map.stream(below(random, map.stream_count()));
  const std::uint64_t known[] = {map.bytes(),
                                 map.header().schema_offset,
                                 map.header().schema_bytes,
                                 map.header().dictionary_offset,
                                 map.header().activity_offset,
                                 map.header().status_offset,
                                 stream.slots_offset,
                                 stream.checkpoint_offset,
                                 stream.capacity,
                                 stream.slot_bytes,
                                 stream.checkpoint_words,
                                 2 * kEarlyRecords + 2,
                                 kLateRecords,
                                 stream.label_rows};
  change.when = static_cast<std::uint8_t>(change.when & 7);
  switch (below(random, 4)) {
    case 0:
      change.when |= static_cast<std::uint8_t>(How::add) << 3;
      change.value = below(random, 9) - 4;
      break;
    case 1:
      change.when |= static_cast<std::uint8_t>(How::flip) << 3;
      change.value = std::uint64_t{1} << below(random, 64);
      break;
    case 2:
      change.value = known[below(random, std::size(known))] + 8 * (below(random, 5) - 2);
      break;
    default:
      change.value = odd_number(random);
      break;
  }
}

Change new_change(const Base& base, Random& random) {
  Change change;
  change.part = static_cast<std::uint8_t>(below(random, static_cast<unsigned>(Part::count)));
  change.where = static_cast<std::uint16_t>(below(random, 2 * base.map.stream_count()));
  change.index = static_cast<std::uint32_t>(random());
  // Most words of a checkpoint or a slot are amounts; those that steer come first.
  const bool steers = one_in(random, 2);
  if (steers && change.what() == Part::checkpoint) {
    change.index = static_cast<std::uint32_t>(below(random, 1 + rankbus::bus::kBodyHeadWords));
  } else if (steers && change.what() == Part::slot) {
    const auto& stream = base.map.stream(change.where);
    change.index =
        static_cast<std::uint32_t>(below(random, stream.capacity) * stream.slot_bytes / 8);
  } else if (steers && change.what() == Part::new_checkpoint) {
    change.index = static_cast<std::uint32_t>(below(random, rankbus::bus::kBodyHeadWords));
  }
  // One change in six is made while the segment is read, most of the others before.
  const std::uint64_t when = below(random, 12);
  change.when = static_cast<std::uint8_t>(when < 2 ? 4 : when < 5 ? when - 1 : 0);
  choose_value(change, base, random);
  return change;
}

void mutate(Case& of, Random& random) {
  const auto& kinds = world().kinds;
  const Base& base = kinds[of.base % kinds.size()];
  auto& changes = of.changes;
  switch (below(random, 10)) {
    case 0:
      of.flags = static_cast<std::uint8_t>(of.flags ^ 1u << below(random, 7));
      return;
    case 1:
      of.passes = static_cast<std::uint8_t>(below(random, 16));
      of.fresh = static_cast<std::uint8_t>(random());
      return;
    case 2:
      of.base = static_cast<std::uint8_t>(below(random, kinds.size()));
      return;
    case 3:
      if (changes.size() > 1)
        changes.erase(changes.begin() + static_cast<std::ptrdiff_t>(below(random, changes.size())));
      return;
    case 4:
    case 5:
    case 6:
      if (changes.size() < Case::kMostChanges) {
        changes.insert(
            changes.begin() + static_cast<std::ptrdiff_t>(below(random, changes.size() + 1)),
            new_change(base, random));
      }
      return;
    default:
      break;
  }
  if (changes.empty()) return;
  Change& change = changes[below(random, changes.size())];
  switch (below(random, 4)) {
    case 0:
      choose_value(change, base, random);
      return;
    case 1:
      change.index += static_cast<std::uint32_t>(below(random, 9)) - 4;
      return;
    case 2:
      change.where = static_cast<std::uint16_t>(below(random, 2 * base.map.stream_count()));
      return;
    default:
      change.when = static_cast<std::uint8_t>((change.when & 0x18) | below(random, 5));
      return;
  }
}

}  // namespace
}  // namespace fuzz

// C-19
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  fuzz::run(fuzz::Case::parse(data, bytes));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t bytes,
                                               std::size_t room, unsigned seed) {
  fuzz::Random random(seed);
  // Now and then bytes are bytes.
  if (fuzz::one_in(random, 8)) return LLVMFuzzerMutate(data, bytes, room);
  fuzz::Case of = fuzz::Case::parse(data, bytes);
  for (std::uint64_t left = 1 + fuzz::below(random, 3); left > 0; --left) fuzz::mutate(of, random);
  return of.write(data, room);
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* one, std::size_t one_bytes,
                                                 const std::uint8_t* other, std::size_t other_bytes,
                                                 std::uint8_t* out, std::size_t room,
                                                 unsigned seed) {
  fuzz::Random random(seed);
  fuzz::Case of = fuzz::Case::parse(one, one_bytes);
  const fuzz::Case with = fuzz::Case::parse(other, other_bytes);
  for (const fuzz::Change& change : with.changes)
    if (fuzz::one_in(random, 2) && of.changes.size() < fuzz::Case::kMostChanges)
      of.changes.push_back(change);
  return of.write(out, room);
}
