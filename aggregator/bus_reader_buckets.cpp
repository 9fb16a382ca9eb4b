// The part of BusReader that decides which buckets stand when processes of one engine disagree.
#include <algorithm>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/bus/clock.hpp>

namespace rankbus {

void BusReader::settle_buckets() {
  for (const Identity& who : buckets_.mixed_engines()) settle_buckets_of(who);
}

// The first buckets stand while a process lives that has them; then come those of the oldest that
// lives. Where nobody lives, nobody has others.
void BusReader::settle_buckets_of(const Identity& who) {
  struct Claim {
    std::uint64_t opened_ns;
    Buckets buckets;
  };
  std::map<std::string, std::vector<Claim>> claims;
  for (const auto& [name, segment] : live_) {
    if (!segment.who.same_engine(who) || segment.writer_is_gone || segment.is_dying ||
        !segment.reader->writer_is_alive()) {
      continue;
    }
    for (auto& [family, buckets] : buckets_of(*segment.reader))
      claims[family].push_back({segment.reader->opened_ns_here(), buckets});
  }
  // Names of their own, because clang++ 14 has no lambda capture a structured binding.
  for (const auto& of_family : claims) {
    const std::string& family = of_family.first;
    const auto& all = of_family.second;
    const bool stands = std::any_of(all.begin(), all.end(), [&](const Claim& claim) {
      return buckets_.has(who, family, claim.buckets);
    });
    if (stands) continue;
    const auto oldest =
        std::min_element(all.begin(), all.end(),
                         [](const Claim& a, const Claim& b) { return a.opened_ns < b.opened_ns; });
    restart_family(who, family, oldest->buckets);
  }
  for (auto& [name, segment] : live_) {
    if (segment.who.same_engine(who)) tell_what_is_apart(segment);
  }
}

void BusReader::restart_family(const Identity& who, const std::string& family,
                               const Buckets& buckets) {
  buckets_.restart(who, family, buckets, static_cast<double>(bus::clock_ns(CLOCK_REALTIME)) * 1e-9);
  for (auto& identity : identities_) {
    const Identity& each = identity.first;
    IdentityState& state = identity.second;
    if (!each.same_engine(who)) continue;
    const auto dropped = std::erase_if(state.retired.values, [&](const auto& entry) {
      return entry.first.first == family && !buckets_.is_current(each, entry.first, entry.second);
    });
    if (dropped > 0) touched_.insert(each);
  }
  count_retired_series();
  unsaved_ = true;
  warn_(family + ": its buckets changed in engine " + std::to_string(who.engine) + " of model " +
        who.model + ", and no process with the former ones lives; the family starts again");
}

void BusReader::tell_what_is_apart(LiveSegment& segment) {
  for (const std::string& family : buckets_.apart(segment.who, *segment.reader)) {
    if (!segment.told_apart.insert(family).second) continue;
    warn_("segment " + segment.reader->name() + ": " + family +
          " has other buckets than in the engine's other processes, and cannot be added up with "
          "them. It is shown when the last of them is gone; the family starts again then. Counted "
          "in rankbus_refused_fields");
  }
}

}  // namespace rankbus
