// The part of BusReader that holds its place on the bus: the owner's lock, the directory itself,
// and the names that only an owner removes. All of it can be taken away by whoever tidies up.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/bus/directory.hpp>

namespace rankbus {
namespace {

bool is_same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

// Another process may hold the lock for a moment while it starts and fails; only a lock that stays
// is a second owner.
bool BusReader::take_owner_lock(int directory, int& fd, const std::string& path, std::string& why) {
  struct stat status {};
  const bool group = fstat(directory, &status) == 0 && bus::is_group_directory(status);
  fd = bus::open_shared_file(directory, bus::kOwnerFile, group ? 0640 : 0600);
  if (fd < 0) {
    const char* advice = errno == ENOSPC
                             ? ". The file system has no room even for an empty file; free some"
                             : ". To read a bus that you may not write, use --observe";
    why = path + "/" + bus::kOwnerFile + ": " + std::strerror(errno) + advice;
    return false;
  }
  // This process's mask must not keep producers of the group from seeing that the bus is owned;
  // where the file is another user's, its mode was set by them.
  if (fchmod(fd, group ? 0640 : 0600) != 0) errno = 0;
  if (bus::take_write_lock(fd)) return true;
  why = path +
        ": another aggregator owns this bus. One owner reads and removes its segments; stop the "
        "other, choose another directory with --bus, or look on with --observe";
  return false;
}

// Looked at with the names, once a second. Processes that open meanwhile may believe that nobody
// owns the bus; what they remove then they count.
void BusReader::hold_place() {
  struct stat held {};
  struct stat named {};
  const bool has_path = stat(path_.c_str(), &named) == 0;
  if (fstat(directory_, &held) == 0 && (!has_path || !is_same_file(held, named))) return_to_path();
  if (observe_) return;
  const bool has_lock = owner_fd_ >= 0 && fstat(owner_fd_, &held) == 0 &&
                        fstatat(directory_, bus::kOwnerFile, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                        is_same_file(held, named);
  if (has_lock) return;
  int again = -1;
  std::string why;
  const bool is_ours = take_owner_lock(directory_, again, path_, why);
  if (is_ours) {
    warn_(path_ + "/" + bus::kOwnerFile +
          " had been removed or was another's; the bus is owned again");
    std::swap(owner_fd_, again);
  } else if (owner_fd_ >= 0) {
    warn_(path_ + "/" + bus::kOwnerFile +
          " was removed under this aggregator, and the bus is not to be "
          "had again: " +
          why + ". It is read on, and nothing is removed or written until it is");
    std::swap(owner_fd_, again);
    ::close(again);
    again = -1;
    owner_fd_ = -1;
  }
  if (again >= 0) ::close(again);
}

// The directory was removed, or the path leads elsewhere: that is where producers open now. Those
// who live are read on, because they are mapped.
void BusReader::return_to_path() {
  bus::Reason why;
  const bus::AllowedOwners allowed{allowed_uids_.data(), allowed_uids_.size()};
  int place = bus::open_bus_directory(path_.c_str(), !observe_, why, allowed);
  const bool is_news = place >= 0 || why.text != place_trouble_;
  place_trouble_ = why.text;
  if (is_news) {
    warn_(path_ + " was removed or replaced while it was read. Whoever lives is read on; " +
          (place >= 0 ? std::string("newcomers are looked for in what is there now")
                      : "newcomers cannot be found: " + place_trouble_));
  }
  if (place < 0) return;
  std::swap(directory_, place);
  ::close(place);
  scanned_change_ns_ = 0;
}

void BusReader::note_foreign_name(const std::string& name, const std::string& what_was_there) {
  foreign_names_.insert(name);
  warn_("segment " + name + ": another file has taken its name. The one that was there " +
        what_was_there +
        "; the other is not read, because a name is never used twice, and stays for inspection");
}

// Whoever may write the directory may put another file in the place of one that was read, also
// between its last read and the moment at which its name may go. Between this look and the removal
// as well: no call of the kernel removes a name only if it leads to a certain file. What an earlier
// owner retired is known by its name alone; of that it is only certain that nobody writes it.
bool BusReader::leads_to_what_was_retired(const std::string& name) const {
  struct stat status {};
  if (fstatat(directory_, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return true;
  const auto known = retired_files_.find(name);
  if (known != retired_files_.end()) return FileId{status.st_dev, status.st_ino} == known->second;
  if (!S_ISREG(status.st_mode)) return false;
  const int fd = openat(directory_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  const bool is_written = fd >= 0 && bus::write_lock_is_held(fd);
  if (fd >= 0) ::close(fd);
  return !is_written;
}

void BusReader::remove(const std::string& name) {
  if (removes_names() && foreign_names_.count(name) == 0 && !leads_to_what_was_retired(name))
    note_foreign_name(name, "was read to its end");
  if (foreign_names_.count(name) != 0) {
    finished_.insert(name);
    return;
  }
  if (removes_names() && unlinkat(directory_, name.c_str(), 0) == 0) return;
  if (removes_names() && errno != ENOENT) {
    warn_("segment " + name + " cannot be removed: " + std::strerror(errno) +
          ". It was read to its end and is not read again");
  }
  if (!ledger_) finished_.insert(name);
}

}  // namespace rankbus
