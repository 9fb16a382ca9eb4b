// exporters/throughput_log.hpp: the earlier name of engine_log.hpp, until nobody includes it.
#pragma once

#include <rankbus/exporters/engine_log.hpp>

namespace rankbus {

using ThroughputLog = EngineLog;

}  // namespace rankbus
