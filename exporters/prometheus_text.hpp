// exporters/prometheus_text.hpp: a snapshot as Prometheus text, format 0.0.4.
#pragma once

#include <optional>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>

namespace rankbus {

inline constexpr char kPrometheusTextType[] = "text/plain; version=0.0.4; charset=utf-8";

// Chooses the series of one server, of one engine, or of one engine of one server.
struct SeriesFilter {
  std::optional<std::string> server;  // The server's key or what its `server` label shows.
  std::optional<std::string> engine;

  friend bool operator==(const SeriesFilter&, const SeriesFilter&) = default;
};

// The aggregator's own series belong to no server and no engine: only an empty filter shows them.
bool shows(const SeriesFilter& filter, const Series& series);

// Appends the exposition. Families that the filter leaves without series are left out. The text is
// valid UTF-8 whatever the labels hold: what is not becomes U+FFFD.
void render_prometheus_text(const Snapshot& snapshot, const SeriesFilter& filter, std::string& out);

}  // namespace rankbus
