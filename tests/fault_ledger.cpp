// Labels: multiprocess-heavy release-only
//
// Goal:   counts go neither back nor up by a kill: of the aggregator at every arrow of the ledger's
//         state machine and at any moment, of producers, of both; whatever is damaged or missing
//         costs what the ledger says it costs, and is told.
// Method: the built `rankbus aggregate` and forked producers that write known records. A preloaded
//         library kills the aggregator between two of its system calls; besides, everybody is
//         killed at seeded random moments. What producers published is known from mappings of their
//         segments; every scrape of every aggregator goes through one watch over all counters.
// Replay: RANKBUS_TEST_SEED=<printed> fault_ledger [--gtest_filter=...]; RANKBUS_TEST_SCALE=50 is
//         2,000 deaths of aggregators and 10,000 of producers.
#include "ledger_world.hpp"

namespace bus_test {
namespace {

class LedgerTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kRanks = 3;

  void start_writer(std::uint32_t rank) {
    writers_[rank] = std::make_unique<Writer>(folder_.bus(), rank);
    ASSERT_TRUE(rankbus::bus::is_segment_name(writers_[rank]->name().c_str()))
        << writers_[rank]->name();
  }
  void kill_writer(std::uint32_t rank) {
    if (!writers_[rank]) return;
    writers_[rank]->kill();
    dead_.add(writers_[rank]->counts());
    writers_[rank].reset();
    ++deaths_;
  }
  void kill_writers() {
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) kill_writer(rank);
  }
  std::unique_ptr<AggregatorProcess> start(const std::string& kill_at = {},
                                           std::vector<std::string> arguments = {}) {
    return std::make_unique<AggregatorProcess>(
        AggregatorProcess::Options{folder_.bus(), std::move(arguments), kill_at});
  }
  // A scrape that is held against all that came before; false if the aggregator died meanwhile.
  bool watch(const AggregatorProcess& aggregator) {
    const auto scrape = aggregator.scrape();
    if (scrape) watch_.see(*scrape);
    return scrape.has_value();
  }
  // With nobody writing any more, the counts are those of all that was ever published.
  void expect_exact(const AggregatorProcess& aggregator) {
    const auto scrape = aggregator.scrape();
    ASSERT_TRUE(scrape) << aggregator.log();
    watch_.see(*scrape);
    expect_counts(*scrape, dead_);
  }
  bool names_go() const {
    return wait_until([&] { return Directory(folder_.bus()).segments().empty(); });
  }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "ledger"};
  Environment budget_{"RANKBUS_BUDGET", "512M"};
  std::unique_ptr<Writer> writers_[kRanks];
  Counts dead_;
  std::uint64_t deaths_ = 0;
  CounterWatch watch_;
};

class KilledAt : public LedgerTest, public testing::WithParamInterface<const char*> {};

// C-2, C-4, C-12
TEST_P(KilledAt, NextOwnerContinuesEveryCount) {
  std::uint64_t kills = 0;
  for (const int nth : {1, 2, 3, 5}) {
    const std::string point = std::string(GetParam()) + ":" + std::to_string(nth);
    SCOPED_TRACE(point);
    auto aggregator = start(point);
    // Deaths drive it along the arrows; it dies at the one in question.
    for (int round = 0; round < 40 && aggregator->is_running(); ++round) {
      const auto rank = static_cast<std::uint32_t>(round) % kRanks;
      start_writer(rank);
      ASSERT_TRUE(writers_[rank]->wait_for(30 + 100 * static_cast<std::uint64_t>(nth)));
      watch(*aggregator);
      kill_writer(rank);
      watch(*aggregator);
    }
    EXPECT_FALSE(aggregator->is_running()) << "it never got there\n" << aggregator->log();
    kills += aggregator->is_running() ? 0 : 1;
    aggregator = start();
    expect_exact(*aggregator);
    aggregator->end(SIGKILL);
    aggregator = start();
    expect_exact(*aggregator);
    EXPECT_TRUE(names_go());
    EXPECT_EQ(aggregator->end(SIGTERM), 0) << aggregator->log();
    aggregator = start();
    expect_exact(*aggregator);
    if (HasFailure()) return;
  }
  std::printf("%llu kills of the aggregator, %llu of producers, %llu scrapes\n",
              static_cast<unsigned long long>(kills), static_cast<unsigned long long>(deaths_),
              static_cast<unsigned long long>(watch_.scrapes()));
}

INSTANTIATE_TEST_SUITE_P(Ledger, KilledAt,
                         testing::Values("silent", "folded", "created", "half-written", "written",
                                         "synced", "renamed", "directory-synced", "letting-go",
                                         "unlinked"),
                         [](const auto& point) {
                           std::string name = point.param;
                           std::erase(name, '-');
                           return name;
                         });

// C-2, C-12, C-35
TEST_F(LedgerTest, EverybodyKilledAtRandom_EveryCountIsExact) {
  Dice dice(test_seed());
  const std::uint64_t owners = scaled(40);
  const std::uint64_t lives = scaled(200);
  std::uint64_t killed_owners = 0;
  auto aggregator = start();
  while ((killed_owners < owners || deaths_ < lives) && !HasFailure()) {
    const auto rank = static_cast<std::uint32_t>(dice.below(kRanks));
    if (!writers_[rank]) {
      start_writer(rank);
    } else {
      kill_writer(rank);
    }
    if (dice.one_in(3)) watch(*aggregator);
    if (killed_owners < owners && dice.one_in(4)) {
      if (dice.one_in(2)) let_pass_us(dice.below(60'000));
      if (dice.one_in(8)) {
        EXPECT_EQ(aggregator->end(SIGTERM), 0);
      } else {
        aggregator->end(SIGKILL);
      }
      ++killed_owners;
      // Some die while nobody reads.
      while (dice.one_in(3)) {
        const auto other = static_cast<std::uint32_t>(dice.below(kRanks));
        kill_writer(other);
        start_writer(other);
      }
      aggregator = start();
    }
  }
  kill_writers();
  expect_exact(*aggregator);
  EXPECT_TRUE(names_go()) << "the dead are reclaimed once both images have them";
  std::printf("%llu kills of the aggregator, %llu of producers, %llu scrapes\n",
              static_cast<unsigned long long>(killed_owners),
              static_cast<unsigned long long>(deaths_),
              static_cast<unsigned long long>(watch_.scrapes()));
}

// The files of the ledger, newest first.
std::vector<std::string> ledger_files(const std::string& directory) {
  std::vector<std::pair<std::uint64_t, std::string>> files;
  for (const char* name : rankbus::kLedgerFiles) {
    std::ifstream file(directory + "/" + name, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), {}};
    auto image = rankbus::parse_untrusted_ledger(bytes);
    if (image) files.emplace_back(image->generation, directory + "/" + name);
  }
  std::sort(files.rbegin(), files.rend());
  std::vector<std::string> names;
  for (const auto& [generation, name] : files) names.push_back(name);
  return names;
}

void damage(const std::string& path) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(100);
  file.put('\x5a').put('\x5b').put('\x5c');
}

// C-12
TEST_F(LedgerTest, NewestImageDamagedAtAnyMoment_TheOlderOneLosesNothing) {
  Dice dice(test_seed() + 1);
  watch_.leave_out_what_only_the_reader_knows();
  for (std::uint64_t round = 0; round < scaled(10); ++round) {
    auto aggregator = start();
    start_writer(0);
    start_writer(1);
    ASSERT_TRUE(writers_[0]->wait_for(100) && writers_[1]->wait_for(100));
    watch(*aggregator);
    kill_writer(0);
    if (dice.one_in(2)) watch(*aggregator);
    if (dice.one_in(2)) {
      EXPECT_TRUE(wait_until([&] { return Directory(folder_.bus()).segments().size() == 1; }));
    }
    kill_writer(1);
    let_pass_us(dice.below(40'000));
    aggregator->end(SIGKILL);
    const auto files = ledger_files(folder_.bus());
    if (files.size() == 2) damage(files[0]);
    aggregator = start();
    expect_exact(*aggregator);
    EXPECT_EQ(aggregator->log().find("is not used") != std::string::npos, files.size() == 2);
    aggregator->end(SIGKILL);
    if (HasFailure()) return;
  }
}

TEST_F(LedgerTest, BothImagesDamaged_IsToldAndTheLivingAreCounted) {
  auto aggregator = start();
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(100));
  kill_writer(0);
  ASSERT_TRUE(watch(*aggregator));
  ASSERT_TRUE(names_go());
  start_writer(1);
  ASSERT_TRUE(writers_[1]->wait_for(100));
  ASSERT_TRUE(watch(*aggregator));
  aggregator->end(SIGKILL);
  for (const std::string& file : ledger_files(folder_.bus())) damage(file);
  aggregator = start();
  writers_[1]->kill();
  const auto scrape = aggregator->scrape();
  ASSERT_TRUE(scrape);
  expect_counts(*scrape, writers_[1]->counts());
  EXPECT_NE(aggregator->log().find("begin again"), std::string::npos) << aggregator->log();
}

TEST_F(LedgerTest, SegmentRemovedByAStrangerMeanwhile_StaysAtItsFloorAndIsCounted) {
  auto aggregator = start();
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(200));
  ASSERT_TRUE(watch(*aggregator));
  EXPECT_EQ(aggregator->end(SIGTERM), 0);
  const auto before = ledger_files(folder_.bus());
  ASSERT_FALSE(before.empty());
  const std::string name = writers_[0]->name();
  std::ifstream file(before[0], std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  auto image = rankbus::parse_untrusted_ledger(bytes);
  ASSERT_TRUE(image) << image.error();
  ASSERT_EQ(image->incarnations.count(name), 1u);
  ASSERT_EQ(unlink((folder_.bus() + "/" + name).c_str()), 0);
  aggregator = start();
  const auto scrape = aggregator->scrape();
  ASSERT_TRUE(scrape);
  watch_.see(*scrape);
  EXPECT_EQ(scrape->total("rankbus_segments_vanished_total"), 1);
  const auto& streams = image->incarnations.at(name)->streams;
  expect_counts(*scrape, Counts::after(streams[0].second.records, streams[1].second.records));
  aggregator->end(SIGKILL);
  aggregator = start();
  const auto again = aggregator->scrape();
  ASSERT_TRUE(again);
  watch_.see(*again);
  expect_counts(*again, Counts::after(streams[0].second.records, streams[1].second.records));
}

// C-35
TEST_F(LedgerTest, StartTimes_StayOverRestartsAndMoveWhereCountsWereLost) {
  const auto began = [&](AggregatorProcess& aggregator) {
    const auto scrape = aggregator.scrape();
    return scrape ? scrape->total("vllm:generation_tokens_created") : 0;
  };
  auto aggregator = start({}, {"--created-series"});
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(100));
  const double first = began(*aggregator);
  EXPECT_GT(first, 0);
  kill_writer(0);
  EXPECT_EQ(began(*aggregator), first);
  ASSERT_TRUE(names_go());
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(100));
  EXPECT_EQ(began(*aggregator), first) << "who returns continues";
  EXPECT_EQ(aggregator->end(SIGTERM), 0);
  aggregator = start({}, {"--created-series"});
  EXPECT_EQ(began(*aggregator), first) << "so does who is read again";
  EXPECT_EQ(aggregator->end(SIGTERM), 0);
  ASSERT_EQ(unlink((folder_.bus() + "/" + writers_[0]->name()).c_str()), 0);
  aggregator = start({}, {"--created-series"});
  const double second = began(*aggregator);
  EXPECT_GT(second, first) << "what may step back begins anew";
  EXPECT_EQ(aggregator->end(SIGTERM), 0);
  aggregator = start({}, {"--created-series"});
  EXPECT_EQ(began(*aggregator), second);
}

// C-9
TEST_F(LedgerTest, OnADiskThatRefuses_IsToldOnceAndNothingElseIsHurt) {
  const std::string state = folder_ / "state";
  ASSERT_EQ(mkdir(state.c_str(), 0700), 0);
  // What would be a new image cannot be made: as on a full or read-only disk, also for root.
  const std::string obstacle = state + "/" + rankbus::kLedgerNewFile;
  ASSERT_EQ(mkdir(obstacle.c_str(), 0700), 0);
  auto aggregator = start({}, {"--state-dir", state});
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(100));
  kill_writer(0);
  expect_exact(*aggregator);
  std::optional<Scrape> scrape;
  ASSERT_TRUE(wait_until([&] {
    scrape = aggregator->scrape();
    return scrape && scrape->total("rankbus_ledger_write_failures_total") >= 2;
  }));
  expect_counts(*scrape, dead_);
  EXPECT_EQ(Directory(folder_.bus()).segments().size(), 1u) << "it must not go yet";
  const std::string log = aggregator->log();
  const std::size_t told = log.find("The ledger in " + state);
  ASSERT_NE(told, std::string::npos) << log;
  EXPECT_EQ(log.find("The ledger in " + state, told + 1), std::string::npos) << log;
  ASSERT_EQ(rmdir(obstacle.c_str()), 0);
  EXPECT_TRUE(names_go()) << "once it can be written, the dead are let go";
  expect_exact(*aggregator);
  aggregator->end(SIGKILL);
  aggregator = start({}, {"--state-dir", state});
  expect_exact(*aggregator);
}

TEST_F(LedgerTest, SecondAggregatorOfAnotherBusInTheSameStateDirectory_IsRefused) {
  const std::string state = folder_ / "state";
  auto aggregator = start({}, {"--state-dir", state});
  ASSERT_TRUE(aggregator->scrape());
  AggregatorProcess second({folder_ / "other", {"--state-dir", state}, {}});
  EXPECT_FALSE(second.is_running());
  EXPECT_NE(second.log().find("another aggregator keeps its ledger here"), std::string::npos)
      << second.log();
}

// Writes one word over a published slot of a living writer that stands still.
TEST_F(LedgerTest, QuarantinedSegment_StaysAsItWasOverRestartsUntilItIsReleased) {
  Writer writer(folder_.bus(), 0, 1000);
  ASSERT_TRUE(writer.wait_for(1000));
  const std::string path = folder_.bus() + "/" + writer.name();
  std::uint64_t word_offset = 0;
  std::uint64_t whole_word = 0;
  auto aggregator = start();
  ASSERT_TRUE(watch(*aggregator));
  EXPECT_EQ(aggregator->end(SIGTERM), 0);
  {
    // `published` of the first stream goes back.
    const auto reader = open_segment(folder_.bus(), writer.name());
    ASSERT_TRUE(reader);
    word_offset = reader->header().activity_offset;
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(pread(fd, &whole_word, 8, static_cast<off_t>(word_offset)), 8);
    const std::uint64_t less = whole_word - 1;
    ASSERT_EQ(pwrite(fd, &less, 8, static_cast<off_t>(word_offset)), 8);
    close(fd);
  }
  for (int life = 0; life < 3; ++life) {
    aggregator = start();
    const auto scrape = aggregator->scrape();
    ASSERT_TRUE(scrape);
    watch_.see(*scrape);
    expect_counts(*scrape, writer.counts().steps == 1000 ? Counts::after(1000, 1000) : Counts{});
    EXPECT_EQ(scrape->total("rankbus_quarantined"), 1) << aggregator->log();
    EXPECT_EQ(aggregator->end(life == 1 ? SIGTERM : SIGKILL), life == 1 ? 0 : -SIGKILL);
  }
  {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(pwrite(fd, &whole_word, 8, static_cast<off_t>(word_offset)), 8);
    close(fd);
  }
  aggregator = start();
  ASSERT_TRUE(watch(*aggregator));
  const std::string command = required_environment("RANKBUS_BINARY") + " release " + writer.name() +
                              " --bus " + folder_.bus();
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::optional<Scrape> scrape;
  EXPECT_TRUE(wait_until([&] {
    scrape = aggregator->scrape();
    return scrape && scrape->total("rankbus_quarantined") == 0;
  }));
  watch_.see(*scrape);
  expect_counts(*scrape, Counts::after(1000, 1000));
  writer.kill();
  ASSERT_TRUE(names_go()) << "read to its end, it is let go as any other";
  const auto last = aggregator->scrape();
  ASSERT_TRUE(last);
  expect_counts(*last, Counts::after(1000, 1000));
}

// Finished requests are judged one by one, so what counts them is made of samples.
// C-2, C-33
TEST_F(LedgerTest, CountersOfSamplesOverKilledAggregators_CountOnceOrAreLost) {
  Dice dice(test_seed() + 2);
  Child child([&](const Line& line) {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::frontend);
    options.segment_bytes = 64 << 10;
    rankbus::Producer producer = rankbus::Producer::open(options);
    line.say(producer.segment_name());
    for (std::uint64_t n = 0; line.hear() == "on"; ++n) {
      for (int request = 0; request < 100; ++request) {
        rankbus::FinishedRequest finished;
        finished.e2e_latency_seconds = request % 4 == 0 ? 3.0 : 0.5;
        producer.record(finished);
        if (request % 10 == 0) let_pass_us(500);
      }
      line.say("done");
    }
    return 0;
  });
  const std::string name = child.hear();
  const auto segment = open_segment(folder_.bus(), name);
  ASSERT_TRUE(segment);
  std::uint32_t stream = 0;
  while (segment->streams()[stream].schema.name != "finished_request") ++stream;
  const PublishedWords published(folder_.bus(), name);
  // What was written before any aggregator is nobody's loss.
  EXPECT_EQ(start()->end(SIGTERM), 0);
  std::uint64_t kills = 0;
  for (std::uint64_t round = 0; round < scaled(20) && !HasFailure(); ++round) {
    const auto aggregator = start({}, {"--slo-end-to-end", "1"});
    // Some bursts come while it reads, and some while nobody does.
    child.say("on");
    const bool reads_on = dice.one_in(2);
    if (reads_on) child.hear();
    const auto scrape = aggregator->scrape();
    ASSERT_TRUE(scrape);
    if (reads_on) {
      const double judged = scrape->total("rankbus_slo_requests_total");
      const double lost = scrape->total(
          "rankbus_samples_lost_total{cause=\"lapped\",engine=\"0\",model_name=\"test-model\",rank="
          "\"\",role=\"frontend\",stream=\"finished_request\"}");
      EXPECT_EQ(judged + lost, static_cast<double>(published.of_stream(stream)))
          << "round " << round;
      EXPECT_GT(judged, 0);
    }
    let_pass_us(dice.below(30'000));
    aggregator->end(SIGKILL);
    ++kills;
    if (!reads_on) child.hear();
    for (std::uint64_t more = dice.below(3); more > 0; --more) {
      child.say("on");
      child.hear();
    }
  }
  std::printf("%llu kills of the aggregator, %llu requests\n",
              static_cast<unsigned long long>(kills),
              static_cast<unsigned long long>(published.of_stream(stream)));
}

TEST_F(LedgerTest, BeforeTheFirstPassIsComplete_NothingIsShown) {
  auto aggregator = start();
  start_writer(0);
  ASSERT_TRUE(writers_[0]->wait_for(100));
  ASSERT_TRUE(watch(*aggregator));
  aggregator->end(SIGKILL);
  kill_writer(0);
  aggregator = start();
  // Whatever is answered is either a refusal or everything.
  for (int request = 0; request < 20; ++request) {
    const std::string reply = aggregator->get("/metrics");
    if (reply.rfind("HTTP/1.1 200", 0) != 0) {
      EXPECT_EQ(reply.rfind("HTTP/1.1 503", 0), 0u) << reply;
      continue;
    }
    expect_counts(Scrape(reply.substr(reply.find("\r\n\r\n") + 4)), dead_);
  }
}

}  // namespace
}  // namespace bus_test
