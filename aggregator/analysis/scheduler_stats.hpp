// aggregator/analysis/scheduler_stats.hpp: the state of a scheduler, and what it did in a period.
//
// Gauges are those of the newest stamp; what counts, adds up. Two ways to merge: aggregate() takes
// in another writer of the same engine, aggregate_engine() another engine, of which gauges add up
// too. Both give the same in any order. Rates are never merged, always recomputed.
//
// Bounds: kMaxEvictionEvents events, kMaxSpecTokens positions and kMaxKeys names in each map; with
// texts of their largest size 350 KB, usually 2 KB.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/bounded_values.hpp>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/instant.hpp>
#include <rankbus/aggregator/analysis/scheduler_parts.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus::analysis {

struct KvBlocks {
  std::uint64_t used = 0;
  std::uint64_t total = 0;  // 0: unknown.

  friend auto operator<=>(const KvBlocks&, const KvBlocks&) = default;
};

// Requests per LoRA adapter.
struct LoraAdapters {
  NamedCounts running;
  NamedCounts waiting;

  friend auto operator<=>(const LoraAdapters&, const LoraAdapters&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(running, waiting);
  }
};

// What a KV connector reports, in words of its own: counts and sums, which add up. Percentiles and
// means need the observations themselves (connector_stats.hpp).
class ConnectorValues {
 public:
  // Of more than kMaxKeys names, those first by their letters are kept. Ignores what is not finite.
  void add_untrusted(std::string_view name, const Number& value);

  const std::map<std::string, Number, std::less<>>& by_name() const { return values_; }
  bool has_left_out_names() const { return has_left_out_names_; }

  void aggregate(const ConnectorValues& other);
  bool is_empty() const { return values_.empty(); }
  ReducedStats reduce() const { return {values_.begin(), values_.end()}; }
  void reset() { *this = {}; }

  friend bool operator==(const ConnectorValues&, const ConnectorValues&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(values_, has_left_out_names_);
  }

 private:
  std::map<std::string, Number, std::less<>> values_;
  bool has_left_out_names_ = false;
};

class SchedulerStats {
 public:
  // Parts that are always there, and those that somebody has to attach.
  PrefixCacheStats prefix_cache;
  std::optional<PrefixCacheStats> connector_prefix_cache;
  std::optional<SpecDecodingStats> spec_decoding;
  std::optional<CudaGraphStats> cuda_graphs;
  std::optional<PerfStats> perf;
  std::optional<ConnectorValues> kv_connector;

  // One step: the gauges are overwritten. A usage that is no share of 1 leaves the last one.
  void record_step(std::int64_t now_ns, std::uint64_t num_running, std::uint64_t num_waiting,
                   double kv_usage);
  // Only engines that say how many blocks there are have a common usage.
  void record_step(std::int64_t now_ns, std::uint64_t num_running, std::uint64_t num_waiting,
                   KvBlocks kv_blocks);
  void set_current_wave(std::int64_t now_ns, std::uint64_t wave) { wave_.set(now_ns, wave); }
  // All adapters at that time: those of before are gone.
  void set_lora_adapters_untrusted(std::int64_t now_ns,
                                   const std::map<std::string, std::uint64_t>& running,
                                   const std::map<std::string, std::uint64_t>& waiting);
  void record_eviction(KvCacheEvictionEvent event);
  std::vector<KvCacheEvictionEvent> drain_events() { return evictions_.drain(); }

  std::uint64_t num_running_reqs() const { return gauges_.value().running; }
  std::uint64_t num_waiting_reqs() const { return gauges_.value().waiting; }
  std::uint64_t total_requests() const;
  std::uint64_t step_counter() const { return step_counter_; }
  std::uint64_t current_wave() const { return wave_.value(); }
  // None only of several engines, one of which does not say how many blocks it has.
  std::optional<double> kv_cache_usage() const { return gauges_.value().usage(); }
  const NamedCounts& running_lora_adapters() const { return lora_.value().running; }
  const NamedCounts& waiting_lora_adapters() const { return lora_.value().waiting; }
  const EvictionLog& evictions() const { return evictions_; }
  const NamedCounts& evictions_by_reason() const { return evictions_by_reason_; }
  const NamedCounts& evicted_blocks_by_reason() const { return evicted_blocks_by_reason_; }
  std::uint64_t bad_records() const;  // Left out, here and in all parts.

  void aggregate(const SchedulerStats& other);
  void aggregate_engine(const SchedulerStats& other);
  bool is_empty() const;
  ReducedStats reduce() const;
  // Begins a new period. The wave, LoRA adapters, CUDA graphs and whatever a connector reports go
  // on: they belong to the engine, not to a period.
  void reset();

  Json as_dict() const;
  std::vector<Family> families(const Labels& labels = {}) const;
  std::string to_prometheus(const Labels& labels = {}) const;
  // `dict`, `prometheus` or `json`.
  Result<Exported> export_as(std::string_view format, const Labels& labels = {}) const;

  friend bool operator==(const SchedulerStats&, const SchedulerStats&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(prefix_cache, connector_prefix_cache, spec_decoding, cuda_graphs, perf, kv_connector,
            gauges_, wave_, lora_, step_counter_, evictions_, evictions_by_reason_,
            evicted_blocks_by_reason_, bad_records_);
  }

 private:
  friend class SchedulerStatsCollector;

  // Written together, so read together: no reader sees the running of one step beside the waiting
  // of another.
  struct Gauges {
    std::uint64_t running = 0;
    std::uint64_t waiting = 0;
    double kv_usage = 0;  // Of one engine, as told.
    std::uint64_t kv_used_blocks = 0;
    std::uint64_t kv_total_blocks = 0;
    bool is_of_several_engines = false;

    std::optional<double> usage() const;
    friend auto operator<=>(const Gauges&, const Gauges&) = default;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(running, waiting, kv_usage, kv_used_blocks, kv_total_blocks, is_of_several_engines);
    }
  };

  void aggregate_counters(const SchedulerStats& other);
  // What the current period adds to those before it: without what reset() keeps, and no events.
  SchedulerStats counted_in_period() const;

  Stamped<Gauges> gauges_;
  Stamped<std::uint64_t> wave_;
  Stamped<LoraAdapters> lora_;
  std::uint64_t step_counter_ = 0;
  EvictionLog evictions_;
  NamedCounts evictions_by_reason_;
  NamedCounts evicted_blocks_by_reason_;
  std::uint64_t bad_records_ = 0;
};

static_assert(Accumulates<SchedulerStats> && Accumulates<ConnectorValues>);

// With step timings, and speculative decoding where asked for. CUDA graphs are the user's to
// attach.
SchedulerStats create_scheduler_stats(bool enable_spec_decoding = false,
                                      std::uint32_t num_spec_tokens = 5);

}  // namespace rankbus::analysis
