// Goal:   what an engine shows of its ranks is what brute force makes of all their records, in
// every
//         shape: ranks that are late, missing, doubled by lanes, restarted, quarantined or gone.
// Method: seeded deployments of some engines with ranks and lanes; a record type with a gauge of
// each
//         reduction and counters; records with stamps in any order between processes. The oracle
//         keeps every record and reduces by plain loops when asked. Splits of built-in counters and
//         histograms are in property_splits.
// Replay: RANKBUS_TEST_SEED=<printed> property_rank_gauges [--gtest_filter=...]
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace shapes {

#define SHAPES_LOAD_ROWS(FIELD, OPTIONAL, ARRAY)                                          \
  FIELD(std::uint64_t, at, stamp(), "When")                                               \
  FIELD(std::uint64_t, sum, gauge("load_sum").reduced(Reduction::sum), "Sum")             \
  FIELD(std::int64_t, most, gauge("load_max").reduced(Reduction::max), "Largest")         \
  FIELD(std::int64_t, least, gauge("load_min").reduced(Reduction::min), "Smallest")       \
  FIELD(double, mean, gauge("load_mean").reduced(Reduction::mean), "Mean")                \
  FIELD(std::uint64_t, first, gauge("load_leader").reduced(Reduction::leader),            \
        "Of the first rank")                                                              \
  FIELD(std::uint64_t, newest, gauge("load_newest").reduced(Reduction::newest), "Newest") \
  FIELD(std::uint64_t, own, gauge("load_each").reduced(Reduction::each), "Of each")       \
  FIELD(std::uint64_t, work, counter("load_work_total"), "Work")                          \
  FIELD(double, joules, counter("load_joules_total"), "Energy")
RANKBUS_RECORD(Load, "load", 1, "What a rank carries", SHAPES_LOAD_ROWS)

}  // namespace shapes

namespace bus_test {
namespace {

using rankbus::Family;
using rankbus::Labels;
using rankbus::Producer;
using shapes::Load;

// One process: what it is, and every record that it ever wrote.
struct Process {
  std::uint32_t engine = 0, rank = 0, lane = 0;
  Producer producer;
  std::vector<Load> records;
  bool is_alive = true;
  bool is_quarantined = false;
};

class Deployment {
 public:
  explicit Deployment(Dice& dice) : dice_(dice), bus_(open_bus(folder_.bus(), false)) {
    const std::uint32_t engines = 1 + static_cast<std::uint32_t>(dice.below(3));
    for (std::uint32_t engine = 0; engine < engines; ++engine) {
      const std::uint32_t ranks = 1 + static_cast<std::uint32_t>(dice.below(6));
      for (std::uint32_t rank = 0; rank < ranks; ++rank) {
        // Missing from the beginning.
        if (dice.one_in(6)) continue;
        start(engine, rank);
        if (dice.one_in(5)) start(engine, rank);
      }
    }
  }

  void act() {
    if (processes_.empty()) return;
    Process& one = *processes_[dice_.below(processes_.size())];
    switch (dice_.below(20)) {
      case 0:
        if (one.is_alive) end(one);
        break;
      case 1:
        if (one.is_alive) end(one);
        start(one.engine, one.rank);
        break;
      case 2:
        if (one.is_alive && dice_.one_in(4)) spoil(one);
        break;
      case 3:
        full_pass(*bus_);
        break;
      default:
        if (one.is_alive && !one.is_quarantined) record(one);
    }
  }

  void expect_brute_force() {
    full_pass(*bus_);
    rankbus::FamilyBuilder builder;
    rankbus::reduce_records(*bus_, rankbus::collect_values(*bus_), now_s(), {}, builder);
    std::map<std::pair<std::string, std::uint32_t>, double> shown;
    std::map<std::string, double> each;
    for (const Family& family : builder.take()) {
      for (const rankbus::Series& series : family.series) {
        const double value = std::visit([](auto number) { return static_cast<double>(number); },
                                        std::get<rankbus::Number>(series.value));
        const auto engine = static_cast<std::uint32_t>(std::stoul(series.engine));
        if (family.name == "load_each") {
          each[place(engine, label(series.labels, "rank"), label(series.labels, "lane"))] = value;
        } else {
          shown[{family.name, engine}] = value;
        }
      }
    }
    const auto wanted = reduced();
    ASSERT_EQ(shown.size(), wanted.size());
    for (const auto& [key, value] : wanted) {
      ASSERT_EQ(shown.count(key), 1u) << key.first << " of engine " << key.second;
      EXPECT_NEAR(shown.at(key), value, 1e-9 * std::abs(value))
          << key.first << " of engine " << key.second;
    }
    EXPECT_EQ(each, of_each());
  }

 private:
  using Reduced = std::map<std::pair<std::string, std::uint32_t>, double>;

  static std::string label(const Labels& labels, const std::string& name) {
    for (const auto& [key, value] : labels) {
      if (key == name) return value;
    }
    return "0";
  }
  static std::string place(std::uint32_t engine, const std::string& rank, const std::string& lane) {
    return std::to_string(engine) + "/" + rank + "/" + lane;
  }

  void start(std::uint32_t engine, std::uint32_t rank) {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.engine = engine;
    options.rank = rank;
    options.records[0] = rankbus::record_type<Load>();
    options.segment_bytes = 1;
    auto process = std::make_unique<Process>();
    process->engine = engine;
    process->rank = rank;
    process->producer = Producer::open(options);
    ASSERT_FALSE(process->producer.inert()) << process->producer.reason();
    process->lane = process->producer.lane();
    processes_.push_back(std::move(process));
  }
  // Stamps never repeat, and come in any order over the processes.
  void record(Process& one) {
    Load load;
    load.at = 1'000 * ++clock_ + dice_.below(1'000);
    load.sum = dice_.below(1'000);
    load.most =
        2 * static_cast<std::int64_t>(dice_.below(1'000)) - 1'000;  // Never -1, which is absent.
    load.least = 2 * static_cast<std::int64_t>(dice_.below(1'000)) - 1'000;
    load.mean = static_cast<double>(dice_.below(1'000)) / 16;
    load.first = dice_.below(1'000);
    load.newest = dice_.below(1'000);
    load.own = dice_.below(1'000);
    load.work = dice_.below(1'000);
    load.joules = static_cast<double>(dice_.below(1'000)) / 16;
    one.producer.record(load);
    one.records.push_back(load);
  }
  void end(Process& one) {
    one.producer.close();
    one.is_alive = false;
  }
  // Takes back what was published, once all of it was read.
  void spoil(Process& one) {
    if (one.records.empty() || one.is_quarantined) return;
    full_pass(*bus_);
    const std::string path = folder_.bus() + "/" + one.producer.segment_name();
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const std::uint64_t none = 0;
    EXPECT_EQ(pwrite(fd, &none, sizeof none, rankbus::bus::kActivityOffset), 8);
    close(fd);
    full_pass(*bus_);
    one.is_quarantined = true;
  }

  // The last records of those who say how it is now, in the order of ranks and lanes.
  std::vector<const Process*> speakers(std::uint32_t engine) const {
    std::vector<const Process*> found;
    for (const auto& process : processes_) {
      const bool speaks =
          process->is_alive && !process->is_quarantined && !process->records.empty();
      if (speaks && process->engine == engine) found.push_back(process.get());
    }
    std::sort(found.begin(), found.end(), [](const Process* a, const Process* b) {
      return std::pair(a->rank, a->lane) < std::pair(b->rank, b->lane);
    });
    return found;
  }

  Reduced reduced() const {
    Reduced all;
    for (const auto& process : processes_) {
      double& work = all[{"load_work_total", process->engine}];
      double& joules = all[{"load_joules_total", process->engine}];
      for (const Load& load : process->records) {
        work += static_cast<double>(load.work);
        joules += load.joules;
      }
    }
    for (std::uint32_t engine = 0; engine < 3; ++engine) {
      const std::vector<const Process*> ranks = speakers(engine);
      if (ranks.empty()) continue;
      double sum = 0, mean = 0;
      std::int64_t most = ranks[0]->records.back().most, least = ranks[0]->records.back().least;
      const Load* newest = &ranks[0]->records.back();
      const Load* leader = newest;
      for (const Process* rank : ranks) {
        const Load& last = rank->records.back();
        sum += static_cast<double>(last.sum);
        mean += last.mean;
        most = std::max(most, last.most);
        least = std::min(least, last.least);
        if (last.at > newest->at) newest = &last;
        // Of several lanes of the first rank, who spoke last.
        if (rank->rank == ranks[0]->rank && last.at > leader->at) leader = &last;
      }
      all[{"load_sum", engine}] = sum;
      all[{"load_mean", engine}] = mean / static_cast<double>(ranks.size());
      all[{"load_max", engine}] = static_cast<double>(most);
      all[{"load_min", engine}] = static_cast<double>(least);
      all[{"load_newest", engine}] = static_cast<double>(newest->newest);
      all[{"load_leader", engine}] = static_cast<double>(leader->first);
    }
    return all;
  }
  std::map<std::string, double> of_each() const {
    std::map<std::string, double> all;
    for (std::uint32_t engine = 0; engine < 3; ++engine) {
      for (const Process* one : speakers(engine)) {
        all[place(engine, std::to_string(one->rank), std::to_string(one->lane))] =
            static_cast<double>(one->records.back().own);
      }
    }
    return all;
  }

  Dice& dice_;
  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "one-run"};
  std::unique_ptr<rankbus::BusReader> bus_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::uint64_t clock_ = 0;
};

// C-36
TEST(RankGauges, AnyShapeWithLateMissingDoubledAndRestartedRanks_EqualsBruteForce) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(40); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Deployment deployment(dice);
    for (int look = 0; look < 4; ++look) {
      for (std::uint64_t acts = dice.below(60); acts > 0; --acts) deployment.act();
      ASSERT_NO_FATAL_FAILURE(deployment.expect_brute_force());
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace bus_test
