#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/bus/segment.hpp>

namespace rankbus {
namespace {

// How often names and locks are looked at without being asked; activity is looked at in every pass.
constexpr double kScanEvery_s = 1.0;

// Whom one look takes on at most, and how many files it opens: a flood of them must not keep those
// from being read who are there. The next look goes on where nobody waits for a fresh view.
constexpr std::size_t kMostAttachedAtOnce = 256;
constexpr std::size_t kMostOpenedAtOnce = 4096;

// How long the first pass may take at most before what is known is shown.
constexpr double kCatchUp_s = 10.0;

// No segment keeps the others waiting longer than this, however fast its writer is ...
constexpr std::uint64_t kTurn_ns = 2'000'000;
// ... and no flood keeps somebody who asked for a fresh view waiting longer than this.
constexpr std::uint64_t kFreshPass_ns = 2'000'000'000;

// The only reason to reject a segment that passes.
constexpr const char* kOverLimit = "over the limit of segments";

std::string hex(const std::uint8_t (&bytes)[16]) {
  char text[33];
  bus::write_hex(bytes, sizeof bytes, text);
  return text;
}

// The names of all segments, and of wishes for them; false if the directory could not be read to
// its end. A name that was only not seen must not be taken for one that is gone.
bool list_segments(int directory, std::set<std::string>& names, std::set<std::string>& wishes) {
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return false;
  DIR* stream = fdopendir(copy);
  if (stream == nullptr) {
    ::close(copy);
    return false;
  }
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    const char* name = entry->d_name;
    if (bus::is_segment_name(name)) names.insert(name);
    const std::size_t prefix = std::strlen(kReleasePrefix);
    const bool is_wish = std::strncmp(name, kReleasePrefix, prefix) == 0;
    if (is_wish && bus::is_segment_name(name + prefix)) wishes.insert(name);
  }
  const bool whole = errno == 0;
  closedir(stream);
  return whole;
}

// Producers have no say in whose bus they take; an aggregator has.
std::string advice_for_owner(const char* path, const bus::AllowedOwners& allowed) {
  struct stat status {};
  const bool is_known = lstat(path, &status) == 0 && S_ISDIR(status.st_mode);
  if (!is_known || status.st_uid == 0 || status.st_uid == geteuid() ||
      allowed.include(status.st_uid))
    return {};
  return ". If that user is trusted as this one is: --allow-uid " + std::to_string(status.st_uid);
}

std::string mebibytes(std::uint64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

// Why producers on this bus may get short rings or none, or nothing. A container's /dev/shm of 64
// MiB is the usual case.
std::string little_room(int directory, const std::string& path) {
  // A node's eight workers with their scheduler and front end, all of the default size.
  constexpr std::uint64_t kComfortable = std::uint64_t{16} << 20;
  constexpr std::uint64_t kOneWorker = std::uint64_t{2} << 20;
  const std::uint64_t budget = bus::budget_bytes(directory);
  const std::uint64_t free = bus::free_bytes(directory);
  if (free < kOneWorker) {
    return path + ": the file system has " + std::to_string(free / 1024) +
           " KiB left; a process that starts now may find no room and record nothing. Free space "
           "or enlarge it";
  }
  if (budget >= kComfortable) return {};
  return path + ": all segments together may take " + mebibytes(budget) + ", less than the " +
         mebibytes(kComfortable) +
         " of a node with eight workers. The more of it is used, the shorter are the rings of new "
         "processes: samples may be lost, totals stay exact. Enlarge the file system (of a "
         "container: --shm-size) or set RANKBUS_BUDGET";
}

}  // namespace

void StreamCounts::add(const StreamCounts& other) {
  records += other.records;
  lost_lapped += other.lost_lapped;
  lost_quarantined += other.lost_quarantined;
  abandoned += other.abandoned;
  verified += other.verified;
  skipped += other.skipped;
  mismatches += other.mismatches;
  invalid += other.invalid;
  negative += other.negative;
  label_overflow += other.label_overflow;
}

StreamCounts counts_of(const StreamState& stream) {
  StreamCounts counts;
  counts.records = stream.position;
  counts.lost_lapped = stream.lost_lapped;
  counts.lost_quarantined = stream.lost_quarantined;
  counts.abandoned = stream.abandoned;
  counts.verified = stream.verified;
  counts.skipped = stream.skipped;
  counts.mismatches = stream.mismatches;
  if (!stream.totals.empty()) {
    counts.invalid = stream.totals[bus::kBodyInvalid];
    counts.negative = stream.totals[bus::kBodyNegative];
    counts.label_overflow = stream.totals[bus::kBodyRowsOverflow];
  }
  return counts;
}

const std::string& stream_label(const Retired& retired, const std::string& stream) {
  constexpr std::size_t kMost = 4 * bus::kMaxStreams;
  static const std::string other = "other";
  return retired.streams.size() < kMost || retired.streams.count(stream) != 0 ? stream : other;
}

std::uint64_t newest_stamp(const SegmentReader& reader) {
  std::uint64_t newest = 0;
  for (const StreamState& stream : reader.streams()) {
    if (!stream.totals.empty()) newest = std::max(newest, stream.totals[bus::kBodyLastStamp]);
  }
  return newest == 0 ? 0 : reader.stamp_here(newest);
}

Result<std::unique_ptr<BusReader>> BusReader::open(const BusOptions& options, Warn warn) {
  std::unique_ptr<BusReader> reader(new BusReader);
  reader->opened_ns_ = bus::monotonic_ns();
  char path[bus::kPathBytes];
  bus::resolve_bus_path(options.directory.c_str(), path);
  reader->path_ = path;
  reader->observe_ = options.observe;
  reader->access_ = options.access;
  reader->allowed_uids_ = options.allowed_uids;
  reader->warn_ = std::move(warn);
  reader->bounds_ = options.ledger;
  bus::Reason why;
  const bus::AllowedOwners allowed{reader->allowed_uids_.data(), reader->allowed_uids_.size()};
  reader->directory_ = bus::open_bus_directory(path, !options.observe, why, allowed);
  if (reader->directory_ < 0) return Error{why.text + advice_for_owner(path, allowed)};
  std::string refused;
  if (!options.observe &&
      !take_owner_lock(reader->directory_, reader->owner_fd_, reader->path_, refused)) {
    return Error{refused};
  }
  if (const std::string little = little_room(reader->directory_, reader->path_); !little.empty()) {
    reader->warn_(little);
  }
  if (options.ledger.keep && !options.observe) {
    auto ledger = Ledger::open(options.ledger, reader->path_, reader->warn_);
    if (!ledger) return Error{ledger.error()};
    reader->ledger_ = std::move(ledger.value());
    reader->start_from_ledger();
    for (const auto& [who, state] : reader->identities_) {
      reader->families_.learn(state.retired.values);
      reader->buckets_.meet(who, state.retired.values);
    }
    for (const auto& [name, left] : reader->unread_) {
      reader->families_.learn(left->totals);
      reader->buckets_.meet(left->who, left->totals);
    }
  }
  return reader;
}

BusReader::~BusReader() {
  // The bus is free for the next owner once everything else is.
  ledger_.reset();
  if (owner_fd_ >= 0) ::close(owner_fd_);
  if (directory_ >= 0) ::close(directory_);
}

bool BusReader::pass(double now_s, bool fresh, const OnSample& on_sample) {
  const bool look = names_changed() || fresh || scan_is_cut_ || now_s - scanned_s_ >= kScanEvery_s;
  if (look) {
    // Who died is asked even if nobody new can be found: the dead give descriptors back.
    (void)scan(now_s);
    scanned_s_ = now_s;
    tidy_identities(now_s);
  }
  // Everybody has a turn; a fresh view takes as many as it needs to be one, up to what is published
  // now and not when somebody's last turn ended.
  if (fresh) {
    for (auto& [name, segment] : live_) segment.reader->aim_anew();
  }
  bool any = read_all(now_s, look, false, on_sample);
  const std::uint64_t end_ns = bus::monotonic_ns() + kFreshPass_ns;
  while (fresh && (scan_is_cut_ || is_behind()) && bus::monotonic_ns() < end_ns) {
    const bool has_newcomers = scan_is_cut_;
    if (has_newcomers) (void)scan(now_s);
    any = read_all(now_s, has_newcomers, !has_newcomers, on_sample) || any;
  }
  if (look) settle_buckets();
  // A writer that outruns its reader must not keep the others from being seen.
  const double waited_s = now_s - static_cast<double>(opened_ns_) * 1e-9;
  complete_ = complete_ || (was_scanned_ && (catching_up_.empty() || waited_s > kCatchUp_s));
  unsaved_ = unsaved_ || any || changes_ != changes_seen_;
  changes_seen_ = changes_;
  return any;
}

// With `only_behind`, who has been read as far as this view goes has no further turn.
bool BusReader::read_all(double now_s, bool look, bool only_behind, const OnSample& on_sample) {
  bool any = false;
  for (auto at = live_.begin(); at != live_.end();) {
    LiveSegment& segment = at->second;
    if (only_behind && !segment.is_dying && !segment.reader->is_behind()) {
      ++at;
      continue;
    }
    const bool alive = read_live(segment, now_s, look, on_sample);
    any = any || segment.active_s == now_s;
    check_floor(segment);
    const bool is_read = segment.reader->is_drained() || !segment.quarantine.empty();
    if (!catching_up_.empty() && is_read) catching_up_.erase(at->first);
    if (!segment.writer_is_gone) identities_[segment.who].last_alive_s = now_s;
    if (alive) {
      ++at;
      continue;
    }
    retire(segment, now_s);
    series_.close(segment.series);
    const std::string name = at->first;
    retired_files_[name] = segment.reader->file_id();
    at = live_.erase(at);
    catching_up_.erase(name);
    if (ledger_) {
      ledger_->retire(name);
    } else {
      remove(name);
    }
  }
  return any;
}

bool BusReader::is_behind() const {
  return std::any_of(live_.begin(), live_.end(), [](const auto& entry) {
    return entry.second.is_dying || entry.second.reader->is_behind();
  });
}

// One fstat tells that somebody came or went, so that a new producer is followed from its first
// records.
bool BusReader::names_changed() {
  struct stat status {};
  if (fstat(directory_, &status) != 0) return true;
  const std::uint64_t changed_ns =
      static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000'000u +
      static_cast<std::uint64_t>(status.st_mtim.tv_nsec);
  const bool changed = changed_ns != scanned_change_ns_;
  scanned_change_ns_ = changed_ns;
  return changed;
}

// Returns false once the segment is dead and read to its end.
bool BusReader::read_live(LiveSegment& segment, double now_s, bool ask_liveness,
                          const OnSample& on_sample) {
  if (!segment.quarantine.empty()) {
    if (ask_liveness && !segment.writer_is_gone && !segment.reader->writer_is_alive()) {
      segment.writer_is_gone = true;
      note_end(segment);
    }
    return true;
  }
  bool dead = segment.is_dying;
  if (ask_liveness) {
    segment.liveness_asked_s = now_s;
    dead = !segment.reader->writer_is_alive();
    look_at_file(segment);
  }
  const SampleSink sink = [&](const Sample& sample) { on_sample(segment, sample); };
  if (segment.reader->poll(dead, sink, bus::monotonic_ns() + kTurn_ns)) {
    segment.active_s = now_s;
    series_.show_rows(*segment.reader, segment.series, known_series(segment));
  }
  // Nothing can be written any more, so this ends: each poll reads on or finds a contradiction.
  segment.is_dying = dead && !segment.reader->is_drained();
  if (segment.reader->error().empty()) return !dead || segment.is_dying;
  segment.quarantine = segment.reader->error();
  ++changes_;
  warn_("segment " + segment.reader->name() + " contradicts itself: " + segment.quarantine +
        ". Its totals up to there are kept, it is read no more and its file stays for inspection; "
        "other "
        "ranks are unaffected. Counted in rankbus_quarantined");
  return true;
}

// False if the names could not be listed; nothing is concluded then.
bool BusReader::scan(double now_s) {
  std::vector<std::unique_ptr<SegmentReader>> found;
  std::set<std::string> names;
  hold_place();
  std::set<std::string> wishes;
  scan_is_cut_ = false;
  if (!list_segments(directory_, names, wishes)) return false;
  answer_wishes_untrusted(wishes);
  bury_quarantined(names, now_s);
  settle_unread(names, now_s);
  if (ledger_) ledger_->see_names(names, now_s);
  std::erase_if(rejected_, [&](const auto& entry) { return names.count(entry.first) == 0; });
  std::erase_if(postponed_, [&](const std::string& name) { return names.count(name) == 0; });
  std::erase_if(foreign_names_, [&](const std::string& name) { return names.count(name) == 0; });
  std::erase_if(retired_files_, [&](const auto& entry) { return names.count(entry.first) == 0; });
  std::erase_if(finished_, [&](const std::string& name) { return names.count(name) == 0; });
  std::erase_if(running_, [&](const auto& entry) { return unread_.count(entry.first) == 0; });
  std::size_t opened_files = 0;
  for (const std::string& name : names) {
    if (live_.count(name) != 0 || finished_.count(name) != 0) continue;
    if (ledger_ && ledger_->is_retired(name)) continue;
    const auto left = unread_.find(name);
    if (left != unread_.end() && !left->second->quarantine.empty()) continue;
    const auto refused = rejected_.find(name);
    if (refused != rejected_.end() && refused->second != kOverLimit) continue;
    if (live_.size() + found.size() >= bus::kMaxSegments) {
      // Once others are retired there is room for it.
      if (refused != rejected_.end()) continue;
      rejected_[name] = kOverLimit;
      warn_of_file("segment " + name + " skipped: the limit of " +
                   std::to_string(bus::kMaxSegments) +
                   " segments is reached. Counted in rankbus_segments_rejected");
      continue;
    }
    scan_is_cut_ = found.size() >= kMostAttachedAtOnce || opened_files >= kMostOpenedAtOnce;
    if (scan_is_cut_) break;
    ++opened_files;
    auto opened = SegmentReader::open_untrusted(directory_, name, access_,
                                                {allowed_uids_.data(), allowed_uids_.size()});
    if (opened) {
      rejected_.erase(name);
      postponed_.erase(name);
      found.push_back(std::move(opened.value()));
      continue;
    }
    not_attached(name, opened.error(), opened.is_transient());
  }
  if (!was_scanned_) {
    for (const auto& reader : found) catching_up_.insert(reader->name());
  }
  attach(std::move(found), now_s);
  was_scanned_ = was_scanned_ || !scan_is_cut_;
  if (!scan_is_cut_) end_of_files();
  return true;
}

// An unnamed server is known by its run. Its series bear no `server` label, unless another unnamed
// run has the same identity at the same time: then the later run gets its id as label, for all of
// its processes that come from then on.
void BusReader::check_twin(const SegmentReader& reader, const SegmentReader& earlier,
                           bool earlier_has_label) {
  bus::SegmentHeader mine = reader.header();
  const bus::SegmentHeader& other = earlier.header();
  const std::string run = hex(mine.run_id);
  if (earlier_has_label || run == hex(other.run_id) || separate_runs_.count(run) != 0) return;
  std::memcpy(mine.run_id, other.run_id, sizeof mine.run_id);
  if (mine.lane != other.lane || !bus::same_identity(mine, other)) return;
  if (!reader.writer_is_alive() || !earlier.writer_is_alive()) return;
  separate_runs_.insert(run);
  warn_("a second unnamed server of model " + bounded_text(mine.model) + ", engine " +
        std::to_string(mine.engine) + " runs on this bus; its series get server=\"" + run +
        "\". Set RANKBUS_SERVER to tell servers apart by a name of yours");
}

void BusReader::tell_servers_apart(const std::vector<std::unique_ptr<SegmentReader>>& found) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i]->header().server_named != 0) continue;
    for (const auto& [name, segment] : live_) {
      check_twin(*found[i], *segment.reader, !segment.who.server_label.empty());
    }
    for (std::size_t k = 0; k < i; ++k) {
      check_twin(*found[i], *found[k], !identify(found[k]->header()).server_label.empty());
    }
  }
}

void BusReader::attach(std::vector<std::unique_ptr<SegmentReader>> found, double now_s) {
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return a->opened_ns_here() < b->opened_ns_here();
  });
  tell_servers_apart(found);
  for (auto& reader : found) {
    // Who was read before has said so before.
    if (unread_.count(reader->name()) == 0) removed_unread_ += reader->header().removed_segments;
    LiveSegment segment;
    segment.who = identify(reader->header());
    segment.attached_s = segment.active_s = now_s;
    segment.reader = std::move(reader);
    families_.judge_untrusted(*segment.reader, warn_);
    segment.began_here = segment.reader->opened_ns_here() >= opened_ns_;
    resume(segment);
    recall_engine(segment.who);
    for (const auto& [family, buckets] : buckets_of(*segment.reader))
      buckets_.meet(segment.who, family, buckets);
    touched_.insert(segment.who);
    IdentityState& state = identities_[segment.who];
    series_.open_untrusted(*segment.reader, segment.series, known_series(segment), warn_);
    const bus::SegmentHeader& header = segment.reader->header();
    if (state.began_ns == 0) {
      state.began_ns = segment.reader->opened_ns_here();
      state.began_ticks = header.anchor_ticks;
      state.began_realtime_s = static_cast<double>(header.anchor_realtime_ns) * 1e-9;
    }
    state.ranks_expected = header.local_world_size;
    ++changes_;
    const std::string name = segment.reader->name();
    live_.emplace(name, std::move(segment));
  }
}

Identity BusReader::identify(const bus::SegmentHeader& header) {
  Identity who;
  const std::string run = hex(header.run_id);
  if (header.server_named != 0) {
    who.server = who.server_label = bounded_text(header.server);
  } else if (separate_runs_.count(run) != 0) {
    who.server = who.server_label = run;
  }
  who.model = bounded_text(header.model);
  who.engine = header.engine;
  who.role = header.role;
  who.rank = header.rank;
  who.lane = header.lane;
  return who;
}

void BusReader::note_end(const LiveSegment& segment) {
  IdentityState& state = identities_[segment.who];
  state.last_stamp = newest_stamp(*segment.reader);
  state.last_source = static_cast<bus::ClockSource>(segment.reader->header().clock_source);
  state.last_active_s = segment.active_s;
}

void BusReader::retire(const LiveSegment& segment, double now_s) {
  IdentityState& state = identities_[segment.who];
  state.last_alive_s = now_s;
  ++state.retired.incarnations;
  note_end(segment);
  ++retired_segments_;
  ++changes_;
  add_to_retired(segment.who, segment.reader->name(), totals_of(segment), counts_of(segment));
}

void BusReader::add_to_retired(const Identity& who, const std::string& segment,
                               const FieldValues& values,
                               const std::vector<std::pair<std::string, StreamCounts>>& streams) {
  Retired& retired = identities_[who].retired;
  touched_.insert(who);
  for (const auto& [key, value] : values) {
    if (value.kind == bus::Kind::gauge) continue;  // A state without a living writer is nobody's.
    if (!buckets_.is_current(who, key, value)) {
      warn_(key.first + ": what segment " + segment +
            " counted is lost, because its buckets are not the family's");
      continue;
    }
    const auto [at, fresh] = retired.values.emplace(key, value);
    if (fresh) series_.add_retired(lines_of(value));
    if (fresh || add_value(at->second, value)) continue;
    warn_(key.first + ": its meaning changed with segment " + segment +
          "; the family starts again from it");
    at->second = value;
  }
  for (const auto& [name, counts] : streams)
    retired.streams[stream_label(retired, name)].add(counts);
}

// Series that need no room in the budget, because they are shown already. Those of the dead first.
KnownSeries BusReader::known_series(const LiveSegment& segment) const {
  KnownSeries known;
  if (const auto at = identities_.find(segment.who); at != identities_.end())
    known.push_back(&at->second.retired.values);
  if (segment.floor) known.push_back(&segment.floor->totals);
  return known;
}

// What may be different at the next look is no property of the segment; anything else is for good.
void BusReader::not_attached(const std::string& name, const std::string& why, bool is_transient) {
  if (!is_transient) {
    postponed_.erase(name);
    rejected_[name] = why;
    warn_of_file("segment " + name + " skipped: " + why +
                 ". Other ranks are unaffected. Counted in rankbus_segments_rejected");
    return;
  }
  // Between the list of names and the look at it somebody removed it.
  if (faccessat(directory_, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
    return;
  if (!postponed_.insert(name).second) return;
  warn_of_file("segment " + name + " cannot be read now: " + why +
               ". Its producer is unaffected; it is looked at again every second until it can be");
}

// What only the kernel can tell of a segment that is being read.
void BusReader::look_at_file(LiveSegment& segment) {
  segment.reader->examine();
  if (segment.has_foreign_name || segment.reader->has_its_name(directory_)) return;
  segment.has_foreign_name = true;
  note_foreign_name(segment.reader->name(), "is read on");
}

}  // namespace rankbus
