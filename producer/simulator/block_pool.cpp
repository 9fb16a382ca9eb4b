#include <cassert>
#include <rankbus/producer/simulator/block_pool.hpp>

namespace rankbus::simulator {

BlockPool::BlockPool(std::uint32_t blocks, std::uint32_t contents)
    : blocks_(blocks), holder_(contents, kNone), unlimited_(blocks == 0) {
  for (std::uint32_t block = 0; block < blocks; ++block) append_free(block);
}

double BlockPool::usage() const {
  return unlimited_ ? 0.0 : static_cast<double>(in_use_) / static_cast<double>(blocks_.size());
}

std::uint32_t BlockPool::allocate() {
  if (oldest_free_ == kNone) {
    assert(unlimited_);
    blocks_.emplace_back();
    append_free(static_cast<std::uint32_t>(blocks_.size() - 1));
  }
  const std::uint32_t block = oldest_free_;
  unlink_free(block);
  evict(block);
  for (BlockObserver* observer : observers_) observer->allocated(block);
  blocks_[block].references = 1;
  ++in_use_;
  return block;
}

void BlockPool::add_reference(std::uint32_t block) {
  Block& b = blocks_[block];
  for (BlockObserver* observer : observers_) {
    if (b.references == 0) observer->revived(block);
    observer->accessed(block);
  }
  if (b.references++ > 0) return;
  ++in_use_;
  // In an unlimited pool, free blocks with a content are kept out of the free list.
  if (!unlimited_) unlink_free(block);
}

void BlockPool::release(std::uint32_t block) {
  Block& b = blocks_[block];
  assert(b.references > 0);
  if (--b.references > 0) return;
  --in_use_;
  if (!unlimited_ || b.content == kNone) append_free(block);
}

void BlockPool::set_content(std::uint32_t block, std::uint32_t content) {
  Block& b = blocks_[block];
  assert(b.references > 0 && b.content == kNone);
  const std::uint32_t first = holder_[content];
  // A second copy is of no use where the first can never be evicted.
  if (unlimited_ && first != kNone) return;
  b.content = content;
  if (first == kNone) {
    holder_[content] = block;
  } else {
    b.next_holder = blocks_[first].next_holder;
    blocks_[first].next_holder = block;
  }
  for (BlockObserver* observer : observers_) observer->stored(block);
}

void BlockPool::append_free(std::uint32_t block) {
  Block& b = blocks_[block];
  b.older = newest_free_;
  b.newer = kNone;
  (newest_free_ == kNone ? oldest_free_ : blocks_[newest_free_].newer) = block;
  newest_free_ = block;
  ++free_count_;
}

void BlockPool::unlink_free(std::uint32_t block) {
  const Block& b = blocks_[block];
  (b.older == kNone ? oldest_free_ : blocks_[b.older].newer) = b.newer;
  (b.newer == kNone ? newest_free_ : blocks_[b.newer].older) = b.older;
  --free_count_;
}

void BlockPool::evict(std::uint32_t block) {
  Block& b = blocks_[block];
  for (BlockObserver* observer : observers_) {
    if (b.content != kNone) observer->lost(block);
    observer->evicted(block);
  }
  if (b.content == kNone) return;
  std::uint32_t* link = &holder_[b.content];
  while (*link != block) link = &blocks_[*link].next_holder;
  *link = b.next_holder;
  b.content = kNone;
  b.next_holder = kNone;
}

}  // namespace rankbus::simulator
