// Goal:   what a producer says of its families changes nobody else's: a name means what vLLM,
// rankbus
//         or its first producer meant by it, and nobody makes more series than the budget allows.
// Method: producers with hostile declarations beside sound ones, read as a library reads, and
// judged
//         by the families that come out.
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/bus/limits.hpp>

#include "bus_fixture.hpp"

namespace hostile {

// clang-format off
#define HOSTILE_NAMES_ROWS(FIELD, OPTIONAL, ARRAY)                                                              \
  FIELD(std::uint64_t, stamp, stamp(), "When")                                                                  \
  FIELD(std::uint64_t, up, gauge("up"), "Prometheus says so itself")                                            \
  FIELD(std::uint64_t, scraped, gauge("scrape_duration_seconds"), "The same")                                   \
  FIELD(std::uint64_t, memory, gauge("process_resident_memory_bytes"), "Of the aggregator")                     \
  FIELD(std::uint64_t, segments, gauge("rankbus_segments"), "The aggregator's own")                             \
  FIELD(std::uint64_t, mismatches, counter("rankbus_checkpoints_mismatches_total"), "The same")                 \
  FIELD(std::uint64_t, state, gauge("rankbus_no_such_thing"), "Any name of ours")                               \
  FIELD(std::uint64_t, running, counter("vllm:num_requests_running"), "A gauge at vLLM")                        \
  FIELD(double, tokens, counter("vllm:generation_tokens_total"), "Whole numbers at vLLM")                       \
  FIELD(std::uint64_t, preemptions, counter("vllm:num_preemptions_total").in(Unit::bytes), "No bytes at vLLM")  \
  FIELD(std::uint64_t, sample, counter("vllm:time_to_first_token_seconds_count"), "A sample of a histogram")    \
  FIELD(std::uint64_t, steps, counter("rankbus_steps_total").with("phase", "x"), "Has no label")            \
  FIELD(std::uint64_t, good, counter("hostile_good_total"), "The only one that is nobody's")

#define HOSTILE_EARLY_ROWS(FIELD, OPTIONAL, ARRAY)              \
  FIELD(std::uint64_t, stamp, stamp(), "When")                  \
  FIELD(std::uint64_t, what, counter("shared_name_total"), "What the first one counts") \
  FIELD(std::uint64_t, sum, counter("shared_seconds_sum"), "Called like a histogram's sum")
#define HOSTILE_LATE_ROWS(FIELD, OPTIONAL, ARRAY)               \
  FIELD(std::uint64_t, stamp, stamp(), "When")                  \
  FIELD(std::uint64_t, what, gauge("shared_name_total"), "Something else") \
  FIELD(double, seconds, distribution("shared_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), "Has a sum") \
  FIELD(std::uint64_t, own, counter("late_total"), "Its own")

#define HOSTILE_WIDE_ROWS(FIELD, OPTIONAL, ARRAY)                                                  \
  FIELD(std::uint64_t, stamp, stamp(), "When")                                                     \
  FIELD(std::uint16_t, who, label("who"), "Any text")                                              \
  FIELD(std::uint64_t, n, counter("wide_total").split_by("who"), "Counted by label")               \
  FIELD(std::uint64_t, a, distribution("wide_a", ::rankbus::bounds::kIterationTokens).split_by("who"), "A") \
  FIELD(std::uint64_t, b, distribution("wide_b", ::rankbus::bounds::kIterationTokens).split_by("who"), "B") \
  FIELD(std::uint64_t, c, distribution("wide_c", ::rankbus::bounds::kIterationTokens).split_by("who"), "C") \
  FIELD(std::uint64_t, d, distribution("wide_d", ::rankbus::bounds::kIterationTokens).split_by("who"), "D") \
  FIELD(std::uint64_t, e, distribution("wide_e", ::rankbus::bounds::kIterationTokens).split_by("who"), "E") \
  FIELD(std::uint64_t, f, distribution("wide_f", ::rankbus::bounds::kIterationTokens).split_by("who"), "F")
// clang-format on

RANKBUS_RECORD(Names, "names", 1, "Names of others", HOSTILE_NAMES_ROWS)
RANKBUS_RECORD(Early, "early", 1, "First", HOSTILE_EARLY_ROWS)
RANKBUS_RECORD(Late, "late", 1, "Second", HOSTILE_LATE_ROWS)
RANKBUS_RECORD(Wide, "wide", 1, "Many series", HOSTILE_WIDE_ROWS)

}  // namespace hostile

namespace bus_test {
namespace {

using rankbus::Family;
using rankbus::FamilyType;
using rankbus::Labels;
using rankbus::Number;
using rankbus::Producer;
using rankbus::Series;
using rankbus::Snapshot;

template <class T>
Producer open_as(const std::string& bus, std::uint32_t rank) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.records[0] = rankbus::record_type<T>();
  return Producer::open(options);
}

struct View {
  Snapshot snapshot;
  std::vector<std::string> warnings;

  const Family* family(const std::string& name) const {
    for (const Family& each : snapshot.families) {
      if (each.name == name) return &each;
    }
    return nullptr;
  }
  // The sum over all series of a family with these labels among theirs; -1 if there is none.
  double number(const std::string& name, const Labels& labels = {}) const {
    const Family* found = family(name);
    if (found == nullptr) return -1;
    double sum = -1;
    for (const Series& series : found->series) {
      const bool matches = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
        return std::find(series.labels.begin(), series.labels.end(), label) != series.labels.end();
      });
      const auto* number = std::get_if<Number>(&series.value);
      if (!matches || number == nullptr) continue;
      sum = std::max(sum, 0.0) +
            std::visit([](auto value) { return static_cast<double>(value); }, *number);
    }
    return sum;
  }
  bool warns_of(const std::string& words) const {
    return std::any_of(warnings.begin(), warnings.end(), [&](const std::string& text) {
      return text.find(words) != std::string::npos;
    });
  }
};

View view_of(const std::string& bus) {
  View view;
  auto snapshot = rankbus::read_bus_once(
      {bus, true}, {}, [&](const std::string& text) { view.warnings.push_back(text); });
  EXPECT_TRUE(snapshot) << snapshot.error();
  if (snapshot) view.snapshot = std::move(snapshot.value());
  return view;
}

TEST(UntrustedNames, Malicious_NamesOfOthers_AreRefusedAndTheRestOfTheStreamIsShown) {
  const Folder folder;
  Producer engine = open_as<rankbus::SchedulerStep>(folder.bus(), 0);
  Producer bad = open_as<hostile::Names>(folder.bus(), 1);
  ASSERT_FALSE(engine.inert() || bad.inert()) << bad.reason();
  rankbus::SchedulerStep step;
  step.num_running_reqs = 7;
  engine.record(step);
  hostile::Names names;
  names.up = names.scraped = names.memory = names.segments = names.mismatches = names.state = 666;
  names.running = names.preemptions = names.sample = names.steps = 666;
  names.tokens = 666;
  names.good = 5;
  bad.record(names);
  const View view = view_of(folder.bus());
  EXPECT_EQ(view.number("hostile_good_total"), 5);
  EXPECT_EQ(view.number("vllm:num_requests_running"), 7);
  EXPECT_EQ(view.family("vllm:num_requests_running")->type, FamilyType::gauge);
  EXPECT_EQ(view.number("rankbus_segments"), 2);
  EXPECT_EQ(view.number("rankbus_checkpoints_mismatches_total"), 0);
  for (const char* name : {"up", "scrape_duration_seconds", "rankbus_no_such_thing",
                           "vllm:generation_tokens_total", "vllm:num_preemptions_total",
                           "vllm:time_to_first_token_seconds_count", "rankbus_steps_total"}) {
    EXPECT_EQ(view.family(name), nullptr) << name;
    EXPECT_TRUE(view.warns_of(std::string("is not shown as ") + name + ":")) << name;
  }
  for (const Family& family : view.snapshot.families) {
    for (const Series& series : family.series) {
      const auto* number = std::get_if<Number>(&series.value);
      if (number == nullptr) continue;
      EXPECT_NE(std::visit([](auto value) { return static_cast<double>(value); }, *number), 666)
          << family.name;
    }
  }
  EXPECT_EQ(view.number("rankbus_refused_fields"), 11);
}

// Built-in records are what the names mean, from whichever process.
TEST(UntrustedNames, BuiltInTypes_AreAllShown) {
  const Folder folder;
  const rankbus::bus::RecordType* types[rankbus::kBuiltInTypes];
  rankbus::list_built_in_types(types);
  for (std::uint32_t t = 0; t < rankbus::kBuiltInTypes; ++t) {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.rank = t;
    options.records[0] = types[t];
    options.segment_bytes = 1;
    ASSERT_FALSE(Producer::open(options).inert()) << types[t]->name;
    // Dead at once, which its totals survive.
  }
  const View view = view_of(folder.bus());
  EXPECT_EQ(view.number("rankbus_refused_fields"), -1);
  for (const std::string& warning : view.warnings) ADD_FAILURE() << warning;
}

TEST(UntrustedNames, Malicious_SecondMeaningOfAName_IsRefused) {
  const Folder folder;
  Producer first = open_as<hostile::Early>(folder.bus(), 9);
  Producer second = open_as<hostile::Late>(folder.bus(), 1);
  hostile::Early early;
  early.what = 3;
  early.sum = 4;
  first.record(early);
  hostile::Late late;
  late.what = 1000;
  late.seconds = 1;
  late.own = 5;
  second.record(late);
  const View view = view_of(folder.bus());
  EXPECT_EQ(view.family("shared_name_total")->type, FamilyType::counter);
  EXPECT_EQ(view.number("shared_name_total"), 3);
  EXPECT_EQ(view.number("shared_seconds_sum"), 4);
  EXPECT_EQ(view.family("shared_seconds"), nullptr);
  EXPECT_EQ(view.number("late_total"), 5);
  EXPECT_EQ(view.number("rankbus_refused_fields"), 2);
  EXPECT_TRUE(view.warns_of("was first a counter of u64"));
}

// A name keeps its meaning while somebody has totals of it, dead or alive.
TEST(UntrustedNames, Malicious_SecondMeaningAfterTheFirstDied_IsRefused) {
  const Folder folder;
  const auto reader = open_bus(folder.bus(), false);
  ASSERT_TRUE(reader);
  {
    Producer first = open_as<hostile::Early>(folder.bus(), 0);
    hostile::Early early;
    early.what = 3;
    first.record(early);
  }
  full_pass(*reader);
  ASSERT_EQ(reader->retired_segments(), 1u);
  Producer second = open_as<hostile::Late>(folder.bus(), 0);
  full_pass(*reader);
  ASSERT_EQ(reader->live().size(), 1u);
  EXPECT_EQ(reader->live().begin()->second.reader->hidden_fields(), 2u);
}

// A rank whose labels never end has its share of series, and no more; what it counts is all there.
// C-25
TEST(SeriesBudget, Malicious_EndlessLabels_GoToOtherAndTheOtherRanksAreAllThere) {
  const Folder folder;
  Producer fine = open_as<llm_engine::Tile>(folder.bus(), 9);
  Producer wide = open_as<hostile::Wide>(folder.bus(), 1);
  const auto reader = open_bus(folder.bus(), false);
  ASSERT_TRUE(reader);
  std::set<rankbus::FieldKey> shown;
  std::uint64_t calls = 0, lines = 0;
  for (int round = 0; round < 60; ++round) {
    const auto who = wide.intern(("adapter " + std::to_string(round)).c_str());
    for (int n = 0; n < 3; ++n) {
      hostile::Wide record;
      record.who = static_cast<std::uint16_t>(who);
      record.n = 1;
      wide.record(record);
      fine.record(tile(calls++));
    }
    full_pass(*reader);
    ASSERT_EQ(reader->live().size(), 2u);
    const rankbus::LiveSegment& segment = reader->live().at(wide.segment_name());
    const rankbus::FieldValues values = rankbus::extract_values(*segment.reader);
    for (const rankbus::FieldKey& key : shown) EXPECT_EQ(values.count(key), 1u) << "disappeared";
    std::uint64_t sum = 0;
    lines = 0;
    for (const auto& [key, value] : values) {
      shown.insert(key);
      lines += value.bounds ? value.bounds->size() + 3 : 1;
      if (key.first == "wide_total") sum += value.bits;
    }
    EXPECT_EQ(sum, calls);
    EXPECT_LE(lines, rankbus::bus::kMaxSeriesPerSegment);
  }
  const rankbus::SegmentReader& bounded = *reader->live().at(wide.segment_name()).reader;
  EXPECT_GT(bounded.hidden_rows(), 0u);
  EXPECT_GT(lines, rankbus::bus::kMaxSeriesPerSegment / 2);
  EXPECT_EQ(shown.count({"wide_total", {{"who", "other"}}}), 1u);
  EXPECT_EQ(shown.count({"wide_total", {{"who", "adapter 0"}}}), 1u);
  const rankbus::SegmentReader& other = *reader->live().at(fine.segment_name()).reader;
  EXPECT_EQ(other.hidden_rows() + other.hidden_fields(), 0u);
  EXPECT_EQ(rankbus::extract_values(other).at({"tile_d", {}}).records, calls);
}

TEST(SeriesBudget, Malicious_MoreDeclaredThanAllowed_TheFirstFieldsAreShown) {
  namespace bus = rankbus::bus;
  const Folder folder;
  // Two types of 63 histograms each.
  static std::vector<std::string> texts;
  texts.reserve(300);
  std::vector<bus::FieldSpec> fields[2];
  bus::RecordType types[2];
  for (int t = 0; t < 2; ++t) {
    fields[t].push_back(llm_engine::Tile::RankbusRecord::kFields[0]);
    for (int f = 0; f < 63; ++f) {
      bus::FieldSpec field = llm_engine::Tile::RankbusRecord::kFields[4];
      field.bounds = rankbus::bounds::kIterationTokens;
      texts.push_back("many_" + std::to_string(t) + "_" + std::to_string(f));
      field.name = field.metric = texts.back().c_str();
      fields[t].push_back(field);
    }
    texts.push_back("many_" + std::to_string(t));
    types[t].name = texts.back().c_str();
    types[t].help = "Many";
    types[t].fields = fields[t].data();
    types[t].field_count = static_cast<std::uint32_t>(fields[t].size());
  }
  rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.records[0] = &types[0];
  options.records[1] = &types[1];
  Producer many = Producer::open(options);
  ASSERT_FALSE(many.inert()) << many.reason();
  Producer fine = open_as<llm_engine::Tile>(folder.bus(), 9);
  for (std::uint64_t n = 0; n < 10; ++n) fine.record(tile(n));
  const View view = view_of(folder.bus());
  EXPECT_NE(view.family("many_0_0"), nullptr);
  EXPECT_EQ(view.family("many_1_62"), nullptr);
  EXPECT_GT(view.number("rankbus_refused_fields"), 0);
  EXPECT_TRUE(view.warns_of("declares more than 2000 series"));
  EXPECT_NE(view.family("tile_d"), nullptr);
}

}  // namespace
}  // namespace bus_test
