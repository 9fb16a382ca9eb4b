// Labels: multiprocess-heavy release-only
//
// Goal:   no counter of /metrics, whoever it is about, is lower or gone in the first answer after a
//         restart than in the last one before it: also those that only the reader knows (verified
//         and skipped checkpoints, lost samples, what is judged record by record).
// Method: the built `rankbus aggregate`, killed at once after an answer, again and again, while
//         writers lap it, stand still, are quarantined and released; the whole text is compared.
// Replay: RANKBUS_TEST_SEED=<printed> fault_continuity [--gtest_filter=...]
#include "ledger_world.hpp"

namespace bus_test {
namespace {

// Writes bursts on command: what fits into its ring, and what laps the reader.
class Bursts {
 public:
  Bursts(const std::string& bus, std::uint32_t rank)
      : child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
          options.rank = rank;
          options.segment_bytes = 48 << 10;
          options.records[0] = rankbus::record_type<rankbus::FinishedRequest>();
          options.records[1] = rankbus::record_type<rankbus::WorkerStep>();
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.segment_name());
          for (std::string most = line.hear(); !most.empty(); most = line.hear()) {
            for (std::uint64_t n = std::strtoull(most.c_str(), nullptr, 10); n > 0; --n) {
              rankbus::FinishedRequest finished;
              finished.finished_reason = rankbus::FinishedReason::stop;
              finished.e2e_latency_seconds = n % 4 == 0 ? 3.0 : 0.5;
              producer.record(finished);
              producer.record(rankbus::WorkerStep{.step = n});
            }
            line.say("done");
          }
          return 0;
        }),
        name_(child_.hear()),
        published_(bus, name_) {}

  void write(std::uint64_t records) const {
    child_.say(std::to_string(records));
    EXPECT_EQ(child_.hear(), "done");
  }
  void begin(std::uint64_t records) const { child_.say(std::to_string(records)); }
  void await() const { EXPECT_EQ(child_.hear(), "done"); }
  void kill() { child_.kill9(); }
  const std::string& name() const { return name_; }
  // Of each of its two streams.
  std::uint64_t records() const { return published_.of_stream(0); }

 private:
  Child child_;
  std::string name_;
  PublishedWords published_;
};

class Continuity : public testing::Test {
 protected:
  std::unique_ptr<AggregatorProcess> start() {
    return std::make_unique<AggregatorProcess>(AggregatorProcess::Options{
        folder_.bus(), {"--state-dir", folder_ / "state", "--slo-end-to-end", "1"}, {}});
  }
  // An answer, and nothing after it: whoever comes next knows what was answered, or less.
  void answer_and_die() {
    const auto scrape = aggregator_->scrape();
    ASSERT_TRUE(scrape) << aggregator_->log();
    aggregator_->end(SIGKILL);
    watch_.see(*scrape);
    last_ = scrape;
    aggregator_ = start();
  }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "continuity"};
  Environment budget_{"RANKBUS_BUDGET", "512M"};
  std::unique_ptr<AggregatorProcess> aggregator_ = start();
  CounterWatch watch_;
  std::optional<Scrape> last_;
};

// C-2, C-12, C-35
TEST_F(Continuity, KilledRightAfterEachAnswer_NoCounterOfAllIsLowerInTheNext) {
  Dice dice(test_seed());
  std::vector<std::unique_ptr<Bursts>> ranks(3);
  std::uint64_t requests_of_dead = 0, deaths = 0;
  for (std::uint64_t round = 0; round < scaled(40) && !HasFailure(); ++round) {
    const auto rank = static_cast<std::uint32_t>(dice.below(ranks.size()));
    if (!ranks[rank]) {
      ranks[rank] = std::make_unique<Bursts>(folder_.bus(), rank);
    } else if (dice.one_in(5)) {
      ranks[rank]->kill();
      requests_of_dead += ranks[rank]->records();
      ranks[rank].reset();
      ++deaths;
    }
    for (const auto& each : ranks) {
      if (each && dice.one_in(2)) each->write(dice.one_in(3) ? 5'000 : dice.below(150));
    }
    // Some are overwritten while nobody reads, some while somebody does.
    const Bursts* busy = dice.one_in(2) ? ranks[dice.below(ranks.size())].get() : nullptr;
    if (busy != nullptr) busy->begin(20'000);
    answer_and_die();
    if (busy != nullptr) busy->await();
  }
  answer_and_die();
  ASSERT_TRUE(last_);
  // Each request was judged, or is lost, once, by whichever aggregator.
  std::uint64_t requests = requests_of_dead;
  for (const auto& each : ranks) requests += each ? each->records() : 0;
  double lost = 0;
  for (const auto& [series, value] : last_->samples) {
    const bool is_of_requests =
        series.rfind("rankbus_samples_lost_total{cause=\"lapped\"", 0) == 0 &&
        series.find("finished_request") != std::string::npos;
    if (is_of_requests) lost += value;
  }
  EXPECT_EQ(last_->total("rankbus_slo_requests_total") + lost, static_cast<double>(requests));
  EXPECT_EQ(last_->total("vllm:request_success_total"), static_cast<double>(requests));
  EXPECT_GT(lost, 0);
  EXPECT_GT(last_->total("rankbus_checkpoints_verified_total"), 0);
  EXPECT_GT(last_->total("rankbus_checkpoints_skipped_total"), 0);
  std::printf("%llu answers and kills, %llu deaths of ranks, %zu counters, %.0f of %llu lost\n",
              static_cast<unsigned long long>(watch_.scrapes()),
              static_cast<unsigned long long>(deaths), watch_.series(), lost,
              static_cast<unsigned long long>(requests));
}

// Where an image cannot be written and does not fail either, answers do not wait for it for ever.
// C-3
TEST_F(Continuity, OnADiskThatHangs_AnswersAreExactAndTheLedgerGoesOnAfterwards) {
  aggregator_->end(SIGKILL);
  const std::string sign = folder_ / "hangs";
  const Environment hang("RANKBUS_TEST_HANG_WHILE", sign);
  std::ofstream(sign).put('!');
  // No such point is ever reached; the library is there all the same.
  aggregator_ = std::make_unique<AggregatorProcess>(AggregatorProcess::Options{
      folder_.bus(), {"--state-dir", folder_ / "state", "--slo-end-to-end", "1"}, "nowhere:1"});
  const Bursts rank(folder_.bus(), 0);
  double generation = -1;
  for (int answer = 0; answer < 4; ++answer) {
    rank.write(10);
    const auto scrape = aggregator_->scrape();
    ASSERT_TRUE(scrape) << aggregator_->log();
    watch_.see(*scrape);
    EXPECT_EQ(scrape->total("vllm:request_success_total"), static_cast<double>(rank.records()));
    if (answer > 0) {
      EXPECT_EQ(scrape->total("rankbus_ledger_generation"), generation);
    }
    generation = scrape->total("rankbus_ledger_generation");
  }
  ASSERT_EQ(unlink(sign.c_str()), 0);
  ASSERT_TRUE(wait_until([&] {
    rank.write(1);
    const auto scrape = aggregator_->scrape();
    return scrape && scrape->total("rankbus_ledger_generation") > generation;
  }));
  for (int life = 0; life < 2; ++life) {
    rank.write(10);
    answer_and_die();
    EXPECT_EQ(last_->total("vllm:request_success_total"), static_cast<double>(rank.records()));
  }
}

class ContinuityOfQuarantine : public Continuity, public testing::WithParamInterface<bool> {
 protected:
  // The next answer, of the same aggregator or of its successor.
  void answer() {
    if (GetParam()) {
      answer_and_die();
      return;
    }
    last_ = aggregator_->scrape();
    ASSERT_TRUE(last_) << aggregator_->log();
    watch_.see(*last_);
  }
};

// Samples that were told as lost when a segment was found to contradict itself.
TEST_P(ContinuityOfQuarantine, Released_WhatItLostIsKeptAndNeverGoesBack) {
  const Bursts rank(folder_.bus(), 0);
  rank.write(10);
  answer();
  ASSERT_TRUE(aggregator_->scrape());
  ASSERT_TRUE(aggregator_->freeze());
  rank.write(30);
  const std::string path = folder_.bus() + "/" + rank.name();
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  std::uint64_t whole_word = 0;
  const off_t slot = static_cast<off_t>(
      open_segment(folder_.bus(), rank.name())->streams()[0].schema.slots_offset);
  const auto slot_bytes =
      static_cast<off_t>(open_segment(folder_.bus(), rank.name())->streams()[0].schema.slot_bytes);
  // The word of a published record says another one.
  const off_t damaged = slot + 20 * slot_bytes;
  ASSERT_EQ(pread(fd, &whole_word, sizeof whole_word, damaged), 8);
  const std::uint64_t wrong = whole_word + 2;
  ASSERT_EQ(pwrite(fd, &wrong, sizeof wrong, damaged), 8);
  aggregator_->go_on();
  const std::string lost_series =
      "rankbus_samples_lost_total{cause=\"quarantined\",engine=\"0\",model_name=\"test-model\","
      "rank=\"0\",role=\"other\",stream=\"finished_request\"}";
  const std::string read_series =
      "rankbus_records_total{engine=\"0\",model_name=\"test-model\",rank=\"0\",role=\"other\","
      "stream=\"finished_request\"}";
  double lost = 0;
  for (int life = 0; life < 3; ++life) {
    answer();
    // Those before a checkpoint on the way were folded.
    lost = 40 - last_->samples.at(read_series);
    EXPECT_GE(lost, 20);
    EXPECT_LE(lost, 30);
    EXPECT_EQ(last_->samples.at(lost_series), lost) << "life " << life;
    EXPECT_EQ(last_->total("rankbus_quarantined"), 1);
  }
  ASSERT_EQ(pwrite(fd, &whole_word, sizeof whole_word, damaged), 8);
  close(fd);
  ASSERT_TRUE(aggregator_->scrape());
  const std::string command = required_environment("RANKBUS_BINARY") + " release " + rank.name() +
                              " --bus " + folder_.bus();
  ASSERT_EQ(std::system(command.c_str()), 0);
  ASSERT_TRUE(wait_until([&] {
    const auto scrape = aggregator_->scrape();
    return scrape && scrape->total("rankbus_quarantined") == 0;
  }));
  rank.write(5);
  for (int life = 0; life < 2; ++life) {
    answer();
    EXPECT_EQ(last_->samples.at(lost_series), lost) << "told as lost, they stay so";
    EXPECT_EQ(last_->total("rankbus_slo_requests_total"), 45 - lost) << "and judged by nobody";
    EXPECT_EQ(last_->total("vllm:request_success_total"), 45) << "totals have them all";
  }
}

INSTANTIATE_TEST_SUITE_P(Ledger, ContinuityOfQuarantine, testing::Bool(), [](const auto& restarts) {
  return restarts.param ? "OverRestarts" : "ByOneAggregator";
});

}  // namespace
}  // namespace bus_test
