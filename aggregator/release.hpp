// aggregator/release.hpp: `rankbus release NAME`, an operator's word that a quarantined segment may
// be read again.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace rankbus {

// Adds the subcommand; see add_aggregate_command.
std::function<int()> add_release_command(CLI::App& app);

}  // namespace rankbus
