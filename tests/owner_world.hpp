// An owner of a bus within the test's own process, as the daemon has one, and what it warned of.
#pragma once

#include "bus_fixture.hpp"

namespace bus_test {

using Warnings = std::vector<std::string>;

inline rankbus::Result<std::unique_ptr<rankbus::BusReader>> open_owner(const std::string& bus,
                                                                       Warnings* warnings = nullptr,
                                                                       bool with_ledger = true) {
  rankbus::BusOptions options;
  options.directory = bus;
  options.ledger.keep = with_ledger;
  options.ledger.save_every_s = 0;
  return rankbus::BusReader::open(options, [warnings](const std::string& text) {
    if (warnings != nullptr) warnings->push_back(text);
  });
}

// As the daemon does it, once.
inline void work(rankbus::BusReader& bus) {
  full_pass(bus);
  bus.keep_ledger(now_s());
}

}  // namespace bus_test
