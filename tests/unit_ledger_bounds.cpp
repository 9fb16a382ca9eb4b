// Goal:   what is remembered of the dead has bounds in every direction: ranks of an engine, engines
//         of a model that get another name with each start, models, bytes and series; a series that
//         is shown neither goes back nor leaves its sum; a clock that was wrong forgets nobody.
// Method: images with more of everything than is kept, as an owner before would have left them, a
//         reader that starts from them, and what it exposes and leaves.
// Replay: unit_ledger_bounds [--gtest_filter=...]
#include "ledger_of_bus.hpp"

namespace bus_test {
namespace {

std::uint64_t sum_over_engines(const BusReader& bus) {
  std::uint64_t sum = 0;
  rankbus::FamilyBuilder families;
  rankbus::reduce_records(bus, rankbus::collect_values(bus), now_s(), {}, families);
  for (const rankbus::Family& family : families.take()) {
    if (family.name != "vllm:generation_tokens_total") continue;
    for (const rankbus::Series& series : family.series)
      sum += std::get<std::uint64_t>(std::get<rankbus::Number>(series.value));
  }
  return sum;
}

// C-35
TEST_F(LedgerOfBus, RankThatIsStillShown_IsNotFoldedWhoeverElseDied) {
  LedgerImage image = image_of_now();
  for (std::uint32_t rank = 0; rank < 300; ++rank)
    image.identities[rank_of_engine(0, rank)] = dead_with(100, now_s() - 200 + rank * 0.1);
  leave(image);
  const auto bus = open_with_ledger();
  full_pass(*bus);
  rankbus::Producer returned = open_producer(0, 0);
  record(returned, 5);
  full_pass(*bus);
  const auto& values = bus->identities().at(rank_of_engine(0, 0)).retired.values;
  EXPECT_EQ(values.at({"vllm:generation_tokens_total", {}}).bits, 100u) << "300 died, and it first";
  EXPECT_EQ(tokens(*bus, 0), 300u * 100 + 5);
}

TEST_F(LedgerOfBus, MoreRanksDieAtOnceThanAnyEngineHas_TheOldestAreFoldedAllTheSame) {
  LedgerImage image = image_of_now();
  for (std::uint32_t rank = 0; rank < 300; ++rank)
    image.identities[rank_of_engine(0, rank)] = dead_with(100, now_s() - 200 + rank * 0.1);
  leave(image);
  const auto bus = open_with_ledger([](auto& options) {
    options.most_dead_per_engine = 10;
    options.most_shown_dead_per_engine = 50;
  });
  full_pass(*bus);
  EXPECT_EQ(bus->identities().size(), 51u);
  EXPECT_EQ(bus->identities().count(rank_of_engine(0, 299)), 1u);
  EXPECT_EQ(tokens(*bus, 0), 300u * 100);
}

TEST_F(LedgerOfBus, EachRestartIsAnotherServer_TheOldestBecomeOneOfTheirModel) {
  constexpr std::uint32_t kServers = 2'000;
  LedgerImage image = image_of_now();
  for (std::uint32_t n = 0; n < kServers; ++n)
    image.identities[server(n)] = dead_with(1 + n, now_s() - 3'000 + n);
  leave(image);
  auto bus = open_with_ledger([](auto& options) { options.most_dead_engines = 100; });
  for (int pass = 0; pass < 3; ++pass) {
    full_pass(*bus);
    EXPECT_EQ(bus->identities().size(), 101u);
    EXPECT_EQ(sum_over_engines(*bus), kServers * (kServers + 1) / 2) << "sums stay";
  }
  EXPECT_EQ(bus->identities().count(server(kServers - 1)), 1u);
  EXPECT_EQ(bus->identities().count(server(0)), 0u);
  EXPECT_EQ(bus->folded_engines(), kServers - 100);
  EXPECT_EQ(tokens(*bus, "other"), (kServers - 100) * (kServers - 99) / 2);
  const std::string told = "engine=\"other\"";
  ASSERT_NE(said_.find(told), std::string::npos) << said_;
  EXPECT_EQ(said_.find(told, said_.find(told) + 1), std::string::npos) << "once";
  bus->finish(now_s());
  bus.reset();
  EXPECT_EQ(kept().identities.size(), 101u);
  bus = open_with_ledger([](auto& options) { options.most_dead_engines = 100; });
  full_pass(*bus);
  EXPECT_EQ(sum_over_engines(*bus), kServers * (kServers + 1) / 2) << "over a restart, too";
}

TEST_F(LedgerOfBus, ServersThatNobodyShows_AreBoundedInNumberAndInSeries) {
  LedgerImage image = image_of_now();
  for (std::uint32_t n = 0; n < 1'000; ++n)
    image.identities[server(n)] = dead_with(1 + n, now_s() - 20'000 + n);
  leave(image);
  {
    auto bus = open_with_ledger([](auto& options) { options.most_past_identities = 400; });
    for (int pass = 0; pass < 2; ++pass) full_pass(*bus);
    EXPECT_TRUE(bus->identities().empty())
        << "what is kept of them is shown no more than they were";
    bus->finish(now_s());
    bus.reset();
    EXPECT_LE(kept().identities.size(), 400u);
    EXPECT_GE(kept().identities.size(), 340u);
    EXPECT_EQ(kept().identities.count(server(999)), 1u);
    const auto total = kept().identities.at(server(0).whole_model());
    const std::uint64_t folded = 1'001 - kept().identities.size();
    EXPECT_EQ(total->retired.values.begin()->second.bits, folded * (folded + 1) / 2);
  }
  auto bus = open_with_ledger([](auto& options) { options.most_past_series = 100; });
  for (int pass = 0; pass < 2; ++pass) full_pass(*bus);
  bus->finish(now_s());
  bus.reset();
  EXPECT_LE(kept().identities.size(), 101u);
}

TEST_F(LedgerOfBus, EachRestartIsAnotherModel_OnlySoManyTotalsAreKept) {
  LedgerImage image = image_of_now();
  for (std::uint32_t n = 0; n < 500; ++n)
    image.identities[server(n, "model-" + std::to_string(n))] = dead_with(1, now_s() - 1'000 + n);
  leave(image);
  auto bus = open_with_ledger([](auto& options) {
    options.most_dead_engines = 100;
    options.most_models = 20;
  });
  for (int pass = 0; pass < 2; ++pass) full_pass(*bus);
  EXPECT_EQ(bus->identities().size(), 120u);
  bus->finish(now_s());
  bus.reset();
  EXPECT_EQ(kept().identities.size(), 120u);
}

// C-11
TEST(BusWithoutALedger, EachRestartIsAnotherServer_TheOldestBecomeOneAsWell) {
  const Folder folder;
  rankbus::BusOptions options;
  options.directory = folder.bus();
  options.ledger.keep = false;
  options.ledger.most_dead_engines = 5;
  auto bus = BusReader::open(options, [](const std::string&) {});
  ASSERT_TRUE(bus) << bus.error();
  for (int life = 0; life < 30; ++life) {
    const std::string name = "pod-" + std::to_string(life);
    rankbus::OpenOptions pod = options_for(folder.bus(), rankbus::Role::other);
    pod.server = name.c_str();
    pod.segment_bytes = 32 << 10;
    pod.records[0] = rankbus::record_type<rankbus::IterationStats>();
    rankbus::Producer producer = rankbus::Producer::open(pod);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    rankbus::IterationStats iteration;
    iteration.num_generation_tokens = 7;
    producer.record(iteration);
    full_pass(**bus);
    producer.close();
    full_pass(**bus);
    full_pass(**bus);
    EXPECT_LE((*bus)->identities().size(), 6u);
    EXPECT_EQ(sum_over_engines(**bus), 7u * static_cast<unsigned>(life + 1));
  }
}

// C-18
TEST_F(LedgerOfBus, ClockWasWrongAtOneEndOfAReboot_NobodyIsForgotten) {
  const double day_s = 86'400;
  for (const double written_realtime_s : {1'000.0, 4e9, image_of_now().written_realtime_s}) {
    SCOPED_TRACE(written_realtime_s);
    LedgerImage image = image_of_now();
    image.boot_id[0] = static_cast<std::uint8_t>(image.boot_id[0] + 1);
    image.written_s = 1e7;
    image.written_realtime_s = written_realtime_s;
    image.identities[rank_of_engine(0, 0)] = dead_with(1'000, 1e7 - 60);
    image.identities[rank_of_engine(1, 0)] = dead_with(2'000, 1e7 - 29 * day_s);
    image.identities[rank_of_engine(2, 0)] = dead_with(3'000, 1e7 - 31 * day_s);
    leave(image);
    auto bus = open_with_ledger();
    full_pass(*bus);
    rankbus::Producer first = open_producer(0, 0), second = open_producer(1, 0);
    record(first, 3);
    record(second, 3);
    full_pass(*bus);
    EXPECT_EQ(tokens(*bus, 0), 1'003u);
    EXPECT_EQ(tokens(*bus, 1), 2'003u);
    first.close();
    second.close();
    full_pass(*bus);
    bus->finish(now_s());
    bus.reset();
    EXPECT_EQ(kept().identities.count(rank_of_engine(2, 0)), 0u) << "that one was overdue before";
    EXPECT_NE(said_.find("forgotten, because there was no sign of life"), std::string::npos);
    EXPECT_NE(said_.find("engine 2 of model test-model"), std::string::npos) << said_;
  }
}

}  // namespace
}  // namespace bus_test
