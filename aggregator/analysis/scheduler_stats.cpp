#include <algorithm>
#include <cmath>
#include <rankbus/aggregator/analysis/scheduler_stats.hpp>
#include <utility>

namespace rankbus::analysis {
namespace {

constexpr std::size_t kMaxNameBytes = 128;

// A part that only one of both has is the sum of both.
template <class Part, class Merge>
void merge_optional(std::optional<Part>& into, const std::optional<Part>& from, Merge merge) {
  if (!from) return;
  if (into) {
    merge(*into, *from);
  } else {
    into = from;
  }
}

// Gauges of two engines are as new as the newer one.
template <class Gauge, class Merge>
Stamped<Gauge> merged(const Stamped<Gauge>& left, const Stamped<Gauge>& right, Merge merge) {
  if (!left.is_set()) return right;
  if (!right.is_set()) return left;
  Gauge value = left.value();
  merge(value, right.value());
  Stamped<Gauge> both;
  both.set(std::max(left.stamp_ns(), right.stamp_ns()), std::move(value));
  return both;
}

constexpr auto kAggregate = [](auto& into, const auto& from) { into.aggregate(from); };

NamedCounts counts_untrusted(const std::map<std::string, std::uint64_t>& by_name) {
  NamedCounts counts;
  for (const auto& [name, count] : by_name) {
    counts.add(clean_text_untrusted(name, kMaxNameBytes), count);
  }
  return counts;
}

}  // namespace

void ConnectorValues::add_untrusted(std::string_view name, const Number& value) {
  if (!is_finite(value)) return;
  const auto [at, is_new] = values_.emplace(clean_text_untrusted(name, kMaxNameBytes), value);
  if (!is_new) at->second = add_numbers(at->second, value);
  if (values_.size() <= kMaxKeys) return;
  values_.erase(std::prev(values_.end()));
  has_left_out_names_ = true;
}

void ConnectorValues::aggregate(const ConnectorValues& other) {
  const std::map<std::string, Number, std::less<>> theirs = other.values_;
  for (const auto& [name, value] : theirs) add_untrusted(name, value);
  has_left_out_names_ = has_left_out_names_ || other.has_left_out_names_;
}

std::optional<double> SchedulerStats::Gauges::usage() const {
  if (!is_of_several_engines) return kv_usage;
  if (kv_total_blocks == 0) return std::nullopt;
  return static_cast<double>(kv_used_blocks) / static_cast<double>(kv_total_blocks);
}

void SchedulerStats::record_step(std::int64_t now_ns, std::uint64_t num_running,
                                 std::uint64_t num_waiting, double kv_usage) {
  Gauges gauges;
  gauges.running = num_running;
  gauges.waiting = num_waiting;
  gauges.kv_usage = kv_usage;
  if (!(kv_usage >= 0 && kv_usage <= 1)) {
    gauges.kv_usage = gauges_.value().kv_usage;
    add_saturating(bad_records_, 1);
  }
  gauges_.set(now_ns, gauges);
  add_saturating(step_counter_, 1);
}

void SchedulerStats::record_step(std::int64_t now_ns, std::uint64_t num_running,
                                 std::uint64_t num_waiting, KvBlocks kv_blocks) {
  if (kv_blocks.used > kv_blocks.total) {
    record_step(now_ns, num_running, num_waiting, -1.0);
    return;
  }
  Gauges gauges;
  gauges.running = num_running;
  gauges.waiting = num_waiting;
  gauges.kv_usage =
      ratio(static_cast<double>(kv_blocks.used), static_cast<double>(kv_blocks.total));
  gauges.kv_used_blocks = kv_blocks.used;
  gauges.kv_total_blocks = kv_blocks.total;
  gauges_.set(now_ns, gauges);
  add_saturating(step_counter_, 1);
}

void SchedulerStats::set_lora_adapters_untrusted(
    std::int64_t now_ns, const std::map<std::string, std::uint64_t>& running,
    const std::map<std::string, std::uint64_t>& waiting) {
  lora_.set(now_ns, {counts_untrusted(running), counts_untrusted(waiting)});
}

void SchedulerStats::record_eviction(KvCacheEvictionEvent event) {
  evictions_by_reason_.add(event.reason, 1);
  evicted_blocks_by_reason_.add(event.reason, event.num_blocks);
  evictions_.add(std::move(event));
}

std::uint64_t SchedulerStats::total_requests() const {
  std::uint64_t total = num_running_reqs();
  add_saturating(total, num_waiting_reqs());
  return total;
}

std::uint64_t SchedulerStats::bad_records() const {
  std::uint64_t bad = bad_records_;
  add_saturating(bad, prefix_cache.bad_records());
  if (connector_prefix_cache) add_saturating(bad, connector_prefix_cache->bad_records());
  if (cuda_graphs) add_saturating(bad, cuda_graphs->bad_records());
  if (perf) add_saturating(bad, perf->bad_records());
  return bad;
}

void SchedulerStats::aggregate_counters(const SchedulerStats& other) {
  prefix_cache.aggregate(other.prefix_cache);
  merge_optional(connector_prefix_cache, other.connector_prefix_cache, kAggregate);
  merge_optional(spec_decoding, other.spec_decoding, kAggregate);
  merge_optional(perf, other.perf, kAggregate);
  merge_optional(kv_connector, other.kv_connector, kAggregate);
  add_saturating(step_counter_, other.step_counter_);
  evictions_.aggregate(other.evictions_);
  evictions_by_reason_.aggregate(other.evictions_by_reason_);
  evicted_blocks_by_reason_.aggregate(other.evicted_blocks_by_reason_);
  add_saturating(bad_records_, other.bad_records_);
}

void SchedulerStats::aggregate(const SchedulerStats& other) {
  aggregate_counters(other);
  merge_optional(cuda_graphs, other.cuda_graphs, kAggregate);
  gauges_.take_newest(other.gauges_);
  wave_.take_newest(other.wave_);
  lora_.take_newest(other.lora_);
}

void SchedulerStats::aggregate_engine(const SchedulerStats& other) {
  aggregate_counters(other);
  merge_optional(cuda_graphs, other.cuda_graphs,
                 [](auto& into, const auto& from) { into.aggregate_engine(from); });
  gauges_ = merged(gauges_, other.gauges_, [](Gauges& into, const Gauges& from) {
    add_saturating(into.running, from.running);
    add_saturating(into.waiting, from.waiting);
    const bool is_known = into.kv_total_blocks > 0 && from.kv_total_blocks > 0;
    add_saturating(into.kv_used_blocks, from.kv_used_blocks);
    add_saturating(into.kv_total_blocks, from.kv_total_blocks);
    if (!is_known) into.kv_used_blocks = into.kv_total_blocks = 0;
    into.kv_usage = 0;
    into.is_of_several_engines = true;
  });
  lora_ = merged(lora_, other.lora_, [](LoraAdapters& into, const LoraAdapters& from) {
    into.running.aggregate(from.running);
    into.waiting.aggregate(from.waiting);
  });
  // Engines run through the waves together; the one that is ahead tells where they are.
  wave_ = merged(wave_, other.wave_,
                 [](std::uint64_t& into, std::uint64_t from) { into = std::max(into, from); });
}

bool SchedulerStats::is_empty() const {
  const auto is_nothing = [](const auto& part) { return !part || part->is_empty(); };
  return !gauges_.is_set() && !wave_.is_set() && !lora_.is_set() && step_counter_ == 0 &&
         evictions_.is_empty() && evictions_by_reason_.is_empty() && bad_records() == 0 &&
         prefix_cache.is_empty() && is_nothing(connector_prefix_cache) &&
         is_nothing(spec_decoding) && is_nothing(cuda_graphs) && is_nothing(perf) &&
         is_nothing(kv_connector);
}

ReducedStats SchedulerStats::reduce() const {
  return {{"num_running_reqs", num_running_reqs()},
          {"num_waiting_reqs", num_waiting_reqs()},
          {"total_requests", total_requests()},
          {"step_counter", step_counter_},
          {"current_wave", current_wave()},
          {"kv_cache_usage", kv_cache_usage().value_or(0)},
          {"prefix_hit_rate", prefix_cache.hit_rate()}};
}

void SchedulerStats::reset() {
  prefix_cache.reset();
  if (spec_decoding) spec_decoding->reset();
  if (perf) perf->reset();
  gauges_ = {};
  step_counter_ = 0;
  evictions_.reset();
  evictions_by_reason_ = {};
  evicted_blocks_by_reason_ = {};
  bad_records_ = 0;
}

SchedulerStats SchedulerStats::counted_in_period() const {
  SchedulerStats counted = *this;
  counted.connector_prefix_cache.reset();
  counted.cuda_graphs.reset();
  counted.kv_connector.reset();
  counted.evictions_.reset();
  return counted;
}

SchedulerStats create_scheduler_stats(bool enable_spec_decoding, std::uint32_t num_spec_tokens) {
  SchedulerStats stats;
  stats.perf.emplace();
  if (enable_spec_decoding) stats.spec_decoding.emplace(num_spec_tokens);
  return stats;
}

}  // namespace rankbus::analysis
