// aggregator/command_line.hpp: options from flags, then the environment, then a file.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace rankbus {

struct CommandLine {
  std::string command;                 // The subcommand; empty when none of them was named.
  std::vector<std::string> arguments;  // In order, with those from the environment at the end.
  std::map<std::string, std::string>
      variables;  // Options from the environment, --x-y to RANKBUS_X_Y.
};

// Takes the arguments, and appends every option `--x-y` of the chosen subcommand that is not among
// them, but set as RANKBUS_X_Y. A flag's variable is 1, true, yes or on to set it, and 0, false, no
// or off not to. As arguments they win over the config file, which CLI11 on its own would let win
// over the environment. Throws CLI::ParseError; `given` then says how far it came.
void read_command_line(const CLI::App& app, int argc, const char* const* argv, CommandLine& given);

// What is wrong with the command line, where it came from, and what to do next.
std::string explain(const CLI::App& app, const CommandLine& given, const CLI::ParseError& error);

}  // namespace rankbus
