// The prefix cache behind a KV connector: what other instances have stored of the prompts, and what
// this engine stores itself. It has room for everything.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/random.hpp>
#include <vector>

namespace rankbus::simulator {

class ExternalCache {
 public:
  // Of the first `shared` contents, which are those of prompts, others have stored every other one.
  ExternalCache(std::uint32_t contents, std::uint32_t shared, std::uint64_t seed)
      : stored_(contents) {
    for (std::uint32_t content = 0; content < shared; ++content) {
      stored_[content] = hash_pair(hash_pair(seed, kSeedStream), content) % 2 == 0;
    }
  }

  bool holds(std::uint32_t content) const { return stored_[content]; }
  // False when it was there already.
  bool store(std::uint32_t content) {
    if (stored_[content]) return false;
    return stored_[content] = true;
  }

 private:
  static constexpr std::uint64_t kSeedStream = 105;
  std::vector<bool> stored_;
};

}  // namespace rankbus::simulator
