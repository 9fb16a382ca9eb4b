// A rank's records of its KV connectors.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/processes.hpp>

namespace rankbus::simulator {

class RankConnectors {
 public:
  RankConnectors(const RunPlan& plan, std::uint32_t engine, std::uint32_t rank, Producer& producer,
                 FeatureTruth& truth);

  static void add_record_types(const FeatureOptions& features, OpenOptions& options);

  // What connectors say of themselves before the first step.
  void start(std::uint64_t stamp);
  void record_step(std::uint64_t stamp, std::uint64_t step, const StepTransfers& moved);

 private:
  template <class Record>
  void record_transfers(Connector connector, std::uint64_t stamp, std::uint64_t step,
                        const StepTransfers& moved);
  void record_store_operations(std::uint64_t stamp, std::uint64_t step, const StepTransfers& moved);
  void record_offloading(std::uint64_t stamp, std::uint64_t step, const StepTransfers& moved);
  void record_hisparse(std::uint64_t stamp, std::uint64_t step, const StepTransfers& moved);

  const FeatureOptions& features_;
  Producer& producer_;
  FeatureTruth& truth_;
  ConnectorModel model_;
  std::array<std::uint16_t, kTransferPeers.size()> peers_{};
  std::array<std::uint16_t, kStoreOperations.size()> operations_{};
  std::array<std::uint16_t, kStoreStatuses.size()> statuses_{};
};

}  // namespace rankbus::simulator
