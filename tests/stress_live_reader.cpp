// Labels: multiprocess-heavy
//
// Goal:   a reader that polls writers at full speed sees every record whole or counts it as lost,
// and
//         its totals are exact all the while, however often it is lapped.
// Method: forked writers fill small rings with records whose fields all follow from their number;
// the
//         reader polls, sometimes late, checks every sample, and holds its totals against sums that
//         the test makes of the numbers alone. Then the writer is killed, and the books must close.
// Replay: RANKBUS_TEST_SEED=<printed> stress_live_reader [--gtest_filter=...];
//         RANKBUS_TEST_SCALE=10 repeats ten times as often.
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::Sample;

// Checks the samples of one stream.
struct Books {
  std::uint64_t next = 0;
  std::uint64_t samples = 0;
  std::uint64_t gaps = 0;
  std::uint64_t torn = 0;

  void take(const Sample& sample, bool whole) {
    if (sample.number < next) ++torn;  // Twice, or out of order.
    gaps += sample.number - next;
    next = sample.number + 1;
    ++samples;
    torn += whole ? 0u : 1u;
  }
};

bool is_tile(const Sample& sample) {
  const llm_engine::Tile expected = tile(sample.number);
  return sample.raw(0) == expected.number && sample.raw(1) == expected.a &&
         sample.raw(2) == expected.b && sample.raw(3) == bits_of(expected.c) &&
         sample.raw(4) == expected.d;
}
bool is_mark(const Sample& sample) {
  const llm_engine::Mark expected = mark(sample.number);
  return sample.raw(0) == expected.number && sample.raw(1) == expected.a &&
         sample.raw(2) == expected.b;
}

using Limit = Shared<std::atomic<std::uint64_t>>;

// Writes up to the limit, which may move.
int write_tiles_and_marks(const std::string& bus, std::uint64_t segment_bytes, const Line& line,
                          const Limit& limit) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.records[1] = rankbus::record_type<llm_engine::Mark>();
  options.segment_bytes = segment_bytes;
  Producer producer = Producer::open(options);
  line.say(producer.segment_name());
  for (std::uint64_t n = 0;; ++n) {
    while (n >= *limit) sched_yield();
    producer.record(tile(n));
    producer.record(mark(n));
  }
}

struct Sums {
  std::uint64_t verified = 0;
  std::uint64_t lost = 0;
  std::uint64_t read = 0;
};

// One writer's life under a reader. The sums grow.
void follow_one_life(bool bursts, Dice& dice, Sums& sums) {
  const Folder folder;
  const std::uint64_t sizes[] = {1, 32 << 10, 256 << 10};
  const std::uint64_t segment_bytes = sizes[dice.below(3)];
  const Limit limit;
  Child writer([&](const Line& line) {
    return write_tiles_and_marks(folder.bus(), segment_bytes, line, limit);
  });
  const std::string name = writer.hear();
  const auto reader = open_segment(folder.bus(), name);
  ASSERT_TRUE(reader);
  const PublishedWords published(folder.bus(), name);
  // Some writers never wait; the others do bursts that the reader can, or just cannot, keep up
  // with.
  if (!bursts) *limit = ~std::uint64_t{0};
  const std::uint64_t capacity = reader->streams()[0].schema.capacity;
  Books tiles, marks;
  const rankbus::SampleSink sink = [&](const Sample& sample) {
    if (sample.stream.name == "tile") {
      tiles.take(sample, is_tile(sample));
    } else {
      marks.take(sample, is_mark(sample));
    }
  };
  StreamModel<llm_engine::Tile> model;
  const auto check = [&] {
    const rankbus::StreamState& stream = *find_stream(*reader, "tile");
    while (model.slots < stream.position) model.add(tile(model.slots), 0);
    ASSERT_EQ(reader->error(), "");
    ASSERT_TRUE(equals_model(stream, model));
    ASSERT_EQ(tiles.torn + marks.torn, 0u);
  };
  const std::uint64_t end = 2'000 + dice.below(60'000);
  while (published.of_stream(0) < end) {
    if (bursts) *limit = published.of_stream(0) + 1 + dice.below(capacity + capacity / 4);
    // A reader that is late is lapped.
    const std::uint64_t late = std::min<std::uint64_t>(
        *limit, reader->streams()[0].position + dice.below(dice.one_in(2) ? 2 : 5000));
    ASSERT_TRUE(wait_until([&] { return published.of_stream(0) >= late; }));
    reader->poll(false, sink);
    ASSERT_NO_FATAL_FAILURE(check());
  }
  ASSERT_EQ(writer.kill9(), -SIGKILL);
  ASSERT_TRUE(read_to_end(*reader, sink));
  ASSERT_NO_FATAL_FAILURE(check());
  std::uint32_t index = 0;
  for (const auto& [type, books] :
       {std::pair<const char*, Books*>{"tile", &tiles}, {"mark", &marks}}) {
    const rankbus::StreamState& stream = *find_stream(*reader, type);
    EXPECT_EQ(stream.position, published.of_stream(index++)) << type;
    EXPECT_EQ(stream.first_position, 0u) << type;
    EXPECT_EQ(books->samples + stream.lost_lapped, stream.published) << type;
    // What was lost at the very end left no later sample that would show the gap.
    EXPECT_LE(books->gaps, stream.lost_lapped) << type;
    EXPECT_EQ(books->gaps + (stream.position - books->next), stream.lost_lapped) << type;
    EXPECT_EQ(stream.mismatches, 0u) << type;
    sums.verified += stream.verified;
    sums.lost += stream.lost_lapped;
    sums.read += books->samples;
  }
}

// C-30, C-31, C-33
TEST(LiveReader, LappedByAWriterAtFullSpeed_TotalsStayExactAndLossesAreCounted) {
  Dice dice(test_seed());
  Sums sums;
  for (std::uint64_t life = 0; life < 1 + scaled(60) && !testing::Test::HasFailure(); ++life) {
    follow_one_life(life % 2 != 0, dice, sums);
  }
  EXPECT_GT(sums.verified, 0u);
  EXPECT_GT(sums.lost, 0u) << "no reader was ever lapped: the test proves too little";
  EXPECT_GT(sums.read, 0u);
  std::printf("%llu samples read, %llu lost, %llu checkpoints verified\n",
              static_cast<unsigned long long>(sums.read),
              static_cast<unsigned long long>(sums.lost),
              static_cast<unsigned long long>(sums.verified));
}

// Whether totals of tallies are those of `records` records.
testing::AssertionResult is_tally_of(const rankbus::StreamState& stream, std::uint64_t records) {
  using Record = llm_engine::Tally::RankbusRecord;
  const auto total = [&](unsigned field, std::uint64_t word) {
    return stream.totals[stream.schema.plan.fields[field].totals_offset + word];
  };
  // Half of n(n-1), modulo 2^64.
  const std::uint64_t indices =
      records % 2 == 0 ? records / 2 * (records - 1) : (records - 1) / 2 * records;
  bool right = stream.totals[0] == records && total(Record::i_one, 0) == records &&
               total(Record::i_index, 0) == indices;
  const std::vector<double> bounds = cell_bounds(Record::kFields[Record::i_low], 0);
  for (std::uint64_t value = 0; value < 4; ++value) {
    std::uint64_t cell = 0;
    while (value > 0 && bounds[cell] < static_cast<double>(value)) ++cell;
    if (value > 0) ++cell;
    right = right && total(Record::i_low, 1 + cell) == (records + 3 - value) / 4;
  }
  if (right) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "not the totals of " << records << " records";
}

// Readers that come in the middle find a checkpoint however fast the writer is.
// C-30
TEST(LiveReader, AttachesAtFullSpeed_TotalsAreExactFromTheFirstPoll) {
  const Folder folder;
  Child writer([&](const Line& line) {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<llm_engine::Tally>();
    options.segment_bytes = 64 << 10;
    Producer producer = Producer::open(options);
    line.say(producer.segment_name());
    for (std::uint64_t n = 0;; ++n) producer.record(tally(n));
    return 0;
  });
  const std::string name = writer.hear();
  const PublishedWords published(folder.bus(), name);
  ASSERT_TRUE(wait_until([&] { return published.of_stream(0) > 10'000; }));
  for (std::uint64_t attach = 0; attach < scaled(2000); ++attach) {
    const std::uint64_t before = published.of_stream(0);
    const auto reader = open_segment(folder.bus(), name);
    ASSERT_TRUE(reader);
    const rankbus::StreamState& stream = reader->streams()[0];
    const std::uint64_t began = stream.position;
    EXPECT_GE(began + stream.schema.capacity, before) << "not from the newest checkpoint";
    ASSERT_TRUE(is_tally_of(stream, began));
    std::uint64_t samples = 0;
    std::uint64_t history = 0;
    reader->poll(false, [&](const Sample& sample) {
      // What the ring still holds from before the checkpoint is shown first, and folded by nobody.
      ++(sample.is_history ? history : samples);
      EXPECT_EQ(sample.number < began, sample.is_history);
      EXPECT_EQ(sample.raw(0), sample.number + 1);
      EXPECT_EQ(sample.raw(2), sample.number);
    });
    ASSERT_EQ(reader->error(), "");
    EXPECT_EQ(stream.first_position, began);
    EXPECT_EQ(samples + stream.lost_lapped, stream.position - began);
    EXPECT_LE(history, stream.schema.capacity / 2);
    ASSERT_TRUE(is_tally_of(stream, stream.position));
  }
}

// One reader of the whole bus, four writers at full speed.
// C-30, C-33
TEST(LiveReader, FourWritersUnderOneBusReader_BooksCloseForEach) {
  const Folder folder;
  std::vector<std::unique_ptr<Child>> writers;
  std::vector<PublishedWords> published;
  std::vector<std::string> names;
  for (std::uint32_t rank = 0; rank < 4; ++rank) {
    writers.push_back(std::make_unique<Child>([&](const Line& line) {
      rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
      options.rank = rank;
      options.records[0] = rankbus::record_type<llm_engine::Tile>();
      options.segment_bytes = 32 << 10;
      Producer producer = Producer::open(options);
      line.say(producer.segment_name());
      (void)line.hear();
      for (std::uint64_t n = 0; n < 200'000; ++n) producer.record(tile(n));
      (void)line.hear();
      return 0;
    }));
    names.push_back(writers.back()->hear());
    published.emplace_back(folder.bus(), names.back());
  }
  const auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  std::map<std::string, Books> books;
  const auto on_sample = [&](const rankbus::LiveSegment& segment, const Sample& sample) {
    books[segment.reader->name()].take(sample, is_tile(sample));
  };
  bus->pass(now_s(), true, on_sample);
  ASSERT_EQ(bus->live().size(), 4u);
  for (const auto& writer : writers) writer->say("go");
  ASSERT_TRUE(wait_until([&] {
    bus->pass(now_s(), false, on_sample);
    return std::all_of(published.begin(), published.end(),
                       [](const PublishedWords& words) { return words.of_stream(0) >= 200'000; });
  }));
  while (bus->pass(now_s(), false, on_sample)) {
  }
  StreamModel<llm_engine::Tile> model;
  for (std::uint64_t n = 0; n < 200'000; ++n) model.add(tile(n), 0);
  for (const std::string& name : names) {
    ASSERT_EQ(bus->live().count(name), 1u);
    const rankbus::LiveSegment& segment = bus->live().at(name);
    const rankbus::StreamState& stream = segment.reader->streams()[0];
    EXPECT_EQ(segment.quarantine, "");
    EXPECT_TRUE(equals_model(stream, model));
    EXPECT_EQ(books[name].torn, 0u);
    EXPECT_EQ(books[name].samples + stream.lost_lapped, 200'000u);
    EXPECT_EQ(stream.mismatches, 0u);
  }
}

}  // namespace
}  // namespace bus_test
