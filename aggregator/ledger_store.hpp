// aggregator/ledger_store.hpp: the ledger's files, and the thread that writes them.
//
// The reading thread hands an image over and goes on; a thread of the store encodes it, writes a
// new file, syncs, renames it over the older of the two kept ones and syncs the directory. A disk
// that is full, slow or read-only costs the ledger its progress and nobody else anything.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <rankbus/aggregator/ledger_image.hpp>
#include <rankbus/aggregator/ledger_state.hpp>
#include <string>
#include <thread>
#include <vector>

namespace rankbus {

// Dot files, which producers and readers of a bus ignore.
inline constexpr const char* kLedgerFiles[2] = {".ledger.0", ".ledger.1"};
inline constexpr const char* kLedgerNewFile = ".ledger.new";
inline constexpr const char* kLedgerLockFile = ".ledger.lock";

struct LedgerStatus {
  ledger::Kept kept = {};        // Generations that a restart would find.
  std::uint64_t generation = 0;  // The newest of them.
  double written_s = 0;          // When it was made, CLOCK_MONOTONIC; 0: not by this process.
  std::uint64_t bytes = 0;       // Of the newest.
  std::uint64_t failures = 0;    // Images that could not be written.
  std::string trouble;           // Why the latest attempt failed; empty: it did not.
};

class LedgerStore {
 public:
  // Opens the directory, after making its last component if it is not there, takes its lock and
  // reads what is kept. Fails if the directory cannot be used at all or another process has the
  // lock; where only writing fails, images fail later.
  static Result<std::unique_ptr<LedgerStore>> open(const std::string& directory);
  ~LedgerStore();
  LedgerStore(const LedgerStore&) = delete;
  LedgerStore& operator=(const LedgerStore&) = delete;

  // The newest good image that was there at the start; null if there was none.
  const LedgerImage* started_from() const { return started_from_.get(); }
  // What could not be read at the start, and what that means.
  const std::vector<std::string>& complaints() const { return complaints_; }
  // The generation of the next image.
  std::uint64_t next_generation() const { return next_generation_; }

  // Nothing is being written. While it is, there is no use in making another image.
  bool is_idle() const;
  // Hands over an image of `next_generation`; only while idle.
  void write(std::shared_ptr<const LedgerImage> image);
  // Waits until it is written, or could not be.
  void wait() const;
  // The same, but not longer than that; false if it is still being written.
  bool wait_for(double limit_s) const;
  LedgerStatus status() const;

 private:
  LedgerStore() = default;
  std::unique_ptr<LedgerImage> load_untrusted(int file);
  void work();
  bool return_to_path();
  std::string write_file(const std::string& bytes, const char* name) const;

  std::string path_;
  int directory_ = -1;
  int lock_fd_ = -1;
  std::unique_ptr<LedgerImage> started_from_;
  std::vector<std::string> complaints_;
  std::uint64_t next_generation_ = 1;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::shared_ptr<const LedgerImage> waiting_;  // Handed over, and not yet written.
  LedgerStatus status_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace rankbus
