// tests/model/variants.hpp: the protocol, and the protocol with one thing wrong, asked everything.
//
// A check that cannot fail proves nothing. Each variant takes away one ordering or one rule; the
// columns say which promises that costs. A promise that is kept although something is missing is a
// finding too: tests/model/README.md says why, and a test compares its table with what is found.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "stream_model.hpp"

namespace rankbus::model {

struct Variant {
  std::string name;
  Orders orders = {};
  Shape slots = {.capacity = 1, .fields = 2};
  Shape totals = {.capacity = 2, .fields = 1, .checkpoint_interval = 1};
};

// Sound without a fence, too: what ProcessMemory does where thread sanitizer forbids fences.
inline Orders orders_without_fences() {
  Orders orders;
  orders.fence_after_mark = Order::none;
  orders.store_field = Order::release;
  orders.load_field = Order::acquire;
  orders.fence_before_recheck = Order::none;
  return orders;
}

namespace variant_list {

inline Variant changed(const char* name, Order Orders::*what, Order to) {
  Variant variant{name};
  variant.orders.*what = to;
  return variant;
}
inline Variant relaxed_without_fences(const char* name, Order Orders::*what) {
  Variant variant{name};
  variant.orders = orders_without_fences();
  variant.orders.*what = Order::relaxed;
  return variant;
}

inline std::vector<Variant> make() {
  std::vector<Variant> list;
  list.push_back({.name = "the protocol"});
  list.push_back(
      {.name = "no fences, fields release and acquire", .orders = orders_without_fences()});

  // The writer's orders.
  list.push_back(changed("no fence after the mark", &Orders::fence_after_mark, Order::none));
  list.push_back(changed("mark stored relaxed", &Orders::store_mark, Order::relaxed));
  list.push_back(relaxed_without_fences("no fences, mark stored relaxed", &Orders::store_mark));
  list.push_back(changed("no mark", &Orders::store_mark, Order::none));
  list.push_back(changed("whole word stored relaxed", &Orders::store_whole, Order::relaxed));
  list.push_back(changed("`published` stored relaxed", &Orders::store_published, Order::relaxed));
  list.push_back(relaxed_without_fences("no fences, fields stored relaxed", &Orders::store_field));

  // The reader's orders.
  list.push_back(changed("first look relaxed", &Orders::load_word, Order::relaxed));
  list.push_back(
      changed("no fence before the second look", &Orders::fence_before_recheck, Order::none));
  list.push_back(changed("second look acquire instead of that fence", &Orders::load_word_again,
                         Order::acquire));
  list.back().orders.fence_before_recheck = Order::none;
  list.push_back(changed("`published` loaded relaxed", &Orders::load_published, Order::relaxed));
  list.push_back(relaxed_without_fences("no fences, fields loaded relaxed", &Orders::load_field));

  // The rules of the checkpoints.
  list.push_back({.name = "one checkpoint instead of two"});
  list.back().totals.only_one_checkpoint = true;
  list.push_back({.name = "checkpoint before its last record is published"});
  list.back().totals.checkpoint_before_publish = true;
  constexpr Shape with_a_repeat = {
      .capacity = 4, .fields = 1, .checkpoint_interval = 2, .extra_checkpoints = 0b10};
  list.push_back({.name = "a checkpoint written twice"});
  list.back().totals = with_a_repeat;
  list.push_back(changed("a checkpoint written twice, mark stored relaxed", &Orders::store_mark,
                         Order::relaxed));
  list.back().totals = with_a_repeat;
  list.push_back({.name = "checkpoints a whole capacity apart"});
  list.back().totals.checkpoint_interval = list.back().totals.capacity;
  list.push_back(changed("checkpoints a whole capacity apart, mark stored relaxed",
                         &Orders::store_mark, Order::relaxed));
  list.back().totals.checkpoint_interval = list.back().totals.capacity;
  list.push_back({.name = "checkpoints further than a capacity apart"});
  list.back().totals.checkpoint_interval = list.back().totals.capacity + 1;
  return list;
}

}  // namespace variant_list

inline const std::vector<Variant>& variants() {
  static const std::vector<Variant> list = variant_list::make();
  return list;
}

enum class Column : std::uint8_t {
  slot,
  published,
  checkpoint,
  cut,
  attach,
  follow,
  dead_in_order,
  dead,
  follow_to_death
};
inline constexpr std::array<const char*, 9> kColumnNames = {
    "slot",          "published", "checkpoint",     "cut", "attach", "follow",
    "dead in order", "dead",      "follow to death"};

// A counterexample needs few stores that moved ahead, and there are too many sets with many of them
// to look through where every order is gone. So those with few come first; only a variant that
// survives them is asked about all.
template <class Question>
Exploration explore_deaths(const Variant& variant, Word records, Question question) {
  constexpr std::size_t kFewMoved = 2;
  Exploration result;
  for (const std::size_t moved_ahead : {kFewMoved, kAnyCompiler}) {
    const std::size_t before = result.executions;
    result = explore(variant.totals, ViewMemory(variant.orders), records,
                     [&](Stream& stream, const ViewMemory& memory) {
                       return question(stream, memory, moved_ahead);
                     });
    result.executions += before;
    if (result.broken()) break;
  }
  return result;
}

inline Exploration explore_column(const Variant& variant, Column column) {
  // A variant that breaks a promise needs no more than three records for it.
  constexpr Word kRecords = kSanitized ? 3 : 6;
  using Memory = const ViewMemory;
  const auto ask = [&](const Shape& shape, auto question) {
    return explore(shape, ViewMemory(variant.orders), kRecords, question);
  };
  switch (column) {
    case Column::slot:
      return ask(variant.slots, ask_slot<Memory>);
    case Column::published:
      return ask(variant.slots, ask_published<Memory>);
    case Column::checkpoint:
      return ask(variant.totals, ask_checkpoint<Memory>);
    case Column::cut:
      return ask(variant.totals, ask_cut<Memory>);
    case Column::attach:
      return ask(variant.totals, ask_attach_live<Memory>);
    case Column::follow:
      return ask(variant.totals, ask_follow<Memory>);
    case Column::dead_in_order:
      return ask(variant.totals, [](Stream& stream, Memory& memory) {
        return ask_attach_dead(stream, memory, kInProgramOrder);
      });
    case Column::dead:
      return explore_deaths(variant, kRecords, ask_attach_dead<Memory>);
    case Column::follow_to_death:
      return explore_deaths(variant, kRecords, ask_follow_to_death<Memory>);
  }
  return {};
}

}  // namespace rankbus::model
