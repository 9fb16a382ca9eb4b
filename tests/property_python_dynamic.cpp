// Goal:   records of a type known only at run time, as the Python package writes them, are the same
//         bytes as those of the compiled type: slots, checkpoints, totals.
// Method: seeded hostile records go through Producer::record and through record_dynamic into two
//         segments; behind the identities, the two files must be equal byte for byte.
// Replay: RANKBUS_TEST_SEED=<printed> property_python_dynamic
#include <rankbus/producer/producer_dynamic.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

// What a caller without the compiled type passes for the same record.
template <class T>
struct AsInput {
  std::vector<rankbus::FieldInput> fields{T::RankbusRecord::kFieldCount};
  std::deque<std::vector<std::uint64_t>> arrays;

  explicit AsInput(const T& given) {
    T record = given;
    rankbus::derive_if_declared(record, 0);
    T::RankbusRecord::visit(record, *this);
  }
  template <unsigned I, class V>
  void scalar(V value) {
    fields[I].raw = rankbus::raw_value(value);
  }
  template <unsigned I, class V>
  void array(const rankbus::Values<V>& values) {
    auto& raw = arrays.emplace_back();
    for (std::size_t i = 0; i < values.size; ++i) raw.push_back(rankbus::raw_value(values.data[i]));
    fields[I].elements = raw;
  }
};

std::string bytes_behind_identity(const std::string& bus, const std::string& name) {
  const std::uint64_t from = PublishedWords(bus, name).header().dictionary_offset;
  std::ifstream file(bus + "/" + name, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str().substr(from);
}

template <class T>
class DynamicRecords : public testing::Test {};

using Types = testing::Types<llm_engine::Swap, llm_engine::Tile, llm_engine::Mark,
                             rankbus::SchedulerStep, rankbus::IterationStats,
                             rankbus::FinishedRequest, rankbus::WorkerStep, rankbus::SpecDecoding,
                             rankbus::CudaGraph, rankbus::NixlTransfer, rankbus::CacheConfig>;
TYPED_TEST_SUITE(DynamicRecords, Types);

TYPED_TEST(DynamicRecords, WrittenWithoutTheCompiledType_AreTheSameBytes) {
  const Folder folder;
  const RecordSequence<TypeParam> sequence(test_seed(), Temper::hostile);
  std::string found[2];
  for (const bool dynamic : {false, true}) {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    const rankbus::bus::RecordType* type = rankbus::record_type<TypeParam>();
    options.records[0] = type;
    options.segment_bytes = 1 << 20;
    rankbus::Producer producer = rankbus::Producer::open(options);
    ASSERT_FALSE(producer.inert()) << producer.reason();
    const std::string name = producer.segment_name();
    for (std::uint64_t n = 0; n < scaled(5000); ++n) {
      const TypeParam record = sequence.call(n);
      if (dynamic) {
        rankbus::record_dynamic(producer, *type, AsInput<TypeParam>(record).fields.data());
      } else {
        producer.record(record);
      }
    }
    EXPECT_EQ(producer.dropped_records(), 0u);
    producer.close();
    found[dynamic ? 1 : 0] = bytes_behind_identity(folder.bus(), name);
  }
  ASSERT_EQ(found[0].size(), found[1].size());
  const auto differ = std::mismatch(found[0].begin(), found[0].end(), found[1].begin());
  EXPECT_TRUE(differ.first == found[0].end())
      << "byte " << differ.first - found[0].begin() << " of " << found[0].size();
}

TEST(DynamicRecord, WithoutAStamp_GetsTheTime) {
  const Folder folder;
  rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::worker);
  rankbus::Producer producer = rankbus::Producer::open(options);
  ASSERT_FALSE(producer.inert()) << producer.reason();
  const std::uint64_t before = producer.now();
  std::vector<rankbus::FieldInput> fields(rankbus::Collective::RankbusRecord::kFieldCount);
  fields[0].raw = 0;
  rankbus::record_dynamic(producer, *rankbus::record_type<rankbus::Collective>(), fields.data());
  const std::uint64_t after = producer.now();
  const auto reader = open_segment(folder.bus(), producer.segment_name());
  ASSERT_NE(reader, nullptr);
  std::uint64_t stamp = 0;
  reader->poll(false, [&](const rankbus::Sample& sample) { stamp = sample.raw(0); });
  EXPECT_GE(stamp, before);
  EXPECT_LE(stamp, after);
}

TEST(DynamicRecord, OfAnInertProducerOrAnUndeclaredType_IsCountedAsDropped) {
  rankbus::Producer inert;
  const std::vector<rankbus::FieldInput> fields(rankbus::Collective::RankbusRecord::kFieldCount);
  rankbus::record_dynamic(inert, *rankbus::record_type<rankbus::Collective>(), fields.data());
  EXPECT_EQ(inert.dropped_records(), 1u);
  const Folder folder;
  rankbus::Producer frontend =
      rankbus::Producer::open(options_for(folder.bus(), rankbus::Role::frontend));
  ASSERT_FALSE(frontend.inert()) << frontend.reason();
  rankbus::record_dynamic(frontend, *rankbus::record_type<rankbus::Collective>(), fields.data());
  EXPECT_EQ(frontend.dropped_records(), 1u);
}

}  // namespace
}  // namespace bus_test
