// producer/record.hpp: how a record type is declared, once.
//
//   #define MY_SWAP_ROWS(FIELD, OPTIONAL, ARRAY) ...one line, or several continued by backslashes:
//     FIELD(std::uint64_t, stamp, stamp(), "When the swap ended")
//     FIELD(std::uint64_t, swapped_bytes,
//           counter("my_swapped_bytes_total").in(Unit::bytes), "Bytes moved")
//     OPTIONAL(double, duration_seconds,
//              distribution("my_swap_seconds", rankbus::bounds::kRequest).in(Unit::seconds),
//              "How long the swap took")
//   RANKBUS_RECORD(MySwap, "my_swap", 1, "One swap of KV blocks to host memory", MY_SWAP_ROWS)
//
// gives the struct MySwap with those members, its schema, its totals and its series; nothing else
// is needed anywhere. FIELD members start at zero, OPTIONAL ones as absent (nothing is counted
// unless they are set), ARRAY members are views of any length: what exceeds the capacity of one
// slot continues in the next record, whose part number says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/schema.hpp>
#include <rankbus/bus/segment.hpp>
#include <type_traits>

namespace rankbus {

using bus::absent;
using bus::Reduction;
using bus::Unit;

// A view of numbers that the caller keeps until `record` returns.
template <class T>
struct Values {
  static_assert(sizeof(T) == 8, "an array's elements have 8 bytes: std::uint64_t, int64_t, double");
  const T* data = nullptr;
  std::size_t size = 0;

  constexpr Values() = default;
  constexpr Values(const T* values, std::size_t count) : data(values), size(count) {}
  template <std::size_t N>
  constexpr Values(const T (&values)[N]) : data(values), size(N) {}
  // Any contiguous container: vector, array, span.
  template <class Container,
            class = decltype(static_cast<const T*>(std::declval<const Container&>().data()))>
  constexpr Values(const Container& values) : data(values.data()), size(values.size()) {}
};

// Text for an info field: lines of `label=value`, in words. What does not fit is left out, whole
// lines at a time, and `is_cut` says so.
class InfoText {
 public:
  static constexpr std::size_t kMaxBytes = bus::kMaxInfoBytes;

  // Line breaks and backslashes of a value are escaped (\\n, \\\\), so that a value is one line.
  void add(const char* label, const char* value) noexcept {
    const std::size_t before = size_;
    for (const char* at = label; *at != '\0'; ++at) put(*at);
    put('=');
    for (const char* at = value; *at != '\0'; ++at) {
      if (*at == '\n' || *at == '\\') put('\\');
      put(*at == '\n' ? 'n' : *at);
    }
    put('\n');
    if (size_ <= kMaxBytes) return;
    size_ = before;
    is_cut_ = true;
  }
  bool is_cut() const noexcept { return is_cut_; }
  // Valid as long as this text. A NUL ends it, by which a reader knows that all parts have come.
  Values<std::uint64_t> words() noexcept {
    const std::size_t count = size_ / 8 + 1;
    for (std::size_t i = size_; i < 8 * count; ++i) text_[i] = '\0';
    return {reinterpret_cast<const std::uint64_t*>(text_), count};
  }

 private:
  void put(char c) noexcept {
    if (size_ < kMaxBytes) text_[size_] = c;
    ++size_;
  }
  alignas(8) char text_[kMaxBytes + 8] = {};
  std::size_t size_ = 0;
  bool is_cut_ = false;
};

template <class T>
constexpr bus::Type type_of() {
  static_assert(!std::is_same<T, bool>::value, "bool has no fixed layout; use std::uint8_t");
  static_assert(!std::is_same<T, float>::value, "use double: the sum of floats loses counts");
  if constexpr (std::is_enum<T>::value) {
    return type_of<typename std::underlying_type<T>::type>();
  } else if constexpr (std::is_same<T, double>::value) {
    return bus::Type::f64;
  } else {
    static_assert(std::is_integral<T>::value, "a field is an integer, an enumeration or a double");
    static_assert(std::is_unsigned<T>::value || sizeof(T) == 8, "signed fields are std::int64_t");
    return std::is_signed<T>::value ? bus::Type::i64
           : sizeof(T) == 1         ? bus::Type::u8
           : sizeof(T) == 2         ? bus::Type::u16
           : sizeof(T) == 4         ? bus::Type::u32
                                    : bus::Type::u64;
  }
}

constexpr bus::FieldSpec named(bus::FieldSpec spec, const char* name, bus::Type type,
                               std::uint16_t capacity, const char* help) {
  spec.name = name;
  spec.type = type;
  spec.capacity = capacity;
  spec.help = help;
  return spec;
}

// The value as the 64 bits that a slot and the fold use.
template <class T>
std::uint64_t raw_value(T value) noexcept {
  if constexpr (std::is_same<T, double>::value) {
    return bus::bits_of(value);
  } else {
    return static_cast<std::uint64_t>(value);
  }
}

template <class T>
const bus::RecordType* record_type() noexcept {
  using Record = typename T::RankbusRecord;
  static const char tag = 0;
  static const bus::RecordType type = {Record::kName,       Record::kHelp,   Record::kFields,
                                       Record::kFieldCount, Record::kWeight, &tag};
  return &type;
}

#define RANKBUS_MEMBER(type, name, spec, help) type name{};
#define RANKBUS_OPTIONAL_MEMBER(type, name, spec, help) type name = ::rankbus::absent<type>();
#define RANKBUS_ARRAY_MEMBER(type, capacity, name, spec, help)                  \
  static_assert((capacity) > 1, "an array has room for at least two elements"); \
  ::rankbus::Values<type> name{};

#define RANKBUS_INDEX(type, name, spec, help) i_##name,
#define RANKBUS_ARRAY_INDEX(type, capacity, name, spec, help) i_##name,

#define RANKBUS_SPEC(type, name, spec, help) \
  ::rankbus::named(spec, #name, ::rankbus::type_of<type>(), 1, help),
#define RANKBUS_ARRAY_SPEC(type, capacity, name, spec, help) \
  ::rankbus::named(spec, #name, ::rankbus::type_of<type>(), capacity, help),

#define RANKBUS_VISIT(type, name, spec, help) visitor.template scalar<i_##name>(record.name);
#define RANKBUS_ARRAY_VISIT(type, capacity, name, spec, help) \
  visitor.template array<i_##name>(record.name);

#define RANKBUS_RECORD(Type_, name_text, weight, help_text, ROWS)                               \
  struct Type_ {                                                                                \
    ROWS(RANKBUS_MEMBER, RANKBUS_OPTIONAL_MEMBER, RANKBUS_ARRAY_MEMBER)                         \
    struct RankbusRecord : ::rankbus::bus::SpecBuilders {                                       \
      using Unit = ::rankbus::bus::Unit;                                                        \
      using Reduction = ::rankbus::bus::Reduction;                                              \
      enum Index : unsigned { ROWS(RANKBUS_INDEX, RANKBUS_INDEX, RANKBUS_ARRAY_INDEX) kCount }; \
      static constexpr ::rankbus::bus::FieldSpec kFields[] = {                                  \
          ROWS(RANKBUS_SPEC, RANKBUS_SPEC, RANKBUS_ARRAY_SPEC)};                                \
      static constexpr const char* kName = name_text;                                           \
      static constexpr const char* kHelp = help_text;                                           \
      static constexpr std::uint32_t kFieldCount = kCount;                                      \
      static constexpr std::uint32_t kWeight = weight;                                          \
      template <class Record, class Visitor>                                                    \
      static void visit(Record& record, Visitor& visitor) noexcept {                            \
        ROWS(RANKBUS_VISIT, RANKBUS_VISIT, RANKBUS_ARRAY_VISIT)                                 \
      }                                                                                         \
    };                                                                                          \
  };

}  // namespace rankbus
