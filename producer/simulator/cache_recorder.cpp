#include <rankbus/producer/simulator/cache_recorder.hpp>
#include <rankbus/producer/simulator/info_record.hpp>

namespace rankbus::simulator {

namespace {

CacheEvictionCause recorded(EvictionCause cause) {
  switch (cause) {
    case EvictionCause::lru:
      return CacheEvictionCause::lru;
    case EvictionCause::explicit_request:
      return CacheEvictionCause::explicit_request;
    case EvictionCause::preemption:
      return CacheEvictionCause::preemption;
  }
  return CacheEvictionCause::lru;
}

const char* text_of(CacheLevel level) {
  return kCacheLevelNames[static_cast<std::size_t>(level)];
}

}  // namespace

CacheRecorder::CacheRecorder(Producer& producer, ActivityTruth& truth, EventLog* log, bool records)
    : producer_(producer), truth_(truth), log_(log), records_(records) {}

void CacheRecorder::add_record_types(OpenOptions& options) {
  add_record_type<CacheLookup>(options);
  add_record_type<CacheStorage>(options);
  add_record_type<CacheEviction>(options);
}

void CacheRecorder::tell(const Moment& when, const LookupOutcome& outcome) {
  if (outcome.hits + outcome.misses == 0) return;
  if (log_ != nullptr) {
    log_->add("lookup", when.clock_ns, {text_of(outcome.level)},
              {outcome.hits, outcome.misses, outcome.hit_bytes, outcome.miss_bytes,
               outcome.latency_ns, outcome.prefix_hash, outcome.prefix_length});
  }
  if (!records_) return;
  CacheLookup record;
  record.stamp = when.stamp;
  record.level = name_of(outcome.level);
  record.hits = outcome.hits;
  record.misses = outcome.misses;
  record.hit_bytes = outcome.hit_bytes;
  record.miss_bytes = outcome.miss_bytes;
  record.latency_ns = outcome.latency_ns;
  record.prefix_hash = outcome.prefix_hash;
  record.prefix_length = outcome.prefix_length;
  truth_.observe(outcome);
  producer_.record(record);
}

void CacheRecorder::tell(const Moment& when, const StorageOutcome& outcome) {
  if (outcome.bytes == 0) return;
  if (log_ != nullptr) {
    log_->add("write", when.clock_ns, {text_of(outcome.level)},
              {outcome.bytes, outcome.capacity_bytes});
  }
  if (!records_) return;
  CacheStorage record;
  record.stamp = when.stamp;
  record.level = name_of(outcome.level);
  record.written_bytes = outcome.bytes;
  if (outcome.capacity_bytes > 0) record.capacity_bytes = outcome.capacity_bytes;
  truth_.observe(outcome);
  producer_.record(record);
}

void CacheRecorder::tell(const Moment& when, const EvictionOutcome& outcome) {
  if (outcome.blocks == 0) return;
  if (log_ != nullptr) {
    log_->add(
        "evict", when.clock_ns,
        {text_of(outcome.level), kEvictionCauseNames[static_cast<std::size_t>(outcome.cause)]},
        {outcome.blocks, outcome.bytes, outcome.latency_ns, outcome.followed_blocks,
         outcome.unused_blocks});
  }
  if (!records_) return;
  CacheEviction record;
  record.stamp = when.stamp;
  record.level = name_of(outcome.level);
  record.reason = recorded(outcome.cause);
  record.num_blocks = outcome.blocks;
  record.freed_bytes = outcome.bytes;
  record.latency_ns = outcome.latency_ns;
  record.followed_blocks = outcome.followed_blocks;
  record.unused_blocks = outcome.unused_blocks;
  truth_.observe(outcome);
  producer_.record(record);
}

// A level that never happens is not interned, so that it appears nowhere.
std::uint16_t CacheRecorder::name_of(CacheLevel level) {
  std::uint16_t& name = names_[static_cast<std::size_t>(level)];
  if (name == 0) name = producer_.intern(text_of(level));
  return name;
}

}  // namespace rankbus::simulator
