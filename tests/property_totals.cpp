// Goal:   the producer's totals, those of a reader that follows the records, those of a reader that
//         comes late, and those of a model written for this test are the same words.
// Method: seeded records of every built-in type and of one that uses all features, with any value
//         that a field can hold: NaN, infinities, subnormals, -0.0, absent, bounds and their
//         neighbours, arrays from empty to several slots. Rings are small, readers come and go.
// Replay: RANKBUS_TEST_SEED=<printed> property_totals [--gtest_filter=...]
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;
using rankbus::Role;

struct Shape {
  std::uint64_t segment_bytes;
  std::uint64_t max_model_len;
  rankbus::ClockDomain clock;
  std::uint64_t calls;
};

// Follows a producer in this process by polls at random moments, so that it is sometimes lapped.
template <class T>
void expect_model(const Shape& shape, std::uint64_t seed) {
  const Folder folder;
  const RecordSequence<T> sequence(seed, Temper::hostile);
  Oracle<T> oracle(sequence, shape.max_model_len);
  Dice dice(seed);
  rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
  options.records[0] = rankbus::record_type<T>();
  options.segment_bytes = shape.segment_bytes;
  options.max_model_len = shape.max_model_len;
  options.clock = shape.clock;
  Producer producer = Producer::open(options);
  ASSERT_FALSE(producer.inert()) << producer.reason();
  const std::string name = producer.segment_name();
  const auto follower = open_segment(folder.bus(), name);
  ASSERT_TRUE(follower);
  const rankbus::StreamState& followed = follower->streams()[0];
  std::uint64_t samples = 0;
  const rankbus::SampleSink count = [&](const rankbus::Sample&) { ++samples; };
  for (std::uint64_t call = 0; call < shape.calls; ++call) {
    producer.record(sequence.call(call));
    if (!dice.one_in(followed.schema.capacity / 2)) continue;
    while (follower->poll(false, count)) {
    }
    ASSERT_EQ(follower->error(), "");
    ASSERT_EQ(followed.position, oracle.slots_of_calls(call + 1));
    ASSERT_TRUE(equals_model(followed, oracle.after(followed.position)));
  }
  // Who comes while it lives starts from a checkpoint and reads on.
  const auto late = open_segment(folder.bus(), name);
  ASSERT_TRUE(late);
  late->poll(false, {});
  ASSERT_EQ(late->error(), "");
  EXPECT_EQ(expect_sequence(*late, oracle), oracle.slots_of_calls(shape.calls));
  producer.close();
  ASSERT_TRUE(read_to_end(*follower, count));
  EXPECT_EQ(follower->error(), "");
  EXPECT_EQ(expect_sequence(*follower, oracle), oracle.slots_of_calls(shape.calls));
  EXPECT_EQ(samples + followed.lost_lapped, followed.published);
  EXPECT_EQ(followed.abandoned, 0u);
  if (!followed.totals.empty()) {
    // Who comes afterwards starts from the older checkpoint and finds the same.
    const auto after = open_segment(folder.bus(), name);
    ASSERT_TRUE(after);
    ASSERT_TRUE(read_to_end(*after, {}));
    EXPECT_EQ(after->streams()[0].verified, 1u);
    EXPECT_EQ(after->streams()[0].position, followed.published);
    EXPECT_EQ(after->streams()[0].totals, followed.totals);
  }
}

template <class T>
class Totals : public testing::Test {};
using Types =
    testing::Types<rankbus::SchedulerStep, rankbus::IterationStats, rankbus::FinishedRequest,
                   rankbus::MultimodalCache, rankbus::SleepState, rankbus::WorkerStep,
                   rankbus::Collective, rankbus::CorruptedRequests, rankbus::KvBlockEviction,
                   rankbus::SpecDecoding, rankbus::DiffusionDecoding, rankbus::PerfStats,
                   rankbus::CudaGraph, rankbus::CudaGraphConfig, rankbus::IterationDetails,
                   rankbus::LoraState, rankbus::CacheConfig, rankbus::NixlTransfer,
                   rankbus::MoriioTransfer, rankbus::MooncakeTransfer,
                   rankbus::MooncakeStoreOperation, rankbus::Offloading, rankbus::OffloadingCpu,
                   rankbus::OffloadingSkipped, rankbus::OffloadingLookup, rankbus::OffloadingConfig,
                   rankbus::StepPhases, rankbus::RequestKvEviction, rankbus::LoraRequests,
                   rankbus::KvBlockOperations, rankbus::CacheLookup, rankbus::CacheStorage,
                   rankbus::CacheEviction, rankbus::HiSparse, llm_engine::Swap, llm_engine::Tile>;
TYPED_TEST_SUITE(Totals, Types);

// C-24
TYPED_TEST(Totals, HostileValues_ProducerReadersAndModelAgreeBitForBit) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(5); ++round) {
    constexpr std::uint64_t kLengths[] = {0, 1, 4096, 1'000'000};
    const Shape shape{
        std::uint64_t{1} << dice.below(21), kLengths[dice.below(4)],
        dice.one_in(2) ? rankbus::ClockDomain::real : rankbus::ClockDomain::virtual_time,
        1000 + dice.below(4000)};
    SCOPED_TRACE("round " + std::to_string(round) + ", segment of " +
                 std::to_string(shape.segment_bytes));
    expect_model<TypeParam>(shape, dice.next());
    if (testing::Test::HasFailure()) return;
  }
}

// Absent means nothing at all, in every type that a field can have.
TEST(Totals, AbsentValues_CountNowhere) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Swap>();
  Producer producer = Producer::open(options);
  const std::string name = producer.segment_name();
  const double nothing[] = {rankbus::absent<double>()};
  const std::uint64_t no_sizes[] = {rankbus::absent<std::uint64_t>()};
  llm_engine::Swap record;
  record.stamp = 1;
  record.tries = rankbus::absent<std::uint8_t>();
  record.pages = rankbus::absent<std::uint16_t>();
  record.blocks = rankbus::absent<std::uint32_t>();
  record.swapped_bytes = rankbus::absent<std::uint64_t>();
  record.balance = rankbus::absent<std::int64_t>();
  record.joules = record.wear = record.watts = record.draw = rankbus::absent<double>();
  record.uptime_ns = rankbus::absent<std::uint64_t>();
  record.offset = record.skew_ns = rankbus::absent<std::int64_t>();
  record.level = rankbus::absent<std::uint8_t>();
  record.batch = rankbus::absent<std::uint16_t>();
  record.latencies = record.heats = nothing;
  record.sizes = no_sizes;
  for (int i = 0; i < 3; ++i) producer.record(record);
  producer.close();
  const auto reader = open_segment(folder.bus(), name);
  ASSERT_TRUE(reader && read_to_end(*reader));
  StreamModel<llm_engine::Swap> empty;
  empty.body[0] = 3;
  empty.body[1] = 1;
  EXPECT_TRUE(equals_model(reader->streams()[0], empty));
}

// What /metrics would show: cumulative classic buckets, counted here from the values themselves.
TEST(Totals, ClassicBuckets_EqualACountOfTheValues) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), Role::other);
  options.records[0] = rankbus::record_type<rankbus::IterationStats>();
  options.records[1] = rankbus::record_type<rankbus::SchedulerStep>();
  Producer producer = Producer::open(options);
  const std::string name = producer.segment_name();
  Dice dice(test_seed());
  std::vector<double> times;
  std::vector<std::uint64_t> intervals_ns;
  for (int i = 0; i < 3000; ++i) {
    const std::uint64_t bits = near_a_bound(rankbus::bounds::kTimeToFirstToken, dice);
    const double time[] = {double_of(bits)};
    times.push_back(time[0]);
    rankbus::IterationStats stats;
    stats.time_to_first_token_seconds = time;
    producer.record(stats);
    rankbus::SchedulerStep step;
    // Whole decimal bounds and one beside them: 2.5 ms must count as at most 0.0025.
    const double bound = rankbus::bounds::kStepValues[dice.below(18)];
    step.step_interval_ns =
        static_cast<std::uint64_t>(std::llround(bound * 1e9)) + dice.below(3) - 1;
    intervals_ns.push_back(step.step_interval_ns);
    producer.record(step);
  }
  producer.close();
  const auto reader = open_segment(folder.bus(), name);
  ASSERT_TRUE(reader && read_to_end(*reader));
  const rankbus::FieldValues values = rankbus::extract_values(*reader);

  const auto first = values.find({"vllm:time_to_first_token_seconds", {}});
  ASSERT_NE(first, values.end());
  const rankbus::Histogram seconds = rankbus::exposed_histogram(first->second);
  std::uint64_t cumulated = 0;
  for (std::size_t b = 0; b < seconds.bounds->size(); ++b) {
    cumulated += seconds.counts[b];
    const auto within = std::count_if(times.begin(), times.end(),
                                      [&](double time) { return time <= (*seconds.bounds)[b]; });
    EXPECT_EQ(cumulated, static_cast<std::uint64_t>(within)) << "le " << (*seconds.bounds)[b];
  }
  double sum = 0;
  for (const double time : times) sum += time;
  EXPECT_EQ(seconds.sum, sum);

  const auto second = values.find({"rankbus_step_interval_seconds", {}});
  ASSERT_NE(second, values.end());
  const rankbus::Histogram steps = rankbus::exposed_histogram(second->second);
  cumulated = 0;
  for (std::size_t b = 0; b < steps.bounds->size(); ++b) {
    cumulated += steps.counts[b];
    const auto limit_ns = static_cast<std::uint64_t>(std::llround((*steps.bounds)[b] * 1e9));
    const auto within = std::count_if(intervals_ns.begin(), intervals_ns.end(),
                                      [&](std::uint64_t ns) { return ns <= limit_ns; });
    EXPECT_EQ(cumulated, static_cast<std::uint64_t>(within)) << "le " << (*steps.bounds)[b];
  }
}

}  // namespace
}  // namespace bus_test
