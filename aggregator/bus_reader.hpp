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
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus {

struct BusOptions {
  std::string directory;  // Empty: RANKBUS_BUS, then the default.
  bool observe = false;   // Read without owning: nothing is ever removed.
};

// Bookkeeping of one stream name of one identity, over all its incarnations.
struct StreamCounts {
  std::uint64_t records = 0;
  std::uint64_t lost_lapped = 0;
  std::uint64_t abandoned = 0;
  std::uint64_t verified = 0;
  std::uint64_t skipped = 0;
  std::uint64_t mismatches = 0;
  std::uint64_t invalid = 0;
  std::uint64_t negative = 0;
  std::uint64_t label_overflow = 0;

  void add(const StreamCounts& other);
};
StreamCounts counts_of(const StreamState& stream);

// What is left of an identity's dead incarnations.
struct Retired {
  FieldValues values;
  std::map<std::string, StreamCounts> streams;
  std::uint64_t incarnations = 0;
};

struct LiveSegment {
  std::unique_ptr<SegmentReader> reader;
  Identity who;
  double attached_s = 0;        // CLOCK_MONOTONIC.
  bool began_here = false;      // It was opened after this reader.
  double active_s = 0;          // When the newest record was noticed.
  double liveness_asked_s = 0;  // When the lock was looked at last.
  std::string quarantine;  // Reason, once it contradicted itself: read no more, kept for people.
  bool writer_is_gone = false;  // Of a quarantined one; any other is retired then.
};

// What is known of an identity whether it lives or not.
struct IdentityState {
  Retired retired;
  double last_alive_s = 0;     // CLOCK_MONOTONIC.
  std::uint64_t began_ns = 0;  // When its first known incarnation was opened, CLOCK_MONOTONIC ...
  std::uint64_t began_ticks = 0;  // ... by that incarnation's own clock ...
  double began_realtime_s = 0;    // ... and in seconds since the epoch.
  std::uint64_t last_stamp = 0;   // Newest stamp of its dead incarnations, in ticks ...
  bus::ClockSource last_source = bus::ClockSource::monotonic;  // ... of this clock.
  double last_active_s = 0;          // When a record of them was last noticed, CLOCK_MONOTONIC.
  std::uint32_t ranks_expected = 0;  // Ranks of its engine on this node, as told by the latest.
};
// The newest stamp of all streams of a segment, in ticks; 0 before the first record.
std::uint64_t newest_stamp(const SegmentReader& reader);

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
  std::uint64_t removed_unread() const { return removed_unread_; }
  std::uint64_t retired_segments() const { return retired_segments_; }
  // When this reader was opened, CLOCK_MONOTONIC: whoever began later was seen from the beginning.
  std::uint64_t opened_ns() const { return opened_ns_; }
  // Every segment that was there at the first scan has been read to its end of then.
  bool complete() const { return complete_; }

 private:
  BusReader() = default;
  void scan(double now_s);
  void attach(std::vector<std::unique_ptr<SegmentReader>> found, double now_s);
  void tell_servers_apart(const std::vector<std::unique_ptr<SegmentReader>>& found);
  void check_twin(const SegmentReader& reader, const SegmentReader& earlier,
                  bool earlier_has_label);
  Identity identify(const bus::SegmentHeader& header);
  bool read_live(LiveSegment& segment, double now_s, bool ask_liveness, const OnSample& on_sample);
  void note_end(const LiveSegment& segment);
  void retire(const LiveSegment& segment, double now_s);
  void remove(const std::string& name);
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
  std::set<std::string> separate_runs_;          // Run ids that get a server label.
  std::uint64_t changes_ = 0;
  std::uint64_t removed_unread_ = 0;
  std::uint64_t retired_segments_ = 0;
};

}  // namespace rankbus
