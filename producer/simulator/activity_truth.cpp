#include <algorithm>
#include <rankbus/producer/simulator/activity_truth.hpp>
#include <rankbus/producer/simulator/features.hpp>
#include <string>

namespace rankbus::simulator {

namespace {

double seconds(std::uint64_t ns) {
  return static_cast<double>(ns) / 1e9;
}

void write_level(SeriesWriter& out, const char* name, const CacheLevelTruth& truth) {
  const SeriesWriter::SeriesLabels level = {{"level", name}};
  if (truth.looked_up) {
    out.counter("rankbus_cache_hits_total", truth.hits, level);
    out.counter("rankbus_cache_misses_total", truth.misses, level);
    out.counter("rankbus_cache_read_bytes_total", truth.hit_bytes, level);
  }
  if (truth.stored) out.counter("rankbus_cache_written_bytes_total", truth.written_bytes, level);
  if (truth.capacity_bytes > 0) {
    out.gauge("rankbus_cache_capacity_bytes", static_cast<double>(truth.capacity_bytes), level);
  }
  bool any = false;
  for (std::size_t cause = 0; cause < kEvictionCauses; ++cause) {
    if (truth.evictions[cause] == 0) continue;
    any = true;
    const SeriesWriter::SeriesLabels labels = {{"level", name},
                                               {"reason", kEvictionCauseNames[cause]}};
    out.counter("rankbus_cache_evictions_total", truth.evictions[cause], labels);
    out.counter("rankbus_cache_evicted_blocks_total", truth.evicted_blocks[cause], labels);
  }
  if (any) out.counter("rankbus_cache_freed_bytes_total", truth.freed_bytes, level);
}

void write_blocks(SeriesWriter& out, const ActivityTruth& truth) {
  for (std::size_t i = 0; i < kBlockOperationNames.size(); ++i) {
    if (truth.block_operations[i] == 0) continue;
    out.counter("rankbus_kv_block_operations_total", truth.block_operations[i],
                {{"operation", kBlockOperationNames[i]}});
  }
  const auto evict = static_cast<std::size_t>(BlockOperation::evict);
  if (truth.block_operations[evict] > 0) {
    out.counter("rankbus_kv_block_evictions_total", truth.block_operations[evict],
                {{"reason", "capacity"}});
  }
  if (truth.request_evictions == 0) return;
  const SeriesWriter::SeriesLabels reason = {{"reason", "memory_pressure"}};
  out.counter("rankbus_request_kv_evictions_total", truth.request_evictions, reason);
  out.counter("rankbus_request_kv_evicted_blocks_total", truth.request_evicted_blocks, reason);
}

void write_phases(SeriesWriter& out, const ActivityTruth& truth) {
  if (truth.timed_steps == 0) return;
  out.counter("rankbus_timed_steps_total", truth.timed_steps);
  const auto phase = [&](const char* name, std::uint64_t ns) {
    out.real_counter("rankbus_step_phase_seconds_total", seconds(ns), {{"phase", name}});
  };
  phase("schedule", truth.phases.schedule_ns);
  phase("model_forward", truth.phases.model_forward_ns);
  phase("model_execute", truth.phases.model_execute_ns);
  phase("sample", truth.phases.sample_ns);
  phase("all_reduce", truth.phases.all_reduce_ns);
  phase("cache_swap", truth.phases.cache_swap_ns);
}

void write_cuda_graphs(SeriesWriter& out, const ActivityTruth& truth) {
  for (std::size_t mode = 0; mode < kCudaGraphModeNames.size(); ++mode) {
    const SeriesWriter::SeriesLabels labels = {{"mode", kCudaGraphModeNames[mode]}};
    if (truth.capture_ns[mode] > 0) {
      out.real_counter("rankbus_cudagraph_capture_seconds_total", seconds(truth.capture_ns[mode]),
                       labels);
    }
    if (truth.replay_ns[mode] > 0) {
      out.real_counter("rankbus_cudagraph_replay_seconds_total", seconds(truth.replay_ns[mode]),
                       labels);
    }
  }
  if (truth.graph_memory_bytes > 0) {
    out.gauge("rankbus_cudagraph_memory_bytes", static_cast<double>(truth.graph_memory_bytes));
  }
}

}  // namespace

void ActivityTruth::observe(const LookupOutcome& outcome) {
  CacheLevelTruth& level = levels[static_cast<std::size_t>(outcome.level)];
  level.looked_up = true;
  level.hits += outcome.hits;
  level.misses += outcome.misses;
  level.hit_bytes += outcome.hit_bytes;
}

void ActivityTruth::observe(const StorageOutcome& outcome) {
  CacheLevelTruth& level = levels[static_cast<std::size_t>(outcome.level)];
  level.stored = true;
  level.written_bytes += outcome.bytes;
  level.capacity_bytes = outcome.capacity_bytes;
}

void ActivityTruth::observe(const EvictionOutcome& outcome) {
  CacheLevelTruth& level = levels[static_cast<std::size_t>(outcome.level)];
  const auto cause = static_cast<std::size_t>(outcome.cause);
  ++level.evictions[cause];
  level.evicted_blocks[cause] += outcome.blocks;
  level.freed_bytes += outcome.bytes;
}

void ActivityTruth::observe(BlockOperation operation, std::uint64_t blocks) {
  block_operations[static_cast<std::size_t>(operation)] += blocks;
}

void ActivityTruth::observe_request_eviction(std::uint64_t blocks) {
  ++request_evictions;
  request_evicted_blocks += blocks;
}

void ActivityTruth::observe(const PhaseTimes& step) {
  ++timed_steps;
  phases.add(step);
}

void ActivityTruth::observe_capture(CudaGraphMode mode, const CudaGraphCapture& capture) {
  capture_ns[static_cast<std::size_t>(mode)] += capture.duration_ns;
  graph_memory_bytes += capture.bytes;
}

void ActivityTruth::observe_replay(CudaGraphMode mode, std::uint64_t duration_ns) {
  replay_ns[static_cast<std::size_t>(mode)] += duration_ns;
}

void ActivityTruth::observe_adapter(std::uint32_t adapter, const AdapterUse& use) {
  adapters[adapter] = {.reported = true, .use = use};
}

void ActivityTruth::observe_wave(std::uint64_t number) {
  has_wave = true;
  wave = number;
}

void ActivityTruth::add(const ActivityTruth& other) {
  for (std::size_t i = 0; i < kCacheLevels; ++i) {
    CacheLevelTruth& mine = levels[i];
    const CacheLevelTruth& theirs = other.levels[i];
    mine.looked_up |= theirs.looked_up;
    mine.hits += theirs.hits;
    mine.misses += theirs.misses;
    mine.hit_bytes += theirs.hit_bytes;
    mine.stored |= theirs.stored;
    mine.written_bytes += theirs.written_bytes;
    mine.capacity_bytes += theirs.capacity_bytes;
    mine.freed_bytes += theirs.freed_bytes;
    for (std::size_t cause = 0; cause < kEvictionCauses; ++cause) {
      mine.evictions[cause] += theirs.evictions[cause];
      mine.evicted_blocks[cause] += theirs.evicted_blocks[cause];
    }
  }
  for (std::size_t i = 0; i < block_operations.size(); ++i) {
    block_operations[i] += other.block_operations[i];
  }
  request_evictions += other.request_evictions;
  request_evicted_blocks += other.request_evicted_blocks;
  timed_steps += other.timed_steps;
  phases.add(other.phases);
  for (std::size_t mode = 0; mode < kCudaGraphModeNames.size(); ++mode) {
    capture_ns[mode] += other.capture_ns[mode];
    replay_ns[mode] += other.replay_ns[mode];
  }
  graph_memory_bytes = std::max(graph_memory_bytes, other.graph_memory_bytes);
  for (std::uint32_t i = 0; i < adapters.size(); ++i) {
    if (other.adapters[i].reported) observe_adapter(i, other.adapters[i].use);
  }
  if (other.has_wave) observe_wave(other.wave);
}

void write_activity(SeriesWriter& out, const ActivityTruth& truth) {
  for (std::size_t i = 0; i < kCacheLevels; ++i) {
    write_level(out, kCacheLevelNames[i], truth.levels[i]);
  }
  write_blocks(out, truth);
  write_phases(out, truth);
  write_cuda_graphs(out, truth);
  for (std::uint32_t i = 0; i < truth.adapters.size(); ++i) {
    const AdapterTruth& adapter = truth.adapters[i];
    if (!adapter.reported) continue;
    const SeriesWriter::SeriesLabels labels = {{"lora_name", adapter_name(i)}};
    out.gauge("rankbus_lora_requests_running", adapter.use.running, labels);
    out.gauge("rankbus_lora_requests_waiting", adapter.use.live - adapter.use.running, labels);
  }
  if (truth.has_wave) out.gauge("rankbus_dp_wave", static_cast<double>(truth.wave));
}

}  // namespace rankbus::simulator
