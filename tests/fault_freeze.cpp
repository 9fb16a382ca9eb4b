// Labels: release-only
//
// Goal:   nothing old is shown as fresh, whoever stands still: a producer that is idle, stopped or
//         dead, the aggregator as a whole, or the one thread that reads.
// Method: real producers and the built `rankbus aggregate`, stopped and continued by signals. Ages
//         are held against the time that this test knows to have passed, never against a limit.
// Replay: fault_freeze [--gtest_filter=...]
#include <rankbus/aggregator/aggregator.hpp>

#include "ledger_world.hpp"

namespace bus_test {
namespace {

// A scheduler that sets its gauges once, and waits.
class Scheduler {
 public:
  explicit Scheduler(const std::string& bus)
      : child_([&](const Line& line) {
          rankbus::OpenOptions options = options_for(bus, rankbus::Role::scheduler);
          rankbus::Producer producer = rankbus::Producer::open(options);
          line.say(producer.segment_name());
          while (line.hear() == "write") {
            rankbus::SchedulerStep step;
            step.num_running_reqs = 7;
            step.prefix_cache_queries = 10;
            producer.record(step);
            line.say("written");
          }
          return 0;
        }) {
    EXPECT_NE(child_.hear(), "");
  }
  // Returns a moment before which it did.
  double write() {
    const double before_s = now_s();
    child_.say("write");
    EXPECT_EQ(child_.hear(), "written");
    return before_s;
  }
  Child& process() { return child_; }

 private:
  Child child_;
};

const char* const kRunning = "vllm:num_requests_running{engine=\"0\",model_name=\"test-model\"}";

double age_of(const Scrape& scrape) {
  return scrape.total("rankbus_source_age_seconds");
}

double state_of(const Scrape& scrape, const std::string& state) {
  double sum = 0;
  for (const auto& [series, value] : scrape.samples) {
    if (series.rfind("rankbus_rank_state{", 0) == 0 &&
        series.find("state=\"" + state + "\"") != std::string::npos) {
      sum += value;
    }
  }
  return sum;
}

class Freeze : public testing::Test {
 protected:
  Folder folder_;
  AggregatorProcess aggregator_{{folder_.bus(), {}, {}}};
  Scheduler scheduler_{folder_.bus()};
};

// C-34
TEST_F(Freeze, IdleProducer_KeepsItsGaugeAndItsAgeGrows) {
  scheduler_.write();
  const double written_s = now_s();
  double before_s = 0;
  for (int look = 0; look < 3; ++look) {
    // The age is as of the pass, which came after this.
    const double asked_s = now_s();
    const auto scrape = aggregator_.scrape();
    ASSERT_TRUE(scrape);
    EXPECT_EQ(scrape->samples.count(kRunning), 1u);
    EXPECT_GE(age_of(*scrape), asked_s - written_s);
    EXPECT_GT(age_of(*scrape), before_s);
    before_s = age_of(*scrape);
    let_pass_us(50'000);
  }
  const double fresh_since_s = scheduler_.write();
  const auto scrape = aggregator_.scrape();
  ASSERT_TRUE(scrape);
  EXPECT_LE(age_of(*scrape), now_s() - fresh_since_s) << "who writes again is fresh again";
}

// C-34
TEST_F(Freeze, StoppedProducer_IsToldAndAges) {
  scheduler_.write();
  const double written_s = now_s();
  scheduler_.process().signal(SIGSTOP);
  std::optional<Scrape> scrape;
  ASSERT_TRUE(wait_until([&] {
    scrape = aggregator_.scrape();
    return scrape && state_of(*scrape, "stopped") == 1;
  }));
  const double asked_s = now_s();
  scrape = aggregator_.scrape();
  ASSERT_TRUE(scrape);
  EXPECT_EQ(scrape->samples.count(kRunning), 1u) << "it lives";
  EXPECT_GE(age_of(*scrape), asked_s - written_s);
  scheduler_.process().signal(SIGCONT);
  ASSERT_TRUE(wait_until([&] {
    scrape = aggregator_.scrape();
    return scrape && state_of(*scrape, "stopped") == 0;
  }));
}

// C-34
TEST_F(Freeze, DeadProducer_HasNoGaugeInTheVeryNextAnswerAndStillAges) {
  scheduler_.write();
  const double written_s = now_s();
  ASSERT_TRUE(aggregator_.scrape());
  scheduler_.process().kill9();
  const double asked_s = now_s();
  const auto scrape = aggregator_.scrape();
  ASSERT_TRUE(scrape);
  EXPECT_EQ(scrape->samples.count(kRunning), 0u);
  EXPECT_EQ(state_of(*scrape, "dead"), 1);
  EXPECT_GE(age_of(*scrape), asked_s - written_s);
  EXPECT_EQ(scrape->total("vllm:prefix_cache_queries_total"), 10) << "counters stay";
}

// Whoever asked while it stood still is answered with what is true after it.
// C-34
TEST_F(Freeze, StoppedAggregator_AnswersWithTheAgesAndCountsOfAfterwards) {
  scheduler_.write();
  ASSERT_TRUE(aggregator_.scrape());
  ASSERT_TRUE(aggregator_.freeze());
  Child client([&](const Line& line) {
    line.say("asking");
    const std::string reply = aggregator_.get("/metrics");
    const std::size_t body = reply.find("\r\n\r\n");
    if (reply.rfind("HTTP/1.1 200", 0) != 0 || body == std::string::npos) {
      line.say(reply.substr(0, reply.find('\r')));
      return 1;
    }
    const Scrape scrape(reply.substr(body + 4));
    line.say(std::to_string(scrape.total("vllm:prefix_cache_queries_total")));
    line.say(std::to_string(age_of(scrape)));
    line.say(std::to_string(scrape.samples.count(kRunning)));
    return 0;
  });
  ASSERT_EQ(client.hear(), "asking");
  scheduler_.write();
  const double written_s = now_s();
  scheduler_.process().kill9();
  let_pass_us(300'000);
  const double continued_s = now_s();
  aggregator_.go_on();
  EXPECT_EQ(client.hear(), "20.000000") << "it was written before the answer";
  EXPECT_GE(std::strtod(client.hear().c_str(), nullptr), continued_s - written_s);
  EXPECT_EQ(client.hear(), "0") << "the gauge of the dead";
}

// The thread that reads hangs in a warning; the answer must say so, not repeat itself.
// C-34
TEST(FreezeOfTheReader, WhileItHangs_AnAnswerIsNotComplete) {
  const Folder folder;
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  std::atomic<bool> hangs{false}, may_go_on{true};
  rankbus::AggregatorOptions options;
  options.bus.directory = folder.bus();
  options.log_interval_s = 0;
  auto opened = rankbus::Aggregator::open(options,
                                          [&](const std::string&) {
                                            hangs = true;
                                            while (!may_go_on) sched_yield();
                                          },
                                          {});
  ASSERT_TRUE(opened) << opened.error();
  rankbus::Aggregator& aggregator = *opened.value();
  // Until here it may have warned of a small file system.
  may_go_on = false;
  hangs = false;
  aggregator.start();
  const auto before = aggregator.fresh(rankbus::SnapshotParts::families, 60);
  ASSERT_TRUE(before);
  EXPECT_TRUE(before->complete);
  std::ofstream(folder.bus() + "/other-0-0.0123456789abcdef0123456789abcdef") << "no segment";
  ASSERT_TRUE(wait_until([&] { return hangs.load(); }));
  const auto while_it_hangs = aggregator.fresh(rankbus::SnapshotParts::families, 0.05);
  ASSERT_TRUE(while_it_hangs);
  EXPECT_FALSE(while_it_hangs->complete);
  may_go_on = true;
  const auto after = aggregator.fresh(rankbus::SnapshotParts::families, 60);
  ASSERT_TRUE(after);
  EXPECT_TRUE(after->complete);
  EXPECT_GT(after->monotonic_s, while_it_hangs->monotonic_s);
  aggregator.stop();
}

}  // namespace
}  // namespace bus_test
