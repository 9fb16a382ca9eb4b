// Goal:   cache metrics are those of the events, counted plainly: the same whatever the split over
//         ranks, the order in which events come and the tree in which they are merged, and
//         untouched by any clock but the one that the caller reads.
// Method: seeded events over minutes, idle gaps included; a model that keeps every event and scans
//         them all; every way to ask for the time replaced by one that jumps and counts.
// Replay: RANKBUS_TEST_SEED=<printed> property_cache_metrics [--gtest_filter=...]
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cereal/archives/binary.hpp>
#include <cereal/types/array.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>
#include <span>
#include <sstream>
#include <vector>

#include "analysis_distributions.hpp"
#include "bus_fixture.hpp"

namespace {
std::atomic<std::uint64_t> clock_reads = 0;
std::atomic<std::int64_t> jump_s = 0;
}  // namespace

// Sanitizers have replacements of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CLOCKS_ARE_REPLACED 1
// In place of the C library's. Who reads the wall clock here gets a jump each time.
extern "C" int clock_gettime(clockid_t id, struct timespec* out) noexcept {
  ++clock_reads;
  const auto status = static_cast<int>(syscall(SYS_clock_gettime, id, out));
  if (id == CLOCK_REALTIME) out->tv_sec += jump_s;
  return status;
}
extern "C" time_t time(time_t* out) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
extern "C" int gettimeofday(struct timeval* out, void*) noexcept {
  out->tv_sec = time(nullptr);
  out->tv_usec = 0;
  return 0;
}
#else
#define CLOCKS_ARE_REPLACED 0
#endif

namespace bus_test {
namespace {

using rankbus::CacheEvictionReason;
using rankbus::CacheMetrics;
using rankbus::CacheWindowStats;
using rankbus::EvictionEvent;
using rankbus::MultiLevelCacheMetrics;
using rankbus::QuantileSketch;

constexpr std::int64_t kSecond_ns = 1'000'000'000;

enum class What { hit, miss, write, eviction };
struct Event {
  What what = What::hit;
  std::string level;
  std::int64_t time_ns = 0;
  std::uint64_t bytes = 0;
  std::uint64_t latency_ns = 0;
  std::uint64_t prefix = 0;  // Also the number of blocks and, by its rest, the reason.
  std::uint64_t length = 0;
};

CacheEvictionReason reason_of(const Event& event) {
  return static_cast<CacheEvictionReason>(event.prefix % 6);
}

std::vector<Event> random_events(Dice& dice, std::size_t count) {
  const std::vector<std::string> levels = {"prefix", "block", "kv", "encoder", "mine"};
  std::vector<Event> events(count);
  std::int64_t now_ns = static_cast<std::int64_t>(dice.below(1ULL << 50)) - (1LL << 49);
  for (Event& event : events) {
    now_ns += static_cast<std::int64_t>(dice.next() >> (34 + dice.below(20)));
    if (dice.one_in(500)) now_ns += static_cast<std::int64_t>(dice.below(100)) * kSecond_ns;
    event.what = static_cast<What>(dice.below(10) < 8 ? dice.below(2) : 2 + dice.below(2));
    event.level = levels[dice.below(levels.size())];
    event.time_ns = now_ns;
    event.bytes = dice.below(1 << 20);
    event.latency_ns = dice.one_in(4) ? 0 : dice.next() >> (24 + dice.below(40));
    event.prefix = dice.below(40);
    event.length = dice.below(8192);
  }
  return events;
}

void observe(MultiLevelCacheMetrics& caches, const Event& event) {
  CacheMetrics& cache = caches.level(event.level);
  switch (event.what) {
    case What::hit:
      if (event.level == "prefix") {
        caches.prefix().observe_prefix_hit(event.time_ns, event.prefix, event.length, event.bytes,
                                           event.latency_ns);
      } else {
        cache.observe_hit(event.time_ns, event.bytes, event.latency_ns);
      }
      return;
    case What::miss:
      cache.observe_miss(event.time_ns, event.bytes, event.latency_ns);
      return;
    case What::write:
      return cache.observe_write(event.time_ns, event.bytes);
    case What::eviction:
      return cache.observe_eviction(event.time_ns, event.prefix, reason_of(event), event.bytes / 2,
                                    event.latency_ns);
  }
}

// All that is told, but for what depends on the order in which one sees things by its nature: the
// past peak of a size, and what was late or inconsistent when it came.
nlohmann::ordered_json told(const MultiLevelCacheMetrics& caches, std::int64_t now_ns) {
  nlohmann::ordered_json all = rankbus::summary(caches, now_ns);
  for (auto& [name, level] : all["levels"].items()) {
    for (const char* key : {"peak_size_bytes", "late_events", "size_inconsistencies"}) {
      level["cache_stats"].erase(key);
    }
  }
  for (const char* key : {"memory_pressure", "utilization"}) all.erase(key);
  return all;
}

std::vector<std::int64_t> moments(const std::vector<Event>& events, Dice& dice) {
  std::vector<std::int64_t> out;
  for (int i = 0; i < 5; ++i) {
    out.push_back(events[dice.below(events.size())].time_ns +
                  static_cast<std::int64_t>(dice.below(70)) * kSecond_ns);
  }
  out.push_back(events.back().time_ns);
  return out;
}

// S2-10, S2-11
TEST(CacheMetrics, AnySplitOrderAndTree_TellsTheSame) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(30); ++round) {
    std::vector<Event> events = random_events(dice, 200 + dice.below(3000));
    MultiLevelCacheMetrics whole;
    for (const Event& event : events) observe(whole, event);
    const std::vector<std::int64_t> at = moments(events, dice);
    std::vector<MultiLevelCacheMetrics> parts(1 + dice.below(7));
    if (dice.one_in(2)) {
      for (std::size_t i = events.size(); i > 1; --i) {
        std::swap(events[i - 1], events[dice.below(i)]);
      }
    }
    for (const Event& event : events) observe(parts[dice.below(parts.size())], event);
    while (parts.size() > 1) {
      const std::size_t left = dice.below(parts.size() - 1);
      if (dice.one_in(2)) std::swap(parts[left], parts[left + 1]);
      parts[left].aggregate(parts[left + 1]);
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(left) + 1);
    }
    for (const std::int64_t now_ns : at) {
      ASSERT_EQ(told(parts[0], now_ns).dump(1), told(whole, now_ns).dump(1)) << "round " << round;
    }
  }
}

// Every event kept, every question a scan of all of them.
struct Model {
  std::span<const Event> events;
  std::string level;

  template <class Each>
  void for_each(std::int64_t since_ns, std::int64_t now_ns, Each&& each) const {
    for (const Event& event : events) {
      if (event.level == level && event.time_ns >= since_ns && event.time_ns <= now_ns) each(event);
    }
  }
};

void expect_window(const CacheWindowStats& told, const Model& model, std::int64_t since_ns,
                   std::int64_t now_ns) {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  double bytes = 0;
  double latency_sum = 0;
  std::int64_t first_ns = 0;
  std::int64_t last_ns = 0;
  rankbus::test::Values latencies;
  model.for_each(since_ns, now_ns, [&](const Event& event) {
    if (event.what != What::hit && event.what != What::miss) return;
    if (hits + misses == 0) first_ns = event.time_ns;
    last_ns = event.time_ns;
    ++(event.what == What::hit ? hits : misses);
    bytes += static_cast<double>(event.bytes);
    if (event.latency_ns == 0) return;
    latencies.push_back(event.latency_ns);
    latency_sum += static_cast<double>(event.latency_ns);
  });
  std::sort(latencies.begin(), latencies.end());
  ASSERT_EQ(told.hits, hits);
  ASSERT_EQ(told.misses, misses);
  const auto lookups = static_cast<double>(hits + misses);
  ASSERT_DOUBLE_EQ(told.hit_rate, lookups == 0 ? 0 : static_cast<double>(hits) / lookups);
  const auto n = static_cast<double>(latencies.size());
  ASSERT_NEAR(told.avg_latency_ns, n == 0 ? 0 : latency_sum / n, 1e-9 * (latency_sum + 1));
  for (const auto& [estimate, share] :
       {std::pair(told.p50_latency_ns, 0.5), std::pair(told.p99_latency_ns, 0.99)}) {
    const auto exact = static_cast<double>(rankbus::test::exact_quantile(latencies, share));
    ASSERT_LE(std::abs(estimate - exact), exact * QuantileSketch::kRelativeError * (1 + 1e-9));
  }
  const double span_s = static_cast<double>(last_ns - first_ns) / 1e9;
  ASSERT_NEAR(told.window_duration_s, span_s, 1e-6);
  if (span_s > 0.01) {
    ASSERT_NEAR(told.bytes_per_second, bytes / span_s, 1e-3 * bytes / span_s);
  }
}

// S2-06, S2-07, S2-08, S2-09, S2-11: within what the window says that it covers, exactly the
// events.
TEST(CacheMetrics, EveryWindow_IsThatOfAScanOfAllEvents) {
  Dice dice(test_seed() + 1);
  for (std::uint64_t round = 0; round < scaled(30); ++round) {
    const std::vector<Event> events = random_events(dice, 200 + dice.below(3000));
    MultiLevelCacheMetrics caches;
    std::size_t next = 0;
    for (const std::size_t stop : {events.size() / 3, events.size() / 2, events.size()}) {
      for (; next < stop; ++next) observe(caches, events[next]);
      const std::int64_t now_ns =
          events[next - 1].time_ns + static_cast<std::int64_t>(dice.below(3)) * kSecond_ns / 2;
      caches.for_each_level([&](const std::string& name, const CacheMetrics& cache) {
        const CacheWindowStats told = cache.window_stats(now_ns);
        ASSERT_GE(told.covered_s, 59 - 1e-6);
        ASSERT_LE(told.covered_s, 60 + 1e-6);
        // Slots of 1 s, aligned to it.
        std::int64_t since_ns = now_ns - 60 * kSecond_ns;
        const std::int64_t rest = ((since_ns % kSecond_ns) + kSecond_ns) % kSecond_ns;
        since_ns += kSecond_ns - rest;
        expect_window(told, Model{{events.data(), next}, name}, since_ns, now_ns);
      });
      if (HasFatalFailure()) return;
    }
  }
}

// S2-14, S2-17, S2-20, S2-22, S2-23
TEST(CacheMetrics, TotalsAndEvictions_AreThoseOfAScanOfAllEvents) {
  Dice dice(test_seed() + 2);
  for (std::uint64_t round = 0; round < scaled(30); ++round) {
    const std::vector<Event> events = random_events(dice, 100 + dice.below(2000));
    MultiLevelCacheMetrics caches;
    for (const Event& event : events) observe(caches, event);
    const std::int64_t now_ns = events.back().time_ns;
    caches.for_each_level([&](const std::string& name, const CacheMetrics& cache) {
      std::map<CacheEvictionReason, std::uint64_t> by_reason;
      std::uint64_t read = 0, written = 0, freed = 0, blocks = 0, recent = 0, older = 0;
      const std::int64_t span_ns = static_cast<std::int64_t>(1 + dice.below(300)) * kSecond_ns;
      Model{events, name}.for_each(events.front().time_ns, now_ns, [&](const Event& event) {
        if (event.what == What::hit) read += event.bytes;
        if (event.what == What::write) written += event.bytes;
        if (event.what != What::eviction) return;
        freed += event.bytes / 2;
        blocks += event.prefix;
        ++by_reason[reason_of(event)];
        if (event.time_ns > now_ns - span_ns) ++recent;
        // Of the age that no ring may leave out: 1/64 of the span, or 17 ms, younger.
        const std::int64_t slack_ns = std::max<std::int64_t>(span_ns / 63, 17'000'000);
        if (event.time_ns > now_ns - span_ns + slack_ns) ++older;
      });
      const rankbus::CacheStats stats = cache.stats();
      ASSERT_EQ(stats.total_bytes_read, read);
      ASSERT_EQ(stats.total_bytes_written, written);
      ASSERT_EQ(stats.total_bytes_freed, freed);
      ASSERT_EQ(stats.total_evicted_blocks, blocks);
      ASSERT_EQ(stats.current_size_bytes, written > freed ? written - freed : 0);
      std::map<CacheEvictionReason, std::uint64_t> breakdown;
      for (const auto& [reason, count] : cache.eviction_breakdown()) breakdown[reason] = count;
      ASSERT_EQ(breakdown, by_reason);
      const double counted =
          cache.eviction_rate(now_ns, span_ns) * static_cast<double>(span_ns) / 1e9;
      ASSERT_LE(counted, static_cast<double>(recent) + 1e-6);
      ASSERT_GE(counted, static_cast<double>(older) - 1e-6);
    });
    if (HasFatalFailure()) return;
  }
}

// S2-13
TEST(CacheMetrics, WallClockThatJumps_ChangesNothingBecauseNobodyReadsIt) {
  if (!CLOCKS_ARE_REPLACED) GTEST_SKIP() << "skipped: a sanitizer owns the clocks";
  Dice dice(test_seed() + 3);
  const std::vector<Event> events = random_events(dice, 2000);
  const auto run = [&](std::int64_t jump_each_s) {
    MultiLevelCacheMetrics caches;
    for (const Event& event : events) {
      jump_s += jump_each_s;
      observe(caches, event);
    }
    std::string all;
    for (int i = 0; i < 70; i += 10) {
      jump_s -= 40 * jump_each_s;
      all += told(caches, events.back().time_ns + i * kSecond_ns).dump();
    }
    return all;
  };
  const std::uint64_t reads_before = clock_reads;
  const std::string steady = run(0);
  const std::string jumping = run(86'400);
  EXPECT_EQ(clock_reads, reads_before) << "every call says its time";
  EXPECT_EQ(steady, jumping);
  (void)std::chrono::system_clock::now();
  EXPECT_GT(clock_reads, reads_before) << "reads of clocks are seen at all";
  jump_s = 0;
}

TEST(CacheMetrics, Stored_TellsTheSameAndGoesOn) {
  Dice dice(test_seed() + 4);
  const std::vector<Event> events = random_events(dice, 3000);
  MultiLevelCacheMetrics caches;
  for (std::size_t i = 0; i < 2000; ++i) observe(caches, events[i]);
  caches.level("kv").set_capacity(1'000'000'000);
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(caches);
  MultiLevelCacheMetrics read;
  cereal::BinaryInputArchive input(bytes);
  input(read);
  for (std::size_t i = 2000; i < events.size(); ++i) {
    observe(caches, events[i]);
    observe(read, events[i]);
  }
  const std::int64_t now_ns = events.back().time_ns;
  EXPECT_EQ(rankbus::summary(read, now_ns).dump(1), rankbus::summary(caches, now_ns).dump(1));
}

}  // namespace
}  // namespace bus_test
