#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <rankbus/aggregator/command_line.hpp>

namespace rankbus {
namespace {

std::string variable_name(const std::string& option) {
  std::string name = "RANKBUS_";
  for (const char c : option) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

bool is_given(const std::vector<std::string>& arguments, const std::string& option) {
  const std::string flag = "--" + option;
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == flag || argument.rfind(flag + "=", 0) == 0;
  });
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return value == "1" || value == "true" || value == "yes" || value == "on";
}

}  // namespace

std::vector<std::string> with_environment(const CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const CLI::App* command = nullptr;
  for (const std::string& argument : arguments) {
    for (const CLI::App* each : app.get_subcommands([](const CLI::App*) { return true; })) {
      if (command == nullptr && each->get_name() == argument) command = each;
    }
  }
  if (command == nullptr) return arguments;
  const std::vector<std::string> given = arguments;
  for (const CLI::Option* option : command->get_options()) {
    for (const std::string& name : option->get_lnames()) {
      const char* value = std::getenv(variable_name(name).c_str());
      if (name == "help" || value == nullptr || value[0] == '\0' || is_given(given, name)) continue;
      if (option->get_expected_max() == 0) {
        if (is_true(value)) arguments.push_back("--" + name);
      } else {
        arguments.push_back("--" + name + "=" + value);
      }
    }
  }
  return arguments;
}

}  // namespace rankbus
