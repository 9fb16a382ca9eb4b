// aggregator/daemon.hpp: `rankbus aggregate`, the process that owns a bus and publishes it.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace rankbus {

// Adds the subcommand. Call the result after parsing, if the subcommand was chosen; it returns the
// exit status: 0 after SIGTERM or SIGINT, 1 if the job failed, 2 for a bad option.
std::function<int()> add_aggregate_command(CLI::App& app);

}  // namespace rankbus
