// What a pool's blocks went through since somebody asked last, in batches that can be told in three
// records each: what was evicted, then allocated, then accessed.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/block_observer.hpp>
#include <rankbus/producer/simulator/event_log.hpp>
#include <span>
#include <vector>

namespace rankbus::simulator {

// Within one batch, each block's own events are in this order.
struct BlockBatch {
  std::vector<std::uint32_t> evicted;
  std::vector<std::uint32_t> allocated;
  std::vector<std::uint32_t> accessed;
};

// Counts of blocks.
struct BlockChanges {
  std::uint64_t stored = 0;       // Their content can be found from now on ...
  std::uint64_t lost = 0;         // ... and no longer,
  std::uint64_t lost_unused = 0;  // of which nobody had found so many.
  std::uint64_t put_in_use = 0;   // By allocation, or because their content was found.
};

class BlockJournal final : public BlockObserver {
 public:
  // `log` may be null; it must outlive the journal, and gets every event as it comes.
  explicit BlockJournal(EventLog* log) : log_(log) {}

  // The time of all that follows.
  void set_now(std::uint64_t now_ns) { now_ns_ = now_ns; }

  void allocated(std::uint32_t block) override;
  void accessed(std::uint32_t block) override;
  void evicted(std::uint32_t block) override;
  void stored(std::uint32_t block) override;
  void lost(std::uint32_t block) override;
  void revived(std::uint32_t block) override;

  // Since the last clear(). Nearly always one batch: only a block that is evicted again, or
  // evicted after an access, makes another.
  std::span<const BlockBatch> batches() const { return {batches_.data(), used_batches_}; }
  const BlockChanges& changes() const { return changes_; }
  void clear();

 private:
  enum Phase : std::uint8_t { kEvicted, kAllocated, kAccessed };
  struct Block {
    std::uint64_t batch = 0;  // Of its last event; 0: it had none.
    Phase phase = kEvicted;   // What that event was.
    bool lives = false;       // It was allocated before.
    bool found = false;       // Since its content was stored.
  };

  // The batch that such an event of the block belongs to.
  BlockBatch& batch_for(std::uint32_t block, Phase phase);
  Block& state_of(std::uint32_t block);
  void begin_batch();
  void write(const char* operation, std::uint32_t block);

  EventLog* log_;
  std::uint64_t now_ns_ = 0;
  std::vector<Block> blocks_;
  std::vector<BlockBatch> batches_;  // Kept when cleared, for their memory.
  std::size_t used_batches_ = 0;
  std::uint64_t batch_number_ = 0;
  BlockChanges changes_;
};

}  // namespace rankbus::simulator
