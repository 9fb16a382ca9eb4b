// Goal:   a small segment costs its reader little: what many descriptors share is one, what they
//         multiply is refused with a reason, and a flood of files neither fills the log nor keeps
//         those from being read who are there.
// Method: schemas made byte by byte, as no producer would write them; directories full of copies
//         and of junk.
// Replay: untrusted_amplified [--gtest_filter=...]; nothing here is random.
#include <algorithm>

#include "segment_image.hpp"

namespace bus_test {
namespace {

using rankbus::StreamSchema;
using rankbus::bus::FieldDescriptor;
using rankbus::bus::SegmentHeader;
using rankbus::bus::StreamDescriptor;

// A schema of streams of one stamp and distributions, whose fields all lie in the same word.
struct Forged {
  SegmentHeader header{};
  std::vector<StreamDescriptor> streams;
  std::vector<FieldDescriptor> fields;
  std::string texts = "name";

  void add_stream(std::uint32_t distributions) {
    StreamDescriptor stream{};
    stream.name_bytes = stream.help_bytes = 4;
    stream.first_field = static_cast<std::uint32_t>(fields.size());
    stream.field_count = 1 + distributions;
    stream.slot_format = 1;
    stream.slot_bytes = 32;
    stream.capacity = 64;
    // Three cells and a sum each.
    stream.checkpoint_words = rankbus::bus::kBodyHeadWords + 4 * distributions;
    stream.part_offset = rankbus::bus::kNoOffset;
    streams.push_back(stream);
    fields.push_back(field_of(rankbus::bus::Kind::stamp));
    for (std::uint32_t i = 0; i < distributions; ++i)
      fields.push_back(field_of(rankbus::bus::Kind::distribution));
  }
  static FieldDescriptor field_of(rankbus::bus::Kind kind) {
    FieldDescriptor field{};
    field.name_bytes = field.metric_bytes = field.help_bytes = 4;
    field.kind = static_cast<std::uint32_t>(kind);
    field.type = static_cast<std::uint32_t>(rankbus::bus::Type::u64);
    field.unit = field.reduction = 1;
    field.capacity = 1;
    field.count_offset = rankbus::bus::kNoOffset;
    return field;
  }

  rankbus::Result<std::vector<StreamSchema>> parse() {
    const auto texts_at = static_cast<std::uint32_t>(streams.size() * sizeof(StreamDescriptor) +
                                                     fields.size() * sizeof(FieldDescriptor));
    header.stream_descriptor_bytes = sizeof(StreamDescriptor);
    header.field_descriptor_bytes = sizeof(FieldDescriptor);
    header.stream_count = static_cast<std::uint32_t>(streams.size());
    header.schema_offset = 2048;
    header.schema_bytes = texts_at + texts.size();
    std::uint64_t next = rankbus::bus::align_up(header.schema_offset + header.schema_bytes, 128);
    for (StreamDescriptor& stream : streams) {
      stream.name_offset = stream.help_offset = texts_at;
      stream.checkpoint_offset = next;
      next += 2 * rankbus::bus::align_up(8 * (1 + std::uint64_t{stream.checkpoint_words}), 128);
      stream.slots_offset = next;
      next += std::uint64_t{stream.capacity} * stream.slot_bytes;
    }
    for (FieldDescriptor& field : fields)
      field.name_offset = field.metric_offset = field.help_offset = texts_at;
    header.segment_bytes = next;
    std::vector<unsigned char> bytes(header.schema_bytes);
    std::memcpy(bytes.data(), streams.data(), streams.size() * sizeof(StreamDescriptor));
    std::memcpy(bytes.data() + streams.size() * sizeof(StreamDescriptor), fields.data(),
                fields.size() * sizeof(FieldDescriptor));
    std::memcpy(bytes.data() + texts_at, texts.data(), texts.size());
    header.schema_hash = rankbus::bus::fnv1a(bytes.data(), bytes.size());
    return rankbus::parse_untrusted_schema(header, bytes);
  }
};

std::string refusal_of(Forged& forged) {
  auto parsed = forged.parse();
  return parsed ? "" : parsed.error();
}

// C-21
TEST(Amplified, EqualBoundsOfManyFields_AreOneTable) {
  Forged forged;
  for (int stream = 0; stream < 9; ++stream) forged.add_stream(60);
  auto parsed = forged.parse();
  ASSERT_TRUE(parsed) << parsed.error();
  const auto* first = parsed.value()[0].fields[1].table.get();
  ASSERT_NE(first, nullptr);
  for (const StreamSchema& stream : parsed.value()) {
    for (std::size_t f = 1; f < stream.fields.size(); ++f) {
      EXPECT_EQ(stream.fields[f].table.get(), first);
      EXPECT_EQ(stream.plan.fields[f].table, first);
      EXPECT_EQ(stream.fields[f].bounds, parsed.value()[0].fields[1].bounds);
    }
  }
}

// C-21
TEST(Amplified, Malicious_ATableForEachFieldOfATinySegment_IsRefused) {
  Forged forged;
  forged.add_stream(60);
  for (std::uint32_t f = 1; f < 61; ++f)
    forged.fields[f].native_first = forged.fields[f].native_last = static_cast<int>(f) - 30;
  const std::string why = refusal_of(forged);
  EXPECT_NE(why.find("times the memory of its " + std::to_string(forged.header.segment_bytes)),
            std::string::npos)
      << why;
}

// C-21
TEST(Amplified, Malicious_TextSharedByManyLabels_IsRefusedOnceItIsTooMuch) {
  for (const std::uint32_t streams : {2u, 16u}) {
    Forged forged;
    for (int line = 0; line < 200; ++line) forged.texts += std::string(300, 'x') + "\n";
    for (std::uint32_t s = 0; s < streams; ++s) {
      forged.add_stream(5);
      StreamDescriptor& stream = forged.streams.back();
      stream.label_rows = 2;
      stream.checkpoint_words = rankbus::bus::kBodyHeadWords + stream.label_rows + 4;
      for (std::uint32_t f = 1; f < 5; ++f)
        forged.fields[stream.first_field + f].kind =
            static_cast<std::uint32_t>(rankbus::bus::Kind::label);
    }
    const auto labels_at = static_cast<std::uint32_t>(
        streams * sizeof(StreamDescriptor) + forged.fields.size() * sizeof(FieldDescriptor) + 4);
    for (FieldDescriptor& field : forged.fields) {
      field.domain_offset = labels_at;
      field.domain_bytes = static_cast<std::uint32_t>(forged.texts.size() - 5);
    }
    const std::string why = refusal_of(forged);
    if (streams == 2) {
      EXPECT_EQ(why, "") << "so much alone is allowed";
    } else {
      EXPECT_NE(why.find("times the memory of its "), std::string::npos) << why;
    }
  }
}

// C-21
TEST(Amplified, Malicious_StreamsThatShareFields_AreRefused) {
  for (const std::uint32_t first : {0u, 1u, 2u, 3u}) {
    Forged forged;
    forged.add_stream(2);
    forged.add_stream(2);
    forged.streams[1].first_field = first;
    EXPECT_EQ(refusal_of(forged) == "two streams share a field", first < 3) << refusal_of(forged);
  }
  Forged behind;
  behind.add_stream(2);
  behind.streams[0].first_field = ~0u;
  EXPECT_EQ(refusal_of(behind), "the schema is shorter than its descriptors");
}

// A bus with the segments of so many processes that are dead.
void fill_with_copies(const std::string& bus, std::uint32_t count) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Mark>();
  options.segment_bytes = 1;
  rankbus::Producer producer = rankbus::Producer::open(options);
  producer.record(mark(0));
  const std::string name = producer.segment_name();
  producer.close();
  Image image(bytes_of_file(bus + "/" + name));
  for (std::uint32_t rank = 1; rank < count; ++rank) {
    image.header().rank = rank;
    image.put(bus, ("other-0-" + std::to_string(rank)).c_str());
  }
}

// C-21
TEST(Amplified, FloodOfSegments_IsTakenOnInTurns) {
  const Folder folder;
  constexpr std::uint32_t kSegments = 600;
  fill_with_copies(folder.bus(), kSegments);
  std::vector<std::string> warnings;
  const auto bus = open_bus(folder.bus(), true, &warnings);
  ASSERT_TRUE(bus);
  std::uint64_t taken = 0;
  std::uint64_t passes = 0;
  const auto ignore = [](const rankbus::LiveSegment&, const rankbus::Sample&) {};
  while (taken < kSegments && ++passes < 100) {
    bus->pass(now_s(), false, ignore);
    const std::uint64_t now = bus->live().size() + bus->retired_segments();
    EXPECT_LE(now - taken, 256u);
    taken = now;
  }
  EXPECT_EQ(taken, kSegments) << (warnings.empty() ? "" : warnings.front());
  EXPECT_GE(passes, 3u);
  EXPECT_TRUE(bus->complete());
}

// C-21
TEST(Amplified, FloodOfSegments_IsInOneFreshView) {
  const Folder folder;
  fill_with_copies(folder.bus(), 300);
  const auto bus = open_bus(folder.bus(), true);
  ASSERT_TRUE(bus);
  EXPECT_TRUE(wait_until([&] {
    full_pass(*bus);
    return bus->live().size() + bus->retired_segments() == 300;
  }));
  EXPECT_TRUE(bus->complete());
}

// C-21, C-24
TEST(Amplified, JunkNames_AreToldByNameToABoundAndThenBySum) {
  const Folder folder;
  std::vector<std::string> warnings;
  const auto bus = open_bus(folder.bus(), false, &warnings);
  ASSERT_TRUE(bus);
  warnings.clear();
  constexpr std::uint64_t kJunk = 6000;
  for (std::uint64_t n = 0; n < kJunk; ++n) {
    char name[64];
    std::snprintf(name, sizeof name, "/other-0-0.%032llx", static_cast<unsigned long long>(n));
    const int fd = open((folder.bus() + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    close(fd);
  }
  ASSERT_TRUE(wait_until([&] {
    full_pass(*bus);
    return bus->rejected() == kJunk;
  }));
  EXPECT_EQ(warnings.size(), 21u);
  EXPECT_NE(warnings.back().find("and " + std::to_string(kJunk - 20) + " other files"),
            std::string::npos)
      << warnings.back();
  full_pass(*bus);
  EXPECT_EQ(warnings.size(), 21u) << "said once";
}

}  // namespace
}  // namespace bus_test
