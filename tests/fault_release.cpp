// Goal:   `rankbus release` says what came of it, and a wish has its effect once, now or never: not
//         on a segment that is well, not again later, not from whoever may not decide.
// Method: the built aggregator and the built command; a living segment that is made to contradict
//         itself; odd files in the place of a wish.
// Replay: ctest --test-dir build/release -R fault_release -V
#include "ledger_world.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;

struct Answer {
  int status = -1;
  std::string text;
};

Answer release(const std::string& bus, const std::string& segment) {
  const std::string command =
      required_environment("RANKBUS_BINARY") + " release " + segment + " --bus " + bus + " 2>&1";
  Answer answer;
  FILE* pipe = popen(command.c_str(), "re");
  if (pipe == nullptr) return answer;
  char part[512];
  while (fgets(part, sizeof part, pipe) != nullptr) answer.text += part;
  const int status = pclose(pipe);
  answer.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return answer;
}

class Release : public testing::Test {
 protected:
  Release() {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<llm_engine::Mark>();
    producer_ = Producer::open(options);
    record(10);
  }
  void record(std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) producer_.record(mark(written_++));
  }
  const std::string& bus() const { return folder_.bus(); }
  std::string name() const { return producer_.segment_name(); }
  std::string wish() const { return bus() + "/" + rankbus::kReleasePrefix + name(); }
  bool has_wish() const {
    struct stat status {};
    return lstat(wish().c_str(), &status) == 0;
  }
  // The word that says how much was published goes back, and later is what it was again.
  void set_published(Word value) const {
    const int fd = open((bus() + "/" + name()).c_str(), O_RDWR | O_CLOEXEC);
    rankbus::bus::SegmentHeader header{};
    ASSERT_EQ(pread(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    ASSERT_EQ(pwrite(fd, &value, sizeof value, static_cast<off_t>(header.activity_offset)), 8);
    close(fd);
  }
  static bool wait_for_quarantined(const AggregatorProcess& aggregator, double count) {
    return wait_until([&] {
      const auto scrape = aggregator.scrape();
      return !scrape || scrape->total("rankbus_quarantined") == count;
    });
  }
  void quarantine(const AggregatorProcess& aggregator) {
    ASSERT_TRUE(wait_for_quarantined(aggregator, 0));
    set_published(3);
    ASSERT_TRUE(wait_for_quarantined(aggregator, 1));
    set_published(written_);
  }

  Folder folder_;
  Producer producer_;
  std::uint64_t written_ = 0;
};

TEST_F(Release, SegmentThatIsWell_IsRefusedAndNotReleasedLater) {
  AggregatorProcess aggregator({bus(), {}, "", true});
  (void)aggregator.scrape();
  const Answer answer = release(bus(), name());
  EXPECT_EQ(answer.status, 1);
  EXPECT_NE(answer.text.find(name() + ": is not quarantined"), std::string::npos) << answer.text;
  EXPECT_FALSE(has_wish());
  quarantine(aggregator);
  for (int scrape = 0; scrape < 3; ++scrape)
    EXPECT_EQ(aggregator.scrape()->total("rankbus_quarantined"), 1);
}

TEST_F(Release, QuarantinedSegment_IsReadAgainOnce) {
  AggregatorProcess aggregator({bus(), {}, "", true});
  quarantine(aggregator);
  const Answer answer = release(bus(), name());
  EXPECT_EQ(answer.status, 0) << answer.text;
  EXPECT_EQ(answer.text, "");
  EXPECT_TRUE(wait_for_quarantined(aggregator, 0));
  EXPECT_FALSE(has_wish());
  record(5);
  EXPECT_TRUE(wait_until([&] {
    const auto scrape = aggregator.scrape();
    return !scrape || scrape->total("rankbus_records_total") == static_cast<double>(written_);
  }));
}

TEST_F(Release, WithoutAnAggregator_TheNextOneDecides) {
  const Answer answer = release(bus(), name());
  EXPECT_EQ(answer.status, 0);
  EXPECT_NE(answer.text.find("no aggregator owns"), std::string::npos) << answer.text;
  EXPECT_TRUE(has_wish());
  EXPECT_EQ(release(bus(), name()).status, 0) << "asked twice is asked once";
  AggregatorProcess aggregator({bus(), {}, "", true});
  EXPECT_TRUE(wait_until([&] { return !has_wish(); }));
  quarantine(aggregator);
  EXPECT_EQ(aggregator.scrape()->total("rankbus_quarantined"), 1);
}

// C-13
TEST_F(Release, Malicious_WhatIsNoFileOfAWish_ReleasesNothing) {
  AggregatorProcess aggregator({bus(), {}, "", true});
  quarantine(aggregator);
  const std::string elsewhere = folder_ / "elsewhere";
  const auto stays = [&](const char* what) {
    for (int scrape = 0; scrape < 3; ++scrape)
      EXPECT_EQ(aggregator.scrape()->total("rankbus_quarantined"), 1) << what;
    EXPECT_TRUE(has_wish()) << what;
    EXPECT_EQ(release(bus(), name()).status, 1) << what;
    EXPECT_EQ(std::filesystem::remove(wish()), true) << what;
  };
  ASSERT_EQ(mkdir(wish().c_str(), 0700), 0);
  stays("directory");
  ASSERT_EQ(mkfifo(wish().c_str(), 0600), 0);
  stays("fifo");
  ASSERT_EQ(symlink(elsewhere.c_str(), wish().c_str()), 0);
  stays("link");
  EXPECT_NE(access(elsewhere.c_str(), F_OK), 0);
  EXPECT_EQ(release(bus(), name()).status, 0);
  EXPECT_TRUE(wait_for_quarantined(aggregator, 0));
}

TEST_F(Release, NameOfNoSegment_IsSaid) {
  EXPECT_EQ(release(bus(), "nonsense").status, 2);
  const std::string gone = "other-0-0.00000000000000000000000000000000";
  EXPECT_EQ(release(bus(), gone).status, 1);
  EXPECT_NE(access((bus() + "/" + rankbus::kReleasePrefix + gone).c_str(), F_OK), 0);
}

}  // namespace
}  // namespace bus_test
