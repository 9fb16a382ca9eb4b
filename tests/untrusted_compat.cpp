// Goal:   segments and ledgers are read over time: what an earlier build wrote gives the totals
// that
//         it had, what a later one appended is stepped over and said once, what only a later one
//         knows costs the field or the stream that says it, and the rest is refused with a sentence
//         that says what to do.
// Method: tests/golden/segments/ holds segments of every layout, as text, with their totals beside;
//         tests/golden/ledger/ a ledger of every format. Segments of builds that do not exist yet
//         are made from those of this one: larger descriptors, unknown numbers.
// Update: RANKBUS_UPDATE_GOLDEN=1 ctest -R untrusted_compat; only files of a new layout or format
// may
//         change.
// Replay: RANKBUS_TEST_SEED=<printed> untrusted_compat [--gtest_filter=...]
#include <rankbus/aggregator/ledger_image.hpp>
#include <rankbus/aggregator/reduce.hpp>

#include "ledger_world.hpp"
#include "segment_image.hpp"

namespace bus_test {
namespace {

using rankbus::SegmentReader;
using rankbus::bus::SegmentHeader;

constexpr std::uint64_t kRecords = 100;

std::filesystem::path golden(const std::string& folder) {
  return std::filesystem::path(required_environment("RANKBUS_SOURCE")) / "tests/golden" / folder;
}

bool updates_golden() {
  const char* update = std::getenv("RANKBUS_UPDATE_GOLDEN");
  return update != nullptr && update[0] == '1';
}

// Bytes as lines of `OFFSET HEX`, 32 bytes each, but for those that are all zeros.
std::string text_of(const std::vector<unsigned char>& bytes) {
  std::string text = "size " + std::to_string(bytes.size()) + "\n";
  for (std::size_t at = 0; at < bytes.size(); at += 32) {
    const std::size_t end = std::min(at + 32, bytes.size());
    std::string line;
    for (std::size_t i = at; i < end; ++i) {
      char hex[3];
      std::snprintf(hex, sizeof hex, "%02x", bytes[i]);
      line += hex;
    }
    if (line.find_first_not_of('0') != std::string::npos)
      text += std::to_string(at) + " " + line + "\n";
  }
  return text;
}

std::vector<unsigned char> bytes_of_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string word, hex;
  std::size_t size = 0;
  file >> word >> size;
  std::vector<unsigned char> bytes(size);
  for (std::size_t at = 0; file >> at >> hex;) {
    for (std::size_t i = 0; i < hex.size() / 2 && at + i < size; ++i)
      bytes[at + i] = static_cast<unsigned char>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Totals, a line per series: what it is, its sum as bits, its cells as index:count.
std::string text_of(const rankbus::FieldValues& values) {
  std::ostringstream out;
  for (const auto& [key, value] : values) {
    out << key.first;
    for (const auto& [name, text] : key.second) out << ' ' << name << '=' << text;
    out << " kind " << static_cast<int>(value.kind) << " type " << static_cast<int>(value.type)
        << " unit " << static_cast<int>(value.unit) << " reduction "
        << static_cast<int>(value.reduction) << " records " << value.records << " sum "
        << value.bits;
    for (std::size_t c = 0; c < value.cells.size(); ++c) {
      if (value.cells[c] != 0) out << ' ' << c << ':' << value.cells[c];
    }
    out << '\n';
  }
  return out.str();
}

// What a segment's bytes say, whatever is made of it: each field as it is declared, and the words
// of its totals that are not 0, as index:word.
std::string text_of(const SegmentReader& reader) {
  std::ostringstream out;
  for (const rankbus::StreamState& stream : reader.streams()) {
    const rankbus::bus::StreamPlan& plan = stream.schema.plan;
    out << "stream " << stream.schema.name << " capacity " << stream.schema.capacity << " rows "
        << plan.label_rows << " published " << stream.published << '\n';
    const auto words = [&](std::size_t from, std::size_t count) {
      for (std::size_t i = 0; i < count && from + i < stream.totals.size(); ++i) {
        if (stream.totals[from + i] != 0) out << ' ' << i << ':' << stream.totals[from + i];
      }
      out << '\n';
    };
    words(0, rankbus::bus::kBodyHeadWords + plan.label_rows);
    for (std::uint32_t f = 0; f < plan.field_count; ++f) {
      const rankbus::bus::FieldPlan& field = plan.fields[f];
      const rankbus::FieldSchema& schema = stream.schema.fields[f];
      out << "  " << schema.name << ' ' << schema.metric << " kind " << static_cast<int>(field.kind)
          << " type " << static_cast<int>(field.type) << " unit " << static_cast<int>(schema.unit)
          << " reduction " << static_cast<int>(schema.reduction) << " capacity " << field.capacity
          << " at " << field.slot_offset;
      words(field.totals_offset,
            std::size_t{field.row_words} * (field.by_labels != 0 ? plan.label_rows : 1));
    }
  }
  return out.str();
}

// Segments of a dead process. Streams: 0 tile, 1 swap (labels, arrays, everything), 2 mark (samples
// only).
class Compat : public testing::Test {
 protected:
  void SetUp() override {
    rankbus::Producer producer = open_producer();
    ASSERT_FALSE(producer.inert()) << producer.reason();
    record(producer, kRecords);
    const std::string path = folder_.bus() + "/" + producer.segment_name();
    producer.close();
    good_ = bytes_of_file(path);
    unlink(path.c_str());
  }
  rankbus::Producer open_producer(std::uint32_t rank = 0) const {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.rank = rank;
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.records[1] = rankbus::record_type<llm_engine::Swap>();
    options.records[2] = rankbus::record_type<llm_engine::Mark>();
    options.segment_bytes = 1;
    return rankbus::Producer::open(options);
  }
  void record(rankbus::Producer& producer, std::uint64_t records) {
    (void)producer.intern("first adapter");
    for (std::uint64_t n = 0; n < records; ++n) {
      producer.record(tile(n));
      if (n % 8 == 0) producer.record(swaps_.call(n));  // Their slots are large.
      producer.record(mark(n));
    }
  }
  Image good() const { return Image(good_); }
  const std::string& bus() const { return folder_.bus(); }

  // The sentence with which a reader refuses the image; empty if it does not.
  std::string refusal(Image& image) const {
    const std::string name = image.put(bus());
    const Directory directory(bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), name);
    unlink((bus() + "/" + name).c_str());
    return opened ? std::string() : opened.error();
  }
  // A dead segment's image, read to its end; null if that is not possible.
  std::unique_ptr<SegmentReader> read(Image& image) const {
    const std::string name = image.put(bus());
    auto reader = open_segment(bus(), name);
    unlink((bus() + "/" + name).c_str());
    if (reader == nullptr) return nullptr;
    EXPECT_TRUE(read_to_end(*reader));
    EXPECT_EQ(reader->error(), "");
    return reader;
  }
  std::string totals_of_good() const {
    Image image = good();
    return text_of(rankbus::extract_values(*read(image)));
  }

  Folder folder_;
  RecordSequence<llm_engine::Swap> swaps_{1, Temper::tame};
  std::vector<unsigned char> good_;
};

// What does not depend on the machine that made it.
void make_neutral(Image& image) {
  SegmentHeader& header = image.header();
  for (auto* id : {&header.incarnation, &header.boot_id, &header.run_id})
    std::fill(std::begin(*id), std::end(*id), std::uint8_t{1});
  std::fill(std::begin(header.host), std::end(header.host), '\0');
  std::strcpy(header.host, "host");
  header.pid = 1;
  header.uid = 0;
  header.time_namespace = 0;
}

// C-37
TEST_F(Compat, GoldenSegments_AreReadWithTheTotalsBesideThem) {
  const std::filesystem::path folder = golden("segments");
  if (updates_golden()) {
    const std::string stem = "layout-" + std::to_string(rankbus::bus::kLayoutVersion);
    Image closed = good();
    make_neutral(closed);
    Image killed = closed;
    // As a kill leaves it: no last checkpoint, and the next record begun.
    for (const std::uint32_t s : {0u, 1u}) {
      Word* newest = killed.checkpoint(s, killed.newest_checkpoint(s));
      std::fill(newest, newest + 1 + killed.stream(s).checkpoint_words, 0);
      *killed.slot(s, *killed.published(s)) = 2 * *killed.published(s) + 1;
    }
    for (auto& [name, image] :
         {std::pair<std::string, Image*>{"closed", &closed}, {"killed", &killed}}) {
      const std::filesystem::path path = folder / (stem + "-" + name + ".segment");
      if (!std::filesystem::exists(path)) std::ofstream(path) << text_of(image->bytes());
    }
  }
  std::set<std::string> layouts;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".segment") continue;
    SCOPED_TRACE(entry.path().filename().string());
    Image image(bytes_of_text(entry.path()));
    ASSERT_GT(image.bytes().size(), sizeof(SegmentHeader));
    std::filesystem::path totals = entry.path();
    totals.replace_extension(".totals");
    const auto reader = read(image);
    ASSERT_TRUE(reader);
    if (updates_golden() && !std::filesystem::exists(totals))
      std::ofstream(totals) << text_of(*reader);
    EXPECT_EQ(text_of(*reader), file_text(totals));
    EXPECT_TRUE(reader->unknown_to_this_build().empty());
    const bool was_killed = entry.path().string().find("killed") != std::string::npos;
    EXPECT_EQ(reader->streams()[0].abandoned, was_killed ? 1u : 0u);
    EXPECT_EQ(reader->streams()[2].published, kRecords);
    EXPECT_EQ(reader->dictionary_text(1), "first adapter");
    layouts.insert(std::to_string(image.header().layout_version));
  }
  for (std::uint32_t layout = 1; layout <= rankbus::bus::kLayoutVersion; ++layout)
    EXPECT_EQ(layouts.count(std::to_string(layout)), 1u) << "layout " << layout << " is not kept";
}

// The image as a later build would have written it, that appended fields to all three structs.
Image with_larger_descriptors(Image image, std::uint32_t header, std::uint32_t stream,
                              std::uint32_t field) {
  const SegmentHeader h = image.header();
  std::uint32_t fields = 0;
  for (std::uint32_t s = 0; s < h.stream_count; ++s) fields += image.stream(s).field_count;
  const std::uint32_t in_schema = h.stream_count * stream + fields * field;
  // Parts lie on lines, and stay there.
  const std::uint64_t moved = rankbus::bus::align_up(header, rankbus::bus::kLineBytes);
  const std::uint64_t behind = moved + rankbus::bus::align_up(in_schema, rankbus::bus::kLineBytes);
  const std::vector<unsigned char>& in = image.bytes();
  std::vector<unsigned char> out(in.size() + behind, 0xab);
  const auto copy = [&](std::uint64_t from, std::uint64_t size, std::uint64_t to) {
    std::copy_n(in.begin() + static_cast<std::ptrdiff_t>(from), size,
                out.begin() + static_cast<std::ptrdiff_t>(to));
  };
  copy(0, h.header_bytes, 0);
  copy(h.header_bytes, h.schema_offset - h.header_bytes, h.header_bytes + moved);
  const std::uint64_t schema = h.schema_offset + moved;
  std::uint64_t from = h.schema_offset, to = schema;
  for (std::uint32_t s = 0; s < h.stream_count; ++s) {
    copy(from, h.stream_descriptor_bytes, to);
    from += h.stream_descriptor_bytes;
    to += h.stream_descriptor_bytes + stream;
  }
  for (std::uint32_t f = 0; f < fields; ++f) {
    copy(from, h.field_descriptor_bytes, to);
    from += h.field_descriptor_bytes;
    to += h.field_descriptor_bytes + field;
  }
  copy(from, h.schema_offset + h.schema_bytes - from, to);
  copy(h.schema_offset + h.schema_bytes, in.size() - h.schema_offset - h.schema_bytes,
       h.schema_offset + h.schema_bytes + behind);
  Image made(std::move(out));
  SegmentHeader& to_header = made.header();
  to_header.layout_version = h.layout_version + 1;
  to_header.header_bytes += header;
  to_header.stream_descriptor_bytes += stream;
  to_header.field_descriptor_bytes += field;
  to_header.status_offset += moved;
  to_header.activity_offset += moved;
  to_header.schema_offset = schema;
  to_header.schema_bytes += in_schema;
  to_header.dictionary_offset += behind;
  to_header.segment_bytes += behind;
  for (std::uint32_t s = 0; s < h.stream_count; ++s) {
    rankbus::bus::StreamDescriptor& of = made.stream(s);
    of.slots_offset += behind;
    if (of.checkpoint_offset != 0) of.checkpoint_offset += behind;
    of.name_offset += in_schema;
    of.help_offset += in_schema;
    for (std::uint32_t f = 0; f < of.field_count; ++f) {
      rankbus::bus::FieldDescriptor& each = made.field(s, f);
      for (auto* text :
           {&each.name_offset, &each.metric_offset, &each.help_offset, &each.fixed_label_offset,
            &each.fixed_value_offset, &each.domain_offset, &each.bounds_offset}) {
        *text += in_schema;
      }
    }
  }
  made.fix_hash();
  return made;
}

// C-37
TEST_F(Compat, NewerWriterAppendedToItsStructs_ItIsReadAndSaidOnce) {
  const std::string expected = totals_of_good();
  for (const auto& [header, stream, field] :
       {std::array<std::uint32_t, 3>{8, 0, 0}, {0, 16, 0}, {0, 0, 8}, {256, 48, 152}}) {
    SCOPED_TRACE(std::to_string(header) + " " + std::to_string(stream) + " " +
                 std::to_string(field));
    Image image = with_larger_descriptors(good(), header, stream, field);
    const auto reader = read(image);
    ASSERT_TRUE(reader);
    EXPECT_EQ(text_of(rankbus::extract_values(*reader)), expected);
    EXPECT_EQ(reader->dictionary_text(1), "first adapter");
    ASSERT_EQ(reader->unknown_to_this_build().size(), 1u);
  }
  std::vector<std::string> warnings;
  const auto bus_reader = open_bus(bus(), false, &warnings);
  for (int segments = 0; segments < 3; ++segments)
    with_larger_descriptors(good(), 64, 16, 16).put(bus(), "other-0-0");
  full_pass(*bus_reader);
  EXPECT_EQ(bus_reader->rejected(), 0u);
  EXPECT_EQ(bus_reader->retired_segments(), 3u);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("layout version 2, this build knows 1"), std::string::npos)
      << warnings[0];
}

// C-37
TEST_F(Compat, WhatCannotBeRead_IsRefusedWithWhatToDo) {
  const auto expect_refused = [&](const std::vector<std::string>& words, auto&& change) {
    Image image = good();
    change(image.header());
    const std::string why = refusal(image);
    for (const std::string& each : words)
      EXPECT_NE(why.find(each), std::string::npos) << "refused with: " << why;
  };
  using H = SegmentHeader&;
  const std::uint32_t mine = rankbus::bus::kLayoutVersion;
  expect_refused({"layout version " + std::to_string(mine + 1), "this build reads",
                  "Upgrade the aggregator before the producers"},
                 [&](H h) { h.layout_version = h.min_reader_version = mine + 1; });
  expect_refused({"layout version 0", "Restart the process with a rankbus of this release"},
                 [](H h) { h.layout_version = h.min_reader_version = 0; });
  expect_refused({"in the other order"}, [](H h) { h.magic = __builtin_bswap64(h.magic); });
  // A writer whose sizes have 32 bits has a smaller header, whatever it says of its version.
  expect_refused({"descriptor sizes 1024, 80 and 104, expected at least 2048, 80 and 104"},
                 [](H h) { h.header_bytes = 1024; });
  expect_refused({"descriptor sizes"}, [](H h) { h.stream_descriptor_bytes = 64; });
  expect_refused({"descriptor sizes"}, [](H h) { h.field_descriptor_bytes = 100; });
  std::vector<unsigned char> swapped = good_;
  for (std::size_t at = 0; at + 8 <= swapped.size(); at += 8)
    std::reverse(swapped.begin() + static_cast<std::ptrdiff_t>(at),
                 swapped.begin() + static_cast<std::ptrdiff_t>(at) + 8);
  Image foreign(swapped);
  EXPECT_NE(refusal(foreign).find("in the other order"), std::string::npos);
}

// C-38
TEST_F(Compat, WhatOnlyALaterBuildKnows_CostsTheFieldOrTheStream) {
  struct Unknown {
    const char* what;
    std::function<void(Image&)> change;
    bool costs_the_stream;
    const char* family;  // Of the field in question.
    const char* told;
  };
  // Stream 0: stamp, a counter, two more, and a distribution.
  const Unknown cases[] = {
      {"kind", [](Image& i) { i.field(0, 1).kind = 9; }, true, "tile_a_total",
       "stream tile: field a: kind 9 is unknown to this build, so the stream is skipped"},
      {"kind 0", [](Image& i) { i.field(0, 1).kind = 0; }, true, "tile_a_total", "kind 0"},
      {"type", [](Image& i) { i.field(0, 1).type = 7; }, true, "tile_a_total", "type 7"},
      {"huge type", [](Image& i) { i.field(0, 0).type = ~0u; }, true, "tile_a_total", "type"},
      {"unit of a counter", [](Image& i) { i.field(0, 1).unit = 6; }, false, "tile_a_total",
       "field a: unit 6 is unknown to this build, so the field is not shown"},
      {"unit of a distribution", [](Image& i) { i.field(0, 4).unit = 6; }, true, "tile_d",
       "unit 6"},
      {"reduction", [](Image& i) { i.field(0, 1).reduction = 9; }, false, "tile_a_total",
       "reduction 9"},
      {"reduction of a distribution", [](Image& i) { i.field(0, 4).reduction = 9; }, false,
       "tile_d", "reduction 9"},
      {"slot format", [](Image& i) { i.stream(0).slot_format = 2; }, true, "tile_a_total",
       "stream tile: slot format 2, this build reads 1, so the stream is skipped"},
      {"slot format with other rules",
       [](Image& i) {
         i.stream(0).slot_format = 3;
         i.stream(0).slots_offset = ~std::uint64_t{0};
         i.stream(0).slot_bytes = 7;
         i.stream(0).capacity = 0;
         i.stream(0).checkpoint_words = ~0u;
       },
       true, "tile_a_total", "slot format 3"},
  };
  Image whole = good();
  const rankbus::FieldValues all = rankbus::extract_values(*read(whole));
  for (const Unknown& unknown : cases) {
    SCOPED_TRACE(unknown.what);
    Image image = good();
    unknown.change(image);
    image.fix_hash();
    const auto reader = read(image);
    ASSERT_TRUE(reader);
    rankbus::FieldValues expected = all;
    std::erase_if(expected, [&](const auto& entry) {
      return unknown.costs_the_stream ? entry.first.first.rfind("tile_", 0) == 0
                                      : entry.first.first == unknown.family;
    });
    EXPECT_EQ(text_of(rankbus::extract_values(*reader)), text_of(expected));
    EXPECT_EQ(reader->hidden_fields(), unknown.costs_the_stream ? 5u : 1u);
    EXPECT_EQ(reader->streams()[2].published, kRecords);
    // And by a whole aggregator, which says it once for two such processes.
    Folder folder;
    std::vector<std::string> warnings;
    std::filesystem::create_directory(folder.bus());
    std::filesystem::permissions(folder.bus(), std::filesystem::perms::owner_all);
    const auto bus_reader = open_bus(folder.bus(), false, &warnings);
    ASSERT_TRUE(bus_reader);
    image.put(folder.bus(), "other-0-0");
    image.put(folder.bus(), "other-0-0");
    full_pass(*bus_reader);
    EXPECT_EQ(bus_reader->rejected(), 0u);
    EXPECT_EQ(bus_reader->retired_segments(), 2u);
    ASSERT_EQ(warnings.size(), 1u) << warnings.back();
    EXPECT_NE(warnings[0].find(unknown.told), std::string::npos) << warnings[0];
    EXPECT_NE(warnings[0].find("Upgrade the aggregator before the producers"), std::string::npos);
  }
}

TEST_F(Compat, NothingThatThisBuildKnows_IsRefusedWithTheFirstReason) {
  Image image = good();
  for (const std::uint32_t s : {0u, 1u, 2u}) image.stream(s).slot_format = 2;
  image.fix_hash();
  EXPECT_NE(refusal(image).find("slot format 2, this build reads 1, and no other stream"),
            std::string::npos);
}

// The same bytes, read by a build that knows a stream and by one that does not, in turns.
TEST_F(Compat, DowngradedAggregator_KeepsTheCountsOfAStreamThatItCannotRead) {
  rankbus::Producer producer = open_producer();
  const std::string path = bus() + "/" + producer.segment_name();
  // Its schema as a later build would have written it, and back.
  const auto set_format = [&](std::uint32_t format) {
    Image image(bytes_of_file(path));
    image.stream(0).slot_format = format;
    image.fix_hash();
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](std::uint64_t at, std::uint64_t size) {
      file.seekp(static_cast<std::streamoff>(at));
      file.write(reinterpret_cast<const char*>(image.bytes().data() + at),
                 static_cast<std::streamsize>(size));
    };
    put(0, sizeof(SegmentHeader));
    put(image.header().schema_offset, image.header().schema_bytes);
  };
  const auto look = [&](std::uint64_t& tiles, std::uint64_t& swaps) {
    rankbus::BusOptions options;
    options.directory = bus();
    options.ledger.keep = true;
    auto reader = rankbus::BusReader::open(options, [](const std::string&) {});
    ASSERT_TRUE(reader) << reader.error();
    full_pass(**reader);
    ASSERT_EQ((*reader)->live().size(), 1u);
    EXPECT_EQ((*reader)->live().begin()->second.quarantine, "");
    tiles = swaps = 0;
    for (const auto& [who, values] : rankbus::collect_values(**reader)) {
      const auto tile = values.find({"tile_d", {}});
      const auto swap = values.find({"engine_tries_total", {}});
      if (tile != values.end()) tiles += tile->second.records;
      if (swap != values.end()) swaps += swap->second.records;
    }
    (*reader)->finish(now_s());
  };
  std::uint64_t tiles = 0, swaps = 0, swaps_before = 0;
  record(producer, 10);
  look(tiles, swaps_before);
  EXPECT_EQ(tiles, 10u);
  set_format(2);
  record(producer, 10);
  look(tiles, swaps);
  EXPECT_EQ(tiles, 10u) << "as they were";
  EXPECT_GT(swaps, swaps_before);
  look(tiles, swaps);
  EXPECT_EQ(tiles, 10u) << "over another restart too";
  set_format(1);
  look(tiles, swaps);
  EXPECT_EQ(tiles, 20u);
}

// C-38
TEST_F(Compat, AnyUnknownNumbersAnywhere_CostWhatSaysThem) {
  Dice dice(test_seed());
  Image whole = good();
  const rankbus::FieldValues all = rankbus::extract_values(*read(whole));
  std::uint64_t skipped = 0, hidden = 0;
  for (std::uint64_t round = 0; round < scaled(300); ++round) {
    Image image = good();
    for (std::uint64_t changes = 1 + dice.below(3); changes > 0; --changes) {
      const auto s = static_cast<std::uint32_t>(dice.below(3));
      const auto f = static_cast<std::uint32_t>(dice.below(image.stream(s).field_count));
      const auto value = static_cast<std::uint32_t>(100 + dice.next() % 0x7fffffff);
      switch (dice.below(5)) {
        case 0:
          image.stream(s).slot_format = value;
          break;
        case 1:
          image.field(s, f).kind = value;
          break;
        case 2:
          image.field(s, f).type = value;
          break;
        case 3:
          image.field(s, f).unit = value;
          break;
        default:
          image.field(s, f).reduction = value;
      }
    }
    image.fix_hash();
    const std::string name = image.put(bus());
    const Directory directory(bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), name);
    unlink((bus() + "/" + name).c_str());
    if (!opened) {
      EXPECT_NE(opened.error().find("and no other stream"), std::string::npos) << opened.error();
      continue;
    }
    SegmentReader& reader = **opened;
    ASSERT_TRUE(read_to_end(reader));
    ASSERT_EQ(reader.error(), "");
    rankbus::FieldValues left = rankbus::extract_values(reader);
    for (const rankbus::StreamState& stream : reader.streams()) skipped += stream.schema.is_skipped;
    hidden += reader.hidden_fields();
    // Whatever is still shown is what it was; units and reductions aside, nothing was made up.
    for (const auto& [key, value] : left) {
      const auto known = all.find(key);
      ASSERT_NE(known, all.end()) << key.first;
      EXPECT_EQ(value.bits, known->second.bits) << key.first;
      EXPECT_EQ(value.cells, known->second.cells) << key.first;
    }
  }
  EXPECT_GT(skipped, 0u);
  EXPECT_GT(hidden, 0u);
}

// What every golden ledger holds, as far as its format can.
rankbus::LedgerImage golden_ledger(const rankbus::Identity& who) {
  rankbus::LedgerImage image;
  image.generation = 41;
  image.boot_id[0] = 1;
  image.written_s = 12.5;
  image.written_realtime_s = 1.7e9;
  rankbus::IdentityState state;
  rankbus::FieldValue counter;
  counter.help = "help";
  counter.bits = 1234567890123;
  counter.records = 7;
  rankbus::FieldValue seconds = counter;
  seconds.kind = Kind::distribution;
  seconds.bounds = std::make_shared<const std::vector<double>>(std::vector<double>{0.5, 1, 2.5});
  seconds.classic_cells = {2, 4, 6};
  seconds.cells = {0, 1, 2, 0, 0, 3, 0, 5, 0};
  state.retired.values = {{{"my_total", {{"kind", "a"}}}, counter}, {{"my_seconds", {}}, seconds}};
  rankbus::StreamCounts& counts = state.retired.streams["step"];
  counts.records = 12;
  counts.lost_lapped = 1;
  counts.abandoned = 2;
  counts.verified = 3;
  counts.label_overflow = 8;
  state.retired.incarnations = 3;
  state.last_alive_s = 3.25;
  state.began_realtime_s = 1.6e9;
  image.identities[who] = std::make_shared<const rankbus::IdentityState>(state);
  rankbus::LedgerIncarnation living;
  living.who = who;
  living.totals = state.retired.values;
  living.streams = {{"step", {.records = 5}}};
  image.incarnations["worker-1-2.0123456789abcdef0123456789abcdef"] =
      std::make_shared<const rankbus::LedgerIncarnation>(living);
  image.retired.insert("worker-1-2.fedcba9876543210fedcba9876543210");
  image.sections["goodput"] = "bytes";
  return image;
}

// Every format of the ledger that was ever written is read; nobody's counts begin again because the
// aggregator was upgraded.
// C-35, C-37
TEST(CompatLedger, GoldenImages_AreReadWithWhatTheyHold) {
  rankbus::Identity who;
  who.server = who.server_label = "chat";
  who.model = "llama";
  who.engine = 1;
  who.role = 3;
  who.rank = 2;
  if (updates_golden()) {
    const std::string bytes = rankbus::encode_ledger(golden_ledger(who));
    const std::filesystem::path path =
        golden("ledger") / ("format-" + std::to_string(rankbus::kLedgerFormat) + ".image");
    if (!std::filesystem::exists(path))
      std::ofstream(path) << text_of(std::vector<unsigned char>(bytes.begin(), bytes.end()));
  }
  std::set<std::uint32_t> formats;
  for (const auto& entry : std::filesystem::directory_iterator(golden("ledger"))) {
    if (entry.path().extension() != ".image") continue;
    SCOPED_TRACE(entry.path().filename().string());
    const std::vector<unsigned char> bytes = bytes_of_text(entry.path());
    ASSERT_GT(bytes.size(), 32u);
    auto image = rankbus::parse_untrusted_ledger(
        {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    ASSERT_TRUE(image) << image.error();
    formats.insert(bytes[8]);
    EXPECT_EQ(image->generation, 41u);
    const rankbus::IdentityState& state = *image->identities.at(who);
    EXPECT_EQ(state.retired.values.at({"my_total", {{"kind", "a"}}}).bits, 1234567890123u);
    const rankbus::FieldValue& seconds = state.retired.values.at({"my_seconds", {}});
    EXPECT_EQ(seconds.cells, (std::vector<std::uint64_t>{0, 1, 2, 0, 0, 3, 0, 5, 0}));
    EXPECT_EQ(*seconds.bounds, (std::vector<double>{0.5, 1, 2.5}));
    EXPECT_EQ(state.retired.incarnations, 3u);
    EXPECT_EQ(state.began_realtime_s, 1.6e9);
    const rankbus::StreamCounts& counts = state.retired.streams.at("step");
    EXPECT_EQ(counts.records, 12u);
    EXPECT_EQ(counts.lost_lapped, 1u);
    EXPECT_EQ(counts.abandoned, 2u);
    EXPECT_EQ(counts.verified, 3u);
    EXPECT_EQ(counts.label_overflow, 8u);
    const rankbus::LedgerIncarnation& living =
        *image->incarnations.at("worker-1-2.0123456789abcdef0123456789abcdef");
    EXPECT_EQ(living.streams.at(0).second.records, 5u);
    EXPECT_EQ(living.totals.size(), 2u);
    EXPECT_EQ(image->retired.count("worker-1-2.fedcba9876543210fedcba9876543210"), 1u);
    EXPECT_EQ(image->sections.at("goodput"), "bytes");
  }
  for (std::uint32_t format = 1; format <= rankbus::kLedgerFormat; ++format)
    EXPECT_EQ(formats.count(format), 1u) << "no ledger of format " << format << " is kept";
}

// C-37
TEST(CompatLedger, FormatsBeforeAndAfter_AreRefusedByTheirNumber) {
  std::string bytes = rankbus::encode_ledger({});
  for (const std::uint32_t format : {0u, rankbus::kLedgerFormat + 1, ~0u}) {
    std::memcpy(bytes.data() + 8, &format, sizeof format);
    auto image = rankbus::parse_untrusted_ledger(bytes);
    ASSERT_FALSE(image);
    EXPECT_NE(image.error().find("format " + std::to_string(format) + ", this build reads"),
              std::string::npos)
        << image.error();
  }
}

}  // namespace
}  // namespace bus_test
