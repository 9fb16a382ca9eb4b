// aggregator/mapping_guard.hpp: a truncated segment costs its reader that segment, not its life.
//
// Whoever may write a segment may also cut it while it is mapped here, and the next load from
// behind the cut is a SIGBUS. The guard's handler knows every mapping of this process that may
// fault so: it puts pages of zeros from the faulting page to the mapping's end, notes the cut, and
// the interrupted load goes on with a zero that nobody will use. A fault anywhere else goes where
// it went before. Only a program installs the guard, in its main function; a library must not take
// a signal from the program that it is in, and reads copies instead (segment_bytes.hpp).
#pragma once

#include <cstddef>

namespace rankbus {

class MappingGuard {
 public:
  // From now on SIGBUS of this process is looked at here first. Idempotent; false if the kernel
  // refuses.
  static bool install();
  static bool is_installed();
};

// A mapping that the guard knows, for as long as this lives; the mapping must live longer.
class GuardedRange {
 public:
  // Not guarded if the guard is not installed or its table is full.
  GuardedRange(const void* begin, std::size_t bytes);
  ~GuardedRange();
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;

  bool is_guarded() const { return place_ >= 0; }
  // Whether a load faulted: what was loaded since then may be zeros that are in no file.
  bool is_cut() const;

 private:
  int place_ = -1;
};

}  // namespace rankbus
