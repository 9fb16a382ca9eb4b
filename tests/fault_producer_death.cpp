// Labels: multiprocess-heavy
//
// Goal:   a producer that dies at any instruction costs at most the record that it was writing, and
//         its death is seen whatever lives on: a forked child, an executed one, a zombie.
// Method: fork producers that write known sequences at full speed into small rings, kill them at
//         seeded random moments, and compare what a reader finds with a model that folds the same
//         sequence up to the published number of records. Records are counted, not calls: an array
//         that continues in several records may end early.
// Replay: RANKBUS_TEST_SEED=<printed> fault_producer_death [--gtest_filter=...];
//         RANKBUS_TEST_SCALE=10 repeats ten times as often.
#include <spawn.h>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::Role;
using rankbus::SegmentReader;

template <class T>
struct Stream {
  RecordSequence<T> sequence;
  Oracle<T> oracle;
  Stream(std::uint64_t seed, Temper temper) : sequence(seed, temper), oracle(sequence) {}
};

// One sequence of each type; which of them a producer writes is a bit of its profile.
struct Streams {
  Stream<rankbus::SchedulerStep> scheduler{test_seed() + 1, Temper::hostile};
  Stream<rankbus::IterationStats> iteration{test_seed() + 2, Temper::hostile};
  Stream<rankbus::FinishedRequest> finished{test_seed() + 3, Temper::hostile};
  Stream<rankbus::WorkerStep> worker{test_seed() + 4, Temper::tame};
  Stream<rankbus::Collective> collective{test_seed() + 5, Temper::hostile};
  Stream<llm_engine::Swap> swap{test_seed() + 6, Temper::hostile};

  template <class Visit>
  void for_each(unsigned types, Visit&& visit) {
    if (types & 1) visit(scheduler);
    if (types & 2) visit(iteration);
    if (types & 4) visit(finished);
    if (types & 8) visit(worker);
    if (types & 16) visit(collective);
    if (types & 32) visit(swap);
  }
};
constexpr unsigned kAllTypes = 63;

Streams& streams() {
  static Streams all;
  return all;
}

template <class T>
const rankbus::bus::RecordType* type_of_stream(const Stream<T>&) {
  return rankbus::record_type<T>();
}

struct Profile {
  unsigned types = kAllTypes;
  std::uint64_t segment_bytes = 0;
  rankbus::ClockDomain clock = rankbus::ClockDomain::real;
  bool forks = false;         // A forked child lives on.
  std::uint64_t calls = 0;    // The kill comes some time after that many rounds of calls.
  std::uint64_t more_ns = 0;  // ... and so much later.
};

Profile random_profile(Dice& dice) {
  constexpr std::uint64_t kSizes[] = {1, 96 << 10, 200 << 10, 400 << 10, 1 << 20};
  Profile profile;
  profile.types = static_cast<unsigned>(1 + dice.below(kAllTypes));
  profile.segment_bytes = kSizes[dice.below(5)];
  if (dice.one_in(3)) profile.clock = rankbus::ClockDomain::virtual_time;
  profile.forks = dice.one_in(4);
  // Sometimes before the first record; mostly after rings wrapped a few times.
  profile.calls = dice.one_in(20) ? 0 : dice.below(std::uint64_t{2} << dice.below(11));
  profile.more_ns = dice.below(20'000);
  return profile;
}

rankbus::OpenOptions options_of(const std::string& bus, const Profile& profile) {
  rankbus::OpenOptions options = options_for(bus, Role::other);
  options.segment_bytes = profile.segment_bytes;
  options.clock = profile.clock;
  int next = 0;
  streams().for_each(profile.types,
                     [&](const auto& stream) { options.records[next++] = type_of_stream(stream); });
  return options;
}

using Counter = Shared<std::atomic<std::uint64_t>>;

// Writes rounds of one call per type until somebody kills it.
int write_forever(const std::string& bus, const Profile& profile, const Line& line,
                  const Counter& calls) {
  Producer producer = Producer::open(options_of(bus, profile));
  if (producer.inert()) {
    line.say(std::string("inert: ") + producer.reason());
    return 3;
  }
  if (profile.forks && fork() == 0) {
    (void)line.hear();  // Ends with the test.
    _exit(0);
  }
  line.say(producer.segment_name());
  for (std::uint64_t n = 0;; ++n) {
    streams().for_each(profile.types,
                       [&](const auto& stream) { producer.record(stream.sequence.call(n)); });
    *calls = n + 1;
  }
}

// Reads the dead producer's segment and holds it against the model. Returns the records published.
std::uint64_t check_dead(const std::string& bus, const std::string& name, const Profile& profile,
                         std::uint64_t calls) {
  const auto reader = open_segment(bus, name);
  if (reader == nullptr) return 0;
  EXPECT_FALSE(reader->writer_is_alive());
  EXPECT_TRUE(read_to_end(*reader));
  EXPECT_EQ(reader->error(), "");
  std::uint64_t published = 0;
  std::uint64_t abandoned = 0;
  streams().for_each(profile.types, [&](auto& stream) {
    const std::uint64_t records = expect_sequence(*reader, stream.oracle);
    // What a finished call wrote is public; what was not called is not there.
    EXPECT_GE(records, stream.oracle.slots_of_calls(calls));
    EXPECT_LE(records, stream.oracle.slots_of_calls(calls + 1));
    published += records;
  });
  for (const rankbus::StreamState& stream : reader->streams()) abandoned += stream.abandoned;
  EXPECT_LE(abandoned, 1u);
  return published;
}

// C-1
TEST(ProducerKilled, AtRandomInstantsAtFullSpeed_TotalsEqualTheOracleBitForBit) {
  const std::uint64_t kills = scaled(1000);
  const Folder folder;
  const Environment budget("RANKBUS_BUDGET", "512M");
  Dice dice(test_seed());
  std::uint64_t records = 0;
  for (std::uint64_t kill = 0; kill < kills && !testing::Test::HasFailure(); ++kill) {
    const Profile profile = random_profile(dice);
    SCOPED_TRACE("kill " + std::to_string(kill));
    const Counter calls;
    Child writer(
        [&](const Line& line) { return write_forever(folder.bus(), profile, line, calls); });
    const std::string name = writer.hear();
    ASSERT_TRUE(rankbus::bus::is_segment_name(name.c_str())) << name;
    ASSERT_TRUE(wait_until([&] { return *calls >= profile.calls; }));
    const std::uint64_t at = rankbus::bus::monotonic_ns() + profile.more_ns;
    while (rankbus::bus::monotonic_ns() < at) {
    }
    ASSERT_EQ(writer.kill9(), -SIGKILL);
    records += check_dead(folder.bus(), name, profile, *calls);
    unlink((folder.bus() + "/" + name).c_str());
  }
  std::printf("%llu kills, %llu records, all accounted for\n",
              static_cast<unsigned long long>(kills), static_cast<unsigned long long>(records));
}

// What a forked child sees of the producer that it inherited; 0 if that is as it should be.
int judge_inherited(Producer& producer) {
  if (!producer.inert()) return 1;
  if (std::strstr(producer.reason(), "forked") == nullptr) return 2;
  const std::uint64_t dropped = producer.dropped_records();
  producer.record(tile(0));
  producer.status(1, 2, 3, 4);
  if (producer.dropped_records() != dropped + 1) return 3;
  if (producer.intern("adapter") != 0) return 4;
  if (producer.segment_name()[0] != '\0') return 5;
  return 0;
}

struct ForkReport {
  std::atomic<int> verdict{-1};
  std::atomic<std::uint64_t> calls{0};
};

// A producer with a forked child that looks at what it inherited, opens one of its own, records
// and lives on; the parent writes until it is killed.
int write_with_child(const std::string& bus, const Line& line, const Shared<ForkReport>& report) {
  rankbus::OpenOptions options = options_for(bus, Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.segment_bytes = 64 << 10;
  Producer producer = Producer::open(options);
  for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
  line.say(producer.segment_name());
  if (fork() == 0) {
    const int verdict = judge_inherited(producer);
    Producer own = Producer::open(options);
    for (std::uint64_t n = 0; n < 7; ++n) own.record(tile(n));
    report->verdict = verdict != 0 ? verdict : own.inert() ? 6 : own.lane() != 1 ? 7 : 0;
    line.say(own.segment_name());
    (void)line.hear();
    _exit(0);
  }
  for (std::uint64_t n = 100;; ++n) {
    producer.record(tile(n));
    report->calls = n + 1;
  }
}

// The records of a dead producer of tiles.
std::uint64_t tiles_of_dead(const SegmentReader& reader) {
  const rankbus::StreamState* stream = find_stream(reader, "tile");
  StreamModel<llm_engine::Tile> model;
  for (std::uint64_t n = 0; n < stream->published; ++n) model.add(tile(n), 0);
  EXPECT_TRUE(equals_model(*stream, model));
  return stream->published;
}

// C-7
TEST(ProducerKilled, WhileAForkedChildLivesOn_ItsLockIsFreeAndTheChildWritesItsOwnSegment) {
  for (std::uint64_t round = 0; round < scaled(30); ++round) {
    const Folder folder;
    const Shared<ForkReport> report;
    Child parent([&](const Line& line) { return write_with_child(folder.bus(), line, report); });
    const std::string parents = parent.hear();
    const std::string childs = parent.hear();
    ASSERT_EQ(report->verdict, 0) << "1 to 5: what was inherited; 6, 7: the child's own producer";
    ASSERT_TRUE(wait_until([&] { return report->calls >= 1000 + 100 * round; }));
    ASSERT_EQ(parent.kill9(), -SIGKILL);

    const auto dead = open_segment(folder.bus(), parents);
    const auto live = open_segment(folder.bus(), childs);
    ASSERT_TRUE(dead && live);
    EXPECT_FALSE(dead->writer_is_alive()) << "the child keeps its dead parent alive";
    EXPECT_TRUE(live->writer_is_alive());
    ASSERT_TRUE(read_to_end(*dead));
    const std::uint64_t calls = report->calls;
    const std::uint64_t published = tiles_of_dead(*dead);
    EXPECT_GE(published, calls);
    EXPECT_LE(published, calls + 1);
    live->poll(false, {});
    EXPECT_EQ(find_stream(*live, "tile")->position, 7u);
    parent.hang_up();
    EXPECT_TRUE(wait_until([&] { return !live->writer_is_alive(); }));
  }
}

// C-7
TEST(ProducerForked, ParentGoesOn_ChildLeavesNoTraceInTheSegment) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  Producer producer = Producer::open(options);
  for (std::uint64_t n = 0; n < 50; ++n) producer.record(tile(n));
  EXPECT_EQ(in_child([&] {
              const int verdict = judge_inherited(producer);
              for (int i = 0; i < 1000; ++i) producer.record(tile(999));
              producer.close();  // Must not end the parent's segment.
              return verdict;
            }),
            0);
  const std::string name = producer.segment_name();
  const auto reader = open_segment(folder.bus(), name);
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->writer_is_alive());
  for (std::uint64_t n = 50; n < 90; ++n) producer.record(tile(n));
  EXPECT_FALSE(producer.inert());
  EXPECT_EQ(producer.dropped_records(), 0u);
  producer.close();
  EXPECT_FALSE(reader->writer_is_alive());
  ASSERT_TRUE(read_to_end(*reader));
  EXPECT_EQ(tiles_of_dead(*reader), 90u);
}

enum class Start { fork_and_exec, spawn };

// A producer that starts /bin/cat, which lives until the test hangs up, and writes.
int write_with_program(const std::string& bus, const Line& line, Start start) {
  rankbus::OpenOptions options = options_for(bus, Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  Producer producer = Producer::open(options);
  int ends[2];
  if (pipe(ends) != 0) return 4;
  char program[] = "/bin/cat";
  char* arguments[] = {program, nullptr};
  pid_t pid = 0;
  if (start == Start::fork_and_exec) {
    pid = fork();
    if (pid == 0) {
      dup2(ends[0], STDIN_FILENO);
      close(ends[1]);
      execv(program, arguments);
      _exit(127);
    }
  } else {
    // Starts by a vfork: until the exec, the child runs in the producer's own memory.
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    if (posix_spawn(&pid, program, &actions, nullptr, arguments, nullptr) != 0) return 5;
  }
  for (std::uint64_t n = 0; n < 100; ++n) producer.record(tile(n));
  line.say(std::string(producer.segment_name()) + " " + std::to_string(pid));
  (void)line.hear();
  return 6;
}

TEST(ProducerKilled, WhileAnExecutedChildLives_ItsLockIsFree) {
  for (const Start start : {Start::fork_and_exec, Start::spawn}) {
    const Folder folder;
    Child parent([&](const Line& line) { return write_with_program(folder.bus(), line, start); });
    std::istringstream said(parent.hear());
    std::string name;
    pid_t program = 0;
    said >> name >> program;
    ASSERT_GT(program, 0);
    const auto is_cat = [&] {
      std::ifstream comm("/proc/" + std::to_string(program) + "/comm");
      std::string text;
      return std::getline(comm, text) && text == "cat";
    };
    ASSERT_TRUE(wait_until(is_cat));
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(program) + "/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      EXPECT_EQ(target.find(folder.path()), std::string::npos) << "inherited " << target;
    }
    const auto reader = open_segment(folder.bus(), name);
    ASSERT_TRUE(reader);
    EXPECT_TRUE(reader->writer_is_alive());
    // The pipe's other end dies with the parent, so cat would end too: stopped, it lives on.
    ASSERT_EQ(kill(program, SIGSTOP), 0);
    ASSERT_EQ(parent.kill9(), -SIGKILL);
    EXPECT_TRUE(is_cat());
    EXPECT_FALSE(reader->writer_is_alive());
    ASSERT_TRUE(read_to_end(*reader));
    EXPECT_EQ(tiles_of_dead(*reader), 100u);
    kill(program, SIGKILL);
  }
}

// A producer that wrote ten tiles and waits.
int write_ten_and_wait(const std::string& bus, const Line& line) {
  rankbus::OpenOptions options = options_for(bus, Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  Producer producer = Producer::open(options);
  for (std::uint64_t n = 0; n < 10; ++n) producer.record(tile(n));
  line.say(producer.segment_name());
  (void)line.hear();
  return 0;
}

// C-8
TEST(ProducerKilled, NotYetReaped_CountsAsDead) {
  const Folder folder;
  Child writer([&](const Line& line) { return write_ten_and_wait(folder.bus(), line); });
  const auto reader = open_segment(folder.bus(), writer.hear());
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->writer_is_alive());
  writer.signal(SIGKILL);
  writer.wait_dead();
  EXPECT_FALSE(reader->writer_is_alive()) << "a zombie has no address space";
  const auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  full_pass(*bus);
  EXPECT_EQ(bus->retired_segments(), 1u);
}

// C-6
TEST(ProducerStopped, BySigstop_CountsAsAlive) {
  const Folder folder;
  const Environment run("RANKBUS_RUN_ID", "one-run");
  Child writer([&](const Line& line) { return write_ten_and_wait(folder.bus(), line); });
  const std::string name = writer.hear();
  writer.signal(SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(writer.pid(), &status, WUNTRACED), writer.pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  const auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  for (int i = 0; i < 3; ++i) full_pass(*bus);
  ASSERT_EQ(bus->live().count(name), 1u);
  EXPECT_TRUE(bus->live().at(name).reader->writer_is_alive());
  EXPECT_EQ(bus->retired_segments(), 0u);
  EXPECT_EQ(Directory(folder.bus()).segments().count(name), 1u);
  // Who opens meanwhile must not take it for dead either.
  rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  EXPECT_EQ(Producer::open(options).lane(), 1u);
  writer.kill9();
  full_pass(*bus);
  EXPECT_EQ(bus->live().count(name), 0u);
}

// Reads a stream of samples without totals from a dead producer: what is still in the ring comes,
// whole, in order, without a gap.
// C-1
TEST(ProducerKilled, SamplesOnlyStream_LastRingIsReadWhole) {
  for (std::uint64_t round = 0; round < scaled(50); ++round) {
    const Folder folder;
    const Counter calls;
    Child writer([&](const Line& line) {
      rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
      options.records[0] = rankbus::record_type<llm_engine::Mark>();
      options.segment_bytes = 16 << 10;
      Producer producer = Producer::open(options);
      line.say(producer.segment_name());
      for (std::uint64_t n = 0;; ++n) {
        producer.record(mark(n));
        *calls = n + 1;
      }
      return 0;
    });
    const std::string name = writer.hear();
    ASSERT_TRUE(wait_until([&] { return *calls >= 100 * round; }));
    writer.kill9();
    const auto reader = open_segment(folder.bus(), name);
    ASSERT_TRUE(reader);
    std::uint64_t next = reader->streams()[0].first_position;
    ASSERT_TRUE(read_to_end(*reader, [&](const rankbus::Sample& sample) {
      EXPECT_EQ(sample.number, next++);
      const llm_engine::Mark expected = mark(sample.number);
      EXPECT_EQ(sample.raw(0), expected.number);
      EXPECT_EQ(sample.raw(1), expected.a);
      EXPECT_EQ(sample.raw(2), expected.b);
    }));
    EXPECT_EQ(reader->error(), "");
    EXPECT_EQ(next, reader->streams()[0].published);
    EXPECT_GE(next, *calls);
    EXPECT_LE(next, *calls + 1);
  }
}

}  // namespace
}  // namespace bus_test
