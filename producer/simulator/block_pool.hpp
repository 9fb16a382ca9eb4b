// The paged KV cache: blocks with reference counts, and the contents that survive in free ones.
//
// A block is in use while somebody references it. A free block keeps its content until it is
// allocated again, so the list of free blocks is at the same time the LRU list of the prefix cache:
// blocks leave at the head and come back at the tail.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/block_observer.hpp>
#include <vector>

namespace rankbus::simulator {

class BlockPool {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  // `blocks` 0 makes a pool that grows on demand and never evicts a content. Contents are numbered
  // 0 to contents-1.
  BlockPool(std::uint32_t blocks, std::uint32_t contents);

  // Tells `observer`, which must outlive the pool, what happens to blocks from now on.
  void watch(BlockObserver& observer) { observers_.push_back(&observer); }

  // How many more blocks can be allocated now.
  std::uint32_t free_blocks() const { return unlimited_ ? kNone : free_count_; }
  bool in_use(std::uint32_t block) const { return blocks_[block].references > 0; }
  std::uint32_t blocks_in_use() const { return in_use_; }
  // Fraction of the pool in use. An unlimited pool is always empty by this measure.
  double usage() const;

  // A block that holds this content, or kNone.
  std::uint32_t find(std::uint32_t content) const { return holder_[content]; }

  // Needs free_blocks() > 0. The block comes with one reference; its old content is evicted.
  std::uint32_t allocate();
  void add_reference(std::uint32_t block);
  void release(std::uint32_t block);
  // Says what a block in use without content holds from now on. Several blocks may hold the same.
  void set_content(std::uint32_t block, std::uint32_t content);

 private:
  struct Block {
    std::uint32_t references = 0;
    std::uint32_t content = kNone;
    std::uint32_t next_holder = kNone;  // further blocks with the same content
    std::uint32_t newer = kNone;        // neighbours in the free list
    std::uint32_t older = kNone;
  };

  void append_free(std::uint32_t block);
  void unlink_free(std::uint32_t block);
  void evict(std::uint32_t block);

  std::vector<Block> blocks_;
  std::vector<std::uint32_t> holder_;  // first block of each content
  std::uint32_t oldest_free_ = kNone;
  std::uint32_t newest_free_ = kNone;
  std::uint32_t free_count_ = 0;
  std::uint32_t in_use_ = 0;
  bool unlimited_;
  std::vector<BlockObserver*> observers_;
};

}  // namespace rankbus::simulator
