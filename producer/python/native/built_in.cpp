// The setters of the built-in record types, made once from the rows of their declarations.
#include <cstring>
#include <rankbus/producer/python/native/record_table.hpp>

namespace rankbus::python {
namespace {

// Notes where each member of a record lies.
template <class T>
struct SetterMaker {
  const T& record;
  RecordTable& table;
  std::uint8_t labels = 0;

  template <unsigned I, class V>
  void scalar(const V& member) noexcept {
    note(I, &member, sizeof member);
  }
  template <unsigned I, class V>
  void array(const Values<V>& member) noexcept {
    note(I, &member, 0);
  }
  void note(unsigned index, const void* member, std::size_t bytes) noexcept {
    FieldSetter& setter = table.fields[index];
    describe_setter(setter, T::RankbusRecord::kFields[index], labels);
    setter.bytes = static_cast<std::uint8_t>(bytes);
    setter.offset = static_cast<std::uint32_t>(static_cast<const unsigned char*>(member) -
                                               reinterpret_cast<const unsigned char*>(&record));
  }
};

template <class T>
RecordTable table_of() {
  static_assert(sizeof(T) <= kMaxRecordBytes && std::is_trivially_copyable<T>::value,
                "a record is copied as bytes into a buffer of its handle");
  static const T prototype{};
  RecordTable table;
  table.type = record_type<T>();
  table.prototype = &prototype;
  table.record_bytes = sizeof(T);
  SetterMaker<T> maker{prototype, table};
  T::RankbusRecord::visit(prototype, maker);
  table.write = [](Producer& producer, const RecordTable&, const void* record) noexcept {
    producer.record(*static_cast<const T*>(record));
  };
  return table;
}

template <class... Types>
struct TypeList {
  static const RecordTable* tables() {
    static_assert(sizeof...(Types) == kBuiltInTypes,
                  "a built-in type is missing here, as list_built_in_types knows another number");
    static const RecordTable all[] = {table_of<Types>()...};
    return all;
  }
};

using BuiltIn =
    TypeList<SchedulerStep, IterationStats, FinishedRequest, MultimodalCache, SleepState,
             WorkerStep, Collective, CorruptedRequests, KvBlockEviction, SpecDecoding,
             DiffusionDecoding, PerfStats, CudaGraph, CudaGraphConfig, IterationDetails, LoraState,
             CacheConfig, StepPhases, RequestKvEviction, LoraRequests, KvBlockOperations,
             CacheLookup, CacheStorage, CacheEviction, NixlTransfer, MoriioTransfer,
             MooncakeTransfer, MooncakeStoreOperation, Offloading, OffloadingCpu, OffloadingSkipped,
             OffloadingLookup, OffloadingConfig, HiSparse>;

}  // namespace

const RecordTable* built_in_tables() {
  return BuiltIn::tables();
}

const RecordTable* built_in_table(const char* name) {
  for (std::uint32_t i = 0; i < kBuiltInTypes; ++i) {
    const RecordTable& table = built_in_tables()[i];
    if (std::strcmp(table.type->name, name) == 0) return &table;
  }
  return nullptr;
}

}  // namespace rankbus::python
