// producer/producer_open.hpp: how a producer comes to be, and ends.
//
// Here the kernel may be called and things may fail; each failure leaves the producer inert with a
// sentence that says what happened. Nothing here runs while the worker works.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <rankbus/producer/producer.hpp>

namespace rankbus {

// Copies as much of a text as fits, NUL-padded, without cutting a UTF-8 character in two.
inline void copy_text(char* out, std::size_t size, const char* text) noexcept {
  std::size_t length = text == nullptr ? 0 : std::strlen(text);
  if (length >= size) {
    length = size - 1;
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) --length;
  }
  std::memset(out, 0, size);
  // NOLINTNEXTLINE(bugprone-not-null-terminated-result): zeros follow, and there is room for one.
  if (length > 0) std::memcpy(out, text, length);
}

inline const char* first_text(const char* a, const char* b, const char* c = "") noexcept {
  if (a != nullptr && a[0] != '\0') return a;
  if (b != nullptr && b[0] != '\0') return b;
  return c != nullptr ? c : "";
}

inline void random_bytes(std::uint8_t* out, std::size_t size) noexcept {
  if (getrandom(out, size, 0) == static_cast<ssize_t>(size)) return;
  // Without the system call, time and pid still never repeat on one boot.
  const std::uint64_t mixed[2] = {bus::clock_ns(CLOCK_REALTIME),
                                  bus::monotonic_ns() ^ static_cast<std::uint64_t>(getpid()) << 40};
  std::memcpy(out, mixed, size < sizeof mixed ? size : sizeof mixed);
}

// 32 hex digits, as a UUID has once its dashes are gone; anything else is hashed into 16 bytes.
inline void parse_id(const char* text, std::uint8_t (&out)[16]) noexcept {
  std::uint8_t digits[32];
  std::size_t count = 0;
  bool valid = true;
  for (const char* c = text; *c != '\0' && *c != '\n'; ++c) {
    if (*c == '-') continue;
    const int digit = *c >= '0' && *c <= '9'   ? *c - '0'
                      : *c >= 'a' && *c <= 'f' ? *c - 'a' + 10
                                               : -1;
    if (digit < 0 || count == 32) {
      valid = false;
      break;
    }
    digits[count++] = static_cast<std::uint8_t>(digit);
  }
  if (valid && count == 32) {
    for (std::size_t i = 0; i < 16; ++i) {
      out[i] = static_cast<std::uint8_t>(digits[2 * i] << 4 | digits[2 * i + 1]);
    }
    return;
  }
  const std::uint64_t low = bus::fnv1a(text, std::strlen(text));
  const std::uint64_t high = bus::fnv1a(text, std::strlen(text), low);
  std::memcpy(out, &low, 8);
  std::memcpy(out + 8, &high, 8);
}

inline void read_boot_id(std::uint8_t (&out)[16]) noexcept {
  char text[64] = {};
  const int fd = ::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    const ssize_t got = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    if (got > 0) parse_id(text, out);
  }
}

// The run is inherited through the environment, so that all processes which a first one starts
// agree.
inline void fill_run_id(bus::SegmentHeader& header, const char* asked) noexcept {
  const char* given = first_text(asked, std::getenv("RANKBUS_RUN_ID"));
  if (given[0] != '\0') {
    parse_id(given, header.run_id);
    return;
  }
  random_bytes(header.run_id, sizeof header.run_id);
  char text[33];
  bus::write_hex(header.run_id, sizeof header.run_id, text);
  setenv("RANKBUS_RUN_ID", text, 0);
}

// vLLM's order of ranks: pipeline stages outside, tensor-parallel ranks inside.
inline void fill_ranks(bus::SegmentHeader& header, const OpenOptions& options) noexcept {
  std::uint32_t tp_rank = 0, tp_size = 1, pp_rank = 0, pp_size = 1;
  for (const Axis& axis : options.axes) {
    if (axis.name == nullptr || axis.name[0] == '\0' || axis.size == 0) continue;
    bus::ParallelAxis& out = header.axes[header.axis_count++];
    copy_text(out.name, sizeof out.name, axis.name);
    out.rank = axis.rank;
    out.size = axis.size;
    if (std::strcmp(axis.name, "tp") == 0) tp_rank = axis.rank, tp_size = axis.size;
    if (std::strcmp(axis.name, "pp") == 0) pp_rank = axis.rank, pp_size = axis.size;
  }
  const bool worker = options.role == Role::worker;
  header.world_size = options.world_size != 0 ? options.world_size : worker ? tp_size * pp_size : 0;
  header.rank =
      options.rank != bus::kNoRank || !worker ? options.rank : pp_rank * tp_size + tp_rank;
  header.local_rank = options.local_rank != bus::kNoRank ? options.local_rank : header.rank;
  header.local_world_size =
      options.local_world_size != 0 ? options.local_world_size : header.world_size;
}

inline bus::GroupKind group_kind(const char* axis) noexcept {
  return std::strcmp(axis, "tp") == 0   ? bus::GroupKind::tp
         : std::strcmp(axis, "pp") == 0 ? bus::GroupKind::pp
         : std::strcmp(axis, "dp") == 0 ? bus::GroupKind::dp
         : std::strcmp(axis, "ep") == 0 ? bus::GroupKind::ep
                                        : bus::GroupKind::user;
}

// One group per axis: the members that differ from this process on that axis only. The id hashes
// what its members share, so that all of them get the same without talking.
inline void fill_groups(bus::SegmentHeader& header) noexcept {
  for (std::uint32_t a = 0; a < header.axis_count; ++a) {
    const bus::ParallelAxis& axis = header.axes[a];
    bus::CollectiveGroup& group = header.groups[header.group_count++];
    std::uint64_t id = bus::fnv1a(header.run_id, sizeof header.run_id);
    id = bus::fnv1a(axis.name, sizeof axis.name, id);
    const bool spans_engines =
        group_kind(axis.name) == bus::GroupKind::dp || group_kind(axis.name) == bus::GroupKind::ep;
    if (!spans_engines) id = bus::fnv1a(&header.engine, sizeof header.engine, id);
    for (std::uint32_t b = 0; b < header.axis_count; ++b) {
      if (b != a) id = bus::fnv1a(&header.axes[b], sizeof header.axes[b], id);
    }
    group.id = id;
    group.kind = static_cast<std::uint32_t>(group_kind(axis.name));
    group.size = axis.size;
    // Only an engine that lies on one node knows that all members of its groups are here.
    const bool one_node = header.local_world_size == header.world_size && !spans_engines;
    group.local_members = one_node ? axis.size : 0;
  }
}

inline void fill_identity(bus::SegmentHeader& header, const OpenOptions& options) noexcept {
  const char* server =
      first_text(options.server, std::getenv("RANKBUS_SERVER"), std::getenv("POD_NAME"));
  header.server_named = server[0] != '\0' ? 1 : 0;
  copy_text(header.server, sizeof header.server, server);
  copy_text(header.model, sizeof header.model, options.model);
  copy_text(header.gpu, sizeof header.gpu, options.gpu);
  if (gethostname(header.host, sizeof header.host - 1) != 0) header.host[0] = '\0';
  fill_run_id(header, options.run_id);
  random_bytes(header.incarnation, sizeof header.incarnation);
  read_boot_id(header.boot_id);
  struct stat status {};
  if (stat("/proc/self/ns/time", &status) == 0) header.time_namespace = status.st_ino;
  if (stat("/proc/self/ns/pid", &status) == 0) header.pid_namespace = status.st_ino;
  header.pid = static_cast<std::uint32_t>(getpid());
  header.uid = static_cast<std::uint32_t>(geteuid());
  header.engine = options.engine;
  header.role = static_cast<std::uint32_t>(options.role);
  header.kv_role = static_cast<std::uint32_t>(options.kv_role);
  header.max_model_len = options.max_model_len;
  fill_ranks(header, options);
  fill_groups(header);
}

inline void fill_clock(bus::SegmentHeader& header, const OpenOptions& options) noexcept {
  const ClockDomain domain = options.clock;
  const bus::ClockSource source = domain == ClockDomain::virtual_time ? bus::ClockSource::caller
                                  : bus::tsc_is_usable()              ? bus::ClockSource::tsc
                                                                      : bus::ClockSource::monotonic;
  header.clock_domain = static_cast<std::uint32_t>(domain);
  header.clock_source = static_cast<std::uint32_t>(source);
  header.ticks_per_second = bus::nominal_ticks_per_second(source);
  header.anchor_ticks =
      domain == ClockDomain::virtual_time ? options.clock_start_ns : bus::read_ticks(source);
  header.anchor_monotonic_ns = bus::monotonic_ns();
  header.anchor_realtime_ns = bus::clock_ns(CLOCK_REALTIME);
}

// The record types that a role brings without being asked.
inline constexpr std::uint32_t kMaxTypesOfRole = 4;
inline std::uint32_t list_types_of_role(Role role,
                                        const bus::RecordType* (&out)[kMaxTypesOfRole]) noexcept {
  std::uint32_t count = 0;
  if (role == Role::scheduler) out[count++] = record_type<SchedulerStep>();
  if (role == Role::frontend) {
    out[count++] = record_type<IterationStats>();
    out[count++] = record_type<FinishedRequest>();
    out[count++] = record_type<MultimodalCache>();
    out[count++] = record_type<SleepState>();
  }
  if (role == Role::worker) {
    out[count++] = record_type<WorkerStep>();
    out[count++] = record_type<Collective>();
  }
  return count;
}

inline bool Producer::choose_types(const OpenOptions& options, bus::SegmentPlan& plan) noexcept {
  const auto add = [&](const bus::RecordType* type) {
    const std::uint32_t stream = plan.stream_count++;
    plan.types[stream] = type;
    if (!bus::plan_stream(plan, stream, arena_, reason_)) return false;
    const std::uint32_t words = plan.streams[stream]->body_words;
    streams_[stream].body = words > 0 ? arena_.take_array<bus::Word>(words) : nullptr;
    if (words == 0 || streams_[stream].body != nullptr) return true;
    reason_.set("record type %s: no room for totals of %u words", type->name, words);
    return false;
  };
  const bus::RecordType* of_role[kMaxTypesOfRole];
  const std::uint32_t role_types = list_types_of_role(options.role, of_role);
  bool ok = true;
  for (std::uint32_t i = 0; ok && i < role_types; ++i) ok = add(of_role[i]);
  for (const bus::RecordType* type : options.records) {
    if (ok && type != nullptr) ok = add(type);
  }
  if (ok && plan.stream_count == 0) {
    reason_.set("no record types: choose a role that has some, or give `records`");
    ok = false;
  }
  for (std::uint32_t s = 0; ok && s < plan.stream_count; ++s) {
    const bus::StreamPlan& stream = *plan.streams[s];
    for (std::uint32_t i = 0; i < stream.label_count; ++i) {
      if (plan.types[s]->fields[stream.label_fields[i]].domain[0] == '\0') {
        plan.dictionary_entries = 256;
        plan.dictionary_text_bytes = 16 * 1024;
      }
    }
  }
  return ok;
}

// A page that a forked child finds cleared: cheaper to look at than the process id, and also right
// for a raw clone.
inline bool Producer::watch_forks() noexcept {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) != 0) {
    if (page != MAP_FAILED) munmap(page, 4096);
    reason_.set("the kernel cannot tell a forked child (MADV_WIPEONFORK): %s", strerror(errno));
    return false;
  }
  fork_page_ = page;
  return true;
}

inline void Producer::attach_streams(const bus::SegmentPlan& plan) noexcept {
  stream_count_ = plan.stream_count;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    const bus::StreamPlacement& place = plan.placement[s];
    Stream& stream = streams_[s];
    stream.tag = plan.types[s]->tag;
    stream.slots = reinterpret_cast<bus::Word*>(segment_ + place.slots_offset);
    stream.mask = place.capacity - 1;
    stream.slot_words = place.slot_bytes / sizeof(bus::Word);
    stream.checkpoint_every = stream.checkpoint_at = place.capacity / 4;
    stream.published = reinterpret_cast<bus::Word*>(segment_ + bus::kActivityOffset) + s;
    stream.plan = plan.streams[s];
    stream.checkpoint_stamp = now();
    stream.older = 1;  // The first of the two was written when the segment was made.
    if (stream.plan->body_words == 0) continue;
    bus::clear_totals(*stream.plan, stream.body);
    const std::uint64_t stride =
        bus::align_up((1 + stream.plan->body_words) * sizeof(bus::Word), bus::kLineBytes);
    for (std::uint32_t i = 0; i < 2; ++i) {
      stream.checkpoints[i] =
          reinterpret_cast<bus::Word*>(segment_ + place.checkpoint_offset + i * stride);
    }
  }
}

inline bool Producer::start(const OpenOptions& options) noexcept {
  // Plans and tables of the most streams that a role and its additions make fit many times over;
  // pages are used only as far as they are taken.
  if (!arena_.reserve(std::size_t{16} << 20)) {
    reason_.set("no memory for a producer's own totals: %s", strerror(errno));
    return false;
  }
  auto* plan = arena_.take_array<bus::SegmentPlan>(1);
  auto* header = arena_.take_array<bus::SegmentHeader>(1);
  streams_ = arena_.take_array<Stream>(bus::kMaxStreams);
  *plan = bus::SegmentPlan{};
  plan->max_model_len = options.max_model_len;
  plan->num_speculative_tokens = options.num_speculative_tokens;
  char path[bus::kPathBytes];
  bus::resolve_bus_path(options.bus, path);
  if (!choose_types(options, *plan) || !watch_forks()) return false;
  const int directory = bus::open_bus_directory(path, true, reason_);
  if (directory < 0) return false;
  fill_identity(*header, options);
  fill_clock(*header, options);
  const std::uint64_t target = options.segment_bytes != 0     ? options.segment_bytes
                               : options.role == Role::worker ? std::uint64_t{2} << 20
                                                              : std::uint64_t{512} << 10;
  bus::CreatedSegment created;
  const bool ok = bus::create_segment(*plan, *header, target, directory, path, created, reason_);
  ::close(directory);
  if (!ok) return false;
  segment_ = created.base;
  segment_bytes_ = created.bytes;
  copy_text(segment_name_, sizeof segment_name_, created.name);
  lane_ = header->lane;
  clock_source_ = static_cast<bus::ClockSource>(header->clock_source);
  ticks_per_second_ = header->ticks_per_second;
  status_ = reinterpret_cast<bus::StatusLine*>(segment_ + bus::kStatusOffset);
  dictionary_ = reinterpret_cast<bus::Word*>(segment_ + plan->dictionary_offset);
  dictionary_entries_ = plan->dictionary_entries;
  dictionary_text_bytes_ = plan->dictionary_text_bytes;
  attach_streams(*plan);
  *static_cast<bus::Word*>(fork_page_) = 1;
  alive_ = static_cast<const bus::Word*>(fork_page_);
  return true;
}

inline Producer Producer::open(const OpenOptions& options) noexcept {
  Producer producer;
  if (!producer.start(options)) {
    const bus::Reason why = producer.reason_;
    producer.close();
    producer.reason_ = why;
    const char* quiet = std::getenv("RANKBUS_QUIET");
    if (quiet == nullptr || quiet[0] != '1') {
      std::fprintf(stderr, "rankbus: this process records nothing: %s\n", why.text);
    }
  }
  return producer;
}

inline std::uint16_t Producer::intern(const char* text) noexcept {
  if (!alive() || dictionary_entries_ == 0 || text == nullptr) return 0;
  std::size_t bytes = std::strlen(text);
  if (bytes > bus::kMaxLabelTextBytes) return 0;
  const bus::Word used = memory_.load_own(dictionary_);
  bus::Word* entries = dictionary_ + 1;
  auto* texts = reinterpret_cast<char*>(entries + dictionary_entries_);
  for (bus::Word i = 0; i < used; ++i) {
    const bus::Word entry = memory_.load_own(entries + i);
    if ((entry & 0xffffffff) == bytes && std::memcmp(texts + (entry >> 32), text, bytes) == 0) {
      return static_cast<std::uint16_t>(i + 1);
    }
  }
  // Texts start on words, so that a reader can copy them word by word.
  const std::uint64_t start = bus::align_up(dictionary_text_used_, sizeof(bus::Word));
  if (used >= dictionary_entries_ || start + bytes > dictionary_text_bytes_) return 0;
  auto* out = reinterpret_cast<bus::Word*>(texts + start);
  for (std::size_t at = 0; at < bytes; at += sizeof(bus::Word)) {
    bus::Word word = 0;
    std::memcpy(&word, text + at, bytes - at < sizeof word ? bytes - at : sizeof word);
    memory_.store_field(out + at / sizeof word, word);
  }
  memory_.store_field(entries + used, start << 32 | bytes);
  memory_.store_interned(dictionary_, used + 1);
  dictionary_text_used_ = static_cast<std::uint32_t>(start + bytes);
  return static_cast<std::uint16_t>(used + 1);
}

inline void Producer::close() noexcept {
  const bool ours = alive();
  alive_ = never_alive();
  if (ours) {
    for (std::uint32_t s = 0; s < stream_count_; ++s) {
      Stream& stream = streams_[s];
      const bus::Word checkpointed = stream.checkpoint_at - stream.checkpoint_every;
      if (stream.body != nullptr && stream.next_record != checkpointed) checkpoint(stream);
    }
    memory_.store_status(&status_->closed, 1);
    munmap(segment_, segment_bytes_);
    reason_.set("the producer was closed");
  }
  if (fork_page_ != nullptr) munmap(fork_page_, 4096);
  arena_.release();
  fork_page_ = nullptr;
  segment_ = nullptr;
  streams_ = nullptr;
  status_ = nullptr;
  dictionary_ = nullptr;
  stream_count_ = 0;
}

inline void Producer::swap(Producer& other) noexcept {
  const auto exchange = [](auto& a, auto& b) { std::swap(a, b); };
  exchange(alive_, other.alive_);
  exchange(streams_, other.streams_);
  exchange(stream_count_, other.stream_count_);
  exchange(lane_, other.lane_);
  exchange(clock_source_, other.clock_source_);
  exchange(ticks_per_second_, other.ticks_per_second_);
  exchange(dropped_, other.dropped_);
  exchange(status_, other.status_);
  exchange(segment_, other.segment_);
  exchange(segment_bytes_, other.segment_bytes_);
  exchange(fork_page_, other.fork_page_);
  exchange(dictionary_, other.dictionary_);
  exchange(dictionary_entries_, other.dictionary_entries_);
  exchange(dictionary_text_bytes_, other.dictionary_text_bytes_);
  exchange(dictionary_text_used_, other.dictionary_text_used_);
  exchange(arena_, other.arena_);
  exchange(segment_name_, other.segment_name_);
  exchange(reason_, other.reason_);
}

}  // namespace rankbus
