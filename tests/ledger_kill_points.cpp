// Loaded before an aggregator's own libraries, this kills it between two of its system calls.
//
// RANKBUS_TEST_KILL_AT=POINT:N means the N-th time that POINT is reached. What others can see of a
// ledger changes only by system calls, so these points are all the states that a kill can leave.
// While there is a file RANKBUS_TEST_HANG_WHILE, its disk hangs: an image is not synced.
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace {

void reach(const char* point) {
  static std::atomic<long> reached{0};
  const char* wanted = getenv("RANKBUS_TEST_KILL_AT");
  const std::size_t length = std::strlen(point);
  if (wanted == nullptr || std::strncmp(wanted, point, length) != 0 || wanted[length] != ':')
    return;
  if (++reached == atol(wanted + length + 1)) kill(getpid(), SIGKILL);
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool is_segment(const char* name) {
  const char* dot = std::strrchr(name, '.');
  return name[0] != '.' && dot != nullptr && std::strlen(dot) == 33;
}

std::atomic<int> ledger_fd{-1};

}  // namespace

extern "C" {

int openat(int directory, const char* name, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  const bool is_new = std::strcmp(name, ".ledger.new") == 0;
  if (is_new) reach("folded");  // Retirements are in memory, and nowhere else.
  const int fd = next<int(int, const char*, int, ...)>("openat")(directory, name, flags, mode);
  if (is_new) {
    ledger_fd = fd;
    reach("created");
  }
  return fd;
}

ssize_t write(int fd, const void* bytes, size_t count) {
  auto* real = next<ssize_t(int, const void*, size_t)>("write");
  if (fd != ledger_fd || count < 2) return real(fd, bytes, count);
  const ssize_t half = real(fd, bytes, count / 2);
  reach("half-written");
  const ssize_t rest =
      real(fd, static_cast<const char*>(bytes) + half, count - static_cast<size_t>(half));
  reach("written");
  return half + rest;
}

int fsync(int fd) {
  const char* hangs = getenv("RANKBUS_TEST_HANG_WHILE");
  while (hangs != nullptr && fd == ledger_fd && access(hangs, F_OK) == 0) sched_yield();
  const int result = next<int(int)>("fsync")(fd);
  reach(fd == ledger_fd ? "synced" : "directory-synced");
  return result;
}

int renameat(int from, const char* name, int to, const char* new_name) {
  const int result =
      next<int(int, const char*, int, const char*)>("renameat")(from, name, to, new_name);
  reach("renamed");
  return result;
}

int unlinkat(int directory, const char* name, int flags) {
  if (is_segment(name)) reach("letting-go");
  const int result = next<int(int, const char*, int)>("unlinkat")(directory, name, flags);
  if (is_segment(name)) reach("unlinked");
  return result;
}

// Asking whether a writer lives: the answer that it does not is the first arrow.
int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  const int result = next<int(int, int, ...)>("fcntl")(fd, command, argument);
  if (command == F_OFD_GETLK && result == 0 &&
      static_cast<struct flock*>(argument)->l_type == F_UNLCK) {
    reach("silent");
  }
  return result;
}

}  // extern "C"
