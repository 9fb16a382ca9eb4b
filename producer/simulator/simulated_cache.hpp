// A record type that only the simulator writes, declared as any user would declare one.
#pragma once

#include <cstdint>
#include <rankbus/producer/record.hpp>

namespace rankbus::simulator {

// clang-format off
#define RANKBUS_SIMULATED_CACHE_ROWS(FIELD, OPTIONAL, ARRAY)                                           \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, hit_blocks, counter("rankbus_simulated_prefix_hit_blocks_total"),               \
        "Prompt blocks found in the simulated prefix cache; the trace's block rule counts partial last blocks too")
// clang-format on
RANKBUS_RECORD(SimulatedCache, "simulated_cache", 1,
               "What the simulated prefix cache counts in blocks rather than tokens",
               RANKBUS_SIMULATED_CACHE_ROWS)

}  // namespace rankbus::simulator
