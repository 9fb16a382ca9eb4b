#include <algorithm>
#include <rankbus/aggregator/analysis/scheduler_parts.hpp>
#include <utility>

namespace rankbus::analysis {
namespace {

double as_double(std::uint64_t count) {
  return static_cast<double>(count);
}

// Sum and count kept apart, divided last.
double average(const MicroSum& sum, std::uint64_t count) {
  return ratio(sum.value(), as_double(count));
}

}  // namespace

bool PrefixCacheStats::record(std::uint64_t num_tokens, std::uint64_t num_hits, bool preempted) {
  if (num_hits > num_tokens) {
    add_saturating(bad_records_, 1);
    return false;
  }
  add_saturating(num_tokens_, num_tokens);
  add_saturating(num_hits_, num_hits);
  add_saturating(num_misses_, num_tokens - num_hits);
  preempted_ = preempted_ || preempted;
  return true;
}

double PrefixCacheStats::hit_rate() const {
  return ratio(as_double(num_hits_), as_double(num_hits_) + as_double(num_misses_));
}

void PrefixCacheStats::aggregate(const PrefixCacheStats& other) {
  add_saturating(num_tokens_, other.num_tokens_);
  add_saturating(num_hits_, other.num_hits_);
  add_saturating(num_misses_, other.num_misses_);
  preempted_ = preempted_ || other.preempted_;
  add_saturating(bad_records_, other.bad_records_);
}

ReducedStats PrefixCacheStats::reduce() const {
  return {{"num_tokens", num_tokens_},
          {"num_hits", num_hits_},
          {"num_misses", num_misses_},
          {"hit_rate", hit_rate()}};
}

Json PrefixCacheStats::as_dict() const {
  return {{"num_tokens", num_tokens_},
          {"num_hits", num_hits_},
          {"num_misses", num_misses_},
          {"hit_rate", hit_rate()},
          {"preempted", preempted_}};
}

SpecDecodingStats::SpecDecodingStats(std::uint32_t num_spec_tokens)
    : per_position_(std::min(num_spec_tokens, kMaxSpecTokens)) {}

void SpecDecodingStats::observe_draft(std::uint64_t num_draft_tokens,
                                      std::uint64_t num_accepted_tokens,
                                      std::span<const std::int64_t> accepted_positions) {
  add_saturating(num_drafts_, 1);
  add_saturating(num_draft_tokens_, num_draft_tokens);
  add_saturating(num_accepted_tokens_, num_accepted_tokens);
  for (const std::int64_t position : accepted_positions) {
    const auto at = static_cast<std::uint64_t>(position);  // Negative ones are beyond any list.
    if (at < per_position_.size()) add_saturating(per_position_[at], 1);
  }
}

void SpecDecodingStats::observe_drafts(std::uint64_t num_drafts, std::uint64_t num_draft_tokens,
                                       std::uint64_t num_accepted_tokens,
                                       std::span<const std::uint64_t> accepted_per_position) {
  add_saturating(num_drafts_, num_drafts);
  add_saturating(num_draft_tokens_, num_draft_tokens);
  add_saturating(num_accepted_tokens_, num_accepted_tokens);
  const std::size_t positions = std::min(per_position_.size(), accepted_per_position.size());
  for (std::size_t i = 0; i < positions; ++i)
    add_saturating(per_position_[i], accepted_per_position[i]);
}

double SpecDecodingStats::acceptance_rate() const {
  return ratio(as_double(num_accepted_tokens_), as_double(num_draft_tokens_));
}

double SpecDecodingStats::avg_accepted_per_draft() const {
  return ratio(as_double(num_accepted_tokens_), as_double(num_drafts_));
}

std::vector<double> SpecDecodingStats::position_acceptance_rates() const {
  std::vector<double> rates;
  rates.reserve(per_position_.size());
  for (const std::uint64_t accepted : per_position_) {
    rates.push_back(ratio(as_double(accepted), as_double(num_drafts_)));
  }
  return rates;
}

bool SpecDecodingStats::is_empty() const {
  const auto is_zero = [](std::uint64_t count) { return count == 0; };
  return num_drafts_ == 0 && num_draft_tokens_ == 0 && num_accepted_tokens_ == 0 &&
         std::all_of(per_position_.begin(), per_position_.end(), is_zero);
}

void SpecDecodingStats::aggregate(const SpecDecodingStats& other) {
  if (other.is_empty() && !is_empty()) return;
  if (is_empty() && !other.is_empty()) per_position_.clear();
  if (per_position_.size() < other.per_position_.size()) {
    per_position_.resize(other.per_position_.size());
  }
  for (std::size_t i = 0; i < other.per_position_.size(); ++i) {
    add_saturating(per_position_[i], other.per_position_[i]);
  }
  add_saturating(num_drafts_, other.num_drafts_);
  add_saturating(num_draft_tokens_, other.num_draft_tokens_);
  add_saturating(num_accepted_tokens_, other.num_accepted_tokens_);
}

ReducedStats SpecDecodingStats::reduce() const {
  return {{"num_drafts", num_drafts_},
          {"num_draft_tokens", num_draft_tokens_},
          {"num_accepted_tokens", num_accepted_tokens_},
          {"acceptance_rate", acceptance_rate()},
          {"avg_accepted_per_draft", avg_accepted_per_draft()}};
}

Json SpecDecodingStats::as_dict() const {
  return {{"num_drafts", num_drafts_},
          {"num_draft_tokens", num_draft_tokens_},
          {"num_accepted_tokens", num_accepted_tokens_},
          {"acceptance_rate", acceptance_rate()},
          {"avg_accepted_per_draft", avg_accepted_per_draft()},
          {"position_acceptance_rates", position_acceptance_rates()}};
}

bool CudaGraphStats::record_capture(double time_ms, double memory_mb) {
  if (!MicroSum::takes(time_ms) || !MicroSum::takes(memory_mb)) {
    add_saturating(bad_records_, 1);
    return false;
  }
  add_saturating(num_captures_, 1);
  capture_time_ms_.add(time_ms);
  graph_memory_mb_.raise_to(memory_mb);
  return true;
}

bool CudaGraphStats::record_replay(double time_ms) {
  if (!MicroSum::takes(time_ms)) {
    add_saturating(bad_records_, 1);
    return false;
  }
  add_saturating(num_replays_, 1);
  replay_time_ms_.add(time_ms);
  return true;
}

double CudaGraphStats::avg_capture_time_ms() const {
  return average(capture_time_ms_, num_captures_);
}

double CudaGraphStats::avg_replay_time_ms() const {
  return average(replay_time_ms_, num_replays_);
}

void CudaGraphStats::add_all_but_memory(const CudaGraphStats& other) {
  add_saturating(num_captures_, other.num_captures_);
  add_saturating(num_replays_, other.num_replays_);
  capture_time_ms_.add(other.capture_time_ms_);
  replay_time_ms_.add(other.replay_time_ms_);
  add_saturating(bad_records_, other.bad_records_);
}

void CudaGraphStats::aggregate(const CudaGraphStats& other) {
  add_all_but_memory(other);
  graph_memory_mb_.raise_to(other.graph_memory_mb_);
}

void CudaGraphStats::aggregate_engine(const CudaGraphStats& other) {
  add_all_but_memory(other);
  graph_memory_mb_.add(other.graph_memory_mb_);
}

ReducedStats CudaGraphStats::reduce() const {
  return {{"num_captures", num_captures_},
          {"num_replays", num_replays_},
          {"capture_time_ms", capture_time_ms()},
          {"replay_time_ms", replay_time_ms()},
          {"avg_capture_time_ms", avg_capture_time_ms()},
          {"avg_replay_time_ms", avg_replay_time_ms()},
          {"graph_memory_mb", graph_memory_mb()}};
}

Json CudaGraphStats::as_dict() const {
  return {{"num_captures", num_captures_},
          {"num_replays", num_replays_},
          {"capture_time_ms", capture_time_ms()},
          {"replay_time_ms", replay_time_ms()},
          {"avg_capture_time_ms", avg_capture_time_ms()},
          {"avg_replay_time_ms", avg_replay_time_ms()},
          {"graph_memory_mb", graph_memory_mb()}};
}

bool PerfStats::record(MicroSum& sum, double ms) {
  if (!MicroSum::takes(ms)) {
    add_saturating(bad_records_, 1);
    return false;
  }
  sum.add(ms);
  return true;
}

bool PerfStats::record_step(double schedule_ms, double forward_ms, double sample_ms) {
  if (!MicroSum::takes(schedule_ms) || !MicroSum::takes(forward_ms) ||
      !MicroSum::takes(sample_ms)) {
    add_saturating(bad_records_, 1);
    return false;
  }
  add_saturating(num_steps_, 1);
  schedule_ms_.add(schedule_ms);
  model_forward_ms_.add(forward_ms);
  sample_ms_.add(sample_ms);
  return true;
}

double PerfStats::total_time_ms() const {
  MicroSum total = schedule_ms_;
  for (const MicroSum* part : {&model_forward_ms_, &sample_ms_, &all_reduce_ms_, &cache_swap_ms_}) {
    total.add(*part);
  }
  return total.value();
}

double PerfStats::avg_step_time_ms() const {
  return ratio(total_time_ms(), as_double(num_steps_));
}

void PerfStats::aggregate(const PerfStats& other) {
  add_saturating(num_steps_, other.num_steps_);
  schedule_ms_.add(other.schedule_ms_);
  model_forward_ms_.add(other.model_forward_ms_);
  model_execute_ms_.add(other.model_execute_ms_);
  sample_ms_.add(other.sample_ms_);
  all_reduce_ms_.add(other.all_reduce_ms_);
  cache_swap_ms_.add(other.cache_swap_ms_);
  add_saturating(bad_records_, other.bad_records_);
}

ReducedStats PerfStats::reduce() const {
  return {{"num_steps", num_steps_},
          {"schedule_time_ms", schedule_time_ms()},
          {"model_forward_time_ms", model_forward_time_ms()},
          {"sample_time_ms", sample_time_ms()},
          {"total_time_ms", total_time_ms()},
          {"avg_step_time_ms", avg_step_time_ms()},
          {"model_execute_time_ms", model_execute_time_ms()},
          {"all_reduce_time_ms", all_reduce_time_ms()},
          {"cache_swap_time_ms", cache_swap_time_ms()}};
}

Json PerfStats::as_dict() const {
  return {{"num_steps", num_steps_},
          {"schedule_time_ms", schedule_time_ms()},
          {"model_forward_time_ms", model_forward_time_ms()},
          {"sample_time_ms", sample_time_ms()},
          {"total_time_ms", total_time_ms()},
          {"avg_step_time_ms", avg_step_time_ms()},
          {"model_execute_time_ms", model_execute_time_ms()},
          {"all_reduce_time_ms", all_reduce_time_ms()},
          {"cache_swap_time_ms", cache_swap_time_ms()}};
}

KvCacheEvictionEvent KvCacheEvictionEvent::at_untrusted(Instant now, std::string_view request_id,
                                                        std::uint64_t num_blocks,
                                                        std::string_view reason) {
  KvCacheEvictionEvent event;
  event.stamp_ns = now.monotonic_ns;
  event.timestamp = now.wall_s;
  event.request_id = clean_text_untrusted(request_id, kMaxRequestIdBytes);
  event.num_blocks = num_blocks;
  event.reason = clean_text_untrusted(reason, kMaxReasonBytes);
  return event;
}

Json KvCacheEvictionEvent::as_dict() const {
  return {{"timestamp", timestamp},
          {"request_id", request_id},
          {"num_blocks", num_blocks},
          {"reason", reason}};
}

void EvictionLog::add(KvCacheEvictionEvent event) {
  event.number = next_number_++;
  insert(std::move(event));
}

// Nearly always at the end.
void EvictionLog::insert(KvCacheEvictionEvent event) {
  auto at = events_.end();
  while (at != events_.begin() && event < *(at - 1)) --at;
  events_.insert(at, std::move(event));
  if (events_.size() <= kMaxEvictionEvents) return;
  events_.pop_front();
  add_saturating(dropped_, 1);
}

std::vector<KvCacheEvictionEvent> EvictionLog::drain() {
  std::vector<KvCacheEvictionEvent> drained(std::make_move_iterator(events_.begin()),
                                            std::make_move_iterator(events_.end()));
  events_.clear();
  return drained;
}

void EvictionLog::reset() {
  events_.clear();
  dropped_ = 0;
}

void EvictionLog::aggregate(const EvictionLog& other) {
  const std::deque<KvCacheEvictionEvent> theirs = other.events_;
  next_number_ = std::max(next_number_, other.next_number_);
  add_saturating(dropped_, other.dropped_);
  for (const KvCacheEvictionEvent& event : theirs) insert(event);
}

ReducedStats EvictionLog::reduce() const {
  std::uint64_t blocks = 0;
  for (const KvCacheEvictionEvent& event : events_) add_saturating(blocks, event.num_blocks);
  return {{"events", std::uint64_t{events_.size()}}, {"blocks", blocks}, {"dropped", dropped_}};
}

}  // namespace rankbus::analysis
