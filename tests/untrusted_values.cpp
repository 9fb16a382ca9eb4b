// Goal:   whatever a producer's values and texts are, what is exported stays well-formed: a counter
//         never goes back and never becomes infinite, no series is there twice, no family twice.
// Method: real producers with such values, the built aggregator, killed and started again; its
//         whole text is looked through.
// Replay: ctest --test-dir build/release -R untrusted_values -V
#include <limits>

#include "ledger_world.hpp"

namespace bus_test {
namespace {

// clang-format off
#define ODD_VALUES_ROWS(FIELD, OPTIONAL, ARRAY)                                              \
  FIELD(std::uint64_t, stamp, stamp(), "When")                                               \
  FIELD(std::uint16_t, who, label("who"), "Interned")                                        \
  FIELD(std::uint64_t, things, counter("odd_things_total").split_by("who"), "Things")        \
  FIELD(std::uint64_t, up, running_total("odd_up_total"), "Kept by its source")              \
  FIELD(double, wear, running_total("odd_wear_total").split_by("who"), "Kept by its source") \
  FIELD(double, joules, counter("odd_joules_total"), "Energy")                               \
  FIELD(double, made, gauge("odd_joules_created"), "Of a name that is made of another")
// clang-format on

}  // namespace
}  // namespace bus_test

RANKBUS_RECORD(OddValues, "odd_values", 1, "Values that hurt", ODD_VALUES_ROWS)

namespace bus_test {
namespace {

using rankbus::Producer;

constexpr double kLargest = std::numeric_limits<double>::max();

Producer open_odd(const std::string& bus, const std::string& model, std::uint32_t rank = 0) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.model = model.c_str();
  options.rank = rank;
  options.segment_bytes = 1;
  options.records[0] = rankbus::record_type<OddValues>();
  Producer producer = Producer::open(options);
  EXPECT_FALSE(producer.inert()) << producer.reason();
  return producer;
}

void expect_no_series_twice(const Scrape& scrape) {
  std::set<std::string> seen;
  std::istringstream lines(scrape.text);
  std::string line;
  while (std::getline(lines, line)) {
    const bool is_type = line.rfind("# TYPE ", 0) == 0;
    if (line.empty() || (line[0] == '#' && !is_type)) continue;
    const std::string name = line.substr(0, line.rfind(' '));
    EXPECT_TRUE(seen.insert(name).second) << name << " is there twice";
  }
}

// C-35
TEST(OddValues, RunningTotalThatFalls_GoesOnFromWhereItWas) {
  const Folder folder;
  Producer producer = open_odd(folder.bus(), "m");
  const std::uint16_t who[] = {producer.intern("a"), producer.intern("b")};
  // What two sources say, one after the other, and the sums that they make.
  const auto say = [&](std::uint64_t up, double wear, int source) {
    OddValues record;
    record.who = who[source];
    record.up = up;
    record.wear = wear;
    producer.record(record);
  };
  const auto expect = [](const AggregatorProcess& aggregator, double up, double wear) {
    const auto scrape = aggregator.scrape();
    ASSERT_TRUE(scrape);
    EXPECT_EQ(scrape->total("odd_up_total"), up);
    EXPECT_EQ(scrape->total("odd_wear_total"), wear);
    EXPECT_EQ(scrape->total("rankbus_checkpoints_mismatches_total"), 0);
    EXPECT_EQ(scrape->total("rankbus_quarantined"), 0);
  };
  {
    AggregatorProcess aggregator({folder.bus(), {}, "", true});
    say(1000, 10, 0);
    expect(aggregator, 1000, 10);
    say(5, 2.5, 0);
    expect(aggregator, 1005, 12.5);
    say(7, 4, 1);
    expect(aggregator, 1007, 16.5);
    say(6, 3, 0);
    expect(aggregator, 1013, 17);
    aggregator.end(SIGKILL);
  }
  {
    AggregatorProcess aggregator({folder.bus(), {}, "", true});
    expect(aggregator, 1013, 17);
    say(8, 3, 0);
    expect(aggregator, 1015, 17);
    aggregator.end(SIGTERM);
  }
  // It falls while nobody looks, and enough comes behind it that only a checkpoint tells.
  for (int n = 0; n < 500; ++n) say(2, 1, 0);
  {
    AggregatorProcess aggregator({folder.bus(), {}, "", true});
    expect(aggregator, 1017, 18);
    producer.close();
    ASSERT_TRUE(wait_until([&] { return Directory(folder.bus()).segments().empty(); }));
    expect(aggregator, 1017, 18);
  }
}

// C-20, C-21
TEST(OddValues, Malicious_SumsBeyondTheLargestNumber_StayFinite) {
  const Folder folder;
  Producer producer = open_odd(folder.bus(), "m");
  Producer other = open_odd(folder.bus(), "m", 1);
  AggregatorProcess aggregator({folder.bus(), {}, "", true});
  for (int n = 0; n < 200; ++n) {
    OddValues record;
    record.joules = 1.7e308;
    record.wear = n % 2 == 0 ? 1.7e308 : 1;
    producer.record(record);
    other.record(record);
  }
  const auto scrape = aggregator.scrape();
  ASSERT_TRUE(scrape);
  EXPECT_EQ(scrape->total("rankbus_checkpoints_mismatches_total"), 0);
  EXPECT_EQ(scrape->total("rankbus_invalid_values_total"), 2 * 199);
  for (const auto& [series, value] : scrape->samples) {
    EXPECT_TRUE(std::abs(value) <= kLargest) << series;
  }
}

// C-30
TEST(OddValues, Malicious_TextsThatAreNotUtf8_AreOneSeriesWhereTheyLookAlike) {
  const Folder folder;
  Producer producers[] = {open_odd(folder.bus(), "caf\xe9"), open_odd(folder.bus(), "caf\xe8", 1)};
  for (Producer& producer : producers) {
    for (const char* text : {"\xff", "\xfe", "\xc3\xa9"}) {
      OddValues record;
      record.who = producer.intern(text);
      record.things = 1;
      producer.record(record);
    }
  }
  AggregatorProcess aggregator({folder.bus(), {}, "", true});
  const auto scrape = aggregator.scrape();
  ASSERT_TRUE(scrape);
  expect_no_series_twice(*scrape);
  EXPECT_EQ(scrape->total("odd_things_total"), 6) << "nothing is left out";
  const std::string labels = "model_name=\"caf\xEF\xBF\xBD\"";
  EXPECT_NE(scrape->text.find(labels), std::string::npos) << scrape->text;
  EXPECT_NE(scrape->text.find("who=\"\xEF\xBF\xBD\""), std::string::npos);
  EXPECT_NE(scrape->text.find("who=\"\xc3\xa9\""), std::string::npos);
}

// C-30
TEST(OddValues, GaugeThatIsNamedAsACreationTime_IsTheOnlyFamilyOfThatName) {
  const Folder folder;
  Producer producer = open_odd(folder.bus(), "m");
  OddValues record;
  record.joules = 2;
  record.made = 42;
  record.things = 1;
  producer.record(record);
  AggregatorProcess aggregator({folder.bus(), {"--created-series"}, "", true});
  const auto scrape = aggregator.scrape();
  ASSERT_TRUE(scrape);
  expect_no_series_twice(*scrape);
  EXPECT_EQ(scrape->total("odd_joules_created"), 42);
  EXPECT_GT(scrape->total("odd_things_created"), 1e9) << "the others have theirs";
}

// The oldest of many dead ranks become one; without a model that must be no rank that never was.
// C-30
TEST(OddValues, ManyWithoutAModel_AreTheirEngineAndNobodyElse) {
  rankbus::Identity rank;
  rank.role = 4;
  rank.rank = 7;
  for (const char* model : {"", "m"}) {
    rank.model = model;
    EXPECT_FALSE(rank.is_whole_engine());
    for (const rankbus::Identity& many : {rank.whole_engine(), rank.whole_model()}) {
      EXPECT_TRUE(many.is_whole_engine()) << model;
      EXPECT_EQ(many.whole_engine().tie(), many.tie());
    }
    EXPECT_FALSE(rank.whole_engine().is_whole_model());
    EXPECT_TRUE(rank.whole_model().is_whole_model());
  }
  EXPECT_FALSE(rankbus::Identity().is_whole_engine()) << "whoever is nobody";
}

}  // namespace
}  // namespace bus_test
