// aggregator/identity.hpp: who wrote something, across incarnations.
#pragma once

#include <cstdint>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/bus/layout.hpp>
#include <string>
#include <string_view>
#include <tuple>

namespace rankbus {

// What stays the same when a process restarts. Counters of equal identities continue each other.
struct Identity {
  std::string server;        // Key: the server's name, or for an unnamed one "" or its run id.
  std::string server_label;  // Value of the `server` label; empty: no label.
  std::string model;
  std::uint32_t engine = 0;
  std::uint32_t role = 0;
  std::uint32_t rank = bus::kNoRank;
  std::uint32_t lane = 0;
  static constexpr std::uint32_t kAllEngines = bus::kNoRank;

  auto tie() const { return std::tie(server, server_label, model, engine, role, rank, lane); }
  bool operator<(const Identity& other) const { return tie() < other.tie(); }
  // Who stands for all identities of the engine that are remembered no more one by one. No producer
  // has role 0.
  Identity whole_engine() const {
    return {server, server_label, model, engine, 0, bus::kNoRank, lane_of_many()};
  }
  bool is_whole_engine() const { return role == 0 && (!model.empty() || lane == bus::kNoRank); }
  // Who stands for all engines of the model that are remembered no more one by one.
  Identity whole_model() const {
    return {"", "", model, kAllEngines, 0, bus::kNoRank, lane_of_many()};
  }
  bool is_whole_model() const {
    return is_whole_engine() && engine == kAllEngines && server.empty();
  }
  // As the value of a label.
  std::string engine_text() const { return is_whole_model() ? "other" : std::to_string(engine); }
  bool same_engine(const Identity& other) const {
    return server == other.server && model == other.model && engine == other.engine;
  }

 private:
  // Without a model they would be what nobody is.
  std::uint32_t lane_of_many() const { return model.empty() ? bus::kNoRank : 0; }
};

// The text with U+FFFD in place of what is not UTF-8. No text becomes part of a name before: two
// that are shown as one are one.
std::string as_utf8_untrusted(std::string_view text);

// Text of a NUL-padded field that a stranger filled.
template <std::size_t N>
std::string bounded_text(const char (&field)[N]) {
  std::size_t length = 0;
  while (length < N && field[length] != '\0') ++length;
  return as_utf8_untrusted({field, length});
}

// The labels that every series of an engine bears.
inline Labels engine_labels(const Identity& who) {
  Labels labels{{"engine", who.engine_text()}, {"model_name", who.model}};
  if (!who.server_label.empty()) labels.emplace_back("server", who.server_label);
  return labels;
}

// The labels of a series of one producer, sorted by name.
Labels rank_labels(const Identity& who);

// Labels of both, sorted by name; of equal names the first stands.
Labels joined(const Labels& a, const Labels& b);

}  // namespace rankbus
