// tests/instruction_count.hpp: how many instructions a call takes in user space, whatever else the
// machine does. A clock would tell how busy it is; this tells the same each time.
#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

namespace rankbus::test {

inline constexpr std::uint64_t kMostInstructions = 1'000'000;  // Some microseconds each.

// Runs the call in a child, one instruction after the other, and ends it after kMostInstructions of
// them. A dozen that start and end the child are counted too. None where this process may not trace
// its own child.
template <class Call>
std::optional<std::uint64_t> instructions_of(Call&& call) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
    (void)raise(SIGSTOP);
    call();
    _exit(0);
  }
  int status = 0;
  bool is_alive = child > 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status);
  if (!is_alive) return std::nullopt;
  std::uint64_t steps = 0;
  while (is_alive && steps < kMostInstructions) {
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) break;
    is_alive = waitpid(child, &status, 0) == child && WIFSTOPPED(status);
    ++steps;
  }
  if (is_alive) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  return steps;
}

}  // namespace rankbus::test
