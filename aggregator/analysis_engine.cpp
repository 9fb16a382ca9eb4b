#include <algorithm>
#include <cstdio>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/analysis_outputs.hpp>

namespace rankbus {
namespace {

using analysis::Instant;

// A scheduler's period; 100 of them are kept.
constexpr std::int64_t kPeriod_ns = 10'000'000'000;

double ms(std::uint64_t nanoseconds) {
  return static_cast<double>(nanoseconds) / 1e6;
}

}  // namespace

std::map<std::pair<std::string, Labels>, std::uint64_t> AnalysisEngine::block_counters() const {
  auto counters = carried;
  if (refused_block_records != 0)
    counters[{"rankbus_kv_block_refused_records_total", {}}] += refused_block_records;
  if (!blocks) return counters;
  for (const Family& family : blocks->families()) {
    // Totals of all blocks come from the records' own totals, which miss nothing.
    if (family.type != FamilyType::counter || find_analysis_output(family.name.c_str()) == nullptr)
      continue;
    for (const Series& series : family.series) {
      const auto count = std::get<std::uint64_t>(std::get<Number>(series.value));
      add_saturating(counters[{family.name, series.labels}], count);
    }
  }
  return counters;
}

void AnalysisEngine::forget_all_but_counters() {
  AnalysisEngine fresh;
  fresh.who = std::move(who);
  fresh.segments = std::move(segments);
  fresh.ended = ended;
  fresh.goodput = goodput;
  fresh.carried = block_counters();
  // Streams of the living point at their sources.
  for (auto& [name, source] : sources) {
    source.total.reset();
    source.window.reset();
  }
  fresh.sources = std::move(sources);
  *this = std::move(fresh);
}

void AnalysisEngine::take(const AnalysisEvent& event, const std::vector<std::uint64_t>& ids) {
  if (std::get_if<AnalysisEvent::Loss>(&event.what) != nullptr) {
    saw_all_blocks = false;
    if (blocks) blocks->forget(event.segment->id);
  } else if (const auto* operation = std::get_if<AnalysisEvent::Blocks>(&event.what)) {
    take_blocks(event, *operation, ids);
  } else if (const auto* lookup = std::get_if<AnalysisEvent::Lookup>(&event.what)) {
    take_lookup(*lookup);
  } else if (const auto* storage = std::get_if<AnalysisEvent::Storage>(&event.what)) {
    level_untrusted(*storage->level).observe_write(event.time_ns, storage->written_bytes);
  } else if (const auto* eviction = std::get_if<AnalysisEvent::Eviction>(&event.what)) {
    CacheMetrics& cache = level_untrusted(*eviction->level);
    cache.observe_eviction(eviction->event);
    cache.observe_block_use(event.time_ns, eviction->followed, eviction->unused);
  } else if (const auto* record = std::get_if<AnalysisEvent::Scheduler>(&event.what)) {
    take_scheduler(event, *record, ids);
  }
}

void AnalysisEngine::take_blocks(const AnalysisEvent& event, const AnalysisEvent::Blocks& told,
                                 const std::vector<std::uint64_t>& ids) {
  const std::uint64_t id = event.segment->id;
  // Blocks of two rates are two samples; figures of both together would stand for neither.
  if (!blocks || blocks->config().sample_rate != told.sample_rate) {
    auto made = analysis::BlockResidency::create({.sample_rate = told.sample_rate});
    const bool is_used_by_others = block_segments.size() > block_segments.count(id);
    if (!made || is_used_by_others) {
      add_saturating(refused_block_records, 1);
      return;
    }
    carried = block_counters();
    refused_block_records = 0;
    blocks = std::move(*made);
  }
  block_segments.insert(id);
  const bool is_allocation = *told.operation == "allocate";
  const bool is_access = *told.operation == "access";
  const bool is_eviction = *told.operation == "evict";
  for (std::size_t i = 0; i < told.ids; ++i) {
    const std::uint64_t block = ids[told.first_id + i];
    if (is_allocation) blocks->follow_allocated(id, block, event.time_ns);
    if (is_access) blocks->follow_accessed(id, block, event.time_ns);
    if (is_eviction) {
      const Instant at{event.time_ns, wall_s(event.time_ns)};
      blocks->follow_evicted_untrusted(id, block, at, *told.reason);
    }
  }
  blocks->count_unsampled(is_allocation ? told.count : 0, is_access ? told.count : 0,
                          is_eviction ? told.count : 0);
}

void AnalysisEngine::take_lookup(const AnalysisEvent::Lookup& lookup) {
  CacheMetrics& cache = level_untrusted(*lookup.level);
  if (lookup.prefix_length > 0 && *lookup.level == name_of(CacheType::prefix)) {
    caches.prefix().observe_blocks(lookup.hits, lookup.misses, lookup.prefix, lookup.prefix_length);
    return;
  }
  cache.observe(lookup.hits);
  cache.observe(lookup.misses);
}

// Sizes come from totals only: what samples add up to lacks what was lost, and what was before.
CacheMetrics& AnalysisEngine::level_untrusted(const std::string& name) {
  const bool is_new = caches.find(name) == nullptr;
  CacheMetrics& cache = caches.level(name);
  if (is_new && !cache.is_size_told()) cache.set_size(0);
  return cache;
}

void AnalysisEngine::sum_levels() {
  std::map<std::string, AnalysisSegment::LevelBytes> sums;
  // Levels that only the dead had are empty now.
  caches.for_each_level([&](const std::string& name, const CacheMetrics&) { sums[name]; });
  for (const AnalysisSegment* segment : segments) {
    for (const auto& [untrusted_name, bytes] : segment->levels) {
      level_untrusted(untrusted_name);
      const bool has_own = caches.find(untrusted_name) != nullptr;
      AnalysisSegment::LevelBytes& sum = sums[has_own ? untrusted_name : "other"];
      add_saturating(sum.written, bytes.written);
      add_saturating(sum.freed, bytes.freed);
      if (!bytes.capacity) continue;
      std::uint64_t capacity = sum.capacity.value_or(0);
      add_saturating(capacity, *bytes.capacity);
      sum.capacity = capacity;
    }
  }
  for (const auto& [name, sum] : sums) {
    CacheMetrics& cache = caches.level(name);
    // One process may free what another wrote, so only the sum over all of them is a size.
    cache.set_size(sum.written > sum.freed ? sum.written - sum.freed : 0);
    cache.set_capacity(sum.capacity);
  }
}

analysis::SchedulerStats& AnalysisEngine::scheduler_stats(std::int64_t time_ns) {
  std::int64_t until_ns = 0;
  if (__builtin_add_overflow(time_ns, kPeriod_ns, &until_ns))
    until_ns = std::numeric_limits<std::int64_t>::max();
  if (!scheduler) {
    scheduler = std::move(analysis::create_stats_collector().value());
    scheduler->current().perf.emplace();
    next_commit_ns = until_ns;
  } else if (time_ns >= next_commit_ns) {
    scheduler->commit();
    next_commit_ns = until_ns;
  }
  return scheduler->current();
}

void AnalysisEngine::tell_adapters(std::int64_t time_ns) {
  std::map<std::string, std::uint64_t> running;
  std::map<std::string, std::uint64_t> waiting;
  for (const AnalysisSegment* segment : segments) {
    for (const auto& [adapter, requests] : segment->adapters) {
      if (requests.first != 0) add_saturating(running[adapter], requests.first);
      if (requests.second != 0) add_saturating(waiting[adapter], requests.second);
    }
  }
  scheduler_stats(time_ns).set_lora_adapters_untrusted(time_ns, running, waiting);
}

void AnalysisEngine::take_scheduler(const AnalysisEvent& event,
                                    const AnalysisEvent::Scheduler& record,
                                    const std::vector<std::uint64_t>& ids) {
  analysis::SchedulerStats& stats = scheduler_stats(event.time_ns);
  const auto& number = record.numbers;
  switch (record.purpose) {
    case AnalysisPurpose::scheduler_step:
      stats.record_step(event.time_ns, number[0], number[1], record.kv_cache_usage);
      stats.prefix_cache.record(number[3], number[4]);
      if (number[5] != 0) {
        if (!stats.connector_prefix_cache) stats.connector_prefix_cache.emplace();
        stats.connector_prefix_cache->record(number[5], number[6]);
      }
      if (record.has_wave) stats.set_current_wave(event.time_ns, number[7]);
      return;
    case AnalysisPurpose::spec_decoding:
      if (record.ids == 0) return;
      if (!stats.spec_decoding) stats.spec_decoding.emplace(static_cast<std::uint32_t>(record.ids));
      stats.spec_decoding->observe_drafts(number[0], number[1], number[2],
                                          {ids.data() + record.first_id, record.ids});
      return;
    case AnalysisPurpose::cuda_graph:
      if (!stats.cuda_graphs) stats.cuda_graphs.emplace();
      if (number[0] != 0) {
        stats.cuda_graphs->record_capture(ms(number[1]),
                                          static_cast<double>(number[3]) / (1024.0 * 1024.0));
      } else {
        stats.cuda_graphs->record_replay(ms(number[2]));
      }
      return;
    case AnalysisPurpose::step_phases:
      if (!stats.perf) stats.perf.emplace();
      stats.perf->record_step(ms(number[0]), ms(number[1]), ms(number[2]));
      stats.perf->record_model_execute(ms(number[3]));
      stats.perf->record_all_reduce(ms(number[4]));
      stats.perf->record_cache_swap(ms(number[5]));
      return;
    case AnalysisPurpose::request_kv_eviction: {
      char request[17];
      std::snprintf(request, sizeof request, "%016llx", static_cast<unsigned long long>(number[0]));
      const Instant at{event.time_ns, wall_s(event.time_ns)};
      stats.record_eviction(
          analysis::KvCacheEvictionEvent::at_untrusted(at, request, number[1], *record.text));
      return;
    }
    case AnalysisPurpose::lora_requests: {
      AdapterRequests& adapters = event.segment->adapters;
      if (number[0] == 0 && number[1] == 0) {
        adapters.erase(*record.text);
      } else if (adapters.size() < AnalysisSegment::Stream::kMaxTexts ||
                 adapters.count(*record.text) != 0) {
        adapters[*record.text] = {number[0], number[1]};
      }
      tell_adapters(event.time_ns);
      return;
    }
    default:
      return;
  }
}

}  // namespace rankbus
