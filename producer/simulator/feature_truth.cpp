#include <algorithm>
#include <cstring>
#include <rankbus/producer/simulator/feature_truth.hpp>
#include <span>

namespace rankbus::simulator {

namespace {

struct CounterName {
  FeatureCounter counter;
  FeatureFamily family;
  const char* name;
};

constexpr CounterName kCounterNames[] = {
    {FeatureCounter::external_queries, FeatureFamily::always,
     "vllm:external_prefix_cache_queries_total"},
    {FeatureCounter::external_hits, FeatureFamily::always, "vllm:external_prefix_cache_hits_total"},
    {FeatureCounter::multimodal_queries, FeatureFamily::always, "vllm:mm_cache_queries_total"},
    {FeatureCounter::multimodal_hits, FeatureFamily::always, "vllm:mm_cache_hits_total"},
    {FeatureCounter::corrupted, FeatureFamily::corrupted, "vllm:corrupted_requests_total"},
    {FeatureCounter::drafts, FeatureFamily::speculation, "vllm:spec_decode_num_drafts_total"},
    {FeatureCounter::draft_tokens, FeatureFamily::speculation,
     "vllm:spec_decode_num_draft_tokens_total"},
    {FeatureCounter::accepted_tokens, FeatureFamily::speculation,
     "vllm:spec_decode_num_accepted_tokens_total"},
    {FeatureCounter::denoising_steps, FeatureFamily::diffusion,
     "vllm:diffusion_num_denoising_steps_total"},
    {FeatureCounter::canvas_positions, FeatureFamily::diffusion,
     "vllm:diffusion_num_canvas_positions_total"},
    {FeatureCounter::committed_tokens, FeatureFamily::diffusion,
     "vllm:diffusion_num_committed_tokens_total"},
    {FeatureCounter::flops, FeatureFamily::perf, "vllm:estimated_flops_per_gpu_total"},
    {FeatureCounter::read_bytes, FeatureFamily::perf, "vllm:estimated_read_bytes_per_gpu_total"},
    {FeatureCounter::write_bytes, FeatureFamily::perf, "vllm:estimated_write_bytes_per_gpu_total"},
    {FeatureCounter::nixl_failed_transfers, FeatureFamily::nixl,
     "vllm:nixl_num_failed_transfers_total"},
    {FeatureCounter::nixl_failed_notifications, FeatureFamily::nixl,
     "vllm:nixl_num_failed_notifications_total"},
    {FeatureCounter::nixl_expired, FeatureFamily::nixl, "vllm:nixl_num_kv_expired_reqs_total"},
    {FeatureCounter::moriio_failed_transfers, FeatureFamily::moriio,
     "vllm:moriio_num_failed_transfers_total"},
    {FeatureCounter::moriio_failed_notifications, FeatureFamily::moriio,
     "vllm:moriio_num_failed_notifications_total"},
    {FeatureCounter::moriio_expired, FeatureFamily::moriio,
     "vllm:moriio_num_kv_expired_reqs_total"},
    {FeatureCounter::load_bytes, FeatureFamily::offloading, "vllm:kv_offload_load_bytes_total"},
    {FeatureCounter::store_bytes, FeatureFamily::offloading, "vllm:kv_offload_store_bytes_total"},
    {FeatureCounter::stores_skipped, FeatureFamily::offloading,
     "vllm:kv_offload_stores_skipped_total"},
    {FeatureCounter::allocation_failures, FeatureFamily::offloading,
     "vllm:kv_offload_allocation_failure_total"},
    {FeatureCounter::hisparse_hits, FeatureFamily::hisparse, "vllm:hisparse_cache_hits_total"},
    {FeatureCounter::hisparse_misses, FeatureFamily::hisparse, "vllm:hisparse_cache_misses_total"},
    {FeatureCounter::hisparse_bytes, FeatureFamily::hisparse,
     "vllm:hisparse_host_to_device_bytes_total"},
};
static_assert(std::size(kCounterNames) == kFeatureCounters);

constexpr double kResidencyBounds[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                       0.2,   0.5,   1,     2,    5,    10,   20,
                                       30,    60,    120,   300,  600,  1200, 1800};
// Posting has one bound more than transferring, the first.
constexpr double kPostBounds[] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                  0.2,   0.3,   0.5,  0.75,  1,    5};
constexpr double kTransferBytesBounds[] = {0x1p11, 0x1p13, 0x1p15, 0x1p17, 0x1p19, 0x1p21,
                                           0x1p23, 0x1p25, 0x1p27, 0x1p29, 0x1p31, 0x1p33};
constexpr double kDescriptorBounds[] = {10,  20,   30,   50,   75,    100,   200,
                                        400, 1000, 2000, 4000, 10000, 20000, 50000};
constexpr double kOffloadBounds[] = {1e6, 5e6, 1e7, 2e7, 4e7, 6e7, 8e7, 1e8, 1.5e8, 2e8};
constexpr double kChunkBounds[] = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144};
constexpr double kSyncBounds[] = {1e-5, 5e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1};
constexpr double kAsyncBounds[] = {1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10};
constexpr double kStoreBounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4,
                                   0.5,   0.75,  1,    1.5,  2,   3,   4};

struct HistogramName {
  FeatureHistogram histogram;
  FeatureFamily family;
  const char* name;
  std::span<const double> bounds;
};

constexpr HistogramName kHistogramNames[] = {
    {FeatureHistogram::block_lifetime, FeatureFamily::residency, "vllm:kv_block_lifetime_seconds",
     kResidencyBounds},
    {FeatureHistogram::block_idle, FeatureFamily::residency,
     "vllm:kv_block_idle_before_evict_seconds", kResidencyBounds},
    {FeatureHistogram::block_reuse_gap, FeatureFamily::residency, "vllm:kv_block_reuse_gap_seconds",
     kResidencyBounds},
    {FeatureHistogram::nixl_transfer_time, FeatureFamily::nixl, "vllm:nixl_xfer_time_seconds",
     std::span(kPostBounds).subspan(1)},
    {FeatureHistogram::nixl_post_time, FeatureFamily::nixl, "vllm:nixl_post_time_seconds",
     kPostBounds},
    {FeatureHistogram::nixl_bytes, FeatureFamily::nixl, "vllm:nixl_bytes_transferred",
     kTransferBytesBounds},
    {FeatureHistogram::nixl_descriptors, FeatureFamily::nixl, "vllm:nixl_num_descriptors",
     kDescriptorBounds},
    {FeatureHistogram::moriio_transfer_time, FeatureFamily::moriio, "vllm:moriio_xfer_time_seconds",
     std::span(kPostBounds).subspan(1)},
    {FeatureHistogram::moriio_post_time, FeatureFamily::moriio, "vllm:moriio_post_time_seconds",
     kPostBounds},
    {FeatureHistogram::moriio_bytes, FeatureFamily::moriio, "vllm:moriio_bytes_transferred",
     kTransferBytesBounds},
    {FeatureHistogram::moriio_descriptors, FeatureFamily::moriio, "vllm:moriio_num_descriptors",
     kDescriptorBounds},
    {FeatureHistogram::load_size, FeatureFamily::offloading, "vllm:kv_offload_load_size",
     kOffloadBounds},
    {FeatureHistogram::store_size, FeatureFamily::offloading, "vllm:kv_offload_store_size",
     kOffloadBounds},
    {FeatureHistogram::allocation_size, FeatureFamily::offloading,
     "vllm:kv_offload_cpu_allocation_size", kChunkBounds},
    {FeatureHistogram::lookup_sync_delay, FeatureFamily::offloading,
     "vllm:kv_offload_lookup_sync_delay_seconds", kSyncBounds},
    {FeatureHistogram::lookup_async_delay, FeatureFamily::offloading,
     "vllm:kv_offload_lookup_async_delay_seconds", kAsyncBounds},
};
static_assert(std::size(kHistogramNames) == kFeatureHistograms);

// Rows are found by the number of what they name.
constexpr bool rows_stand_in_order() {
  for (std::size_t i = 0; i < kFeatureCounters; ++i) {
    if (static_cast<std::size_t>(kCounterNames[i].counter) != i) return false;
  }
  for (std::size_t i = 0; i < kFeatureHistograms; ++i) {
    if (static_cast<std::size_t>(kHistogramNames[i].histogram) != i) return false;
    if (kHistogramNames[i].bounds.size() >= TruthCells::kMostCells) return false;
  }
  return true;
}
static_assert(rows_stand_in_order());

void write_store_operations(SeriesWriter& out, const FeatureTruth& truth) {
  for (std::size_t operation = 0; operation < kStoreOperations.size(); ++operation) {
    for (std::size_t status = 0; status < kStoreStatuses.size(); ++status) {
      const StoreOperationTruth& one = truth.store_operations[operation][status];
      if (one.operations == 0) continue;
      const SeriesWriter::SeriesLabels labels = {{"operation", kStoreOperations[operation]},
                                                 {"status", kStoreStatuses[status]}};
      out.counter("vllm:mooncake_store_operation_total", one.operations, labels);
      out.counter("vllm:mooncake_store_operation_keys_total", one.keys, labels);
      out.counter("vllm:mooncake_store_operation_bytes_total", one.bytes, labels);
      out.counter("vllm:mooncake_store_operation_failed_keys_total", one.failed_keys, labels);
      out.histogram("vllm:mooncake_store_operation_time_seconds", one.seconds, kStoreBounds,
                    labels);
    }
  }
}

void write_offloading(SeriesWriter& out, const FeatureTruth& truth) {
  out.real_counter("vllm:kv_offload_load_time_total", truth.load_s);
  out.real_counter("vllm:kv_offload_store_time_total", truth.store_s);
  out.info("vllm:kv_offload_config_info", offload_config(), "");
  if (!truth.cpu_cache.reported) return;
  out.gauge("vllm:kv_offload_cpu_cache_usage_perc", truth.cpu_cache.usage);
  out.gauge("vllm:kv_offload_cpu_cache_write_usage_perc", truth.cpu_cache.write_usage);
  out.gauge("vllm:kv_offload_cpu_cache_read_usage_perc", truth.cpu_cache.read_usage);
}

void write_sleep_state(SeriesWriter& out, std::uint32_t level) {
  const char* states[] = {"awake", "weights_offloaded", "discard_all"};
  for (std::uint32_t state = 0; state < std::size(states); ++state) {
    out.gauge("vllm:engine_sleep_state", state == level ? 1 : 0, {{"sleep_state", states[state]}});
  }
}

}  // namespace

bool is_configured(FeatureFamily family, const FeatureOptions& features) {
  switch (family) {
    case FeatureFamily::always:
      return true;
    case FeatureFamily::corrupted:
      return features.corrupted_requests > 0;
    case FeatureFamily::residency:
      return features.kv_cache_metrics_sample > 0;
    case FeatureFamily::speculation:
      return features.speculative_tokens > 0;
    case FeatureFamily::diffusion:
      return features.diffusion;
    case FeatureFamily::perf:
      return features.mfu_metrics;
    case FeatureFamily::nixl:
      return features.has(Connector::nixl);
    case FeatureFamily::moriio:
      return features.has(Connector::moriio);
    case FeatureFamily::offloading:
      return features.has(Connector::offloading);
    case FeatureFamily::hisparse:
      return features.has(Connector::hisparse);
  }
  return false;
}

void FeatureTruth::count(FeatureCounter counter, std::uint64_t amount) {
  counters[static_cast<std::size_t>(counter)] += amount;
}

void FeatureTruth::count(FeatureHistogram histogram, double value) {
  const auto i = static_cast<std::size_t>(histogram);
  histograms[i].observe(value, kHistogramNames[i].bounds);
}

void FeatureTruth::observe(const SchedulerCounts& counts) {
  count(FeatureCounter::external_queries, counts.external_queries);
  count(FeatureCounter::external_hits, counts.external_hits);
}

void FeatureTruth::observe(const SpeculationOutcome& outcome) {
  count(FeatureCounter::drafts, outcome.drafts);
  count(FeatureCounter::draft_tokens, outcome.draft_tokens);
  count(FeatureCounter::accepted_tokens, outcome.accepted_tokens);
  for (std::size_t i = 0; i < accepted_at.size(); ++i) accepted_at[i] += outcome.accepted_at[i];
}

void FeatureTruth::observe(const DiffusionOutcome& outcome) {
  count(FeatureCounter::denoising_steps, outcome.denoising_steps);
  count(FeatureCounter::canvas_positions, outcome.canvas_positions);
  count(FeatureCounter::committed_tokens, outcome.committed_tokens);
}

void FeatureTruth::observe(const WorkEstimate& estimate) {
  count(FeatureCounter::flops, estimate.flops);
  count(FeatureCounter::read_bytes, estimate.read_bytes);
  count(FeatureCounter::write_bytes, estimate.write_bytes);
}

void FeatureTruth::observe(const BlockEviction& eviction) {
  count(FeatureHistogram::block_lifetime, eviction.lifetime_s);
  count(FeatureHistogram::block_idle, eviction.idle_s);
  for (const double gap_s : eviction.reuse_gaps_s) count(FeatureHistogram::block_reuse_gap, gap_s);
}

void FeatureTruth::observe(Connector connector, const TransferOutcome& transfer) {
  // Mooncake's transfers appear in no series of vLLM's.
  if (connector != Connector::nixl && connector != Connector::moriio) return;
  const bool nixl = connector == Connector::nixl;
  switch (transfer.kind) {
    case TransferOutcome::done:
      count(nixl ? FeatureHistogram::nixl_transfer_time : FeatureHistogram::moriio_transfer_time,
            transfer.duration_s);
      count(nixl ? FeatureHistogram::nixl_post_time : FeatureHistogram::moriio_post_time,
            transfer.post_s);
      count(nixl ? FeatureHistogram::nixl_bytes : FeatureHistogram::moriio_bytes,
            static_cast<double>(transfer.bytes));
      count(nixl ? FeatureHistogram::nixl_descriptors : FeatureHistogram::moriio_descriptors,
            static_cast<double>(transfer.descriptors));
      break;
    case TransferOutcome::failed_transfer:
      count(nixl ? FeatureCounter::nixl_failed_transfers : FeatureCounter::moriio_failed_transfers,
            1);
      break;
    case TransferOutcome::failed_second_message:
      count(nixl ? FeatureCounter::nixl_failed_notifications
                 : FeatureCounter::moriio_failed_notifications,
            1);
      break;
    case TransferOutcome::expired:
      count(nixl ? FeatureCounter::nixl_expired : FeatureCounter::moriio_expired, 1);
      break;
  }
}

void FeatureTruth::observe(const StoreOperationOutcome& operation) {
  StoreOperationTruth& one = store_operations[operation.operation][operation.failed ? 1 : 0];
  ++one.operations;
  one.keys += operation.keys;
  one.bytes += operation.bytes;
  one.failed_keys += operation.failed_keys;
  one.seconds.observe(operation.duration_s, kStoreBounds);
}

void FeatureTruth::observe(const OffloadingOutcome& outcome, std::uint64_t stamp) {
  count(FeatureCounter::load_bytes, outcome.load_bytes);
  count(FeatureCounter::store_bytes, outcome.store_bytes);
  count(FeatureCounter::stores_skipped, outcome.stores_skipped);
  count(FeatureCounter::allocation_failures, outcome.allocation_failures);
  load_s += outcome.load_s;
  store_s += outcome.store_s;
  const auto each = [&](FeatureHistogram histogram, const auto& values) {
    for (const auto value : values) count(histogram, static_cast<double>(value));
  };
  each(FeatureHistogram::load_size, outcome.load_sizes);
  each(FeatureHistogram::store_size, outcome.store_sizes);
  each(FeatureHistogram::allocation_size, outcome.allocation_sizes);
  each(FeatureHistogram::lookup_sync_delay, outcome.lookup_sync_delays_s);
  each(FeatureHistogram::lookup_async_delay, outcome.lookup_async_delays_s);
  cpu_cache = {.reported = true,
               .stamp = stamp,
               .usage = outcome.read_usage + outcome.write_usage,
               .write_usage = outcome.write_usage,
               .read_usage = outcome.read_usage};
}

void FeatureTruth::observe(const HiSparseOutcome& outcome) {
  count(FeatureCounter::hisparse_hits, outcome.hits);
  count(FeatureCounter::hisparse_misses, outcome.misses);
  count(FeatureCounter::hisparse_bytes, outcome.host_to_device_bytes);
}

void FeatureTruth::observe_images(std::uint64_t queries, std::uint64_t hits) {
  count(FeatureCounter::multimodal_queries, queries);
  count(FeatureCounter::multimodal_hits, hits);
}

void FeatureTruth::observe_corrupted(std::uint64_t requests) {
  count(FeatureCounter::corrupted, requests);
}

void FeatureTruth::observe_lora(std::string_view adapters) {
  lora_reported = true;
  lora_adapters.fill('\0');
  adapters.copy(lora_adapters.data(), lora_adapters.size() - 1);
}

void FeatureTruth::add(const FeatureTruth& other) {
  for (std::size_t i = 0; i < counters.size(); ++i) counters[i] += other.counters[i];
  for (std::size_t i = 0; i < histograms.size(); ++i) histograms[i].add(other.histograms[i]);
  for (std::size_t i = 0; i < accepted_at.size(); ++i) accepted_at[i] += other.accepted_at[i];
  for (std::size_t operation = 0; operation < store_operations.size(); ++operation) {
    for (std::size_t status = 0; status < kStoreStatuses.size(); ++status) {
      StoreOperationTruth& mine = store_operations[operation][status];
      const StoreOperationTruth& theirs = other.store_operations[operation][status];
      mine.operations += theirs.operations;
      mine.keys += theirs.keys;
      mine.bytes += theirs.bytes;
      mine.failed_keys += theirs.failed_keys;
      mine.seconds.add(theirs.seconds);
    }
  }
  activity.add(other.activity);
  load_s += other.load_s;
  store_s += other.store_s;
  if (other.cpu_cache.reported && other.cpu_cache.stamp >= cpu_cache.stamp) {
    cpu_cache = other.cpu_cache;
  }
  sleep_level = std::max(sleep_level, other.sleep_level);
  if (other.lora_reported) observe_lora(other.lora_adapters.data());
}

void write_features(SeriesWriter& out, const FeatureTruth& truth, const FeatureOptions& features,
                    std::uint32_t kv_blocks) {
  for (const CounterName& row : kCounterNames) {
    if (!is_configured(row.family, features)) continue;
    const std::uint64_t value = truth.counters[static_cast<std::size_t>(row.counter)];
    // Estimates are added up as doubles, which are equal to rounding only.
    if (row.family == FeatureFamily::perf) {
      out.real_counter(row.name, static_cast<double>(value));
    } else {
      out.counter(row.name, value);
    }
  }
  for (const HistogramName& row : kHistogramNames) {
    if (!is_configured(row.family, features)) continue;
    out.histogram(row.name, truth.histograms[static_cast<std::size_t>(row.histogram)], row.bounds);
  }
  for (std::uint32_t position = 0; position < features.speculative_tokens; ++position) {
    out.counter("vllm:spec_decode_num_accepted_tokens_per_pos_total", truth.accepted_at[position],
                {{"position", std::to_string(position)}});
  }
  if (features.has(Connector::mooncake_store)) write_store_operations(out, truth);
  if (features.has(Connector::offloading)) write_offloading(out, truth);
  write_activity(out, truth.activity);
  write_sleep_state(out, truth.sleep_level);
  if (features.cache_config) {
    out.info("vllm:cache_config_info", cache_config(kv_blocks), "model_name");
  }
  if (truth.lora_reported) {
    const std::string adapters = truth.lora_adapters.data();
    out.present("vllm:lora_requests_info", {{"max_lora", std::to_string(features.max_loras)},
                                            {"running_lora_adapters", adapters},
                                            {"waiting_lora_adapters", adapters}});
  }
}

}  // namespace rankbus::simulator
