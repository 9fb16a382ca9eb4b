// Labels: release-only
//
// Goal:   what is remembered of the dead costs a scrape by its number, not by its square.
// Method: the same questions about 8, 16 and 32 dead servers, counted in instructions.
// Replay: unit_ledger_cost; nothing here is random.
#include "instruction_count.hpp"
#include "ledger_of_bus.hpp"

namespace bus_test {
namespace {

// What a scrape asks of each identity, whether it is shown, in instructions: here nobody is.
std::optional<std::uint64_t> cost_of_who_is_shown(const BusReader& bus) {
  const rankbus::TickClock clock;
  const rankbus::SampleFeed feed;
  const rankbus::ValuesByIdentity values = rankbus::collect_values(bus);
  const double now = now_s();
  rankbus::ReduceOptions options;
  options.retain_engine_s = options.retain_rank_s = -1;
  return rankbus::test::instructions_of([&] {
    rankbus::FamilyBuilder families;
    rankbus::reduce_records(bus, values, now, options, families);
    (void)rankbus::engine_totals(bus, values, clock, now, options, feed);
  });
}

TEST_F(LedgerOfBus, TwiceAsManyDeadServers_CostAScrapeTwiceAsMuch) {
  std::map<std::uint32_t, std::uint64_t> costs;
  for (const std::uint32_t servers : {8u, 16u, 32u}) {
    LedgerImage image = image_of_now();
    for (std::uint32_t n = 0; n < servers; ++n)
      image.identities[server(n)] = dead_with(1, now_s() - 100);
    leave(image);
    const auto bus = open_with_ledger();
    full_pass(*bus);
    ASSERT_EQ(bus->identities().size(), servers);
    const auto cost = cost_of_who_is_shown(*bus);
    if (!cost) GTEST_SKIP() << "this process may not trace its own child";
    ASSERT_LT(*cost, rankbus::test::kMostInstructions);
    costs[servers] = *cost;
  }
  const double first = static_cast<double>(costs[16] - costs[8]);
  const double second = static_cast<double>(costs[32] - costs[16]);
  std::printf("%llu, %llu and %llu instructions\n", static_cast<unsigned long long>(costs[8]),
              static_cast<unsigned long long>(costs[16]),
              static_cast<unsigned long long>(costs[32]));
  // Twice, and a little for deeper trees; four times if each asked all the others.
  EXPECT_LT(second, 2.4 * first);
}

}  // namespace
}  // namespace bus_test
