// What a segment took of the budget of series is given back however its reading ends: also when it
// contradicts itself, is read no more, and then loses its name and its writer.
#include "bus_fixture.hpp"

struct FineBounds {
  double values[58];
};
inline constexpr FineBounds kFineBounds = [] {
  FineBounds bounds{};
  for (int i = 0; i < 58; ++i) bounds.values[i] = i + 1;
  return bounds;
}();
inline constexpr rankbus::bus::Bounds kFine = rankbus::bus::bounds_of(kFineBounds.values, 0, 6);

// Near to what one segment may have: 28 histograms of 61 lines.
#define FINE(FIELD, NAME) FIELD(std::uint64_t, NAME, distribution("fine_" #NAME, ::kFine), "x")
#define FINE_4(FIELD, NAME) \
  FINE(FIELD, NAME##0)      \
  FINE(FIELD, NAME##1) FINE(FIELD, NAME##2) FINE(FIELD, NAME##3)
#define MANY_LINES_ROWS(FIELD, OPTIONAL, ARRAY)            \
  FIELD(std::uint64_t, stamp, stamp(), "When it happened") \
  FINE_4(FIELD, a)                                         \
  FINE_4(FIELD, b)                                         \
  FINE_4(FIELD, c) FINE_4(FIELD, d) FINE_4(FIELD, e) FINE_4(FIELD, f) FINE_4(FIELD, g)
RANKBUS_RECORD(ManyLines, "many_lines", 1, "Many series", MANY_LINES_ROWS)

namespace bus_test {
namespace {

constexpr std::uint64_t kLinesEach = 28 * 61;

void overwrite(const std::string& path, std::uint64_t offset, std::uint64_t word) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(pwrite(fd, &word, sizeof word, static_cast<off_t>(offset)), 8);
  close(fd);
}

TEST(SeriesBudget, QuarantinedSegmentsThatAreBuried_GiveTheirShareBack) {
  const Folder folder;
  std::vector<std::string> warnings;
  const auto bus = open_bus(folder.bus(), false, &warnings);
  // More of them, one after the other, than the bus has series for.
  const std::uint64_t lives = rankbus::bus::kMaxSeriesPerNode / kLinesEach + 20;
  for (std::uint64_t life = 0; life < lives; ++life) {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.segment_bytes = 64 << 10;
    options.records[0] = rankbus::record_type<ManyLines>();
    rankbus::Producer producer = rankbus::Producer::open(options);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    producer.record(ManyLines{});
    full_pass(*bus);
    ASSERT_EQ(bus->live().size(), 1u);
    const auto& reader = *bus->live().begin()->second.reader;
    ASSERT_EQ(reader.hidden_fields(), 0u) << "life " << life << ": " << warnings.back();
    const std::string path = folder.bus() + "/" + reader.name();
    // Its count of records goes back.
    overwrite(path, reader.header().activity_offset, 0);
    full_pass(*bus);
    ASSERT_FALSE(bus->live().begin()->second.quarantine.empty());
    ASSERT_EQ(unlink(path.c_str()), 0);
    producer.close();
    full_pass(*bus);
    full_pass(*bus);
    ASSERT_TRUE(bus->live().empty());
  }
}

}  // namespace
}  // namespace bus_test
