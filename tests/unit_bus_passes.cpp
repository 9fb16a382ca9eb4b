// Goal:   a fresh view shows every record that was published before it was asked for.
// Method: a ring with more to read than one turn takes, then one record more.
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::MultimodalCache;
using rankbus::OpenOptions;
using rankbus::Producer;

TEST(BusPasses, AFreshPass_ReadsWhatCameWhileAnEarlierOneWasBehind) {
  const Folder folder;
  OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.segment_bytes = 64 << 20;
  options.records[0] = rankbus::record_type<MultimodalCache>();
  Producer producer = Producer::open(options);
  ASSERT_FALSE(producer.inert()) << producer.reason();
  const auto bus = open_bus(folder.bus(), false);
  const auto ignore = [](const rankbus::LiveSegment&, const rankbus::Sample&) {};
  bus->pass(now_s(), true, ignore);
  bool was_behind = false;
  for (int round = 0; round < 20; ++round) {
    MultimodalCache record;
    record.queries = 1;
    for (int i = 0; i < 300'000; ++i) producer.record(record);
    bus->pass(now_s(), false, ignore);
    was_behind = was_behind || bus->live().begin()->second.reader->is_behind();
    producer.record(record);
    bus->pass(now_s(), true, ignore);
    const auto& streams = bus->live().begin()->second.reader->streams();
    ASSERT_EQ(streams[0].position, 300'001u * static_cast<unsigned>(round + 1));
  }
  if (!was_behind) GTEST_SKIP() << "every turn was long enough on this machine";
}

}  // namespace
}  // namespace bus_test
