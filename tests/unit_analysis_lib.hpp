// What tests of the analyses share: a scheduler on the virtual clock, and a reader whose answers
// are those that users see.
#pragma once

#include <nlohmann/json.hpp>
#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/aggregator/analysis_outputs.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
using nlohmann::json;
using rankbus::AnalysisOptions;
using rankbus::CacheEvictionCause;
using rankbus::Family;
using rankbus::FinishedRequest;
using rankbus::KvBlockChange;
using rankbus::KvBlockOperation;
using rankbus::Labels;
using rankbus::OpenOptions;
using rankbus::Producer;

inline constexpr std::uint64_t kSecond = 1'000'000'000;

// A scheduler with all records of caches, on the virtual clock.
inline Producer open_scheduler(const std::string& bus, std::uint32_t rank = 0,
                               std::uint64_t bytes = 0) {
  OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.clock = rankbus::ClockDomain::virtual_time;
  options.segment_bytes = bytes;
  options.records[0] = rankbus::record_type<rankbus::KvBlockOperations>();
  options.records[1] = rankbus::record_type<rankbus::CacheLookup>();
  options.records[2] = rankbus::record_type<rankbus::CacheStorage>();
  options.records[3] = rankbus::record_type<rankbus::CacheEviction>();
  options.records[4] = rankbus::record_type<FinishedRequest>();
  options.records[5] = rankbus::record_type<rankbus::SchedulerStep>();
  options.records[6] = rankbus::record_type<rankbus::StepPhases>();
  options.records[7] = rankbus::record_type<rankbus::LoraRequests>();
  options.records[8] = rankbus::record_type<rankbus::RequestKvEviction>();
  options.records[9] = rankbus::record_type<rankbus::CudaGraph>();
  options.records[10] = rankbus::record_type<rankbus::SpecDecoding>();
  options.num_speculative_tokens = 3;
  Producer producer = Producer::open(options);
  if (producer.inert()) ADD_FAILURE() << producer.reason();
  return producer;
}

class Reader {
 public:
  explicit Reader(const std::string& bus, const AnalysisOptions& options = {}, bool observe = false)
      : bus_(open_bus(bus, observe)), feeds_(options) {
    clock_.update();
  }
  void pass() {
    clock_.update();
    feeds_.pass(*bus_, clock_, now_s(), true);
    feeds_.samples.forget_dead(*bus_);
    feeds_.analysis.forget_dead(*bus_);
  }
  // As between scrapes: as far as a turn goes.
  void short_pass() {
    clock_.update();
    feeds_.pass(*bus_, clock_, now_s(), false);
  }
  rankbus::Feeds& feeds() { return feeds_; }
  void forget_engines(double retain_s) { feeds_.analysis.forget_engines(*bus_, now_s(), retain_s); }
  json running_adapters() {
    pass();
    return json(analysis()["scheduler"].value("running_lora_adapters", json::object()));
  }
  json analysis() {
    pass();
    const auto all = feeds_.analysis.analyses();
    if (all.size() != 1) {
      ADD_FAILURE() << all.size() << " engines";
      return {};
    }
    return json::parse(all.front().json);
  }
  std::set<std::string> engines() {
    pass();
    std::set<std::string> names;
    for (const rankbus::EngineAnalysis& each : feeds_.analysis.analyses())
      names.insert(each.engine);
    return names;
  }
  std::vector<Family> families() {
    pass();
    return rankbus::make_snapshot(*bus_, feeds_, clock_, now_s(), {}).families;
  }
  // NaN if there is no such series.
  double value(const std::string& family, const Labels& labels = {}) {
    for (const Family& each : families()) {
      if (each.name != family) continue;
      for (const rankbus::Series& series : each.series) {
        const bool has_all = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
          return std::find(series.labels.begin(), series.labels.end(), label) !=
                 series.labels.end();
        });
        if (has_all) return rankbus::as_double(std::get<rankbus::Number>(series.value));
      }
    }
    return std::numeric_limits<double>::quiet_NaN();
  }
  rankbus::AlertBoard alerts() {
    pass();
    rankbus::AlertBoard board;
    board.begin(now_s());
    feeds_.analysis.raise_alerts(board);
    board.end();
    return board;
  }

 private:
  std::unique_ptr<rankbus::BusReader> bus_;
  rankbus::TickClock clock_;
  rankbus::Feeds feeds_;
};

inline void record_blocks(Producer& producer, KvBlockOperation operation,
                          const std::vector<std::uint64_t>& ids, std::uint64_t stamp,
                          double rate = 1, const char* reason = "capacity") {
  KvBlockChange change;
  change.operation = operation;
  change.sample_rate = rate;
  change.reason = operation == KvBlockOperation::evict ? producer.intern(reason) : std::uint16_t{0};
  change.stamp = stamp;
  rankbus::record_kv_blocks(producer, change, ids.data(), ids.size());
}

inline void record_lookup(Producer& producer, const char* level, std::uint64_t stamp,
                          std::uint64_t hits, std::uint64_t misses, std::uint64_t prefix = 0,
                          std::uint64_t length = 0) {
  rankbus::CacheLookup lookup;
  lookup.stamp = stamp;
  lookup.level = producer.intern(level);
  lookup.hits = hits;
  lookup.misses = misses;
  lookup.prefix_hash = prefix;
  lookup.prefix_length = length;
  producer.record(lookup);
}

inline void record_storage(Producer& producer, const char* level, std::uint64_t stamp,
                           std::uint64_t bytes,
                           std::uint64_t capacity = rankbus::absent<std::uint64_t>()) {
  rankbus::CacheStorage storage;
  storage.stamp = stamp;
  storage.level = producer.intern(level);
  storage.written_bytes = bytes;
  storage.capacity_bytes = capacity;
  producer.record(storage);
}

inline void record_cache_eviction(Producer& producer, const char* level, std::uint64_t stamp,
                                  std::uint64_t bytes) {
  rankbus::CacheEviction eviction;
  eviction.stamp = stamp;
  eviction.level = producer.intern(level);
  eviction.reason = CacheEvictionCause::memory_pressure;
  eviction.num_blocks = 1;
  eviction.freed_bytes = bytes;
  producer.record(eviction);
}

}  // namespace bus_test
