// Goal:   a dead segment that has fewer records than the ledger says were read of it is quarantined
//         at once, and no pass waits for it to be read to an end to which nobody reads it.
// Method: a ledger that claims more than was written, and a segment that takes several turns.
// Replay: untrusted_ledger_floor [--gtest_filter=...]
#include <rankbus/aggregator/ledger.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

// C-19
TEST(LedgerFloor, Malicious_MoreThanWasWritten_NoPassWaitsForTheDeadSegment) {
  const Folder folder;
  std::string name;
  {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.segment_bytes = 32u << 20;  // Longer than a turn to read, on any machine.
    rankbus::Producer producer = rankbus::Producer::open(options);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    name = producer.segment_name();
    for (std::uint64_t n = 0; n < (1u << 18); ++n) producer.record(tile(n));
  }
  rankbus::LedgerIncarnation claimed;
  claimed.streams.push_back({"tile", {.records = 1u << 19}});
  rankbus::LedgerImage image;
  image.boot_id = rankbus::this_boot();
  image.generation = 1;
  image.incarnations[name] = std::make_shared<const rankbus::LedgerIncarnation>(claimed);
  {
    auto store = rankbus::LedgerStore::open(folder.bus());
    ASSERT_TRUE(store) << store.error();
    (*store)->write(std::make_shared<const rankbus::LedgerImage>(image));
    (*store)->wait();
  }
  rankbus::BusOptions options;
  options.directory = folder.bus();
  options.ledger.keep = true;
  auto bus = rankbus::BusReader::open(options, [](const std::string&) {});
  ASSERT_TRUE(bus) << bus.error();
  full_pass(**bus);
  const auto found = (*bus)->live().find(name);
  ASSERT_NE(found, (*bus)->live().end());
  EXPECT_NE(found->second.quarantine.find("were read before"), std::string::npos);
  EXPECT_FALSE(found->second.is_dying) << "fresh passes go on until nobody is";
}

}  // namespace
}  // namespace bus_test
