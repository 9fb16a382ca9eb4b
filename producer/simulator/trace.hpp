// Reads request traces in the format of the Mooncake release: one JSON object per line.
//
//   {"timestamp": 0, "input_length": 700, "output_length": 50, "hash_ids": [0, 1]}
//
// `timestamp` is milliseconds since the start, lengths are tokens, `hash_ids` names each started
// 512-token block of the prompt.
#pragma once

#include <cstdint>
#include <istream>
#include <rankbus/producer/simulator/workload.hpp>
#include <string>

namespace rankbus::simulator {

// Both throw InputError; its message names the file, the line, what was found and what was
// expected.
Workload read_trace_file(const std::string& file, std::uint64_t seed);
Workload read_trace(std::istream& in, const std::string& file, std::uint64_t seed);

}  // namespace rankbus::simulator
