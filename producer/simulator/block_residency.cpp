#include <rankbus/producer/simulator/block_residency.hpp>
#include <utility>

namespace rankbus::simulator {

namespace {

constexpr std::uint64_t kSeedStream = 104;

double seconds_between(std::uint64_t from_ns, std::uint64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / 1e9;
}

}  // namespace

BlockResidency::BlockResidency(double sample, std::uint64_t seed, std::uint32_t engine)
    : sample_(sample), random_(seed, hash_pair(kSeedStream, engine)) {}

void BlockResidency::allocated(std::uint32_t block) {
  if (!random_.chance(sample_)) return;
  lives_[block] = {.born_ns = now_ns_, .last_access_ns = now_ns_, .accesses_ns = {}};
}

void BlockResidency::accessed(std::uint32_t block) {
  const auto found = lives_.find(block);
  if (found == lives_.end()) return;
  Life& life = found->second;
  life.last_access_ns = now_ns_;
  if (life.accesses_ns.size() == kAccesses) life.accesses_ns.erase(life.accesses_ns.begin());
  life.accesses_ns.push_back(now_ns_);
}

void BlockResidency::evicted(std::uint32_t block) {
  const auto found = lives_.find(block);
  if (found == lives_.end()) return;
  const Life& life = found->second;
  BlockEviction& eviction = evictions_.emplace_back();
  eviction.lifetime_s = seconds_between(life.born_ns, now_ns_);
  eviction.idle_s = seconds_between(life.last_access_ns, now_ns_);
  for (std::size_t i = 1; i < life.accesses_ns.size(); ++i) {
    eviction.reuse_gaps_s.push_back(seconds_between(life.accesses_ns[i - 1], life.accesses_ns[i]));
  }
  lives_.erase(found);
}

std::span<const BlockEviction> BlockResidency::take_evictions() {
  taken_ = std::exchange(evictions_, {});
  return taken_;
}

}  // namespace rankbus::simulator
