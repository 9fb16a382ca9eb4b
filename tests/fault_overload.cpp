// Labels: multiprocess-heavy release-only
//
// Goal:   one rank that writes as fast as it can, one that makes as many series as it can, and one
//         that crashes again and again with other labels in every life: the others' totals are
//         exact and fresh in every answer, the answers are whole, and the aggregator does not grow.
// Method: the built `rankbus aggregate`, with ranks of all these kinds. What was written is known
//         before each answer, so every answer is held against it; nothing is asserted of time but
//         that an age is not larger than the time that passed.
// Replay: RANKBUS_TEST_SEED=<printed> fault_overload
#include <rankbus/aggregator/series_budget.hpp>

#include "footprint.hpp"
#include "ledger_world.hpp"

namespace overload {

// clang-format off
#define OVERLOAD_WIDE_ROWS(FIELD, OPTIONAL, ARRAY)                                                                \
  FIELD(std::uint64_t, stamp, stamp(), "When")                                                                    \
  FIELD(std::uint16_t, who, label("who"), "Any text")                                                             \
  FIELD(std::uint64_t, n, counter("overload_wide_total").split_by("who"), "Counted by label")                     \
  FIELD(std::uint64_t, a, distribution("overload_a", ::rankbus::bounds::kIterationTokens).split_by("who"), "A")   \
  FIELD(std::uint64_t, b, distribution("overload_b", ::rankbus::bounds::kIterationTokens).split_by("who"), "B")   \
  FIELD(std::uint64_t, c, distribution("overload_c", ::rankbus::bounds::kIterationTokens).split_by("who"), "C")
// clang-format on
RANKBUS_RECORD(Wide, "overload_wide", 1, "Many series", OVERLOAD_WIDE_ROWS)

}  // namespace overload

namespace bus_test {
namespace {

constexpr std::uint64_t kTextsALife = 40;  // More than there are rows for.
constexpr std::uint32_t kQuietRanks = 4;

// A rank that writes when it is told to.
class QuietRank {
 public:
  QuietRank(const std::string& bus, std::uint32_t engine)
      : engine_(engine), child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::worker);
          options.engine = engine;
          options.records[0] = rankbus::record_type<rankbus::WorkerStep>();
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.inert() ? producer.reason() : "open");
          for (std::string count = line.hear(); !count.empty(); count = line.hear()) {
            for (std::uint64_t n = std::stoull(count); n > 0; --n)
              producer.record(rankbus::WorkerStep{.step = n});
            line.say("done");
          }
          return 0;
        }) {
    EXPECT_EQ(child_.hear(), "open");
  }
  void write(std::uint64_t records) {
    before_s_ = now_s();
    child_.say(std::to_string(records));
    EXPECT_EQ(child_.hear(), "done");
    steps_ += records;
  }
  // What an answer says of it; returns how many series it has there.
  std::size_t check(const Scrape& scrape) const {
    const std::string engine = "engine=\"" + std::to_string(engine_) + "\"";
    std::size_t series_count = 0;
    double steps = -1, age_s = -1;
    for (const auto& [series, value] : scrape.samples) {
      if (series.find(engine) == std::string::npos) continue;
      ++series_count;
      if (series.rfind("rankbus_steps_total{", 0) == 0) steps = value;
      if (series.rfind("rankbus_source_age_seconds{", 0) == 0) age_s = value;
    }
    EXPECT_EQ(steps, static_cast<double>(steps_)) << engine;
    EXPECT_GE(age_s, 0) << engine;
    EXPECT_LE(age_s, now_s() - before_s_) << engine << " is shown older than it is";
    return series_count;
  }

 private:
  std::uint32_t engine_;
  Child child_;
  std::uint64_t steps_ = 0;
  double before_s_ = 0;
};

class WideRank {
 public:
  // Texts of the form `PREFIX N`.
  WideRank(const std::string& bus, std::uint32_t rank, const std::string& prefix)
      : child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
          options.rank = rank;
          options.engine = 8;
          options.records[0] = rankbus::record_type<overload::Wide>();
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.segment_name());
          for (std::uint64_t n = 0;; ++n) {
            overload::Wide record;
            const std::string text = prefix + " " + std::to_string(n % kTextsALife);
            record.who = static_cast<std::uint16_t>(producer.intern(text.c_str()));
            record.n = 1;
            record.a = n;
            producer.record(record);
            if (n % 64 == 0) let_pass_us(100);
          }
          return 0;
        }),
        name_(child_.hear()),
        published_(bus, name_) {}
  bool wait_for(std::uint64_t records) const {
    return wait_until([&] { return published_.of_stream(0) >= records; });
  }
  // Returns what it wrote.
  std::uint64_t kill() {
    child_.kill9();
    return published_.of_stream(0);
  }

 private:
  Child child_;
  std::string name_;
  PublishedWords published_;
};

std::uint64_t lines_with(const Scrape& scrape, const std::string& beginning) {
  return static_cast<std::uint64_t>(
      std::count_if(scrape.samples.begin(), scrape.samples.end(),
                    [&](const auto& sample) { return sample.first.rfind(beginning, 0) == 0; }));
}

// C-9, C-25, C-33
TEST(Overload, FloodAndEndlessLabelsAndCrashLoop_LeaveTheOthersExactFreshAndWhole) {
  Dice dice(test_seed());
  const Folder folder;
  const Environment run("RANKBUS_RUN_ID", "overload");
  const Environment budget("RANKBUS_BUDGET", "512M");
  const AggregatorProcess aggregator({folder.bus(), {}, {}});
  std::vector<std::unique_ptr<QuietRank>> quiet;
  for (std::uint32_t engine = 0; engine < kQuietRanks; ++engine) {
    quiet.push_back(std::make_unique<QuietRank>(folder.bus(), engine + 1));
    quiet.back()->write(1);
  }
  Child flood([&](const Line& line) {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.engine = 9;
    options.records[0] = rankbus::record_type<rankbus::IterationStats>();
    rankbus::Producer producer = rankbus::Producer::open(options);
    line.say(producer.segment_name());
    rankbus::IterationStats iteration;
    iteration.num_generation_tokens = 1;
    for (;;) producer.record(iteration);
    return 0;
  });
  const PublishedWords flooded(folder.bus(), flood.hear());
  WideRank wide(folder.bus(), 0, "stays");
  ASSERT_TRUE(wide.wait_for(1));

  const std::uint64_t lives = scaled(24);
  std::uint64_t wide_records = 0, resident_before = 0, series_before = 0, most_lines = 0;
  bool was_counted = false;
  CounterWatch watch;
  std::optional<Scrape> scrape;
  for (std::uint64_t life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
    WideRank crashing(folder.bus(), 1, "life " + std::to_string(life));
    ASSERT_TRUE(crashing.wait_for(2 * kTextsALife));
    for (const auto& rank : quiet) rank->write(1 + dice.below(300));
    for (int answer = 0; answer < 2; ++answer) {
      scrape = aggregator.scrape();
      ASSERT_TRUE(scrape) << aggregator.log();
      watch.see(*scrape);
      std::uint64_t series = 0;
      for (const auto& rank : quiet) series += rank->check(*scrape);
      if (series_before == 0) series_before = series;
      EXPECT_EQ(series, series_before) << "every answer has all of the quiet ranks";
      EXPECT_EQ(scrape->total("rankbus_ranks_reporting"), kQuietRanks);
      was_counted = was_counted || scrape->total("rankbus_label_rows_over_budget") > 0;
      most_lines = std::max(most_lines, lines_with(*scrape, "overload_"));
      if (answer == 0) wide_records += crashing.kill();
    }
    if (life == lives / 3) resident_before = Footprint::of(aggregator.pid()).resident_bytes;
  }
  wide_records += wide.kill();
  flood.kill9();
  scrape = aggregator.scrape();
  ASSERT_TRUE(scrape) << aggregator.log();
  watch.see(*scrape);
  for (const auto& rank : quiet) rank->check(*scrape);
  EXPECT_EQ(scrape->total("vllm:generation_tokens_total"),
            static_cast<double>(flooded.of_stream(0)));
  EXPECT_EQ(scrape->total("overload_wide_total"), static_cast<double>(wide_records))
      << "what has no series of its own is in `other`";
  EXPECT_EQ(scrape->total("overload_a_count"), static_cast<double>(wide_records));
  EXPECT_EQ(scrape->total("rankbus_checkpoints_mismatches_total"), 0);
  EXPECT_EQ(scrape->total("rankbus_quarantined"), 0) << aggregator.log();
  const std::uint64_t bound =
      rankbus::kMaxRowSeriesPerIdentity + rankbus::bus::kMaxSeriesPerSegment;
  EXPECT_LE(most_lines, bound) << "of one identity that crashes, and one that does not";
  if (lives >= 6) {
    EXPECT_GT(most_lines, bound / 2) << "they did try";
    EXPECT_TRUE(was_counted);
  }
  constexpr std::uint64_t kTolerance = 16 << 20;
  const std::uint64_t resident = Footprint::of(aggregator.pid()).resident_bytes;
  EXPECT_LE(resident, resident_before + kTolerance);
  std::printf(
      "%llu lives, %llu records of the flood, %llu lines of wide series, %.1f MiB then, "
      "%.1f MiB in the end\n",
      static_cast<unsigned long long>(lives), static_cast<unsigned long long>(flooded.of_stream(0)),
      static_cast<unsigned long long>(most_lines), static_cast<double>(resident_before) / 0x1p20,
      static_cast<double>(resident) / 0x1p20);
}

// What an identity's dead have used up is not forgotten by a restart, and what is shown stays.
// C-25
TEST(Overload, CrashLoopOverRestartsOfTheAggregator_HasOneShareForAllItsLives) {
  const Folder folder;
  const Environment run("RANKBUS_RUN_ID", "overload");
  const Environment budget("RANKBUS_BUDGET", "512M");
  CounterWatch watch;
  std::uint64_t wide_records = 0, lines = 0;
  for (std::uint64_t life = 0; life < 6; ++life) {
    const AggregatorProcess aggregator({folder.bus(), {}, {}});
    WideRank crashing(folder.bus(), 1, "life " + std::to_string(life));
    ASSERT_TRUE(crashing.wait_for(2 * kTextsALife));
    for (const bool is_dead : {false, true}) {
      if (is_dead) wide_records += crashing.kill();
      const auto scrape = aggregator.scrape();
      ASSERT_TRUE(scrape) << aggregator.log();
      watch.see(*scrape);
      lines = lines_with(*scrape, "overload_");
      EXPECT_LE(lines, rankbus::kMaxRowSeriesPerIdentity);
      if (!is_dead) continue;
      EXPECT_EQ(scrape->total("overload_wide_total"), static_cast<double>(wide_records));
    }
  }
  EXPECT_GT(lines, rankbus::kMaxRowSeriesPerIdentity * 3 / 4);
}

}  // namespace
}  // namespace bus_test
