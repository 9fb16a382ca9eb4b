// What rankbus says of itself and of the processes that it reads: the part of the catalogue that
// needs no joins across ranks.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <rankbus/aggregator/reduce.hpp>
#include <rankbus/aggregator/version.hpp>
#include <rankbus/bus/declaration.hpp>
#include <rankbus/bus/segment.hpp>
#include <set>
#include <string>

namespace rankbus {
namespace {

const Identity kNobody{};

bool is_worker(const Identity& who) {
  return who.role == static_cast<std::uint32_t>(bus::Role::worker);
}

// The namespace in which pids mean what /proc here shows of them; 0 if there is none.
std::uint64_t pid_namespace_of_proc() {
  char self[32] = {};
  struct stat status {};
  // Of a namespace above ours, /proc shows others under our numbers.
  if (readlink("/proc/self", self, sizeof self - 1) <= 0 || std::to_string(getpid()) != self)
    return 0;
  return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

// State letter of a process, from /proc; 0 if it cannot be seen. While a segment's lock is held its
// producer lives, and in the producer's own pid namespace nobody else has its number. In any other,
// a container's, the number is some stranger's, whose state is no evidence.
char process_state(const bus::SegmentHeader& header, std::uint64_t shown_namespace) {
  if (header.pid_namespace == 0 || header.pid_namespace != shown_namespace) return 0;
  std::ifstream file("/proc/" + std::to_string(header.pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return 0;
  const std::size_t end = text.rfind(')');
  return end != std::string::npos && end + 2 < text.size() ? text[end + 2] : '\0';
}

Labels info_labels(const LiveSegment& segment) {
  const bus::SegmentHeader& header = segment.reader->header();
  Labels extra;
  for (std::uint32_t i = 0; i < header.axis_count; ++i) {
    const std::string name = bounded_text(header.axes[i].name);
    const bool plain = bus::is_label_name(name.data(), name.size());
    if (!plain) continue;
    extra.emplace_back(name + "_rank", std::to_string(header.axes[i].rank));
    extra.emplace_back(name + "_size", std::to_string(header.axes[i].size));
  }
  extra.emplace_back("local_rank",
                     header.local_rank == bus::kNoRank ? "" : std::to_string(header.local_rank));
  extra.emplace_back("host", bounded_text(header.host));
  extra.emplace_back("gpu", bounded_text(header.gpu));
  extra.emplace_back("pid", std::to_string(header.pid));
  extra.emplace_back("clock", header.clock_domain == 2 ? "virtual" : "real");
  return joined(rank_labels(segment.who), extra);
}

void add_engines(const BusReader& bus, double now_s, const ReduceOptions& options,
                 FamilyBuilder& out) {
  struct Ranks {
    Identity who;
    std::uint64_t expected = 0;
    double last_alive_s = 0;
    std::map<std::uint32_t, int> reporting;
  };
  std::map<EngineKey, Ranks> engines;
  for (const auto& [name, segment] : bus.live()) {
    if (!is_worker(segment.who)) continue;
    Ranks& ranks = engines[{segment.who.server, segment.who.model, segment.who.engine}];
    ranks.who = segment.who;
    ranks.expected =
        std::max<std::uint64_t>(ranks.expected, segment.reader->header().local_world_size);
    if (segment.quarantine.empty()) ++ranks.reporting[segment.who.rank];
  }
  std::set<EngineKey> retained;
  for (const auto& [who, state] : bus.identities()) {
    if (now_s - state.last_alive_s <= options.retain_engine_s) {
      retained.insert({who.server, who.model, who.engine});
    }
  }
  // An engine whose ranks are all gone still expects as many as the last of them did.
  for (const auto& [who, state] : bus.identities()) {
    const EngineKey key{who.server, who.model, who.engine};
    if (!is_worker(who) || retained.count(key) == 0) continue;
    Ranks& ranks = engines[key];
    if (!ranks.reporting.empty() || state.last_alive_s <= ranks.last_alive_s) continue;
    ranks.who = who;
    ranks.expected = state.ranks_expected;
    ranks.last_alive_s = state.last_alive_s;
  }
  for (const auto& [key, ranks] : engines) {
    const Labels labels = engine_labels(ranks.who);
    if (ranks.expected > 0) {
      out.gauge("rankbus_ranks_expected", "Worker ranks that the engine should have on this node",
                labels, ranks.who, ranks.expected);
    }
    out.gauge("rankbus_ranks_reporting",
              "Worker ranks of the engine with a living producer on this node", labels, ranks.who,
              std::uint64_t{ranks.reporting.size()});
  }
}

void add_age(const Identity& who, double newest_s, double now_s, FamilyBuilder& out) {
  out.gauge("rankbus_source_age_seconds", "Time since a producer's newest record", rank_labels(who),
            who, std::max(0.0, now_s - newest_s));
}

void add_rank_state(const LiveSegment* segment, const Identity& who, std::uint64_t shown_namespace,
                    double now_s, FamilyBuilder& out) {
  const char* state = "dead";
  if (segment != nullptr) {
    const char process = process_state(segment->reader->header(), shown_namespace);
    state = process == 'T' || process == 't'   ? "stopped"
            : now_s - segment->active_s > 10.0 ? "idle"
                                               : "ok";
  }
  for (const char* each : {"ok", "idle", "stopped", "dead"}) {
    out.gauge("rankbus_rank_state",
              "1 for the state that the process is in: ok (records within 10 s), idle, stopped (by "
              "a signal) or dead",
              joined(rank_labels(who), {{"state", each}}), who,
              std::uint64_t{std::string(each) == state ? 1u : 0u});
  }
}

constexpr char kLostHelp[] =
    "Samples that never reached the aggregator, by cause: lapped (overwritten before they were "
    "read), abandoned (the producer died inside the record) or quarantined (published, and unread "
    "when the segment was found to contradict itself; what it publishes later is nobody's). Totals "
    "do not depend on samples, but for those of a quarantined segment";

void add_streams(const Identity& who, const std::map<std::string, StreamCounts>& streams,
                 FamilyBuilder& out) {
  const Labels rank = rank_labels(who);
  StreamCounts all;
  for (const auto& [stream, counts] : streams) {
    all.add(counts);
    const Labels labels = joined(rank, {{"stream", stream}});
    out.counter("rankbus_records_total", "Records read from a producer's stream", labels, who,
                counts.records);
    out.counter("rankbus_samples_lost_total", kLostHelp, joined(labels, {{"cause", "lapped"}}), who,
                counts.lost_lapped);
    if (counts.abandoned > 0) {
      out.counter("rankbus_samples_lost_total", kLostHelp, joined(labels, {{"cause", "abandoned"}}),
                  who, counts.abandoned);
    }
    if (counts.lost_quarantined > 0) {
      out.counter("rankbus_samples_lost_total", kLostHelp,
                  joined(labels, {{"cause", "quarantined"}}), who, counts.lost_quarantined);
    }
    if (counts.invalid > 0) {
      out.counter("rankbus_invalid_values_total",
                  "Values that were NaN or infinite, not counted elsewhere", labels, who,
                  counts.invalid);
    }
    if (counts.negative > 0) {
      out.counter("rankbus_negative_values_total",
                  "Negative amounts and durations; a duration counts in the lowest bucket and adds "
                  "nothing to the sum",
                  labels, who, counts.negative);
    }
    if (counts.label_overflow > 0) {
      out.counter("rankbus_label_overflow_total",
                  "Records counted under the label value `other`, because the stream's label rows "
                  "were used up",
                  labels, who, counts.label_overflow);
    }
  }
  out.counter("rankbus_checkpoints_verified_total",
              "Checkpoints whose totals equal the folded records, bit for bit", rank, who,
              all.verified);
  out.counter("rankbus_checkpoints_skipped_total",
              "Checkpoints not compared, because samples before them were lost", rank, who,
              all.skipped);
  out.counter("rankbus_checkpoints_mismatches_total",
              "Checkpoints whose totals differ from the folded records; must be 0", rank, who,
              all.mismatches);
}

// Also of streams that lost nothing by it; what others lost is added to it by `add_streams`.
void add_quarantined(const LiveSegment& segment, const Retired& retired, FamilyBuilder& out) {
  for (const StreamState& stream : segment.reader->streams()) {
    const Labels labels =
        joined(rank_labels(segment.who),
               {{"cause", "quarantined"}, {"stream", stream_label(retired, stream.schema.name)}});
    out.counter("rankbus_samples_lost_total", kLostHelp, labels, segment.who, std::uint64_t{0});
  }
}

// Why an owner before this one quarantined a segment, in a word; the ledger has the sentence.
const char* kind_of_untrusted(const std::string& quarantine) {
  if (quarantine.find("was truncated") != std::string::npos) return "truncated";
  if (quarantine.find("holes were made") != std::string::npos) return "holes";
  return "inconsistent";
}

void add_ledger(const BusReader& bus, double now_s, FamilyBuilder& out) {
  if (bus.ledger() == nullptr) return;
  const LedgerStatus status = bus.ledger()->status();
  out.gauge("rankbus_ledger_generation", "Images of the ledger that were written, ever", {},
            kNobody, status.generation);
  out.gauge("rankbus_ledger_bytes", "Size of the newest image of the ledger", {}, kNobody,
            status.bytes);
  if (status.written_s > 0) {
    out.gauge("rankbus_ledger_age_seconds",
              "Time since the newest image of the ledger was made. None is made while nothing "
              "changes",
              {}, kNobody, std::max(0.0, now_s - status.written_s));
  }
  out.counter("rankbus_ledger_write_failures_total",
              "Images of the ledger that this aggregator could not write; segments of the dead "
              "stay until it can",
              {}, kNobody, status.failures);
  out.set_created(0);
  out.counter("rankbus_segments_vanished_total",
              "Segments that lived when the ledger was written, and were removed by others while "
              "no aggregator ran",
              {}, kNobody, bus.vanished());
  out.set_created(process_start_s());
}

void add_folds(const BusReader& bus, FamilyBuilder& out) {
  if (bus.folded_engines() == 0) return;
  out.counter("rankbus_engines_folded_total",
              "Engines without a living process that this aggregator made part of engine=\"other\" "
              "of their model, because there were too many to keep one by one",
              {}, kNobody, bus.folded_engines());
}

void add_process(const BusReader& bus, FamilyBuilder& out) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  out.counter("process_cpu_seconds_total", "User and system CPU time of the aggregator", {},
              kNobody, seconds(usage.ru_utime) + seconds(usage.ru_stime));
  std::ifstream memory("/proc/self/statm");
  std::uint64_t pages = 0, resident = 0;
  memory >> pages >> resident;
  out.gauge("process_resident_memory_bytes",
            "Resident memory of the aggregator, mapped segments included", {}, kNobody,
            resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
  out.gauge("process_start_time_seconds", "When the aggregator started, seconds since the epoch",
            {}, kNobody, process_start_s());
  out.gauge("rankbus_build_info", "1; version and layout of this aggregator",
            {{"layout", std::to_string(bus::kLayoutVersion)}, {"version", kVersion}}, kNobody,
            std::uint64_t{1});
  out.gauge("rankbus_segments", "Segments of the bus that are being read", {}, kNobody,
            std::uint64_t{bus.live().size()});
  out.gauge("rankbus_segments_rejected",
            "Files of the bus that bear a segment's name and could not be read", {}, kNobody,
            bus.rejected());
  if (bus.postponed() > 0) {
    out.gauge(
        "rankbus_segments_postponed",
        "Segments that cannot be read for want of descriptors or memory; they are tried again", {},
        kNobody, bus.postponed());
  }
  // These two the ledger carries on from whoever owned the bus before.
  out.set_created(0);
  out.counter("rankbus_segments_retired_total",
              "Segments of dead producers that were read to their end", {}, kNobody,
              bus.retired_segments());
  out.counter("rankbus_segments_removed_unread_total",
              "Segments of dead producers that others removed to stay in the budget while no "
              "aggregator ran",
              {}, kNobody, bus.removed_unread());
  out.set_created(process_start_s());
}

}  // namespace

double process_start_s() {
  static const double started = static_cast<double>(bus::clock_ns(CLOCK_REALTIME)) * 1e-9;
  return started;
}

void add_self_metrics(const BusReader& bus, const TickClock& clock, double now_s,
                      const ReduceOptions& options, FamilyBuilder& out) {
  std::map<Identity, const LiveSegment*> living;
  std::map<Identity, std::map<std::string, StreamCounts>> streams;
  for (const auto& [who, state] : bus.identities()) {
    if (now_s - state.last_alive_s <= options.retain_rank_s && !who.is_whole_engine()) {
      living[who] = nullptr;
      streams[who] = state.retired.streams;
    }
  }
  for (const auto& [name, segment] : bus.live()) {
    const LiveSegment*& shown = living[segment.who];
    // Of two with the same identity, one that is read speaks for both.
    if (!segment.writer_is_gone && (shown == nullptr || segment.quarantine.empty()))
      shown = &segment;
    const bus::SegmentHeader& header = segment.reader->header();
    std::optional<double>
        newest_s;  // A virtual stamp says nothing of age; then, when it was noticed.
    const Retired& retired = bus.identities().at(segment.who).retired;
    for (const auto& [stream, counts] : counts_of(segment))
      streams[segment.who][stream_label(retired, stream)].add(counts);
    for (const StreamState& stream : segment.reader->streams()) {
      if (header.clock_domain != 1 || stream.totals.empty() ||
          stream.totals[bus::kBodyLastStamp] == 0)
        continue;
      newest_s =
          std::max(newest_s.value_or(0.0),
                   clock.seconds(segment.reader->stamp_here(stream.totals[bus::kBodyLastStamp]),
                                 static_cast<bus::ClockSource>(header.clock_source)));
    }
    if (!segment.quarantine.empty()) {
      out.gauge("rankbus_quarantined",
                "1 for a segment that contradicts itself and is read no more",
                joined(rank_labels(segment.who), {{"reason", segment.quarantine_kind()}}),
                segment.who, std::uint64_t{1});
      add_quarantined(segment, retired, out);
    }
    if (segment.reader->hidden_rows() > 0) {
      out.gauge("rankbus_label_rows_over_budget",
                "Label values of a producer that are shown as `other`, because it makes too many "
                "series",
                rank_labels(segment.who), segment.who, segment.reader->hidden_rows());
    }
    const std::uint64_t refused =
        segment.reader->hidden_fields() + bus.buckets().apart(segment.who, *segment.reader).size();
    if (refused > 0) {
      out.gauge("rankbus_refused_fields",
                "Fields of a producer that are not shown: their family is something else or has "
                "other buckets, they are too many series, or this build does not know what they "
                "are",
                rank_labels(segment.who), segment.who, refused);
    }
    if (segment.writer_is_gone) continue;
    out.gauge("rankbus_rank_info", "1; axes, place and process of a producer", info_labels(segment),
              segment.who, std::uint64_t{1});
    add_age(segment.who, newest_s.value_or(segment.active_s), now_s, out);
  }
  for (const auto& [name, left] : bus.unread()) {
    const Retired& retired = bus.identities().at(left->who).retired;
    for (const auto& [stream, counts] : left->streams)
      streams[left->who][stream_label(retired, stream)].add(counts);
    if (left->quarantine.empty()) continue;
    out.gauge("rankbus_quarantined", "1 for a segment that contradicts itself and is read no more",
              joined(rank_labels(left->who), {{"reason", kind_of_untrusted(left->quarantine)}}),
              left->who, std::uint64_t{1});
  }
  const std::uint64_t shown_namespace = pid_namespace_of_proc();
  for (const auto& [who, segment] : living) {
    add_rank_state(segment, who, shown_namespace, now_s, out);
    out.set_created(bus.identities().at(who).began_realtime_s);
    add_streams(who, streams[who], out);
    out.set_created(process_start_s());
    if (segment != nullptr) continue;
    const IdentityState& dead = bus.identities().at(who);
    const bool has_stamp = dead.last_stamp != 0 && dead.last_source != bus::ClockSource::caller;
    add_age(who, has_stamp ? clock.seconds(dead.last_stamp, dead.last_source) : dead.last_active_s,
            now_s, out);
  }
  add_engines(bus, now_s, options, out);
  add_process(bus, out);
  add_ledger(bus, now_s, out);
  add_folds(bus, out);
}

}  // namespace rankbus
