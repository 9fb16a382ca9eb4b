// Includes the same headers as the first unit: both must agree on what they define.
#include "small_producer.hpp"

void record_swaps(rankbus::Producer& producer, int count) {
  const std::uint64_t blocks[] = {4, 8, 15, 16, 23};
  for (int i = 0; i < count; ++i) {
    Swap swap;
    swap.swapped_bytes = 4096;
    swap.duration_seconds = 0.5;
    swap.block_ids = blocks;
    producer.record(swap);
  }
}
