// aggregator/ledger.hpp: what makes counts outlive everybody who counted.
//
// The bus reader tells it who was retired and hands it one image a second; it says which names may
// go. The reading thread waits for the disk at its end, and, for a bounded time, before it answers
// somebody: what was shown must be what a successor would find.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <rankbus/aggregator/ledger_image.hpp>
#include <rankbus/aggregator/ledger_store.hpp>
#include <rankbus/bus/limits.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus {

struct LedgerOptions {
  bool keep = false;      // Off: retired totals live in memory only, and names go at once.
  std::string directory;  // Empty: the bus directory.
  double save_every_s = 1;
  double wait_at_end_s = 30;  // For a disk that hangs.
  // How long an engine without any sign of life is remembered, and how many of its dead identities
  // one by one. Beyond that they are one, so that the engine's sums stay; those whose series are
  // still shown only beyond the larger bound, because a series that is shown must not go back.
  double forget_after_s = 30.0 * 86400;
  std::size_t most_dead_per_engine = 256;
  std::size_t most_shown_dead_per_engine = 4096;
  double retain_rank_s = 300;
  // An engine that is not shown any more costs a scrape nothing. As --retain.
  double retain_s = 3600;
  // Where each restart is another engine (a server named by its pod): so many dead ones are shown,
  // and of those that are not so much is remembered one by one. Beyond that the oldest are one for
  // each model, and of so many models.
  std::size_t most_dead_engines = 256;
  std::size_t most_past_identities = 16'384;
  std::uint64_t most_past_series = bus::kMaxSeriesPerNode / 2;
  std::size_t most_models = 256;
};

class Ledger {
 public:
  using Warn = std::function<void(const std::string&)>;
  using Sections = std::map<std::string, std::string>;

  static Result<std::unique_ptr<Ledger>> open(const LedgerOptions& options,
                                              const std::string& bus_directory, Warn warn);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // What the last owner left; null at the first start, or when nothing could be read.
  const LedgerImage* started_from() const { return store_->started_from(); }
  const LedgerOptions& options() const { return options_; }

  // The segment's totals are those of its identity from now on.
  void retire(const std::string& segment);
  bool is_retired(const std::string& segment) const { return retired_.count(segment) != 0; }
  // Segments that are retired in both kept images; each is asked for once.
  std::vector<std::string> removable();
  // These names are on the bus. Others are remembered for a while, should they come back.
  void see_names(const std::set<std::string>& names, double now_s);

  // Whether an image should be made in this pass. Not while one is being written.
  bool wants_image(double now_s, bool anything_changed);
  // The same, for a pass that answers somebody: waits for the one that is being written. A disk
  // that fails, or is too slow, costs no further answer anything.
  bool wants_image_for_answer(double now_s, bool anything_changed);
  // Waits until that image is written, or has taken too long.
  void settle();
  // Fills in what the ledger itself knows, and has the image written.
  void save(std::shared_ptr<LedgerImage> image, double now_s);
  // Waits for what is being written, at the end. False if the disk took too long, which is said;
  // nothing can be written any more then, and whoever ends does not wait again.
  bool wait_at_end();
  // Retired segments whose names cannot go yet.
  bool has_pending() const;

  LedgerStatus status() const { return store_->status(); }

 private:
  Ledger() = default;
  void report_trouble();

  LedgerOptions options_;
  Warn warn_;
  std::unique_ptr<LedgerStore> store_;
  struct RetiredName {
    // The generation that contains the retirement first; 0: the name cannot be removed, or was.
    std::uint64_t since = 0;
    double gone_s = 0;  // When it was first missed; 0: it is there.
  };
  std::map<std::string, RetiredName> retired_;
  double saved_s_ = -1e9;
  bool in_trouble_ = false;
  bool gave_up_ = false;
  std::uint64_t too_slow_ = 0;  // The generation that an answer waited for in vain.
};

}  // namespace rankbus
