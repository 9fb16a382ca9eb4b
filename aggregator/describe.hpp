// aggregator/describe.hpp: `rankbus describe`, the reference page of the built-in record types.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace rankbus {

// The page as Markdown, derived from the declarations in producer/records.hpp.
std::string reference_page();

std::function<int()> add_describe_command(CLI::App& app);

}  // namespace rankbus
