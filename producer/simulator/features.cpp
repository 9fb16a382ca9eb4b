#include <algorithm>
#include <rankbus/producer/simulator/features.hpp>
#include <rankbus/producer/simulator/random.hpp>

namespace rankbus::simulator {

namespace {

// Streams of the seed, apart from those of the workload.
enum SeedStream : std::uint64_t { kAdapters = 101, kImages = 102, kCorruption = 103 };

constexpr std::uint32_t kMostImages = 3;

}  // namespace

bool FeatureOptions::any_connector() const {
  return std::any_of(connectors.begin(), connectors.end(), [](bool used) { return used; });
}

FeatureOptions all_features(FeatureOptions given) {
  FeatureOptions all = given;
  if (all.speculative_tokens == 0 && !all.diffusion) all.speculative_tokens = 4;
  all.mfu_metrics = true;
  all.cudagraph_metrics = true;
  if (all.kv_cache_metrics_sample == 0) all.kv_cache_metrics_sample = 0.1;
  if (all.lora_adapters == 0) all.lora_adapters = 8;
  all.multimodal = true;
  if (all.corrupted_requests == 0) all.corrupted_requests = 16;
  if (!all.any_connector()) all.connectors.fill(true);
  if (all.sleep_level == 0) all.sleep_level = 1;
  all.cache_config = true;
  all.iteration_details = true;
  if (all.block_operations_sample == 0) all.block_operations_sample = 0.1;
  all.cache_metrics = true;
  all.step_phases = true;
  return all;
}

void assign_features(Workload& workload, const FeatureOptions& features, std::uint64_t seed) {
  Random adapters(seed, kAdapters);
  Random images(seed, kImages);
  Random corruption(seed, kCorruption);
  for (Request& request : workload.requests) {
    // As many requests want the base model as want any one adapter.
    if (features.lora_adapters > 0) {
      request.adapter = static_cast<std::uint32_t>(adapters.below(features.lora_adapters + 1u));
    }
    if (features.multimodal && images.chance(0.25)) {
      request.images = 1 + static_cast<std::uint32_t>(images.below(kMostImages));
    }
    if (features.corrupted_requests > 0) {
      request.corrupted = corruption.below(features.corrupted_requests) == 0;
    }
  }
}

// The fields that matter here of those that vLLM's cache configuration has.
ConfigLabels cache_config(std::uint32_t kv_blocks) {
  return {{"block_size", std::to_string(kBlockTokens)},
          {"cache_dtype", "fp8"},
          {"calculate_kv_scales", "False"},
          {"cpu_offload_gb", "0"},
          {"enable_prefix_caching", "True"},
          {"gpu_memory_utilization", "0.9"},
          {"is_attention_free", "False"},
          {"kv_cache_memory_bytes", "None"},
          {"num_cpu_blocks", "None"},
          {"num_gpu_blocks", std::to_string(kv_blocks)},
          {"num_gpu_blocks_override", "None"},
          {"prefix_caching_hash_algo", "sha256"},
          {"sliding_window", "None"}};
}

ConfigLabels offload_config() {
  return {{"spec", "CPUOffloadingSpec"}, {"cpu_bytes", "64000000000"}, {"store_threshold", "2"}};
}

ConfigLabels cuda_graph_config() {
  std::string sizes = "[1, 2, 4";
  for (std::uint32_t size = 8; size <= 512; size += 8) sizes += ", " + std::to_string(size);
  return {{"mode", "FULL_AND_PIECEWISE"}, {"capture_sizes", sizes + "]"}};
}

std::string adapter_name(std::uint32_t adapter) {
  return "adapter-" + std::to_string(adapter);
}

}  // namespace rankbus::simulator
