#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
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

// What is there may be read another time.
bool is_transient(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR;
}

bool is_no_room(int error) {
  return error == ENOSPC || error == EDQUOT;
}

std::string kibibytes(std::uint64_t bytes) {
  return std::to_string((bytes + 1023) / 1024) + " KiB";
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
  bool is_final = false;
  const std::string locked = store->take_lock(is_final);
  if (is_final) return Error{locked};
  std::unique_ptr<LedgerImage> images[2] = {store->load_untrusted(0), store->load_untrusted(1)};
  if (!store->unreadable_.empty()) return Error{store->unreadable_};
  LedgerStatus& status = store->status_;
  for (std::size_t i = 0; i < 2; ++i) status.kept[i] = images[i] ? images[i]->generation : 0;
  if (const int file = ledger::file_to_start_from(status.kept); file >= 0) {
    status.generation = status.kept[static_cast<std::size_t>(file)];
    store->next_generation_ = status.generation + 1;
    store->started_from_ = std::move(images[file]);
  }
  if (store->lock_fd_ >= 0) store->keep_reserve(store->read_bytes_);
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

// Without it nothing is read for good or written: two that keep one ledger would each undo what the
// other did. Where it cannot even be made, on a disk that is full or read-only, it is asked for
// again before each image.
std::string LedgerStore::take_lock(bool& is_final) {
  const std::string file = path_ + "/" + kLedgerLockFile;
  const int fd = openat(directory_, kLedgerLockFile,
                        O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
  if (fd < 0) {
    is_final = errno == EISDIR || errno == ELOOP || errno == ENXIO || errno == ENOTDIR;
    return file + ": " + std::strerror(errno) +
           (is_final ? ". It must be a file that an aggregator can lock; remove what is there, or "
                       "choose another directory with --state-dir"
                     : "");
  }
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    is_final = true;
    ::close(fd);
    return file +
           " is no regular file. It must be one that an aggregator can lock; remove what is there, "
           "or choose another directory with --state-dir";
  }
  if (!take_lock_of_the_dead_or_nobody(fd)) {
    is_final = true;
    ::close(fd);
    return path_ + ": another aggregator keeps its ledger here. Give each its own with --state-dir";
  }
  lock_fd_ = fd;
  return {};
}

// A build before this one, or damage, must not cost what a later build, or somebody with patience,
// can still read. What was set aside before stays, because it is the older history.
std::string LedgerStore::set_aside(const char* name) const {
  if (lock_fd_ < 0) return {};
  const std::string aside = std::string(name) + kLedgerRefused;
  if (renameat2(directory_, name, directory_, aside.c_str(), RENAME_NOREPLACE) == 0) {
    return ". It is kept as " + path_ + "/" + aside +
           ": to use it, stop this aggregator, rename it back and start the build that wrote it";
  }
  return errno == EEXIST ? ". " + aside + " is there from before and stays; this one is replaced"
                         : ". It cannot be kept as " + aside + " either: " + std::strerror(errno);
}

std::unique_ptr<LedgerImage> LedgerStore::load_untrusted(int file) {
  const char* name = kLedgerFiles[file];
  const auto complain = [&](const std::string& why) {
    complaints_.push_back(path_ + "/" + name + " is not used: " + why + set_aside(name));
    return nullptr;
  };
  const int fd = openat(directory_, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return nullptr;
  if (fd < 0 && is_transient(errno)) {
    unreadable_ = failure((path_ + "/" + name).c_str());
    return nullptr;
  }
  if (fd < 0) return complain(std::strerror(errno));
  std::uint64_t size = 0;
  std::string bytes;
  std::string why = judge_ledger_file(fd, size);
  if (why.empty()) why = read_all(fd, size, bytes);
  ::close(fd);
  if (!why.empty()) return complain(why);
  auto image = parse_untrusted_ledger(bytes);
  if (!image) return complain(image.error());
  if (image->generation == 0) return complain("it has no generation");
  read_bytes_ = std::max(read_bytes_, size);
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
    if (is_elsewhere) reserve_bytes_ = 0;
    std::uint64_t bytes = 0;
    const std::string trouble = save(*image, kLedgerFiles[file], bytes);
    lock.lock();
    if (is_elsewhere) status_.kept = {};
    if (trouble.empty()) {
      status_.kept[file] = status_.generation = image->generation;
      status_.written_s = image->written_s;
      status_.bytes = bytes;
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

// Empty, or why there is no new image.
std::string LedgerStore::save(const LedgerImage& image, const char* name, std::uint64_t& bytes) {
  bool is_final = false;
  if (lock_fd_ < 0) {
    if (const std::string why = take_lock(is_final); !why.empty()) return "has no lock: " + why;
  }
  const auto encoded = encoder_.encode(image);
  if (!encoded)
    return "would be too large to be read again (" + encoded.error() + "), so the last one stays";
  bytes = encoded.value().size();
  bool has_no_room = false;
  std::string trouble = write_file(encoded.value(), name, has_no_room);
  if (has_no_room && unlinkat(directory_, kLedgerReserveFile, 0) == 0) {
    reserve_bytes_ = 0;
    has_no_room = false;
    trouble = write_file(encoded.value(), name, has_no_room);
  }
  if (has_no_room) {
    trouble += "; " + std::string(kLedgerNewFile) + " needs " + kibibytes(bytes) + ", and " +
               kibibytes(bus::free_bytes(directory_)) +
               " are left. Free some, or give the ledger another file system with --state-dir";
  }
  if (trouble.empty()) keep_reserve(bytes);
  return trouble;
}

// A new file of this process. What has its name, of an owner that was killed or of a stranger who
// waits for what is written into it, is not opened; nor is what came in between.
int LedgerStore::make_file_untrusted(const char* name, std::string& trouble) const {
  if (unlinkat(directory_, name, 0) != 0 && errno != ENOENT) {
    trouble = failure("cannot be made, because what has its name cannot be removed");
    return -1;
  }
  const int fd = openat(directory_, name,
                        O_WRONLY | O_CREAT | O_EXCL | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0600);
  struct stat status {};
  if (fd < 0) {
    trouble = failure("cannot be made");
  } else if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != geteuid() ||
             status.st_nlink != 1) {
    trouble = "cannot be made: it is not as it was made";
    ::close(fd);
    return -1;
  }
  return fd;
}

// Empty, or why the file that was there still is. A kill between any two of these calls leaves both
// kept files whole.
std::string LedgerStore::write_file(const std::string& bytes, const char* name,
                                    bool& has_no_room) const {
  std::string trouble;
  const auto fail = [&](const char* what) {
    has_no_room = is_no_room(errno);
    trouble = failure(what);
  };
  const int fd = make_file_untrusted(kLedgerNewFile, trouble);
  if (fd < 0) {
    has_no_room = is_no_room(errno);
    return trouble;
  }
  // Whatever the mask of this process is, counts of a private bus are nobody else's.
  if (fchmod(fd, 0600) != 0 || !write_all(fd, bytes)) {
    fail("cannot be written");
  } else if (fsync(fd) != 0) {
    fail("cannot be synced");
  }
  if (::close(fd) != 0 && trouble.empty()) fail("cannot be closed");
  if (trouble.empty() && renameat(directory_, kLedgerNewFile, directory_, name) != 0)
    fail("cannot be renamed");
  if (trouble.empty()) {
    if (fsync(directory_) != 0) return failure("its directory cannot be synced");
    return {};
  }
  // Half an image on a full disk would only keep it full.
  unlinkat(directory_, kLedgerNewFile, 0);
  return trouble;
}

// Grows by more than it must, so that it seldom does. Without room for it nothing is lost yet.
void LedgerStore::keep_reserve(std::uint64_t bytes) {
  const std::uint64_t least = bytes + 4096;
  if (reserve_bytes_ >= least) return;
  std::string trouble;
  const int fd = make_file_untrusted(kLedgerReserveFile, trouble);
  if (fd < 0) return;
  reserve_bytes_ = 0;
  for (const std::uint64_t size : {bytes + bytes / 4 + (64 << 10), least}) {
    if (posix_fallocate(fd, 0, static_cast<off_t>(size)) != 0) continue;
    reserve_bytes_ = size;
    break;
  }
  ::close(fd);
  if (reserve_bytes_ == 0) unlinkat(directory_, kLedgerReserveFile, 0);
}

}  // namespace rankbus
