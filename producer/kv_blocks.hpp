// producer/kv_blocks.hpp: one operation on many KV blocks, of which only a sample travels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/sampling.hpp>
#include <rankbus/producer/producer.hpp>

namespace rankbus {

using bus::is_sampled;

// What is the same for all blocks of a call.
struct KvBlockChange {
  KvBlockOperation operation = KvBlockOperation::allocate;
  double sample_rate = 0.01;  // More than 0, at most 1; equal for all calls of an engine.
  std::uint16_t reason = 0;   // Of an eviction, from Producer::intern("capacity").
  std::uint64_t stamp = 0;    // 0: now; on the virtual clock, nanoseconds.
};

// Counts all blocks and hands on the ids of those that are followed: one record for each 256 of
// them, and at least one where there is any block. About 2 ns a block that is not followed, one
// stamp a call. No allocation.
template <class Id>
void record_kv_blocks(Producer& producer, const KvBlockChange& change, const Id* ids,
                      std::size_t count) noexcept {
  constexpr std::size_t kMostIds = 256;
  std::uint64_t followed[kMostIds];
  KvBlockOperations record;
  record.stamp = change.stamp != 0 ? change.stamp : producer.now();
  record.operation = change.operation;
  record.reason = change.reason;
  record.sample_rate = change.sample_rate;
  std::size_t kept = 0;
  std::uint32_t blocks = 0;
  const auto write = [&]() noexcept {
    if (blocks == 0) return;
    record.num_blocks = blocks;
    record.block_ids = {followed, kept};
    producer.record(record);
    kept = 0;
    blocks = 0;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::uint64_t>(ids[i]);
    ++blocks;
    if (!is_sampled(id, change.sample_rate)) continue;
    followed[kept++] = id;
    if (kept == kMostIds) write();
  }
  write();
}

}  // namespace rankbus
