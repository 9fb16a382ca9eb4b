// Goal:   however the records of an engine are dealt out over ranks, lanes, engines and lives of
//         processes, the reduced result is that of one process: integers equal, sums to 1e-9.
// Method: seeded records of every built-in type, written once by one producer and once by several
//         that come and go, whose dictionaries number the same texts differently, while a reader
//         passes at random moments; families compared after the labels that a split adds are left
//         out. The single producer's totals are held against a model by property_totals.
// Replay: RANKBUS_TEST_SEED=<printed> property_splits [--gtest_filter=...]
#include <map>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/dialect.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Family;
using rankbus::FamilyType;
using rankbus::Labels;
using rankbus::Producer;

// One number, or the buckets and the sum of a histogram.
struct Total {
  std::vector<std::uint64_t> counts;
  double sum = 0;
};
using Totals = std::map<std::pair<std::string, Labels>, Total>;

template <class T, class Holds>
bool any_field(Holds holds) {
  const auto& fields = T::RankbusRecord::kFields;
  return std::any_of(std::begin(fields), std::end(fields), holds);
}

// The values of dictionary labels are numbers of texts, and each producer numbers them itself.
template <class T>
struct TextNumbers {
  const std::vector<std::uint16_t>& number_of_text;

  template <unsigned I, class V>
  void scalar(V& value) {
    constexpr rankbus::bus::FieldSpec kSpec = T::RankbusRecord::kFields[I];
    if constexpr (kSpec.kind == Kind::label && std::is_same_v<V, std::uint16_t>) {
      if (kSpec.domain[0] == '\0') value = number_of_text[value];
    }
    // A sum or maximum over living writers is of what each of them says last, so a split must
    // change it.
    if constexpr (kSpec.kind == Kind::gauge && kSpec.reduction != rankbus::Reduction::newest)
      value = rankbus::absent<V>();
    // Which of several writers is newest is known for a stream: a record that leaves a state out
    // speaks for an older one all the same.
    if constexpr (kSpec.kind == Kind::gauge && kSpec.reduction == rankbus::Reduction::newest) {
      const V none = rankbus::absent<V>();
      if (std::memcmp(&value, &none, sizeof value) == 0) value = V{};
    }
  }
  template <unsigned I, class V>
  void array(rankbus::Values<V>&) {}
};

template <class T>
class Writer {
 public:
  Writer(const std::string& bus, std::uint32_t engine, std::uint32_t rank, Dice& dice) {
    rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
    options.engine = engine;
    options.rank = rank;
    options.clock = rankbus::ClockDomain::virtual_time;
    options.num_speculative_tokens = 3;
    options.segment_bytes = std::uint64_t{1} << (14 + dice.below(5));
    options.records[0] = rankbus::record_type<T>();
    producer_ = Producer::open(options);
    if (producer_.inert()) ADD_FAILURE() << producer_.reason();
    // In an order of its own.
    number_of_text_.assign(16, 0);
    for (std::uint64_t i = 1, start = dice.below(15); i < 16; ++i) {
      const std::uint64_t text = 1 + (start + 4 * i) % 15;
      number_of_text_[text] = producer_.intern(("text " + std::to_string(text)).c_str());
    }
  }
  void write(T record) {
    TextNumbers<T> numbers{number_of_text_};
    T::RankbusRecord::visit(record, numbers);
    producer_.record(record);
  }

 private:
  Producer producer_;
  std::vector<std::uint16_t> number_of_text_;
};

// What a bus shows in the end, without the labels that only say who wrote it.
class Reader {
 public:
  explicit Reader(const std::string& bus) : bus_(open_bus(bus, false)) {}
  void pass() {
    bus_->pass(now_s(), true,
               [&](const rankbus::LiveSegment& segment, const rankbus::Sample& sample) {
                 feed_.observe(segment, sample);
               });
  }
  Totals totals() {
    pass();
    rankbus::FamilyBuilder builder;
    const auto values = rankbus::collect_values(*bus_);
    rankbus::reduce_records(*bus_, values, now_s(), {}, builder);
    Totals out;
    for (const Family& family : builder.take()) {
      for (const rankbus::Series& series : family.series) add(family, series, out);
    }
    return out;
  }

 private:
  static void add(const Family& family, const rankbus::Series& series, Totals& out) {
    Labels labels;
    for (const auto& label : series.labels) {
      static const std::set<std::string> kWriters = {"rank", "lane", "role", "engine"};
      if (kWriters.count(label.first) == 0) labels.push_back(label);
    }
    Total& total = out[{family.name, labels}];
    if (const auto* histogram = std::get_if<rankbus::Histogram>(&series.value)) {
      total.counts.resize(histogram->counts.size());
      for (std::size_t i = 0; i < total.counts.size(); ++i) total.counts[i] += histogram->counts[i];
      total.sum += histogram->sum;
      return;
    }
    std::visit(
        [&](auto number) {
          if constexpr (std::is_same_v<decltype(number), double>) {
            total.sum += number;
          } else {
            total.counts.resize(1);
            total.counts[0] += static_cast<std::uint64_t>(number);
          }
        },
        std::get<rankbus::Number>(series.value));
  }

  std::unique_ptr<rankbus::BusReader> bus_;
  rankbus::SampleFeed feed_;
};

void expect_equal(const Totals& found, const Totals& expected) {
  ASSERT_FALSE(expected.empty());
  for (const auto& [key, total] : expected) {
    const auto at = found.find(key);
    ASSERT_TRUE(at != found.end()) << key.first << " is missing";
    EXPECT_EQ(at->second.counts, total.counts) << key.first;
    EXPECT_NEAR(at->second.sum, total.sum, 1e-9 * std::abs(total.sum)) << key.first;
  }
  EXPECT_EQ(found.size(), expected.size());
}

template <class T>
void expect_split_equals_whole(std::uint64_t seed, std::uint64_t calls) {
  Dice dice(seed);
  const RecordSequence<T> sequence(seed, Temper::tame);
  const bool has_state =
      any_field<T>([](const auto& f) { return f.kind == Kind::gauge || f.kind == Kind::info; });

  const Folder whole_folder;
  Reader whole(whole_folder.bus());
  Writer<T> one(whole_folder.bus(), 0, 0, dice);
  for (std::uint64_t call = 0; call < calls; ++call) one.write(sequence.call(call));

  const Folder split_folder;
  Reader split(split_folder.bus());
  // A state has one engine, and is gone with its writer.
  const auto make = [&] {
    return std::make_unique<Writer<T>>(split_folder.bus(),
                                       has_state ? 0 : static_cast<std::uint32_t>(dice.below(2)),
                                       static_cast<std::uint32_t>(dice.below(3)), dice);
  };
  std::vector<std::unique_ptr<Writer<T>>> writers;
  for (std::uint64_t i = 0; i < 2 + dice.below(4); ++i) writers.push_back(make());
  for (std::uint64_t call = 0; call < calls; ++call) {
    auto& writer = writers[dice.below(writers.size())];
    if (!has_state && dice.one_in(calls / 8)) {
      writer.reset();
      writer = make();
    }
    writer->write(sequence.call(call));
    if (dice.one_in(calls / 4)) split.pass();
  }
  expect_equal(split.totals(), whole.totals());
}

// Not of types with running totals, which are sums of one writer's own.
template <class T>
class Splits : public testing::Test {};
// Without LoraRequests: which of several writers is newest is known for a stream, not for each
// label row of it, and one scheduler writes them.
using Types =
    testing::Types<rankbus::SchedulerStep, rankbus::IterationStats, rankbus::FinishedRequest,
                   rankbus::MultimodalCache, rankbus::SleepState, rankbus::WorkerStep,
                   rankbus::CorruptedRequests, rankbus::KvBlockEviction, rankbus::SpecDecoding,
                   rankbus::DiffusionDecoding, rankbus::PerfStats, rankbus::CudaGraph,
                   rankbus::NixlTransfer, rankbus::MoriioTransfer, rankbus::MooncakeTransfer,
                   rankbus::MooncakeStoreOperation, rankbus::Offloading, rankbus::OffloadingCpu,
                   rankbus::OffloadingSkipped, rankbus::OffloadingLookup, rankbus::StepPhases,
                   rankbus::RequestKvEviction, rankbus::KvBlockOperations, rankbus::CacheLookup,
                   rankbus::CacheStorage, rankbus::CacheEviction, rankbus::HiSparse>;
TYPED_TEST_SUITE(Splits, Types);

// C-36
TYPED_TEST(Splits, AnySplit_ReducesToTheSame) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(4); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    expect_split_equals_whole<TypeParam>(dice.next(), 50 + dice.below(1500));
    if (testing::Test::HasFailure()) return;
  }
}

// Text that makes labels: of several writers, the newest stands and the others do not.
TEST(Splits, NewestInfo_IsTheOnlyOne) {
  const Folder folder;
  Reader reader(folder.bus());
  Dice dice(test_seed());
  Writer<rankbus::LoraState> first(folder.bus(), 0, 0, dice), second(folder.bus(), 0, 1, dice);
  const auto write = [](auto& writer, const char* running, std::uint64_t stamp) {
    rankbus::InfoText text;
    text.add("max_lora", "4");
    text.add("running_lora_adapters", running);
    rankbus::LoraState state;
    state.stamp = stamp;
    state.adapters = text.words();
    writer.write(state);
  };
  write(first, "a", 1'000);
  write(second, "a,b", 3'000);
  write(first, std::string(1500, 'x').c_str(), 2'000);
  const Totals totals = reader.totals();
  std::vector<Labels> shown;
  for (const auto& [key, total] : totals) {
    if (key.first == "vllm:lora_requests_info") shown.push_back(key.second);
  }
  const Labels expected{
      {"max_lora", "4"}, {"model_name", "test-model"}, {"running_lora_adapters", "a,b"}};
  EXPECT_EQ(shown, std::vector<Labels>{expected});
  // Longer than a slot: it comes in parts.
  write(first, std::string(1500, 'x').c_str(), 4'000);
  bool is_whole = false;
  for (const auto& [key, total] : reader.totals()) {
    for (const auto& [label, value] : key.second)
      is_whole = is_whole || value == std::string(1500, 'x');
  }
  EXPECT_TRUE(is_whole);
}

}  // namespace
}  // namespace bus_test
