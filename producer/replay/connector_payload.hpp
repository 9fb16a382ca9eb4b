// producer/replay/connector_payload.hpp: KV connectors' payloads, of every release that is known.
//
// A payload does not say whose it is; it is told by its keys. MoRI-IO's has NIXL's keys, so it is
// MoRI-IO's only where the file's features say so.
#pragma once

#include <map>
#include <rankbus/producer/producer.hpp>
#include <rankbus/producer/replay/json_fields.hpp>
#include <string>
#include <vector>

namespace rankbus::replay {

struct StoreOperation {
  std::string operation;
  std::string status;
  MooncakeStoreOperation record;  // Without its labels, which are texts of a producer.
};

// What the offloading connector reported, whatever the shape of its payload.
struct OffloadingReport {
  Offloading transfers;
  std::vector<std::uint64_t> load_sizes, store_sizes;
  bool has_cpu = false;
  OffloadingCpu cpu;
  std::vector<std::uint64_t> allocation_sizes;
  std::optional<std::uint64_t> stores_skipped;
  bool has_lookups = false;
  std::uint64_t allocation_failures = 0;
  std::vector<double> sync_delays_s, async_delays_s;
  std::map<std::string, std::string> config;
};

struct ConnectorRecords {
  std::vector<NixlTransfer> nixl;
  std::vector<MoriioTransfer> moriio;
  std::vector<MooncakeTransfer> mooncake;
  std::vector<StoreOperation> store;
  std::vector<OffloadingReport> offloading;
  std::vector<HiSparse> hisparse;
  std::uint64_t unknown = 0;  // Payloads that belong to no connector that is known.
};

// Takes a payload apart. Throws BadLine where a field is of the wrong kind.
void parse_connector_payload(const Json& payload, bool is_moriio, ConnectorRecords& out);

}  // namespace rankbus::replay
