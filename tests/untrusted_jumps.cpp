// Labels: threads
//
// Goal:   no word of a segment makes a reader believe in more records than time and `published`
//         allow: what runs ahead is damage, said with its numbers, and never becomes a count.
// Method: a living producer's file is changed under its reader, one word at a time, by somebody who
//         may write it; both ways of reading. Bounds of time are met from both sides by measuring
//         how long it really was.
// Replay: untrusted_jumps [--gtest_filter=...]
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::ByteAccess;
using rankbus::Producer;
using rankbus::SegmentReader;

// Fewer than the smallest ring holds, so that nothing is lost in honesty.
constexpr std::uint64_t kRecords = 40;

std::uint64_t now_ns() {
  return rankbus::bus::monotonic_ns();
}

// A living producer of tiles and marks, its reader, and a way to write into its file.
class Attacked {
 public:
  explicit Attacked(ByteAccess access) {
    if (access == ByteAccess::mapped) (void)as_the_aggregator();
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.records[1] = rankbus::record_type<llm_engine::Mark>();
    options.segment_bytes = 1;
    producer_ = Producer::open(options);
    const std::string path = folder_.bus() + "/" + producer_.segment_name();
    fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const Directory directory(folder_.bus());
    auto opened = SegmentReader::open_untrusted(directory.fd(), producer_.segment_name(), access);
    if (fd_ < 0 || !opened) std::abort();
    reader_ = std::move(opened.value());
    record(kRecords);
    reader_->poll(false, {});
    expect_totals_of(kRecords);
  }
  ~Attacked() { close(fd_); }
  Attacked(const Attacked&) = delete;
  Attacked& operator=(const Attacked&) = delete;

  void record(std::uint64_t count) {
    for (; count > 0; --count, ++written_) {
      producer_.record(tile(written_));
      producer_.record(mark(written_));
    }
  }
  SegmentReader& reader() { return *reader_; }
  const rankbus::StreamState& stream(std::size_t index) const { return reader_->streams()[index]; }
  std::uint64_t published_at(std::size_t index) const {
    return reader_->header().activity_offset + sizeof(Word) * index;
  }
  std::uint64_t slot_at(std::size_t index, std::uint64_t record) const {
    const rankbus::StreamSchema& schema = stream(index).schema;
    return schema.slots_offset + record % schema.capacity * schema.slot_bytes;
  }
  Word get(std::uint64_t offset) const {
    Word word = 0;
    EXPECT_EQ(pread(fd_, &word, sizeof word, static_cast<off_t>(offset)), 8);
    return word;
  }
  void put(std::uint64_t offset, Word word) const {
    EXPECT_EQ(pwrite(fd_, &word, sizeof word, static_cast<off_t>(offset)), 8);
  }
  void put_checkpoint(int which, const std::vector<Word>& body) const {
    const rankbus::StreamSchema& schema = stream(0).schema;
    const std::uint64_t at =
        schema.checkpoint_offset + static_cast<std::uint64_t>(which) * schema.checkpoint_stride;
    for (std::size_t word = 0; word < body.size(); ++word) put(at + 8 * (1 + word), body[word]);
  }
  // What was read before stands, and nothing else.
  void expect_totals_of(std::uint64_t records) {
    StreamModel<llm_engine::Tile> model;
    while (model.slots < records) model.add(tile(model.slots), 0);
    EXPECT_TRUE(equals_model(stream(0), model));
    EXPECT_EQ(stream(0).position, records);
    for (const rankbus::StreamState& each : reader_->streams())
      EXPECT_EQ(each.lost_lapped, 0u) << each.schema.name;
  }
  // Polls a few times; the error must come, with these words, and leave the totals alone.
  void expect_damage(const std::string& words) {
    for (int i = 0; i < 3; ++i) {
      reader_->poll(false, {});
      expect_totals_of(kRecords);
    }
    EXPECT_NE(reader_->error().find(words), std::string::npos)
        << "'" << reader_->error() << "', expected: " << words;
  }

 private:
  Folder folder_;
  Producer producer_;
  std::unique_ptr<SegmentReader> reader_;
  int fd_ = -1;
  std::uint64_t written_ = 0;
};

class Jumps : public testing::TestWithParam<ByteAccess> {};

INSTANTIATE_TEST_SUITE_P(Reader, Jumps, testing::Values(ByteAccess::mapped, ByteAccess::copied),
                         [](const auto& access) {
                           return access.param == ByteAccess::mapped ? "Mapped" : "Copied";
                         });

// C-20
TEST_P(Jumps, Malicious_PublishedAheadOfAnyTime_IsDamageWithItsNumbers) {
  for (const std::size_t stream : {std::size_t{0}, std::size_t{1}}) {
    for (const Word ahead : {Word{1} << 40, Word{1} << 62, ~Word{0} - kRecords}) {
      Attacked segment(GetParam());
      segment.put(segment.published_at(stream), kRecords + ahead);
      segment.expect_damage("`published` grew by " + std::to_string(ahead) + " in ");
      EXPECT_STREQ(segment.reader().error_kind(), "inconsistent");
    }
  }
}

// C-20
TEST_P(Jumps, Malicious_PublishedFasterThanARecordANanosecond_IsDamageAndSlowerIsNot) {
  constexpr Word kAhead = 20'000'000;
  constexpr std::uint64_t kTooSoon_ns = kAhead - 2'000'000;  // With more room than readers give.
  bool was_refused = false;
  ASSERT_TRUE(wait_until([&] {
    const std::uint64_t before = now_ns();
    Attacked segment(GetParam());
    segment.put(segment.published_at(0), kRecords + kAhead);
    segment.reader().poll(false, {});
    // A busy machine may have taken its time.
    if (now_ns() - before > kTooSoon_ns) return false;
    was_refused = segment.reader().error().find("grew by") != std::string::npos;
    return true;
  }));
  EXPECT_TRUE(was_refused) << "20 million records in less than 18 ms";

  Attacked segment(GetParam());
  const std::uint64_t then = now_ns();
  ASSERT_TRUE(wait_until([&] { return now_ns() - then > kAhead; }));
  segment.put(segment.published_at(0), kRecords + kAhead);
  segment.reader().poll(false, {});
  EXPECT_EQ(segment.reader().error().find("grew by"), std::string::npos)
      << segment.reader().error();
}

// C-20
TEST_P(Jumps, Malicious_PublishedTakenBack_IsDamage) {
  for (const Word left : {Word{0}, Word{kRecords - 1}}) {
    Attacked segment(GetParam());
    segment.put(segment.published_at(0), left);
    segment.expect_damage("`published` went back");
  }
}

// A slot of a later lap says that its record was overwritten; only `published` can prove it.
// C-20
TEST_P(Jumps, Malicious_SequenceWordAheadOfPublished_IsDamageAndNoLoss) {
  for (const std::size_t stream : {std::size_t{0}, std::size_t{1}}) {
    for (const Word laps : {Word{1}, Word{2}, Word{1000}, Word{1} << 55}) {
      for (const Word is_being_written : {Word{0}, Word{1}}) {
        Attacked segment(GetParam());
        segment.record(1);
        const std::uint64_t slot = segment.slot_at(stream, kRecords);
        const Word ahead = 2 * laps * segment.stream(stream).schema.capacity;
        segment.put(slot, segment.get(slot) + ahead - is_being_written);
        segment.reader().poll(false, {});
        const std::string wanted =
            "the slot of record " + std::to_string(kRecords) + " is ahead of what was published";
        EXPECT_NE(segment.reader().error().find(wanted), std::string::npos)
            << segment.reader().error();
        EXPECT_EQ(segment.stream(stream).lost_lapped, 0u);
        EXPECT_EQ(segment.stream(stream).position, kRecords);
      }
    }
  }
}

// C-20
TEST_P(Jumps, Malicious_SequenceWordOfAnotherSlot_IsDamage) {
  for (const Word off_by : {Word{1}, Word{2}, Word{3}, ~Word{0} - 8}) {
    Attacked segment(GetParam());
    segment.record(1);
    const std::uint64_t slot = segment.slot_at(0, kRecords);
    segment.put(slot, segment.get(slot) + off_by);
    segment.reader().poll(false, {});
    EXPECT_NE(segment.reader().error().find("its slot does not hold it"), std::string::npos)
        << off_by << ": " << segment.reader().error();
    segment.expect_totals_of(kRecords);
  }
}

// A lapped reader starts again from a checkpoint, and must not follow it beyond what there is.
// C-20
TEST_P(Jumps, Malicious_CheckpointAheadOfPublished_IsDamageAndNoLoss) {
  for (const Word records : {Word{1} << 40, Word{1} << 62, ~Word{0}}) {
    Attacked segment(GetParam());
    // More than the ring holds, as a writer at full speed would have it.
    segment.put(segment.published_at(0), kRecords + 3 * segment.stream(0).schema.capacity);
    // Totals that grow as they should, of more records than anybody made.
    std::vector<Word> body = segment.stream(0).totals;
    body[rankbus::bus::kBodyRecords] = records;
    for (const int which : {0, 1}) segment.put_checkpoint(which, body);
    segment.expect_damage("of which ");
  }
}

// The same between two looks at `published`, by a writer that lets all of its words agree.
// C-20
TEST_P(Jumps, Malicious_EverythingAheadWhileItIsRead_IsDamageAndNoLoss) {
  constexpr Word kAhead = Word{1} << 40;
  Attacked segment(GetParam());
  segment.record(20);
  // Behind the checkpoint at 48, where reading pauses.
  const std::uint64_t slot = segment.slot_at(0, 50);
  const rankbus::StreamState& stream = segment.stream(0);
  bool was_attacked = false;
  segment.reader().poll(false, [&](const rankbus::Sample& sample) {
    if (was_attacked || sample.stream.name != "tile") return;
    was_attacked = true;
    std::vector<Word> body = stream.totals;
    body[rankbus::bus::kBodyRecords] = kAhead;
    for (const int which : {0, 1}) segment.put_checkpoint(which, body);
    segment.put(segment.published_at(0), kAhead);
    segment.put(slot,
                segment.get(slot) + 2 * (kAhead / stream.schema.capacity) * stream.schema.capacity);
  });
  ASSERT_TRUE(was_attacked);
  // Who reads by copies may have had the slot before it was changed.
  if (GetParam() == ByteAccess::mapped) {
    EXPECT_NE(segment.reader().error().find("while it was read"), std::string::npos)
        << segment.reader().error();
    segment.expect_totals_of(50);
  }
  segment.reader().poll(false, {});
  EXPECT_NE(segment.reader().error().find("`published` grew by"), std::string::npos)
      << segment.reader().error();
  EXPECT_LE(stream.position, 60u);
  segment.expect_totals_of(stream.position);
}

}  // namespace
}  // namespace bus_test
