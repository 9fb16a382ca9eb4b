// aggregator/identity.hpp: who wrote something, across incarnations.
#pragma once

#include <cstdint>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/bus/layout.hpp>
#include <string>
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

  auto tie() const { return std::tie(server, server_label, model, engine, role, rank, lane); }
  bool operator<(const Identity& other) const { return tie() < other.tie(); }
  // Who stands for all identities of the engine that are remembered no more one by one. No producer
  // has role 0.
  Identity whole_engine() const {
    return {server, server_label, model, engine, 0, bus::kNoRank, 0};
  }
  bool is_whole_engine() const { return role == 0 && !model.empty(); }
  bool same_engine(const Identity& other) const {
    return server == other.server && model == other.model && engine == other.engine;
  }
};

// Text of a NUL-padded field that a stranger filled.
template <std::size_t N>
std::string bounded_text(const char (&field)[N]) {
  std::size_t length = 0;
  while (length < N && field[length] != '\0') ++length;
  return {field, length};
}

// The labels that every series of an engine bears.
inline Labels engine_labels(const Identity& who) {
  Labels labels{{"engine", std::to_string(who.engine)}, {"model_name", who.model}};
  if (!who.server_label.empty()) labels.emplace_back("server", who.server_label);
  return labels;
}

// The labels of a series of one producer, sorted by name.
Labels rank_labels(const Identity& who);

// Labels of both, sorted by name; of equal names the first stands.
Labels joined(const Labels& a, const Labels& b);

}  // namespace rankbus
