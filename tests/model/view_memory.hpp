// tests/model/view_memory.hpp: a memory as weak as C++ allows, and a search through all it can do.
//
// WHY THE SEARCH IS COMPLETE. A load in C++ may return any store to its location that the rules of
// coherence and happens-before do not hide. What is hard in general is that a store may depend on
// loads which depend on it. Here that cannot happen, because bytes flow one way: the only store
// instructions are one writer's, and the writer loads nothing that a reader could have stored. So
//
//   - each location's modification order is the writer's program order, and there is only one;
//   - every `reads from` edge leads from the writer to a reader, so program order and `reads from`
//     together have no cycle: nothing out of thin air, and no load buffering that could be missed;
//   - readers do not influence each other through the memory, so one reader at a time is enough
//     (readers that tell each other what they saw are one reader with both their views).
//
// An execution is therefore the writer's list of stores, run once, and for each load of
// the reader a free choice among the messages that the reader's view does not hide. The
// views are those of the promising semantics of Kang et al. (2017) without promises: a
// message of a release store carries everything the writer did before it, a message of
// a relaxed store what came before the writer's last release fence; an acquire load
// takes the message's view over at once, a relaxed load puts it aside until an acquire
// fence. Release sequences are the short ones of C++20: a relaxed store after a release
// store to the same location does not inherit its view. C++17 forbids more, never less.
//
// The reader starts without any knowledge. One that has seen more has fewer messages to choose
// from, so what holds for the one that knows nothing holds for all.
//
// THE END OF A WRITER. A killed writer has made some of its stores, and who finds its
// lock free sees all of those (edge DEATH in bus/memory.hpp). Which sets of stores are
// possible? Every prefix of the program, if the machine code has the program's order.
// But the standard lets a compiler move a relaxed store up past a release store, so in
// general: every set that contains, with each message, what that message's view
// contains. The prefixes are those sets in which no store has moved ahead.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace rankbus::model {

using Word = std::uint64_t;

enum class Order : std::uint8_t { none, relaxed, acquire, release };

inline const char* to_string(Order order) {
  static constexpr std::array<const char*, 4> kNames = {"none", "relaxed", "acquire", "release"};
  return kNames.at(static_cast<std::size_t>(order));
}

// For each location the number of the oldest message that may still be read. Small and fixed, so
// that the millions of joins are a few vector instructions each.
inline constexpr std::size_t kMaxLocations = 32;
using View = std::array<std::uint8_t, kMaxLocations>;

inline void join(View& into, const View& other) {
  for (std::size_t x = 0; x < kMaxLocations; ++x) into[x] = std::max(into[x], other[x]);
}
inline bool contains(const View& larger, const View& smaller) {
  for (std::size_t x = 0; x < kMaxLocations; ++x) {
    if (smaller[x] > larger[x]) return false;
  }
  return true;
}

// How many stores may have been made although an earlier one of the program was not.
inline constexpr std::size_t kInProgramOrder = 0;
inline constexpr std::size_t kAnyCompiler = SIZE_MAX;

// One writer, then any number of runs of one reader. Addresses are only names of locations: nothing
// is ever stored at them, so code that bypassed the machine would read zeros and fail.
class Machine {
 public:
  explicit Machine(std::vector<std::string> location_names)
      : names_(std::move(location_names)), cells_(names_.size()), messages_(names_.size()) {
    if (names_.size() > kMaxLocations) die("more locations than a View holds");
    for (auto& of_location : messages_) of_location.push_back(Message{0, View{}, 0});
    current_ = this;
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() { current_ = nullptr; }

  // The machine on which ProcessMemory's own operations land; see machine_atomics.hpp.
  static Machine& current() {
    if (current_ == nullptr) die("an atomic operation without a machine");
    return *current_;
  }

  Word* at(std::size_t location) { return &cells_.at(location); }

  // Memory operations, of whoever's turn it is.

  void store(Word* address, Word value, Order order) {
    if (order == Order::none) return;
    if (reading_) die("a reader stored something: bytes flow one way");
    if (order != Order::relaxed && order != Order::release) die("no such store");
    const std::size_t x = location_of(address);
    auto& of_location = messages_[x];
    if (of_location.size() > UINT8_MAX) die("more messages than a View counts");
    writer_view_[x] = static_cast<std::uint8_t>(of_location.size());
    View carried = order == Order::release ? writer_view_ : writer_fence_view_;
    carried[x] = writer_view_[x];
    events_.push_back(Event{x, value, order});
    of_location.push_back(Message{value, carried, events_.size()});
    prefixes_.push_back(writer_view_);
    last_order_ = order;
  }

  Word load(const Word* address, Order order) {
    if (order != Order::relaxed && order != Order::acquire) die("no such load");
    last_order_ = order;
    const std::size_t x = location_of(address);
    const auto& of_location = messages_[x];
    if (!reading_)
      return of_location.back().value;  // Coherence: the writer sees its own last store.
    const std::size_t last = dead_ ? dead_view_[x] : of_location.size() - 1;
    const std::size_t chosen = last - pick(last - reader_view_[x] + 1);
    const Message& message = of_location[chosen];
    reader_view_[x] = static_cast<std::uint8_t>(chosen);
    join(order == Order::acquire ? reader_view_ : reader_pending_view_, message.view);
    steps_.push_back(Step{x, chosen, order});
    return message.value;
  }

  void fence(Order order) {
    last_order_ = order;
    if (order == Order::none) return;
    if (order == Order::release && !reading_) {
      writer_fence_view_ = writer_view_;
      events_.push_back(Event{kFence, 0, order});
    } else if (order == Order::acquire && reading_) {
      join(reader_view_, reader_pending_view_);
      steps_.push_back(Step{kFence, 0, order});
    } else {
      die("a fence on the wrong side");
    }
  }

  // The order of the last operation; `none` once it was asked for and nothing happened since.
  Order take_last_order() { return std::exchange(last_order_, Order::none); }

  // The writer's turn ends. What it wrote so far can be made the state in which everybody starts.

  void forget_history() {
    for (auto& of_location : messages_) {
      of_location = {Message{of_location.back().value, View{}, 0}};
    }
    writer_view_ = writer_fence_view_ = View{};
    events_.clear();
    prefixes_.assign(1, View{});
  }
  void start_reading() {
    reading_ = true;
    choices_.clear();
    kill_states_.clear();
    restart();
  }
  void start_writing() { reading_ = false; }

  // The reader's turn: run the reader, then `next`, until there is no other run.

  bool next() {
    while (!choices_.empty()) {
      if (++choices_.back().chosen < choices_.back().count) {
        restart();
        return true;
      }
      choices_.pop_back();
    }
    return false;
  }

  // A free choice, for questions that a test asks in every possible way, too.
  std::size_t pick(std::size_t count) {
    if (count == 1) return 0;
    if (depth_ == choices_.size()) choices_.push_back(Choice{0, count});
    if (choices_[depth_].count != count) die("the reader is not deterministic");
    return choices_[depth_++].chosen;
  }

  // The reader finds the lock free. The writer made any of the possible sets of stores that contain
  // what the reader has seen, and made nothing else; the reader sees all of it.
  void writer_dies(std::size_t moved_ahead) {
    if (kill_states_.empty() || moved_ahead != kill_states_moved_)
      enumerate_kill_states(moved_ahead);
    std::vector<const View*> possible;
    for (const View& state : kill_states_) {
      if (contains(state, reader_view_) && contains(state, reader_pending_view_)) {
        possible.push_back(&state);
      }
    }
    dead_view_ = *possible.at(pick(possible.size()));
    dead_ = true;
    reader_view_ = dead_view_;
    steps_.push_back(Step{kDeath, 0, Order::none});
  }

  // Which of the location's messages the reader's load number `step` returned.
  std::size_t message_of_step(std::size_t step) const { return steps_.at(step).message; }

  // How long the present run is: writer's steps that matter, reader's steps, stale loads.
  std::array<std::size_t, 3> length() const {
    std::size_t stale = 0;
    for (const Step& step : steps_) {
      if (step.location < names_.size()) {
        stale += messages_[step.location].size() - 1 - step.message;
      }
    }
    return {last_event_that_matters(), steps_.size(), stale};
  }

  std::string describe() const {
    std::string text;
    for (std::size_t i = 0; i < last_event_that_matters(); ++i) {
      const Event& event = events_[i];
      text += "    w" + std::to_string(i + 1) + "  ";
      if (event.location == kFence) {
        text += "fence release\n";
        continue;
      }
      text +=
          names_[event.location] + " = " + readable(event.value) + "  " + to_string(event.order);
      if (dead_ && !made_before_death(i)) text += "  (not made before death)";
      text += "\n";
    }
    std::size_t number = 0;
    for (const Step& step : steps_) {
      text += "        r" + std::to_string(++number) + "  ";
      if (step.location == kFence) {
        text += "fence acquire\n";
      } else if (step.location == kDeath) {
        text += "the writer is dead\n";
      } else {
        const Message& message = messages_[step.location][step.message];
        text += names_[step.location] + " -> " + readable(message.value) + "  " +
                to_string(step.order) + ", from " +
                (message.event == 0 ? "the start" : "w" + std::to_string(message.event)) + "\n";
      }
    }
    return text;
  }

 private:
  static constexpr std::size_t kFence = kMaxLocations;
  static constexpr std::size_t kDeath = kMaxLocations + 1;

  struct Message {
    Word value;
    View view;          // What the reader of this message learns, if it asks with acquire.
    std::size_t event;  // Position in events_ counted from 1; 0 for the initial value.
  };
  struct Event {
    std::size_t location;
    Word value;
    Order order;
  };
  struct Step {
    std::size_t location;
    std::size_t message;
    Order order;
  };
  struct Choice {
    std::size_t chosen;
    std::size_t count;
  };

  [[noreturn]] static void die(const char* what) {
    std::fprintf(stderr, "model machine: %s\n", what);
    std::abort();
  }

  // Values near the top of a word read better as what they are: a small distance from a wrap.
  static std::string readable(Word value) {
    constexpr Word kHalf = Word{1} << 63;
    if (value > ~Word{0} - 4096) return "2^64-" + std::to_string(~value + 1);
    if (value >= kHalf && value < kHalf + 4096) return "2^63+" + std::to_string(value - kHalf);
    if (value < kHalf && value > kHalf - 4096) return "2^63-" + std::to_string(kHalf - value);
    return std::to_string(value);
  }

  std::size_t location_of(const Word* address) const {
    const auto x = static_cast<std::size_t>(address - cells_.data());
    if (x >= cells_.size()) die("an address outside the shared memory");
    return x;
  }

  void restart() {
    depth_ = 0;
    dead_ = false;
    reader_view_ = reader_pending_view_ = View{};
    steps_.clear();
  }

  bool made_before_death(std::size_t event) const {
    const std::size_t x = events_[event].location;
    for (std::size_t t = 1; t <= dead_view_[x]; ++t) {
      if (messages_[x][t].event == event + 1) return true;
    }
    return false;
  }

  std::size_t last_event_that_matters() const {
    std::size_t last = 0;
    for (const Step& step : steps_) {
      if (step.location < names_.size()) {
        last = std::max(last, messages_[step.location][step.message].event);
      }
    }
    if (dead_) {
      for (std::size_t x = 0; x < names_.size(); ++x) {
        last = std::max(last, messages_[x][dead_view_[x]].event);
      }
    }
    return last;
  }

  // For each prefix, everything that can have moved ahead of the first store that was not made.
  void enumerate_kill_states(std::size_t moved_ahead) {
    kill_states_moved_ = moved_ahead;
    kill_states_.clear();
    for (std::size_t made = 0; made < prefixes_.size(); ++made) {
      std::vector<std::pair<View, std::size_t>> states = {{prefixes_[made], 0}};
      std::set<View> known = {prefixes_[made]};
      for (std::size_t i = 0; i < states.size() && made + 1 < prefixes_.size(); ++i) {
        const auto [state, moved] = states[i];
        if (moved == moved_ahead) continue;
        for (std::size_t x = 0; x < names_.size(); ++x) {
          if (prefixes_[made + 1][x] > prefixes_[made][x]) continue;  // The one that was not made.
          View larger = state;
          if (++larger[x] >= messages_[x].size()) continue;
          if (!contains(larger, messages_[x][larger[x]].view)) continue;
          if (known.insert(larger).second) states.emplace_back(larger, moved + 1);
        }
      }
      for (const auto& [state, moved] : states) kill_states_.push_back(state);
    }
  }

  inline static Machine* current_ = nullptr;

  std::vector<std::string> names_;
  std::vector<Word> cells_;
  std::vector<std::vector<Message>> messages_;  // By location, in modification order.
  Order last_order_ = Order::none;
  bool reading_ = false;

  // The writer's.
  View writer_view_{};
  View writer_fence_view_{};
  std::vector<Event> events_;
  std::vector<View> prefixes_ = {View{}};

  // The reader's, made anew for each run.
  View reader_view_{};
  View reader_pending_view_{};
  View dead_view_{};
  bool dead_ = false;
  std::vector<Step> steps_;
  std::size_t depth_ = 0;

  // Of the search.
  std::vector<Choice> choices_;
  std::vector<View> kill_states_;
  std::size_t kill_states_moved_ = 0;
};

// The orderings of the protocol's operations, as data, so that they can be broken one at a time.
// The defaults claim to be ProcessMemory's; a test compares them with what ProcessMemory does.
struct Orders {
  Order store_mark = Order::release;
  Order fence_after_mark = Order::release;
  Order store_field = Order::relaxed;
  Order store_whole = Order::release;
  Order store_published = Order::release;
  Order load_word = Order::acquire;
  Order load_field = Order::relaxed;
  Order fence_before_recheck = Order::acquire;
  Order load_word_again = Order::relaxed;
  Order load_published = Order::acquire;

  bool operator==(const Orders&) const = default;
};

// The memory for the templates of bus/slot.hpp.
class ViewMemory {
 public:
  explicit ViewMemory(const Orders& orders) : orders_(orders) {}

  void store_mark(Word* word, Word value) const { store(word, value, orders_.store_mark); }
  void fence_after_mark() const { Machine::current().fence(orders_.fence_after_mark); }
  void store_field(Word* word, Word value) const { store(word, value, orders_.store_field); }
  void store_whole(Word* word, Word value) const { store(word, value, orders_.store_whole); }
  void store_published(Word* word, Word value) const {
    store(word, value, orders_.store_published);
  }
  Word load_word(const Word* word) const { return load(word, orders_.load_word); }
  Word load_field(const Word* word) const { return load(word, orders_.load_field); }
  void fence_before_recheck() const { Machine::current().fence(orders_.fence_before_recheck); }
  Word load_word_again(const Word* word) const { return load(word, orders_.load_word_again); }
  Word load_published(const Word* word) const { return load(word, orders_.load_published); }
  Word load_own(const Word* word) const { return load(word, Order::relaxed); }

 private:
  static void store(Word* word, Word value, Order order) {
    Machine::current().store(word, value, order);
  }
  static Word load(const Word* word, Order order) { return Machine::current().load(word, order); }

  Orders orders_;
};

}  // namespace rankbus::model
