// Whoever follows the blocks of a pool: is told of everything that happens to them, in its order.
#pragma once

#include <cstdint>

namespace rankbus::simulator {

class BlockObserver {
 public:
  virtual ~BlockObserver() = default;

  // The block got an owner, and nothing of what it held before is left.
  virtual void allocated(std::uint32_t block) = 0;
  // Somebody else found its content and uses it too.
  virtual void accessed(std::uint32_t block) = 0;
  // The block is about to be allocated, for the first time or again.
  virtual void evicted(std::uint32_t block) = 0;

  // Only some care: a content can be found from now on, and no longer (before `evicted`); a block
  // that nobody used is in use again (before `accessed`).
  virtual void stored(std::uint32_t /*block*/) {}
  virtual void lost(std::uint32_t /*block*/) {}
  virtual void revived(std::uint32_t /*block*/) {}
};

}  // namespace rankbus::simulator
