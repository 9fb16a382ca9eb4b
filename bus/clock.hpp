// bus/clock.hpp: the stamps of a segment.
//
// A producer stamps with raw ticks, because a time stamp costs more than a record: 18 ns from the
// TSC, 43 ns from clock_gettime. Ranks of one node are compared in ticks; readers convert with a
// fit of their own. The TSC serves only where it is invariant, the kernel itself keeps time by it,
// and this process may read it; otherwise ticks are nanoseconds of CLOCK_MONOTONIC.
#pragma once

#include <fcntl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <rankbus/bus/layout.hpp>

namespace rankbus::bus {

inline std::uint64_t clock_ns(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000ull +
         static_cast<std::uint64_t>(now.tv_nsec);
}
inline std::uint64_t monotonic_ns() noexcept {
  return clock_ns(CLOCK_MONOTONIC);
}

inline bool tsc_is_usable() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0x80000007, &a, &b, &c, &d) == 0 || (d & (1u << 8)) == 0) return false;
  int permission = 0;
  if (prctl(PR_GET_TSC, &permission) != 0 || permission != PR_TSC_ENABLE) return false;
  const int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                      O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char name[8] = {};
  const ssize_t got = read(fd, name, sizeof name - 1);
  close(fd);
  return got >= 3 && std::strncmp(name, "tsc", 3) == 0 && (name[3] == '\n' || name[3] == '\0');
#else
  return false;
#endif
}

inline std::uint64_t read_ticks(ClockSource source) noexcept {
#if defined(__x86_64__)
  // The builtin, because <x86intrin.h> would double the time that a worker takes to compile.
  if (source == ClockSource::tsc) return __builtin_ia32_rdtsc();
#endif
  return source == ClockSource::monotonic ? monotonic_ns() : 0;
}

// Good to about a thousandth, which is enough to notice that a second has passed. Takes 0.2 ms.
inline std::uint64_t nominal_ticks_per_second(ClockSource source) noexcept {
  if (source != ClockSource::tsc) return 1'000'000'000ull;
  const std::uint64_t ns_before = monotonic_ns();
  const std::uint64_t ticks_before = read_ticks(source);
  std::uint64_t ns_after = ns_before;
  while (ns_after - ns_before < 200'000) ns_after = monotonic_ns();
  const std::uint64_t ticks = read_ticks(source) - ticks_before;
  return static_cast<std::uint64_t>(static_cast<double>(ticks) * 1e9 /
                                    static_cast<double>(ns_after - ns_before));
}

}  // namespace rankbus::bus
