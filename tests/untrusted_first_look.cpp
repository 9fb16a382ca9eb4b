// Goal:   what a segment says of the time before anybody looked becomes no count unless it is
//         possible: its age allows it, and its newest record is there.
// Method: real segments whose words are changed before a reader comes; both ways of reading, living
//         and dead; the built aggregator as the one who would have counted.
// Replay: untrusted_first_look [--gtest_filter=...]; nothing here is random.
#include "segment_image.hpp"

namespace bus_test {
namespace {

using rankbus::ByteAccess;
using rankbus::Producer;
using rankbus::SegmentReader;

constexpr std::uint64_t kRecords = 40;

Producer open_producer(const std::string& bus, rankbus::ClockDomain clock) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.records[1] = rankbus::record_type<llm_engine::Mark>();
  options.segment_bytes = 1;
  options.clock = clock;
  Producer producer = Producer::open(options);
  for (std::uint64_t n = 0; n < kRecords; ++n) {
    producer.record(tile(n));
    producer.record(mark(n));
  }
  return producer;
}

// A segment whose stream claims so many records; with the newest of them in its slot, if asked.
std::string put_claim(const std::string& bus, Image image, std::uint32_t stream, Word published,
                      bool has_newest) {
  *image.published(stream) = published;
  const Word newest = published - 1;
  if (has_newest) *image.slot(stream, newest) = rankbus::bus::word_when_whole(newest);
  return image.put(bus);
}

class FirstLook : public testing::TestWithParam<ByteAccess> {
 public:
  std::unique_ptr<SegmentReader> open(const std::string& bus, const std::string& name) const {
    if (GetParam() == ByteAccess::mapped) (void)as_the_aggregator();
    const Directory directory(bus);
    auto opened = SegmentReader::open_untrusted(directory.fd(), name, GetParam());
    if (opened) return std::move(opened.value());
    ADD_FAILURE() << opened.error();
    return nullptr;
  }
  void expect_damage(const std::string& bus, const std::string& name, const std::string& words) {
    const auto reader = open(bus, name);
    ASSERT_TRUE(reader);
    for (int poll = 0; poll < 3; ++poll) reader->poll(poll > 0, {});
    EXPECT_NE(reader->error().find(words), std::string::npos) << reader->error();
    for (const rankbus::StreamState& stream : reader->streams()) {
      EXPECT_LE(stream.position, kRecords);
      EXPECT_EQ(stream.lost_lapped, 0u);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Reader, FirstLook, testing::Values(ByteAccess::mapped, ByteAccess::copied),
                         [](const auto& access) {
                           return access.param == ByteAccess::mapped ? "Mapped" : "Copied";
                         });

// C-20
TEST_P(FirstLook, Malicious_PublishedBeyondTheAgeOfTheSegment_IsDamage) {
  const Folder folder;
  Producer producer = open_producer(folder.bus(), rankbus::ClockDomain::real);
  const Image image(bytes_of_file(folder.bus() + "/" + producer.segment_name()));
  for (const std::uint32_t stream : {0u, 1u}) {
    for (const Word published : {Word{1} << 50, (Word{1} << 63) - 2, ~Word{0}}) {
      const std::string name = put_claim(folder.bus(), image, stream, published, true);
      expect_damage(folder.bus(), name, "in a time for at most ");
    }
  }
}

// C-20
TEST_P(FirstLook, Malicious_PublishedWithoutItsNewestRecord_IsDamageWhateverTheClock) {
  for (const auto clock : {rankbus::ClockDomain::real, rankbus::ClockDomain::virtual_time}) {
    const Folder folder;
    Producer producer = open_producer(folder.bus(), clock);
    const Image image(bytes_of_file(folder.bus() + "/" + producer.segment_name()));
    for (const std::uint32_t stream : {0u, 1u}) {
      for (const Word published : {Word{kRecords} + 1, Word{100'000}}) {
        const std::string name = put_claim(folder.bus(), image, stream, published, false);
        expect_damage(folder.bus(), name,
                      "record " + std::to_string(published - 1) + " was published");
      }
    }
  }
}

TEST_P(FirstLook, WhatWasWritten_IsPossible) {
  for (const auto clock : {rankbus::ClockDomain::real, rankbus::ClockDomain::virtual_time}) {
    const Folder folder;
    Producer producer = open_producer(folder.bus(), clock);
    for (std::uint64_t n = kRecords; n < 100'000; ++n) {
      producer.record(tile(n));
      producer.record(mark(n));
      if (n % 10'000 != 0) continue;
      const auto reader = open(folder.bus(), producer.segment_name());
      ASSERT_TRUE(reader);
      EXPECT_EQ(reader->error(), "");
    }
    const std::string name = producer.segment_name();
    producer.close();
    const auto reader = open(folder.bus(), name);
    ASSERT_TRUE(reader);
    ASSERT_TRUE(read_to_end(*reader));
    EXPECT_EQ(reader->error(), "");
    EXPECT_EQ(reader->streams()[0].position, 100'000u);
  }
}

// After a reboot only the realtime clock is left.
// C-18, C-20
TEST_P(FirstLook, SegmentOfAnEarlierBoot_IsBoundedByTheRealtimeClock) {
  const Folder folder;
  Producer producer = open_producer(folder.bus(), rankbus::ClockDomain::real);
  Image image(bytes_of_file(folder.bus() + "/" + producer.segment_name()));
  image.header().boot_id[0] ^= 0xff;
  const auto honest = open(folder.bus(), image.put(folder.bus()));
  ASSERT_TRUE(honest);
  EXPECT_EQ(honest->error(), "");
  expect_damage(folder.bus(), put_claim(folder.bus(), image, 1, Word{1} << 60, true),
                "in a time for at most ");
}

// C-20
TEST(FirstLookOfTheBus, Malicious_ImpossibleClaim_IsInNoCount) {
  const Folder folder;
  Producer producer = open_producer(folder.bus(), rankbus::ClockDomain::real);
  const Image image(bytes_of_file(folder.bus() + "/" + producer.segment_name()));
  (void)put_claim(folder.bus(), image, 1, (Word{1} << 63) - 1, false);
  const auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  full_pass(*bus);
  std::uint64_t records = 0, lost = 0, quarantined = 0;
  for (const auto& [name, segment] : bus->live()) {
    quarantined += segment.quarantine.empty() ? 0u : 1u;
    for (const auto& [stream, counts] : rankbus::counts_of(segment)) {
      records += counts.records;
      lost += counts.lost_lapped;
    }
  }
  EXPECT_EQ(quarantined, 1u);
  EXPECT_LE(records, 4 * kRecords);
  EXPECT_EQ(lost, 0u);
}

}  // namespace
}  // namespace bus_test
