#include <algorithm>
#include <cstring>
#include <rankbus/aggregator/ledger.hpp>
#include <rankbus/bus/clock.hpp>

namespace rankbus {
namespace {

// A scrape may take seconds, but a disk that hangs must not keep it from being answered.
constexpr double kWaitForDisk_s = 1.0;

// Names that are gone, by us or by somebody else, are remembered so long, and so many: a bus that
// was not there for a while must not bring back what is counted already.
constexpr double kRemembered_s = 3600;
constexpr std::size_t kMostGone = 1024;

}  // namespace

Result<std::unique_ptr<Ledger>> Ledger::open(const LedgerOptions& options,
                                             const std::string& bus_directory, Warn warn) {
  auto store = LedgerStore::open(options.directory.empty() ? bus_directory : options.directory);
  if (!store) return Error{store.error()};
  std::unique_ptr<Ledger> ledger(new Ledger);
  ledger->options_ = options;
  ledger->warn_ = std::move(warn);
  ledger->store_ = std::move(store.value());
  const LedgerImage* image = ledger->started_from();
  for (const std::string& complaint : ledger->store_->complaints()) {
    ledger->warn_(complaint + (image != nullptr
                                   ? ". The other generation is whole, so nothing is lost"
                                   : ". Counts of processes that are gone begin again"));
  }
  if (image == nullptr) return ledger;
  for (const std::string& segment : image->retired)
    ledger->retired_[segment].since = image->generation;
  return ledger;
}

// A thread that hangs in the kernel cannot be ended, and uses the store when it wakes up. So the
// store stays, for the moments that are left to the process.
Ledger::~Ledger() {
  if (gave_up_) (void)store_.release();
}

bool Ledger::wait_at_end() {
  if (gave_up_ || store_->wait_for(options_.wait_at_end_s)) return !gave_up_;
  gave_up_ = true;
  warn_("The ledger in " + store_->path() + " could not be written within " +
        std::to_string(static_cast<std::uint64_t>(options_.wait_at_end_s)) +
        " s, and is not waited for. What came after the last image is read again from segments "
        "that are still there; samples of that time may be counted as lost");
  return false;
}

void Ledger::retire(const std::string& segment) {
  retired_[segment] = {store_->next_generation(), 0};
}

std::vector<std::string> Ledger::removable() {
  std::vector<std::string> names;
  if (retired_.empty()) return names;
  const ledger::Kept kept = store_->status().kept;
  for (auto& [segment, state] : retired_) {
    if (!ledger::may_unlink(state.since, kept)) continue;
    names.push_back(segment);
    state.since = 0;
  }
  return names;
}

void Ledger::see_names(const std::set<std::string>& names, double now_s) {
  std::vector<std::pair<double, std::string>> gone;
  for (auto& [segment, state] : retired_) {
    if (names.count(segment) != 0) {
      state.gone_s = 0;
      continue;
    }
    if (state.gone_s == 0) state.gone_s = now_s;
    gone.emplace_back(state.gone_s, segment);
  }
  std::sort(gone.begin(), gone.end());
  const std::size_t too_many = gone.size() > kMostGone ? gone.size() - kMostGone : 0;
  for (std::size_t n = 0; n < gone.size(); ++n) {
    if (n < too_many || now_s - gone[n].first > kRemembered_s) retired_.erase(gone[n].second);
  }
}

bool Ledger::has_pending() const {
  return std::any_of(retired_.begin(), retired_.end(),
                     [](const auto& entry) { return entry.second.since != 0; });
}

bool Ledger::wants_image(double now_s, bool anything_changed) {
  report_trouble();
  if (!store_->is_idle()) return false;
  if (now_s - saved_s_ >= options_.save_every_s)
    return anything_changed || has_pending() || in_trouble_;
  // A disk that fails is not asked at every pass.
  return has_pending() && !in_trouble_;
}

bool Ledger::wants_image_for_answer(double now_s, bool anything_changed) {
  settle();
  if (wants_image(now_s, anything_changed)) return true;
  return anything_changed && !in_trouble_ && store_->is_idle();
}

void Ledger::settle() {
  // Only writing moves it on, so it names what is being written.
  const std::uint64_t next = store_->next_generation();
  if (too_slow_ != next && !store_->wait_for(kWaitForDisk_s)) too_slow_ = next;
}

void Ledger::save(std::shared_ptr<LedgerImage> image, double now_s) {
  image->generation = store_->next_generation();
  image->boot_id = this_boot();
  image->written_s = now_s;
  image->written_realtime_s = static_cast<double>(bus::clock_ns(CLOCK_REALTIME)) * 1e-9;
  for (const auto& [segment, state] : retired_) image->retired.insert(segment);
  saved_s_ = now_s;
  store_->write(std::move(image));
}

void Ledger::report_trouble() {
  const LedgerStatus status = store_->status();
  if (in_trouble_ == !status.trouble.empty()) return;
  in_trouble_ = !status.trouble.empty();
  if (!in_trouble_) {
    warn_("The ledger is written again");
    return;
  }
  warn_("The ledger in " + store_->path() + " " + status.trouble +
        ". Nothing is lost while this process lives, but segments of the dead stay, so that a "
        "restart finds them. Tried again every second; counted in "
        "rankbus_ledger_write_failures_total");
}

}  // namespace rankbus
