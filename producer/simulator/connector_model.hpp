// What the KV connectors of one rank report of a step: pure functions of what the scheduler loads
// and stores, and of the seed. Durations are the model's on either clock; nobody sleeps them.
#pragma once

#include <array>
#include <cstdint>
#include <rankbus/producer/simulator/features.hpp>
#include <rankbus/producer/simulator/random.hpp>
#include <vector>

namespace rankbus::simulator {

// What a step moves between the engine and what lies behind its connectors.
struct StepTransfers {
  std::uint32_t load_requests = 0;
  std::uint32_t load_blocks = 0;  // of all these requests together
  std::uint32_t store_blocks = 0;
  std::uint32_t decode_seqs = 0;
};

// One transfer of NIXL, MoRI-IO or Mooncake, or what went wrong instead of one.
struct TransferOutcome {
  enum Kind : std::uint8_t { done, failed_transfer, failed_second_message, expired };
  Kind kind = done;
  std::uint32_t peer = 0;  // of kTransferPeers
  // Of a transfer that is done:
  double duration_s = 0;
  double post_s = 0;
  std::uint64_t bytes = 0;
  std::uint64_t descriptors = 0;
};
inline constexpr std::array kTransferPeers = {"prefill-0", "prefill-1"};

struct StoreOperationOutcome {
  std::uint32_t operation = 0;  // of kStoreOperations
  bool failed = false;
  double duration_s = 0;
  std::uint64_t keys = 0;
  std::uint64_t bytes = 0;
  std::uint64_t failed_keys = 0;
};
inline constexpr std::array kStoreOperations = {"lookup_exists", "load_get", "save_put"};
inline constexpr std::array kStoreStatuses = {"ok", "error"};

struct OffloadingOutcome {
  std::uint64_t load_bytes = 0;
  std::uint64_t store_bytes = 0;
  double load_s = 0;
  double store_s = 0;
  std::vector<std::uint64_t> load_sizes = {};
  std::vector<std::uint64_t> store_sizes = {};
  double read_usage = 0;  // shares of the CPU cache
  double write_usage = 0;
  std::vector<std::uint64_t> allocation_sizes = {};
  std::uint64_t stores_skipped = 0;
  std::uint64_t allocation_failures = 0;
  std::vector<double> lookup_sync_delays_s = {};
  std::vector<double> lookup_async_delays_s = {};
};

struct HiSparseOutcome {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t host_to_device_bytes = 0;
};

class ConnectorModel {
 public:
  ConnectorModel(std::uint64_t seed, std::uint32_t engine, std::uint32_t rank, std::uint32_t tp);

  // For each request that loads one transfer that is done, now and then after a failure.
  std::vector<TransferOutcome> transfers(Connector connector, std::uint64_t step,
                                         const StepTransfers& moved) const;
  std::vector<StoreOperationOutcome> store_operations(std::uint64_t step,
                                                      const StepTransfers& moved) const;
  OffloadingOutcome offloading(std::uint64_t step, const StepTransfers& moved) const;
  HiSparseOutcome hisparse(std::uint64_t step, const StepTransfers& moved) const;

 private:
  Random draws(Connector connector, std::uint64_t step) const;

  std::uint64_t seed_;
  std::uint64_t place_;  // engine and rank
  std::uint64_t block_bytes_;
};

}  // namespace rankbus::simulator
