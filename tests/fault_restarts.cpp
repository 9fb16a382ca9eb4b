// Labels: multiprocess-heavy
//
// Goal:   ranks that start before, after and without an aggregator, die at any moment and come back
//         under the same identity: no count is lost or doubled, segments of the dead are reclaimed,
//         and a thousand restarts without an aggregator stay within the budget.
// Method: fork ranks that write known sequences, kill and restart them at seeded moments while a
// bus
//         reader is absent, present or between two passes. What each incarnation published is read
//         from a mapping of its segment that the test keeps itself; a model adds the incarnations.
// Replay: RANKBUS_TEST_SEED=<printed> fault_restarts [--gtest_filter=...]
#include <sys/resource.h>

#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;

struct Sequences {
  RecordSequence<rankbus::IterationStats> stats{test_seed() + 1, Temper::tame};
  RecordSequence<rankbus::WorkerStep> steps{test_seed() + 2, Temper::tame};
  Oracle<rankbus::IterationStats> stats_oracle{stats};
  Oracle<rankbus::WorkerStep> steps_oracle{steps};
};
Sequences& sequences() {
  static Sequences all;
  return all;
}

rankbus::OpenOptions rank_options(const std::string& bus, std::uint32_t rank,
                                  std::uint64_t segment_bytes) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.segment_bytes = segment_bytes;
  options.records[0] = rankbus::record_type<rankbus::IterationStats>();
  options.records[1] = rankbus::record_type<rankbus::WorkerStep>();
  return options;
}

// One life of a rank: writes `calls` records of each type, at full speed, and waits to be killed.
class Incarnation {
 public:
  Incarnation(const std::string& bus, std::uint32_t rank, std::uint64_t segment_bytes,
              std::uint64_t calls)
      : child_([&](const Line& line) {
          Producer producer = Producer::open(rank_options(bus, rank, segment_bytes));
          line.say(producer.inert() ? std::string("inert: ") + producer.reason()
                                    : producer.segment_name());
          for (std::uint64_t n = 0; n < calls; ++n) {
            producer.record(sequences().stats.call(n));
            producer.record(sequences().steps.call(n));
            *calls_ = n + 1;
          }
          (void)line.hear();
          return 0;
        }),
        name_(child_.hear()),
        published_(bus, name_) {}

  void kill() { child_.kill9(); }
  std::uint64_t calls() const { return *calls_; }
  bool wait_for_calls(std::uint64_t calls) const {
    return wait_until([&] { return *calls_ >= calls; });
  }
  const std::string& name() const { return name_; }
  // Streams in the order of the options.
  std::uint64_t stats() const { return published_.of_stream(0); }
  std::uint64_t steps() const { return published_.of_stream(1); }
  std::uint32_t lane() const { return published_.header().lane; }
  std::uint32_t removed_segments() const { return published_.header().removed_segments; }

 private:
  Shared<std::atomic<std::uint64_t>> calls_;
  Child child_;
  std::string name_;
  PublishedWords published_;
};

// What all incarnations of one rank wrote.
struct Expected {
  StreamModel<rankbus::IterationStats> stats;
  StreamModel<rankbus::WorkerStep> steps;
  std::uint64_t incarnations = 0;

  void add(const Incarnation& dead) {
    stats.add_body(sequences().stats_oracle.after(dead.stats()));
    steps.add_body(sequences().steps_oracle.after(dead.steps()));
    ++incarnations;
  }
};

rankbus::Identity identity_of_rank(std::uint32_t rank) {
  rankbus::Identity who;
  who.model = "test-model";
  who.role = static_cast<std::uint32_t>(rankbus::Role::other);
  who.rank = rank;
  return who;
}

void expect_retired(const rankbus::BusReader& bus, std::uint32_t rank, const Expected& expected) {
  SCOPED_TRACE("rank " + std::to_string(rank));
  const auto at = bus.identities().find(identity_of_rank(rank));
  ASSERT_NE(at, bus.identities().end());
  const rankbus::Retired& retired = at->second.retired;
  EXPECT_EQ(retired.incarnations, expected.incarnations);
  EXPECT_TRUE(values_equal_model(retired.values, expected.stats));
  EXPECT_TRUE(values_equal_model(retired.values, expected.steps));
  for (const auto& [name, slots] :
       {std::pair<std::string, std::uint64_t>{"iteration_stats", expected.stats.slots},
        std::pair<std::string, std::uint64_t>{"worker_step", expected.steps.slots}}) {
    const rankbus::StreamCounts& counts = retired.streams.at(name);
    EXPECT_EQ(counts.records, slots) << name;
    EXPECT_EQ(counts.mismatches, 0u) << name;
  }
}

// Records that a reader knows of, dead and living.
std::uint64_t known_records(const rankbus::BusReader& bus) {
  std::uint64_t records = 0;
  for (const auto& [who, state] : bus.identities()) {
    for (const auto& [name, counts] : state.retired.streams) records += counts.records;
  }
  for (const auto& [name, segment] : bus.live()) {
    for (const rankbus::StreamState& stream : segment.reader->streams()) records += stream.position;
  }
  return records;
}

class Restarts : public testing::Test {
 protected:
  static constexpr std::uint32_t kRanks = 3;

  void start(std::uint32_t rank, Dice& dice) {
    const std::uint64_t sizes[] = {1, 128 << 10, 512 << 10};
    // Some are idle when they are killed, most are not, and some die before their first record.
    const std::uint64_t calls = dice.one_in(3) ? dice.below(3000) : 20'000;
    ranks_[rank] = std::make_unique<Incarnation>(folder_.bus(), rank, sizes[dice.below(3)], calls);
    ASSERT_TRUE(ranks_[rank]->wait_for_calls(dice.one_in(4) ? 0 : dice.below(calls + 1)));
    EXPECT_EQ(ranks_[rank]->lane(), 0u) << "its predecessor is dead";
  }
  void stop(std::uint32_t rank) {
    ranks_[rank]->kill();
    expected_[rank].add(*ranks_[rank]);
    ranks_[rank].reset();
  }
  void restart(std::uint32_t rank, Dice& dice) {
    stop(rank);
    start(rank, dice);
  }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "restarts"};
  Environment budget_{"RANKBUS_BUDGET", "512M"};
  std::unique_ptr<Incarnation> ranks_[kRanks];
  Expected expected_[kRanks];
};

// C-5
TEST_F(Restarts, BeforeWithAndBetweenPassesOfAnAggregator_NoCountLostOrDoubled) {
  Dice dice(test_seed());
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    start(rank, dice);
    for (int life = 0; life < 3; ++life) restart(rank, dice);
  }
  const auto bus = open_bus(folder_.bus(), false);
  ASSERT_TRUE(bus);
  std::uint64_t known = 0;
  for (std::uint64_t round = 0; round < scaled(120); ++round) {
    // None, some or all of them die between two passes.
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      if (dice.one_in(3)) restart(rank, dice);
    }
    if (dice.one_in(3)) continue;
    if (dice.one_in(2)) {
      full_pass(*bus);
    } else {
      bus->pass(now_s(), false, [](const rankbus::LiveSegment&, const rankbus::Sample&) {});
    }
    const std::uint64_t now_known = known_records(*bus);
    ASSERT_GE(now_known, known) << "a total went back";
    known = now_known;
  }
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) stop(rank);
  full_pass(*bus);
  std::uint64_t incarnations = 0;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    expect_retired(*bus, rank, expected_[rank]);
    incarnations += expected_[rank].incarnations;
  }
  EXPECT_TRUE(bus->live().empty());
  EXPECT_EQ(bus->retired_segments(), incarnations);
  EXPECT_EQ(bus->rejected(), 0u);
  EXPECT_TRUE(Directory(folder_.bus()).segments().empty()) << "the owner reclaims the dead";
  std::printf("%llu lives\n", static_cast<unsigned long long>(incarnations));
}

TEST_F(Restarts, UnderARunningAggregator_ItsLastSnapshotHasEveryToken) {
  Dice dice(test_seed() + 1);
  rankbus::AggregatorOptions options;
  options.bus.directory = folder_.bus();
  options.log_interval_s = 0;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) start(rank, dice);
  auto opened = rankbus::Aggregator::open(
      options, [](const std::string& text) { ADD_FAILURE() << text; }, {});
  ASSERT_TRUE(opened) << opened.error();
  rankbus::Aggregator& aggregator = *opened.value();
  aggregator.start();
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    restart(static_cast<std::uint32_t>(dice.below(kRanks)), dice);
    if (!dice.one_in(4)) continue;
    ASSERT_TRUE(aggregator.fresh(rankbus::SnapshotParts::families, 60));
  }
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) stop(rank);
  const auto snapshot = aggregator.fresh(rankbus::SnapshotParts::families, 60);
  ASSERT_TRUE(snapshot);
  EXPECT_TRUE(snapshot->complete);
  const auto total = [&](const std::string& name) -> std::uint64_t {
    std::uint64_t sum = 0;
    for (const rankbus::Family& family : snapshot->families) {
      if (family.name != name) continue;
      for (const rankbus::Series& series : family.series) {
        sum += std::get<std::uint64_t>(std::get<rankbus::Number>(series.value));
      }
    }
    return sum;
  };
  std::uint64_t tokens = 0, preemptions = 0, steps = 0;
  for (const Expected& expected : expected_) {
    using Stats = rankbus::IterationStats::RankbusRecord;
    tokens += expected.stats.field(Stats::i_num_generation_tokens)[0];
    preemptions += expected.stats.field(Stats::i_num_preempted_reqs)[0];
    steps += expected.steps.slots;
  }
  EXPECT_EQ(total("vllm:generation_tokens_total"), tokens);
  EXPECT_EQ(total("vllm:num_preemptions_total"), preemptions);
  EXPECT_EQ(total("rankbus_steps_total"), steps);
  aggregator.stop();
}

// C-5
TEST_F(Restarts, AHundredTimesWithoutAggregator_NothingIsLost) {
  Dice dice(test_seed() + 2);
  start(0, dice);
  for (std::uint64_t life = 1; life < scaled(100); ++life) restart(0, dice);
  stop(0);
  const Directory directory(folder_.bus());
  const std::set<std::string> dead = directory.segments();
  EXPECT_EQ(dead.size(), expected_[0].incarnations);
  {
    const auto observer = open_bus(folder_.bus(), true);
    ASSERT_TRUE(observer);
    for (int pass = 0; pass < 3; ++pass) full_pass(*observer);
    expect_retired(*observer, 0, expected_[0]);
    EXPECT_EQ(directory.segments(), dead) << "an observer removes nothing";
  }
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  for (int pass = 0; pass < 3; ++pass) full_pass(*owner);
  expect_retired(*owner, 0, expected_[0]);
  EXPECT_EQ(owner->removed_unread(), 0u);
  EXPECT_TRUE(directory.segments().empty());
}

// The observer opened while another owned the bus; a second owner is refused.
TEST_F(Restarts, SecondOwner_IsRefusedWithAReason) {
  Dice dice(test_seed() + 3);
  start(0, dice);
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  EXPECT_EQ(
      in_child([&] {
        auto second = rankbus::BusReader::open({folder_.bus(), false}, {});
        if (second) return 1;
        return second.error().find("another aggregator owns this bus") == std::string::npos ? 2 : 0;
      }),
      0);
  EXPECT_TRUE(open_bus(folder_.bus(), true));
}

class Budget : public testing::Test {
 protected:
  // A life of eleven records and no orderly end.
  std::string die(std::uint64_t* removed = nullptr) {
    const Shared<std::atomic<std::uint64_t>> told;
    Child child([&](const Line& line) {
      rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::worker);
      Producer producer = Producer::open(options);
      if (producer.inert()) {
        line.say(std::string("inert: ") + producer.reason());
        return 1;
      }
      for (int n = 0; n < 11; ++n) producer.record(rankbus::WorkerStep{});
      line.say(producer.segment_name());
      raise(SIGKILL);
      return 2;
    });
    std::string name = child.hear();
    child.wait();
    if (removed != nullptr && rankbus::bus::is_segment_name(name.c_str())) {
      *removed = PublishedWords(folder_.bus(), name).header().removed_segments;
    }
    return name;
  }
  std::uint64_t used() const { return rankbus::bus::used_bytes(Directory(folder_.bus()).fd()); }
  bool is_smallest(const std::string& name) const {
    const auto reader = open_segment(folder_.bus(), name);
    return reader &&
           std::all_of(reader->streams().begin(), reader->streams().end(), [](const auto& s) {
             return s.schema.capacity == rankbus::bus::kMinCapacity;
           });
  }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "budget"};
  Environment quiet_{"RANKBUS_QUIET", "1"};
};

TEST_F(Budget, AThousandRestartsWithoutAggregator_StayWithinItAndCountWhatWasRemoved) {
  constexpr std::uint64_t kBudget = 3 << 20;
  const Environment budget("RANKBUS_BUDGET", std::to_string(kBudget));
  const std::uint64_t restarts = scaled(1000);
  std::vector<std::string> born;
  std::uint64_t first_removal = 0;
  for (std::uint64_t life = 0; life < restarts; ++life) {
    std::uint64_t removed = 0;
    born.push_back(die(&removed));
    ASSERT_TRUE(rankbus::bus::is_segment_name(born.back().c_str())) << born.back();
    ASSERT_LE(used(), kBudget) << "life " << life;
    if (removed > 0 && first_removal == 0) {
      first_removal = life;
      EXPECT_TRUE(is_smallest(born.back())) << "capacities are halved before anything is removed";
    }
  }
  const std::set<std::string> left = Directory(folder_.bus()).segments();
  ASSERT_GT(left.size(), 5u);
  EXPECT_EQ(left.count(born.back()), 1u);
  if (restarts >= 1000) {
    ASSERT_GT(first_removal, 0u);
    // The oldest went first. Files made within one tick of the file system's clock have no order.
    std::size_t oldest = 0;
    while (left.count(born[oldest]) == 0) ++oldest;
    EXPECT_LE(restarts - oldest, left.size() + 16);
  }
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  full_pass(*owner);
  EXPECT_EQ(owner->retired_segments(), left.size());
  EXPECT_EQ(owner->retired_segments() + owner->removed_unread(), restarts)
      << "a life is either read, or counted as removed unread";
  EXPECT_EQ(used(), 0u);
  std::printf("%zu segments of %llu lives were left; the first removal came at life %llu\n",
              left.size(), static_cast<unsigned long long>(restarts),
              static_cast<unsigned long long>(first_removal));
}

// C-9
TEST_F(Budget, UsedUpUnderAnOwner_NothingIsRemovedAndTheProducerIsInert) {
  const Environment budget("RANKBUS_BUDGET", std::to_string(512 << 10));
  while (used() < (400 << 10)) ASSERT_TRUE(rankbus::bus::is_segment_name(die().c_str()));
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  // It has not read them yet, so they must not go.
  std::string said;
  std::set<std::string> before;
  for (int life = 0; life < 100 && said.rfind("inert: ", 0) != 0; ++life) {
    before = Directory(folder_.bus()).segments();
    said = die();
    const std::set<std::string> after = Directory(folder_.bus()).segments();
    EXPECT_TRUE(std::includes(after.begin(), after.end(), before.begin(), before.end()));
  }
  EXPECT_NE(said.find("RANKBUS_BUDGET"), std::string::npos) << said;
  EXPECT_NE(said.find(folder_.bus()), std::string::npos) << said;
  // Once it has, there is room again.
  full_pass(*owner);
  EXPECT_EQ(owner->removed_unread(), 0u);
  EXPECT_EQ(owner->retired_segments(), before.size());
  EXPECT_TRUE(rankbus::bus::is_segment_name(die().c_str()));
}

TEST_F(Budget, TakenByTheLiving_NobodyIsRemoved) {
  const Environment budget("RANKBUS_BUDGET", std::to_string(256 << 10));
  std::vector<Producer> living;
  rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::worker);
  std::set<std::string> names;
  for (;;) {
    Producer producer = Producer::open(options);
    if (producer.inert()) {
      EXPECT_NE(std::strstr(producer.reason(), "RANKBUS_BUDGET"), nullptr) << producer.reason();
      break;
    }
    EXPECT_EQ(producer.lane(), living.size());
    names.insert(producer.segment_name());
    living.push_back(std::move(producer));
    ASSERT_LT(living.size(), 1000u);
  }
  EXPECT_EQ(Directory(folder_.bus()).segments(), names);
  for (Producer& producer : living) producer.record(rankbus::WorkerStep{});
  living.clear();
  EXPECT_FALSE(Producer::open(options).inert());
}

TEST_F(Budget, SmallerThanTheSmallestSegment_DestroysNothing) {
  std::string last;
  for (int life = 0; life < 3; ++life) last = die();
  const std::set<std::string> before = Directory(folder_.bus()).segments();
  const Environment budget("RANKBUS_BUDGET", "4k");
  EXPECT_EQ(die().rfind("inert: ", 0), 0u);
  EXPECT_EQ(Directory(folder_.bus()).segments(), before) << "removing them cannot help";
}

// Many more dead than a reader may hold at a time: it reads some, reclaims them, and goes on.
// C-9
TEST_F(Budget, MoreDeadSegmentsThanTheLimit_AllAreReadAndReclaimed) {
  rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.segment_bytes = 1;
  std::string name;
  {
    Producer producer = Producer::open(options);
    for (std::uint64_t n = 0; n < 10; ++n) producer.record(tile(n));
    name = producer.segment_name();
  }
  const std::string original = folder_.bus() + "/" + name;
  const std::uint64_t copies = rankbus::bus::kMaxSegments + 150;
  for (std::uint64_t copy = 1; copy < copies; ++copy) {
    char suffix[40];
    std::snprintf(suffix, sizeof suffix, ".%032llx", static_cast<unsigned long long>(copy));
    const std::string path = folder_.bus() + "/other-0-none" + suffix;
    std::filesystem::copy_file(original, path);
    // Each is of an incarnation of its own, as its name says.
    std::uint8_t incarnation[16] = {};
    for (unsigned n = 8; n < 16; ++n) {
      incarnation[n] = static_cast<std::uint8_t>(copy >> (8 * (15 - n)) & 0xff);
    }
    const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(pwrite(file, incarnation, sizeof incarnation,
                     offsetof(rankbus::bus::SegmentHeader, incarnation)),
              static_cast<ssize_t>(sizeof incarnation));
    close(file);
  }
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < rankbus::bus::kMaxSegments + 100) {
    GTEST_SKIP() << "only " << limit.rlim_cur << " descriptors are allowed here";
  }
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  for (int pass = 0; pass < 4; ++pass) full_pass(*owner);
  EXPECT_EQ(owner->retired_segments(), copies);
  EXPECT_EQ(owner->rejected(), 0u);
  EXPECT_TRUE(Directory(folder_.bus()).segments().empty());
}

}  // namespace
}  // namespace bus_test
