#include <rankbus/producer/kv_blocks.hpp>
#include <rankbus/producer/simulator/info_record.hpp>
#include <rankbus/producer/simulator/scheduler_caches.hpp>

namespace rankbus::simulator {

namespace {

// Of both the blocks that allocations overwrite and those that are taken from a request.
constexpr const char* kBlockReason = "capacity";
constexpr const char* kRequestReason = "memory_pressure";

KvBlockOperation recorded(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::allocate:
      return KvBlockOperation::allocate;
    case BlockOperation::access:
      return KvBlockOperation::access;
    case BlockOperation::evict:
      return KvBlockOperation::evict;
  }
  return KvBlockOperation::allocate;
}

}  // namespace

SchedulerCaches::SchedulerCaches(const RunPlan& plan, std::uint32_t engine, EngineCore& core,
                                 Producer& producer, ActivityTruth& truth)
    : plan_(plan),
      features_(plan.options.features),
      core_(core),
      producer_(producer),
      truth_(truth),
      log_(plan.options.event_log.empty()
               ? std::nullopt
               : std::make_optional<EventLog>(engine_log_name(plan.options.event_log, engine))),
      recorder_(producer, truth, log(), features_.cache_metrics) {
  if (!log_ && !features_.cache_metrics && features_.block_operations_sample == 0) return;
  journal_.emplace(log());
  core.watch_blocks(*journal_);
}

void SchedulerCaches::add_record_types(const FeatureOptions& features, OpenOptions& options) {
  if (features.block_operations_sample > 0) add_record_type<KvBlockOperations>(options);
  if (!features.cache_metrics) return;
  CacheRecorder::add_record_types(options);
  add_record_type<RequestKvEviction>(options);
}

void SchedulerCaches::begin_step(const Moment& began) {
  began_ = began;
  if (journal_) journal_->set_now(began.clock_ns);
}

void SchedulerCaches::record_step(const Moment& ended) {
  if (!journal_) return;
  for (const PrefixLookup& lookup : core_.model().lookups()) record_lookup(lookup);
  if (features_.block_operations_sample > 0) record_blocks();
  record_prefix_cache();
  record_memory(ended);
  journal_->clear();
}

void SchedulerCaches::record_lookup(const PrefixLookup& lookup) {
  const auto look_up = [&](CacheLevel level, std::uint32_t asked, std::uint32_t hits) {
    LookupOutcome outcome;
    outcome.level = level;
    outcome.hits = hits;
    outcome.misses = asked - hits;
    outcome.hit_bytes = outcome.hits * kBlockBytes;
    outcome.miss_bytes = outcome.misses * kBlockBytes;
    outcome.latency_ns = lookup_latency_ns(level, plan_.options.seed, lookup.request);
    return outcome;
  };
  LookupOutcome prefix = look_up(CacheLevel::prefix, lookup.asked_blocks, lookup.hit_blocks);
  prefix.prefix_length = lookup.prompt_tokens;
  if (lookup.hit_blocks > 0) prefix.prefix_hash = prefix_hash(lookup.last_content);
  recorder_.tell(began_, prefix);
  recorder_.tell(began_, look_up(CacheLevel::external, lookup.external_asked_blocks,
                                 lookup.external_hit_blocks));
}

void SchedulerCaches::record_blocks() {
  for (const BlockBatch& batch : journal_->batches()) {
    record_blocks(BlockOperation::evict, batch.evicted);
    record_blocks(BlockOperation::allocate, batch.allocated);
    record_blocks(BlockOperation::access, batch.accessed);
  }
}

void SchedulerCaches::record_blocks(BlockOperation operation,
                                    const std::vector<std::uint32_t>& blocks) {
  if (blocks.empty()) return;
  KvBlockChange change;
  change.operation = recorded(operation);
  change.sample_rate = features_.block_operations_sample;
  change.stamp = began_.stamp;
  if (operation == BlockOperation::evict) change.reason = producer_.intern(kBlockReason);
  truth_.observe(operation, blocks.size());
  record_kv_blocks(producer_, change, blocks.data(), blocks.size());
}

// Contents that can be found. What is overwritten goes before what is new.
void SchedulerCaches::record_prefix_cache() {
  const BlockChanges& changes = journal_->changes();
  recorder_.tell(began_, EvictionOutcome{.level = CacheLevel::prefix,
                                         .cause = EvictionCause::lru,
                                         .blocks = changes.lost,
                                         .bytes = changes.lost * kBlockBytes,
                                         .latency_ns = changes.lost * kEvictBlock_ns,
                                         .followed_blocks = changes.lost,
                                         .unused_blocks = changes.lost_unused});
  recorder_.tell(began_, StorageOutcome{.level = CacheLevel::prefix,
                                        .bytes = changes.stored * kBlockBytes,
                                        .capacity_bytes = capacity_bytes()});
}

// Blocks in use. Those that a preemption gives back may be in use again in the same step.
void SchedulerCaches::record_memory(const Moment& ended) {
  const auto release = [&](const BlockRelease& one, const Moment& when, EvictionCause cause) {
    recorder_.tell(when, EvictionOutcome{.level = CacheLevel::kv,
                                         .cause = cause,
                                         .blocks = one.freed_blocks,
                                         .bytes = one.freed_blocks * kBlockBytes,
                                         .latency_ns = one.freed_blocks * kEvictBlock_ns});
  };
  for (const BlockRelease& one : core_.model().releases()) {
    if (!one.preempted) continue;
    release(one, began_, EvictionCause::preemption);
    record_request_eviction(one);
  }
  recorder_.tell(began_, StorageOutcome{.level = CacheLevel::kv,
                                        .bytes = journal_->changes().put_in_use * kBlockBytes,
                                        .capacity_bytes = capacity_bytes()});
  for (const BlockRelease& one : core_.model().releases()) {
    if (!one.preempted) release(one, ended, EvictionCause::explicit_request);
  }
}

void SchedulerCaches::record_request_eviction(const BlockRelease& release) {
  if (release.held_blocks == 0) return;
  const std::uint64_t hash = hash_pair(plan_.options.seed, release.request);
  if (log_) {
    log_->add("request_evict", began_.clock_ns, {kRequestReason}, {hash, release.held_blocks});
  }
  if (!features_.cache_metrics) return;
  RequestKvEviction record;
  record.stamp = began_.stamp;
  record.request_id_hash = hash;
  record.reason = producer_.intern(kRequestReason);
  record.num_blocks = release.held_blocks;
  truth_.observe_request_eviction(release.held_blocks);
  producer_.record(record);
}

}  // namespace rankbus::simulator
