#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <rankbus/aggregator/command_line.hpp>

namespace rankbus {
namespace {

constexpr char kConfig[] = "--config";

std::string variable_name(const std::string& option) {
  std::string name = "RANKBUS_";
  for (const char c : option) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

bool is_given(const std::vector<std::string>& arguments, const std::string& flag) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == flag || argument.rfind(flag + "=", 0) == 0;
  });
}

bool is_one_of(std::string value, std::initializer_list<const char*> words) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return std::find(words.begin(), words.end(), value) != words.end();
}

void add_from_environment(const CLI::Option& option, const std::string& name, CommandLine& given) {
  const std::string flag = "--" + name;
  const std::string variable = variable_name(name);
  const char* value = std::getenv(variable.c_str());
  if (value == nullptr || value[0] == '\0' || is_given(given.arguments, flag)) return;
  given.variables[flag] = variable;
  if (option.get_expected_max() != 0) {
    given.arguments.push_back(flag + "=" + value);
  } else if (is_one_of(value, {"1", "true", "yes", "on"})) {
    given.arguments.push_back(flag);
  } else if (!is_one_of(value, {"0", "false", "no", "off"})) {
    throw CLI::ValidationError(flag, std::string("'") + value + "' is neither 1 nor 0");
  }
}

std::vector<const CLI::App*> subcommands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// The first argument that could have been meant as a subcommand.
std::string misspelt_command(const CommandLine& given) {
  for (std::size_t i = 0; i < given.arguments.size(); ++i) {
    const std::string& argument = given.arguments[i];
    if (argument == kConfig) {
      ++i;
    } else if (argument.rfind('-', 0) != 0) {
      return argument;
    }
  }
  return {};
}

std::string explain_command(const CLI::App& app, const CommandLine& given) {
  std::vector<std::string> names;
  for (const CLI::App* command : subcommands(app)) names.push_back(command->get_name());
  const std::string misspelt = misspelt_command(given);
  return (misspelt.empty() ? "no subcommand" : "unknown subcommand '" + misspelt + "'") +
         ", expected one of: " + joined(names, ", ");
}

// CLI11 says "INI was not able to parse SECTION.KEY"; of a section, KEY is "++".
std::string explain_config(const std::string& file, const std::string& message) {
  const std::string before = "INI was not able to parse ";
  if (message.rfind(before, 0) != 0) return file + ": " + message;
  std::string key = message.substr(before.size());
  if (key.size() > 3 && key.substr(key.size() - 3) == ".++") {
    return file + ": unknown section [" + key.substr(0, key.size() - 3) +
           "], expected the name of a subcommand, such as [aggregate]";
  }
  return file + ": unknown key '" + key +
         "', expected options without their dashes, such as log-interval = 10, in a section named "
         "after their subcommand, such as [aggregate]";
}

template <class Error>
bool is(const CLI::ParseError& error) {
  return dynamic_cast<const Error*>(&error) != nullptr;
}

// A value that was not typed should be found where it stands.
std::string origin(const CommandLine& given, const std::string& config, const std::string& flag) {
  const auto variable = given.variables.find(flag);
  if (variable != given.variables.end()) return " (from " + variable->second + ")";
  if (!config.empty() && !is_given(given.arguments, flag)) return " (from " + config + ")";
  return {};
}

}  // namespace

void read_command_line(const CLI::App& app, int argc, const char* const* argv, CommandLine& given) {
  given.arguments.assign(argv + 1, argv + argc);
  const CLI::App* command = nullptr;
  for (const std::string& argument : given.arguments) {
    for (const CLI::App* each : subcommands(app)) {
      if (command == nullptr && each->get_name() == argument) command = each;
    }
  }
  if (command == nullptr) return;
  given.command = command->get_name();
  for (const CLI::Option* option : command->get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (name != "help") add_from_environment(*option, name, given);
    }
  }
  add_from_environment(*app.get_config_ptr(), kConfig + 2, given);
}

std::string explain(const CLI::App& app, const CommandLine& given, const CLI::ParseError& error) {
  const std::string who = given.command.empty() ? "rankbus" : "rankbus " + given.command;
  const CLI::Option* option = app.get_config_ptr();
  const std::string config = option->count() > 0 ? option->as<std::string>() : "";
  std::string what = error.what();
  const std::string flag = what.substr(0, what.find(':'));
  if (given.command.empty()) {
    what = explain_command(app, given);
  } else if (is<CLI::ExtrasError>(error)) {
    what = "unknown argument " + joined(app.remaining(true), " ");
  } else if (is<CLI::ConfigError>(error)) {
    what = explain_config(config, what);
  } else if (is<CLI::FileError>(error)) {
    what = std::string(kConfig) + ": " + config + " cannot be read";
  } else {
    if (is<CLI::ArgumentMismatch>(error)) what = flag + ": the value is missing";
    what += origin(given, config, flag);
  }
  return who + ": " + what + ". See: " + who + " --help";
}

}  // namespace rankbus
