// aggregator/accumulates.hpp: what everything that accumulates can do, in vLLM's four words.
#pragma once

#include <concepts>

namespace rankbus {

// aggregate: takes in what another one holds, of another rank, engine or interval.
// is_empty:  there is nothing to tell.
// reduce:    the few values that stand for all that was taken in; changes nothing.
// reset:     as new.
template <class T>
concept Accumulates = std::default_initializable<T> && requires(T& into, const T& from) {
  into.aggregate(from);
  { from.is_empty() } -> std::same_as<bool>;
  from.reduce();
  into.reset();
};

}  // namespace rankbus
