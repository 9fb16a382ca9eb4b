// aggregator/inspect.hpp: `rankbus inspect`, what lies on a bus right now.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace rankbus {

// Lists the segments of a bus, their writers and their streams. Looks on only: takes no lock,
// removes nothing, works beside an aggregator and without one.
std::function<int()> add_inspect_command(CLI::App& app);

}  // namespace rankbus
