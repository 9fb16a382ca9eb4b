// Labels: threads
// Goal:   whatever lies in the bus directory, the reader refuses it with a reason, or reads it
//         without harm to itself and to the other ranks; what contradicts itself is noticed.
// Method: take a good segment's bytes, break one thing at a time, and say which sentence must come;
//         then break seeded random things, where only survival and an end are asked for.
// Replay: RANKBUS_TEST_SEED=<printed> untrusted_segment [--gtest_filter=...]
#include "segment_image.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::SegmentReader;
using rankbus::bus::SegmentHeader;
using rankbus::bus::StreamDescriptor;

constexpr std::uint64_t kRecords = 777;

// Streams of the image: 0 tile, 1 swap (labels, arrays, everything), 2 mark (samples only).
class Segments : public testing::Test {
 protected:
  void SetUp() override {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::worker);
    options.role = rankbus::Role::other;
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.records[1] = rankbus::record_type<llm_engine::Swap>();
    options.records[2] = rankbus::record_type<llm_engine::Mark>();
    options.segment_bytes = 1;
    Producer producer = Producer::open(options);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    const RecordSequence<llm_engine::Swap> swaps(1, Temper::tame);
    (void)producer.intern("first adapter");
    for (std::uint64_t n = 0; n < kRecords; ++n) {
      producer.record(tile(n));
      producer.record(swaps.call(n));
      producer.record(mark(n));
      tiles_.add_call(tile(n));
      swaps_.add_call(swaps.call(n));
    }
    const std::string path = folder_.bus() + "/" + producer.segment_name();
    producer.close();
    std::ifstream file(path, std::ios::binary);
    good_.assign(std::istreambuf_iterator<char>(file), {});
    ASSERT_GT(good_.size(), sizeof(SegmentHeader));
    unlink(path.c_str());
  }

  Image good() const { return Image(good_); }
  const std::string& bus() const { return folder_.bus(); }

  // Whether a dead segment's image gives the totals that were written; else why not.
  bool reads_right(Image& image, std::string& why) const {
    const std::string name = image.put(bus());
    const auto reader = open_segment(bus(), name);
    unlink((bus() + "/" + name).c_str());
    if (reader == nullptr) {
      why = "(refused)";
    } else if (!read_to_end(*reader)) {
      why = "(no end)";
    } else {
      why = reader->error();
    }
    return why.empty() && equals_model(*find_stream(*reader, "tile"), tiles_) &&
           equals_model(*find_stream(*reader, "swap"), swaps_);
  }

  // The sentence with which the reader refuses the file, or empty.
  std::string refusal(const std::string& name) const {
    const Directory directory(bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), name);
    return opened ? std::string() : opened.error();
  }
  // Applies a change with a valid hash, and expects these words in the refusal.
  template <class Change>
  void expect_refused(const std::string& words, Change&& change) const {
    Image image = good();
    change(image);
    image.fix_hash();
    const std::string name = image.put(bus());
    const std::string why = refusal(name);
    EXPECT_FALSE(why.empty()) << "accepted, expected: " << words;
    EXPECT_NE(why.find(words), std::string::npos)
        << "refused with: " << why << "\nexpected: " << words;
    unlink((bus() + "/" + name).c_str());
  }

  Folder folder_;
  std::vector<unsigned char> good_;
  StreamModel<llm_engine::Tile> tiles_;
  StreamModel<llm_engine::Swap> swaps_;
};

TEST_F(Segments, Unchanged_IsRead) {
  const std::string name = good().put(bus());
  const auto reader = open_segment(bus(), name);
  ASSERT_TRUE(reader && read_to_end(*reader));
  EXPECT_EQ(reader->error(), "");
  EXPECT_EQ(find_stream(*reader, "tile")->published, kRecords);
  EXPECT_EQ(reader->dictionary_text(1), "first adapter");
  EXPECT_EQ(reader->dictionary_text(0), "");
  EXPECT_EQ(reader->dictionary_text(2), "");
  EXPECT_EQ(reader->dictionary_text(~std::uint64_t{0}), "");
}

// C-23
TEST_F(Segments, NotASegment_IsRefused) {
  const auto put = [&](std::size_t size, unsigned char fill) {
    return Image(std::vector<unsigned char>(size, fill)).put(bus());
  };
  EXPECT_NE(refusal(put(0, 0)).find("bytes, expected"), std::string::npos);
  EXPECT_NE(refusal(put(2047, 'x')).find("bytes, expected"), std::string::npos);
  EXPECT_NE(refusal(put(4096, 'x')).find("not a rankbus segment"), std::string::npos);
  EXPECT_NE(refusal(put(1 << 20, 0)).find("not a rankbus segment"), std::string::npos);
  EXPECT_FALSE(refusal("worker-0-0.00000000000000000000000000000fff").empty()) << "no such file";
  // Cut off at every interesting length.
  for (const std::size_t size : {std::size_t{2048}, std::size_t{2175}, std::size_t{2176},
                                 std::size_t{3000}, good_.size() / 2, good_.size() - 1}) {
    Image image(std::vector<unsigned char>(good_.begin(),
                                           good_.begin() + static_cast<std::ptrdiff_t>(size)));
    EXPECT_NE(refusal(image.put(bus())).find("its header says"), std::string::npos) << size;
  }
}

// Two files of one incarnation would count twice, and one under another's name would go on where
// that one was read.
TEST_F(Segments, CopiedOrRenamed_IsRefused) {
  const std::string name = good().put(bus());
  const std::string other = "worker-0-0." + std::string(32, 'e');
  std::filesystem::copy_file(bus() + "/" + name, bus() + "/" + other);
  EXPECT_EQ(refusal(name), "");
  EXPECT_NE(refusal(other).find("renamed or copied"), std::string::npos) << refusal(other);
}

// C-22
TEST_F(Segments, OtherThanARegularFileOfItsOwn_IsRefused) {
  const std::string path = bus() + "/worker-0-0.";
  const auto name = [](int n) { return "worker-0-0." + std::string(31, 'a') + std::to_string(n); };
  ASSERT_EQ(mkfifo((bus() + "/" + name(0)).c_str(), 0600), 0);
  EXPECT_NE(refusal(name(0)).find("not a regular file"), std::string::npos) << "and must not block";
  ASSERT_EQ(mkdir((bus() + "/" + name(1)).c_str(), 0700), 0);
  EXPECT_NE(refusal(name(1)).find("not a regular file"), std::string::npos);
  const std::string target = good().put(bus());
  ASSERT_EQ(symlink(target.c_str(), (bus() + "/" + name(2)).c_str()), 0);
  EXPECT_FALSE(refusal(name(2)).empty());
  ASSERT_EQ(link((bus() + "/" + target).c_str(), (bus() + "/" + name(3)).c_str()), 0);
  EXPECT_NE(refusal(name(3)).find("several names"), std::string::npos);
  // A hole is a page that may not be there when it is touched.
  const std::string sparse = bus() + "/" + name(4);
  {
    std::ofstream file(sparse, std::ios::binary);
    file.write(reinterpret_cast<const char*>(good_.data()), 4096);
  }
  ASSERT_EQ(truncate(sparse.c_str(), static_cast<off_t>(good_.size())), 0);
  EXPECT_NE(refusal(name(4)).find("holes"), std::string::npos);
  ASSERT_EQ(truncate(sparse.c_str(), (std::int64_t{64} << 20) + 1), 0);
  EXPECT_NE(refusal(name(4)).find("bytes, expected"), std::string::npos);
  const std::string open_to_all = good().put(bus());
  ASSERT_EQ(chmod((bus() + "/" + open_to_all).c_str(), 0666), 0);
  EXPECT_NE(refusal(open_to_all).find("every user may write"), std::string::npos);
}

// C-22, C-26
TEST_F(Segments, OfAnotherUser_IsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can make files of other users";
  const std::string foreign = good().put(bus());
  ASSERT_EQ(chown((bus() + "/" + foreign).c_str(), 12345, 12345), 0);
  ASSERT_EQ(chmod((bus() + "/" + foreign).c_str(), 0644), 0);
  const std::string roots = good().put(bus());
  ASSERT_EQ(chmod((bus() + "/" + roots).c_str(), 0644), 0);
  ASSERT_EQ(chmod(bus().c_str(), 0755), 0);
  ASSERT_EQ(chmod(folder_.path().c_str(), 0755), 0);
  EXPECT_EQ(in_child([&] {
              if (setegid(54321) != 0 || seteuid(54321) != 0) return 1;
              const std::string why = refusal(foreign);
              if (why.find("owned by uid 12345") == std::string::npos) return 2;
              return refusal(roots).empty() ? 0 : 3;
            }),
            0);
}

// C-23, C-37
TEST_F(Segments, BrokenHeader_IsRefused) {
  using I = Image&;
  expect_refused("magic", [](I i) { i.header().magic ^= 1; });
  expect_refused("layout version", [](I i) { i.header().min_reader_version = 2; });
  expect_refused("layout version", [](I i) { i.header().layout_version = 0; });
  expect_refused("descriptor sizes", [](I i) { i.header().header_bytes = 2047; });
  expect_refused("descriptor sizes", [](I i) { i.header().header_bytes = ~0u; });
  expect_refused("its header says", [](I i) { i.header().segment_bytes += 4096; });
  expect_refused("its header says", [](I i) { i.header().segment_bytes = ~std::uint64_t{0}; });
  expect_refused("role or clock", [](I i) { i.header().role = 0; });
  expect_refused("role or clock", [](I i) { i.header().role = 5; });
  expect_refused("role or clock", [](I i) { i.header().kv_role = 4; });
  expect_refused("role or clock", [](I i) { i.header().clock_domain = 3; });
  expect_refused("role or clock", [](I i) { i.header().clock_source = 0; });
  expect_refused("axes or groups", [](I i) { i.header().axis_count = 9; });
  expect_refused("axes or groups", [](I i) { i.header().group_count = ~0u; });
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{2044}, std::uint64_t{2052}, std::uint64_t{1} << 40,
        ~std::uint64_t{7}, ~std::uint64_t{0}}) {
    expect_refused("status lies outside", [&](I i) { i.header().status_offset = offset; });
    expect_refused("activity lies outside", [&](I i) { i.header().activity_offset = offset; });
    expect_refused("dictionary lies outside", [&](I i) { i.header().dictionary_offset = offset; });
  }
  expect_refused("dictionary lies outside", [](I i) { i.header().dictionary_entries = ~0u; });
  expect_refused("dictionary lies outside", [](I i) { i.header().dictionary_text_bytes = ~0u; });
}

TEST_F(Segments, BrokenHeader_WithoutAHashToMatch_IsRefused) {
  const auto refuses = [&](const std::string& words, auto&& change) {
    Image image = good();
    change(image.header());
    const std::string why = refusal(image.put(bus()));
    EXPECT_NE(why.find(words), std::string::npos)
        << "refused with: " << why << "\nexpected: " << words;
  };
  using H = SegmentHeader&;
  refuses("schema lies outside", [](H h) { h.schema_offset = ~std::uint64_t{7}; });
  refuses("schema lies outside", [](H h) { h.schema_offset = 1024; });
  refuses("schema lies outside", [](H h) { h.schema_bytes = 0; });
  refuses("schema lies outside", [](H h) { h.schema_bytes = 65537; });
  refuses("schema lies outside", [](H h) { h.schema_bytes = ~std::uint64_t{0}; });
  refuses("hash", [](H h) { h.schema_hash ^= 1; });
  refuses("hash", [](H h) { h.schema_bytes -= 8; });
  refuses("hash", [](H h) { h.schema_offset += 8; });
  refuses("stream count", [](H h) { h.stream_count = 0; });
  refuses("stream count", [](H h) { h.stream_count = 65; });
  refuses("stream count", [](H h) { h.stream_count = ~0u; });
  for (const std::uint32_t bytes : {0u, 79u, 4097u, ~0u}) {
    refuses("descriptor sizes", [&](H h) { h.stream_descriptor_bytes = bytes; });
    refuses("descriptor sizes", [&](H h) { h.field_descriptor_bytes = bytes; });
  }
}

// C-23
TEST_F(Segments, BrokenStream_IsRefused) {
  using I = Image&;
  for (const std::uint32_t capacity :
       {0u, 1u, 63u, 65u, 32u, (1u << 20) + 1, 1u << 21, 1u << 31, ~0u}) {
    expect_refused("capacity", [&](I i) { i.stream(0).capacity = capacity; });
  }
  for (const std::uint32_t bytes : {0u, 24u, 36u, 4104u, 1u << 31, ~0u}) {
    expect_refused("slot size", [&](I i) { i.stream(0).slot_bytes = bytes; });
  }
  // Unknown to this build is not broken: untrusted_compat.cpp.
  expect_refused("slot format 2, this build reads 1, and no other", [](I i) {
    for (const std::uint32_t s : {0u, 1u, 2u}) i.stream(s).slot_format = 2;
  });
  // Streams that overlap each other, the header, the schema, or leave the file.
  expect_refused("overlap", [](I i) { i.stream(1).slots_offset = i.stream(0).slots_offset; });
  expect_refused("overlap", [](I i) { i.stream(1).slots_offset = i.stream(0).slots_offset + 8; });
  expect_refused("overlap", [](I i) { i.stream(0).slots_offset = 0; });
  expect_refused("overlap", [](I i) { i.stream(0).slots_offset = i.header().schema_offset; });
  expect_refused("overlap", [](I i) { i.stream(0).slots_offset = i.header().status_offset; });
  expect_refused("overlap", [](I i) { i.stream(0).checkpoint_offset = i.stream(0).slots_offset; });
  expect_refused("overlap",
                 [](I i) { i.stream(1).checkpoint_offset = i.stream(0).checkpoint_offset; });
  for (const std::uint64_t offset :
       {~std::uint64_t{0}, ~std::uint64_t{7}, std::uint64_t{1} << 40, good_.size() - 8}) {
    expect_refused("outside the segment", [&](I i) { i.stream(0).slots_offset = offset; });
    expect_refused("outside the segment", [&](I i) { i.stream(0).checkpoint_offset = offset; });
  }
  expect_refused("outside the segment", [](I i) { i.stream(2).slots_offset += 4; });
  expect_refused("outside the segment", [](I i) { i.stream(2).capacity = 1 << 20; });
  expect_refused("checkpoint offset", [](I i) { i.stream(0).checkpoint_offset = 0; });
  expect_refused("size of totals", [](I i) { i.stream(0).checkpoint_words += 1; });
  expect_refused("size of totals", [](I i) { i.stream(0).checkpoint_words = ~0u; });
  expect_refused("size of totals", [](I i) { i.stream(1).label_rows = 256; });
  expect_refused("label rows", [](I i) { i.stream(1).label_rows = 257; });
  expect_refused("label rows", [](I i) { i.stream(1).label_rows = 0; });
  expect_refused("label rows", [](I i) { i.stream(0).label_rows = 1; });
  expect_refused("field count", [](I i) { i.stream(0).field_count = 0; });
  expect_refused("field count", [](I i) { i.stream(0).field_count = 65; });
  expect_refused("shorter than its descriptors", [](I i) { i.stream(0).first_field = 1 << 20; });
  expect_refused("shorter than its descriptors", [](I i) { i.stream(0).first_field = ~0u; });
  expect_refused("part offset", [](I i) { i.stream(1).part_offset = 1; });
  expect_refused("part offset", [](I i) { i.stream(1).part_offset = i.stream(1).slot_bytes - 8; });
  expect_refused("text of a stream name", [](I i) { i.stream(0).name_offset = ~0u; });
  expect_refused("text of a stream name", [](I i) { i.stream(0).name_bytes = 129; });
  expect_refused("stream's name", [](I i) { i.stream(0).name_bytes = 0; });
  expect_refused("stream's name", [](I i) { *i.schema(i.stream(0).name_offset) = '"'; });
  expect_refused("text of a stream help", [](I i) { i.stream(0).help_bytes = 513; });
  expect_refused("not UTF-8", [](I i) { *i.schema(i.stream(0).help_offset) = 0xff; });
}

// C-23
TEST_F(Segments, BrokenField_IsRefused) {
  using I = Image&;
  expect_refused("outside its slot",
                 [](I i) { i.field(0, 1).slot_offset = i.stream(0).slot_bytes - 8; });
  expect_refused("outside its slot", [](I i) { i.field(0, 1).slot_offset = ~7u; });
  expect_refused("outside its slot", [](I i) { i.field(0, 1).slot_offset += 4; });
  expect_refused("array capacity", [](I i) { i.field(0, 1).capacity = 0; });
  expect_refused("array capacity", [](I i) { i.field(0, 1).capacity = ~0u; });
  expect_refused("outside its slot", [](I i) { i.field(0, 1).capacity = 512; });
  expect_refused("array without a count", [](I i) { i.field(0, 1).capacity = 2; });
  const std::uint32_t latencies = llm_engine::Swap::RankbusRecord::i_latencies;
  expect_refused("array without a count", [&](I i) { i.field(1, latencies).count_offset = 1; });
  expect_refused("array without a count", [&](I i) { i.field(1, latencies).count_offset = ~1u; });
  expect_refused("split by a label", [](I i) { i.field(0, 1).by_labels = 1; });
  expect_refused("split by a label", [](I i) { i.field(1, 1).by_labels = 1u << 31; });
  expect_refused("index of what is no array", [](I i) { i.field(0, 1).index_count = 1; });
  expect_refused("info that is no exposed array", [](I i) { i.field(0, 1).kind = 8; });
  expect_refused("bounds lie outside", [](I i) { i.field(0, 4).bounds_count = 513; });
  expect_refused("bounds lie outside", [](I i) { i.field(0, 4).bounds_offset = ~7u; });
  expect_refused("bounds must be", [](I i) { i.field(0, 4).native_first = 100; });
  expect_refused("bounds must be", [](I i) { i.field(0, 4).native_last = 1 << 30; });
  expect_refused("bounds must be", [](I i) { i.field(0, 4).native_first = -(1 << 30); });
  for (const double bad : {0.0, -1.0, 1e300, std::nan(""), HUGE_VAL}) {
    expect_refused("bounds must be", [&](I i) {
      std::memcpy(i.schema(i.field(0, 4).bounds_offset), &bad, sizeof bad);
    });
  }
  expect_refused("name has characters", [](I i) { *i.schema(i.field(0, 1).name_offset) = ' '; });
  expect_refused("name has characters", [](I i) { *i.schema(i.field(0, 1).name_offset) = '7'; });
  expect_refused("metric name", [](I i) { *i.schema(i.field(0, 1).metric_offset) = '{'; });
  expect_refused("text of a metric", [](I i) { i.field(0, 1).metric_bytes = ~0u; });
  expect_refused("help is not UTF-8", [](I i) { *i.schema(i.field(0, 1).help_offset) = 0xc0; });
  expect_refused("label name", [](I i) { *i.schema(i.field(1, 1).metric_offset) = ':'; });
  expect_refused("domain", [](I i) { i.field(1, 1).domain_bytes = ~0u; });
  expect_refused("domain", [](I i) { *i.schema(i.field(1, 1).domain_offset) = 0x80; });
}

// Reads a dead segment's image; the error that the reader comes to, or "(no end)".
std::string contradiction(const std::string& bus, Image& image) {
  const std::string name = image.put(bus);
  const auto reader = open_segment(bus, name);
  if (reader == nullptr) return "(refused)";
  if (!read_to_end(*reader)) return "(no end)";
  unlink((bus + "/" + name).c_str());
  return reader->error();
}

// A flipped bit is either noticed, or of a value that later records replaced anyway.
TEST_F(Segments, OneBitOfACheckpointFlipped_IsNoticed) {
  Dice dice(test_seed());
  std::uint64_t noticed = 0;
  for (std::uint64_t round = 0; round < scaled(400); ++round) {
    Image image = good();
    const auto stream = static_cast<std::uint32_t>(dice.below(2));
    const int which = static_cast<int>(dice.below(2));
    // Not the version word, which only says that another checkpoint must do, and not the number of
    // records, which moves the checkpoint elsewhere.
    const std::uint64_t word = 2 + dice.below(image.stream(stream).checkpoint_words - 1);
    const std::uint64_t bit = dice.below(64);
    image.checkpoint(stream, which)[word] ^= std::uint64_t{1} << bit;
    std::string why;
    const bool right = reads_right(image, why);
    EXPECT_TRUE(right || why.find("disagrees") != std::string::npos ||
                why.find("label rows") != std::string::npos)
        << "stream " << stream << ", checkpoint " << which << ", word " << word << ", bit " << bit
        << ": " << why;
    noticed += right ? 0u : 1u;
  }
  EXPECT_GT(noticed * 10, scaled(400) * 9);
}

// C-20
TEST_F(Segments, ImpossibleCheckpoints_EndInAContradiction) {
  const auto ends = [&](const char* what, auto&& change) {
    Image image = good();
    change(image);
    const std::string why = contradiction(bus(), image);
    EXPECT_NE(why, "(no end)") << what;
    EXPECT_NE(why, "(refused)") << what;
    EXPECT_NE(why, "") << what;
  };
  using I = Image&;
  ends("no whole checkpoint, ring wrapped", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(0, which)[0] |= 1;
  });
  ends("never a checkpoint, ring wrapped", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(0, which)[0] = 0;
  });
  ends("checkpoints far ahead of what was published", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(0, which)[1] = ~std::uint64_t{0};
  });
  ends("newest checkpoint one record ahead",
       [](I i) { i.checkpoint(0, i.newest_checkpoint(0))[1] = kRecords + 1; });
  ends("checkpoints behind the ring", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(0, which)[1] = 1;
  });
  ends("more rows than there are", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(1, which)[1 + 4] = 33;
  });
  ends("no rows", [](I i) {
    for (const int which : {0, 1}) i.checkpoint(1, which)[1 + 4] = 0;
  });
  ends("published far ahead", [](I i) { *i.published(0) = ~std::uint64_t{0}; });
  ends("numbers at their end", [](I i) {
    *i.published(0) = ~std::uint64_t{0} - 5;
    for (const int which : {0, 1}) i.checkpoint(0, which)[1] = ~std::uint64_t{0} - 20;
  });
  ends("published one ahead", [](I i) { *i.published(0) += 1; });
  ends("published far ahead, samples only", [](I i) { *i.published(2) = std::uint64_t{1} << 62; });
  ends("published back at the start", [](I i) { *i.published(0) = 0; });
  ends("a published slot never written", [](I i) {
    for (Word n = 0; n < i.stream(0).capacity; ++n) *i.slot(0, n) = 0;
    for (const int which : {0, 1}) i.checkpoint(0, which)[1] = kRecords - 10;
  });
  ends("a sample's slot of another ring", [](I i) { *i.slot(2, kRecords - 1) += 2; });
}

// A page of a checkpoint that was lost is zeros, which are totals like any others.
// C-24
TEST_F(Segments, LaterCheckpointWithLessInIt_IsNotTaken) {
  Image image = good();
  const std::string name = image.put(bus());
  const auto reader = open_segment(bus(), name);
  ASSERT_TRUE(reader);
  const rankbus::StreamState& stream = reader->streams()[0];
  ASSERT_GT(stream.position, 0u);
  const std::vector<Word> before = stream.totals;
  // The reader is lapped, so that only a checkpoint can help.
  const Word published = *image.published(0) + 10 * stream.schema.capacity;
  *image.published(0) = published;
  for (const int which : {0, 1}) {
    Word* checkpoint = image.checkpoint(0, which);
    checkpoint[0] += 2;
    checkpoint[1] = published;
    std::fill(checkpoint + 1 + rankbus::bus::kBodyHeadWords,
              checkpoint + 1 + image.stream(0).checkpoint_words, 0);
  }
  std::fstream file(bus() + "/" + name, std::ios::binary | std::ios::in | std::ios::out);
  file.write(reinterpret_cast<const char*>(image.bytes().data()),
             static_cast<std::streamsize>(image.bytes().size()));
  file.close();
  reader->poll(true, {});
  EXPECT_NE(reader->error().find("totals went back"), std::string::npos) << reader->error();
  EXPECT_EQ(stream.totals, before);
}

// A dead writer leaves at most one checkpoint broken, which costs nothing.
TEST_F(Segments, OneCheckpointHalfWritten_TotalsAreWholeAllTheSame) {
  for (const int which : {0, 1}) {
    Image image = good();
    // Closing wrote the newest at the very end; the writer died inside either of them.
    image.checkpoint(0, which)[0] |= 1;
    for (Word w = 1; w < 5; ++w) image.checkpoint(0, which)[w] = ~Word{0};
    std::string why;
    EXPECT_TRUE(reads_right(image, why)) << why;
  }
}

// C-19
TEST_F(Segments, RandomDamage_IsSurvivedAndEnds) {
  Dice dice(test_seed() + 1);
  std::uint64_t refused = 0, contradicted = 0, read = 0;
  const std::uint64_t rounds = scaled(4000);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    Image image = good();
    const SegmentHeader header = image.header();
    // Mostly where structure lies; sometimes anywhere.
    const std::uint64_t ends[] = {sizeof(SegmentHeader), header.schema_offset,
                                  header.schema_offset + header.schema_bytes,
                                  header.dictionary_offset + 4096, good_.size()};
    const std::uint64_t end = ends[dice.below(5)];
    for (std::uint64_t changes = 1 + dice.below(6); changes > 0; --changes) {
      const std::uint64_t at = dice.below(end);
      unsigned char* byte = &image.bytes()[at];
      switch (dice.below(4)) {
        case 0:
          *byte ^= static_cast<unsigned char>(1u << dice.below(8));
          break;
        case 1:
          *byte = static_cast<unsigned char>(dice.next());
          break;
        default: {
          const Word values[] = {0, ~Word{0}, dice.next(), dice.next() >> dice.below(64),
                                 std::uint64_t{1} << dice.below(64)};
          const Word value = values[dice.below(5)];
          const std::size_t bytes = dice.one_in(2) ? 4 : 8;
          const std::uint64_t aligned = at / bytes * bytes;
          if (aligned + bytes <= image.bytes().size())
            std::memcpy(&image.bytes()[aligned], &value, bytes);
        }
      }
    }
    if (image.header().schema_offset == header.schema_offset &&
        image.header().schema_bytes == header.schema_bytes && !dice.one_in(4)) {
      image.fix_hash();
    }
    const std::string name = image.put(bus());
    const Directory directory(bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), name);
    unlink((bus() + "/" + name).c_str());
    if (!opened) {
      ++refused;
      EXPECT_FALSE(opened.error().empty());
      continue;
    }
    SegmentReader& reader = *opened.value();
    ASSERT_TRUE(read_to_end(reader)) << "round " << round << ": " << reader.error();
    (void)rankbus::extract_values(reader);
    for (std::uint64_t entry = 0; entry < 300; ++entry) (void)reader.dictionary_text(entry);
    ++(reader.error().empty() ? read : contradicted);
  }
  std::printf("%llu damaged: %llu refused, %llu contradicted themselves, %llu read\n",
              static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(refused),
              static_cast<unsigned long long>(contradicted), static_cast<unsigned long long>(read));
  EXPECT_GT(refused, 0u);
  EXPECT_GT(contradicted, 0u);
}

// Everything above at once, beside a rank that is fine.
TEST_F(Segments, AmongRubbish_TheOtherRanksFlow) {
  Image broken = good();
  broken.checkpoint(0, broken.newest_checkpoint(0))[2 + 5] ^= 1;
  const std::string quarantined = broken.put(bus());
  Image later = good();
  later.header().min_reader_version = later.header().layout_version = 9;
  const std::string newer = later.put(bus());
  const std::string junk = Image(std::vector<unsigned char>(4096, 'x')).put(bus());
  ASSERT_EQ(mkfifo((bus() + "/worker-0-1." + std::string(32, 'f')).c_str(), 0600), 0);
  std::ofstream(bus() + "/notes.txt") << "not ours";

  rankbus::OpenOptions options = options_for(bus(), rankbus::Role::other);
  options.rank = 7;
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  Producer producer = Producer::open(options);
  const std::string fine = producer.segment_name();
  std::vector<std::string> warnings;
  const auto reader = open_bus(bus(), false, &warnings);
  ASSERT_TRUE(reader);
  StreamModel<llm_engine::Tile> model;
  for (int pass = 0; pass < 5; ++pass) {
    for (std::uint64_t n = 0; n < 10; ++n) {
      model.add(tile(model.slots), 0);
      producer.record(tile(model.slots - 1));
    }
    full_pass(*reader);
  }
  ASSERT_EQ(reader->live().count(fine), 1u);
  EXPECT_TRUE(equals_model(reader->live().at(fine).reader->streams()[0], model));
  EXPECT_EQ(reader->rejected(), 3u);
  ASSERT_EQ(reader->live().count(quarantined), 1u);
  const rankbus::LiveSegment& bad = reader->live().at(quarantined);
  EXPECT_NE(bad.quarantine.find("disagrees"), std::string::npos) << bad.quarantine;
  EXPECT_EQ(rankbus::counts_of(*find_stream(*bad.reader, "tile")).mismatches, 1u);
  EXPECT_EQ(warnings.size(), 4u) << "each is said once";
  const auto mentions = [&](const std::string& name) {
    return std::count_if(warnings.begin(), warnings.end(), [&](const std::string& text) {
      return text.find(name) != std::string::npos;
    });
  };
  EXPECT_EQ(mentions(quarantined), 1);
  EXPECT_EQ(mentions(newer), 1);
  EXPECT_EQ(mentions(junk), 1);
  // What could not be read stays for people.
  const std::set<std::string> left = Directory(bus()).segments();
  for (const std::string& name : {quarantined, newer, junk})
    EXPECT_EQ(left.count(name), 1u) << name;
}

}  // namespace
}  // namespace bus_test
