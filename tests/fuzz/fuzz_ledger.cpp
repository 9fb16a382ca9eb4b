// Goal:   whatever the ledger's file holds, it is refused with a reason, or it is a ledger: it
// comes
//         back equal when it is written again, and an aggregator that starts from it reads its bus,
//         counts what the ledger does not name exactly, and leaves a ledger that can be read.
// Method: libFuzzer over files of the ledger, changed in what they say (with a fitting checksum)
// and
//         byte by byte. The bus has a living, a dead and an unknown segment, whose names the ledger
//         may say anything about.
// Replay: build/fuzz/tests/fuzz/fuzz_ledger FILE
#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/ledger.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/exporters/prometheus_text.hpp>

#include "fuzz_lib.hpp"
#include "segment_bases.hpp"

namespace fuzz {
namespace {

using rankbus::LedgerImage;

constexpr std::size_t kHeadBytes = 32;
constexpr const char* kLiving = "worker-0-0.00000000000000000000000000000001";
constexpr const char* kDead = "worker-0-1.00000000000000000000000000000002";

// As the format says it.
std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t sum = 0x9e3779b97f4a7c15ull ^ bytes.size();
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at));
    sum = (sum ^ word) * 0xff51afd7ed558ccdull;
    sum ^= sum >> 32;
  }
  return sum;
}

// Makes the head fit what the payload has become.
void seal(std::string& bytes) {
  if (bytes.size() < kHeadBytes) bytes.resize(kHeadBytes);
  const std::uint64_t size = bytes.size() - kHeadBytes;
  const std::uint64_t sum = checksum(std::string_view(bytes).substr(kHeadBytes));
  // Of the first format as of the present one; of any other nothing more is read.
  std::uint64_t format = 0;
  std::memcpy(&format, bytes.data() + 8, sizeof format);
  if (format != 1) format = rankbus::kLedgerFormat;
  std::memcpy(bytes.data(), "RBLEDGER", 8);
  std::memcpy(bytes.data() + 8, &format, sizeof format);
  std::memcpy(bytes.data() + 16, &size, sizeof size);
  std::memcpy(bytes.data() + 24, &sum, sizeof sum);
}

// A bus whose segments are put back as they were for every input.
class World {
 public:
  World() {
    rankbus::OpenOptions options;
    options.bus = bus_.c_str();
    options.server = options.model = "good";
    options.records[0] = rankbus::record_type<llm_engine::Tally>();
    options.segment_bytes = 1;
    good_ = rankbus::Producer::open(options);
    FUZZ_REQUIRE(!good_.inert(), good_.reason());
    for (std::uint64_t n = 0; n < kGoodRecords; ++n) good_.record(bus_test::tally(n));
    segment_ = bases(bus_)[0].late;
    put(kLiving);
    lock_ = open((bus_ + "/" + kLiving).c_str(), O_RDWR | O_CLOEXEC);
    FUZZ_REQUIRE(rankbus::bus::take_write_lock(lock_), "");
  }
  const std::string& bus() const { return bus_; }
  const rankbus::Producer& good() const { return good_; }
  static constexpr std::uint64_t kGoodRecords = 70;

  void reset(const std::string& ledger) {
    put(kDead);
    put_file(rankbus::kLedgerFiles[0], ledger.data(), ledger.size());
    unlink((bus_ + "/" + rankbus::kLedgerFiles[1]).c_str());
    // Whoever took the living one's name away in the run before.
    if (access((bus_ + "/" + kLiving).c_str(), F_OK) != 0) {
      close(lock_);
      put(kLiving);
      lock_ = open((bus_ + "/" + kLiving).c_str(), O_RDWR | O_CLOEXEC);
      FUZZ_REQUIRE(rankbus::bus::take_write_lock(lock_), "");
    }
  }

 private:
  void put(const char* name) {
    make_named(segment_, name);
    put_file(name, segment_.data(), segment_.size());
  }
  void put_file(const char* name, const void* bytes, std::size_t count) const {
    const int fd =
        open((bus_ + "/" + name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_REQUIRE(fd >= 0 && ::write(fd, bytes, count) == static_cast<ssize_t>(count), name);
    close(fd);
  }

  std::string bus_ = folder() + "/bus";
  std::vector<unsigned char> segment_;
  rankbus::Producer good_;
  int lock_ = -1;
};
World& world() {
  static World all;
  return all;
}

// A fresh pass goes on while somebody is dying; who is read no more must not be.
void require_nobody_waits(const rankbus::BusReader& bus) {
  for (const auto& [name, segment] : bus.live())
    FUZZ_REQUIRE(segment.quarantine.empty() || !segment.is_dying, name);
}

// One life of an aggregator: a pass, everything shown, the ledger kept, the end.
void live_once(bool names_good, int passes) {
  World& all = world();
  rankbus::BusOptions options;
  options.directory = all.bus();
  options.ledger.keep = true;
  options.ledger.save_every_s = 0;
  auto opened = rankbus::BusReader::open(options, [](const std::string&) {});
  FUZZ_REQUIRE(opened, opened.error());
  rankbus::BusReader& bus = **opened;
  rankbus::TickClock clock;
  rankbus::Feeds feeds;
  for (const auto& [name, bytes] : bus.sections_at_start())
    (void)feeds.analysis.restore_untrusted(bytes);
  const auto sections = [&] {
    return rankbus::Ledger::Sections{{"goodput", feeds.analysis.saved_counters()}};
  };
  const double now_s = static_cast<double>(rankbus::bus::monotonic_ns()) * 1e-9;
  std::string text;
  for (int pass = 0; pass < passes; ++pass) {
    feeds.pass(bus, clock, now_s + pass, true);
    require_nobody_waits(bus);
    bus.keep_ledger(now_s + pass, sections);
    rankbus::Snapshot snapshot = rankbus::make_snapshot(bus, feeds, clock, now_s + pass, {});
    text.clear();
    rankbus::render_prometheus_text(snapshot, {}, text);
    require_prometheus_text(text);
  }
  bus.finish(now_s + 2, sections);
  if (!names_good) {
    const auto found = bus.live().find(all.good().segment_name());
    FUZZ_REQUIRE(found != bus.live().end(), "the segment that no ledger names is not read");
    const rankbus::StreamState& stream = found->second.reader->streams()[0];
    FUZZ_REQUIRE(found->second.quarantine.empty(), found->second.quarantine);
    const auto& plan = stream.schema.plan;
    FUZZ_REQUIRE(stream.totals[plan.fields[1].totals_offset] == World::kGoodRecords, text);
  }
  FUZZ_REQUIRE(bus.ledger()->status().failures == 0, bus.ledger()->status().trouble);
}

void run(std::string_view bytes) {
  auto parsed = rankbus::parse_untrusted_ledger(bytes);
  if (!parsed) {
    FUZZ_REQUIRE(!parsed.error().empty(), "refused without a reason");
    return;
  }
  LedgerImage& image = parsed.value();
  const std::string once = rankbus::encode_ledger(image);
  auto again = rankbus::parse_untrusted_ledger(once);
  FUZZ_REQUIRE(again, again.error());
  FUZZ_REQUIRE(rankbus::encode_ledger(again.value()) == once, "changed by being written");
  // Most of what it says is about the kernel that wrote it.
  if (image.boot_id[0] == 0) image.boot_id = rankbus::this_boot();
  World& all = world();
  all.reset(rankbus::encode_ledger(image));
  const std::string good = all.good().segment_name();
  const bool names_good = image.incarnations.count(good) != 0 || image.retired.count(good) != 0;
  live_once(names_good, 2);
  live_once(names_good, 1);
}

// What mutations draw from.
const char* const kTexts[] = {"",
                              "good",
                              "tally_records_total",
                              "tile_a_total",
                              "vllm:generation_tokens_total",
                              "rankbus_records_total",
                              "a server",
                              "kind",
                              "two\nlines\"\\",
                              "\xff\xc0\xaf",
                              "le",
                              "__name__"};

std::string some_text(Random& random) {
  if (one_in(random, 6)) return std::string(below(random, 200), 'x');
  return kTexts[below(random, std::size(kTexts))];
}
double some_time(Random& random) {
  const double now_s = static_cast<double>(rankbus::bus::monotonic_ns()) * 1e-9;
  const double times[] = {0, now_s, -now_s, now_s + 1e9, 1e300, -1e300, 5e-324};
  return times[below(random, std::size(times))];
}
std::string some_segment(Random& random) {
  switch (below(random, 4)) {
    case 0:
      return kLiving;
    case 1:
      return kDead;
    case 2:
      return world().good().segment_name();
    default:
      return "worker-9-9.000000000000000000000000000000" +
             std::string(1, static_cast<char>('0' + below(random, 10))) + "f";
  }
}

rankbus::Identity some_identity(Random& random) {
  rankbus::Identity who;
  who.server = who.server_label = some_text(random);
  who.model = some_text(random);
  who.engine = static_cast<std::uint32_t>(below(random, 3));
  who.role =
      static_cast<std::uint32_t>(one_in(random, 4) ? odd_number(random) : 1 + below(random, 4));
  who.rank = static_cast<std::uint32_t>(one_in(random, 2) ? odd_number(random) : 0);
  who.lane = static_cast<std::uint32_t>(below(random, 3));
  return who;
}

rankbus::FieldValue some_value(Random& random) {
  rankbus::FieldValue value;
  value.help = some_text(random);
  value.kind = one_in(random, 2)   ? rankbus::bus::Kind::counter
               : one_in(random, 2) ? rankbus::bus::Kind::running_total
                                   : rankbus::bus::Kind::distribution;
  value.type = static_cast<rankbus::bus::Type>(1 + below(random, 6));
  value.unit = static_cast<rankbus::bus::Unit>(1 + below(random, 5));
  value.reduction = static_cast<rankbus::bus::Reduction>(1 + below(random, 8));
  value.bits = odd_number(random);
  value.records = odd_number(random);
  if (value.kind != rankbus::bus::Kind::distribution) return value;
  std::vector<double> bounds;
  value.cells.resize(1 + below(random, 12));
  for (std::size_t i = 0; i < value.cells.size() && one_in(random, 2); ++i) {
    bounds.push_back(static_cast<double>(i) + 0.5);
    value.classic_cells.push_back(static_cast<std::uint16_t>(i));
  }
  for (std::uint64_t& cell : value.cells) cell = odd_number(random);
  value.bounds = std::make_shared<const std::vector<double>>(bounds);
  return value;
}

void change_values(rankbus::FieldValues& values, Random& random) {
  if (!values.empty() && one_in(random, 3)) {
    values.erase(values.begin());
  } else if (!values.empty() && one_in(random, 2)) {
    auto at = values.begin();
    std::advance(at, below(random, values.size()));
    at->second.bits = odd_number(random);
    at->second.records = odd_number(random);
  } else {
    rankbus::Labels labels;
    if (one_in(random, 2)) labels.emplace_back("kind", some_text(random));
    values[{kTexts[2 + below(random, 4)], labels}] = some_value(random);
  }
}
rankbus::StreamCounts some_counts(Random& random) {
  rankbus::StreamCounts counts;
  counts.records = odd_number(random);
  counts.lost_lapped = odd_number(random);
  counts.verified = odd_number(random);
  counts.mismatches = below(random, 2);
  return counts;
}

void change_identity(LedgerImage& image, Random& random) {
  rankbus::Identity who = some_identity(random);
  rankbus::IdentityState state;
  if (!image.identities.empty() && !one_in(random, 4)) {
    auto at = image.identities.begin();
    std::advance(at, below(random, image.identities.size()));
    who = at->first;
    state = *at->second;
  }
  switch (below(random, 5)) {
    case 0:
      state.last_alive_s = some_time(random);
      state.last_active_s = some_time(random);
      break;
    case 1:
      state.retired.streams[kTexts[below(random, 4)]] = some_counts(random);
      state.retired.incarnations = odd_number(random);
      break;
    case 2:
      state.ranks_expected = static_cast<std::uint32_t>(odd_number(random));
      state.began_realtime_s = some_time(random);
      state.last_stamp = odd_number(random);
      break;
    default:
      change_values(state.retired.values, random);
      break;
  }
  image.identities[who] = std::make_shared<const rankbus::IdentityState>(state);
}

void change_incarnation(LedgerImage& image, Random& random) {
  const std::string name = some_segment(random);
  rankbus::LedgerIncarnation state;
  if (const auto found = image.incarnations.find(name); found != image.incarnations.end()) {
    state = *found->second;
  } else {
    state.who = image.identities.empty() || one_in(random, 2) ? some_identity(random)
                                                              : image.identities.begin()->first;
  }
  switch (below(random, 4)) {
    case 0:
      state.quarantine = some_text(random);
      break;
    case 1:
      for (const char* stream : {"tile", "swap", "mark"})
        if (one_in(random, 2)) state.streams.emplace_back(stream, some_counts(random));
      if (one_in(random, 3)) state.streams.clear();
      break;
    case 2:
      state.last_stamp = odd_number(random);
      state.last_active_s = some_time(random);
      break;
    default:
      change_values(state.totals, random);
      break;
  }
  image.retired.erase(name);
  image.incarnations[name] = std::make_shared<const rankbus::LedgerIncarnation>(state);
}

void change_image(LedgerImage& image, Random& random) {
  switch (below(random, 8)) {
    case 0:
      image.generation = one_in(random, 2) ? 1 + below(random, 5) : odd_number(random);
      break;
    case 1:
      image.boot_id[0] = static_cast<std::uint8_t>(below(random, 2));
      image.written_s = some_time(random);
      image.written_realtime_s = some_time(random);
      break;
    case 2: {
      const std::string name = some_segment(random);
      image.incarnations.erase(name);
      if (image.retired.erase(name) == 0) image.retired.insert(name);
      break;
    }
    case 3:
      image.sections[one_in(random, 2) ? "goodput" : some_text(random)] = some_text(random);
      break;
    case 4:
    case 5:
      change_incarnation(image, random);
      break;
    default:
      change_identity(image, random);
      break;
  }
}

// An image as a list of changes to none, and then of damage to its bytes: a corpus of these
// outlives the format. A step: kind 1 | spare 1 | position 2 | seed 4.
struct Step {
  std::uint8_t kind, spare;
  std::uint16_t position;
  std::uint32_t seed;
};
static_assert(sizeof(Step) == 8);

void damage(std::string& file, const Step& step) {
  Random random(step.seed);
  if (file.size() <= kHeadBytes) return;
  const std::size_t at = kHeadBytes + step.position % (file.size() - kHeadBytes);
  const std::uint64_t word = odd_number(random);
  switch (below(random, 4)) {
    case 0:
      file[at] = static_cast<char>(word);
      return;
    case 1:
      std::memcpy(file.data() + at, &word, std::min<std::size_t>(8, file.size() - at));
      return;
    case 2:
      file.erase(at, 1 + below(random, 16));
      return;
    default:
      file.insert(at, 1 + below(random, 16), static_cast<char>(word));
      return;
  }
}

std::string file_of(std::string_view description) {
  LedgerImage image;
  image.generation = 1;
  std::vector<Step> later;
  for (; description.size() >= sizeof(Step); description.remove_prefix(sizeof(Step))) {
    Step step;
    std::memcpy(&step, description.data(), sizeof step);
    if (step.kind % 4 == 3) {
      later.push_back(step);
    } else {
      Random random(step.seed);
      change_image(image, random);
    }
  }
  std::string file = rankbus::encode_ledger(image);
  for (const Step& step : later) damage(file, step);
  seal(file);
  return file;
}

}  // namespace
}  // namespace fuzz

// C-19
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, bytes - 1);
  data[0] == 'f' ? fuzz::run(rest) : fuzz::run(fuzz::file_of(rest));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t bytes,
                                               std::size_t room, unsigned seed) {
  fuzz::Random random(seed);
  if (bytes < 1 + fuzz::kHeadBytes || data[0] != 'f') {
    bytes = LLVMFuzzerMutate(data, bytes, room);
    // A description becomes the file that it describes.
    if (bytes == 0 || bytes > 400 || !fuzz::one_in(random, 50)) return bytes;
    const std::string file =
        "f" + fuzz::file_of({reinterpret_cast<const char*>(data) + 1, bytes - 1});
    if (file.size() > room) return bytes;
    std::memcpy(data, file.data(), file.size());
    return file.size();
  }
  if (fuzz::one_in(random, 16)) return LLVMFuzzerMutate(data, bytes, room);
  std::string file(reinterpret_cast<const char*>(data) + 1, bytes - 1);
  auto parsed = rankbus::parse_untrusted_ledger(file);
  if (parsed && fuzz::one_in(random, 2)) {
    fuzz::change_image(parsed.value(), random);
    file = rankbus::encode_ledger(parsed.value());
  } else {
    const std::size_t head = 1 + fuzz::kHeadBytes;
    const std::size_t payload = LLVMFuzzerMutate(data + head, bytes - head, room - head);
    file.assign(reinterpret_cast<const char*>(data) + 1, fuzz::kHeadBytes + payload);
    fuzz::seal(file);
  }
  if (file.size() + 1 > room) return bytes;
  std::memcpy(data + 1, file.data(), file.size());
  return 1 + file.size();
}
