// The part of BusReader that lets counts outlive it: what it takes from the ledger at its start,
// what it gives to it after a pass, and which names may go.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/aggregator/ledger_archive.hpp>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/directory.hpp>
#include <sstream>

namespace rankbus {
namespace {

using Streams = std::vector<std::pair<std::string, StreamCounts>>;

bool is_run_id(const std::string& text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

double realtime_s() {
  return static_cast<double>(bus::clock_ns(CLOCK_REALTIME)) * 1e-9;
}

// Grows with everything that is told of a stream while it is read.
std::uint64_t all_records(const SegmentReader& reader) {
  std::uint64_t records = 0;
  for (const StreamState& stream : reader.streams())
    records += stream.position + stream.lost_lapped + stream.verified + stream.skipped;
  return records;
}

// How many records a segment claims that contradicts itself is not believed beyond those that it
// has room for.
std::uint64_t unread_samples(const StreamState& stream) {
  const std::uint64_t next = std::max(stream.position, stream.seen_before);
  const std::uint64_t unread = stream.published > next ? stream.published - next : 0;
  return std::min<std::uint64_t>(unread, stream.schema.capacity);
}

// Of this reader itself, in its own section of the ledger.
constexpr const char* kBooksSection = "bus";
constexpr std::uint32_t kBooksFormat = 2;

// A segment that lived and is not there is waited for: another bus beside the same ledger, or a
// mount that was missing, would else be counted twice when the first one is back.
constexpr double kWaitForReturn_s = 3600;
constexpr std::size_t kMostAside = 256;

// How far sums had come that their sources keep, by segment and stream.
constexpr const char* kRunningSection = "running";

// Which buckets stand where an engine's processes disagreed.
constexpr const char* kBucketSection = "buckets";

void drop_gauges(FieldValues& values) {
  std::erase_if(values, [](const auto& each) { return each.second.kind == bus::Kind::gauge; });
}

// How long the machine was off, as far as that counts. Only the real-time clock tells, and it may
// have been wrong, before or after: then decades. So it counts as half of what was left to whoever
// is remembered for `left_s` at most, and forgets nobody by itself.
double absence_s(const LedgerImage& image, double left_s) {
  return std::clamp(realtime_s() - image.written_realtime_s, 0.0, std::max(0.0, left_s / 2));
}

// After a reboot the monotonic clock began again, and stamps of a real clock mean nothing.
void carry_over_reboot(IdentityState& state, const LedgerImage& image, double forget_after_s) {
  const double now_s = static_cast<double>(bus::monotonic_ns()) * 1e-9;
  const double age_s = image.written_s - state.last_alive_s;
  const double ended_s = now_s - absence_s(image, forget_after_s - age_s);
  state.last_active_s = ended_s - (image.written_s - state.last_active_s);
  state.last_alive_s = ended_s - age_s;
  state.began_ns = 1;  // Long before this reader.
  if (state.last_source != bus::ClockSource::caller) state.last_stamp = 0;
}

}  // namespace

FieldValues totals_of(const LiveSegment& segment) {
  FieldValues values = extract_values(*segment.reader);
  if (!segment.floor) return values;
  for (const auto& [key, floor] : segment.floor->totals) {
    const auto [at, fresh] = values.try_emplace(key, floor);
    if (!fresh && at->second.kind != bus::Kind::gauge && at->second.records < floor.records)
      at->second = floor;
  }
  return values;
}

Streams counts_of(const LiveSegment& segment) {
  Streams counts;
  for (const StreamState& stream : segment.reader->streams()) {
    StreamCounts& each = counts.emplace_back(stream.schema.name, counts_of(stream)).second;
    if (!segment.quarantine.empty()) each.lost_quarantined += unread_samples(stream);
  }
  if (!segment.floor) return counts;
  const Streams& floor = segment.floor->streams;
  for (std::size_t s = 0; s < counts.size() && s < floor.size(); ++s) {
    if (counts[s].second.records < floor[s].second.records) counts[s].second = floor[s].second;
  }
  return counts;
}

Ledger::Sections BusReader::sections_at_start() const {
  const LedgerImage* image = ledger_ ? ledger_->started_from() : nullptr;
  return image != nullptr ? image->sections : Ledger::Sections{};
}

// Whoever lived in the image stays known by its floor until its segment is attached, or found to be
// gone, in the first scan.
void BusReader::start_from_ledger() {
  const LedgerImage* image = ledger_->started_from();
  if (image == nullptr) return;
  const bool rebooted = image->boot_id != this_boot();
  // When the image was made, by the clock of this boot.
  const double ended_s = rebooted ? static_cast<double>(bus::monotonic_ns()) * 1e-9 -
                                        absence_s(*image, bounds_.forget_after_s)
                                  : image->written_s;
  for (const auto& [who, state] : image->identities) {
    IdentityState& restored = identities_[who] = *state;
    if (rebooted) carry_over_reboot(restored, *image, bounds_.forget_after_s);
    touched_.insert(who);
    if (is_run_id(who.server_label)) separate_runs_.insert(who.server_label);
  }
  unread_ = image->incarnations;
  for (const auto& [segment, incarnation] : image->incarnations) {
    IdentityState& state = identities_[incarnation->who];
    if (incarnation->quarantine.empty()) state.last_alive_s = std::max(state.last_alive_s, ended_s);
    touched_.insert(incarnation->who);
    if (state.began_ns == 0) state.began_ns = 1;
  }
  if (const auto saved = image->sections.find(kBucketSection); saved != image->sections.end())
    buckets_.restore_untrusted(saved->second);
  if (const auto saved = image->sections.find(kRunningSection); saved != image->sections.end())
    restore_running_untrusted(saved->second);
  const auto books = image->sections.find(kBooksSection);
  if (books != image->sections.end()) restore_books_untrusted(books->second);
  count_retired_series();
}

void BusReader::count_retired_series() {
  std::uint64_t series = past_series_;
  for (const auto& [who, state] : identities_) series += lines_of(state.retired.values);
  series_.set_retired(series);
}

std::vector<std::string> BusReader::running_of(const LiveSegment& segment) {
  std::vector<std::string> running;
  for (const StreamState& stream : segment.reader->streams())
    running.push_back(stream.running.saved(stream.position));
  const bool any = std::any_of(running.begin(), running.end(),
                               [](const std::string& saved) { return !saved.empty(); });
  return any ? running : std::vector<std::string>();
}

std::string BusReader::saved_running() const {
  using Each = std::pair<std::string, std::vector<std::string>>;
  std::vector<Each> all;
  for (const auto& [name, segment] : live_) {
    if (auto running = running_of(segment); !running.empty())
      all.emplace_back(name, std::move(running));
  }
  for (const auto& [name, running] : running_) {
    if (unread_.count(name) != 0) all.emplace_back(name, running);
  }
  if (all.empty()) return {};
  std::ostringstream stream(std::ios::binary);
  cereal::PortableBinaryOutputArchive archive(stream);
  ledger::list(archive, all, [&](Each& each) {
    ledger::text(archive, each.first);
    ledger::list(archive, each.second, [&](std::string& saved) { ledger::text(archive, saved); });
  });
  return stream.str();
}

// Bytes that are none of ours say of no source that it began anew.
void BusReader::restore_running_untrusted(const std::string& bytes) {
  using Each = std::pair<std::string, std::vector<std::string>>;
  std::vector<Each> all;
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    ledger::list(archive, all, [&](Each& each) {
      ledger::text(archive, each.first);
      ledger::list(archive, each.second, [&](std::string& saved) { ledger::text(archive, saved); });
    });
  } catch (const std::exception&) {
    return;
  }
  for (Each& each : all) running_[each.first] = std::move(each.second);
}

std::string BusReader::saved_books() const {
  std::ostringstream stream(std::ios::binary);
  cereal::PortableBinaryOutputArchive archive(stream);
  std::vector<std::string> aside;
  for (const auto& [name, since_s] : aside_) aside.push_back(name);
  archive(kBooksFormat, retired_segments_, removed_unread_, vanished_);
  ledger::list(archive, aside, [&](std::string& name) { ledger::text(archive, name); });
  return stream.str();
}

// Books of another format, or of nobody, begin anew.
void BusReader::restore_books_untrusted(const std::string& bytes) {
  try {
    ledger::BytesBuffer buffer(bytes);
    std::istream stream(&buffer);
    cereal::PortableBinaryInputArchive archive(stream);
    std::uint32_t format = 0;
    std::uint64_t retired = 0, removed = 0, vanished = 0;
    archive(format);
    if (format != 1 && format != kBooksFormat) return;
    archive(retired, removed, vanished);
    std::vector<std::string> aside;
    if (format == kBooksFormat)
      ledger::list(archive, aside, [&](std::string& name) { ledger::text(archive, name); });
    const double now_s = static_cast<double>(bus::monotonic_ns()) * 1e-9;
    for (const std::string& name : aside) {
      if (unread_.count(name) != 0) aside_[name] = now_s;
    }
    retired_segments_ = retired;
    removed_unread_ = removed;
    vanished_ = vanished;
  } catch (const std::exception&) {
    return;
  }
}

// Samples that the last owner saw are not counted again; those that nobody saw are, or are lost. So
// are those of a process that began under this owner and outran its first look.
void BusReader::resume(LiveSegment& segment) {
  const auto known = unread_.find(segment.reader->name());
  if (known != unread_.end()) {
    segment.floor = known->second;
    unread_.erase(known);
    if (aside_.erase(segment.reader->name()) != 0) {
      warn_("segment " + segment.reader->name() + " is there again, and its counts go on");
    }
  } else if (!segment.began_here && (ledger_ == nullptr || ledger_->started_from() == nullptr)) {
    return;
  }
  const std::vector<StreamState>& streams = segment.reader->streams();
  const auto running = running_.find(segment.reader->name());
  for (std::size_t s = 0; s < streams.size(); ++s) {
    StreamProgress progress;
    if (segment.floor && s < segment.floor->streams.size() &&
        segment.floor->streams[s].first == streams[s].schema.name) {
      const StreamCounts& counts = segment.floor->streams[s].second;
      progress = {counts.records,  counts.lost_lapped, counts.lost_quarantined,
                  counts.verified, counts.skipped,     counts.mismatches};
    }
    if (running != running_.end() && s < running->second.size())
      progress.running = running->second[s];
    segment.reader->resume(s, progress);
  }
}

// Totals are read from the segment alone, so in the end they are those of the floor or beyond. A
// segment that has fewer records than were read of it before is not the one that was read.
void BusReader::check_floor(LiveSegment& segment) {
  if (!segment.floor || !segment.quarantine.empty()) return;
  bool is_reached = true;
  const std::vector<StreamState>& streams = segment.reader->streams();
  const Streams& floor = segment.floor->streams;
  for (std::size_t s = 0; s < streams.size() && s < floor.size(); ++s) {
    const std::uint64_t before = floor[s].second.records;
    // A later build read it, and one like that may again.
    if (streams[s].schema.is_skipped) {
      is_reached = is_reached && before == 0;
      continue;
    }
    if (streams[s].published < before && segment.quarantine.empty()) {
      segment.quarantine = "stream " + streams[s].schema.name + ": " +
                           std::to_string(streams[s].published) + " records, of which " +
                           std::to_string(before) + " were read before";
    }
    is_reached = is_reached && streams[s].position >= before;
  }
  if (!segment.quarantine.empty()) {
    // Nobody reads it to its end any more, so nobody may wait for that.
    segment.is_dying = false;
    ++changes_;
    warn_("segment " + segment.reader->name() + " contradicts the ledger: " + segment.quarantine +
          ". Its totals stay as they were, it is read no more; `rankbus release` has it read "
          "again. Counted in rankbus_quarantined");
  } else if (is_reached) {
    segment.floor.reset();
  }
}

// What has no name any more and is not being read stays at its floor.
void BusReader::settle_unread(const std::set<std::string>& names, double now_s) {
  const LedgerImage* image = ledger_ ? ledger_->started_from() : nullptr;
  const bool rebooted = image != nullptr && image->boot_id != this_boot();
  for (auto at = unread_.begin(); at != unread_.end();) {
    const bool has_name = names.count(at->first) != 0;
    const LedgerIncarnation& left = *at->second;
    const auto known = left.quarantine.empty() ? ledger::Known::lives : ledger::Known::quarantined;
    const auto what = ledger::on_start(known, has_name);
    if (what == ledger::OnStart::set_aside && !rebooted) {
      const auto [since, fresh] = aside_.try_emplace(at->first, now_s);
      if (fresh) set_aside(at->first, left);
      if (now_s - since->second < kWaitForReturn_s && aside_.size() <= kMostAside) {
        ++at;
        continue;
      }
    } else if (what != ledger::OnStart::set_aside && what != ledger::OnStart::retire_at_floor) {
      ++at;
      continue;
    }
    add_to_retired(left.who, at->first, left.totals, left.streams);
    IdentityState& state = identities_[left.who];
    ++state.retired.incarnations;
    state.last_stamp = left.last_stamp;
    state.last_source = left.last_source;
    state.last_active_s = left.last_active_s;
    if (rebooted && left.last_source != bus::ClockSource::caller) state.last_stamp = 0;
    if (rebooted && known == ledger::Known::lives) begin_sums_anew(left.who);
    ++changes_;
    aside_.erase(at->first);
    at = unread_.erase(at);
  }
}

void BusReader::set_aside(const std::string& name, const LedgerIncarnation& left) {
  begin_sums_anew(left.who);
  ++vanished_;
  ++changes_;
  warn_("segment " + name +
        " is gone before it was read to its end; its totals stay as the ledger has them, and go on "
        "should it come back within an hour. Counted in rankbus_segments_vanished_total");
}

// What one of the engine's processes wrote after the floor is gone, and may have been shown.
void BusReader::begin_sums_anew(const Identity& engine) {
  for (auto& [who, each] : identities_) {
    if (!who.same_engine(engine)) continue;
    each.began_realtime_s = realtime_s();
    touched_.insert(who);
  }
}

// Nobody will release what has neither a name nor a writer.
void BusReader::bury_quarantined(const std::set<std::string>& names, double now_s) {
  for (auto at = live_.begin(); at != live_.end();) {
    const bool is_over =
        !at->second.quarantine.empty() && at->second.writer_is_gone && names.count(at->first) == 0;
    if (is_over) {
      retire(at->second, now_s);
      series_.close(at->second.series);
    }
    at = is_over ? live_.erase(at) : std::next(at);
  }
}

LedgerIncarnation BusReader::incarnation_of(const LiveSegment& segment) {
  LedgerIncarnation state;
  state.who = segment.who;
  state.totals = totals_of(segment);
  drop_gauges(state.totals);
  state.streams = counts_of(segment);
  state.quarantine = segment.quarantine;
  state.last_stamp = newest_stamp(*segment.reader);
  state.last_source = static_cast<bus::ClockSource>(segment.reader->header().clock_source);
  state.last_active_s = segment.active_s;
  return state;
}

std::shared_ptr<LedgerImage> BusReader::make_image(const Sections& sections) {
  auto image = std::make_shared<LedgerImage>();
  for (const Identity& who : touched_) {
    const auto at = identities_.find(who);
    const auto shelved = past_.find(who);
    if (at != identities_.end()) {
      saved_[who] = std::make_shared<const IdentityState>(at->second);
    } else if (shelved != past_.end()) {
      saved_[who] = std::make_shared<const IdentityState>(shelved->second);
    } else {
      saved_.erase(who);
    }
  }
  touched_.clear();
  image->identities = saved_;
  image->incarnations = unread_;
  for (auto& [name, segment] : live_) {
    const std::uint64_t records = all_records(*segment.reader);
    const bool as_before = segment.saved && segment.saved_records == records &&
                           segment.saved->quarantine == segment.quarantine;
    if (!as_before) {
      segment.saved = std::make_shared<const LedgerIncarnation>(incarnation_of(segment));
      segment.saved_records = records;
    }
    image->incarnations[name] = segment.saved;
  }
  if (sections) image->sections = sections();
  if (std::string saved = buckets_.saved(); !saved.empty())
    image->sections[kBucketSection] = std::move(saved);
  if (std::string saved = saved_running(); !saved.empty())
    image->sections[kRunningSection] = std::move(saved);
  image->sections[kBooksSection] = saved_books();
  return image;
}

void BusReader::keep_ledger(double now_s, const Sections& sections, bool is_for_answer) {
  if (!ledger_ || !removes_names()) return;
  for (const std::string& name : ledger_->removable()) remove(name);
  const bool is_wanted = is_for_answer ? ledger_->wants_image_for_answer(now_s, unsaved_)
                                       : ledger_->wants_image(now_s, unsaved_);
  if (!is_wanted) return;
  unsaved_ = false;
  ledger_->save(make_image(sections), now_s);
  if (is_for_answer) ledger_->settle();
}

// A second image lets the names go of those who died last.
void BusReader::finish(double now_s, const Sections& sections) {
  if (!ledger_ || !removes_names()) return;
  for (int image = 0; image < 2; ++image) {
    if (!ledger_->wait_at_end()) return;
    if (image > 0 && !ledger_->has_pending()) break;
    ledger_->save(make_image(sections), now_s);
  }
  if (!ledger_->wait_at_end()) return;
  for (const std::string& name : ledger_->removable()) remove(name);
}

}  // namespace rankbus
