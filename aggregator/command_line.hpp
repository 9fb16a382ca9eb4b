// aggregator/command_line.hpp: options from flags, then the environment, then a file.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace rankbus {

// The arguments with every option `--x-y` of the chosen subcommand that is not among them, but set
// as RANKBUS_X_Y, appended. A flag's variable is 1, true, yes or on to set it. As arguments they
// win over the config file, which CLI11 on its own would let win over the environment.
std::vector<std::string> with_environment(const CLI::App& app, int argc, const char* const* argv);

}  // namespace rankbus
