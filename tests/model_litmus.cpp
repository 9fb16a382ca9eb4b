// tests/model_litmus.cpp: is the machine of tests/model as weak as C++, and no weaker?
//
// The known small programs, with the outcomes that the standard forbids and allows. A machine
// that was too strong would find no fault in a broken protocol; one too weak would find faults
// that no compiler can produce.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "model/view_memory.hpp"

namespace rankbus::model {
namespace {

using Outcome = std::vector<Word>;

// Locations x and y, zero at first. The reader pushes what it loads.
struct Litmus {
  Machine machine{{"x", "y"}};
  Word* x = machine.at(0);
  Word* y = machine.at(1);

  std::set<Outcome> outcomes(const std::function<void(Outcome&)>& reader) {
    std::set<Outcome> all;
    machine.start_reading();
    do {
      Outcome outcome;
      reader(outcome);
      all.insert(outcome);
    } while (machine.next());
    return all;
  }

  // Message passing: x is the message, y says that it is there.
  std::set<Outcome> pass_message(Order fence_w, Order store_y, Order load_y, Order fence_r) {
    machine.store(x, 1, Order::relaxed);
    machine.fence(fence_w);
    machine.store(y, 1, store_y);
    return outcomes([&](Outcome& outcome) {
      outcome.push_back(machine.load(y, load_y));
      machine.fence(fence_r);
      outcome.push_back(machine.load(x, Order::relaxed));
    });
  }
};

const Outcome kMessageMissed = {1, 0};
const std::set<Outcome> kAnything = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
const std::set<Outcome> kMessagePassed = {{0, 0}, {0, 1}, {1, 1}};

TEST(Litmus, MessagePassing_Relaxed_MayMissTheMessage) {
  EXPECT_EQ(Litmus().pass_message(Order::none, Order::relaxed, Order::relaxed, Order::none),
            kAnything);
}

TEST(Litmus, MessagePassing_ReleaseAndAcquire_PassesTheMessage) {
  EXPECT_EQ(Litmus().pass_message(Order::none, Order::release, Order::acquire, Order::none),
            kMessagePassed);
}

TEST(Litmus, MessagePassing_Fences_PassTheMessage) {
  EXPECT_EQ(Litmus().pass_message(Order::release, Order::relaxed, Order::relaxed, Order::acquire),
            kMessagePassed);
}

TEST(Litmus, MessagePassing_FenceAndLoadOrStoreAndFence_PassesTheMessage) {
  EXPECT_EQ(Litmus().pass_message(Order::release, Order::relaxed, Order::acquire, Order::none),
            kMessagePassed);
  EXPECT_EQ(Litmus().pass_message(Order::none, Order::release, Order::relaxed, Order::acquire),
            kMessagePassed);
}

TEST(Litmus, MessagePassing_OneSideOnly_MayMissTheMessage) {
  for (const Order fence : {Order::none, Order::release}) {
    EXPECT_EQ(Litmus().pass_message(fence, Order::release, Order::relaxed, Order::none), kAnything);
  }
  for (const Order fence : {Order::none, Order::acquire}) {
    EXPECT_EQ(Litmus().pass_message(Order::none, Order::relaxed, Order::acquire, fence), kAnything);
  }
}

TEST(Litmus, MessagePassing_FenceAfterTheStore_MayMissTheMessage) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.y, 1, Order::relaxed);
  litmus.machine.fence(Order::release);
  const auto outcomes = litmus.outcomes([&](Outcome& outcome) {
    outcome.push_back(litmus.machine.load(litmus.y, Order::acquire));
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
  });
  EXPECT_EQ(outcomes.count(kMessageMissed), 1U);
}

// A release store orders what is before it, and nothing that is after it: what a mark stored
// release is mistaken for.
TEST(Litmus, ReleaseStore_LaterRelaxedStore_MayBeSeenFirst) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::release);
  litmus.machine.store(litmus.y, 1, Order::relaxed);
  const auto outcomes = litmus.outcomes([&](Outcome& outcome) {
    outcome.push_back(litmus.machine.load(litmus.y, Order::acquire));
    outcome.push_back(litmus.machine.load(litmus.x, Order::acquire));
  });
  EXPECT_EQ(outcomes, kAnything);
}

// An acquire load orders what is after it, and nothing that is before it: what an acquire second
// look is mistaken for. Here y is the mark and x a field: who saw the field must not miss the mark.
TEST(Litmus, AcquireLoad_EarlierRelaxedLoad_IsNotOrderedByIt) {
  Litmus litmus;
  litmus.machine.store(litmus.y, 1, Order::relaxed);
  litmus.machine.fence(Order::release);
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  const auto second_look = [&](Order fence, Order order) {
    return litmus.outcomes([&, fence, order](Outcome& outcome) {
      outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
      litmus.machine.fence(fence);
      outcome.push_back(litmus.machine.load(litmus.y, order));
    });
  };
  EXPECT_EQ(second_look(Order::none, Order::acquire).count(kMessageMissed), 1U);
  EXPECT_EQ(second_look(Order::acquire, Order::relaxed).count(kMessageMissed), 0U);
}

// C++20 took release sequences of plain stores away; a producer compiled as C++17 has more.
TEST(Litmus, ReleaseStore_OverwrittenRelaxed_CarriesNothingOn) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.y, 1, Order::release);
  litmus.machine.store(litmus.y, 2, Order::relaxed);
  const auto outcomes = litmus.outcomes([&](Outcome& outcome) {
    outcome.push_back(litmus.machine.load(litmus.y, Order::acquire));
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
  });
  EXPECT_EQ(outcomes, (std::set<Outcome>{{0, 0}, {0, 1}, {1, 1}, {2, 0}, {2, 1}}));
}

TEST(Litmus, OneLocation_ReadTwice_NeverGoesBack) {
  Litmus litmus;
  for (Word value = 1; value <= 3; ++value) litmus.machine.store(litmus.x, value, Order::relaxed);
  const auto outcomes = litmus.outcomes([&](Outcome& outcome) {
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
  });
  EXPECT_EQ(outcomes.size(), 10U);  // Of 16 pairs, those that do not decrease.
  for (const Outcome& outcome : outcomes) EXPECT_LE(outcome[0], outcome[1]);
}

TEST(Litmus, Writer_LoadsItsOwnWord_SeesItsLastStore) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.x, 2, Order::relaxed);
  EXPECT_EQ(litmus.machine.load(litmus.x, Order::relaxed), 2U);
}

// Everything that the dead stored is seen; what that was is for the compiler to say.
TEST(Litmus, DeadWriter_StoredRelaxed_LeavesAPrefixOnlyInProgramOrder) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.y, 1, Order::relaxed);
  const auto left = [&](std::size_t moved_ahead) {
    return litmus.outcomes([&, moved_ahead](Outcome& outcome) {
      litmus.machine.writer_dies(moved_ahead);
      outcome.push_back(litmus.machine.load(litmus.y, Order::relaxed));
      outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
    });
  };
  EXPECT_EQ(left(kInProgramOrder), kMessagePassed);  // x is first, so never y without x.
  EXPECT_EQ(left(kAnyCompiler), kAnything);
}

TEST(Litmus, DeadWriter_StoredRelease_LeavesWhatWasBeforeToo) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.y, 1, Order::release);
  const auto left = litmus.outcomes([&](Outcome& outcome) {
    litmus.machine.writer_dies(kAnyCompiler);
    outcome.push_back(litmus.machine.load(litmus.y, Order::relaxed));
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
  });
  EXPECT_EQ(left, kMessagePassed);
}

TEST(Litmus, DeadWriter_SeenAlive_HasStoredWhatWasSeen) {
  Litmus litmus;
  litmus.machine.store(litmus.x, 1, Order::relaxed);
  litmus.machine.store(litmus.x, 2, Order::relaxed);
  const auto seen = litmus.outcomes([&](Outcome& outcome) {
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
    litmus.machine.writer_dies(kAnyCompiler);
    outcome.push_back(litmus.machine.load(litmus.x, Order::relaxed));
  });
  EXPECT_EQ(seen, (std::set<Outcome>{{0, 0}, {0, 1}, {0, 2}, {1, 1}, {1, 2}, {2, 2}}));
}

TEST(LitmusDeathTest, Reader_Stores_IsStopped) {
  Litmus litmus;
  litmus.machine.start_reading();
  EXPECT_DEATH(litmus.machine.store(litmus.x, 1, Order::relaxed), "bytes flow one way");
}

}  // namespace
}  // namespace rankbus::model
