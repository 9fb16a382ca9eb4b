#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <rankbus/aggregator/mapping_guard.hpp>
#include <rankbus/bus/limits.hpp>

namespace rankbus {
namespace {

// A place of the table. `begin` is stored last and cleared first, so that whoever sees it sees the
// rest.
struct Place {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> is_cut{false};
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free &&
                  std::atomic<bool>::is_always_lock_free,
              "a signal handler that waits for a lock may wait for the code that it interrupted");

// Segments that are being opened or are quarantined count too, hence the room.
constexpr int kPlaces = 2 * static_cast<int>(bus::kMaxSegments);

Place places[kPlaces];
std::atomic<int> places_used{0};  // Places beyond were never taken.
std::mutex taking;                // Between threads that add and remove; never the handler.
std::atomic<bool> installed{false};
struct sigaction previous {};
std::uintptr_t page_bytes = 4096;

// Everything from here to `on_bus_error` runs in the signal handler.

// What SIGBUS did before the guard was there.
void hand_on(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
    return;
  }
  const bool was_sent = info->si_code <= 0;
  if (was_sent && previous.sa_handler == SIG_IGN) return;
  // The instruction faults again, and the core that is left shows it.
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &by_default, nullptr);
  if (was_sent) raise(signal);
}

Place* place_of(std::uintptr_t address) {
  const int used = places_used.load();
  for (int i = 0; i < used; ++i) {
    const std::uintptr_t begin = places[i].begin.load();
    if (begin == 0 || address < begin || address >= places[i].end.load()) continue;
    if (places[i].begin.load() == begin) return &places[i];
  }
  return nullptr;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  Place* place = info->si_code > 0 ? place_of(address) : nullptr;
  const std::uintptr_t into_page = address % page_bytes;
  const std::uintptr_t page = address - into_page;
  // To the end, so that a reader who goes on faults once and not once a page.
  const bool mended =
      place != nullptr &&
      mmap(static_cast<char*>(info->si_addr) - into_page, place->end.load() - page, PROT_READ,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
  if (mended) {
    place->is_cut.store(true);
  } else {
    hand_on(signal, info, context);
  }
  errno = error;
}

}  // namespace

bool MappingGuard::install() {
  const std::lock_guard lock(taking);
  if (installed.load()) return true;
  page_bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  // First, because the handler may run as soon as it is there.
  if (sigaction(SIGBUS, nullptr, &previous) != 0) return false;
  if (sigaction(SIGBUS, &action, nullptr) != 0) return false;
  installed.store(true);
  return true;
}

bool MappingGuard::is_installed() {
  return installed.load();
}

GuardedRange::GuardedRange(const void* begin, std::size_t bytes) {
  const std::lock_guard lock(taking);
  if (!installed.load()) return;
  int free = 0;
  while (free < kPlaces && places[free].end.load() != 0) ++free;
  if (free == kPlaces) return;
  const auto from = reinterpret_cast<std::uintptr_t>(begin);
  places[free].is_cut.store(false);
  places[free].end.store((from + bytes + page_bytes - 1) / page_bytes * page_bytes);
  places[free].begin.store(from);
  if (free >= places_used.load()) places_used.store(free + 1);
  place_ = free;
}

GuardedRange::~GuardedRange() {
  if (place_ < 0) return;
  const std::lock_guard lock(taking);
  places[place_].begin.store(0);
  places[place_].end.store(0);
}

bool GuardedRange::is_cut() const {
  return place_ >= 0 && places[place_].is_cut.load();
}

}  // namespace rankbus
