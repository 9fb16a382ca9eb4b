// What a bus reader takes from the ledger of the one before it: identities that are remembered,
// bounded and forgotten, samples that count once, and a reboot.
#include "ledger_of_bus.hpp"

namespace bus_test {
namespace {

TEST_F(LedgerOfBus, IdentityThatReturns_ContinuesItsCountAndItsBeginning) {
  LedgerImage image = image_of_now();
  image.identities[rank_of_engine(0, 0)] = dead_with(100, now_s() - 10'000);
  leave(image);
  const auto bus = open_with_ledger();
  full_pass(*bus);
  EXPECT_EQ(tokens(*bus, 0), std::nullopt) << "an hour after its end it is not shown";
  EXPECT_TRUE(bus->identities().empty()) << "and costs a scrape nothing";
  rankbus::Producer producer = open_producer(0, 0);
  record(producer, 11);
  full_pass(*bus);
  EXPECT_EQ(tokens(*bus, 0), 111u);
  EXPECT_EQ(bus->identities().at(rank_of_engine(0, 0)).began_realtime_s, 1.7e9);
}

TEST_F(LedgerOfBus, TenThousandPastIncarnations_AreKeptAndCostAScrapeNothing) {
  LedgerImage image = image_of_now();
  for (std::uint32_t engine = 0; engine < 10'000; ++engine)
    image.identities[rank_of_engine(engine, 0)] = dead_with(engine, now_s() - 10'000);
  leave(image);
  auto bus = open_with_ledger();
  full_pass(*bus);
  EXPECT_TRUE(bus->identities().empty());
  EXPECT_TRUE(rankbus::collect_values(*bus).empty());
  bus->finish(now_s());
  bus.reset();
  EXPECT_EQ(kept().identities.size(), 10'000u);
}

TEST_F(LedgerOfBus, EngineThatDoesNotComeBack_IsForgottenInTheEnd) {
  LedgerImage image = image_of_now();
  image.identities[rank_of_engine(0, 0)] = dead_with(100, now_s() - 10'000);
  image.identities[rank_of_engine(1, 0)] = dead_with(100, now_s() - 5'000);
  leave(image);
  auto bus = open_with_ledger([](auto& options) { options.forget_after_s = 8'000; });
  full_pass(*bus);
  bus->finish(now_s());
  bus.reset();
  const LedgerImage left = kept();
  EXPECT_EQ(left.identities.count(rank_of_engine(0, 0)), 0u);
  EXPECT_EQ(left.identities.count(rank_of_engine(1, 0)), 1u);
}

// C-35
TEST_F(LedgerOfBus, MoreDeadRanksThanAreRemembered_TheEnginesSumStays) {
  constexpr std::uint32_t kDead = 1000;
  constexpr std::size_t kMost = 10;
  LedgerImage image = image_of_now();
  std::uint64_t sum = 0;
  for (std::uint32_t rank = 1; rank <= kDead; ++rank) {
    image.identities[rank_of_engine(0, rank)] = dead_with(rank, now_s() - 1'000 - rank);
    sum += rank;
  }
  leave(image);
  rankbus::Producer producer = open_producer(0, 0);
  record(producer, 7);
  auto bus = open_with_ledger([](auto& options) { options.most_dead_per_engine = kMost; });
  for (int pass = 0; pass < 3; ++pass) {
    full_pass(*bus);
    EXPECT_EQ(tokens(*bus, 0), sum + 7) << "pass " << pass;
  }
  EXPECT_EQ(bus->identities().size(), kMost + 2) << "the youngest dead, all others, and who lives";
  EXPECT_EQ(bus->identities().count(rank_of_engine(0, 1)), 1u);
  EXPECT_EQ(bus->identities().count(rank_of_engine(0, kDead)), 0u);
  // Who comes back after it was folded counts from 0, and the sum has both.
  rankbus::Producer returned = open_producer(0, kDead);
  record(returned, 3);
  full_pass(*bus);
  EXPECT_EQ(tokens(*bus, 0), sum + 10);
  bus->finish(now_s());
  bus.reset();
  bus = open_with_ledger();
  full_pass(*bus);
  EXPECT_EQ(tokens(*bus, 0), sum + 10) << "after a restart, too";
}

// C-18
TEST_F(LedgerOfBus, AfterAReboot_WhoLivedIsRetiredAtItsFloorAndNothingVanished) {
  LedgerImage image = image_of_now();
  image.boot_id[0] = static_cast<std::uint8_t>(image.boot_id[0] + 1);
  image.written_s = 1e6;  // The clock of that boot stood elsewhere.
  image.written_realtime_s -= 600;
  image.identities[rank_of_engine(0, 0)] = dead_with(100, 1e6 - 60);
  rankbus::LedgerIncarnation living;
  living.who = rank_of_engine(0, 0);
  living.totals = dead_with(11, 0)->retired.values;
  living.streams = {{"iteration_stats", {.records = 11}}};
  image.incarnations["other-0-0.0123456789abcdef0123456789abcdef"] =
      std::make_shared<const rankbus::LedgerIncarnation>(living);
  leave(image);
  const auto bus = open_with_ledger();
  EXPECT_FALSE(bus->complete());
  full_pass(*bus);
  EXPECT_TRUE(bus->complete());
  EXPECT_EQ(bus->vanished(), 0u);
  const rankbus::IdentityState& state = bus->identities().at(rank_of_engine(0, 0));
  EXPECT_EQ(state.retired.values.at({"vllm:generation_tokens_total", {}}).bits, 111u);
  EXPECT_EQ(state.retired.incarnations, 2u);
  EXPECT_GT(state.began_realtime_s, 1.7e9) << "nobody knows what it wrote after the image";
  EXPECT_EQ(tokens(*bus, 0), 111u) << "it ended ten minutes ago";
}

// Samples of one stream as a sink that only counts what is new.
struct CountedSamples {
  std::uint64_t fresh = 0, history = 0;
  BusReader::OnSample sink() {
    return [this](const rankbus::LiveSegment&, const rankbus::Sample& sample) {
      ++(sample.is_history ? history : fresh);
    };
  }
};

// C-2, C-31
TEST_F(LedgerOfBus, SamplesOverARestart_CountOnceOrAreLost) {
  for (const std::uint64_t meanwhile : {0u, 1u, 17u, 63u, 200u, 5'000u}) {
    SCOPED_TRACE(std::to_string(meanwhile) + " records without a reader");
    const Folder folder;
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.rank = 0;
    options.segment_bytes = 32 << 10;
    options.records[0] = rankbus::record_type<rankbus::IterationStats>();
    rankbus::Producer producer = rankbus::Producer::open(options);
    rankbus::BusOptions bus_options;
    bus_options.directory = folder.bus();
    bus_options.ledger.keep = true;
    CountedSamples before, after;
    std::uint64_t lost_before = 0;
    {
      auto bus = BusReader::open(bus_options, [](const std::string&) {});
      ASSERT_TRUE(bus) << bus.error();
      (*bus)->pass(now_s(), true, before.sink());
      for (int burst = 0; burst < 10; ++burst) {
        record(producer, 33);
        (*bus)->pass(now_s(), true, before.sink());
      }
      lost_before = (*bus)->live().begin()->second.reader->streams()[0].lost_lapped;
      (*bus)->finish(now_s());
    }
    EXPECT_EQ(before.fresh + lost_before, 330u);
    record(producer, meanwhile);
    auto bus = BusReader::open(bus_options, [](const std::string&) {});
    ASSERT_TRUE(bus) << bus.error();
    (*bus)->pass(now_s(), true, after.sink());
    const rankbus::StreamState& stream = (*bus)->live().begin()->second.reader->streams()[0];
    EXPECT_EQ(stream.position, 330 + meanwhile);
    EXPECT_EQ(before.fresh + after.fresh + stream.lost_lapped, 330 + meanwhile);
    if (meanwhile < 60) {
      EXPECT_EQ(after.fresh, meanwhile) << "the ring still had them all";
    }
    EXPECT_EQ(stream.mismatches, 0u);
  }
}

TEST_F(LedgerOfBus, CountersOfSamples_ComeBackAsTheyWereGiven) {
  {
    const auto bus = open_with_ledger();
    rankbus::Producer producer = open_producer(0, 0);
    record(producer, 5);
    full_pass(*bus);
    EXPECT_TRUE(bus->sections_at_start().empty());
    bus->finish(now_s(), [] {
      return rankbus::Ledger::Sections{{"goodput", std::string("\0bytes", 6)}};
    });
  }
  const auto bus = open_with_ledger();
  EXPECT_EQ(bus->sections_at_start().at("goodput"), std::string("\0bytes", 6));
}

// C-21
TEST_F(LedgerOfBus, SegmentThatLostItsBytes_IsCalledSoAfterARestartToo) {
  const std::pair<const char*, std::function<int(int, off_t)>> wrongs[] = {
      {"truncated", [](int fd, off_t bytes) { return ftruncate(fd, bytes / 2); }},
      {"holes", [](int fd, off_t bytes) {
         return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, bytes / 2, bytes / 2);
       }}};
  for (const auto& [kind, wrong] : wrongs) {
    const Child child([&](const Line& line) {
      rankbus::Producer producer = open_producer(0, 0);
      record(producer, 10);
      line.say(producer.segment_name());
      (void)line.hear();
      return 0;
    });
    const std::string name = child.hear();
    auto bus = open_with_ledger();
    full_pass(*bus);
    const int fd = open((folder_.bus() + "/" + name).c_str(), O_RDWR | O_CLOEXEC);
    struct stat status {};
    ASSERT_EQ(fstat(fd, &status), 0);
    ASSERT_EQ(wrong(fd, status.st_size), 0);
    close(fd);
    const auto reasons = [&] {
      rankbus::FamilyBuilder families;
      rankbus::add_self_metrics(*bus, rankbus::TickClock(), now_s(), {}, families);
      std::vector<std::string> found;
      for (const rankbus::Family& family : families.take()) {
        if (family.name != "rankbus_quarantined") continue;
        for (const rankbus::Series& series : family.series) {
          for (const auto& [label, value] : series.labels) {
            if (label == "reason") found.push_back(value);
          }
        }
      }
      return found;
    };
    EXPECT_TRUE(wait_until([&] {
      full_pass(*bus);
      return !reasons().empty();
    }));
    EXPECT_EQ(reasons(), std::vector<std::string>{kind});
    bus->finish(now_s());
    bus.reset();
    bus = open_with_ledger();
    full_pass(*bus);
    EXPECT_EQ(reasons(), std::vector<std::string>{kind});
    bus->finish(now_s());
    bus.reset();
    ASSERT_EQ(unlink((folder_.bus() + "/" + name).c_str()), 0);
  }
}

}  // namespace
}  // namespace bus_test
