// Goal:   a segment with more to read than anybody has time for gets its turn and no more; the
//         others are read in every round, and a fresh view begins with everybody.
// Method: whoever takes the flood's samples is slow, so that a single batch is longer than a turn
//         on any machine. Turns are told by counting samples, never by a clock.
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::LiveSegment;
using rankbus::Producer;
using rankbus::Sample;

// What a turn reads before it looks at the clock; see kBatchRecords.
constexpr std::uint64_t kBatch = 256;
// Longer than a turn of two milliseconds, taken by a whole batch.
constexpr std::uint64_t kSample_ns = 20'000;

std::unique_ptr<Producer> open_tiles(const std::string& bus, std::uint32_t rank,
                                     std::uint64_t segment_bytes) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.segment_bytes = segment_bytes;
  return std::unique_ptr<Producer>(new Producer(Producer::open(options)));
}

class Turns : public testing::Test {
 protected:
  static constexpr std::uint32_t kQuiet = 6;

  void SetUp() override {
    // In the middle of the names' order, whatever it is.
    flood_ = open_tiles(folder_.bus(), 3, 8 << 20);
    for (std::uint32_t rank = 0; rank < kQuiet; ++rank)
      quiet_.push_back(open_tiles(folder_.bus(), 10 + rank, 64 << 10));
    bus_ = open_bus(folder_.bus(), false);
    ASSERT_TRUE(bus_);
    full_pass(*bus_);
    ASSERT_EQ(bus_->live().size(), 1u + kQuiet);
    while (flooded_ < 4 * kBatch) flood();
  }
  void flood() { flood_->record(tile(flooded_++)); }
  const LiveSegment& of(const std::unique_ptr<Producer>& producer) const {
    return bus_->live().at(producer->segment_name());
  }
  // A pass whose samples of the flood are counted, and take their time.
  std::uint64_t pass(bool fresh, const std::function<void(std::uint64_t)>& on_quiet = {}) {
    std::uint64_t flood_samples = 0;
    const std::string flood_name = flood_->segment_name();
    bus_->pass(now_s(), fresh, [&](const LiveSegment& segment, const Sample&) {
      if (segment.reader->name() != flood_name) {
        if (on_quiet) on_quiet(flood_samples);
        return;
      }
      ++flood_samples;
      const std::uint64_t end = rankbus::bus::monotonic_ns() + kSample_ns;
      while (rankbus::bus::monotonic_ns() < end) {
      }
    });
    return flood_samples;
  }

  Folder folder_;
  std::unique_ptr<Producer> flood_;
  std::vector<std::unique_ptr<Producer>> quiet_;
  std::unique_ptr<rankbus::BusReader> bus_;
  std::uint64_t flooded_ = 0;
};

// C-25
TEST_F(Turns, EndlessBacklog_HasOneTurnARoundAndTheOthersAreReadInEach) {
  constexpr std::uint64_t kRounds = 20;
  std::uint64_t all_samples = 0;
  for (std::uint64_t round = 1; round <= kRounds; ++round) {
    for (const auto& producer : quiet_) producer->record(tile(round - 1));
    const std::uint64_t samples = pass(false);
    EXPECT_LE(samples, kBatch) << "a turn longer than a turn";
    all_samples += samples;
    EXPECT_LT(of(flood_).reader->streams()[0].position, flooded_) << "no backlog any more";
    for (const auto& producer : quiet_)
      EXPECT_EQ(of(producer).reader->streams()[0].position, round) << producer->segment_name();
    // Never caught up with.
    for (std::uint64_t n = 0; n < kBatch; ++n) flood();
  }
  EXPECT_GT(all_samples, kRounds / 2 * kBatch) << "it has its turns, too";
}

// C-25
TEST_F(Turns, FreshView_GivesEverybodyATurnBeforeAnybodyHasASecond) {
  for (const auto& producer : quiet_) producer->record(tile(0));
  std::uint64_t quiet_samples = 0, latest = 0;
  const std::uint64_t before = of(flood_).reader->streams()[0].position;
  const std::uint64_t samples = pass(true, [&](std::uint64_t flood_samples) {
    ++quiet_samples;
    latest = std::max(latest, flood_samples);
  });
  EXPECT_EQ(quiet_samples, kQuiet);
  EXPECT_LE(latest, kBatch);
  EXPECT_EQ(before + samples, flooded_) << "and it shows all that was published before";
  EXPECT_FALSE(of(flood_).reader->is_behind());
}

}  // namespace
}  // namespace bus_test
