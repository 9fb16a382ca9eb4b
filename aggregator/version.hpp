// aggregator/version.hpp: the release, as CMake's project() has it.
#pragma once

namespace rankbus {
#if !defined(RANKBUS_VERSION)
#define RANKBUS_VERSION "unknown"
#endif
inline constexpr const char* kVersion = RANKBUS_VERSION;
}  // namespace rankbus
