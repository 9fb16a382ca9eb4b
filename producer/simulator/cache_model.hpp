// The caches of a simulated engine, as their metrics tell of them: which levels there are, what one
// event of each says, how large things are and how long they take.
//
//   level     lookup                                   written                  evicted
//   prefix    a request, once, at its first            blocks whose content     lru: contents that
//             scheduling: each of its prompt's blocks  can be found from now    allocations
//             overwrote that could be hit is one lookup
//   kv        none                                     blocks put in use        preemption,
//   explicit:
//                                                                               blocks that a
//                                                                               request gave back
//                                                                               unused
//   external  the same request's blocks behind those   none: the connectors     none: it has room
//   for
//             that were hit                            report their stores      everything
//   encoder   the images of requests, when the front   images that were missed  lru: images that
//   made
//             end reports them                                                  room
//
// So the size of `prefix` is what could be found, and that of `kv` what is in use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <rankbus/producer/simulator/random.hpp>
#include <rankbus/producer/simulator/step_features.hpp>
#include <rankbus/producer/simulator/workload.hpp>

namespace rankbus::simulator {

enum class CacheLevel : std::uint8_t { prefix, kv, external, encoder };
inline constexpr std::array kCacheLevelNames = {"prefix", "kv", "external", "encoder"};
inline constexpr std::size_t kCacheLevels = kCacheLevelNames.size();

enum class EvictionCause : std::uint8_t { lru, explicit_request, preemption };
inline constexpr std::array kEvictionCauseNames = {"lru", "explicit", "preemption"};
inline constexpr std::size_t kEvictionCauses = kEvictionCauseNames.size();

struct LookupOutcome {
  CacheLevel level = CacheLevel::prefix;
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t hit_bytes = 0;
  std::uint64_t miss_bytes = 0;
  std::uint64_t latency_ns = 0;     // of each lookup
  std::uint64_t prefix_hash = 0;    // of the longest prefix that was found
  std::uint64_t prefix_length = 0;  // tokens asked for; 0: it was not about a prefix
};

struct StorageOutcome {
  CacheLevel level = CacheLevel::prefix;
  std::uint64_t bytes = 0;
  std::uint64_t capacity_bytes = 0;  // 0: no bound
};

struct EvictionOutcome {
  CacheLevel level = CacheLevel::prefix;
  EvictionCause cause = EvictionCause::lru;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::uint64_t latency_ns = 0;
  std::uint64_t followed_blocks = 0;  // whose use was watched
  std::uint64_t unused_blocks = 0;    // of which nobody had asked for so many
};

// All ranks' share of a block of the modelled engine.
inline constexpr std::uint64_t kBlockBytes =
    kBlockTokens * ModelSize{}.layers * 2 * ModelSize{}.kv_heads * ModelSize{}.head_width;
// 16-bit embeddings of one image.
inline constexpr std::uint64_t kEncoderTokens = 576;
inline constexpr std::uint64_t kImageBytes = kEncoderTokens * ModelSize{}.width * 2;

// Assumptions, as those of step_time.hpp: half of it always, the other half by the seed.
inline std::uint64_t lookup_latency_ns(CacheLevel level, std::uint64_t seed,
                                       std::uint32_t request) {
  constexpr std::uint64_t kSeedStream = 110;
  constexpr std::array<std::uint64_t, kCacheLevels> kMost_ns = {800, 0, 120'000, 4'000};
  const std::uint64_t half_ns = kMost_ns[static_cast<std::size_t>(level)] / 2;
  if (half_ns == 0) return 0;
  return half_ns + hash_pair(hash_pair(seed, kSeedStream), request) % half_ns;
}
inline constexpr std::uint64_t kEvictBlock_ns = 350;

// A content stands for one prefix (workload.hpp), and this for the content. Never 0.
inline std::uint64_t prefix_hash(std::uint32_t content) {
  return mix64(content + kGoldenGamma);
}

}  // namespace rankbus::simulator
