// How long KV blocks live, and how they are used meanwhile, by vLLM's rules: a share of the
// allocated blocks is followed from birth to eviction, each with its last four accesses.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/block_observer.hpp>
#include <rankbus/producer/simulator/random.hpp>
#include <span>
#include <unordered_map>
#include <vector>

namespace rankbus::simulator {

struct BlockEviction {
  double lifetime_s = 0;
  double idle_s = 0;
  std::vector<double> reuse_gaps_s;  // 0 to 3: between the last accesses
};

class BlockResidency final : public BlockObserver {
 public:
  // `sample` is the share of blocks that are followed, above 0 and up to 1.
  BlockResidency(double sample, std::uint64_t seed, std::uint32_t engine);

  // The time of all that follows.
  void set_now(std::uint64_t now_ns) { now_ns_ = now_ns; }

  void allocated(std::uint32_t block) override;
  void accessed(std::uint32_t block) override;
  void evicted(std::uint32_t block) override;

  // The evictions since the call before; valid until the next block is evicted.
  std::span<const BlockEviction> take_evictions();

 private:
  static constexpr std::size_t kAccesses = 4;

  struct Life {
    std::uint64_t born_ns = 0;
    std::uint64_t last_access_ns = 0;  // Birth, before the first access.
    std::vector<std::uint64_t> accesses_ns;
  };

  double sample_;
  Random random_;
  std::uint64_t now_ns_ = 0;
  std::unordered_map<std::uint32_t, Life> lives_;
  std::vector<BlockEviction> evictions_;
  std::vector<BlockEviction> taken_;
};

}  // namespace rankbus::simulator
