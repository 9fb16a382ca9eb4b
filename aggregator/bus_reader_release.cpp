// The part of BusReader that answers `rankbus release`, and that says of files what is wrong with
// them without filling the log.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/directory.hpp>

namespace rankbus {
namespace {

// Of files that are no segments so many are told a minute, then how many others there were.
constexpr std::uint64_t kMostFilesTold = 20;
constexpr double kTellAnew_s = 60;

double monotonic_s() {
  return static_cast<double>(bus::monotonic_ns()) * 1e-9;
}

}  // namespace

// A wish is a regular file of somebody who may decide; whatever else bears such a name is left
// alone. The answer is written into it, and then its name goes: who asked has it open and looks.
// Wishes that cannot be granted go too, or they would undo what comes later.
void BusReader::answer_wishes_untrusted(const std::set<std::string>& wishes) {
  if (!removes_names()) return;
  const bus::AllowedOwners allowed{allowed_uids_.data(), allowed_uids_.size()};
  for (const std::string& wish : wishes) {
    const int file =
        openat(directory_, wish.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) continue;
    struct stat status {};
    const bool is_a_wish =
        fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 &&
        (status.st_uid == geteuid() || status.st_uid == 0 || allowed.include(status.st_uid));
    if (is_a_wish) {
      const std::string answer = release(wish.substr(std::string(kReleasePrefix).size()));
      (void)!write(file, answer.data(), answer.size());
      (void)unlinkat(directory_, wish.c_str(), 0);
    }
    ::close(file);
  }
}

// Has a quarantined segment read again. Returns why not, or nothing.
std::string BusReader::release(const std::string& name) {
  const auto live = live_.find(name);
  const auto unread = unread_.find(name);
  const bool is_live = live != live_.end();
  if (is_live ? live->second.quarantine.empty()
              : unread == unread_.end() || unread->second->quarantine.empty()) {
    return "is not quarantined, so there is nothing to release";
  }
  auto left =
      std::make_shared<LedgerIncarnation>(is_live ? incarnation_of(live->second) : *unread->second);
  left->quarantine.clear();
  unread_[name] = std::move(left);
  if (is_live) {
    running_[name] = running_of(live->second);
    series_.close(live->second.series);
    live_.erase(live);
  }
  rejected_.erase(name);
  ++changes_;
  warn_("segment " + name + " is read again, as was asked");
  return {};
}

void BusReader::warn_of_file(const std::string& text) {
  if (monotonic_s() - files_told_from_s_ >= kTellAnew_s) {
    tell_untold_files();
    files_told_ = 0;
    files_told_from_s_ = monotonic_s();
    sum_is_told_ = false;
  }
  if (files_told_ < kMostFilesTold) {
    ++files_told_;
    warn_(text);
  } else {
    ++files_untold_;
  }
}

void BusReader::tell_untold_files() {
  if (files_untold_ == 0) return;
  warn_("and " + std::to_string(files_untold_) + " other files in " + path_ +
        " that are not read. `rankbus inspect` says why of each");
  files_untold_ = 0;
  sum_is_told_ = true;
}

// After a look at all names: at once for what one look found, later once a minute.
void BusReader::end_of_files() {
  if (!sum_is_told_ || monotonic_s() - files_told_from_s_ >= kTellAnew_s) tell_untold_files();
}

}  // namespace rankbus
