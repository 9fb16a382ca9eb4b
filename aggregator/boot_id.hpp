// aggregator/boot_id.hpp: which life of the kernel this is.
#pragma once

#include <array>
#include <cstdint>

namespace rankbus {

using BootId = std::array<std::uint8_t, 16>;

// All zeros if it cannot be read.
BootId this_boot();

}  // namespace rankbus
