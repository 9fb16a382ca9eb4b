// Goal: samples that nobody will read are told by cause, also where a segment is read no more.
// Method: a real producer of two streams, one of which takes records back; a BusReader.
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

double now_s() {
  return static_cast<double>(rankbus::bus::monotonic_ns()) * 1e-9;
}

// `rankbus_samples_lost_total` by stream, of one cause.
std::map<std::string, std::uint64_t> lost(const rankbus::BusReader& bus, const std::string& cause) {
  rankbus::FamilyBuilder families;
  rankbus::TickClock clock;
  rankbus::add_self_metrics(bus, clock, now_s(), {}, families);
  std::map<std::string, std::uint64_t> found;
  for (const rankbus::Family& family : families.take()) {
    if (family.name != "rankbus_samples_lost_total") continue;
    for (const rankbus::Series& series : family.series) {
      const std::map<std::string, std::string> labels(series.labels.begin(), series.labels.end());
      if (labels.at("cause") != cause) continue;
      found[labels.at("stream")] = std::get<std::uint64_t>(std::get<rankbus::Number>(series.value));
    }
  }
  return found;
}

// C-20, C-31
TEST(LostByCause, QuarantinedSegment_LosesWhatWasPublishedAndNotRead) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.records[0] = rankbus::record_type<rankbus::SchedulerStep>();
  options.records[1] = rankbus::record_type<rankbus::IterationStats>();
  rankbus::Producer producer = rankbus::Producer::open(options);
  rankbus::BusOptions bus_options;
  bus_options.directory = folder.bus();
  auto bus = rankbus::BusReader::open(bus_options, [](const std::string&) {});
  ASSERT_TRUE(bus) << bus.error();
  for (int n = 0; n < 5; ++n) producer.record(rankbus::IterationStats{});
  for (int n = 0; n < 3; ++n) producer.record(rankbus::SchedulerStep{});
  (*bus)->pass(now_s(), true, [](const auto&, const auto&) {});
  EXPECT_TRUE(lost(**bus, "quarantined").empty()) << "a cause that never was is not told";

  for (int n = 0; n < 20; ++n) producer.record(rankbus::SchedulerStep{});
  const std::string path = folder.bus() + "/" + producer.segment_name();
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  const std::uint64_t taken_back = 1;
  const off_t published = rankbus::bus::kActivityOffset + sizeof(taken_back);  // Of stream 1.
  ASSERT_EQ(pwrite(fd, &taken_back, sizeof(taken_back), published), 8);
  close(fd);
  (*bus)->pass(now_s(), true, [](const auto&, const auto&) {});
  EXPECT_EQ(lost(**bus, "quarantined"),
            (std::map<std::string, std::uint64_t>{{"scheduler_step", 20}, {"iteration_stats", 0}}));
  EXPECT_EQ(lost(**bus, "lapped").at("scheduler_step"), 0u);
}

}  // namespace
}  // namespace bus_test
