// Labels: threads
// Goal:   writer and reader agree also where a sanitizer can watch both: as threads of one process.
// Method: a thread records at full speed into small rings while this one polls and checks every
//         sample; no synchronisation but the protocol's own.
// Replay: RANKBUS_TEST_SEED=<printed> stress_reader_thread [--gtest_filter=...]
#include <thread>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;

// C-30
TEST(ReaderThread, BesideAWritingThread_SeesWholeRecordsAndExactTotals) {
  Dice dice(test_seed());
  std::uint64_t verified = 0;
  for (std::uint64_t round = 0; round < scaled(20); ++round) {
    const Folder folder;
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.records[0] = rankbus::record_type<llm_engine::Tile>();
    options.records[1] = rankbus::record_type<rankbus::IterationStats>();
    options.segment_bytes = std::uint64_t{1} << (10 + dice.below(10));
    const RecordSequence<rankbus::IterationStats> sequence(dice.next(), Temper::hostile, 64);
    Oracle<rankbus::IterationStats> oracle(sequence);
    const std::uint64_t calls = 500 + dice.below(5000);
    Producer producer = Producer::open(options);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    const auto reader = open_segment(folder.bus(), producer.segment_name());
    ASSERT_TRUE(reader);
    std::atomic<bool> done{false};
    std::thread writer([&] {
      for (std::uint64_t n = 0; n < calls; ++n) {
        producer.record(tile(n));
        producer.record(sequence.call(n));
        producer.status(static_cast<std::uint32_t>(n), 1, 2, 3);
        if (n % 100 == 0) (void)producer.intern(std::to_string(n).c_str());
      }
      producer.close();
      done = true;
    });
    std::uint64_t torn = 0;
    const rankbus::SampleSink sink = [&](const rankbus::Sample& sample) {
      if (sample.stream.name != "tile") return;
      const llm_engine::Tile expected = tile(sample.number);
      torn += sample.raw(1) == expected.a && sample.raw(4) == expected.d ? 0u : 1u;
    };
    while (!done) {
      reader->poll(false, sink);
      (void)reader->dictionary_text(1);
    }
    writer.join();
    ASSERT_TRUE(read_to_end(*reader, sink));
    EXPECT_EQ(reader->error(), "");
    EXPECT_EQ(torn, 0u);
    EXPECT_EQ(find_stream(*reader, "tile")->published, calls);
    EXPECT_EQ(expect_sequence(*reader, oracle), oracle.slots_of_calls(calls));
    for (const rankbus::StreamState& stream : reader->streams()) {
      EXPECT_EQ(stream.mismatches, 0u);
      verified += stream.verified;
    }
  }
  std::printf("%llu checkpoints verified\n", static_cast<unsigned long long>(verified));
}

}  // namespace
}  // namespace bus_test
