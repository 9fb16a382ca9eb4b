#include <algorithm>
#include <cstring>
#include <rankbus/aggregator/analysis_outputs.hpp>

namespace rankbus {
namespace {

constexpr FamilyType kCounter = FamilyType::counter;
constexpr FamilyType kGauge = FamilyType::gauge;
constexpr const char* kBlocks = "kv_block_operations";
constexpr const char* kLookups = "cache_lookup";
constexpr const char* kEvictions = "cache_eviction";
constexpr const char* kStorage = "cache_storage cache_eviction";
constexpr const char* kRequests = "finished_request";

constexpr AnalysisOutput kOutputs[] = {
    {"rankbus_cache_combined_hit_ratio", kGauge,
     "Hits of all cache levels / lookups of all cache levels, of all that were read", "", kLookups},
    {"rankbus_cache_efficiency_ratio", kGauge,
     "Hit ratio of the last 60 s x (1 - share of evicted blocks that nobody had accessed)", "level",
     "cache_lookup cache_eviction"},
    {"rankbus_cache_evictions_per_second", kGauge, "Evictions per second over the last 60 s",
     "level", kEvictions},
    {"rankbus_cache_memory_pressure_ratio", kGauge,
     "0.7 x used share of what the caches hold (of their peak where no capacity is known) + 0.3 x "
     "min(1, evictions per second over 60 s / 100)",
     "", kStorage},
    {"rankbus_cache_next_evictions_per_second", kGauge,
     "Evictions per second expected in the next 60 s: a line through the last 8 windows", "level",
     kEvictions},
    {"rankbus_cache_peak_bytes", kGauge, "The largest size that a cache was seen to have", "level",
     kStorage},
    {"rankbus_cache_seconds_until_full", kGauge,
     "(Capacity - size) / growth per second over the last 60 s; absent without a capacity, +Inf "
     "while it does not grow",
     "level", kStorage},
    {"rankbus_cache_size_bytes", kGauge,
     "Written less freed bytes of the living processes, from their totals: exact", "level",
     kStorage},
    {"rankbus_cache_window_bytes_per_second", kGauge,
     "Bytes asked for, found or not, per second over the last 60 s", "level", kLookups},
    {"rankbus_cache_window_hit_ratio", kGauge,
     "Hits / lookups of the last 60 s; absent without lookups", "level", kLookups},
    {"rankbus_cache_window_latency_seconds", kGauge,
     "Latency of the lookups of the last 60 s that were timed; quantiles within 1/129 of the value",
     "level stat", kLookups},
    {"rankbus_cache_window_lookups", kGauge, "Lookups of the last 60 s", "level", kLookups},
    {"rankbus_kv_block_alerts_suppressed_total", kCounter,
     "Anomalies of block lives beyond 10 a minute of one metric and level", "", kBlocks},
    {"rankbus_kv_block_alerts_total", kCounter,
     "Anomalies of block lives: a lifetime far from those before it, an eviction of a block that "
     "nobody had accessed",
     "level metric", kBlocks},
    {"rankbus_kv_block_evictions_estimate", kGauge,
     "Evictions of all blocks by the sample; within low and high in about 95 of 100 cases. Absent "
     "once a record of blocks was lost or missed",
     "bound", kBlocks},
    {"rankbus_kv_block_followed_evictions_total", kCounter,
     "Evictions of blocks that were followed from their allocation", "", kBlocks},
    {"rankbus_kv_block_forgotten_total", kCounter,
     "Followed blocks that were dropped because records of their stream were lost", "", kBlocks},
    {"rankbus_kv_block_recent_accesses", kGauge,
     "Mean number of accesses in the lives of the latest 1,000 evicted blocks of the sample", "",
     kBlocks},
    {"rankbus_kv_block_recent_idle_seconds", kGauge,
     "Mean time from last access to eviction, of the latest 1,000 evicted blocks of the sample", "",
     kBlocks},
    {"rankbus_kv_block_recent_lifetime_seconds", kGauge,
     "Time from allocation to eviction, of the latest 1,000 evicted blocks of the sample", "stat",
     kBlocks},
    {"rankbus_kv_block_recent_reuse_gap_seconds", kGauge,
     "Mean time between accesses, of the latest 1,000 evicted blocks of the sample", "", kBlocks},
    {"rankbus_kv_block_recent_reused_ratio", kGauge,
     "Share that was accessed more than once, of the latest 1,000 evicted blocks of the sample", "",
     kBlocks},
    {"rankbus_kv_block_refused_records_total", kCounter,
     "Records of block operations whose sample rate is none, or another than that of the engine's "
     "other processes",
     "", kBlocks},
    {"rankbus_kv_block_sample_rate", kGauge, "Share of the blocks that is followed", "", kBlocks},
    {"rankbus_kv_block_trend_slope", kGauge,
     "Least squares over the latest 100 evictions of the sample: change from one to the next",
     "metric", kBlocks},
    {"rankbus_kv_block_unmatched_evictions_total", kCounter,
     "Evictions of blocks of the sample whose allocation was not read from the same process", "",
     kBlocks},
    {"rankbus_kv_blocks_followed", kGauge, "Blocks that are followed now", "", kBlocks},
    {"rankbus_kv_blocks_live_estimate", kGauge,
     "Live blocks by the sample; within low and high in about 95 of 100 cases. Absent once a "
     "record of blocks was lost or missed",
     "bound", kBlocks},
    {"rankbus_prefix_distinct", kGauge,
     "Different prefixes that were found; exact up to 2,048, then within 0.82 % (standard error)",
     "", kLookups},
    {"rankbus_prefix_length_tokens", kGauge,
     "Length of the prefixes that were asked for: mean of the latest 1,000, quantiles of all "
     "within "
     "1/129 of the value",
     "stat", kLookups},
    {"rankbus_prefix_sharing_factor", kGauge, "Hits of prefixes / different prefixes found", "",
     kLookups},
    {"rankbus_sample_coverage_ratio", kGauge,
     "Of the records of a stream that were written in the last 60 s, the share that was read one "
     "by "
     "one: what is made of samples stands for so much",
     "stream", ""},
    {"rankbus_slo_goodput_ratio", kGauge,
     "Share of the requests finished in the last 60 s that met every limit, of those that can be "
     "judged",
     "", kRequests},
    {"rankbus_slo_goodput_requests_per_second", kGauge,
     "Requests per second that met every limit, over the last 60 s", "", kRequests},
    {"rankbus_slo_missed_total", kCounter,
     "Finished requests that missed a limit: ttft, ttft_estimate (the time in the queue and in "
     "prefill, where the engine does not tell the time to first token), inter_token (mean of the "
     "request), end_to_end, or failed. A request may miss several",
     "limit", kRequests},
    {"rankbus_slo_requests_total", kCounter,
     "Finished requests by whether they met every limit; requests that ended by abort or error "
     "missed; unknown: none was missed, and not all that was promised was told",
     "result", kRequests},
    {"rankbus_slo_ttft_estimated_total", kCounter,
     "Finished requests that were judged by the time in the queue and in prefill, because the "
     "engine "
     "does not tell the time to first token",
     "", kRequests},
};

}  // namespace

std::span<const AnalysisOutput> analysis_outputs() {
  return kOutputs;
}

const AnalysisOutput* find_analysis_output(const char* name) {
  const auto at = std::lower_bound(std::begin(kOutputs), std::end(kOutputs), name,
                                   [](const AnalysisOutput& output, const char* wanted) {
                                     return std::strcmp(output.name, wanted) < 0;
                                   });
  return at != std::end(kOutputs) && std::strcmp(at->name, name) == 0 ? at : nullptr;
}

}  // namespace rankbus
