// The scheduler's records of features: which there are, and what one step adds to them.
#pragma once

#include <cstdint>
#include <optional>
#include <rankbus/producer/simulator/processes.hpp>
#include <rankbus/producer/simulator/scheduler_caches.hpp>
#include <string>
#include <vector>

namespace rankbus::simulator {

class SchedulerFeatures {
 public:
  // `core` must outlive this.
  SchedulerFeatures(const RunPlan& plan, std::uint32_t engine, EngineCore& core, Producer& producer,
                    FeatureTruth& truth);

  static void add_record_types(const FeatureOptions& features, OpenOptions& options);

  // What an engine says of itself before the first step.
  void start(std::uint64_t stamp);

  void begin_step(const Moment& began);
  struct Step {
    std::uint64_t stamp = 0;
    std::uint64_t tokens_ns = 0;  // the same on the run's clock
    std::uint64_t number = 0;
    std::uint64_t elapsed_ns = 0;
    PhaseTimes phases;
    const StepWork& work;
    const SchedulerCounts& counts;
  };
  void record_step(const Step& step);
  // Everything has happened; the event log is whole. Throws where it cannot be.
  void finish();

 private:
  void record_speculation(const Step& step);
  void record_diffusion(const Step& step);
  void record_estimate(const Step& step);
  void record_cuda_graph(const Step& step);
  void record_captures(std::uint64_t stamp);
  void record_evictions(const Step& step);
  void record_details(const Step& step);
  void record_phases(const Step& step);
  void record_adapters(std::uint64_t stamp);
  void record_adapter_requests(std::uint64_t stamp);
  std::uint16_t graph_mode(CudaGraphMode mode) const {
    return graph_modes_[static_cast<std::size_t>(mode)];
  }

  const RunPlan& plan_;
  const FeatureOptions& features_;
  std::uint32_t engine_;
  const EngineCore& core_;
  Producer& producer_;
  FeatureTruth& truth_;
  std::optional<BlockResidency> residency_;
  SchedulerCaches caches_;
  std::array<std::uint16_t, kCudaGraphModeNames.size()> graph_modes_{};
  std::optional<std::string> adapters_;  // as reported last
  std::vector<AdapterUse> adapter_use_;  // as reported last
};

}  // namespace rankbus::simulator
