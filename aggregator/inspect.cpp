#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/inspect.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/exporters/log_text.hpp>
#include <set>
#include <string>

namespace rankbus {
namespace {

std::string printable(const std::string& text) {
  std::string out;
  append_log_text_untrusted(text, out);
  return out;
}

void print_segment(SegmentReader& reader) {
  const bool alive = reader.writer_is_alive();
  reader.poll(!alive, {});
  const bus::SegmentHeader& header = reader.header();
  std::printf("%s  %s  pid %u  model %s  %.1f MiB\n", reader.name().c_str(),
              alive ? "alive" : "dead", header.pid, printable(bounded_text(header.model)).c_str(),
              static_cast<double>(reader.file_bytes()) / (1 << 20));
  for (const StreamState& stream : reader.streams()) {
    std::printf("  %-20s %12llu records  %8u slots of %4u bytes  totals of %u words\n",
                stream.schema.name.c_str(), static_cast<unsigned long long>(stream.published),
                stream.schema.capacity, stream.schema.slot_bytes, stream.schema.plan.body_words);
  }
  if (!reader.error().empty()) std::printf("  CONTRADICTION: %s\n", reader.error().c_str());
}

int run_inspect(const std::string& asked) {
  char path[bus::kPathBytes];
  bus::resolve_bus_path(asked.c_str(), path);
  bus::Reason why;
  const int directory = bus::open_bus_directory(path, false, why);
  if (directory < 0) {
    std::fprintf(stderr, "rankbus: %s\n", why.text);
    return 1;
  }
  std::set<std::string> names;
  bus::for_each_segment_name(directory, [&](const char* name) { names.insert(name); });
  std::printf("%s: %zu segments, %.1f of %.1f MiB, %s\n", path, names.size(),
              static_cast<double>(bus::used_bytes(directory)) / (1 << 20),
              static_cast<double>(bus::budget_bytes(directory)) / (1 << 20),
              bus::owner_is_present(directory) ? "owned by an aggregator" : "no aggregator");
  for (const std::string& name : names) {
    auto reader = SegmentReader::open_untrusted(directory, name);
    if (reader) {
      print_segment(*reader.value());
    } else {
      std::printf("%s  unreadable: %s\n", name.c_str(), reader.error().c_str());
    }
  }
  ::close(directory);
  return 0;
}

}  // namespace

std::function<int()> add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "List the segments of a bus, their writers and streams");
  auto bus = std::make_shared<std::string>();
  command->add_option("--bus", *bus,
                      "Bus directory; else RANKBUS_BUS, /run/rankbus or /dev/shm/rankbus-$UID");
  return [bus] { return run_inspect(*bus); };
}

}  // namespace rankbus
