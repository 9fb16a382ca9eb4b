// What a simulated engine may do beyond serving requests. Each feature makes families of its own
// appear, as its configuration does in a real engine; none of them changes who is served when,
// except LoRA (which may defer requests) and KV connectors (which bring prefixes from elsewhere).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <rankbus/producer/simulator/workload.hpp>
#include <string>

namespace rankbus::simulator {

enum class Connector : std::uint8_t {
  nixl,
  moriio,
  mooncake,
  mooncake_store,
  offloading,
  hisparse,
};
inline constexpr std::array kConnectorNames = {"nixl",           "moriio",     "mooncake",
                                               "mooncake_store", "offloading", "hisparse"};
inline constexpr std::size_t kConnectors = kConnectorNames.size();

struct FeatureOptions {
  std::uint32_t speculative_tokens = 0;  // per draft; 0: no speculation
  bool diffusion = false;                // excludes speculation
  bool mfu_metrics = false;
  bool cudagraph_metrics = false;
  double kv_cache_metrics_sample = 0;  // share of the KV blocks that are followed; 0: none
  std::uint32_t lora_adapters = 0;
  std::uint32_t max_loras = 4;  // adapters that may run at the same time
  bool multimodal = false;
  std::uint32_t corrupted_requests = 0;  // one request in so many; 0: none, and no such counter
  std::array<bool, kConnectors> connectors{};
  std::uint32_t sleep_level = 0;  // the engines fall asleep once all is served; 0: they do not
  bool cache_config = false;
  bool iteration_details = false;
  double block_operations_sample = 0;  // share of the KV blocks that are followed; 0: none
  bool cache_metrics = false;
  bool step_phases = false;

  bool has(Connector connector) const { return connectors[static_cast<std::size_t>(connector)]; }
  bool any_connector() const;
};

// Everything that goes together (diffusion does not), with what was `given` as it is.
FeatureOptions all_features(FeatureOptions given);

// Draws what the features need to know of each request.
void assign_features(Workload& workload, const FeatureOptions& features, std::uint64_t seed);

// "adapter-3".
std::string adapter_name(std::uint32_t adapter);

// Configurations as info series show them.
using ConfigLabels = std::map<std::string, std::string>;
ConfigLabels cache_config(std::uint32_t kv_blocks);
ConfigLabels offload_config();
ConfigLabels cuda_graph_config();

}  // namespace rankbus::simulator
