// bus/limits.hpp: how much of anything one segment, and one bus, may hold.
//
// Readers refuse whatever exceeds these; producers refuse to declare it. A limit that only one side
// knew would be a promise that the other side breaks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rankbus::bus {

inline constexpr std::uint32_t kMaxStreams = 64;
inline constexpr std::uint32_t kMaxFieldsPerStream = 64;
inline constexpr std::uint32_t kMaxCellsPerField = 512;
inline constexpr std::uint32_t kMaxLabelFieldsPerStream = 4;
inline constexpr std::uint32_t kMaxLabelRows = 256;
inline constexpr std::uint32_t kMaxSchemaBytes = 64 * 1024;
inline constexpr std::uint32_t kMaxNameBytes = 128;
inline constexpr std::uint32_t kMaxHelpBytes = 512;
inline constexpr std::uint32_t kMaxLabelTextBytes = 1024;
inline constexpr std::uint32_t kMaxInfoBytes = 8192;
inline constexpr std::uint32_t kMinSlotBytes = 32;
inline constexpr std::uint32_t kMaxSlotBytes = 4096;
inline constexpr std::uint32_t kMinCapacity = 64;
inline constexpr std::uint32_t kMaxCapacity = 1u << 20;
inline constexpr std::uint64_t kMaxSegmentBytes = 64ull * 1024 * 1024;
inline constexpr std::uint32_t kMaxSegments = 4096;
// Lines of the text format. The aggregator enforces them; producers may declare and record more.
inline constexpr std::uint32_t kMaxSeriesPerSegment = 2000;
inline constexpr std::uint32_t kMaxSeriesPerNode = 1'000'000;
inline constexpr std::uint32_t kMaxAxes = 8;
inline constexpr std::uint32_t kMaxGroups = 16;
inline constexpr std::uint32_t kMaxDictionaryEntries = 1024;
inline constexpr std::uint32_t kMaxDictionaryTextBytes = 64 * 1024;

}  // namespace rankbus::bus
