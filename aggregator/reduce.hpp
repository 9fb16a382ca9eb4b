// aggregator/reduce.hpp: from every producer's totals to the families of a snapshot.
//
// The schema says how each field goes from ranks and lanes to the engine: counters and
// distributions add up over living and dead incarnations, gauges of the living reduce as declared,
// and what is declared `each` keeps a series per rank. Rates are never stored, so none is ever
// averaged.
#pragma once

#include <map>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/aggregator/sample_feed.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/aggregator/tick_clock.hpp>
#include <string>

namespace rankbus {

struct ReduceOptions {
  double retain_engine_s = 3600;  // How long series of an engine without a living process stay.
  double retain_rank_s = 300;     // The same for series of one rank.
  double gauge_ttl_s = 0;         // How old a gauge of the living may be; 0: as old as it is.
  bool created_series = false;    // For each counter and histogram, a gauge of when it began.
};

// Families by name, before they become a snapshot.
class FamilyBuilder {
 public:
  // The series with these labels; made if it is not there. Help and type of the first mention
  // stand.
  Series& series(const std::string& name, FamilyType type, const std::string& help,
                 const Labels& labels, const Identity& who);
  Series& gauge(const std::string& name, const std::string& help, const Labels& labels,
                const Identity& who, Number value);
  Series& counter(const std::string& name, const std::string& help, const Labels& labels,
                  const Identity& who, Number value);
  // When the series that are made from now on began to count, seconds since the epoch.
  void set_created(double created_s) { created_s_ = created_s; }
  std::vector<Family> take();

 private:
  struct Growing {
    Family family;
    std::map<Labels, Series> series;
  };
  std::map<std::string, Growing> families_;
  double created_s_ = 0;
  Series refused_;  // Takes what would give a family a second type.
};

// Retired totals plus those of the living, of every identity; gauges of the living only.
using ValuesByIdentity = std::map<Identity, FieldValues>;
ValuesByIdentity collect_values(const BusReader& bus);
// The same without gauges that were not set for longer than `ttl_s`, unless that is 0. A stamp of a
// virtual clock has no age: there, it is the time since a record was noticed. Infos have none.
ValuesByIdentity collect_values(const BusReader& bus, const TickClock& clock, double now_s,
                                double ttl_s);

// Adds the families that follow from the producers' schemas.
void reduce_records(const BusReader& bus, const ValuesByIdentity& values, double now_s,
                    const ReduceOptions& options, FamilyBuilder& out);

// Adds for each counter and histogram a gauge `<name>_created`, as the Python client does.
void add_created_series(std::vector<Family>& families);

// About when this process started, seconds since the epoch.
double process_start_s();

// Adds what rankbus says of itself and of the processes it reads (the catalogue's part without
// joins).
void add_self_metrics(const BusReader& bus, const TickClock& clock, double now_s,
                      const ReduceOptions& options, FamilyBuilder& out);

// What the log's lines need, per engine with a living or recently living process.
std::vector<EngineTotals> engine_totals(const BusReader& bus, const ValuesByIdentity& values,
                                        const TickClock& clock, double now_s,
                                        const ReduceOptions& options, const SampleFeed& feed);

}  // namespace rankbus
