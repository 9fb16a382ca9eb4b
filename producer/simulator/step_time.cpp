#include <algorithm>
#include <rankbus/producer/simulator/random.hpp>
#include <rankbus/producer/simulator/step_time.hpp>

namespace rankbus::simulator {

StepCost step_cost(const StepTimeModel& model, const StepWork& work, std::uint32_t sequences) {
  StepCost cost;
  cost.schedule_ns = model.schedule_ns + model.schedule_seq_ns * sequences;
  cost.prepare_ns = model.prepare_ns + model.prepare_seq_ns * sequences;
  cost.sample_ns = model.sample_ns + model.sample_seq_ns * sequences;
  cost.forward_ns = model.forward_ns + model.prefill_token_ns * work.prefill_tokens +
                    model.prefill_pair_ps * work.prefill_token_pairs / 1000 +
                    model.decode_seq_ns * work.decode_seqs +
                    model.decode_context_token_ns * work.decode_context_tokens;
  cost.communication_ns = cost.forward_ns * model.communication_percent / 100;
  return cost;
}

std::uint32_t padded_size(std::uint32_t tokens) {
  if (tokens <= 2) return tokens;
  return tokens <= 4 ? 4 : (tokens + 7) / 8 * 8;
}

CudaGraphUse cuda_graph_of(const StepWork& work) {
  const auto tokens = static_cast<std::uint32_t>(work.tokens());
  if (tokens > kLargestCudaGraph) {
    return {.mode = CudaGraphMode::none, .unpadded_tokens = tokens, .padded_tokens = tokens};
  }
  return {.mode = work.prefill_tokens > 0 ? CudaGraphMode::piecewise : CudaGraphMode::full,
          .unpadded_tokens = tokens,
          .padded_tokens = padded_size(tokens)};
}

std::uint32_t padded_tokens(const StepWork& work) {
  const CudaGraphUse use = cuda_graph_of(work);
  return use.padded_tokens - use.unpadded_tokens;
}

CudaGraphCapture cuda_graph_capture(std::uint32_t tokens) {
  return {.duration_ns = 25'000'000 + std::uint64_t{20'000} * tokens,
          .bytes = (std::uint64_t{3} << 20) + (std::uint64_t{16} << 10) * tokens};
}

void PhaseTimes::add(const PhaseTimes& other) {
  schedule_ns += other.schedule_ns;
  model_forward_ns += other.model_forward_ns;
  model_execute_ns += other.model_execute_ns;
  sample_ns += other.sample_ns;
  all_reduce_ns += other.all_reduce_ns;
  cache_swap_ns += other.cache_swap_ns;
}

PhaseTimes planned_phases(const StepCost& cost) {
  return {.schedule_ns = cost.schedule_ns,
          .model_forward_ns = cost.forward_ns - cost.communication_ns,
          .model_execute_ns = cost.prepare_ns + cost.forward_ns,
          .sample_ns = cost.sample_ns,
          .all_reduce_ns = cost.communication_ns,
          .cache_swap_ns = 0};
}

Jitter::Jitter(std::uint64_t seed, std::uint32_t engine, std::uint32_t rank)
    : key_(hash_pair(seed, hash_pair(engine, rank))) {}

std::uint64_t Jitter::stretched_ns(std::uint64_t duration_ns, std::uint64_t step,
                                   std::uint64_t ordinal) const {
  // 2^40 steps of up to 2^24 draws each have keys of their own.
  const std::uint64_t bits = mix64(key_ ^ mix64((step << 24 | ordinal) + kGoldenGamma));
  constexpr std::uint64_t kPart = 0xffff;
  const std::uint64_t bell =
      (bits & kPart) + (bits >> 16 & kPart) + (bits >> 32 & kPart) + (bits >> 48);
  std::uint64_t stretched = duration_ns + duration_ns / 50 * bell / (4 * kPart);
  const std::uint64_t stall = mix64(bits + kGoldenGamma);
  if (stall % 1024 == 0) stretched += (stall >> 32) % 2'000'000;
  return stretched;
}

RankTimelines::RankTimelines(std::uint64_t seed, std::uint32_t engine, std::uint32_t ranks,
                             std::uint32_t collectives)
    : collectives_(collectives), steps_(ranks), times_(std::size_t{ranks} * collectives) {
  for (std::uint32_t rank = 0; rank < ranks; ++rank) jitters_.emplace_back(seed, engine, rank);
}

void RankTimelines::advance(const StepTimeModel& model, std::uint64_t step,
                            std::uint64_t broadcast_ns, const StepCost& cost) {
  for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
    RankStepTimes& times = steps_[rank];
    const Jitter& jitter = jitters_[rank];
    const std::uint64_t arrived = broadcast_ns + model.broadcast_ns +
                                  jitter.stretched_ns(model.broadcast_ns, step, Jitter::kBroadcast);
    // A rank that is still busy with the step before finds the message waiting.
    times.dequeued_ns = std::max(arrived, times.output_ready_ns);
    times.entered_ns = times.dequeued_ns + model.enter_ns;
    times.launched_ns =
        times.entered_ns + jitter.stretched_ns(cost.prepare_ns, step, Jitter::kPrepare);
    times.forward_end_ns = times.launched_ns;
  }
  for (std::uint32_t index = 0; index < std::max(collectives_, 1u); ++index) {
    run_collective(step, index, cost);
  }
  for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
    steps_[rank].output_ready_ns =
        steps_[rank].forward_end_ns +
        jitters_[rank].stretched_ns(cost.sample_ns, step, Jitter::kSample);
  }
}

PhaseTimes RankTimelines::phases(const StepCost& cost) const {
  const RankStepTimes& times = steps_.front();
  PhaseTimes phases;
  phases.schedule_ns = cost.schedule_ns;
  for (const CollectiveTimes& collective : collectives(0)) {
    phases.all_reduce_ns += collective.exit_ns - collective.entry_ns;
  }
  phases.model_execute_ns = times.forward_end_ns - times.dequeued_ns;
  phases.model_forward_ns = times.forward_end_ns - times.launched_ns - phases.all_reduce_ns;
  phases.sample_ns = times.output_ready_ns - times.forward_end_ns;
  return phases;
}

// Moves every rank through one segment of its forward pass and the collective behind it.
void RankTimelines::run_collective(std::uint64_t step, std::uint32_t index, const StepCost& cost) {
  const SegmentCost segment = segment_cost(cost, collectives_);
  std::uint64_t last_entry_ns = 0;
  for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
    std::uint64_t& at = steps_[rank].forward_end_ns;
    at += jitters_[rank].stretched_ns(segment.compute_ns, step, Jitter::kFirstCollective + index);
    last_entry_ns = std::max(last_entry_ns, at);
  }
  if (collectives_ == 0) return;
  const std::uint64_t exit_ns = last_entry_ns + segment.communicate_ns;
  for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
    times_[rank * collectives_ + index] = {.entry_ns = steps_[rank].forward_end_ns,
                                           .exit_ns = exit_ns};
    steps_[rank].forward_end_ns = exit_ns;
  }
}

SegmentCost segment_cost(const StepCost& cost, std::uint32_t collectives) {
  if (collectives == 0) return {.compute_ns = cost.forward_ns, .communicate_ns = 0};
  return {.compute_ns = (cost.forward_ns - cost.communication_ns) / collectives,
          .communicate_ns = cost.communication_ns / collectives};
}

}  // namespace rankbus::simulator
