// producer/replay/replay.hpp: `rankbus replay`, which writes a file of recorded record() calls
// through real producers.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace rankbus::replay {

struct ReplayOptions {
  std::string file;
  std::string bus;    // Empty: as the producer finds it.
  std::string truth;  // Empty: none is written.
  double speed = 1;   // Infinite: as fast as it goes.
  bool linger = false;
  bool skip_bad = false;
};

// Runs to the end (or to SIGTERM / SIGINT) and returns the exit status: 0 done or ended by signal,
// 1 failed, 2 bad option or input. Messages go to stderr, the summary to stdout.
int run_replay(const ReplayOptions& options);

// Adds the subcommand `replay`; call the result after parsing, if it was chosen.
std::function<int()> add_replay_command(CLI::App& app);

}  // namespace rankbus::replay
