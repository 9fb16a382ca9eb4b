// Goal:   every count of an engine stands in the lines of exactly one interval, and every line that
//         is printed has something to tell: what the lines say adds up to what the totals grew.
// Method: seeded histories of some engines: totals grow at random, clocks pass, stand still or are
//         virtual, passes and logs alternate, engines die and return. The counts are read out of
//         the printed text and added up.
// Replay: RANKBUS_TEST_SEED=<printed> property_engine_log
#include <cstdint>
#include <map>
#include <regex>
#include <string>

#include "bus_fixture.hpp"
#include "unit_exporters_log_lib.hpp"

namespace rankbus::test {
namespace {

using bus_test::Dice;

// What the lines told, by the word before the number.
using Told = std::map<std::string, std::uint64_t>;

class EngineLogHistory : public EngineLogTest {
 protected:
  // Some of each count, or nothing at all.
  static void grow(EngineTotals& engine, Dice& dice) {
    engine.preemptions += dice.below(3);
    *engine.corrupted += dice.below(2);
    if (dice.one_in(2)) return;
    SpecDecodingTotals& spec = *engine.spec_decoding;
    const std::uint64_t drafts = 1 + dice.below(50);
    spec.drafts += drafts;
    spec.draft_tokens += 4 * drafts;
    const std::uint64_t accepted = dice.below(4 * drafts + 1);
    spec.accepted_tokens += accepted;
    engine.generation_tokens += drafts + accepted;
  }

  void read(Told& told) {
    static const std::regex count("(Accepted|Drafted|Preemptions|Corrupted): ([0-9]+)");
    for (const std::string& line : log()) {
      if (line.find("SpecDecoding") != std::string::npos) {
        EXPECT_EQ(line.find("Drafted: 0 tokens"), std::string::npos) << "nothing to tell: " << line;
      }
      for (std::sregex_iterator at(line.begin(), line.end(), count), end; at != end; ++at) {
        told[(*at)[1]] += std::stoull((*at)[2]);
      }
    }
  }
};

TEST_F(EngineLogHistory, EveryCount_IsToldInOneInterval) {
  Dice dice(bus_test::test_seed());
  for (std::uint64_t round = 0; round < bus_test::scaled(200); ++round) {
    snapshot_ = Snapshot{};
    log();  // Forgets the engines of the round before.
    // By the server's name, so that no aggregated line tells everything twice.
    const std::uint64_t engines = 1 + dice.below(3);
    for (std::uint64_t i = 0; i < engines; ++i) {
      EngineTotals& engine = this->engine(0, "k" + std::to_string(i));
      engine.virtual_clock = dice.one_in(2);
      engine.began_clock_s = snapshot_.monotonic_s;
      engine.clock_s = snapshot_.monotonic_s;
      engine.corrupted = 0;
      engine.spec_decoding = SpecDecodingTotals{};
    }
    Told told;
    for (std::uint64_t step = dice.below(40); step > 0; --step) {
      if (!dice.one_in(4)) pass_seconds(0.1);
      for (EngineTotals& engine : snapshot_.engines) {
        if (engine.live) grow(engine, dice);
        if (engine.live && !dice.one_in(3)) engine.clock_s += 0.1;
        if (dice.one_in(8)) engine.live = !engine.live;
      }
      if (dice.one_in(2)) {
        observe();
      } else {
        read(told);
      }
    }
    // At the end all live and all clocks move on.
    pass_seconds(1);
    Told grown;
    for (EngineTotals& engine : snapshot_.engines) {
      engine.live = true;
      engine.clock_s += 1;
      grown["Preemptions"] += engine.preemptions;
      grown["Corrupted"] += *engine.corrupted;
      grown["Accepted"] += engine.spec_decoding->accepted_tokens;
      grown["Drafted"] += engine.spec_decoding->draft_tokens;
    }
    read(told);
    for (const auto& [name, total] : grown)
      ASSERT_EQ(told[name], total) << name << ", round " << round;
  }
}

}  // namespace
}  // namespace rankbus::test
