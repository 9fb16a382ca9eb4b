// aggregator/ledger_state.hpp: the ledger's decisions, as functions of what is known.
//
//   live -> silent (lock free) -> final read -> folded in memory -> image g written -> g renamed
//        -> g+1 renamed -> unlinked -> id dropped
//
// Everything here is pure, so that tests/model_ledger.cpp explores every order of kills, damage and
// restored files with the very code that runs.
//
// Two generations are kept, each in a file of its own. The next one replaces the older, so a kill
// between any two system calls leaves one whole image, and one damaged file costs nothing: what
// only the newer image knows still has its segment.
#pragma once

#include <array>
#include <cstdint>

namespace rankbus::ledger {

// Generations of the two files; 0: none, or none that can be read.
using Kept = std::array<std::uint64_t, 2>;

// The file that the next generation is written to: the older one, and a bad one before a good one.
constexpr int file_to_replace(const Kept& kept) {
  return kept[0] <= kept[1] ? 0 : 1;
}

// The file to start from; -1: none.
constexpr int file_to_start_from(const Kept& kept) {
  if (kept[0] == 0 && kept[1] == 0) return -1;
  return kept[0] >= kept[1] ? 0 : 1;
}

// Whether a segment's name may go that is retired since that generation (later ones contain it
// too): only once both files have it. With one, damage to the newer file would bring the older one
// back, in which the segment lives, and nothing would be left to read.
constexpr bool may_unlink(std::uint64_t retired_since, const Kept& kept) {
  const std::uint64_t older = kept[0] < kept[1] ? kept[0] : kept[1];
  return retired_since != 0 && older >= retired_since;
}

// What the image that is started from says of a segment.
enum class Known : std::uint8_t { nothing, lives, quarantined, retired };

enum class OnStart : std::uint8_t {
  attach,           // Nobody has counted it.
  resume,           // Counted up to the saved positions; totals come from the segment.
  set_aside,        // It lived, and is gone: shown as it was exported last, and resumed from there
                    // should it come back, as after a mount that was missing.
  retire_at_floor,  // It was not read any more, and is gone.
  leave,            // Its totals are in the image: it must not be read again.
  forget,           // There is nothing of it.
};

constexpr OnStart on_start(Known known, bool has_name) {
  switch (known) {
    case Known::nothing:
      return has_name ? OnStart::attach : OnStart::forget;
    case Known::lives:
      return has_name ? OnStart::resume : OnStart::set_aside;
    case Known::quarantined:
      return has_name ? OnStart::leave : OnStart::retire_at_floor;
    case Known::retired:
      // Also without its name: whoever took that away may bring it back.
      return OnStart::leave;
  }
  return OnStart::forget;
}

}  // namespace rankbus::ledger
