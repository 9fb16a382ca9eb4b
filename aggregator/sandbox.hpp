// aggregator/sandbox.hpp: a process that gives up what it does not need, before it reads the first
// byte of a stranger.
//
// Landlock confines files: below the given directories, to be read or also written; nothing else
// can be opened, however a path leads there. A system call filter refuses to start programs, to
// connect to anybody, and to look into or change other processes and the system. Neither can be
// taken back, and threads that are started later are bound too. Of what is open already, nothing
// changes.
#pragma once

#include <string>
#include <vector>

namespace rankbus {

struct SandboxDirectories {
  std::vector<std::string> read_only;
  std::vector<std::string> read_write;
};

// Of the calling thread: call it before there is another one. Returns why it cannot be done, or
// nothing; after a failure the process may be confined in part and should end.
std::string enter_sandbox(const SandboxDirectories& directories);

}  // namespace rankbus
