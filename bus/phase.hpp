// bus/phase.hpp: what a process says it is doing, in the lowest 8 bits of its status word.
//
// The word proves what the host thread said last, no more. C++17, for the worker's side as well.
#pragma once

#include <cstdint>

namespace rankbus {

enum class Phase : std::uint8_t {
  unknown = 0,
  starting = 1,         // Loading, profiling, warming up: before the first step.
  waiting = 2,          // For work; nobody waits for it.
  preparing = 3,        // A step was taken from the queue.
  forward = 4,          // Launching, or computing on the host, outside of collectives.
  in_collective = 5,    // Entered the collective that the word names, and has not left it.
  left_collective = 6,  // Has left it.
  waiting_output = 7,   // All is launched; the device has not finished.
  sampling = 8,
  compiling = 9,
  sleeping = 10,
  reloading = 11,  // Weights or adapters.
  // 128 to 255 are the engine's own; rankbus shows their number and draws no conclusion from them.
  first_of_engine = 128,
};

// Phases that last as long as they last: nobody in them is stalled, and nobody who waits for one.
constexpr bool may_last(Phase phase) noexcept {
  return phase == Phase::starting || phase == Phase::compiling || phase == Phase::sleeping ||
         phase == Phase::reloading;
}

}  // namespace rankbus
