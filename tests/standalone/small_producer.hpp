// What the two translation units share.
#pragma once

#include <rankbus/producer.hpp>

#define SWAP_ROWS(FIELD, OPTIONAL, ARRAY)                                                  \
  FIELD(std::uint64_t, stamp, stamp(), "When the swap ended")                              \
  FIELD(std::uint64_t, swapped_bytes, counter("my_swapped_bytes_total").in(Unit::bytes),   \
        "Bytes moved")                                                                     \
  OPTIONAL(double, duration_seconds,                                                       \
           distribution("my_swap_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
           "How long the swap took")                                                       \
  ARRAY(std::uint64_t, 2, block_ids, id(), "Blocks that were moved")
RANKBUS_RECORD(Swap, "swap", 1, "One swap of KV blocks to host memory", SWAP_ROWS)

void record_swaps(rankbus::Producer& producer, int count);
