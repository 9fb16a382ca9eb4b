// Labels: multiprocess-heavy
//
// Goal:   whoever still reads a segment that its owner has retired and removed reads that segment's
//         bytes, however many successors of the same identity have come since: no file and no name
//         is ever used a second time.
// Method: one life after the other of one identity, killed, retired and removed by an owner; a
//         second reader of each, mapped or by copies, that has read only a part, is kept open
//         through all of them and reads on at the end.
// Replay: RANKBUS_TEST_SEED=<printed> fault_reclaimed [--gtest_filter=...]
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::ByteAccess;
using rankbus::Producer;
using rankbus::SegmentReader;

// The records of different lives differ from the first on.
std::uint64_t first_of(std::uint64_t life) {
  return 1'000 * (1 + life);
}

struct Held {
  std::unique_ptr<SegmentReader> reader;
  StreamModel<llm_engine::Tile> model;
  std::string name;
};

class Reclaimed : public testing::TestWithParam<ByteAccess> {
 protected:
  // A life that ends with a kill. Half of its records are read by somebody who is then late.
  Held live(std::uint64_t life, std::uint64_t records) {
    Child writer([&](const Line& line) {
      rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
      options.records[0] = rankbus::record_type<llm_engine::Tile>();
      options.segment_bytes = 64 << 10;
      Producer producer = Producer::open(options);
      for (std::uint64_t n = 0; n < records / 2; ++n) producer.record(tile(first_of(life) + n));
      line.say(producer.lane() == 0 ? producer.segment_name() : "another lane");
      (void)line.hear();
      for (std::uint64_t n = records / 2; n < records; ++n)
        producer.record(tile(first_of(life) + n));
      line.say("written");
      (void)line.hear();
      return 0;
    });
    Held held;
    held.name = writer.hear();
    const Directory directory(folder_.bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), held.name, GetParam());
    if (opened) {
      held.reader = std::move(opened.value());
      held.reader->poll(false, {});
    }
    writer.say("on");
    (void)writer.hear();
    writer.kill9();
    for (std::uint64_t n = 0; n < records; ++n) held.model.add(tile(first_of(life) + n), 0);
    return held;
  }

  Folder folder_;
};

INSTANTIATE_TEST_SUITE_P(Reader, Reclaimed, testing::Values(ByteAccess::mapped, ByteAccess::copied),
                         [](const auto& access) {
                           return access.param == ByteAccess::mapped ? "Mapped" : "Copied";
                         });

// C-10
TEST_P(Reclaimed, StillReadByAnother_ReadsItsOwnBytesToTheEnd) {
  if (GetParam() == ByteAccess::mapped) (void)as_the_aggregator();
  Dice dice(test_seed());
  const auto owner = open_bus(folder_.bus(), false);
  ASSERT_TRUE(owner);
  std::vector<Held> lives;
  std::set<std::string> names;
  for (std::uint64_t life = 0; life < scaled(20); ++life) {
    lives.push_back(live(life, 2 + dice.below(400)));
    ASSERT_TRUE(lives.back().reader) << lives.back().name;
    EXPECT_TRUE(names.insert(lives.back().name).second) << "a name was used twice";
    full_pass(*owner);
    ASSERT_EQ(owner->retired_segments(), life + 1);
    EXPECT_TRUE(Directory(folder_.bus()).segments().empty()) << "it was not removed";
  }
  for (const Held& held : lives) {
    ASSERT_TRUE(read_to_end(*held.reader)) << held.name;
    EXPECT_EQ(held.reader->error(), "") << held.name;
    EXPECT_TRUE(equals_model(held.reader->streams()[0], held.model)) << held.name;
  }
}

}  // namespace
}  // namespace bus_test
