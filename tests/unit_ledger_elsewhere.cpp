// Goal:   a bus that was not there for one life of its aggregator (another --bus beside the same
//         --state-dir, a mount that was missing) costs no count and doubles none when it is back.
// Method: one ledger and two directories that take turns; a rank that lives on throughout, and one
//         that died and was counted.
// Replay: unit_ledger_elsewhere [--gtest_filter=...]
#include <rankbus/aggregator/aggregator.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::BusOptions;
using rankbus::BusReader;
using rankbus::Producer;

class LedgerElsewhere : public testing::Test {
 protected:
  std::unique_ptr<BusReader> open_at(const Folder& place) {
    BusOptions options;
    options.directory = place.bus();
    options.ledger.keep = true;
    options.ledger.directory = state_.bus();
    auto opened =
        BusReader::open(options, [this](const std::string& text) { warnings_.push_back(text); });
    if (!opened) {
      ADD_FAILURE() << opened.error();
      return nullptr;
    }
    return std::move(opened.value());
  }
  static Producer open_producer(const Folder& place, std::uint32_t rank) {
    rankbus::OpenOptions options = options_for(place.bus(), rankbus::Role::other);
    options.rank = rank;
    options.segment_bytes = 32 << 10;
    options.records[0] = rankbus::record_type<rankbus::IterationStats>();
    return Producer::open(options);
  }
  static void record(Producer& producer, std::uint64_t records) {
    rankbus::IterationStats iteration;
    iteration.num_generation_tokens = 1;
    for (std::uint64_t n = 0; n < records; ++n) producer.record(iteration);
  }
  static std::uint64_t tokens(const BusReader& bus) {
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
  std::uint64_t live_once(const Folder& place) {
    const auto bus = open_at(place);
    if (!bus) return 0;
    for (int pass = 0; pass < 3; ++pass) {
      full_pass(*bus);
      bus->keep_ledger(now_s());
    }
    const std::uint64_t seen = tokens(*bus);
    vanished_ = bus->vanished();
    bus->finish(now_s());
    return seen;
  }

  Folder here_, elsewhere_, state_;
  std::vector<std::string> warnings_;
  std::uint64_t vanished_ = 0;
};

TEST_F(LedgerElsewhere, BusThatComesBack_GoesOnWhereItWas) {
  {
    Producer lives = open_producer(here_, 0);
    record(lives, 100);
    EXPECT_EQ(live_once(here_), 100u);
    record(lives, 10);
    // At the floor, and said so, once.
    EXPECT_EQ(live_once(elsewhere_), 100u);
    EXPECT_EQ(live_once(elsewhere_), 100u);
    EXPECT_EQ(vanished_, 1u);
    EXPECT_EQ(std::count_if(warnings_.begin(), warnings_.end(),
                            [&](const std::string& text) {
                              return text.find(lives.segment_name()) != std::string::npos;
                            }),
              1);
    EXPECT_EQ(live_once(here_), 110u);
    record(lives, 5);
    EXPECT_EQ(live_once(here_), 115u);
  }
  EXPECT_EQ(live_once(here_), 115u);
}

// It was counted, and its name was not yet let go: two images must have it.
TEST_F(LedgerElsewhere, DeadOneWhoseNameComesBack_IsNotCountedAgain) {
  std::string name;
  {
    Producer dies = open_producer(here_, 0);
    record(dies, 100);
    name = dies.segment_name();
  }
  const std::filesystem::path path = std::filesystem::path(here_.bus()) / name;
  const std::filesystem::path away = path.string() + ".away";
  std::filesystem::copy_file(path, away);
  EXPECT_EQ(live_once(here_), 100u);
  EXPECT_FALSE(std::filesystem::exists(path)) << "it was let go";
  EXPECT_EQ(live_once(elsewhere_), 100u);
  std::filesystem::rename(away, path);
  EXPECT_EQ(live_once(here_), 100u);
  EXPECT_EQ(live_once(here_), 100u);
}

}  // namespace
}  // namespace bus_test
