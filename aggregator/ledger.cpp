#include <algorithm>
#include <cstring>
#include <rankbus/aggregator/ledger.hpp>
#include <rankbus/bus/clock.hpp>

namespace rankbus {
namespace {

// A scrape may take seconds, but a disk that hangs must not keep it from being answered.
constexpr double kWaitForDisk_s = 1.0;

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
  for (const std::string& segment : image->retired) ledger->retired_[segment] = image->generation;
  return ledger;
}

void Ledger::retire(const std::string& segment) {
  retired_[segment] = store_->next_generation();
}

std::vector<std::string> Ledger::removable() {
  std::vector<std::string> names;
  if (retired_.empty()) return names;
  const ledger::Kept kept = store_->status().kept;
  for (auto& [segment, since] : retired_) {
    if (!ledger::may_unlink(since, kept)) continue;
    names.push_back(segment);
    since = 0;
  }
  return names;
}

void Ledger::see_names(const std::set<std::string>& names) {
  std::erase_if(retired_, [&](const auto& entry) { return names.count(entry.first) == 0; });
}

bool Ledger::has_pending() const {
  return std::any_of(retired_.begin(), retired_.end(),
                     [](const auto& entry) { return entry.second != 0; });
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
  for (const auto& [segment, since] : retired_) image->retired.insert(segment);
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
  const std::string directory = options_.directory.empty() ? "the bus" : options_.directory;
  warn_("The ledger in " + directory + " " + status.trouble +
        ". Nothing is lost while this process lives, but segments of the dead stay, so that a "
        "restart finds them. Tried again every second; counted in "
        "rankbus_ledger_write_failures_total");
}

}  // namespace rankbus
