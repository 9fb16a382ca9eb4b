// A reader that goes on where another one stopped: every sample is read, or lost, or was told of by
// the one before; whatever the writer does between the attach and the first read.
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::SegmentReader;

class ResumedReader : public testing::Test {
 protected:
  ResumedReader() : producer_(rankbus::Producer::open(options())) {}
  rankbus::OpenOptions options() const {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.segment_bytes = 1;
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.records[1] = rankbus::record_type<rankbus::WorkerStep>();
    return options;
  }
  void write(std::uint64_t records) {
    for (std::uint64_t n = 0; n < records; ++n) {
      producer_.record(tile(written_));
      producer_.record(rankbus::WorkerStep{.step = ++written_});
    }
  }
  std::unique_ptr<SegmentReader> attach() {
    return open_segment(folder_.bus(), producer_.segment_name());
  }
  // Polls once, and holds what was new in each stream, and lost, against what should be known then.
  void expect_books_close(SegmentReader& reader, std::uint64_t seen_before,
                          std::uint64_t deadline_ns = SegmentReader::kNoDeadline) {
    std::map<std::string, std::uint64_t> fresh;
    reader.poll(
        false,
        [&](const rankbus::Sample& sample) {
          if (!sample.is_history) ++fresh[sample.stream.name];
        },
        deadline_ns);
    ASSERT_EQ(reader.error(), "");
    for (const rankbus::StreamState& stream : reader.streams()) {
      EXPECT_EQ(fresh[stream.schema.name] + stream.lost_lapped,
                std::max(stream.position, seen_before) - seen_before)
          << stream.schema.name << " at " << stream.position;
      EXPECT_EQ(stream.mismatches, 0u);
    }
  }
  static void resume(SegmentReader& reader, std::uint64_t next_record) {
    for (std::size_t s = 0; s < reader.streams().size(); ++s) {
      rankbus::StreamProgress progress;
      progress.next_record = next_record;
      reader.resume(s, progress);
    }
  }

  Folder folder_;
  rankbus::Producer producer_;
  std::uint64_t written_ = 0;
};

// The newest checkpoint lies before what the predecessor saw, and is overwritten before it is read.
// C-12, C-33
TEST_F(ResumedReader, LappedBeforeItPassedWhatWasSeen_DoesNotLoseThatAgain) {
  write(60);
  const auto reader = attach();
  ASSERT_TRUE(reader);
  const std::uint64_t began = reader->streams()[0].position;
  ASSERT_LT(began, 59u);
  resume(*reader, 59);
  write(10 * reader->streams()[0].schema.capacity);
  expect_books_close(*reader, 59);
  EXPECT_GT(reader->streams()[0].lost_lapped, 0u);
}

// C-12, C-33
TEST_F(ResumedReader, OvertakenBetweenTheAttachAndTheFirstRead_LosesNothingTwice) {
  for (const std::uint64_t meanwhile : {0u, 5u, 20u, 40u, 70u, 500u}) {
    SCOPED_TRACE(std::to_string(meanwhile) + " records after the attach");
    const std::uint64_t seen = written_ + 3;
    write(100);
    const auto reader = attach();
    ASSERT_TRUE(reader);
    write(meanwhile);
    resume(*reader, seen);
    write(meanwhile);
    expect_books_close(*reader, seen);
  }
}

// Who keeps the position in a ledger says with it that all samples before it are told of.
// C-12, C-33
TEST_F(ResumedReader, OutOfTimeInItsFirstTurn_HasToldOfEverySampleBeforeItsPosition) {
  write(50);
  const auto reader = attach();
  ASSERT_TRUE(reader);
  ASSERT_GT(reader->streams()[1].position, 0u);
  resume(*reader, 0);
  expect_books_close(*reader, 0, 1);
  EXPECT_TRUE(reader->is_behind());
}

}  // namespace
}  // namespace bus_test
