// aggregator/bus_reader.hpp: all segments of one bus, from their appearance to their retirement.
//
// One thread calls `pass`; it finds new segments, follows the known ones, and retires the dead: a
// last read after the lock is free, totals folded into those of the identity, then, for the owner,
// the name removed. A segment is counted exactly once whichever side of its death the attach lies
// on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <rankbus/aggregator/bucket_registry.hpp>
#include <rankbus/aggregator/family_registry.hpp>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/identity_state.hpp>
#include <rankbus/aggregator/ledger.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/aggregator/series_budget.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus {

struct BusOptions {
  std::string directory;      // Empty: RANKBUS_BUS, then the default.
  bool observe = false;       // Read without owning: nothing is ever removed.
  LedgerOptions ledger = {};  // Of an owner.
  // How segments are read; `mapped` is for programs that installed the MappingGuard.
  ByteAccess access = ByteAccess::copied;
  // Users whose bus and segments are taken besides this user's own and root's.
  std::vector<uid_t> allowed_uids = {};
};

struct LiveSegment {
  std::unique_ptr<SegmentReader> reader;
  Identity who;
  double attached_s = 0;        // CLOCK_MONOTONIC.
  bool began_here = false;      // It was opened after this reader.
  double active_s = 0;          // When the newest record was noticed.
  double liveness_asked_s = 0;  // When the lock was looked at last.
  std::string quarantine;  // Reason, once it contradicted itself: read no more, kept for people.
  // The same in a word.
  const char* quarantine_kind() const {
    const char* kind = reader->error_kind();
    return quarantine.empty() || kind[0] != '\0' ? kind : "inconsistent";
  }
  SeriesAccount series;
  bool is_dying = false;  // Its writer is gone, and there is more to read than one pass has time.
  bool has_foreign_name = false;  // Its name leads to another file, which is nobody's.
  bool writer_is_gone = false;    // Of a quarantined one; any other is retired then.
  // What a reader before this one exported of it; null once this one has read as far.
  std::shared_ptr<const LedgerIncarnation> floor;
  std::shared_ptr<const LedgerIncarnation> saved;  // For the ledger, as of ...
  std::uint64_t saved_records = 0;                 // ... so many records of all streams.
  std::set<std::string> told_apart;                // Histograms that are kept apart, once told.
};

// Counters, distributions and gauges of a segment; never less than its floor.
FieldValues totals_of(const LiveSegment& segment);
// In the order of its schema.
std::vector<std::pair<std::string, StreamCounts>> counts_of(const LiveSegment& segment);

// The newest stamp of all streams of a segment, in ticks of this process's clock; 0 before the
// first record.
std::uint64_t newest_stamp(const SegmentReader& reader);

// `rankbus release NAME` makes a file of this name and the segment's.
inline constexpr const char* kReleasePrefix = ".release-";

class BusReader {
 public:
  using Warn = std::function<void(const std::string&)>;
  using OnSample = std::function<void(const LiveSegment&, const Sample&)>;

  // Opens the bus directory, takes the owner's lock unless observing.
  static Result<std::unique_ptr<BusReader>> open(const BusOptions& options, Warn warn);
  ~BusReader();
  BusReader(const BusReader&) = delete;
  BusReader& operator=(const BusReader&) = delete;

  // One pass over the bus. `fresh` looks for new and dead segments too, which otherwise happens
  // once a second. Returns true if any record was read.
  bool pass(double now_s, bool fresh, const OnSample& on_sample);

  const std::string& directory() const { return path_; }
  const std::map<std::string, LiveSegment>& live() const { return live_; }
  const std::map<Identity, IdentityState>& identities() const { return identities_; }
  // Goes up whenever a segment is attached or retired.
  std::uint64_t changes() const { return changes_; }
  std::uint64_t rejected() const { return rejected_.size(); }
  // Not attached for want of memory or descriptors; looked at again with every scan.
  std::uint64_t postponed() const { return postponed_.size(); }
  std::uint64_t removed_unread() const { return removed_unread_; }
  std::uint64_t retired_segments() const { return retired_segments_; }
  // Segments that were read before, and are not being read now: quarantined by an earlier owner, or
  // not to be opened at the moment. Their totals stand as they were.
  const std::map<std::string, std::shared_ptr<const LedgerIncarnation>>& unread() const {
    return unread_;
  }
  // Segments that lived when the ledger was written last, and were gone when it was read.
  std::uint64_t vanished() const { return vanished_; }
  // Engines that became part of their model's total, because there were too many.
  std::uint64_t folded_engines() const { return folded_engines_; }
  const Ledger* ledger() const { return ledger_.get(); }
  const BucketRegistry& buckets() const { return buckets_; }

  // After a pass, and after whoever was fed by it has applied what it got: has the ledger written
  // if it is time. `sections` are counters that only samples tell, asked for here so that they and
  // the positions in the ledger are of one moment. Before an answer it is written whenever anything
  // changed, and waited for: no counter that somebody saw is lower after a restart.
  using Sections = std::function<Ledger::Sections()>;
  void keep_ledger(double now_s, const Sections& sections = {}, bool is_for_answer = false);
  // As they were given to the last owner's ledger; empty without one.
  Ledger::Sections sections_at_start() const;
  // Writes the ledger a last time, and removes what it lets go. Waits for the disk, but not for
  // one that hangs.
  void finish(double now_s, const Sections& sections = {});

  // When this reader was opened, CLOCK_MONOTONIC: whoever began later was seen from the beginning.
  std::uint64_t opened_ns() const { return opened_ns_; }
  // Every segment that was there at the first scan has been read to its end of then.
  bool complete() const { return complete_; }

 private:
  BusReader() = default;
  bool scan(double now_s);
  void start_from_ledger();
  void resume(LiveSegment& segment);
  void check_floor(LiveSegment& segment);
  void settle_unread(const std::set<std::string>& names, double now_s);
  void set_aside(const std::string& name, const LedgerIncarnation& left);
  void begin_sums_anew(const Identity& engine);
  void answer_wishes_untrusted(const std::set<std::string>& wishes);
  std::string release(const std::string& name);
  void warn_of_file(const std::string& text);
  void tell_untold_files();
  void end_of_files();
  static std::vector<std::string> running_of(const LiveSegment& segment);
  std::string saved_running() const;
  void restore_running_untrusted(const std::string& bytes);
  void bury_quarantined(const std::set<std::string>& names, double now_s);
  static LedgerIncarnation incarnation_of(const LiveSegment& segment);
  std::shared_ptr<LedgerImage> make_image(const Sections& sections);
  std::string saved_books() const;
  void restore_books_untrusted(const std::string& bytes);
  KnownSeries known_series(const LiveSegment& segment) const;
  void count_retired_series();
  void tidy_identities(double now_s);
  struct Engine;
  using Engines = std::map<Identity, Engine>;  // By `whole_engine`.
  using Identities = std::map<Identity, IdentityState>;
  Engines engines_in_view() const;
  void fold_old_ranks(Engines& engines, double now_s);
  void shelve(Engines& engines, double now_s);
  void fold_dead_engines(const Engines& engines);
  void fold_past_engines();
  void fold_engine(Identities& from, const Identity& engine);
  void bound_models();
  void forget_old(double now_s);
  void tell_what_was_folded(double now_s);
  void settle_buckets();
  void settle_buckets_of(const Identity& who);
  void restart_family(const Identity& who, const std::string& family, const Buckets& buckets);
  void tell_what_is_apart(LiveSegment& segment);
  void recall_engine(const Identity& who);
  void attach(std::vector<std::unique_ptr<SegmentReader>> found, double now_s);
  void tell_servers_apart(const std::vector<std::unique_ptr<SegmentReader>>& found);
  void check_twin(const SegmentReader& reader, const SegmentReader& earlier,
                  bool earlier_has_label);
  Identity identify(const bus::SegmentHeader& header);
  bool read_all(double now_s, bool look, bool only_behind, const OnSample& on_sample);
  bool is_behind() const;
  bool read_live(LiveSegment& segment, double now_s, bool ask_liveness, const OnSample& on_sample);
  void note_end(const LiveSegment& segment);
  void retire(const LiveSegment& segment, double now_s);
  void add_to_retired(const Identity& who, const std::string& segment, const FieldValues& values,
                      const std::vector<std::pair<std::string, StreamCounts>>& streams);
  static bool take_owner_lock(int directory, int& fd, const std::string& path, std::string& why);
  void hold_place();
  void return_to_path();
  // An owner does, as long as it is one.
  bool removes_names() const { return !observe_ && owner_fd_ >= 0; }
  void remove(const std::string& name);
  bool leads_to_what_was_retired(const std::string& name) const;
  void note_foreign_name(const std::string& name, const std::string& what_was_there);
  void not_attached(const std::string& name, const std::string& why, bool is_transient);
  void look_at_file(LiveSegment& segment);
  bool names_changed();

  std::string path_;
  int directory_ = -1;
  int owner_fd_ = -1;
  bool observe_ = false;
  bool complete_ = false;
  double scanned_s_ = -1e9;
  std::uint64_t scanned_change_ns_ = 0;  // Modification time of the directory at the latest scan.
  std::uint64_t opened_ns_ = 0;
  Warn warn_;
  std::map<std::string, LiveSegment> live_;
  std::map<Identity, IdentityState> identities_;
  std::set<std::string> finished_;               // Retired, but the name could not or must not go.
  std::map<std::string, std::string> rejected_;  // Name and why; said once.
  std::set<std::string> postponed_;              // May do better at the next scan; said once.
  std::set<std::string> foreign_names_;          // Of other files than were read under them.
  std::map<std::string, FileId> retired_files_;  // By this reader, until their names are gone.
  std::vector<uid_t> allowed_uids_;
  std::string place_trouble_;  // Why the directory at the path cannot be used; said once.
  ByteAccess access_ = ByteAccess::copied;
  FamilyRegistry families_;
  BucketRegistry buckets_;
  SeriesBudget series_;
  std::set<std::string> separate_runs_;  // Run ids that get a server label.
  std::map<std::string, std::shared_ptr<const LedgerIncarnation>> unread_;
  std::set<std::string> catching_up_;  // Found by the first scan, and not yet read to their end.
  std::unique_ptr<Ledger> ledger_;
  std::map<Identity, IdentityState> past_;  // Of engines that are not shown any more.
  LedgerOptions bounds_;                    // What is remembered, also where no ledger is kept.
  std::uint64_t past_series_ = 0;           // Of `past_`.
  std::uint64_t folded_engines_ = 0;
  std::uint64_t folds_told_ = 0;                                    // So many of them, ...
  double folds_told_s_ = -1e9;                                      // ... at that moment.
  std::map<Identity, std::shared_ptr<const IdentityState>> saved_;  // As in the ledger ...
  std::set<Identity> touched_;                                      // ... but for these.
  bool unsaved_ = false;
  bool was_scanned_ = false;
  bool scan_is_cut_ = false;         // There are names that it did not come to.
  std::uint64_t files_told_ = 0;     // Of files that are not read, so many by name, ...
  std::uint64_t files_untold_ = 0;   // ... and so many by their number, since ...
  double files_told_from_s_ = -1e9;  // ... this moment.
  bool sum_is_told_ = false;
  // Of segments that are not read at the moment: how far the sums of each stream had come.
  std::map<std::string, std::vector<std::string>> running_;
  std::uint64_t changes_seen_ = 0;
  std::map<std::string, double> aside_;  // Of `unread_`, what is not there; since when.
  std::uint64_t vanished_ = 0;
  std::uint64_t changes_ = 0;
  std::uint64_t removed_unread_ = 0;
  std::uint64_t retired_segments_ = 0;
};

}  // namespace rankbus
