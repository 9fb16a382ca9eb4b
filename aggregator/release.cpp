#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/aggregator/release.hpp>
#include <rankbus/bus/directory.hpp>
#include <string>

namespace rankbus {
namespace {

struct ReleaseOptions {
  std::string bus;
  std::string segment;
};

// How long the aggregator has to answer; it looks at names once a second.
constexpr int kWait_ms = 10'000;
constexpr int kLook_ms = 20;

int fail(const char* path, const std::string& trouble) {
  std::fprintf(stderr, "rankbus: %s/%s\n", path, trouble.c_str());
  return 1;
}

// The owner of the bus sees the wish with its next look at the names, writes what it thinks of it
// into the file, and removes its name. Without an owner the wish waits for the next one.
int await_answer(int directory, int file, const char* path, const std::string& segment) {
  if (!bus::owner_is_present(directory)) {
    std::printf("rankbus: no aggregator owns %s now; the next one is asked to read %s again\n",
                path, segment.c_str());
    return 0;
  }
  for (int waited_ms = 0; waited_ms < kWait_ms; waited_ms += kLook_ms) {
    struct stat status {};
    if (fstat(file, &status) == 0 && status.st_nlink == 0) {
      char answer[256];
      const ssize_t got = pread(file, answer, sizeof answer, 0);
      if (got <= 0) return 0;
      return fail(path, segment + ": " + std::string(answer, static_cast<std::size_t>(got)));
    }
    const timespec a_while{0, kLook_ms * 1'000'000};
    nanosleep(&a_while, nullptr);
  }
  return fail(path, segment +
                        ": the aggregator did not answer in 10 s. It is stopped, or may not take "
                        "wishes of this user; the wish stays until it is answered");
}

int ask_for_release(int directory, const char* path, const std::string& segment) {
  if (faccessat(directory, segment.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(path, segment + ": " + std::strerror(errno));
  const std::string wish = kReleasePrefix + segment;
  constexpr int kFlags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  int file = openat(directory, wish.c_str(), kFlags | O_RDWR | O_CREAT | O_EXCL, 0600);
  // Somebody asked before.
  if (file < 0 && errno == EEXIST) file = openat(directory, wish.c_str(), kFlags | O_RDONLY);
  if (file < 0) return fail(path, wish + ": " + std::strerror(errno));
  struct stat status {};
  const bool is_regular = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const int result = is_regular ? await_answer(directory, file, path, segment)
                                : fail(path, wish + ": not a regular file; remove it");
  ::close(file);
  return result;
}

int run_release(const ReleaseOptions& options) {
  if (!bus::is_segment_name(options.segment.c_str()) ||
      options.segment.find('/') != std::string::npos) {
    std::fprintf(stderr, "rankbus: '%s' is no segment's name; `rankbus inspect` lists them\n",
                 options.segment.c_str());
    return 2;
  }
  char path[bus::kPathBytes];
  bus::resolve_bus_path(options.bus.c_str(), path);
  bus::Reason why;
  const int directory = bus::open_bus_directory(path, false, why);
  if (directory < 0) {
    std::fprintf(stderr, "rankbus: %s\n", why.text);
    return 1;
  }
  const int status = ask_for_release(directory, path, options.segment);
  ::close(directory);
  return status;
}

}  // namespace

std::function<int()> add_release_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("release", "Have the aggregator read a quarantined segment again");
  auto options = std::make_shared<ReleaseOptions>();
  command->add_option("segment", options->segment, "Name of the segment, as `inspect` shows it")
      ->required();
  command->add_option("--bus", options->bus,
                      "Bus directory; else RANKBUS_BUS, /run/rankbus or /dev/shm/rankbus-$UID");
  return [options] { return run_release(*options); };
}

}  // namespace rankbus
