// bus/directory.hpp: finding, making and judging the bus directory and the files in it.
//
// Everything here may fail for reasons that the caller's user can mend, so each failure leaves a
// whole sentence in a Reason: what, where, found, expected, next step.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <rankbus/bus/layout.hpp>

namespace rankbus::bus {

// Why something did not work; fixed size, because a producer must not allocate to explain itself.
struct Reason {
  char text[640] = {};
  bool empty() const noexcept { return text[0] == '\0'; }
  __attribute__((format(printf, 2, 3))) void set(const char* format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
  }
};

inline constexpr const char* kServiceDirectory = "/run/rankbus";
inline constexpr const char* kOwnerFile = ".owner";
inline constexpr const char* kOpenFile = ".open";
inline constexpr std::size_t kPathBytes = 512;

// The directory that was asked for, else RANKBUS_BUS, else the service's directory where a service
// made it, else one of this user's in /dev/shm.
inline void resolve_bus_path(const char* asked, char (&path)[kPathBytes]) noexcept {
  const char* environment = getenv("RANKBUS_BUS");
  struct stat status {};
  if (asked != nullptr && asked[0] != '\0') {
    snprintf(path, sizeof path, "%s", asked);
  } else if (environment != nullptr && environment[0] != '\0') {
    snprintf(path, sizeof path, "%s", environment);
  } else if (stat(kServiceDirectory, &status) == 0 && S_ISDIR(status.st_mode)) {
    snprintf(path, sizeof path, "%s", kServiceDirectory);
  } else {
    snprintf(path, sizeof path, "/dev/shm/rankbus-%u", static_cast<unsigned>(geteuid()));
  }
  // A slash at the end would make the kernel follow a link in the place of the directory.
  for (std::size_t end = std::strlen(path); end > 1 && path[end - 1] == '/'; --end) {
    path[end - 1] = '\0';
  }
}

// Where a user's bus is if nothing is said. Whoever comes first may make a directory of any name
// there, this one too.
inline bool is_default_of_user(const char* path) noexcept {
  char own[kPathBytes];
  snprintf(own, sizeof own, "/dev/shm/rankbus-%u", static_cast<unsigned>(geteuid()));
  return std::strcmp(path, own) == 0;
}

inline bool is_group_directory(const struct stat& status) noexcept {
  return (status.st_mode & S_ISGID) != 0 && (status.st_mode & S_ISVTX) != 0;
}

// Users whose directories and files are taken besides this user's own and root's, because somebody
// who may decide it said so. Not owned.
struct AllowedOwners {
  const uid_t* uids = nullptr;
  std::size_t count = 0;
  bool include(uid_t uid) const noexcept {
    for (std::size_t i = 0; i < count; ++i) {
      if (uids[i] == uid) return true;
    }
    return false;
  }
};

// Judges an open directory: ours, or root's, or a service's for its group, if somebody named it;
// not writable for others; in memory. A file on a disk would let one slow disk stop every worker
// that writes it.
inline bool judge_bus_directory(int fd, const char* path, const AllowedOwners& allowed,
                                Reason& why) noexcept {
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    why.set("%s: cannot be examined: %s", path, strerror(errno));
    return false;
  }
  const bool ours =
      status.st_uid == geteuid() || status.st_uid == 0 || allowed.include(status.st_uid);
  if (!ours && (!is_group_directory(status) || is_default_of_user(path))) {
    why.set(
        "%s: owned by uid %u, expected uid %u, root, or a group directory (mode 3770) of another "
        "name than a user's own. Somebody else may have taken the name; choose another with "
        "RANKBUS_BUS",
        path, static_cast<unsigned>(status.st_uid), static_cast<unsigned>(geteuid()));
    return false;
  }
  if ((status.st_mode & S_IWOTH) != 0) {
    why.set("%s: mode %04o lets every user write, expected 0700 or 3770. Run: chmod o-w %s", path,
            static_cast<unsigned>(status.st_mode & 07777), path);
    return false;
  }
  if ((status.st_mode & S_IWGRP) != 0 && !is_group_directory(status)) {
    why.set(
        "%s: mode %04o lets its group replace segments, expected 0700 or 3770. Run: chmod 3770 %s",
        path, static_cast<unsigned>(status.st_mode & 07777), path);
    return false;
  }
  struct statfs filesystem {};
  if (fstatfs(fd, &filesystem) != 0) {
    why.set("%s: file system cannot be examined: %s", path, strerror(errno));
    return false;
  }
  const auto type = static_cast<unsigned long>(filesystem.f_type);
  const char* allow = getenv("RANKBUS_ALLOW_DISK");
  if (type != TMPFS_MAGIC && type != RAMFS_MAGIC &&
      (allow == nullptr || std::strcmp(allow, "1") != 0)) {
    why.set(
        "%s: not in memory (file system type 0x%lx, expected tmpfs): a write to a disk can stop a "
        "worker for as long as the disk likes. Use a directory in /dev/shm, or set "
        "RANKBUS_ALLOW_DISK=1 if you must",
        path, type);
    return false;
  }
  return true;
}

// What can be done about a directory that could not be opened.
inline const char* directory_advice(int error, bool is_link) noexcept {
  if (is_link) return "a symbolic link, expected a directory; give the place that it points to";
  switch (error) {
    case ENOENT:
      return "no such directory. Its first producer or `rankbus aggregate` makes it; otherwise the "
             "name in --bus or RANKBUS_BUS is misspelt";
    case ENOTDIR:
      return "not a directory, expected one in memory; choose another with RANKBUS_BUS";
    case EACCES:
      return "permission denied. Run as its owner or in its group, or choose another with "
             "RANKBUS_BUS";
    default:
      return strerror(error);
  }
}

// Opens the directory, after making its last component if `create` and nobody did. Returns -1 with
// a reason when it cannot be used.
inline int open_bus_directory(const char* path, bool create, Reason& why,
                              const AllowedOwners& allowed = {}) noexcept {
  if (std::strlen(path) >= kPathBytes - 1) {
    why.set("%s...: too long for a bus directory, expected at most %zu bytes", path,
            kPathBytes - 2);
    return -1;
  }
  const bool made = create && mkdir(path, 0700) == 0;
  if (create && !made && errno != EEXIST) {
    const int error = errno;
    if (access(path, F_OK) != 0) {
      why.set("%s: cannot be made: %s. %shoose another with RANKBUS_BUS", path, strerror(error),
              error == ENOENT ? "Make its parent, or c" : "C");
      return -1;
    }
  }
  const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    struct stat status {};
    const bool is_link = lstat(path, &status) == 0 && S_ISLNK(status.st_mode);
    why.set("%s: %s", path, directory_advice(error, is_link));
    return -1;
  }
  if (!judge_bus_directory(fd, path, allowed, why)) {
    close(fd);
    if (made) rmdir(path);
    return -1;
  }
  return fd;
}

// Whether a process holds a write lock on the description of `fd`'s file, without taking one.
inline bool write_lock_is_held(int fd) noexcept {
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return false;
  return lock.l_type != F_UNLCK;
}

inline bool take_write_lock(int fd) noexcept {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

// Opens a file of the directory that its users share, after making it if nobody did. With O_CREAT a
// kernel may refuse another user's file in a sticky directory (fs.protected_regular), so it comes
// without where the file is there.
inline int open_shared_file(int directory, const char* name, mode_t mode) noexcept {
  constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  int fd = openat(directory, name, kFlags);
  if (fd < 0 && errno == ENOENT) fd = openat(directory, name, kFlags | O_CREAT | O_EXCL, mode);
  if (fd < 0 && errno == EEXIST) fd = openat(directory, name, kFlags);
  return fd;
}

inline bool owner_is_present(int directory) noexcept {
  const int fd = openat(directory, kOwnerFile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  // A lock that cannot be looked at may be held, and what an owner has not read must stay.
  if (fd < 0) return errno != ENOENT;
  const bool held = write_lock_is_held(fd);
  close(fd);
  return held;
}

// <role>-<engine>-<rank>.<incarnation as 32 hex digits>
inline bool is_segment_name(const char* name) noexcept {
  const char* dot = std::strrchr(name, '.');
  if (name[0] == '.' || dot == nullptr || std::strlen(dot + 1) != 32) return false;
  return std::strspn(dot + 1, "0123456789abcdef") == 32;
}

// Calls visit(name) for every file that bears a segment's name.
template <class Visit>
void for_each_segment_name(int directory, Visit&& visit) noexcept {
  // A description of its own, so that two scans of one directory do not share a position.
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return;
  DIR* stream = fdopendir(copy);
  if (stream == nullptr) {
    close(copy);
    return;
  }
  while (const dirent* entry = readdir(stream)) {
    if (is_segment_name(entry->d_name)) visit(static_cast<const char*>(entry->d_name));
  }
  closedir(stream);
}

inline std::uint64_t used_bytes(int directory) noexcept {
  std::uint64_t used = 0;
  for_each_segment_name(directory, [&](const char* name) {
    struct stat status {};
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
      used += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  });
  return used;
}

// A number with an optional suffix k, M, G or KiB, MiB, GiB (all powers of 1024); 0 if it is not
// one.
inline std::uint64_t parse_bytes(const char* text) noexcept {
  char* end = nullptr;
  errno = 0;
  if (text == nullptr || text[0] < '0' || text[0] > '9') return 0;
  const std::uint64_t number = strtoull(text, &end, 10);
  int shift = 0;
  if (*end == 'k' || *end == 'K') shift = 10;
  if (*end == 'M') shift = 20;
  if (*end == 'G') shift = 30;
  if (shift != 0) ++end;
  if (std::strcmp(end, "iB") == 0 || std::strcmp(end, "B") == 0) end += std::strlen(end);
  if (errno != 0 || *end != '\0' || number > (~std::uint64_t{0} >> shift)) return 0;
  return number << shift;
}

// What all segments of the bus together may occupy: RANKBUS_BUDGET, else min(1 GiB, 1/8 of the file
// system), because NCCL and the engine live in the same memory.
inline std::uint64_t budget_bytes(int directory) noexcept {
  const std::uint64_t asked = parse_bytes(getenv("RANKBUS_BUDGET"));
  if (asked != 0) return asked;
  struct statvfs filesystem {};
  const std::uint64_t most = 1ull << 30;
  if (fstatvfs(directory, &filesystem) != 0) return most;
  const std::uint64_t eighth =
      static_cast<std::uint64_t>(filesystem.f_blocks) * filesystem.f_frsize / 8;
  return eighth < most ? eighth : most;
}

inline std::uint64_t free_bytes(int directory) noexcept {
  struct statvfs filesystem {};
  if (fstatvfs(directory, &filesystem) != 0) return 0;
  return static_cast<std::uint64_t>(filesystem.f_bavail) * filesystem.f_frsize;
}

inline std::uint64_t read_number_file(const char* path, std::uint64_t otherwise) noexcept {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return otherwise;
  char text[32] = {};
  const ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0 || text[0] < '0' || text[0] > '9') return otherwise;
  return strtoull(text, nullptr, 10);
}

// Where a version of control groups keeps what it knows of memory.
struct MemoryFiles {
  const char* line;   // How its line of /proc/self/cgroup begins, or names the controller.
  const char* mount;  // Where its groups usually are.
  const char* most;
  const char* used;
  // Of memory.stat. Page cache that the kernel gives up when memory is wanted: a worker that has
  // read its weights stands at its limit without being near it.
  const char* reclaimable[2];
};
inline constexpr MemoryFiles kCgroup2{
    "0::", "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file ", "active_file "}};
inline constexpr MemoryFiles kCgroup1{"memory",
                                      "/sys/fs/cgroup/memory",
                                      "memory.limit_in_bytes",
                                      "memory.usage_in_bytes",
                                      {"total_inactive_file ", "total_active_file "}};

inline std::uint64_t reclaimable_bytes(const char* memory_stat, const MemoryFiles& files) noexcept {
  std::uint64_t bytes = 0;
  if (FILE* file = fopen(memory_stat, "re")) {
    char line[128];
    while (fgets(line, sizeof line, file) != nullptr) {
      for (const char* key : files.reclaimable) {
        const std::size_t length = std::strlen(key);
        if (std::strncmp(line, key, length) == 0) bytes += strtoull(line + length, nullptr, 10);
      }
    }
    fclose(file);
  }
  return bytes;
}

// The group in a line of /proc/self/cgroup, "4:cpu,memory:/a/b" or "0::/a/b", if it is of this
// version; else null.
inline const char* group_in_line(const char* line, const MemoryFiles& files) noexcept {
  const char* controllers = std::strchr(line, ':');
  const char* group = controllers != nullptr ? std::strchr(controllers + 1, ':') : nullptr;
  if (group == nullptr) return nullptr;
  if (files.line[0] == '0') return std::strncmp(line, files.line, 3) == 0 ? group + 1 : nullptr;
  const std::size_t length = std::strlen(files.line);
  for (const char* at = controllers + 1; at < group; ++at) {
    const char* end = at;
    while (end < group && *end != ',') ++end;
    if (static_cast<std::size_t>(end - at) == length && std::strncmp(at, files.line, length) == 0)
      return group + 1;
    at = end;
  }
  return nullptr;
}

inline std::uint64_t memory_headroom_bytes(const MemoryFiles& files) noexcept {
  const std::uint64_t unlimited = ~std::uint64_t{0};
  char group[256] = "/";
  if (FILE* file = fopen("/proc/self/cgroup", "re")) {
    char line[300];
    while (fgets(line, sizeof line, file) != nullptr) {
      line[std::strcspn(line, "\n")] = '\0';
      const char* found = group_in_line(line, files);
      if (found != nullptr) snprintf(group, sizeof group, "%.250s", found);
    }
    fclose(file);
  }
  std::uint64_t headroom = unlimited;
  // Every level up to the root may have a limit of its own. In a container the root of the mount is
  // the container's own group, and the levels that its processes are told of are not there.
  for (char* end = group + std::strlen(group);;) {
    *end = '\0';
    char path[kPathBytes];
    snprintf(path, sizeof path, "%s%s/%s", files.mount, group, files.most);
    const std::uint64_t most = read_number_file(path, unlimited);
    if (most != unlimited) {
      snprintf(path, sizeof path, "%s%s/%s", files.mount, group, files.used);
      const std::uint64_t all = read_number_file(path, 0);
      snprintf(path, sizeof path, "%s%s/memory.stat", files.mount, group);
      const std::uint64_t cache = reclaimable_bytes(path, files);
      const std::uint64_t used = all > cache ? all - cache : 0;
      const std::uint64_t left = most > used ? most - used : 0;
      if (left < headroom) headroom = left;
    }
    if (end == group) return headroom;
    do {
      --end;
    } while (end != group && *end != '/');
  }
}

// What this process's control groups may still allocate; all ones where that cannot be read. Memory
// in a tmpfs is charged to them, and going over it kills the worker instead of failing a call. A
// host may have both versions; whichever controls memory has the files.
inline std::uint64_t memory_limit_headroom_bytes() noexcept {
  const std::uint64_t newer = memory_headroom_bytes(kCgroup2);
  const std::uint64_t older = memory_headroom_bytes(kCgroup1);
  return newer < older ? newer : older;
}

}  // namespace rankbus::bus
