#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <rankbus/aggregator/ledger_store.hpp>
#include <rankbus/bus/directory.hpp>

namespace rankbus {
namespace {

// An owner that was killed lets its locks go one by one, that of the bus before that of its ledger;
// whoever follows it at once must not take the second for another aggregator's.
bool take_lock_of_the_dead_or_nobody(int fd) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (bus::take_write_lock(fd)) return true;
    const timespec ten_ms{0, 10'000'000};
    nanosleep(&ten_ms, nullptr);
  }
  return false;
}

std::string failure(const char* what) {
  return std::string(what) + ": " + std::strerror(errno);
}

// Why a file is not read at all; its bytes are judged afterwards.
std::string judge_ledger_file(int fd, std::uint64_t& bytes) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return failure("cannot be examined");
  if (!S_ISREG(status.st_mode)) return "not a regular file";
  if (status.st_uid != geteuid() && status.st_uid != 0) {
    return "owned by uid " + std::to_string(status.st_uid) + ", expected " +
           std::to_string(geteuid()) + " or root";
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) return "others may write it";
  bytes = static_cast<std::uint64_t>(status.st_size);
  if (bytes > kMaxLedgerBytes) return std::to_string(bytes) + " bytes are too many";
  return {};
}

std::string read_all(int fd, std::uint64_t bytes, std::string& into) {
  into.resize(bytes);
  std::size_t at = 0;
  while (at < into.size()) {
    const ssize_t got = ::read(fd, into.data() + at, into.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure("cannot be read");
    if (got == 0) break;
    at += static_cast<std::size_t>(got);
  }
  into.resize(at);
  return {};
}

bool write_all(int fd, const std::string& bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t put = ::write(fd, bytes.data() + at, bytes.size() - at);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += static_cast<std::size_t>(put);
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<LedgerStore>> LedgerStore::open(const std::string& directory) {
  std::unique_ptr<LedgerStore> store(new LedgerStore);
  store->path_ = directory;
  ::mkdir(directory.c_str(), 0700);
  store->directory_ = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (store->directory_ < 0) {
    return Error{failure(directory.c_str()) +
                 ". The ledger needs a directory; choose another with --state-dir"};
  }
  store->lock_fd_ =
      openat(store->directory_, kLedgerLockFile, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  // Where no lock can be made nothing can be written either, which is counted then.
  if (store->lock_fd_ >= 0 && !take_lock_of_the_dead_or_nobody(store->lock_fd_)) {
    return Error{directory +
                 ": another aggregator keeps its ledger here. Give each its own with --state-dir"};
  }
  std::unique_ptr<LedgerImage> images[2] = {store->load_untrusted(0), store->load_untrusted(1)};
  LedgerStatus& status = store->status_;
  for (std::size_t i = 0; i < 2; ++i) status.kept[i] = images[i] ? images[i]->generation : 0;
  if (const int file = ledger::file_to_start_from(status.kept); file >= 0) {
    status.generation = status.kept[static_cast<std::size_t>(file)];
    store->next_generation_ = status.generation + 1;
    store->started_from_ = std::move(images[file]);
  }
  LedgerStore* self = store.get();
  store->thread_ = std::thread([self] { self->work(); });
  return store;
}

LedgerStore::~LedgerStore() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  if (lock_fd_ >= 0) ::close(lock_fd_);
  if (directory_ >= 0) ::close(directory_);
}

std::unique_ptr<LedgerImage> LedgerStore::load_untrusted(int file) {
  const char* name = kLedgerFiles[file];
  const auto complain = [&](const std::string& why) {
    complaints_.push_back(path_ + "/" + name + " is not used: " + why);
    return nullptr;
  };
  const int fd = openat(directory_, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? nullptr : complain(std::strerror(errno));
  std::uint64_t size = 0;
  std::string bytes;
  std::string why = judge_ledger_file(fd, size);
  if (why.empty()) why = read_all(fd, size, bytes);
  ::close(fd);
  if (!why.empty()) return complain(why);
  auto image = parse_untrusted_ledger(bytes);
  if (!image) return complain(image.error());
  if (image->generation == 0) return complain("it has no generation");
  return std::make_unique<LedgerImage>(std::move(image.value()));
}

bool LedgerStore::is_idle() const {
  const std::lock_guard lock(mutex_);
  return waiting_ == nullptr;
}

void LedgerStore::write(std::shared_ptr<const LedgerImage> image) {
  ++next_generation_;
  {
    const std::lock_guard lock(mutex_);
    waiting_ = std::move(image);
  }
  changed_.notify_all();
}

void LedgerStore::wait() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_ == nullptr; });
}

bool LedgerStore::wait_for(double limit_s) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(limit_s),
                           [&] { return waiting_ == nullptr; });
}

LedgerStatus LedgerStore::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void LedgerStore::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || waiting_ != nullptr; });
    if (waiting_ == nullptr) return;
    const std::shared_ptr<const LedgerImage> image = waiting_;
    const auto file = static_cast<std::size_t>(ledger::file_to_replace(status_.kept));
    lock.unlock();
    const bool is_elsewhere = return_to_path();
    const std::string bytes = encode_ledger(*image);
    const std::string trouble = write_file(bytes, kLedgerFiles[file]);
    lock.lock();
    if (is_elsewhere) status_.kept = {};
    if (trouble.empty()) {
      status_.kept[file] = status_.generation = image->generation;
      status_.written_s = image->written_s;
      status_.bytes = bytes.size();
    } else {
      ++status_.failures;
    }
    status_.trouble = trouble;
    waiting_ = nullptr;
    changed_.notify_all();
  }
}

// If the directory was removed under its reader: whoever makes it anew means the same place, and
// what was kept in the old one is gone. True if there is a new one. Only the writing thread is
// here.
bool LedgerStore::return_to_path() {
  struct stat status {};
  if (fstat(directory_, &status) != 0 || status.st_nlink != 0) return false;
  ::mkdir(path_.c_str(), 0700);
  const int place = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int lock =
      place < 0 ? -1
                : openat(place, kLedgerLockFile, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (lock < 0 || !bus::take_write_lock(lock)) {
    if (lock >= 0) ::close(lock);
    if (place >= 0) ::close(place);
    return false;
  }
  ::close(directory_);
  if (lock_fd_ >= 0) ::close(lock_fd_);
  directory_ = place;
  lock_fd_ = lock;
  return true;
}

// Empty, or why the file that was there still is. A kill between any two of these calls leaves both
// kept files whole.
std::string LedgerStore::write_file(const std::string& bytes, const char* name) const {
  const int fd = openat(directory_, kLedgerNewFile,
                        O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return failure("cannot be made");
  // Whatever the mask of this process is, counts of a private bus are nobody else's.
  std::string trouble;
  if (fchmod(fd, 0600) != 0 || !write_all(fd, bytes)) {
    trouble = failure("cannot be written");
  } else if (fsync(fd) != 0) {
    trouble = failure("cannot be synced");
  }
  if (::close(fd) != 0 && trouble.empty()) trouble = failure("cannot be closed");
  if (trouble.empty() && renameat(directory_, kLedgerNewFile, directory_, name) != 0)
    trouble = failure("cannot be renamed");
  if (trouble.empty()) {
    if (fsync(directory_) != 0) return failure("its directory cannot be synced");
    return {};
  }
  // Half an image on a full disk would only keep it full.
  unlinkat(directory_, kLedgerNewFile, 0);
  return trouble;
}

}  // namespace rankbus
