// tests/model/machine_atomics.hpp: includes bus/slot.hpp with the atomic builtins exchanged for the
// machine's operations, so that ProcessMemory itself, with the very orders that workers are
// compiled with, runs on the machine. Nothing about the shared memory is repeated here.
//
// For programs that use the bus in no other way: the exchange holds for the whole program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "view_memory.hpp"

namespace rankbus::model {

// An order that the model has no rules for must not pass silently.
inline Order order_of_builtin(int builtin) {
  switch (builtin) {
    case __ATOMIC_RELAXED:
      return Order::relaxed;
    case __ATOMIC_ACQUIRE:
      return Order::acquire;
    case __ATOMIC_RELEASE:
      return Order::release;
    default:
      std::fprintf(stderr, "model machine: memory order %d has no rule here\n", builtin);
      std::abort();
  }
}
inline void machine_store(Word* word, Word value, int order) {
  Machine::current().store(word, value, order_of_builtin(order));
}
inline Word machine_load(const Word* word, int order) {
  return Machine::current().load(word, order_of_builtin(order));
}
inline void machine_fence(int order) {
  Machine::current().fence(order_of_builtin(order));
}

}  // namespace rankbus::model

// Reserved names, on purpose: the operations of the compiler itself must not run here.
// NOLINTBEGIN(bugprone-reserved-identifier)
#define __atomic_store_n(word, value, order) ::rankbus::model::machine_store(word, value, order)
#define __atomic_load_n(word, order) ::rankbus::model::machine_load(word, order)
#define __atomic_thread_fence(order) ::rankbus::model::machine_fence(order)
#include <rankbus/bus/slot.hpp>
#undef __atomic_store_n
#undef __atomic_load_n
#undef __atomic_thread_fence
// NOLINTEND(bugprone-reserved-identifier)
