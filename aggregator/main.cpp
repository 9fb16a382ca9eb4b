// The binary `rankbus` and its subcommands.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <rankbus/aggregator/command_line.hpp>
#include <rankbus/aggregator/daemon.hpp>
#include <rankbus/aggregator/describe.hpp>
#include <rankbus/aggregator/inspect.hpp>
#include <rankbus/aggregator/release.hpp>
#include <rankbus/aggregator/version.hpp>
#include <rankbus/producer/replay/replay.hpp>
#include <rankbus/producer/simulator/simulate.hpp>
#include <string>

namespace {

int run(int argc, char** argv) {
  CLI::App app{"rankbus: the node-local stats bus for tensor-parallel LLM inference", "rankbus"};
  app.set_version_flag("--version", std::string("rankbus ") + rankbus::kVersion);
  app.require_subcommand(1);
  app.set_config("--config", "", "Read options from a file, sections named after subcommands");
  // A misspelt key that is ignored looks as if it had been obeyed.
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.fallthrough();  // `rankbus aggregate --config FILE` is what people type.
  std::map<std::string, std::function<int()>> commands;
  commands["aggregate"] = rankbus::add_aggregate_command(app);
  commands["simulate"] = rankbus::simulator::add_simulate_command(app);
  commands["replay"] = rankbus::replay::add_replay_command(app);
  commands["describe"] = rankbus::add_describe_command(app);
  commands["inspect"] = rankbus::add_inspect_command(app);
  commands["release"] = rankbus::add_release_command(app);
  rankbus::CommandLine given;
  try {
    rankbus::read_command_line(app, argc, argv, given);
    std::vector<std::string> arguments = given.arguments;
    // CLI11 takes its arguments last first.
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    // Help and version are successes; everything else is the user's input.
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "%s\n", rankbus::explain(app, given, error).c_str());
    return 2;
  }
  return commands.at(app.get_subcommands().front()->get_name())();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rankbus: %s\n", error.what());
    return 1;
  }
}
