// Goal:   levels of caches have the hits, windows and sizes of what was recorded, whoever wrote it.
// Method: as unit_analysis_feed.
#include "unit_analysis_lib.hpp"

namespace bus_test {
namespace {

TEST(AnalysisFeed, Caches_ByLevel) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  record_lookup(scheduler, "prefix", 100 * kSecond, 3, 1, 0xABC, 64);
  record_lookup(scheduler, "prefix", 101 * kSecond, 1, 0, 0xABC, 32);
  record_lookup(scheduler, "prefix", 102 * kSecond, 0, 5, 0, 96);
  record_lookup(scheduler, "my tier", 103 * kSecond, 1, 1);
  record_storage(scheduler, "kv", 103 * kSecond, 1000, 4000);
  record_storage(scheduler, "kv", 104 * kSecond, 500);
  reader.pass();
  record_cache_eviction(scheduler, "kv", 105 * kSecond, 300);
  const json caches = reader.analysis()["caches"];
  const json& prefix = caches["levels"]["prefix"];
  EXPECT_EQ(prefix["cache_stats"]["total_hits"], 4);
  EXPECT_EQ(prefix["cache_stats"]["total_misses"], 6);
  EXPECT_DOUBLE_EQ(prefix["window_stats"]["hit_rate"], 0.4);
  EXPECT_DOUBLE_EQ(caches["combined_hit_rate"], 5.0 / 12);
  EXPECT_DOUBLE_EQ(caches["prefixes"]["distinct_prefixes"], 1);
  EXPECT_EQ(caches["prefixes"]["most_shared"][0]["prefix"], std::to_string(0xABC));
  EXPECT_EQ(caches["prefixes"]["most_shared"][0]["hits_at_least"], 2);
  EXPECT_EQ(caches["levels"]["kv"]["cache_stats"]["current_size_bytes"], 1200);
  EXPECT_EQ(caches["levels"]["kv"]["cache_stats"]["peak_size_bytes"], 1500);
  EXPECT_EQ(caches["levels"]["kv"]["cache_stats"]["capacity_bytes"], 4000);
  EXPECT_EQ(caches["levels"]["kv"]["eviction_breakdown"]["memory_pressure"], 1);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_cache_window_hit_ratio", {{"level", "my tier"}}), 0.5);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_prefix_sharing_factor"), 2);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_prefix_length_tokens", {{"stat", "mean"}}), 64);
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 1200);
  EXPECT_EQ(reader.value("rankbus_cache_capacity_bytes", {{"level", "kv"}}), 4000);
  EXPECT_EQ(reader.value("rankbus_cache_hits_total", {{"level", "prefix"}}), 4);
}

// A window is of the records' own time: old events leave it when newer ones come.
TEST(AnalysisFeed, WindowsEndByTheRecordsTime) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  record_lookup(scheduler, "kv", 100 * kSecond, 1, 0);
  EXPECT_EQ(reader.value("rankbus_cache_window_lookups", {{"level", "kv"}}), 1);
  record_lookup(scheduler, "kv", 170 * kSecond, 0, 1);
  EXPECT_EQ(reader.value("rankbus_cache_window_lookups", {{"level", "kv"}}), 1);
  EXPECT_EQ(reader.value("rankbus_cache_window_hit_ratio", {{"level", "kv"}}), 0);
  // Where nothing was asked, nothing was missed.
  record_lookup(scheduler, "prefix", 300 * kSecond, 1, 0);
  EXPECT_EQ(reader.value("rankbus_cache_window_lookups", {{"level", "kv"}}), 0);
  EXPECT_TRUE(std::isnan(reader.value("rankbus_cache_window_hit_ratio", {{"level", "kv"}})));
  EXPECT_EQ(reader.value("rankbus_cache_hits_total", {{"level", "kv"}}), 1);
}

// What a cache holds is known from totals, so neither a loss nor a late start bends it.
TEST(AnalysisFeed, SizesAreExact_AfterLossesAndDeaths) {
  const Folder folder;
  Producer first = open_scheduler(folder.bus(), 0, 65'536);
  const auto write_many = [](Producer& producer) {
    for (std::uint64_t i = 0; i < 20'000; ++i) {
      record_storage(producer, "kv", kSecond + i, 10, 1'000'000);
      if (i % 2 == 0) record_cache_eviction(producer, "kv", kSecond + i, 5);
    }
  };
  write_many(first);  // Nobody reads yet.
  Reader reader(folder.bus());
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 150'000);
  write_many(first);
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 300'000);
  {
    Producer second = open_scheduler(folder.bus(), 1, 65'536);
    record_storage(second, "kv", 2 * kSecond, 77, 23);
    EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 300'077);
    EXPECT_EQ(reader.analysis()["caches"]["levels"]["kv"]["cache_stats"]["capacity_bytes"],
              1'000'023);
  }
  reader.pass();
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 300'000);
  EXPECT_EQ(reader.analysis()["caches"]["levels"]["kv"]["cache_stats"]["capacity_bytes"],
            1'000'000);
}

// One lane may free what another wrote; only what all of them say is a size.
TEST(AnalysisFeed, SizesOfSeveralWriters_AreOfTheirSum) {
  const Folder folder;
  Producer writer = open_scheduler(folder.bus(), 0);
  Producer evicter = open_scheduler(folder.bus(), 1);
  Reader reader(folder.bus());
  for (std::uint64_t i = 1; i <= 100; ++i) {
    record_cache_eviction(evicter, "kv", i * kSecond, 10);
    record_storage(writer, "kv", i * kSecond, 11, 1000);
    if (i % 30 == 0) reader.pass();
  }
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 100);
  const json level = reader.analysis()["caches"]["levels"]["kv"]["cache_stats"];
  EXPECT_EQ(level["current_size_bytes"], 100);
  EXPECT_EQ(level["capacity_bytes"], 1000);
}

// A ring that was full before anybody looked is read in more than one pass, and counted once.
TEST(AnalysisFeed, HistoryInSeveralPasses_IsCountedOnce) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus(), 0, 16 << 20);
  for (std::uint64_t i = 0; i < 60'000; ++i) record_storage(scheduler, "kv", kSecond + i, 20);
  Reader reader(folder.bus());
  reader.short_pass();
  reader.short_pass();
  EXPECT_EQ(reader.value("rankbus_cache_size_bytes", {{"level", "kv"}}), 1'200'000);
  EXPECT_EQ(reader.value("rankbus_cache_peak_bytes", {{"level", "kv"}}), 1'200'000);
}

}  // namespace
}  // namespace bus_test
