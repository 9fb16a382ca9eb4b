// aggregator/bucket_registry.hpp: which buckets a histogram of an engine has, and since when.
//
// Histograms add up only if their buckets are the same, and an upgrade may change them while ranks
// of both kinds live. The buckets that came first stand while a process lives that has them; what
// has others is kept apart: not shown, counted, and told. When the last such process is gone, the
// family begins anew with those of the oldest that lives, at a start time of its own, and what the
// old buckets held leaves it. So no sum is ever of other things than its name says, and nothing is
// counted twice. What ends apart has ended for nobody to see, which is told too.
//
// An engine in which all agree, which is the usual case, costs a look when a process comes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus {

struct Buckets {
  std::shared_ptr<const std::vector<double>> bounds;
  std::vector<std::uint16_t> classic_cells;
  std::uint64_t cells = 0;

  bool operator==(const Buckets& other) const {
    return cells == other.cells && classic_cells == other.classic_cells &&
           (bounds == other.bounds || *bounds == *other.bounds);
  }
};

// Of the exposed histograms that a segment declares, by family.
std::map<std::string, Buckets> buckets_of(const SegmentReader& reader);

class BucketRegistry {
 public:
  // Somebody of the engine has these; they stand if nobody came first.
  void meet(const Identity& who, const std::string& family, const Buckets& buckets);
  void meet(const Identity& who, const FieldValues& values);

  // More than one kind was seen in the engine. If not, every value of it is current.
  bool is_mixed(const Identity& who) const;
  std::vector<Identity> mixed_engines() const;
  bool has(const Identity& who, const std::string& family, const Buckets& buckets) const;
  // Whether a value adds to what its family is now.
  bool is_current(const Identity& who, const FieldKey& key, const FieldValue& value) const;
  // The exposed histograms of a segment that are kept apart.
  std::vector<std::string> apart(const Identity& who, const SegmentReader& reader) const;

  // Makes these the buckets of the family from that moment on, seconds since the epoch.
  void restart(const Identity& who, const std::string& family, const Buckets& buckets,
               double now_realtime_s);
  // When the family began anew, in seconds since the epoch; 0: it began with the engine.
  double since_s(const Identity& who, const std::string& family) const;

  // Nothing is left of the engine.
  void forget(const Identity& who) { engines_.erase(who.whole_engine()); }

  // For the ledger: what cannot be learnt anew from the totals in it. Empty if all agree.
  std::string saved() const;
  void restore_untrusted(std::string_view bytes);

 private:
  struct Current {
    Buckets buckets;
    double since_s = 0;
  };
  struct Engine {
    std::map<std::string, Current> families;
    bool is_mixed = false;
  };
  const Engine* engine_of(const Identity& who) const;

  std::map<Identity, Engine> engines_;  // By `whole_engine`.
};

}  // namespace rankbus
