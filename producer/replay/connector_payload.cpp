#include <algorithm>
#include <rankbus/producer/replay/connector_payload.hpp>
#include <string_view>

namespace rankbus::replay {
namespace {

bool has(const Json& object, const char* key) {
  return object.is_object() && object.contains(key);
}

// vLLM's lists run side by side: element i of each belongs to transfer i. Failures have lists of
// their own, so they become records of their own.
template <class Transfer>
void parse_transfers(const Json& payload, std::vector<Transfer>& out) {
  const std::vector<double> durations = reals(payload, "transfer_duration");
  const std::vector<std::uint64_t> bytes = wholes(payload, "bytes_transferred");
  const std::vector<std::uint64_t> descriptors = wholes(payload, "num_descriptors");
  const std::size_t count = std::max({durations.size(), bytes.size(), descriptors.size()});
  for (std::size_t i = 0; i < count; ++i) {
    Transfer& record = out.emplace_back();
    if (i < durations.size()) record.transfer_duration_seconds = durations[i];
    if (i < bytes.size()) record.bytes_transferred = bytes[i];
    if (i < descriptors.size()) record.num_descriptors = descriptors[i];
  }
}

std::uint32_t count_of(const Json& payload, const char* key) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(sum_of(payload, key), 0xfffffffe));
}

template <class Transfer>
void parse_posted_transfers(const Json& payload, std::vector<Transfer>& out) {
  const std::size_t before = out.size();
  parse_transfers(payload, out);
  const std::vector<double> posts = reals(payload, "post_duration");
  if (before + posts.size() > out.size()) out.resize(before + posts.size());
  for (std::size_t i = 0; i < posts.size(); ++i) out[before + i].post_duration_seconds = posts[i];
  Transfer failures;
  failures.num_failed_transfers = count_of(payload, "num_failed_transfers");
  failures.num_failed_notifications = count_of(payload, "num_failed_notifications");
  failures.num_kv_expired_reqs = count_of(payload, "num_kv_expired_reqs");
  if (failures.num_failed_transfers + failures.num_failed_notifications +
          failures.num_kv_expired_reqs >
      0) {
    out.push_back(failures);
  }
}

void parse_mooncake(const Json& payload, std::vector<MooncakeTransfer>& out) {
  parse_transfers(payload, out);
  MooncakeTransfer failures;
  failures.num_failed_transfers = count_of(payload, "num_failed_transfers");
  failures.num_failed_recvs = count_of(payload, "num_failed_recvs");
  failures.num_kv_expired_reqs = count_of(payload, "num_kv_expired_reqs");
  if (failures.num_failed_transfers + failures.num_failed_recvs + failures.num_kv_expired_reqs > 0)
    out.push_back(failures);
}

void parse_store(const Json& payload, std::vector<StoreOperation>& out) {
  for (const auto& [operation, list] : payload.items()) {
    for (const Json* entry : objects(payload, operation.c_str())) {
      StoreOperation& made = out.emplace_back();
      made.operation = operation;
      made.status = text(*entry, "status").value_or("ok");
      made.record.duration_seconds = real(*entry, "duration_seconds").value_or(0);
      made.record.num_keys = whole(*entry, "num_keys");
      made.record.num_bytes = whole(*entry, "num_bytes");
      made.record.num_failed_keys = whole(*entry, "num_failed_keys");
    }
  }
}

// The first generation: a list of operations by transfer type.
void parse_offloaded_operations(const Json& payload, OffloadingReport& out) {
  for (const Json* operation : objects(payload, "CPU_to_GPU")) {
    out.transfers.load_bytes += whole(*operation, "op_size");
    out.transfers.load_time += real(*operation, "op_time").value_or(0);
    out.load_sizes.push_back(whole(*operation, "op_size"));
  }
  for (const Json* operation : objects(payload, "GPU_to_CPU")) {
    out.transfers.store_bytes += whole(*operation, "op_size");
    out.transfers.store_time += real(*operation, "op_time").value_or(0);
    out.store_sizes.push_back(whole(*operation, "op_size"));
  }
}

void append(std::vector<std::uint64_t>& into, const std::vector<std::uint64_t>& more) {
  into.insert(into.end(), more.begin(), more.end());
}
void append(std::vector<double>& into, const std::vector<double>& more) {
  into.insert(into.end(), more.begin(), more.end());
}

// One metric of the later generations, under its short name. `object` holds the value under `key`.
void take_offloading_metric(std::string_view name, const Json& object, const char* key,
                            OffloadingReport& out) {
  const auto set_gauge = [&](double& gauge) {
    if (const auto value = real(object, key)) gauge = *value;
    out.has_cpu = true;
  };
  if (name == "load_bytes") {
    out.transfers.load_bytes += sum_of(object, key);
  } else if (name == "store_bytes") {
    out.transfers.store_bytes += sum_of(object, key);
  } else if (name == "load_time") {
    out.transfers.load_time += real(object, key).value_or(0);
  } else if (name == "store_time") {
    out.transfers.store_time += real(object, key).value_or(0);
  } else if (name == "load_size") {
    append(out.load_sizes, wholes(object, key));
  } else if (name == "store_size") {
    append(out.store_sizes, wholes(object, key));
  } else if (name == "stores_skipped") {
    out.stores_skipped = out.stores_skipped.value_or(0) + sum_of(object, key);
  } else if (name == "cpu_cache_usage_perc") {
    set_gauge(out.cpu.cpu_cache_usage_perc);
  } else if (name == "cpu_cache_write_usage_perc") {
    set_gauge(out.cpu.cpu_cache_write_usage_perc);
  } else if (name == "cpu_cache_read_usage_perc") {
    set_gauge(out.cpu.cpu_cache_read_usage_perc);
  } else if (name == "cpu_allocation_size") {
    append(out.allocation_sizes, wholes(object, key));
    out.has_cpu = true;
  } else if (name == "lookup_sync_delay_seconds") {
    append(out.sync_delays_s, reals(object, key));
    out.has_lookups = true;
  } else if (name == "lookup_async_delay_seconds") {
    append(out.async_delays_s, reals(object, key));
    out.has_lookups = true;
  } else if (name == "allocation_failure") {
    out.allocation_failures += sum_of(object, key);
    out.has_lookups = true;
  }
}

// Without vLLM's prefix and the counters' suffix, which generations write or leave out.
std::string_view short_name(std::string_view name) {
  constexpr std::string_view kPrefix = "vllm:kv_offload_";
  constexpr std::string_view kTotal = "_total";
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  if (name.ends_with(kTotal)) name.remove_suffix(kTotal.size());
  return name;
}

void parse_offloading(const Json& payload, OffloadingReport& out) {
  if (has(payload, "CPU_to_GPU") || has(payload, "GPU_to_CPU")) {
    parse_offloaded_operations(payload, out);
    return;
  }
  const Json* data = member(payload, "data");
  if (data == nullptr) {
    for (const auto& [name, value] : payload.items())
      take_offloading_metric(short_name(name), payload, name.c_str(), out);
    return;
  }
  // The latest generation: a value per tuple of label values, which vLLM's own families sum over.
  for (const auto& [name, by_labels] : data->items()) {
    // JSON has no tuples as keys, so some write pairs of labels and value.
    const bool has_pairs = by_labels.is_array() && !by_labels.empty() &&
                           std::all_of(by_labels.begin(), by_labels.end(), [](const Json& pair) {
                             return pair.is_array() && pair.size() == 2 && pair[0].is_array();
                           });
    if (has_pairs) {
      for (const Json& pair : by_labels) {
        const Json value = {{"value", pair[1]}};
        take_offloading_metric(short_name(name), value, "value", out);
      }
      continue;
    }
    if (!by_labels.is_object()) {
      take_offloading_metric(short_name(name), *data, name.c_str(), out);
      continue;
    }
    for (const auto& [labels, value] : by_labels.items())
      take_offloading_metric(short_name(name), by_labels, labels.c_str(), out);
  }
  if (const Json* info = member(payload, "info"); info != nullptr && info->is_object()) {
    for (const auto& [label, value] : info->items()) out.config[label] = python_text(value);
  }
}

bool is_store(const Json& payload) {
  return !payload.empty() && std::all_of(payload.begin(), payload.end(), [](const Json& list) {
    return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& entry) {
             return has(entry, "duration_seconds");
           });
  });
}

bool is_offloading(const Json& payload) {
  if (has(payload, "CPU_to_GPU") || has(payload, "GPU_to_CPU")) return true;
  const Json* data = member(payload, "data");
  if (data != nullptr && member(payload, "types") != nullptr) return true;
  return std::any_of(payload.items().begin(), payload.items().end(), [](const auto& item) {
    const std::string_view name = short_name(item.key());
    return name.starts_with("load_") || name.starts_with("store") || name.starts_with("cpu_") ||
           name.starts_with("lookup_") || name.starts_with("allocation_");
  });
}

}  // namespace

void parse_connector_payload(const Json& payload, bool is_moriio, ConnectorRecords& out) {
  if (!payload.is_object()) throw BadLine("kv_connector_stats: an object is expected");
  if (payload.empty()) return;
  if (has(payload, "num_failed_recvs")) {
    parse_mooncake(payload, out.mooncake);
  } else if (has(payload, "transfer_duration") || has(payload, "num_failed_transfers")) {
    if (is_moriio) {
      parse_posted_transfers(payload, out.moriio);
    } else {
      parse_posted_transfers(payload, out.nixl);
    }
  } else if (has(payload, "cache_hits") || has(payload, "host_to_device_bytes")) {
    HiSparse& record = out.hisparse.emplace_back();
    record.cache_hits = sum_of(payload, "cache_hits");
    record.cache_misses = sum_of(payload, "cache_misses");
    record.host_to_device_bytes = sum_of(payload, "host_to_device_bytes");
  } else if (is_store(payload)) {
    parse_store(payload, out.store);
  } else if (is_offloading(payload)) {
    parse_offloading(payload, out.offloading.emplace_back());
  } else {
    // Several connectors: the payload of each under its class's name, wrapped or not. What belongs
    // to none that is known is left out, and the rest of the call is not.
    for (const auto& [child, value] : payload.items()) {
      if (value.is_null()) continue;
      if (!value.is_object()) {
        ++out.unknown;
        return;
      }
      const bool moriio_child = child.find("MoRI") != std::string::npos;
      const Json* data = value.size() == 1 ? member(value, "data") : nullptr;
      parse_connector_payload(data != nullptr ? *data : value, moriio_child, out);
    }
  }
}

}  // namespace rankbus::replay
