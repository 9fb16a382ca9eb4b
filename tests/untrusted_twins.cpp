// Goal:   what a rank is, and whether it lives, is told by the segment that lives, whatever another
//         one of its name claims: one that is quarantined and dead, or a copy that somebody made.
// Method: a process whose segment is spoilt, and which is killed; its successor of the same
//         identity; names of segments are random, so that either comes first over the rounds.
// Replay: untrusted_twins [--gtest_filter=...]
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Family;
using rankbus::Producer;
using rankbus::Series;

rankbus::OpenOptions scheduler_of(const std::string& bus) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::scheduler);
  options.records[0] = rankbus::record_type<rankbus::SchedulerStep>();
  return options;
}

void record_running(Producer& producer, std::uint64_t running) {
  rankbus::SchedulerStep step;
  step.num_running_reqs = static_cast<std::uint32_t>(running);
  producer.record(step);
}

// Everything that is shown of one bus.
class Shown {
 public:
  explicit Shown(const rankbus::BusReader& bus) {
    rankbus::FamilyBuilder families;
    rankbus::TickClock clock;
    rankbus::add_self_metrics(bus, clock, now_s(), {}, families);
    rankbus::reduce_records(bus, rankbus::collect_values(bus), now_s(), {}, families);
    families_ = families.take();
  }
  // Values of the family's series that have this label.
  std::vector<double> values(const std::string& name, const std::string& label = {},
                             const std::string& text = {}) const {
    std::vector<double> found;
    for (const Family& family : families_) {
      if (family.name != name) continue;
      for (const Series& series : family.series) {
        const bool fits = label.empty() || std::count(series.labels.begin(), series.labels.end(),
                                                      std::pair(label, text)) != 0;
        if (!fits) continue;
        found.push_back(std::visit([](auto value) { return static_cast<double>(value); },
                                   std::get<rankbus::Number>(series.value)));
      }
    }
    return found;
  }
  std::string state() const {
    std::string all;
    for (const char* state : {"ok", "idle", "stopped", "dead"}) {
      for (const double value : values("rankbus_rank_state", "state", state)) {
        if (value != 0) all += std::string(all.empty() ? "" : ", ") + state;
      }
    }
    return all;
  }

 private:
  std::vector<Family> families_;
};

using Values = std::vector<double>;

// A scheduler in a process of its own, whose `published` word is taken back; then it is killed.
std::string leave_quarantined(const std::string& bus, rankbus::BusReader& reader) {
  Child child([&](const Line& line) {
    Producer producer = Producer::open(scheduler_of(bus));
    for (int n = 0; n < 5; ++n) record_running(producer, 66);
    line.say(producer.segment_name());
    (void)line.hear();
    return 0;
  });
  const std::string name = child.hear();
  full_pass(reader);
  const int fd = open((bus + "/" + name).c_str(), O_RDWR | O_CLOEXEC);
  const std::uint64_t taken_back = 1;
  EXPECT_EQ(pwrite(fd, &taken_back, sizeof taken_back, rankbus::bus::kActivityOffset), 8);
  close(fd);
  full_pass(reader);
  EXPECT_EQ(reader.live().count(name), 1u);
  EXPECT_NE(reader.live().at(name).quarantine, "");
  EXPECT_EQ(Shown(reader).state(), "ok") << "it lives, and is not believed any more";
  child.kill9();
  return name;
}

// C-26, C-34
TEST(Twins, QuarantinedAndDeadOne_NeverSpeaksForTheLiving) {
  std::set<bool> orders;
  for (int round = 0; round < 64 && orders.size() < 2; ++round) {
    const Folder folder;
    const Environment run("RANKBUS_RUN_ID", "one-run");
    const auto reader = open_bus(folder.bus(), false);
    ASSERT_TRUE(reader);
    const std::string dead = leave_quarantined(folder.bus(), *reader);
    Producer living = Producer::open(scheduler_of(folder.bus()));
    ASSERT_EQ(living.lane(), 0u) << "not the same identity";
    orders.insert(dead < living.segment_name());
    record_running(living, 7);
    full_pass(*reader);
    ASSERT_EQ(reader->live().size(), 2u) << "the quarantined one stays for people";
    const Shown shown(*reader);
    EXPECT_EQ(shown.state(), "ok");
    EXPECT_EQ(shown.values("rankbus_rank_info").size(), 1u) << "the dead has no place";
    EXPECT_EQ(shown.values("vllm:num_requests_running"), Values{7});
    EXPECT_EQ(shown.values("rankbus_quarantined"), Values{1});
    EXPECT_EQ(shown.values("rankbus_records_total"), Values{6}) << "both have counted";
    living.close();
    full_pass(*reader);
    EXPECT_EQ(Shown(*reader).state(), "dead");
    EXPECT_EQ(Shown(*reader).values("vllm:num_requests_running"), Values{});
  }
  EXPECT_EQ(orders.size(), 2u) << "one order of names only";
}

// Copies a segment under another incarnation's name, which a clever forger puts into it, too.
void copy_segment(const std::string& bus, const std::string& name, bool is_clever) {
  const std::string copy = name.substr(0, name.rfind('.') + 1) + std::string(32, 'e');
  std::ifstream from(bus + "/" + name, std::ios::binary);
  std::vector<char> bytes(std::istreambuf_iterator<char>(from), {});
  if (is_clever)
    std::memset(bytes.data() + offsetof(rankbus::bus::SegmentHeader, incarnation), 0xee, 16);
  std::ofstream(bus + "/" + copy, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_EQ(chmod((bus + "/" + copy).c_str(), 0600), 0);
}

// The kernel's lock cannot be copied.
// C-26
TEST(Twins, Malicious_CopyOfALivingOne_IsRefusedOrDeadWhateverItSays) {
  for (const bool is_clever : {false, true}) {
    const Folder folder;
    Producer living = Producer::open(scheduler_of(folder.bus()));
    record_running(living, 7);
    copy_segment(folder.bus(), living.segment_name(), is_clever);
    record_running(living, 8);
    std::vector<std::string> warnings;
    const auto reader = open_bus(folder.bus(), false, &warnings);
    ASSERT_TRUE(reader);
    full_pass(*reader);
    ASSERT_EQ(reader->live().size(), 1u);
    EXPECT_EQ(reader->live().count(living.segment_name()), 1u);
    EXPECT_EQ(reader->rejected(), is_clever ? 0u : 1u) << testing::PrintToString(warnings);
    EXPECT_EQ(reader->retired_segments(), is_clever ? 1u : 0u) << testing::PrintToString(warnings);
    const Shown shown(*reader);
    EXPECT_EQ(shown.state(), "ok");
    EXPECT_EQ(shown.values("rankbus_rank_info").size(), 1u);
    EXPECT_EQ(shown.values("vllm:num_requests_running"), Values{8});
  }
}

}  // namespace
}  // namespace bus_test
