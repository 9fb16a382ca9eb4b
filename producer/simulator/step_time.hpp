// How long things take, in model time.
//
// The constants are assumptions, not measurements. They describe one engine that serves a dense
// model of 70 billion parameters (80 layers, width 8192, 8 KV heads of 128) with 8-bit weights and
// KV cache on four H100 (80 GB), from public figures of the hardware (3.35 TB/s of memory, 1979
// TFLOP/s dense 8-bit and 989 TFLOP/s dense 16-bit arithmetic each) at good efficiencies. Such an
// engine has room for about 2400 KV blocks of 512 tokens. The constants do not change with --tp:
// another number of ranks stands for a model that fits it.
#pragma once

#include <array>
#include <cstdint>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <span>
#include <vector>

namespace rankbus::simulator {

struct StepTimeModel {
  // Every step reads all weights once, 17.5 GB a GPU at 2.5 TB/s, and launches the layers.
  std::uint64_t forward_ns = 8'500'000;
  // 2 x 70e9 operations on four GPUs at 63 % of their 8-bit rate.
  std::uint64_t prefill_token_ns = 28'000;
  // Attention of a prompt token over each token before it: 4 x 80 x 8192 operations at 60 % of the
  // 16-bit rate.
  std::uint64_t prefill_pair_ps = 1'100;
  // Sampling and the per-sequence share of small kernels.
  std::uint64_t decode_seq_ns = 25'000;
  // A decoding sequence reads its whole context: 41 kB a token and GPU at 2.5 TB/s.
  std::uint64_t decode_context_token_ns = 16;
  // The part of the forward pass that the collectives themselves take, however many there are.
  std::uint64_t communication_percent = 8;

  std::uint64_t schedule_ns = 80'000;
  std::uint64_t schedule_seq_ns = 2'000;
  std::uint64_t broadcast_ns = 30'000;  // scheduler to worker; jitter adds as much again
  std::uint64_t enter_ns = 5'000;
  std::uint64_t prepare_ns = 400'000;
  std::uint64_t prepare_seq_ns = 1'000;
  std::uint64_t sample_ns = 600'000;
  std::uint64_t sample_seq_ns = 2'000;
  std::uint64_t collect_ns = 50'000;  // first rank's output to the scheduler

  // A front end tokenizes one prompt after another, and turns the tokens of a step into text.
  std::uint64_t intake_ns = 1'000'000;
  std::uint64_t intake_token_ns = 500;
  std::uint64_t deliver_ns = 300'000;
  std::uint64_t deliver_output_ns = 5'000;
};

// The parts of one step before jitter.
struct StepCost {
  std::uint64_t schedule_ns = 0;
  std::uint64_t prepare_ns = 0;
  std::uint64_t forward_ns = 0;        // communication included
  std::uint64_t communication_ns = 0;  // all collectives of the step together
  std::uint64_t sample_ns = 0;
};

StepCost step_cost(const StepTimeModel& model, const StepWork& work, std::uint32_t sequences);

// Which CUDA graph runs a step. Graphs exist for 1, 2, 4 and the multiples of 8 up to 512 tokens:
// of the whole model for decode-only steps, of its pieces for others. Larger steps run without one.
enum class CudaGraphMode : std::uint8_t { none, piecewise, full };
inline constexpr std::array kCudaGraphModeNames = {"NONE", "PIECEWISE", "FULL"};
inline constexpr std::uint32_t kLargestCudaGraph = 512;
struct CudaGraphUse {
  CudaGraphMode mode = CudaGraphMode::none;
  std::uint32_t unpadded_tokens = 0;
  std::uint32_t padded_tokens = 0;
};
CudaGraphUse cuda_graph_of(const StepWork& work);
// The smallest size of a graph for so many tokens, even beyond the largest.
std::uint32_t padded_size(std::uint32_t tokens);
// Tokens that the graph computes beyond the scheduled ones.
std::uint32_t padded_tokens(const StepWork& work);

// What capturing one graph takes before the first step. Assumptions too.
struct CudaGraphCapture {
  std::uint64_t duration_ns = 0;
  std::uint64_t bytes = 0;
};
CudaGraphCapture cuda_graph_capture(std::uint32_t tokens);

// Where the time of a step went, as the scheduler and rank 0 see it. Executing spans the forward
// pass and the collectives; all others add up to no more than the step took. Nothing is swapped.
struct PhaseTimes {
  std::uint64_t schedule_ns = 0;
  std::uint64_t model_forward_ns = 0;  // without the collectives
  std::uint64_t model_execute_ns = 0;
  std::uint64_t sample_ns = 0;
  std::uint64_t all_reduce_ns = 0;
  std::uint64_t cache_swap_ns = 0;

  void add(const PhaseTimes& other);
};
// Before jitter.
PhaseTimes planned_phases(const StepCost& cost);

// Variation between ranks. A duration d becomes d (1 + 0.02 b) with b from a bell shape on [0, 1]
// (the mean of four uniform numbers); besides, one draw in 1024 stalls for up to 2 ms, as hosts do.
// It is a pure function of who draws and when, so every process can compute every rank's share.
class Jitter {
 public:
  // What a draw is for. Collectives count up from kFirstCollective.
  enum Ordinal : std::uint64_t { kBroadcast, kPrepare, kSample, kFirstCollective };

  Jitter(std::uint64_t seed, std::uint32_t engine, std::uint32_t rank);
  std::uint64_t stretched_ns(std::uint64_t duration_ns, std::uint64_t step,
                             std::uint64_t ordinal) const;

 private:
  std::uint64_t key_;
};

struct CollectiveTimes {
  std::uint64_t entry_ns = 0;
  std::uint64_t exit_ns = 0;
};

struct RankStepTimes {
  std::uint64_t dequeued_ns = 0;
  std::uint64_t entered_ns = 0;
  std::uint64_t launched_ns = 0;
  std::uint64_t forward_end_ns = 0;
  std::uint64_t output_ready_ns = 0;
};

// The virtual clock's account of all ranks of an engine, step by step. The scheduler and each rank
// hold one and feed it the same steps, so all agree without asking each other. Nobody leaves a
// collective before the last rank has entered it.
class RankTimelines {
 public:
  RankTimelines(std::uint64_t seed, std::uint32_t engine, std::uint32_t ranks,
                std::uint32_t collectives);

  void advance(const StepTimeModel& model, std::uint64_t step, std::uint64_t broadcast_ns,
               const StepCost& cost);

  const RankStepTimes& rank(std::uint32_t rank) const { return steps_[rank]; }
  // Of the last step, by rank 0.
  PhaseTimes phases(const StepCost& cost) const;
  std::span<const CollectiveTimes> collectives(std::uint32_t rank) const {
    return std::span(times_).subspan(std::size_t{rank} * collectives_, collectives_);
  }

 private:
  void run_collective(std::uint64_t step, std::uint32_t index, const StepCost& cost);

  std::uint32_t collectives_;
  std::vector<Jitter> jitters_;
  std::vector<RankStepTimes> steps_;
  std::vector<CollectiveTimes> times_;  // by rank, then by collective
};

// One collective's share of a step: what a rank computes before entering, and what all spend
// inside. With no collectives, one share computes everything.
struct SegmentCost {
  std::uint64_t compute_ns = 0;
  std::uint64_t communicate_ns = 0;
};
SegmentCost segment_cost(const StepCost& cost, std::uint32_t collectives);

}  // namespace rankbus::simulator
