// Labels: release-only
//
// Goal:   however many producers come and go, the aggregator, the bus and an answer are afterwards
//         what they were before: memory, descriptors, mappings, bytes of shared memory, series.
// Method: the built `rankbus aggregate`; producers of a few identities that are closed or killed,
//         again and again. A first round fills what is kept for good; the others are compared with
//         it.
// Replay: RANKBUS_TEST_SEED=<printed> fault_churn; RANKBUS_TEST_SCALE=25 is 10,000 producers.
#include "footprint.hpp"
#include "ledger_world.hpp"

namespace bus_test {
namespace {

constexpr std::uint32_t kRanks = 8;
constexpr std::uint64_t kRecords = 10;

class Churn : public testing::Test {
 protected:
  rankbus::OpenOptions options_of(std::uint32_t rank) const {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.rank = rank;
    options.segment_bytes = 1;
    options.records[0] = rankbus::record_type<rankbus::IterationStats>();
    options.records[1] = rankbus::record_type<rankbus::SchedulerStep>();
    return options;
  }
  // Returns how many were inert.
  std::uint64_t live_and_die(std::uint32_t rank) {
    rankbus::Producer producer = rankbus::Producer::open(options_of(rank));
    rankbus::IterationStats iteration;
    iteration.num_generation_tokens = 1;
    for (std::uint64_t n = 0; n < kRecords; ++n) producer.record(iteration);
    return producer.inert() ? 1 : 0;
  }
  void churn(std::uint64_t producers) {
    std::uint64_t inert = 0;
    for (std::uint64_t n = 0; n < producers; ++n) {
      const auto rank = static_cast<std::uint32_t>(dice_.below(kRanks));
      if (dice_.one_in(10)) {
        // Not closed, but killed.
        EXPECT_EQ(in_child([&] {
                    rankbus::Producer producer = rankbus::Producer::open(options_of(rank));
                    rankbus::IterationStats iteration;
                    iteration.num_generation_tokens = 1;
                    for (std::uint64_t k = 0; k < kRecords; ++k) producer.record(iteration);
                    return raise(SIGKILL);
                  }),
                  -SIGKILL);
      } else {
        inert += live_and_die(rank);
      }
      if (n % 100 == 0) {
        // A scraper looks on.
        ASSERT_TRUE(aggregator_.scrape());
      }
    }
    EXPECT_EQ(inert, 0u);
    producers_ += producers;
  }
  struct State {
    Footprint process;
    std::uint64_t bus_bytes = 0;
    std::size_t series = 0;
  };
  // Once all is reclaimed.
  State settled() {
    EXPECT_TRUE(wait_until([&] { return Directory(folder_.bus()).segments().empty(); }));
    const auto scrape = aggregator_.scrape();
    if (!scrape) return {};
    EXPECT_EQ(scrape->total("vllm:generation_tokens_total"),
              static_cast<double>(producers_ * kRecords));
    EXPECT_EQ(scrape->total("rankbus_segments"), 0);
    EXPECT_EQ(scrape->total("rankbus_segments_retired_total"), static_cast<double>(producers_));
    // The connection of that scrape may still be open.
    State state;
    state.process = Footprint::of(aggregator_.pid());
    EXPECT_TRUE(wait_until([&] {
      state.process = Footprint::of(aggregator_.pid());
      return descriptors_ == 0 || state.process.descriptors <= descriptors_;
    })) << state.process.descriptors
        << " descriptors, " << descriptors_ << " before";
    descriptors_ = state.process.descriptors;
    state.bus_bytes = bus_bytes(folder_.bus());
    state.series = scrape->samples.size();
    return state;
  }

  Dice dice_{test_seed()};
  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "churn"};
  Environment budget_{"RANKBUS_BUDGET", "512M"};
  AggregatorProcess aggregator_{{folder_.bus(), {}, {}}};
  std::uint64_t producers_ = 0;
  std::uint64_t descriptors_ = 0;
};

// C-11
TEST_F(Churn, ThousandsComeAndGo_NothingGrows) {
  churn(scaled(100));
  const State before = settled();
  churn(scaled(300));
  const State after = settled();
  EXPECT_EQ(after.process.mapped_segments, before.process.mapped_segments);
  EXPECT_EQ(after.process.mapped_segments, 0u);
  EXPECT_EQ(after.bus_bytes, before.bus_bytes);
  EXPECT_EQ(after.series, before.series);
  constexpr std::uint64_t kTolerance = 4 << 20;
  EXPECT_LE(after.process.resident_bytes, before.process.resident_bytes + kTolerance);
  std::printf(
      "%llu producers; resident %.1f MiB after the first quarter, %.1f MiB in the end; %llu "
      "descriptors; %zu series\n",
      static_cast<unsigned long long>(producers_),
      static_cast<double>(before.process.resident_bytes) / 0x1p20,
      static_cast<double>(after.process.resident_bytes) / 0x1p20,
      static_cast<unsigned long long>(after.process.descriptors), after.series);
}

}  // namespace
}  // namespace bus_test
