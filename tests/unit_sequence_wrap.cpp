// Goal:   record numbers, counters and status words stay exact to the ends of their 64 bits; where
// a
//         number cannot be told from nothing any more, the segment is read no further, with the
//         reason and with the totals up to there, and a reader that comes later goes on behind it.
// Method: the code that workers run, set forward to a record number as if it had written all
// before;
//         the reader of the aggregator beside it, and after its end.
// Replay: unit_sequence_wrap [--gtest_filter=...]
#include <rankbus/aggregator/reduce.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <rankbus/producer/producer_dynamic.hpp>

#include "segment_image.hpp"

namespace bus_test {
namespace {

using llm_engine::Mark;
using llm_engine::Tile;
using rankbus::DynamicWriter;
using rankbus::Producer;
using rankbus::SegmentReader;

// The one record whose word, 2n+2, is 0 when it is whole.
constexpr std::uint64_t kWordIsZero = (std::uint64_t{1} << 63) - 1;
static_assert(rankbus::bus::word_when_whole(kWordIsZero) == 0);

constexpr std::uint64_t kCapacity = 64;

// A rank whose two streams, with totals and without, begin at any record number.
class Rank {
 public:
  Rank(const std::string& bus, std::uint64_t first) : first_(first), next_(first) {
    rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
    options.rank = 0;
    options.segment_bytes = 1;
    // On a real clock nobody believes so many records of so young a process.
    options.clock = rankbus::ClockDomain::virtual_time;
    options.records[0] = rankbus::record_type<Tile>();
    options.records[1] = rankbus::record_type<Mark>();
    producer_ = Producer::open(options);
    EXPECT_FALSE(producer_.inert()) << producer_.reason();
    set_forward(*rankbus::record_type<Tile>());
    set_forward(*rankbus::record_type<Mark>());
  }
  void record(std::uint64_t records) {
    for (std::uint64_t n = 0; n < records; ++n) {
      const std::uint64_t call = next_ - first_;
      producer_.record(tile(call));
      producer_.record(mark(call));
      model_.add_call(tile(call));
      ++next_;
    }
  }
  // As a kill between its two words leaves the next record of either stream.
  void begin_next() {
    const rankbus::bus::ProcessMemory memory;
    for (const auto* type : {rankbus::record_type<Tile>(), rankbus::record_type<Mark>()})
      rankbus::bus::begin_slot(memory, slot_of(*type, next_), next_);
  }
  Word* slot_of(const rankbus::bus::RecordType& type, std::uint64_t record) {
    const auto* stream = DynamicWriter::stream_of(producer_, type);
    return stream->slots + (record & stream->mask) * stream->slot_words;
  }
  // What the totals must be now.
  std::vector<Word> totals() const {
    std::vector<Word> body = model_.body;
    body[rankbus::bus::kBodyRecords] = next_;
    return body;
  }
  std::uint64_t next() const { return next_; }
  std::string name() const { return producer_.segment_name(); }
  void close() { producer_.close(); }

 private:
  // As if all records before had been written, with nothing in them.
  void set_forward(const rankbus::bus::RecordType& type) const {
    auto* stream = DynamicWriter::stream_of(const_cast<Producer&>(producer_), type);
    const rankbus::bus::ProcessMemory memory;
    EXPECT_EQ(stream->mask, kCapacity - 1);
    for (std::uint64_t record = first_ - kCapacity; first_ != 0 && record != first_; ++record) {
      Word* slot = stream->slots + (record & stream->mask) * stream->slot_words;
      memory.store_whole(slot, rankbus::bus::word_when_whole(record));
    }
    stream->next_record = first_;
    memory.store_published(stream->published, first_);
    if (stream->body == nullptr) return;
    stream->body[rankbus::bus::kBodyRecords] = first_;
    stream->checkpoint_at = first_ + stream->checkpoint_every;
    rankbus::bus::write_checkpoint(memory, stream->checkpoints[stream->older], stream->body,
                                   stream->plan->body_words);
    stream->older ^= 1;
  }

  Producer producer_;
  std::uint64_t first_, next_;
  StreamModel<Tile> model_;
};

// Counts the samples of both streams, and sees that each is the one of its number.
struct Samples {
  std::uint64_t first = 0;
  std::uint64_t seen[2] = {};
  rankbus::SampleSink sink() {
    return [this](const rankbus::Sample& sample) {
      const bool is_mark = sample.stream.name == "mark";
      ++seen[is_mark ? 1 : 0];
      const std::uint64_t call = sample.number - first;
      // What was there before it began has nothing in it.
      if (call > ~std::uint64_t{0} / 2) return;
      EXPECT_EQ(sample.raw(0), call + 1) << sample.number;
      if (is_mark) {
        EXPECT_EQ(sample.raw(1), mixed(call)) << sample.number;
      }
    };
  }
};

class WrapNear : public testing::TestWithParam<std::uint64_t> {};

// C-32
TEST_P(WrapNear, FollowedLappedAndDead_IsExact) {
  const Folder folder;
  Rank rank(folder.bus(), GetParam());
  Samples samples{GetParam()};
  const auto reader = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(reader);
  const rankbus::StreamState& tiles = reader->streams()[0];
  const rankbus::StreamState& marks = reader->streams()[1];
  for (int burst = 0; burst < 40; ++burst) {
    rank.record(7);
    reader->poll(false, samples.sink());
    ASSERT_EQ(reader->error(), "");
    ASSERT_EQ(tiles.position, rank.next());
    ASSERT_EQ(tiles.totals, rank.totals());
  }
  EXPECT_GE(samples.seen[0], 40u * 7);
  EXPECT_EQ(tiles.lost_lapped + marks.lost_lapped, 0u);
  EXPECT_GT(tiles.verified, 0u);
  // Lapped, more than once over.
  rank.record(3 * kCapacity + 5);
  for (int poll = 0; poll < 4; ++poll) reader->poll(false, samples.sink());
  ASSERT_EQ(reader->error(), "");
  EXPECT_EQ(tiles.totals, rank.totals());
  EXPECT_GT(tiles.lost_lapped, 0u);
  EXPECT_GT(marks.lost_lapped, 0u);
  EXPECT_EQ(samples.seen[1] + marks.lost_lapped, rank.next() - marks.first_position);
  // Its end, inside a record; by the one who followed, and by one who comes now.
  rank.record(3);
  rank.begin_next();
  const std::string name = rank.name();
  rank.close();
  const auto late = open_segment(folder.bus(), name);
  ASSERT_TRUE(late);
  for (SegmentReader* each : {reader.get(), late.get()}) {
    ASSERT_TRUE(read_to_end(*each));
    EXPECT_EQ(each->error(), "");
    EXPECT_EQ(each->streams()[0].totals, rank.totals());
    EXPECT_EQ(each->streams()[0].abandoned, 1u);
    EXPECT_EQ(each->streams()[1].abandoned, 1u);
    EXPECT_EQ(each->streams()[1].position, rank.next());
    EXPECT_EQ(each->streams()[0].mismatches, 0u);
  }
}

// C-20, C-32
TEST_P(WrapNear, SlotOfARecordThatIsNotItsOwn_IsAContradiction) {
  for (const std::uint64_t off : {std::uint64_t{1}, kCapacity - 1, ~std::uint64_t{0}}) {
    const Folder folder;
    Rank rank(folder.bus(), GetParam());
    rank.record(20);
    const std::uint64_t damaged = rank.next() - 2;  // Behind the newest checkpoint.
    *rank.slot_of(*rankbus::record_type<Tile>(), damaged) =
        rankbus::bus::word_when_whole(damaged + off);
    const auto reader = open_segment(folder.bus(), rank.name());
    ASSERT_TRUE(reader);
    reader->poll(false, {});
    EXPECT_NE(reader->error().find("record " + std::to_string(damaged)), std::string::npos)
        << reader->error();
    EXPECT_LE(reader->streams()[0].position, damaged);
  }
}

// Where bits 32, 53 and 63 of a word change, on both sides of the record that cannot be told, and
// up to the last ones of all.
INSTANTIATE_TEST_SUITE_P(Positions, WrapNear,
                         testing::Values(0, (std::uint64_t{1} << 31) - 300,
                                         (std::uint64_t{1} << 32) - 300,
                                         (std::uint64_t{1} << 53) - 300,
                                         (std::uint64_t{1} << 62) - 300, kWordIsZero - 600,
                                         kWordIsZero + 1 + kCapacity, ~std::uint64_t{0} - 600));

// C-32
TEST(SequenceWrap, RecordWhoseWordIsZero_EndsTheReadingAndALaterReaderGoesOnBehindIt) {
  const Folder folder;
  Rank rank(folder.bus(), kWordIsZero - 50);
  const auto reader = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(reader);
  rank.record(50);
  reader->poll(false, {});
  ASSERT_EQ(reader->error(), "");
  EXPECT_EQ(reader->streams()[0].position, kWordIsZero);
  const std::vector<Word> before = rank.totals();
  EXPECT_EQ(reader->streams()[0].totals, before);
  rank.record(3);
  reader->poll(false, {});
  EXPECT_NE(reader->error().find("record 9223372036854775807 was published, but its slot does not "
                                 "hold it"),
            std::string::npos)
      << reader->error();
  EXPECT_EQ(reader->streams()[0].totals, before) << "what it had stays";
  // A checkpoint later the segment is as good as any.
  rank.record(2 * kCapacity);
  const auto later = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(later);
  rank.record(10);
  later->poll(false, {});
  EXPECT_EQ(later->error(), "");
  EXPECT_EQ(later->streams()[0].totals, rank.totals());
  EXPECT_EQ(later->streams()[0].position, rank.next());
}

// C-20, C-32
TEST(SequenceWrap, RecordNumbersComeToTheirEnd_NoSumIsBent) {
  const Folder folder;
  Rank rank(folder.bus(), ~std::uint64_t{0} - 50);
  const auto reader = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(reader);
  rank.record(50);
  reader->poll(false, {});
  ASSERT_EQ(reader->error(), "");
  EXPECT_EQ(reader->streams()[0].position, ~std::uint64_t{0});
  const std::vector<Word> before = reader->streams()[0].totals;
  EXPECT_EQ(before, rank.totals());
  // The writer does not notice, and the reader does.
  rank.record(30);
  EXPECT_EQ(rank.next(), 29u);
  reader->poll(false, {});
  EXPECT_NE(reader->error().find("`published` went back"), std::string::npos) << reader->error();
  EXPECT_EQ(reader->streams()[0].totals, before);
  // With checkpoints from before and behind the end nobody can say which is newer.
  const auto between = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(between);
  between->poll(false, {});
  EXPECT_TRUE(!between->error().empty() || between->streams()[0].totals == rank.totals())
      << between->streams()[0].position;
  rank.record(3 * kCapacity);
  const auto later = open_segment(folder.bus(), rank.name());
  ASSERT_TRUE(later);
  rank.record(10);
  later->poll(false, {});
  EXPECT_EQ(later->error(), "");
  EXPECT_EQ(later->streams()[0].totals, rank.totals());
  rank.close();
}

// C-32
TEST(SequenceWrap, CountersAboveWhatADoubleHolds_AreShownToTheLastDigit) {
  for (const std::uint64_t sum :
       {(std::uint64_t{1} << 53) + 1, (std::uint64_t{1} << 63) + 1, ~std::uint64_t{0} - 1}) {
    const Folder folder;
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<Tile>();
    Producer producer = Producer::open(options);
    Tile large{};
    large.a = sum - 3;
    producer.record(large);
    large.a = 3;
    producer.record(large);
    const auto bus = open_bus(folder.bus(), true);
    full_pass(*bus);
    rankbus::FamilyBuilder builder;
    rankbus::reduce_records(*bus, rankbus::collect_values(*bus), now_s(), {}, builder);
    rankbus::Snapshot snapshot;
    snapshot.families = builder.take();
    std::string text;
    rankbus::render_prometheus_text(snapshot, {}, text);
    EXPECT_NE(text.find("tile_a_total{engine=\"0\",model_name=\"test-model\"} " +
                        std::to_string(sum) + "\n"),
              std::string::npos)
        << text;
  }
}

TEST(SequenceWrap, StatusWord_StepsComeToTheirEndAndTheOtherPartsStay) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.records[0] = rankbus::record_type<Tile>();
  Producer producer = Producer::open(options);
  const std::string path = folder.bus() + "/" + producer.segment_name();
  for (const std::uint32_t step : {0u, 0xfffffffeu, 0xffffffffu, 0u, 1u}) {
    for (const std::uint16_t ordinal : {std::uint16_t{0}, std::uint16_t{0xffff}}) {
      producer.status(step, 0xff, ordinal, 0x7f);
      Image image(bytes_of_file(path));
      Word where = 0;
      std::memcpy(&where, image.bytes().data() + image.header().status_offset + 8, sizeof where);
      EXPECT_EQ(where >> 32, step);
      EXPECT_EQ(where >> 24 & 0xff, 0xffu);
      EXPECT_EQ(where >> 8 & 0xffff, ordinal);
      EXPECT_EQ(where & 0xff, 0x7fu);
    }
  }
}

}  // namespace
}  // namespace bus_test
