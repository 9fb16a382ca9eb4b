// Goal:   however the records of an engine are spread over writers, periods and merges, its
//         statistics come out as if one process had seen them all.
// Method: seeded records of every kind with stamps of their own, given to one object and to many;
//         the many are merged in random order, as writers and as engines, and a collector commits
//         now and then.
// Replay: RANKBUS_TEST_SEED=<printed> property_scheduler_stats [--gtest_filter=...]
#include <cmath>
#include <map>
#include <rankbus/aggregator/analysis/scheduler_stats_collector.hpp>
#include <string>
#include <vector>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::analysis::KvBlocks;
using rankbus::analysis::KvCacheEvictionEvent;
using rankbus::analysis::SchedulerStats;
using rankbus::analysis::SchedulerStatsCollector;

struct Record {
  std::int64_t stamp_ns;
  std::uint64_t kind;
  std::uint64_t seed;
};

std::vector<Record> random_records(Dice& dice, std::uint64_t most) {
  std::vector<Record> records(dice.below(most + 1));
  std::int64_t stamp = static_cast<std::int64_t>(dice.below(1000)) - 500;
  for (Record& record : records) {
    stamp += 1 + static_cast<std::int64_t>(dice.below(5));
    record = {stamp, dice.below(11), dice.next()};
  }
  return records;
}

double random_ms(Dice& dice) {
  return static_cast<double>(dice.below(1'000'000'000)) / 997;
}

template <class Part>
Part& part_of(std::optional<Part>& part) {
  return part ? *part : part.emplace();
}

std::map<std::string, std::uint64_t> random_adapters(Dice& dice) {
  std::map<std::string, std::uint64_t> adapters;
  const std::uint64_t names = dice.one_in(4) ? 100 : 5;
  for (std::uint64_t i = dice.below(names); i > 0; --i) {
    adapters["lora" + std::to_string(dice.below(200))] = dice.below(9);
  }
  return adapters;
}

void apply(const Record& record, SchedulerStats& stats, std::uint32_t positions = 4) {
  Dice dice(record.seed);
  const auto small = [&] { return dice.below(50); };
  switch (record.kind) {
    case 0:
      stats.record_step(record.stamp_ns, small(), small(), static_cast<double>(small()) / 50);
      break;
    case 1:
      stats.record_step(record.stamp_ns, small(), small(), KvBlocks{small(), 50});
      break;
    case 2:
      stats.prefix_cache.record(small(), small(), dice.one_in(20));
      break;
    case 3:
      part_of(stats.connector_prefix_cache).record(small(), small());
      break;
    case 4: {
      const std::vector<std::int64_t> accepted = {static_cast<std::int64_t>(dice.below(9)) - 1, 0};
      if (!stats.spec_decoding) stats.spec_decoding.emplace(positions);
      stats.spec_decoding->observe_draft(small(), small(), accepted);
      break;
    }
    case 5:
      part_of(stats.cuda_graphs).record_capture(random_ms(dice), random_ms(dice));
      part_of(stats.cuda_graphs).record_replay(dice.one_in(9) ? -1 : random_ms(dice));
      break;
    case 6:
      part_of(stats.perf).record_step(random_ms(dice), random_ms(dice), random_ms(dice));
      part_of(stats.perf).record_all_reduce(random_ms(dice));
      break;
    case 7:
      stats.record_eviction(KvCacheEvictionEvent::at_untrusted(
          {record.stamp_ns, 0}, "r" + std::to_string(record.stamp_ns), small(),
          dice.one_in(2) ? "timeout" : "x" + std::to_string(dice.below(100))));
      break;
    case 8:
      stats.set_lora_adapters_untrusted(record.stamp_ns, random_adapters(dice),
                                        random_adapters(dice));
      break;
    case 9:
      part_of(stats.kv_connector).add_untrusted("key" + std::to_string(dice.below(100)), small());
      break;
    default:
      stats.set_current_wave(record.stamp_ns, small());
  }
}

// With a number of positions of its own.
SchedulerStats random_stats(Dice& dice, std::uint64_t most) {
  SchedulerStats stats;
  const auto positions = static_cast<std::uint32_t>(dice.below(8));
  if (dice.one_in(3)) stats.spec_decoding.emplace(positions);
  for (const Record& record : random_records(dice, most)) apply(record, stats, positions);
  return stats;
}

// All that anybody can see of it.
std::string seen(const SchedulerStats& stats) {
  return stats.as_dict().dump() + stats.to_prometheus();
}

// Merges neighbours in random order until one is left.
template <class Merge>
SchedulerStats merged(std::vector<SchedulerStats> parts, Dice& dice, Merge merge) {
  while (parts.size() > 1) {
    const std::size_t into = dice.below(parts.size());
    const std::size_t from = (into + 1 + dice.below(parts.size() - 1)) % parts.size();
    merge(parts[into], parts[from]);
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(from));
  }
  return parts.front();
}

constexpr auto kAsWriters = [](SchedulerStats& into, const SchedulerStats& from) {
  into.aggregate(from);
};
constexpr auto kAsEngines = [](SchedulerStats& into, const SchedulerStats& from) {
  into.aggregate_engine(from);
};

TEST(SchedulerStats, WritersOfOneEngine_MergeToWhatOneProcessSaw) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(300); round > 0; --round) {
    const std::vector<Record> records = random_records(dice, dice.one_in(20) ? 20'000 : 200);
    std::vector<SchedulerStats> parts(1 + dice.below(6));
    for (const Record& record : records) apply(record, parts[dice.below(parts.size())]);
    SchedulerStats one;
    for (const Record& record : records) apply(record, one);
    ASSERT_EQ(seen(merged(parts, dice, kAsWriters)), seen(one));
  }
}

template <class Merge>
void expect_associative_and_commutative(Merge merge) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(500); round > 0; --round) {
    const std::uint64_t most = dice.one_in(20) ? 9000 : 60;
    const SchedulerStats a = random_stats(dice, most);
    const SchedulerStats b = random_stats(dice, most);
    const SchedulerStats c = random_stats(dice, most);
    const auto sum = [&](SchedulerStats left, const SchedulerStats& right) {
      merge(left, right);
      return left;
    };
    ASSERT_EQ(sum(a, b), sum(b, a));
    ASSERT_EQ(sum(sum(a, b), c), sum(a, sum(b, c)));
    ASSERT_EQ(sum(a, SchedulerStats{}), a);
    ASSERT_EQ(sum(SchedulerStats{}, a), a);
  }
}

TEST(SchedulerStats, MergeOfWriters_IsAssociativeAndCommutative) {
  expect_associative_and_commutative(kAsWriters);
}

TEST(SchedulerStats, MergeOfEngines_IsAssociativeAndCommutative) {
  expect_associative_and_commutative(kAsEngines);
}

// S0-35, S0-38
TEST(SchedulerStatsCollector, Commits_ChangeNoTotal) {
  Dice dice(test_seed());
  for (std::uint64_t round = scaled(300); round > 0; --round) {
    SchedulerStatsCollector often = SchedulerStatsCollector::create(3).value();
    SchedulerStatsCollector never = SchedulerStatsCollector::create(3).value();
    double hits = 0;
    for (const Record& record : random_records(dice, 300)) {
      apply(record, often.current());
      apply(record, never.current());
      if (dice.one_in(7)) often.commit();
      const auto now = static_cast<double>(often.totals().prefix_cache.num_hits());
      ASSERT_GE(now, hits);
      hits = now;
    }
    ASSERT_EQ(seen(often.totals()), seen(never.totals()));
    ASSERT_EQ(often.drain_events(), never.drain_events());
  }
}

}  // namespace
}  // namespace bus_test
