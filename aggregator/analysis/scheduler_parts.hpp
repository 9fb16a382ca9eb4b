// aggregator/analysis/scheduler_parts.hpp: what a scheduler's statistics are made of: the prefix
// cache, speculative decoding, CUDA graphs, step timings and evictions.
//
// Each is a value that Accumulates, and the same in whatever order its parts were taken in. A
// record that cannot be true (more hits than tokens, a time that is no number) is left out and
// counted. Bounds: kMaxSpecTokens positions, kMaxEvictionEvents events of at most
// kMaxRequestIdBytes + kMaxReasonBytes of text each.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/bounded_values.hpp>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/instant.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus::analysis {

inline constexpr std::uint32_t kMaxSpecTokens = 4096;
inline constexpr std::size_t kMaxEvictionEvents = 1000;
inline constexpr std::size_t kMaxRequestIdBytes = 128;
inline constexpr std::size_t kMaxReasonBytes = 64;

// 0 where there is nothing to divide by, as everywhere in this family.
inline double ratio(double part, double whole) {
  return whole == 0 ? 0 : part / whole;
}

// Tokens looked up in a prefix cache.
class PrefixCacheStats {
 public:
  // Returns whether it counted: nobody finds more tokens than were looked for.
  bool record(std::uint64_t num_tokens, std::uint64_t num_hits, bool preempted = false);

  std::uint64_t num_tokens() const { return num_tokens_; }
  std::uint64_t num_hits() const { return num_hits_; }
  std::uint64_t num_misses() const { return num_misses_; }
  bool preempted() const { return preempted_; }  // By any record since the last reset.
  std::uint64_t bad_records() const { return bad_records_; }
  double hit_rate() const;

  void aggregate(const PrefixCacheStats& other);
  bool is_empty() const { return *this == PrefixCacheStats{}; }
  ReducedStats reduce() const;
  void reset() { *this = {}; }
  Json as_dict() const;

  friend bool operator==(const PrefixCacheStats&, const PrefixCacheStats&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(num_tokens_, num_hits_, num_misses_, preempted_, bad_records_);
  }

 private:
  std::uint64_t num_tokens_ = 0;
  std::uint64_t num_hits_ = 0;
  std::uint64_t num_misses_ = 0;
  bool preempted_ = false;
  std::uint64_t bad_records_ = 0;
};

// Drafts of at most `num_spec_tokens` tokens each, and how many of them were accepted.
class SpecDecodingStats {
 public:
  // Positions from kMaxSpecTokens on are not told apart.
  explicit SpecDecodingStats(std::uint32_t num_spec_tokens = 5);

  // Of `accepted_positions`, those that no draft has are ignored; one named twice counts twice.
  void observe_draft(std::uint64_t num_draft_tokens, std::uint64_t num_accepted_tokens,
                     std::span<const std::int64_t> accepted_positions = {});

  // Many drafts at a time, with how often each position was accepted.
  void observe_drafts(std::uint64_t num_drafts, std::uint64_t num_draft_tokens,
                      std::uint64_t num_accepted_tokens,
                      std::span<const std::uint64_t> accepted_per_position);

  std::uint32_t num_spec_tokens() const { return static_cast<std::uint32_t>(per_position_.size()); }
  std::uint64_t num_drafts() const { return num_drafts_; }
  std::uint64_t num_draft_tokens() const { return num_draft_tokens_; }
  std::uint64_t num_accepted_tokens() const { return num_accepted_tokens_; }
  const std::vector<std::uint64_t>& accepted_per_position() const { return per_position_; }

  double acceptance_rate() const;
  double avg_accepted_per_draft() const;  // Without the bonus token.
  std::vector<double> position_acceptance_rates() const;

  // A shorter list of positions goes on with zeros; one without a draft yet says nothing.
  void aggregate(const SpecDecodingStats& other);
  bool is_empty() const;
  ReducedStats reduce() const;
  void reset() { *this = SpecDecodingStats(num_spec_tokens()); }  // Keeps the number of positions.
  Json as_dict() const;

  friend bool operator==(const SpecDecodingStats&, const SpecDecodingStats&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(num_drafts_, num_draft_tokens_, num_accepted_tokens_, per_position_);
  }

 private:
  std::uint64_t num_drafts_ = 0;
  std::uint64_t num_draft_tokens_ = 0;
  std::uint64_t num_accepted_tokens_ = 0;
  std::vector<std::uint64_t> per_position_;
};

class CudaGraphStats {
 public:
  // Both return whether it counted.
  bool record_capture(double time_ms, double memory_mb);
  bool record_replay(double time_ms);

  std::uint64_t num_captures() const { return num_captures_; }
  std::uint64_t num_replays() const { return num_replays_; }
  double capture_time_ms() const { return capture_time_ms_.value(); }
  double replay_time_ms() const { return replay_time_ms_.value(); }
  double avg_capture_time_ms() const;
  double avg_replay_time_ms() const;
  double graph_memory_mb() const { return graph_memory_mb_.value(); }  // The largest ever seen.
  std::uint64_t bad_records() const { return bad_records_; }

  // Writers of one engine use the same graphs' memory; engines have devices of their own.
  void aggregate(const CudaGraphStats& other);
  void aggregate_engine(const CudaGraphStats& other);
  bool is_empty() const { return *this == CudaGraphStats{}; }
  ReducedStats reduce() const;
  void reset() { *this = {}; }
  Json as_dict() const;

  friend bool operator==(const CudaGraphStats&, const CudaGraphStats&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(num_captures_, num_replays_, capture_time_ms_, replay_time_ms_, graph_memory_mb_,
            bad_records_);
  }

 private:
  void add_all_but_memory(const CudaGraphStats& other);

  std::uint64_t num_captures_ = 0;
  std::uint64_t num_replays_ = 0;
  MicroSum capture_time_ms_;
  MicroSum replay_time_ms_;
  MicroSum graph_memory_mb_;
  std::uint64_t bad_records_ = 0;
};

// Where steps spend their time. Sums, kept in whole nanoseconds.
class PerfStats {
 public:
  // Each returns whether it counted. The phases of the second group belong to steps that
  // record_step() counts.
  bool record_step(double schedule_ms = 0, double forward_ms = 0, double sample_ms = 0);

  bool record_model_execute(double ms) { return record(model_execute_ms_, ms); }
  bool record_all_reduce(double ms) { return record(all_reduce_ms_, ms); }
  bool record_cache_swap(double ms) { return record(cache_swap_ms_, ms); }

  std::uint64_t num_steps() const { return num_steps_; }
  double schedule_time_ms() const { return schedule_ms_.value(); }
  double model_forward_time_ms() const { return model_forward_ms_.value(); }
  double model_execute_time_ms() const { return model_execute_ms_.value(); }
  double sample_time_ms() const { return sample_ms_.value(); }
  double all_reduce_time_ms() const { return all_reduce_ms_.value(); }
  double cache_swap_time_ms() const { return cache_swap_ms_.value(); }
  double total_time_ms() const;  // Without model_execute, which spans the forward pass.
  double avg_step_time_ms() const;
  std::uint64_t bad_records() const { return bad_records_; }

  void aggregate(const PerfStats& other);
  bool is_empty() const { return *this == PerfStats{}; }
  ReducedStats reduce() const;
  void reset() { *this = {}; }
  Json as_dict() const;

  friend bool operator==(const PerfStats&, const PerfStats&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(num_steps_, schedule_ms_, model_forward_ms_, model_execute_ms_, sample_ms_,
            all_reduce_ms_, cache_swap_ms_, bad_records_);
  }

 private:
  bool record(MicroSum& sum, double ms);

  std::uint64_t num_steps_ = 0;
  MicroSum schedule_ms_;
  MicroSum model_forward_ms_;
  MicroSum model_execute_ms_;
  MicroSum sample_ms_;
  MicroSum all_reduce_ms_;
  MicroSum cache_swap_ms_;
  std::uint64_t bad_records_ = 0;
};

// Blocks taken from a request. By convention the reason is memory_pressure, timeout or manual.
struct KvCacheEvictionEvent {
  std::int64_t stamp_ns = 0;  // Orders events; the time stamp only says when.
  std::uint64_t number = 0;   // Of those with one stamp in one log: which came first.
  double timestamp = 0;       // Seconds since the epoch.
  std::string request_id;
  std::uint64_t num_blocks = 0;
  std::string reason;

  static KvCacheEvictionEvent at_untrusted(Instant now, std::string_view request_id,
                                           std::uint64_t num_blocks, std::string_view reason);
  Json as_dict() const;

  friend auto operator<=>(const KvCacheEvictionEvent&, const KvCacheEvictionEvent&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(stamp_ns, number, timestamp, request_id, num_blocks, reason);
  }
};

// Eviction events in the order of time: the newest kMaxEvictionEvents that nobody has drained.
class EvictionLog {
 public:
  void add(KvCacheEvictionEvent event);

  const std::deque<KvCacheEvictionEvent>& events() const { return events_; }
  std::uint64_t dropped() const { return dropped_; }  // Since the last reset.
  // Each event once, oldest first. What was dropped stays counted.
  std::vector<KvCacheEvictionEvent> drain();

  void aggregate(const EvictionLog& other);
  bool is_empty() const { return events_.empty() && dropped_ == 0; }
  ReducedStats reduce() const;
  void reset();  // Later events are still later than those of before.

  friend bool operator==(const EvictionLog&, const EvictionLog&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(events_, next_number_, dropped_);
  }

 private:
  void insert(KvCacheEvictionEvent event);

  std::deque<KvCacheEvictionEvent> events_;
  std::uint64_t next_number_ = 0;
  std::uint64_t dropped_ = 0;
};

static_assert(Accumulates<PrefixCacheStats> && Accumulates<SpecDecodingStats>);
static_assert(Accumulates<CudaGraphStats> && Accumulates<PerfStats> && Accumulates<EvictionLog>);

}  // namespace rankbus::analysis
