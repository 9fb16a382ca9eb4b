// What tests of a bus reader with a ledger share: images as if an owner before had left them,
// readers that start from them, and what is exposed then.
#pragma once

#include <optional>
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace bus_test {

using rankbus::BusReader;
using rankbus::Identity;
using rankbus::LedgerImage;

inline Identity rank_of_engine(std::uint32_t engine, std::uint32_t rank) {
  Identity who;
  who.model = "test-model";
  who.engine = engine;
  who.role = static_cast<std::uint32_t>(rankbus::Role::other);
  who.rank = rank;
  return who;
}

// A front end, or whatever else has no rank, of a server that is named by its pod.
inline Identity server(std::uint32_t number, const std::string& model = "test-model") {
  Identity who = rank_of_engine(0, rankbus::bus::kNoRank);
  who.server = who.server_label = "pod-" + std::to_string(100'000 + number);
  who.model = model;
  return who;
}

// A dead identity that counted so much.
inline std::shared_ptr<const rankbus::IdentityState> dead_with(std::uint64_t tokens,
                                                               double last_alive_s) {
  rankbus::IdentityState state;
  rankbus::FieldValue value;
  value.bits = tokens;
  value.unit = rankbus::bus::Unit::tokens;
  value.reduction = rankbus::bus::Reduction::sum;
  state.retired.values[{"vllm:generation_tokens_total", {}}] = value;
  state.retired.incarnations = 1;
  state.last_alive_s = last_alive_s;
  state.began_ns = 1;
  state.began_realtime_s = 1.7e9;
  return std::make_shared<const rankbus::IdentityState>(state);
}

class LedgerOfBus : public testing::Test {
 protected:
  // As if an owner before had written it.
  void leave(LedgerImage image) const {
    mkdir(folder_.bus().c_str(), 0700);
    auto store = rankbus::LedgerStore::open(folder_.bus());
    ASSERT_TRUE(store) << store.error();
    image.generation = (*store)->next_generation();
    (*store)->write(std::make_shared<const LedgerImage>(std::move(image)));
    (*store)->wait();
    ASSERT_EQ((*store)->status().trouble, "");
  }
  LedgerImage image_of_now() const {
    LedgerImage image;
    image.boot_id = rankbus::this_boot();
    image.written_s = now_s();
    image.written_realtime_s = static_cast<double>(rankbus::bus::clock_ns(CLOCK_REALTIME)) * 1e-9;
    return image;
  }
  std::unique_ptr<BusReader> open_with_ledger(
      const std::function<void(rankbus::LedgerOptions&)>& set = {}) const {
    rankbus::BusOptions options;
    options.directory = folder_.bus();
    options.ledger.keep = true;
    if (set) set(options.ledger);
    auto opened =
        BusReader::open(options, [this](const std::string& text) { said_ += text + "\n"; });
    if (!opened) {
      ADD_FAILURE() << opened.error();
      return nullptr;
    }
    return std::move(opened.value());
  }
  // What a restart would find.
  LedgerImage kept() const {
    auto store = rankbus::LedgerStore::open(folder_.bus());
    return store && (*store)->started_from() ? *(*store)->started_from() : LedgerImage{};
  }
  // The exposed sum of an engine; nothing if it is not shown.
  static std::optional<std::uint64_t> tokens(const BusReader& bus, std::uint32_t engine) {
    return tokens(bus, std::to_string(engine));
  }
  static std::optional<std::uint64_t> tokens(const BusReader& bus, const std::string& engine) {
    rankbus::FamilyBuilder families;
    rankbus::reduce_records(bus, rankbus::collect_values(bus), now_s(), {}, families);
    for (const rankbus::Family& family : families.take()) {
      if (family.name != "vllm:generation_tokens_total") continue;
      for (const rankbus::Series& series : family.series) {
        if (series.engine == engine)
          return std::get<std::uint64_t>(std::get<rankbus::Number>(series.value));
      }
    }
    return std::nullopt;
  }
  rankbus::Producer open_producer(std::uint32_t engine, std::uint32_t rank) const {
    rankbus::OpenOptions options = options_for(folder_.bus(), rankbus::Role::other);
    options.engine = engine;
    options.rank = rank;
    options.segment_bytes = 32 << 10;
    options.records[0] = rankbus::record_type<rankbus::IterationStats>();
    return rankbus::Producer::open(options);
  }
  static void record(rankbus::Producer& producer, std::uint64_t records) {
    rankbus::IterationStats iteration;
    iteration.num_generation_tokens = 1;
    for (std::uint64_t n = 0; n < records; ++n) producer.record(iteration);
  }

  Folder folder_;
  mutable std::string said_;  // Warnings of all readers.
};

}  // namespace bus_test
