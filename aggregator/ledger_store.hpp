// aggregator/ledger_store.hpp: the ledger's files, and the thread that writes them.
//
// The reading thread hands an image over and goes on; a thread of the store encodes it, writes a
// new file, syncs, renames it over the older of the two kept ones and syncs the directory. A disk
// that is full, slow or read-only costs the ledger its progress and nobody else anything. On a full
// one there is room for an image all the same: it is kept by a file of that size, because the dead
// wait on the bus until they are in an image, and may be what the file system is full of.
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
inline constexpr const char* kLedgerReserveFile = ".ledger.reserve";
inline constexpr const char* kLedgerRefused = ".refused";  // Behind the name of what is not used.

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
  // reads what is kept. What is there and is no ledger that this build reads is set aside once,
  // because the next image would replace it. Fails if the directory cannot be used at all or
  // another process has, or may have, the lock; where only writing fails, images fail later.
  static Result<std::unique_ptr<LedgerStore>> open(const std::string& directory);
  ~LedgerStore();
  LedgerStore(const LedgerStore&) = delete;
  LedgerStore& operator=(const LedgerStore&) = delete;

  // The newest good image that was there at the start; null if there was none.
  const LedgerImage* started_from() const { return started_from_.get(); }
  const std::string& path() const { return path_; }
  // What could not be read at the start, and where it is kept.
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
  // Empty, or why not. `is_final` if it cannot become better while the directory is as it is.
  std::string take_lock(bool& is_final);
  std::unique_ptr<LedgerImage> load_untrusted(int file);
  std::string set_aside(const char* name) const;
  void work();
  bool return_to_path();
  std::string save(const LedgerImage& image, const char* name, std::uint64_t& bytes);
  int make_file_untrusted(const char* name, std::string& trouble) const;
  std::string write_file(const std::string& bytes, const char* name, bool& has_no_room) const;
  void keep_reserve(std::uint64_t bytes);

  std::string path_;
  int directory_ = -1;
  int lock_fd_ = -1;
  std::unique_ptr<LedgerImage> started_from_;
  std::vector<std::string> complaints_;
  std::string unreadable_;        // Why a file cannot be read at the moment ...
  std::uint64_t read_bytes_ = 0;  // ... and how large the largest is.
  std::uint64_t next_generation_ = 1;
  LedgerEncoder encoder_;            // Of the writing thread ...
  std::uint64_t reserve_bytes_ = 0;  // ... as is this.

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::shared_ptr<const LedgerImage> waiting_;  // Handed over, and not yet written.
  LedgerStatus status_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace rankbus
