#include <rankbus/producer/simulator/info_record.hpp>
#include <rankbus/producer/simulator/rank_connectors.hpp>

namespace rankbus::simulator {

namespace {

template <std::size_t N>
void intern_all(Producer& producer, const std::array<const char*, N>& texts,
                std::array<std::uint16_t, N>& numbers) {
  for (std::size_t i = 0; i < N; ++i) numbers[i] = producer.intern(texts[i]);
}

// What goes wrong beside the transfer itself: the notification, or with Mooncake the receipt.
std::uint32_t& second_failure(NixlTransfer& record) {
  return record.num_failed_notifications;
}
std::uint32_t& second_failure(MoriioTransfer& record) {
  return record.num_failed_notifications;
}
std::uint32_t& second_failure(MooncakeTransfer& record) {
  return record.num_failed_recvs;
}

void set_post_time(NixlTransfer& record, double seconds) {
  record.post_duration_seconds = seconds;
}
void set_post_time(MoriioTransfer& record, double seconds) {
  record.post_duration_seconds = seconds;
}
void set_post_time(MooncakeTransfer&, double) {}  // It has none.

}  // namespace

RankConnectors::RankConnectors(const RunPlan& plan, std::uint32_t engine, std::uint32_t rank,
                               Producer& producer, FeatureTruth& truth)
    : features_(plan.options.features),
      producer_(producer),
      truth_(truth),
      model_(plan.options.seed, engine, rank, plan.options.tp) {}

void RankConnectors::add_record_types(const FeatureOptions& features, OpenOptions& options) {
  if (features.has(Connector::nixl)) add_record_type<NixlTransfer>(options);
  if (features.has(Connector::moriio)) add_record_type<MoriioTransfer>(options);
  if (features.has(Connector::mooncake)) add_record_type<MooncakeTransfer>(options);
  if (features.has(Connector::mooncake_store)) add_record_type<MooncakeStoreOperation>(options);
  if (features.has(Connector::offloading)) {
    add_record_type<Offloading>(options);
    add_record_type<OffloadingCpu>(options);
    add_record_type<OffloadingSkipped>(options);
    add_record_type<OffloadingLookup>(options);
    add_record_type<OffloadingConfig>(options);
  }
  if (features.has(Connector::hisparse)) add_record_type<HiSparse>(options);
}

void RankConnectors::start(std::uint64_t stamp) {
  if (!features_.any_connector()) return;
  intern_all(producer_, kTransferPeers, peers_);
  intern_all(producer_, kStoreOperations, operations_);
  intern_all(producer_, kStoreStatuses, statuses_);
  if (features_.has(Connector::offloading)) {
    record_info<OffloadingConfig>(producer_, &OffloadingConfig::config, stamp, offload_config());
  }
}

void RankConnectors::record_step(std::uint64_t stamp, std::uint64_t step,
                                 const StepTransfers& moved) {
  if (features_.has(Connector::hisparse)) record_hisparse(stamp, step, moved);
  if (moved.load_requests == 0 && moved.store_blocks == 0) return;
  if (features_.has(Connector::nixl)) {
    record_transfers<NixlTransfer>(Connector::nixl, stamp, step, moved);
  }
  if (features_.has(Connector::moriio)) {
    record_transfers<MoriioTransfer>(Connector::moriio, stamp, step, moved);
  }
  if (features_.has(Connector::mooncake)) {
    record_transfers<MooncakeTransfer>(Connector::mooncake, stamp, step, moved);
  }
  if (features_.has(Connector::mooncake_store)) record_store_operations(stamp, step, moved);
  if (features_.has(Connector::offloading)) record_offloading(stamp, step, moved);
}

template <class Record>
void RankConnectors::record_transfers(Connector connector, std::uint64_t stamp, std::uint64_t step,
                                      const StepTransfers& moved) {
  for (const TransferOutcome& transfer : model_.transfers(connector, step, moved)) {
    Record record;
    record.stamp = stamp;
    record.peer = peers_[transfer.peer];
    switch (transfer.kind) {
      case TransferOutcome::done:
        record.transfer_duration_seconds = transfer.duration_s;
        set_post_time(record, transfer.post_s);
        record.bytes_transferred = transfer.bytes;
        record.num_descriptors = transfer.descriptors;
        break;
      case TransferOutcome::failed_transfer:
        record.num_failed_transfers = 1;
        break;
      case TransferOutcome::failed_second_message:
        second_failure(record) = 1;
        break;
      case TransferOutcome::expired:
        record.num_kv_expired_reqs = 1;
        break;
    }
    truth_.observe(connector, transfer);
    producer_.record(record);
  }
}

void RankConnectors::record_store_operations(std::uint64_t stamp, std::uint64_t step,
                                             const StepTransfers& moved) {
  for (const StoreOperationOutcome& operation : model_.store_operations(step, moved)) {
    MooncakeStoreOperation record;
    record.stamp = stamp;
    record.operation = operations_[operation.operation];
    record.status = statuses_[operation.failed ? 1 : 0];
    record.duration_seconds = operation.duration_s;
    record.num_keys = operation.keys;
    record.num_bytes = operation.bytes;
    record.num_failed_keys = operation.failed_keys;
    truth_.observe(operation);
    producer_.record(record);
  }
}

void RankConnectors::record_offloading(std::uint64_t stamp, std::uint64_t step,
                                       const StepTransfers& moved) {
  const OffloadingOutcome outcome = model_.offloading(step, moved);
  Offloading record;
  record.stamp = stamp;
  record.load_bytes = outcome.load_bytes;
  record.store_bytes = outcome.store_bytes;
  record.load_time = outcome.load_s;
  record.store_time = outcome.store_s;
  record.load_size = outcome.load_sizes;
  record.store_size = outcome.store_sizes;
  producer_.record(record);
  OffloadingCpu cpu;
  cpu.stamp = stamp;
  cpu.cpu_cache_usage_perc = outcome.read_usage + outcome.write_usage;
  cpu.cpu_cache_write_usage_perc = outcome.write_usage;
  cpu.cpu_cache_read_usage_perc = outcome.read_usage;
  cpu.cpu_allocation_size = outcome.allocation_sizes;
  producer_.record(cpu);
  if (outcome.stores_skipped > 0) {
    OffloadingSkipped skipped;
    skipped.stamp = stamp;
    skipped.stores_skipped = outcome.stores_skipped;
    producer_.record(skipped);
  }
  OffloadingLookup lookup;
  lookup.stamp = stamp;
  lookup.allocation_failures = outcome.allocation_failures;
  lookup.lookup_sync_delay_seconds = outcome.lookup_sync_delays_s;
  lookup.lookup_async_delay_seconds = outcome.lookup_async_delays_s;
  producer_.record(lookup);
  truth_.observe(outcome, stamp);
}

void RankConnectors::record_hisparse(std::uint64_t stamp, std::uint64_t step,
                                     const StepTransfers& moved) {
  if (moved.decode_seqs == 0) return;
  const HiSparseOutcome outcome = model_.hisparse(step, moved);
  HiSparse record;
  record.stamp = stamp;
  record.cache_hits = outcome.hits;
  record.cache_misses = outcome.misses;
  record.host_to_device_bytes = outcome.host_to_device_bytes;
  truth_.observe(outcome);
  producer_.record(record);
}

}  // namespace rankbus::simulator
