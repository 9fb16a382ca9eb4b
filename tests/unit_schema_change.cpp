// Goal:   processes of one engine may declare a record type differently, as in a rolling upgrade or
// a
//         downgrade: fields that mean the same are one series, what differs is refused or kept
//         apart, counted and told; no sum is of two things, and no counter goes back.
// Method: record types made at run time, one of them changed in one thing; ranks with either start
//         in either order, end, and return with the other, and the bus is read by owners that
//         follow each other with a ledger between. What is exposed is held against what each rank
//         recorded.
// Replay: unit_schema_change [--gtest_filter=...]
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/reduce.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <rankbus/producer/producer_dynamic.hpp>

#include "ledger_world.hpp"

namespace bus_test {
namespace {

using rankbus::bus::FieldSpec;
using rankbus::bus::Reduction;
using rankbus::bus::Unit;

constexpr double kFewValues[] = {0.001, 0.01};
constexpr double kManyValues[] = {0.001, 0.005, 0.02};
constexpr rankbus::bus::Bounds kFew = rankbus::bus::bounds_of(kFewValues, -12, -2);
constexpr rankbus::bus::Bounds kMany = rankbus::bus::bounds_of(kManyValues, -12, -2);

// What one record adds to each family; fields are found by their metric, wherever they lie.
constexpr std::uint64_t kTokens = 3, kDepth = 5, kWait_ns = 2'000'000, kSpare = 1, kNew = 7;

struct Declaration {
  std::vector<FieldSpec> fields;
  const char* help = "Work done";

  FieldSpec& of(const std::string& metric) {
    for (FieldSpec& field : fields) {
      if (metric == field.metric) return field;
    }
    std::abort();
  }
};

FieldSpec field(FieldSpec spec, const char* name, Type type) {
  return rankbus::named(spec, name, type, 1, "Before the upgrade");
}

Declaration before() {
  using Make = rankbus::bus::SpecBuilders;
  return {{field(Make::stamp(), "stamp", Type::u64),
           field(Make::counter("work_tokens_total").in(Unit::tokens), "tokens", Type::u32),
           field(Make::gauge("work_depth").reduced(Reduction::sum), "depth", Type::u16),
           field(Make::distribution("work_wait_seconds", kFew).in(Unit::nanoseconds), "wait_ns",
                 Type::u64),
           field(Make::counter("work_spare_total"), "spare", Type::u64)}};
}

template <class Change>
Declaration after(Change&& change) {
  Declaration declaration = before();
  change(declaration);
  return declaration;
}

// A rank of the engine that records by one declaration.
class Rank {
 public:
  Rank(const std::string& bus, std::uint32_t rank, Declaration declaration)
      : declaration_(std::make_unique<Declaration>(std::move(declaration))),
        type_(std::make_unique<rankbus::bus::RecordType>()) {
    *type_ = {"work",
              declaration_->help,
              declaration_->fields.data(),
              static_cast<std::uint32_t>(declaration_->fields.size()),
              1,
              type_.get()};
    rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
    options.rank = rank;
    options.segment_bytes = 1;
    options.records[0] = type_.get();
    producer_ = rankbus::Producer::open(options);
    EXPECT_FALSE(producer_.inert()) << producer_.reason();
  }
  void work(std::uint64_t records) {
    std::vector<rankbus::FieldInput> inputs(declaration_->fields.size());
    for (std::size_t f = 0; f < inputs.size(); ++f) {
      const std::string metric = declaration_->fields[f].metric;
      inputs[f].raw = metric == "work_tokens_total"   ? kTokens
                      : metric == "work_depth"        ? kDepth
                      : metric == "work_wait_seconds" ? kWait_ns
                      : metric == "work_spare_total"  ? kSpare
                      : metric == "work_new_total"    ? kNew
                                                      : 0;
      if (declaration_->fields[f].type == Type::f64)
        inputs[f].raw = bits_of(static_cast<double>(inputs[f].raw));
    }
    for (std::uint64_t n = 0; n < records; ++n)
      rankbus::DynamicWriter::record(producer_, *type_, inputs.data());
  }
  std::string name() const { return producer_.segment_name(); }

 private:
  std::unique_ptr<Declaration> declaration_;
  std::unique_ptr<rankbus::bus::RecordType> type_;
  rankbus::Producer producer_;
};

// Each family once, its series together, every series once; buckets that ascend up to the count.
void expect_well_formed(const std::string& text) {
  std::set<std::string> families, series;
  std::string family, type, histogram;
  double last = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# HELP ", 0) == 0) continue;
    if (line.rfind("# TYPE ", 0) == 0) {
      std::istringstream words(line.substr(7));
      words >> family >> type;
      EXPECT_TRUE(families.insert(family).second) << family << " twice";
      continue;
    }
    const std::size_t space = line.rfind(' ');
    EXPECT_TRUE(series.insert(line.substr(0, space)).second) << line;
    EXPECT_EQ(line.rfind(family, 0), 0u) << line << " within " << family;
    if (type != "histogram") continue;
    const double value = std::strtod(line.c_str() + space, nullptr);
    const std::size_t le = line.find("le=\"");
    const bool is_count = line.rfind(family + "_count", 0) == 0;
    if (le == std::string::npos && !is_count) continue;
    if (is_count) {
      EXPECT_EQ(value, last) << line;
      last = 0;
    } else {
      EXPECT_GE(value, last) << line;
      last = value;
    }
  }
}

// A bus, its owner, and what it shows.
class SchemaChange : public testing::Test {
 protected:
  void SetUp() override { restart_owner(); }

  // Ends the owner in order, and starts the next one from its ledger.
  void restart_owner() {
    if (bus_) bus_->finish(now_s());
    bus_.reset();
    rankbus::BusOptions options;
    options.directory = folder_.bus();
    options.ledger.keep = true;
    auto opened = rankbus::BusReader::open(
        options, [this](const std::string& text) { warnings_.push_back(text); });
    ASSERT_TRUE(opened) << opened.error();
    bus_ = std::move(opened.value());
  }
  Rank start(std::uint32_t rank, Declaration declaration) const {
    return {folder_.bus(), rank, std::move(declaration)};
  }

  // Looks at the bus. Counters may not have gone back, but for histograms that `restarted`.
  void look(bool restarted = false) {
    full_pass(*bus_);
    // A second time: who died is retired by the first.
    full_pass(*bus_);
    rankbus::Snapshot snapshot = rankbus::make_snapshot(*bus_, feeds_, {}, now_s(), {});
    families_ = snapshot.families;
    std::string text;
    rankbus::render_prometheus_text(snapshot, {}, text);
    expect_well_formed(text);
    scrape_ = std::make_unique<Scrape>(text);
    if (restarted) {
      watch_ = std::make_unique<CounterWatch>();
    }
    watch_->see(*scrape_);
    EXPECT_EQ(total("rankbus_checkpoints_mismatches_total"), 0);
  }
  double total(const std::string& name) const { return scrape_->total(name); }
  // -1 if there is no such series.
  double bucket(const std::string& le) const {
    const auto at = scrape_->samples.find("work_wait_seconds_bucket{engine=\"0\",le=\"" + le +
                                          "\",model_name=\"test-model\"}");
    return at == scrape_->samples.end() ? -1 : at->second;
  }
  double observations() const { return total("work_wait_seconds_count"); }
  double refused(std::uint32_t rank) const {
    for (const auto& [series, value] : scrape_->samples) {
      if (series.rfind("rankbus_refused_fields{", 0) == 0 &&
          series.find("rank=\"" + std::to_string(rank) + "\"") != std::string::npos) {
        return value;
      }
    }
    return 0;
  }
  double created_s(const std::string& family) const {
    for (const rankbus::Family& each : families_) {
      if (each.name == family) return each.series.front().created_s;
    }
    return -1;
  }
  std::size_t warnings_of(const std::string& words) const {
    return static_cast<std::size_t>(std::count_if(
        warnings_.begin(), warnings_.end(),
        [&](const std::string& text) { return text.find(words) != std::string::npos; }));
  }

  Folder folder_;
  rankbus::Feeds feeds_{rankbus::AnalysisOptions{}};
  std::unique_ptr<rankbus::BusReader> bus_;
  std::vector<std::string> warnings_;
  std::vector<rankbus::Family> families_;
  std::unique_ptr<Scrape> scrape_;
  std::unique_ptr<CounterWatch> watch_ = std::make_unique<CounterWatch>();
};

struct Change {
  const char* name;
  Declaration declaration;
};

// Changes after which every field that both have is still the same.
std::vector<Change> harmless_changes() {
  using Make = rankbus::bus::SpecBuilders;
  return {
      {"nothing", before()},
      {"a field added", after([](Declaration& d) {
         d.fields.insert(d.fields.begin() + 1,
                         field(Make::counter("work_new_total"), "fresh", Type::u8));
       })},
      {"a field removed", after([](Declaration& d) { d.fields.pop_back(); })},
      {"a field renamed", after([](Declaration& d) { d.of("work_tokens_total").name = "made"; })},
      {"fields reordered",
       after([](Declaration& d) { std::reverse(d.fields.begin() + 1, d.fields.end()); })},
      {"help rewritten", after([](Declaration& d) {
         d.help = "Work that was done";
         d.of("work_tokens_total").help = d.of("work_wait_seconds").help = "After the upgrade";
       })},
      {"integers widened", after([](Declaration& d) {
         d.of("work_tokens_total").type = d.of("work_depth").type = Type::u64;
         d.of("work_wait_seconds").type = Type::u32;
       })},
  };
}

// C-32, C-35, C-37
TEST_F(SchemaChange, RollingUpgradeAndDowngrade_FieldsThatMeanTheSame_AreOneSeries) {
  for (const Change& change : harmless_changes()) {
    for (const bool old_first : {true, false}) {
      SCOPED_TRACE(std::string(change.name) + (old_first ? ", old first" : ", new first"));
      const bool has_spare = std::string(change.name) != "a field removed";
      const Declaration older = before();
      const Declaration& newer = change.declaration;
      std::uint64_t by_old = 0, by_new = 0;
      const auto expect_all = [&] {
        look();
        const auto all = static_cast<double>(by_old + by_new);
        EXPECT_EQ(total("work_tokens_total"), kTokens * all);
        EXPECT_EQ(observations(), all);
        EXPECT_EQ(bucket("0.001"), 0);
        EXPECT_EQ(bucket("0.01"), all);
        EXPECT_EQ(total("work_depth"), 2 * kDepth) << "both live";
        EXPECT_EQ(total("work_spare_total"),
                  kSpare * static_cast<double>(by_old + (has_spare ? by_new : 0)));
        EXPECT_EQ(total("rankbus_refused_fields"), 0);
      };
      std::optional<Rank> first(start(0, old_first ? older : newer));
      first->work(10);
      (old_first ? by_old : by_new) += 10;
      full_pass(*bus_);
      std::optional<Rank> second(start(1, old_first ? newer : older));
      second->work(20);
      (old_first ? by_new : by_old) += 20;
      expect_all();
      restart_owner();
      expect_all();
      // The upgrade is completed, or taken back, while nobody reads.
      bus_->finish(now_s());
      bus_.reset();
      first.reset();
      first.emplace(start(0, old_first ? newer : older));
      first->work(5);
      (old_first ? by_new : by_old) += 5;
      restart_owner();
      expect_all();
      second.reset();
      second.emplace(start(1, old_first ? older : newer));
      second->work(100);
      (old_first ? by_old : by_new) += 100;
      expect_all();
      restart_owner();
      expect_all();
      EXPECT_EQ(warnings_.size(), 0u) << warnings_.front();
      first.reset();
      second.reset();
      look();
      bus_->finish(now_s());
      bus_.reset();
      std::filesystem::remove_all(folder_.bus());
      watch_ = std::make_unique<CounterWatch>();
      restart_owner();
    }
  }
}

struct Clash {
  const char* name;
  Declaration declaration;
  const char* family;
  const char* told;  // What the warning says of the newer meaning.
};

std::vector<Clash> clashes() {
  using Make = rankbus::bus::SpecBuilders;
  const char* const tokens = "work_tokens_total";
  return {
      {"unit", after([&](Declaration& d) { d.of(tokens).unit = Unit::bytes; }), tokens,
       "a counter of u32 in bytes"},
      {"kind", after([&](Declaration& d) { d.of(tokens).kind = Kind::running_total; }), tokens,
       "a running total of u32"},
      {"a counter became a gauge", after([&](Declaration& d) { d.of(tokens).kind = Kind::gauge; }),
       tokens, "a gauge of u32"},
      {"whole numbers became fractions",
       after([&](Declaration& d) { d.of(tokens).type = Type::f64; }), tokens, "a counter of f64"},
      {"reduction", after([&](Declaration& d) { d.of(tokens).reduction = Reduction::each; }),
       tokens, "a counter of u32 in tokens, reduced by each rank"},
      {"reduction of a gauge",
       after([](Declaration& d) { d.of("work_depth").reduction = Reduction::max; }), "work_depth",
       "a gauge of u16, reduced by max"},
      {"a counter became a histogram", after([](Declaration& d) {
         d.of("work_spare_total") =
             field(Make::distribution("work_spare_total", kFew), "spare", Type::u64);
       }),
       "work_spare_total", "a distribution of u64"},
  };
}

// C-24, C-35, C-38
TEST_F(SchemaChange, FieldThatMeansSomethingElse_IsRefusedForTheLaterRankOnly) {
  for (const Clash& clash : clashes()) {
    for (const bool old_first : {true, false}) {
      SCOPED_TRACE(std::string(clash.name) + (old_first ? ", old first" : ", new first"));
      Rank first = start(0, old_first ? before() : clash.declaration);
      first.work(10);
      look();
      const double alone = total(clash.family);
      const std::string type = scrape_->types[clash.family];
      Rank second = start(1, old_first ? clash.declaration : before());
      second.work(20);
      const auto expect_first_stands = [&] {
        look();
        EXPECT_EQ(total(clash.family), alone);
        EXPECT_EQ(scrape_->types[clash.family], type);
        EXPECT_EQ(refused(0), 0);
        EXPECT_EQ(refused(1), 1);
        EXPECT_EQ(observations(), 30) << "everything else is there";
        if (clash.family != std::string("work_spare_total")) {
          EXPECT_EQ(total("work_spare_total"), 30);
        }
      };
      expect_first_stands();
      const std::string refusal = std::string("is not shown as ") + clash.family + ": it is ";
      EXPECT_EQ(warnings_of(refusal), 1u);
      EXPECT_EQ(warnings_of((old_first ? refusal : "but was first ") + clash.told), 1u);
      // Whoever reads next sees both at once; the older process still came first.
      restart_owner();
      expect_first_stands();
      std::filesystem::remove_all(folder_.bus());
      watch_ = std::make_unique<CounterWatch>();
      bus_.reset();
      warnings_.clear();
      restart_owner();
    }
  }
}

// C-35
TEST_F(SchemaChange, FirstMeaning_OutlivesItsProcessAndItsReaderWhileTotalsOfItAreKept) {
  const Declaration clash = after([](Declaration& d) {
    d.of("work_tokens_total").unit = Unit::bytes;
    d.of("work_depth").reduction = Reduction::max;
  });
  {
    Rank first = start(0, before());
    first.work(10);
    look();
  }
  look();
  restart_owner();
  Rank second = start(0, clash);
  second.work(20);
  look();
  EXPECT_EQ(total("work_tokens_total"), kTokens * 10);
  EXPECT_EQ(total("work_depth"), kDepth) << "nobody had anything of the gauge any more";
  EXPECT_EQ(refused(0), 1);
}

Declaration with_many_buckets() {
  return after([](Declaration& d) { d.of("work_wait_seconds").bounds = kMany; });
}

// C-35
TEST_F(SchemaChange, OtherBucketsWhileTheFirstLive_AreKeptApartCountedAndTold) {
  for (const bool few_first : {true, false}) {
    SCOPED_TRACE(few_first);
    // The later one has the lower rank once: the order of start decides, not that of names.
    const std::uint32_t later = few_first ? 1 : 0;
    Rank first = start(1 - later, few_first ? before() : with_many_buckets());
    first.work(10);
    look();
    const double began_s = created_s("work_wait_seconds");
    Rank second = start(later, few_first ? with_many_buckets() : before());
    second.work(20);
    const auto expect_apart = [&] {
      look();
      EXPECT_EQ(observations(), 10);
      EXPECT_EQ(bucket("0.005"), few_first ? -1 : 10);
      EXPECT_EQ(bucket("0.01"), few_first ? 10 : -1);
      EXPECT_EQ(total("work_tokens_total"), kTokens * 30.0) << "other families are one";
      EXPECT_EQ(refused(later), 1);
      EXPECT_EQ(refused(1 - later), 0);
      EXPECT_EQ(created_s("work_wait_seconds"), began_s);
    };
    expect_apart();
    expect_apart();
    EXPECT_EQ(warnings_of("work_wait_seconds has other buckets"), 1u) << "told once";
    restart_owner();
    expect_apart();
    EXPECT_EQ(warnings_of("work_wait_seconds has other buckets"), 2u) << "once by each reader";
    bus_.reset();
    std::filesystem::remove_all(folder_.bus());
    watch_ = std::make_unique<CounterWatch>();
    warnings_.clear();
    restart_owner();
  }
}

// C-35
TEST_F(SchemaChange, LastWithTheFirstBucketsIsGone_TheFamilyStartsAgainWithTheOthers) {
  std::optional<Rank> ranks[3];
  for (std::uint32_t r = 0; r < 3; ++r) {
    ranks[r].emplace(start(r, before()));
    ranks[r]->work(10);
  }
  look();
  EXPECT_EQ(observations(), 30);
  const double began_s = created_s("work_wait_seconds");
  const double tokens_began_s = created_s("work_tokens_total");
  // Rank after rank is upgraded; what the upgraded counted before stays in the sum.
  for (std::uint32_t r = 0; r < 2; ++r) {
    ranks[r].reset();
    look();
    ranks[r].emplace(start(r, with_many_buckets()));
    ranks[r]->work(100);
    look();
    EXPECT_EQ(observations(), 30) << "and neither less, nor mixed";
    EXPECT_EQ(bucket("0.01"), 30);
    EXPECT_EQ(refused(r), 1);
    EXPECT_EQ(created_s("work_wait_seconds"), began_s);
  }
  restart_owner();
  look();
  EXPECT_EQ(observations(), 30);
  ranks[2].reset();
  ranks[2].emplace(start(2, with_many_buckets()));
  ranks[2]->work(1);
  look(true);
  EXPECT_EQ(observations(), 201) << "all of the living, once";
  EXPECT_EQ(bucket("0.005"), 201);
  EXPECT_EQ(bucket("0.01"), -1);
  EXPECT_EQ(total("rankbus_refused_fields"), 0);
  EXPECT_EQ(total("work_tokens_total"), kTokens * 231.0) << "other families go on";
  EXPECT_EQ(warnings_of("no process with the former ones lives"), 1u);
  const double anew_s = created_s("work_wait_seconds");
  EXPECT_GT(anew_s, began_s);
  EXPECT_EQ(created_s("work_tokens_total"), tokens_began_s);
  restart_owner();
  look();
  EXPECT_EQ(observations(), 201);
  EXPECT_EQ(created_s("work_wait_seconds"), anew_s) << "the next reader knows";
}

// C-35
TEST_F(SchemaChange, DowngradeAfterTheFamilyStartedAgain_CountsNothingTwice) {
  std::optional<Rank> rank(start(0, before()));
  rank->work(10);
  look();
  for (const auto& [declaration, le] :
       {std::pair<Declaration, const char*>{with_many_buckets(), "0.005"}, {before(), "0.01"}}) {
    rank.reset();
    rank.emplace(start(0, declaration));
    rank->work(20);
    look(true);
    EXPECT_EQ(observations(), 20) << "not what had these buckets before";
    EXPECT_EQ(bucket(le), 20);
    restart_owner();
    look();
    EXPECT_EQ(observations(), 20);
  }
  rank.reset();
  look();
  rank.emplace(start(0, before()));
  rank->work(7);
  look();
  EXPECT_EQ(observations(), 27) << "a restart that changes nothing goes on";
  EXPECT_EQ(total("work_tokens_total"), kTokens * 57.0);
}

TEST_F(SchemaChange, EndsApart_IsToldAndLeavesNothingBehind) {
  std::optional<Rank> first(start(0, before()));
  first->work(10);
  look();
  {
    Rank canary = start(1, with_many_buckets());
    canary.work(20);
    look();
  }
  look();
  EXPECT_EQ(observations(), 10);
  EXPECT_EQ(total("work_tokens_total"), kTokens * 30.0);
  EXPECT_EQ(warnings_of("counted is lost, because its buckets are not the family's"), 1u);
  first.reset();
  look();
  EXPECT_EQ(observations(), 10) << "the dead keep what they have";
  Rank next = start(1, with_many_buckets());
  next.work(1);
  look(true);
  EXPECT_EQ(observations(), 1);
}

TEST_F(SchemaChange, TwoKindsOfBucketsInOneProcess_TheLaterFieldIsRefused) {
  Rank rank = start(0, after([](Declaration& d) {
                      FieldSpec second = d.of("work_wait_seconds");
                      second.name = "second_wait_ns";
                      second.bounds = kMany;
                      d.fields.push_back(second);
                    }));
  rank.work(10);
  look();
  EXPECT_EQ(observations(), 10);
  EXPECT_EQ(bucket("0.005"), -1);
  EXPECT_EQ(refused(0), 1);
  EXPECT_EQ(warnings_of("has other buckets than field wait_ns of the same process"), 1u);
}

// Another engine has buckets of its own: those of a model length, for one.
TEST_F(SchemaChange, EnginesOfDifferentModels_HaveTheirOwnBuckets) {
  Rank one = start(0, before());
  one.work(10);
  const Environment server("RANKBUS_SERVER", "other");
  Rank other = start(0, with_many_buckets());
  other.work(20);
  look();
  EXPECT_EQ(observations(), 30);
  EXPECT_EQ(total("rankbus_refused_fields"), 0);
  EXPECT_TRUE(warnings_.empty()) << warnings_.front();
}

}  // namespace
}  // namespace bus_test
