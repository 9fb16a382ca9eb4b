#include <rankbus/producer/simulator/block_journal.hpp>

namespace rankbus::simulator {

void BlockJournal::allocated(std::uint32_t block) {
  batch_for(block, kAllocated).allocated.push_back(block);
  state_of(block).lives = true;
  ++changes_.put_in_use;
  write("allocate", block);
}

void BlockJournal::accessed(std::uint32_t block) {
  batch_for(block, kAccessed).accessed.push_back(block);
  state_of(block).found = true;
  write("access", block);
}

// A life ends when the next one begins, as in vLLM: what was freed can be found until then.
void BlockJournal::evicted(std::uint32_t block) {
  if (!state_of(block).lives) return;
  batch_for(block, kEvicted).evicted.push_back(block);
  state_of(block).lives = false;
  write("evict", block);
}

void BlockJournal::stored(std::uint32_t block) {
  state_of(block).found = false;
  ++changes_.stored;
}

void BlockJournal::lost(std::uint32_t block) {
  ++changes_.lost;
  if (!state_of(block).found) ++changes_.lost_unused;
}

void BlockJournal::revived(std::uint32_t) {
  ++changes_.put_in_use;
}

void BlockJournal::clear() {
  used_batches_ = 0;
  changes_ = {};
}

BlockBatch& BlockJournal::batch_for(std::uint32_t block, Phase phase) {
  Block& state = state_of(block);
  const bool is_first = used_batches_ == 0 || state.batch != batch_number_;
  const bool follows = is_first || state.phase < phase || (phase == kAccessed);
  if (used_batches_ == 0 || !follows) begin_batch();
  state.batch = batch_number_;
  state.phase = phase;
  return batches_[used_batches_ - 1];
}

BlockJournal::Block& BlockJournal::state_of(std::uint32_t block) {
  if (block >= blocks_.size()) blocks_.resize(block + 1u);
  return blocks_[block];
}

void BlockJournal::begin_batch() {
  ++batch_number_;
  if (used_batches_ == batches_.size()) batches_.emplace_back();
  BlockBatch& batch = batches_[used_batches_++];
  batch.evicted.clear();
  batch.allocated.clear();
  batch.accessed.clear();
}

void BlockJournal::write(const char* operation, std::uint32_t block) {
  if (log_ != nullptr) log_->add("block", now_ns_, {operation}, {block});
}

}  // namespace rankbus::simulator
