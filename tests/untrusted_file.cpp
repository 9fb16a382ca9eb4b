// Labels: threads
// Goal:   a segment's file may be cut, punched, replaced or swapped under its reader at any moment;
//         the reader survives, its totals are those of the records it has read and never go back,
//         and the other ranks flow on, exact.
// Method: writers at full speed and attackers in processes of their own, at seeded moments; the
//         reader both behind the guard, as the aggregator, and by copies, as tools and Python.
// Replay: RANKBUS_TEST_SEED=<printed> untrusted_file [--gtest_filter=...]
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <rankbus/aggregator/aggregator.hpp>

#include "process_world.hpp"

namespace hostile {

// Slots of 192 bytes, some of which lie on two pages; every field is the record's number.
#define HOSTILE_STRIP_ROWS(FIELD, OPTIONAL, ARRAY)           \
  FIELD(std::uint64_t, number, stamp(), "From 1")            \
  FIELD(std::uint64_t, a, counter("strip_a_total"), "First") \
  FIELD(std::uint64_t, b, counter("strip_b_total"), "Next")  \
  FIELD(std::uint64_t, c, counter("strip_c_total"), "Next")  \
  FIELD(std::uint64_t, d, counter("strip_d_total"), "Next")  \
  FIELD(std::uint64_t, e, counter("strip_e_total"), "Next")  \
  FIELD(std::uint64_t, f, counter("strip_f_total"), "Next")  \
  FIELD(std::uint64_t, g, counter("strip_g_total"), "Next")  \
  FIELD(std::uint64_t, h, counter("strip_h_total"), "Next")  \
  FIELD(std::uint64_t, i, counter("strip_i_total"), "Next")  \
  FIELD(std::uint64_t, j, counter("strip_j_total"), "Next")  \
  FIELD(std::uint64_t, k, counter("strip_k_total"), "Next")  \
  FIELD(std::uint64_t, l, counter("strip_l_total"), "Next")  \
  FIELD(std::uint64_t, m, counter("strip_m_total"), "Next")  \
  FIELD(std::uint64_t, n, counter("strip_n_total"), "Next")  \
  FIELD(std::uint64_t, o, counter("strip_o_total"), "Next")  \
  FIELD(std::uint64_t, p, counter("strip_p_total"), "Last")
RANKBUS_RECORD(Strip, "strip", 1, "A long record", HOSTILE_STRIP_ROWS)

inline Strip strip(std::uint64_t n) {
  return {n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n};
}

}  // namespace hostile

namespace bus_test {
namespace {

using rankbus::BusReader;
using rankbus::ByteAccess;
using rankbus::LiveSegment;
using rankbus::MappingGuard;
using rankbus::Producer;
using rankbus::SegmentReader;

rankbus::OpenOptions tiles_of(const std::string& bus, std::uint32_t rank) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.segment_bytes = 64 << 10;
  return options;
}

// Totals that must be those of a number of tiles that only grows.
class TileTotals {
 public:
  testing::AssertionResult are_right(const LiveSegment& segment) {
    const rankbus::StreamState& stream = segment.reader->streams()[0];
    if (stream.position < model_.slots) {
      return testing::AssertionFailure()
             << "went back from " << model_.slots << " records to " << stream.position;
    }
    while (model_.slots < stream.position) model_.add(tile(model_.slots), 0);
    return equals_model(stream, model_);
  }
  std::uint64_t records() const { return model_.slots; }

 private:
  StreamModel<llm_engine::Tile> model_;
};

std::unique_ptr<BusReader> open_with(ByteAccess access, const std::string& bus, bool observe,
                                     std::vector<std::string>* warnings) {
  if (access == ByteAccess::mapped) (void)as_the_aggregator();
  rankbus::BusOptions options;
  options.directory = bus;
  options.observe = observe;
  options.access = access;
  auto opened = BusReader::open(options, [warnings](const std::string& text) {
    if (warnings != nullptr) warnings->push_back(text);
  });
  return opened ? std::move(opened.value()) : nullptr;
}

// A bus with a rank that nobody attacks, and a reader of it.
class World {
 public:
  explicit World(ByteAccess access)
      : reader_(open_with(access, folder_.bus(), false, &warnings_)),
        fine_(Producer::open(tiles_of(folder_.bus(), 9))) {}

  const std::string& bus() const { return folder_.bus(); }
  std::string path(const std::string& name) const { return bus() + "/" + name; }
  BusReader& reader() { return *reader_; }
  const LiveSegment* live(const std::string& name) const {
    const auto at = reader_->live().find(name);
    return at == reader_->live().end() ? nullptr : &at->second;
  }
  // A pass after which the rank that nobody attacks must be exact.
  void pass(bool fresh) {
    for (int n = 0; n < 10; ++n) fine_.record(tile(fine_records_++));
    reader_->pass(now_s(), fresh, [](const LiveSegment&, const rankbus::Sample&) {});
    const LiveSegment* fine = live(fine_.segment_name());
    if (fine == nullptr) return;
    EXPECT_EQ(fine->quarantine, "");
    EXPECT_TRUE(fine_totals_.are_right(*fine));
    if (fresh) {
      EXPECT_EQ(fine_totals_.records(), fine_records_);
    }
  }
  bool pass_until(const std::function<bool()>& condition) {
    return wait_until([&] {
      pass(true);
      return condition();
    });
  }
  std::size_t warnings_with(const std::string& words) const {
    return static_cast<std::size_t>(std::count_if(
        warnings_.begin(), warnings_.end(),
        [&](const std::string& text) { return text.find(words) != std::string::npos; }));
  }
  std::uint64_t fine_records() const { return fine_totals_.records(); }

 private:
  Folder folder_;
  std::vector<std::string> warnings_;
  std::unique_ptr<BusReader> reader_;
  Producer fine_;
  std::uint64_t fine_records_ = 0;
  TileTotals fine_totals_;
};

// A worker that records tiles as fast as it can, until it is killed, by us or by its own bus.
int write_tiles(const std::string& bus, const Line& line) {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  Producer producer = Producer::open(tiles_of(bus, 0));
  line.say(producer.inert() ? "" : producer.segment_name());
  for (std::uint64_t n = 0;; ++n) {
    producer.record(tile(n));
    // Slow enough for the reader to follow every record for a while, and to be lapped now and then.
    if (n % 4096 > 3500) continue;
    const std::uint64_t next = rankbus::bus::monotonic_ns() + 500;
    while (rankbus::bus::monotonic_ns() < next) {
    }
  }
}

class UntrustedFile : public testing::TestWithParam<ByteAccess> {
 protected:
  using Attack = std::function<bool(int fd, Dice& dice, off_t bytes)>;

  // A signal that was sent is not one that has arrived.
  static bool stop(pid_t pid) {
    if (kill(pid, SIGSTOP) != 0) return false;
    return wait_until([&] {
      std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
      const std::string text{std::istreambuf_iterator<char>(file), {}};
      return text.find(") T ") != std::string::npos;
    });
  }

  // One round: a writer, an attack at some moment while it is read, and what must be true
  // throughout. Returns the reason for which the segment is read no more, or empty.
  // A writer stopped for the attack does not fill again what was cut out of its file.
  std::string round(World& world, Dice& dice, bool ends_in_quarantine, const Attack& attack,
                    bool writer_is_stopped = false) {
    Child writer([&](const Line& line) { return write_tiles(world.bus(), line); });
    const std::string name = writer.hear();
    EXPECT_NE(name, "");
    TileTotals totals;
    EXPECT_TRUE(world.pass_until([&] {
      const LiveSegment* segment = world.live(name);
      return segment != nullptr && segment->reader->streams()[0].position > 0;
    }));
    const std::uint64_t moment = dice.below(3'000'000);
    Child attacker([&](const Line&) {
      const int fd = open(world.path(name).c_str(), O_RDWR | O_CLOEXEC);
      struct stat status {};
      if (fd < 0 || fstat(fd, &status) != 0) return 1;
      const std::uint64_t at = rankbus::bus::monotonic_ns() + moment;
      while (rankbus::bus::monotonic_ns() < at) {
      }
      if (writer_is_stopped && !stop(writer.pid())) return 3;
      return attack(fd, dice, status.st_size) ? 0 : 2;
    });
    std::string reason;
    std::uint64_t passes = 0, after = 0;
    EXPECT_TRUE(wait_until([&] {
      world.pass(++passes % 16 == 0);
      const LiveSegment* segment = world.live(name);
      if (segment == nullptr) return true;  // Dead, and read to its end.
      EXPECT_TRUE(totals.are_right(*segment)) << segment->quarantine;
      reason = segment->quarantine;
      if (attacker.is_running()) return false;
      return !reason.empty() || (!ends_in_quarantine && ++after > 50);
    }));
    EXPECT_EQ(attacker.wait(), 0);
    if (const LiveSegment* segment = world.live(name)) {
      const std::uint64_t kept = segment->reader->streams()[0].position;
      world.pass(true);
      EXPECT_TRUE(totals.are_right(*segment));
      if (!reason.empty()) {
        EXPECT_EQ(segment->reader->streams()[0].position, kept);
        const rankbus::FieldValues values = rankbus::extract_values(*segment->reader);
        EXPECT_EQ(values.at({"tile_d", {}}).records, kept) << "what it had read is still told";
      }
    }
    writer.kill9();
    unlink(world.path(name).c_str());
    return reason;
  }
};

INSTANTIATE_TEST_SUITE_P(Reader, UntrustedFile,
                         testing::Values(ByteAccess::mapped, ByteAccess::copied),
                         [](const auto& access) {
                           return access.param == ByteAccess::mapped ? "Mapped" : "Copied";
                         });

// C-21
TEST_P(UntrustedFile, Malicious_TruncatedWhileRead_CostsThatSegmentOnly) {
  World world(GetParam());
  Dice dice(test_seed());
  for (std::uint64_t n = 0; n < scaled(40); ++n) {
    const std::uint64_t kind = dice.below(4);
    const std::uint64_t where = dice.next();
    const std::string reason = round(world, dice, true, [&](int fd, Dice&, off_t bytes) {
      const off_t left =
          kind == 0   ? 0
          : kind == 1 ? bytes - 1
          : kind == 2 ? static_cast<off_t>(where % static_cast<std::uint64_t>(bytes))
                      : static_cast<off_t>(where % static_cast<std::uint64_t>(bytes) / 4096 * 4096);
      return ftruncate(fd, left) == 0;
    });
    EXPECT_NE(reason.find("truncated"), std::string::npos) << reason;
  }
  EXPECT_GT(world.fine_records(), 0u);
}

// The bytes come back as zeros, and the length says nothing.
// C-21
TEST_P(UntrustedFile, Malicious_TruncatedAndGrownAgain_NeverBecomesATotal) {
  World world(GetParam());
  Dice dice(test_seed() + 1);
  std::map<std::string, int> reasons;
  for (std::uint64_t n = 0; n < scaled(40); ++n) {
    const std::uint64_t where = dice.next();
    const std::string reason = round(world, dice, false, [&](int fd, Dice&, off_t bytes) {
      const auto left = static_cast<off_t>(where % static_cast<std::uint64_t>(bytes));
      return ftruncate(fd, left) == 0 && ftruncate(fd, bytes) == 0;
    });
    ++reasons[reason.substr(0, reason.find(" record "))];
  }
  for (const auto& [reason, count] : reasons) std::printf("%4d  %s\n", count, reason.c_str());
}

// C-21
TEST_P(UntrustedFile, Malicious_HolesPunchedWhileRead_NeverBecomeATotal) {
  World world(GetParam());
  Dice dice(test_seed() + 2);
  std::map<std::string, int> reasons;
  for (std::uint64_t n = 0; n < scaled(40); ++n) {
    const std::uint64_t first = dice.next();
    const std::uint64_t pages = 1 + dice.below(6);
    const std::string reason = round(world, dice, false, [&](int fd, Dice&, off_t bytes) {
      const auto all = static_cast<std::uint64_t>(bytes) / 4096;
      return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(first % all * 4096),
                       static_cast<off_t>(pages * 4096)) == 0;
    });
    ++reasons[reason.substr(0, reason.find(" record "))];
  }
  for (const auto& [reason, count] : reasons) std::printf("%4d  %s\n", count, reason.c_str());
}

TEST_P(UntrustedFile, Malicious_EmptiedWhileItsWriterIsStopped_IsNoticed) {
  World world(GetParam());
  Dice dice(test_seed() + 4);
  for (std::uint64_t n = 0; n < scaled(10); ++n) {
    const bool is_cut = n % 2 == 1;
    const std::string reason = round(
        world, dice, true,
        [&](int fd, Dice&, off_t bytes) {
          if (is_cut) return ftruncate(fd, 0) == 0 && ftruncate(fd, bytes) == 0;
          return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, bytes) == 0;
        },
        true);
    EXPECT_NE(reason, "");
  }
}

// C-21
TEST_P(UntrustedFile, Malicious_GrownWhileRead_IsReadOn) {
  World world(GetParam());
  Dice dice(test_seed() + 3);
  for (std::uint64_t n = 0; n < scaled(5); ++n) {
    EXPECT_EQ(round(world, dice, false,
                    [](int fd, Dice&, off_t bytes) { return ftruncate(fd, 4 * bytes) == 0; }),
              "");
  }
}

// Between two looks at it nothing is read, so only the kernel can tell.
// C-21
TEST_P(UntrustedFile, Malicious_TruncatedWhileIdle_IsNoticedAndItsTotalsStay) {
  World world(GetParam());
  // In a process of its own, which a cut ends.
  Child quiet([&](const Line& line) {
    Producer producer = Producer::open(tiles_of(world.bus(), 3));
    for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
    line.say(producer.segment_name());
    (void)line.hear();
    return 0;
  });
  const std::string name = quiet.hear();
  world.pass(true);
  ASSERT_NE(world.live(name), nullptr);
  ASSERT_EQ(truncate(world.path(name).c_str(), 0), 0);
  ASSERT_TRUE(world.pass_until([&] { return !world.live(name)->quarantine.empty(); }));
  EXPECT_STREQ(world.live(name)->quarantine_kind(), "truncated");
  EXPECT_EQ(world.warnings_with(name), 1u) << "said once";
  TileTotals totals;
  EXPECT_TRUE(totals.are_right(*world.live(name)));
  EXPECT_EQ(totals.records(), 100u);
}

// The record's word is there, and its fields are not: of what was copied before the kernel was
// asked nothing counts.
// C-21
TEST_P(UntrustedFile, Malicious_CutInsideARecord_ItIsNotRead) {
  World world(GetParam());
  for (const int variant : {0, 1, 2, 3}) {
    const bool at_a_page = variant % 2 != 0;
    const bool while_read = variant >= 2;
    SCOPED_TRACE(std::string(at_a_page ? "at the end of a page" : "inside a page") +
                 (while_read ? ", while records before it are read" : ""));
    Child writer([&](const Line& line) {
      rankbus::OpenOptions options = tiles_of(world.bus(), 5);
      options.records[0] = rankbus::record_type<hostile::Strip>();
      // No checkpoint lies between the first record and the last, where the file is looked at too.
      options.segment_bytes = 1 << 20;
      Producer producer = Producer::open(options);
      line.say(producer.segment_name());
      const std::uint64_t count = std::stoull(line.hear());
      for (std::uint64_t n = 1; n <= count; ++n) producer.record(hostile::strip(n));
      line.say("written");
      (void)line.hear();
      return 0;
    });
    const std::string name = writer.hear();
    world.pass(true);
    ASSERT_NE(world.live(name), nullptr);
    const rankbus::StreamState& stream = world.live(name)->reader->streams()[0];
    ASSERT_EQ(stream.schema.slot_bytes, 192u);
    const auto slot = [&](std::uint64_t n) { return stream.schema.slots_offset + 192 * n; };
    // The last record is the one that the cut goes through.
    std::uint64_t last = 500;
    while (at_a_page && slot(last) / 4096 == (slot(last) + 191) / 4096) ++last;
    ASSERT_LT(last, stream.schema.capacity);
    const std::uint64_t left = at_a_page ? (slot(last) / 4096 + 1) * 4096 : slot(last) + 16;
    writer.say(std::to_string(last + 1));
    ASSERT_EQ(writer.hear(), "written");
    const auto cut = [&] {
      ASSERT_EQ(truncate(world.path(name).c_str(), static_cast<off_t>(left)), 0);
    };
    if (!while_read) cut();
    bool first = while_read;
    // By the records alone: locks and files are looked at only when somebody asks.
    world.reader().pass(now_s(), false, [&](const LiveSegment&, const rankbus::Sample& sample) {
      if (std::exchange(first, first && sample.stream.name != "strip") && !first) cut();
    });
    world.pass(true);
    EXPECT_STREQ(world.live(name)->quarantine_kind(), "truncated");
    const std::uint64_t sum = stream.position * (stream.position + 1) / 2;
    for (const auto& [key, value] : rankbus::extract_values(*world.live(name)->reader))
      EXPECT_EQ(value.bits, sum) << key.first << " of " << stream.position << " records";
    writer.kill9();
    unlink(world.path(name).c_str());
    world.pass(true);
  }
}

// C-21
TEST_P(UntrustedFile, Malicious_NameGivenToAnotherFile_TheFirstIsReadOnAndTheOtherLeftAlone) {
  World world(GetParam());
  Producer victim = Producer::open(tiles_of(world.bus(), 3));
  const std::string name = victim.segment_name();
  for (std::uint64_t n = 0; n < 10; ++n) victim.record(tile(n));
  world.pass(true);
  // A copy of the segment, so that only its inode tells it from the one that is read.
  std::filesystem::copy_file(world.path(name), world.path("copy"));
  ASSERT_EQ(rename(world.path("copy").c_str(), world.path(name).c_str()), 0);
  for (std::uint64_t n = 10; n < 100; ++n) victim.record(tile(n));
  ASSERT_TRUE(world.pass_until([&] { return world.warnings_with("another file") > 0; }));
  TileTotals totals;
  EXPECT_TRUE(totals.are_right(*world.live(name)));
  EXPECT_EQ(totals.records(), 100u);
  victim.close();
  ASSERT_TRUE(world.pass_until([&] { return world.live(name) == nullptr; }));
  for (int n = 0; n < 3; ++n) world.pass(true);
  EXPECT_EQ(world.reader().retired_segments(), 1u) << "its records count once";
  EXPECT_EQ(world.warnings_with("another file"), 1u);
  EXPECT_TRUE(std::filesystem::exists(world.path(name))) << "what was not read is not removed";
}

// C-22
TEST_P(UntrustedFile, Malicious_NoRegularFiles_AreRejectedOnceEach) {
  World world(GetParam());
  const auto name = [](int n) { return "worker-0-0." + std::string(31, 'b') + std::to_string(n); };
  ASSERT_EQ(mkfifo(world.path(name(0)).c_str(), 0600), 0);
  ASSERT_EQ(mkdir(world.path(name(1)).c_str(), 0700), 0);
  ASSERT_EQ(symlink("/dev/zero", world.path(name(2)).c_str()), 0);
  ASSERT_EQ(symlink(name(5).c_str(), world.path(name(3)).c_str()), 0) << "leads nowhere";
  std::uint64_t expected = 4;
  if (mknod(world.path(name(4)).c_str(), S_IFCHR | 0600, makedev(1, 5)) == 0) ++expected;
  for (int n = 0; n < 3; ++n) world.pass(true);
  EXPECT_EQ(world.reader().rejected(), expected);
  for (int n = 0; n < static_cast<int>(expected); ++n)
    EXPECT_EQ(world.warnings_with(name(n)), 1u) << n;
}

// What is wrong with this process is no property of a segment.
// C-9, C-22
TEST_P(UntrustedFile, NoDescriptorsLeft_IsTriedAgainUntilThereAreSome) {
  const ByteAccess access = GetParam();
#ifdef __SANITIZE_ADDRESS__
  // Boost throws where a mapping fails, and to look at an exception's type the sanitizer opens a
  // pipe, for which there is no descriptor either.
  if (access == ByteAccess::mapped) GTEST_SKIP() << "skipped: the sanitizer needs a descriptor";
#endif
  EXPECT_EQ(in_child([&] {
              const Folder folder;
              std::vector<Producer> producers;
              for (std::uint32_t rank = 0; rank < 20; ++rank) {
                producers.push_back(Producer::open(tiles_of(folder.bus(), rank)));
                producers.back().record(tile(0));
              }
              std::vector<std::string> warnings;
              const auto reader = open_with(access, folder.bus(), true, &warnings);
              CHECK_HERE(reader != nullptr);
              rlimit limit{};
              getrlimit(RLIMIT_NOFILE, &limit);
              const rlimit all = limit;
              const int next = dup(0);
              close(next);
              limit.rlim_cur = static_cast<rlim_t>(next) + 10;
              setrlimit(RLIMIT_NOFILE, &limit);
              for (int pass = 0; pass < 3; ++pass) full_pass(*reader);
              const std::size_t some = reader->live().size();
              CHECK_HERE(some > 0 && some < 20);
              CHECK_HERE(reader->rejected() == 0);
              CHECK_HERE(reader->postponed() == 20 - some);
              CHECK_HERE(warnings.size() == 20 - some);
              CHECK_HERE(warnings[0].find(std::strerror(EMFILE)) != std::string::npos);
              // Who dies meanwhile is noticed all the same, and makes room for others.
              for (std::uint32_t rank = 0; rank < 20; ++rank) {
                if (reader->live().count(producers[rank].segment_name()) == 0) continue;
                producers[rank].close();
                break;
              }
              for (int pass = 0; pass < 3; ++pass) full_pass(*reader);
              CHECK_HERE(reader->retired_segments() == 1);
              CHECK_HERE(reader->live().size() + reader->postponed() == 19);
              setrlimit(RLIMIT_NOFILE, &all);
              for (int pass = 0; pass < 3; ++pass) full_pass(*reader);
              CHECK_HERE(reader->live().size() == 19);
              CHECK_HERE(reader->postponed() == 0);
              CHECK_HERE(reader->retired_segments() == 1);
              for (const auto& [name, segment] : reader->live())
                CHECK_HERE(segment.reader->streams()[0].position == 1);
              return 0;
            }),
            0);
}

// A mapping of a file that ends before the mapping does.
volatile const char* short_mapping() {
  char name[] = "/dev/shm/rankbus-short-XXXXXX";
  const int fd = mkstemp(name);
  unlink(name);
  if (fd < 0 || ftruncate(fd, 4096) != 0) return nullptr;
  void* memory = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? nullptr : static_cast<volatile const char*>(memory);
}

TEST(MappingGuard, FaultOfTheProgramItself_EndsItAsWithoutTheGuard) {
  EXPECT_EQ(in_child([] {
              const rlimit no_core{0, 0};
              setrlimit(RLIMIT_CORE, &no_core);
              struct sigaction by_default {};
              by_default.sa_handler = SIG_DFL;  // Whatever a sanitizer put there.
              sigaction(SIGBUS, &by_default, nullptr);
              volatile const char* memory = short_mapping();
              if (memory == nullptr || !MappingGuard::install()) return 1;
              return memory[4096] + 2;
            }),
            -SIGBUS);
}

TEST(MappingGuard, FaultOfTheProgramItself_GoesToTheHandlerThatWasThere) {
  EXPECT_EQ(in_child([] {
              struct sigaction own {};
              own.sa_handler = [](int) { _exit(42); };
              sigaction(SIGBUS, &own, nullptr);
              volatile const char* memory = short_mapping();
              if (memory == nullptr || !MappingGuard::install()) return 1;
              return memory[4096] + 2;
            }),
            42);
}

TEST(MappingGuard, FaultInAGuardedRange_ReadsZerosToItsEndAndIsNoted) {
  EXPECT_EQ(in_child([] {
              volatile const char* memory = short_mapping();
              CHECK_HERE(memory != nullptr && MappingGuard::install());
              const rankbus::GuardedRange range(const_cast<const char*>(memory), 8192);
              CHECK_HERE(range.is_guarded() && !range.is_cut());
              CHECK_HERE(memory[0] == 0 && !range.is_cut());
              CHECK_HERE(memory[5000] == 0 && range.is_cut());
              CHECK_HERE(memory[8191] == 0);
              return 0;
            }),
            0);
}

// A library has no business with its program's signals.
TEST(MappingGuard, ReadingOnceAsALibrary_LeavesTheSignalAlone) {
  EXPECT_EQ(
      in_child([] {
        const Folder folder;
        Producer producer = Producer::open(tiles_of(folder.bus(), 0));
        producer.record(tile(0));
        struct sigaction before {
        }, after{};
        sigaction(SIGBUS, nullptr, &before);
        auto snapshot = rankbus::read_bus_once({folder.bus(), true}, {}, [](const std::string&) {});
        sigaction(SIGBUS, nullptr, &after);
        CHECK_HERE(snapshot);
        CHECK_HERE(before.sa_handler == after.sa_handler);
        const auto family =
            std::find_if(snapshot->families.begin(), snapshot->families.end(),
                         [](const rankbus::Family& each) { return each.name == "tile_a_total"; });
        CHECK_HERE(family != snapshot->families.end());
        return 0;
      }),
      0);
}

}  // namespace
}  // namespace bus_test
