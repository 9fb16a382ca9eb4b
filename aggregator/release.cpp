#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
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
  std::string trouble;
  if (faccessat(directory, options.segment.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0) {
    trouble = options.segment + ": " + std::strerror(errno);
  } else {
    // The aggregator that owns the bus sees it with its next look at the names.
    const std::string wish = kReleasePrefix + options.segment;
    const int file =
        openat(directory, wish.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) trouble = wish + ": " + std::strerror(errno);
    if (file >= 0) ::close(file);
  }
  ::close(directory);
  if (trouble.empty()) return 0;
  std::fprintf(stderr, "rankbus: %s/%s\n", path, trouble.c_str());
  return 1;
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
