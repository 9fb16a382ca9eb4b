// What an engine's scheduler tells of its caches and KV blocks, step by step: the operations on the
// pool's blocks, what requests looked up, what was stored and what had to go.
#pragma once

#include <cstdint>
#include <optional>
#include <rankbus/producer/simulator/block_journal.hpp>
#include <rankbus/producer/simulator/cache_recorder.hpp>
#include <rankbus/producer/simulator/processes.hpp>

namespace rankbus::simulator {

class SchedulerCaches {
 public:
  // `core` must outlive this. Throws where the event log cannot be written, as all of this does.
  SchedulerCaches(const RunPlan& plan, std::uint32_t engine, EngineCore& core, Producer& producer,
                  ActivityTruth& truth);

  static void add_record_types(const FeatureOptions& features, OpenOptions& options);

  // Requests are scheduled now, and blocks change hands.
  void begin_step(const Moment& began);
  // Tells what the step did; requests that finished gave their blocks back when it ended.
  void record_step(const Moment& ended);
  EventLog* log() { return log_ ? &*log_ : nullptr; }

 private:
  void record_lookup(const PrefixLookup& lookup);
  void record_blocks();
  void record_blocks(BlockOperation operation, const std::vector<std::uint32_t>& blocks);
  void record_prefix_cache();
  void record_memory(const Moment& ended);
  void record_request_eviction(const BlockRelease& release);
  std::uint64_t capacity_bytes() const { return plan_.options.kv_blocks * kBlockBytes; }

  const RunPlan& plan_;
  const FeatureOptions& features_;
  const EngineCore& core_;
  Producer& producer_;
  ActivityTruth& truth_;
  std::optional<EventLog> log_;
  std::optional<BlockJournal> journal_;  // Unless nobody wants to know.
  CacheRecorder recorder_;
  Moment began_;
};

}  // namespace rankbus::simulator
