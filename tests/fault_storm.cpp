// Labels: multiprocess-heavy release-only
//
// Goal:   however often producers and the aggregator are killed, at full speed, also several times
// in
//         a row before either is in order again, no total is lost or doubled; what is made of
//         samples is counted once or told as lost; and the books of every stream close.
// Method: writers that never pause, and aggregators that are killed anywhere: while they start,
//         while they catch up, while they write the ledger. What was published is known from
//         mappings of the segments that the test keeps. At the end, for each stream: read one by
//         one + lost + unread = published.
// Replay: RANKBUS_TEST_SEED=<printed> fault_storm [--gtest_filter=...]; RANKBUS_TEST_SCALE=50 is
//         2,000 deaths of aggregators and 10,000 of producers.
#include "ledger_world.hpp"

namespace bus_test {
namespace {

// Streams of a StormWriter, in the order of its options.
constexpr const char* kStreams[] = {"iteration_stats", "finished_request", "worker_step"};
constexpr std::size_t kStreamCount = 3;
using StreamNumbers = std::array<std::uint64_t, kStreamCount>;

// A process that writes as fast as it can until it is killed.
class StormWriter {
 public:
  StormWriter(const std::string& bus, std::uint32_t rank, std::uint64_t segment_bytes)
      : child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
          options.rank = rank;
          options.segment_bytes = segment_bytes;
          options.records[0] = rankbus::record_type<rankbus::IterationStats>();
          options.records[1] = rankbus::record_type<rankbus::FinishedRequest>();
          options.records[2] = rankbus::record_type<rankbus::WorkerStep>();
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.inert() ? std::string("inert: ") + producer.reason()
                                    : producer.segment_name());
          for (std::uint64_t n = 0;; ++n) {
            rankbus::IterationStats iteration;
            iteration.num_generation_tokens = 1 + n % 5;
            producer.record(iteration);
            rankbus::FinishedRequest finished;
            finished.finished_reason = rankbus::FinishedReason::stop;
            finished.e2e_latency_seconds = n % 4 == 0 ? 3.0 : 0.5;
            producer.record(finished);
            producer.record(rankbus::WorkerStep{.step = n});
          }
          return 0;
        }),
        name_(child_.hear()),
        published_(bus, name_) {}

  void kill() { child_.kill9(); }
  const std::string& name() const { return name_; }
  StreamNumbers published() const {
    return {published_.of_stream(0), published_.of_stream(1), published_.of_stream(2)};
  }

 private:
  Child child_;
  std::string name_;
  PublishedWords published_;
};

class Storm : public testing::Test {
 protected:
  static constexpr std::uint32_t kRanks = 3;

  void start_writer(std::uint32_t rank, Dice& dice) {
    const std::uint64_t sizes[] = {1, 64 << 10, 256 << 10};
    writers_[rank] = std::make_unique<StormWriter>(folder_.bus(), rank, sizes[dice.below(3)]);
    ASSERT_TRUE(rankbus::bus::is_segment_name(writers_[rank]->name().c_str()))
        << writers_[rank]->name();
  }
  void kill_writer(std::uint32_t rank) {
    if (!writers_[rank]) return;
    writers_[rank]->kill();
    const StreamNumbers published = writers_[rank]->published();
    for (std::size_t s = 0; s < kStreamCount; ++s) published_[s] += published[s];
    for (std::uint64_t n = 0; n < published[0]; ++n) tokens_ += 1 + n % 5;
    writers_[rank].reset();
    ++deaths_;
  }
  void kill_writers() {
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) kill_writer(rank);
  }
  // The dead pile up while no owner lives long enough to reclaim them, and beyond the budget the
  // oldest would be removed unread: then one owner lives until they are gone.
  bool too_many_are_dead() const { return Directory(folder_.bus()).segments().size() > 100; }
  bool dead_are_gone() const {
    return wait_until([&] { return Directory(folder_.bus()).segments().size() <= kRanks; });
  }
  // Somebody dies, or is born.
  void shake(Dice& dice) {
    const auto rank = static_cast<std::uint32_t>(dice.below(kRanks));
    if (writers_[rank]) {
      kill_writer(rank);
    } else {
      start_writer(rank, dice);
    }
  }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "storm"};
  Environment budget_{"RANKBUS_BUDGET", "512M"};
  std::unique_ptr<StormWriter> writers_[kRanks];
  StreamNumbers published_ = {};
  std::uint64_t tokens_ = 0;
  std::uint64_t deaths_ = 0;
};

// Of one stream, over all ranks.
double lost_of(const Scrape& scrape, const std::string& cause, const std::string& stream) {
  double lost = 0;
  for (const auto& [series, value] : scrape.samples) {
    if (series.rfind("rankbus_samples_lost_total{", 0) == 0 &&
        series.find("cause=\"" + cause + "\"") != std::string::npos &&
        series.find("stream=\"" + stream + "\"") != std::string::npos) {
      lost += value;
    }
  }
  return lost;
}

// C-2, C-3, C-12, C-30, C-33
TEST_F(Storm, BothKilledAnywhereSeveralTimesInARow_TotalsAreExactAndSamplesCountOnceOrAreLost) {
  Dice dice(test_seed());
  const std::uint64_t owners = scaled(40);
  const std::uint64_t lives = scaled(200);
  const std::vector<std::string> arguments = {"--slo-end-to-end", "1"};
  std::uint64_t killed_owners = 0, in_a_row = 0;
  CounterWatch watch;
  // Once, so that nothing was written before anybody looked: that would be nobody's loss.
  AggregatorProcess({folder_.bus(), arguments, {}}).end(SIGTERM);
  while ((killed_owners < owners || deaths_ < lives) && !HasFailure()) {
    shake(dice);
    // Mostly it is not even listening when it is killed; the next one comes at once.
    const bool is_crowded = too_many_are_dead();
    const bool is_awaited = is_crowded || dice.one_in(3);
    AggregatorProcess aggregator({folder_.bus(), arguments, {}, is_awaited});
    for (std::uint64_t more = dice.below(6); more > 0; --more) shake(dice);
    if (is_crowded) {
      EXPECT_TRUE(dead_are_gone()) << aggregator.log();
    }
    if (is_awaited && dice.one_in(2)) {
      const auto scrape = aggregator.scrape();
      ASSERT_TRUE(scrape) << aggregator.log();
      watch.see(*scrape);
      expect_whole_histograms(*scrape);
    } else {
      let_pass_us(dice.below(40'000));
      ++in_a_row;
    }
    aggregator.end(SIGKILL);
    ++killed_owners;
  }
  kill_writers();
  const AggregatorProcess aggregator({folder_.bus(), arguments, {}});
  const auto scrape = aggregator.scrape();
  ASSERT_TRUE(scrape) << aggregator.log();
  watch.see(*scrape);
  expect_whole_histograms(*scrape);
  EXPECT_EQ(scrape->total("vllm:generation_tokens_total"), static_cast<double>(tokens_));
  EXPECT_EQ(scrape->total("vllm:request_success_total"), static_cast<double>(published_[1]));
  EXPECT_EQ(scrape->total("vllm:e2e_request_latency_seconds_count"),
            static_cast<double>(published_[1]));
  EXPECT_EQ(scrape->total("rankbus_steps_total"), static_cast<double>(published_[2]));
  EXPECT_EQ(scrape->total("rankbus_records_total"),
            static_cast<double>(published_[0] + published_[1] + published_[2]));
  EXPECT_EQ(scrape->total("rankbus_checkpoints_mismatches_total"), 0);
  EXPECT_EQ(scrape->total("rankbus_quarantined"), 0) << aggregator.log();
  EXPECT_EQ(scrape->total("rankbus_segments_removed_unread_total"), 0);
  const double judged = scrape->total("rankbus_slo_requests_total");
  const double lost = lost_of(*scrape, "lapped", kStreams[1]);
  EXPECT_EQ(judged + lost, static_cast<double>(published_[1]));
  EXPECT_GT(judged, 0);
  // The record that a writer died in was never published, and there is one at most.
  double abandoned = 0;
  for (const char* stream : kStreams) abandoned += lost_of(*scrape, "abandoned", stream);
  EXPECT_LE(abandoned, static_cast<double>(deaths_));
  EXPECT_TRUE(wait_until([&] { return Directory(folder_.bus()).segments().empty(); }));
  std::printf(
      "%llu kills of the aggregator, %llu of them unseen, %llu of producers, %llu records, %.0f of "
      "%llu requests judged, %.0f records abandoned\n",
      static_cast<unsigned long long>(killed_owners), static_cast<unsigned long long>(in_a_row),
      static_cast<unsigned long long>(deaths_),
      static_cast<unsigned long long>(published_[0] + published_[1] + published_[2]), judged,
      static_cast<unsigned long long>(published_[1]), abandoned);
}

// What one owner after another read one by one, kept in the ledger as feeds keep theirs.
struct Readings {
  std::map<std::string, std::uint64_t> fresh;

  std::string text() const {
    std::string out;
    for (const auto& [stream, count] : fresh) out += stream + " " + std::to_string(count) + "\n";
    return out;
  }
  static Readings parse(const std::string& text) {
    Readings readings;
    std::istringstream lines(text);
    std::string stream;
    std::uint64_t count = 0;
    while (lines >> stream >> count) readings.fresh[stream] = count;
    return readings;
  }
};

// An owner that reads until it is killed; at "end", until nothing is left, and says what it knows.
int own(const std::string& bus, const Line& line, bool is_last) {
  rankbus::BusOptions options;
  options.directory = bus;
  options.access = as_the_aggregator();
  options.ledger.keep = true;
  options.ledger.save_every_s = 0;
  auto opened = rankbus::BusReader::open(options, [](const std::string&) {});
  if (!opened) return 3;
  rankbus::BusReader& reader = *opened.value();
  const auto before = reader.sections_at_start();
  const auto at = before.find("readings");
  Readings readings = at == before.end() ? Readings{} : Readings::parse(at->second);
  const auto sink = [&](const rankbus::LiveSegment&, const rankbus::Sample& sample) {
    if (!sample.is_history) ++readings.fresh[sample.stream.name];
  };
  const auto sections = [&] { return rankbus::Ledger::Sections{{"readings", readings.text()}}; };
  line.say("reads");
  while (!is_last) {
    reader.pass(now_s(), false, sink);
    reader.keep_ledger(now_s(), sections);
  }
  while (reader.pass(now_s(), true, sink) || !reader.live().empty())
    reader.keep_ledger(now_s(), sections);
  std::map<std::string, rankbus::StreamCounts> counts;
  for (const auto& [who, state] : reader.identities()) {
    for (const auto& [stream, each] : state.retired.streams) counts[stream].add(each);
  }
  for (const char* stream : kStreams) {
    line.say(std::to_string(readings.fresh[stream]) + " " +
             std::to_string(counts[stream].lost_lapped) + " " +
             std::to_string(counts[stream].records));
  }
  reader.finish(now_s(), sections);
  return 0;
}

// The library's reader, so that every stream's samples can be counted and not only those that a
// counter of /metrics is made of.
// C-31, C-33
TEST_F(Storm, OwnersKilledAtFullSpeed_TheBooksOfEveryStreamClose) {
  Dice dice(test_seed() + 1);
  const auto last_words = [&](StreamNumbers& read, StreamNumbers& lost, StreamNumbers& records) {
    Child owner([&](const Line& line) { return own(folder_.bus(), line, true); });
    EXPECT_EQ(owner.hear(), "reads");
    for (std::size_t s = 0; s < kStreamCount; ++s) {
      std::istringstream words(owner.hear());
      words >> read[s] >> lost[s] >> records[s];
    }
    EXPECT_EQ(owner.wait(), 0);
  };
  StreamNumbers read = {}, lost = {}, records = {};
  last_words(read, lost, records);
  const std::uint64_t owners = scaled(40);
  for (std::uint64_t kill = 0; kill < owners && !HasFailure(); ++kill) {
    Child owner([&](const Line& line) { return own(folder_.bus(), line, false); });
    ASSERT_EQ(owner.hear(), "reads");
    for (std::uint64_t more = dice.below(6); more > 0; --more) shake(dice);
    let_pass_us(dice.below(30'000));
    if (too_many_are_dead()) {
      EXPECT_TRUE(dead_are_gone());
    }
    ASSERT_EQ(owner.kill9(), -SIGKILL);
  }
  kill_writers();
  last_words(read, lost, records);
  for (std::size_t s = 0; s < kStreamCount; ++s) {
    EXPECT_EQ(records[s], published_[s]) << kStreams[s] << ": nothing is unread";
    EXPECT_EQ(read[s] + lost[s], published_[s]) << kStreams[s];
    EXPECT_GT(read[s], 0u) << kStreams[s];
    std::printf("%s: %llu published = %llu read + %llu lost\n", kStreams[s],
                static_cast<unsigned long long>(published_[s]),
                static_cast<unsigned long long>(read[s]), static_cast<unsigned long long>(lost[s]));
  }
  std::printf("%llu kills of owners, %llu of producers\n", static_cast<unsigned long long>(owners),
              static_cast<unsigned long long>(deaths_));
}

}  // namespace
}  // namespace bus_test
