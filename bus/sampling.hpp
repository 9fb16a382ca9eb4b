// bus/sampling.hpp: which KV blocks are followed, one rule for who writes and who reads.
#pragma once

#include <cstdint>

namespace rankbus::bus {

// Any 64 bits as others that look random (the finalizer of splitmix64).
constexpr std::uint64_t mix_bits(std::uint64_t bits) noexcept {
  bits += 0x9E3779B97F4A7C15u;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

// Whether a block is followed is a property of its id: the same in every process, on every rank
// and after every restart, so that ranks that share ids follow the same blocks, and the sample of a
// smaller rate is part of that of a larger one.
constexpr bool is_sampled(std::uint64_t block_id, double sample_rate) noexcept {
  const auto share = static_cast<double>(mix_bits(block_id) >> 11) * 0x1p-53;
  return share < sample_rate;
}

}  // namespace rankbus::bus
