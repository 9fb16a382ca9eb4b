#include <rankbus/producer/simulator/connector_model.hpp>

namespace rankbus::simulator {

namespace {

constexpr std::uint64_t kSeedStream = 108;

constexpr std::uint64_t kLayers = 80;
// Keys and values of 8 heads of 128, one byte each, as step_time.hpp describes the model.
constexpr std::uint64_t kTokenBytes = kLayers * 2 * 8 * 128;
constexpr double kTransferBytesPerSecond = 20e9;
constexpr double kStoreBytesPerSecond = 10e9;
constexpr double kOffloadBytesPerSecond = 25e9;
constexpr double kCpuCacheBytes = 64e9;
constexpr std::uint64_t kHotTokenBytes = 656;

// From a half to one and a half times as long.
double jittered(Random& random, double seconds) {
  return seconds * (0.5 + random.uniform());
}

// The first request takes what does not divide.
std::uint64_t blocks_of_load(const StepTransfers& moved, std::uint32_t request) {
  const std::uint32_t each = moved.load_blocks / moved.load_requests;
  return request == 0 ? moved.load_blocks - each * (moved.load_requests - 1) : each;
}

}  // namespace

ConnectorModel::ConnectorModel(std::uint64_t seed, std::uint32_t engine, std::uint32_t rank,
                               std::uint32_t tp)
    : seed_(seed), place_(hash_pair(engine, rank)), block_bytes_(kBlockTokens * kTokenBytes / tp) {}

Random ConnectorModel::draws(Connector connector, std::uint64_t step) const {
  const std::uint64_t what = hash_pair(kSeedStream, static_cast<std::uint64_t>(connector));
  return {seed_, hash_pair(hash_pair(place_, what), step)};
}

std::vector<TransferOutcome> ConnectorModel::transfers(Connector connector, std::uint64_t step,
                                                       const StepTransfers& moved) const {
  std::vector<TransferOutcome> outcomes;
  Random random = draws(connector, step);
  for (std::uint32_t request = 0; request < moved.load_requests; ++request) {
    const auto peer = static_cast<std::uint32_t>(random.below(kTransferPeers.size()));
    // One load in eight shows first that something can go wrong, then is tried again.
    const std::uint64_t trouble = random.below(24);
    if (trouble < 3) {
      outcomes.push_back({.kind = static_cast<TransferOutcome::Kind>(1 + trouble), .peer = peer});
    }
    TransferOutcome& done = outcomes.emplace_back();
    done.peer = peer;
    done.bytes = blocks_of_load(moved, request) * block_bytes_;
    done.descriptors = blocks_of_load(moved, request) * kLayers;
    done.post_s = jittered(random, 0.0005 + 2e-6 * static_cast<double>(done.descriptors));
    done.duration_s =
        jittered(random, 0.002 + static_cast<double>(done.bytes) / kTransferBytesPerSecond);
  }
  return outcomes;
}

std::vector<StoreOperationOutcome> ConnectorModel::store_operations(
    std::uint64_t step, const StepTransfers& moved) const {
  std::vector<StoreOperationOutcome> outcomes;
  Random random = draws(Connector::mooncake_store, step);
  const auto add = [&](std::uint32_t operation, std::uint64_t keys, std::uint64_t bytes) {
    StoreOperationOutcome& outcome = outcomes.emplace_back();
    outcome.operation = operation;
    outcome.failed = random.below(16) == 0;
    outcome.duration_s =
        jittered(random, 0.0004 + static_cast<double>(bytes) / kStoreBytesPerSecond);
    outcome.keys = keys;
    outcome.bytes = outcome.failed ? 0 : bytes;
    outcome.failed_keys = outcome.failed ? 1 + random.below(keys) : 0;
  };
  for (std::uint32_t request = 0; request < moved.load_requests; ++request) {
    const std::uint64_t blocks = blocks_of_load(moved, request);
    add(0, blocks, 0);
    add(1, blocks, blocks * block_bytes_);
  }
  if (moved.store_blocks > 0) add(2, moved.store_blocks, moved.store_blocks * block_bytes_);
  return outcomes;
}

OffloadingOutcome ConnectorModel::offloading(std::uint64_t step, const StepTransfers& moved) const {
  OffloadingOutcome outcome;
  Random random = draws(Connector::offloading, step);
  for (std::uint32_t request = 0; request < moved.load_requests; ++request) {
    const std::uint64_t bytes = blocks_of_load(moved, request) * block_bytes_;
    outcome.load_bytes += bytes;
    outcome.load_s += jittered(random, static_cast<double>(bytes) / kOffloadBytesPerSecond);
    outcome.load_sizes.push_back(bytes);
    outcome.lookup_sync_delays_s.push_back(jittered(random, 0.0002));
    outcome.lookup_async_delays_s.push_back(jittered(random, 0.02));
  }
  if (moved.store_blocks > 0) {
    // Now and then the medium has no room, or the blocks are not worth it.
    const std::uint64_t luck = random.below(8);
    outcome.allocation_sizes.push_back(moved.store_blocks);
    if (luck == 0) {
      outcome.allocation_failures = 1;
    } else if (luck == 1) {
      outcome.stores_skipped = moved.store_blocks;
    } else {
      outcome.store_bytes = moved.store_blocks * block_bytes_;
      outcome.store_s =
          jittered(random, static_cast<double>(outcome.store_bytes) / kOffloadBytesPerSecond);
      outcome.store_sizes.push_back(outcome.store_bytes);
    }
  }
  outcome.read_usage = static_cast<double>(outcome.load_bytes) / kCpuCacheBytes;
  outcome.write_usage = static_cast<double>(outcome.store_bytes) / kCpuCacheBytes;
  return outcome;
}

HiSparseOutcome ConnectorModel::hisparse(std::uint64_t step, const StepTransfers& moved) const {
  HiSparseOutcome outcome;
  Random random = draws(Connector::hisparse, step);
  for (std::uint32_t sequence = 0; sequence < moved.decode_seqs; ++sequence) {
    const std::uint64_t misses = random.below(64);
    outcome.misses += misses;
    outcome.hits += 2048 - misses;
    outcome.host_to_device_bytes += misses * kHotTokenBytes;
  }
  return outcome;
}

}  // namespace rankbus::simulator
