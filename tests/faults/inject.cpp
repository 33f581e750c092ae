// A library to preload into a program: it counts the calls that touch files below some folders, writes them
// down, and makes the ones that it is told to fail, come up short, or be the last.
//
//   LD_PRELOAD=moerge_faults.so        (a sanitizer's runtime before it)
//   MOERGE_FAULT_BELOW=/abs/a:/abs/b   the folders, links resolved; without it nothing happens
//   MOERGE_FAULT_TRACE=FILE            appends a line before and one after each counted call, fields between
//   tabs:
//                                        NUMBER > CALL PATH INODE OFFSET COUNT DETAIL
//                                        NUMBER < done|failed RESULT ERRNO
//   MOERGE_FAULT_DELAY=MICROSECONDS    every counted call takes so much longer
//   MOERGE_FAULT_FAST=1                fsync and its like do nothing but be counted
//   MOERGE_FAULT=NUMBER:WHAT,...       what happens to the call with this number (the first is 1, all threads
//   count):
//     errno=E    it does nothing and fails
//     full=E     so does it, and every later one that needs space
//     short      it does half of what was asked; where no half can be done, all
//     signal=S   the process gets this signal, then the call is made
//     pause      the process stops before the call, until it gets SIGCONT
//     kill       the process dies before the call
//     killafter  and after it
//
// DETAIL is O_... flags in hexadecimal of an open, the second path of a rename or link, else "-".

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

// The next library's function of this name; looked up once for each place that calls it.
#define REAL(name)                                                                          \
  ([] {                                                                                     \
    static const auto found = reinterpret_cast<decltype(&::name)>(dlsym(RTLD_NEXT, #name)); \
    return found;                                                                           \
  }())

struct Fault {
  long at = 0;
  std::string what;
  int value = 0;
};

struct Settings {
  std::vector<std::string> folders;
  std::vector<Fault> faults;
  useconds_t delay = 0;
  bool fast = false;
  int trace = -1;
};

std::vector<std::string> split(const char* text, char separator) {
  std::vector<std::string> parts;
  const std::string all = text ? text : "";
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find(separator, begin), all.size());
    if (end > begin) parts.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Settings* read_settings() {
  auto* settings = new Settings;  // never freed: threads call until the very end
  settings->folders = split(getenv("MOERGE_FAULT_BELOW"), ':');
  for (const std::string& one : split(getenv("MOERGE_FAULT"), ',')) {
    const std::vector<std::string> halves = split(one.c_str(), ':');
    const std::vector<std::string> what = split(halves.size() == 2 ? halves[1].c_str() : "", '=');
    if (what.empty()) {
      fprintf(stderr, "MOERGE_FAULT: \"%s\" is no NUMBER:WHAT\n", one.c_str());
      _exit(99);
    }
    settings->faults.push_back(
        {atol(halves[0].c_str()), what[0], what.size() > 1 ? atoi(what[1].c_str()) : 0});
  }
  if (const char* delay = getenv("MOERGE_FAULT_DELAY"))
    settings->delay = static_cast<useconds_t>(atol(delay));
  settings->fast = getenv("MOERGE_FAULT_FAST") != nullptr;
  if (const char* file = getenv("MOERGE_FAULT_TRACE"))
    settings->trace = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  return settings;
}

const Settings& settings() {
  static const Settings* const read = read_settings();
  return *read;
}

std::atomic<long> counter{0};

// --------------------------------------------------------------------------------------------------------
// which path

std::string path_of(int fd) {
  char path[PATH_MAX];
  const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : std::string();
}

// Links resolved, except a last part that is one: that is what the call is about.
std::string path_of(int folder, const char* name) {
  if (!name) return "";
  std::string path = name;
  if (path.empty() || path[0] != '/') {
    char here[PATH_MAX];
    const std::string base = folder != AT_FDCWD ? path_of(folder) : getcwd(here, sizeof here) ? here : "";
    path = base + "/" + path;
  }
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  char resolved[PATH_MAX];
  const std::string parent = path.substr(0, std::max<size_t>(slash, 1)), last = path.substr(slash + 1);
  if (!realpath(parent.c_str(), resolved)) return path;
  return (strcmp(resolved, "/") == 0 ? "" : std::string(resolved)) + "/" + last;
}

bool is_watched(const std::string& path) {
  return std::ranges::any_of(settings().folders, [&](const std::string& folder) {
    return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
  });
}

// ------------------------------------------------------------------------------------------------------- one
// call

struct Call {
  const char* name;
  std::string path;
  bool needs_space = false;
  size_t* count = nullptr;  // what a short call halves
  int fd = -1;
  off_t offset = -1;
  std::string detail = "-";
};

// Where write() will write.
off_t position(int fd) {
  struct stat info = {};
  if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &info) == 0 ? info.st_size : -1;
  return lseek(fd, 0, SEEK_CUR);
}

void note(const std::string& line) {
  if (settings().trace >= 0 && REAL(write)(settings().trace, line.data(), line.size()) < 0) _exit(98);
}

void note_before(long number, const Call& call) {
  if (settings().trace < 0) return;
  struct stat info = {};
  const bool there = call.fd >= 0 ? fstat(call.fd, &info) == 0 : lstat(call.path.c_str(), &info) == 0;
  note(std::to_string(number) + "\t>\t" + call.name + "\t" + call.path + "\t" +
       std::to_string(there ? info.st_ino : 0) + "\t" + std::to_string(call.offset) + "\t" +
       (call.count ? std::to_string(*call.count) : "-") + "\t" + call.detail + "\n");
}

// Nothing returns from this: not even other threads run on.
[[noreturn]] void die() {
  for (;;) kill(getpid(), SIGKILL), pause();
}

// Makes the call, or does to it what the settings say. `failed` is what it returns when it fails.
template <typename Result, typename Real>
Result make(const Call& call, Result failed, const Real& real) {
  if (!is_watched(call.path)) return real();
  const int before = errno;
  const long number = ++counter;
  if (settings().delay) usleep(settings().delay);
  note_before(number, call);
  bool dies = false;
  int error = 0;
  for (const Fault& fault : settings().faults) {
    const bool now = fault.at == number;
    if (fault.what == "full" && number >= fault.at && (now || call.needs_space)) error = fault.value;
    if (!now) continue;
    if (fault.what == "errno") error = fault.value;
    if (fault.what == "short" && call.count && *call.count > 1) *call.count /= 2;
    if (fault.what == "signal") kill(getpid(), fault.value);
    if (fault.what == "pause") raise(SIGSTOP);
    if (fault.what == "kill") die();
    dies = dies || fault.what == "killafter";
  }
  errno = before;
  const Result result = error ? failed : real();
  const int after = error ? error : errno;
  const bool bad = result == failed;
  note(std::to_string(number) + "\t<\t" + (bad ? "failed" : "done") + "\t" +
       (call.count && !bad ? std::to_string((long long)(result)) : "-") + "\t" +
       std::to_string(bad ? after : 0) + "\n");
  if (dies) die();
  errno = after;
  return result;
}

std::string hex(int flags) {
  char text[16];
  snprintf(text, sizeof text, "%x", static_cast<unsigned>(flags));
  return text;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

template <typename Real>
int open_file(int folder, const char* name, int flags, const Real& real) {
  const std::string path = path_of(folder, name);
  return make(Call{.name = "open", .path = path, .needs_space = (flags & O_CREAT) != 0, .detail = hex(flags)},
              -1, real);
}

// A call without bytes to count, on an open file or on a name.
template <typename Real>
int on_file(const char* name, int fd, bool needs_space, const Real& real) {
  return make(Call{.name = name, .path = path_of(fd), .needs_space = needs_space, .fd = fd}, -1, real);
}

template <typename Real>
int on_sync(const char* name, int fd, const Real& real) {
  return on_file(name, fd, true, [&] { return settings().fast && fcntl(fd, F_GETFD) >= 0 ? 0 : real(); });
}

template <typename Real>
int on_name(const char* name, int folder, const char* path, bool needs_space, const Real& real) {
  return make(Call{.name = name, .path = path_of(folder, path), .needs_space = needs_space}, -1, real);
}

template <typename Real>
int on_names(const char* name, int folder, const char* from, int to_folder, const char* to,
             const Real& real) {
  const std::string first = path_of(folder, from), second = path_of(to_folder, to);
  const bool by_first = is_watched(first);  // a call is counted for whichever of the two is watched
  return make(Call{.name = name,
                   .path = by_first ? first : second,
                   .needs_space = true,
                   .detail = by_first ? second : first},
              -1, real);
}

template <typename Real>
ssize_t bytes(const char* name, int fd, bool writes, size_t* count, off_t offset, const Real& real) {
  return make(Call{.name = name,
                   .path = path_of(fd),
                   .needs_space = writes,
                   .count = count,
                   .fd = fd,
                   .offset = offset},
              ssize_t{-1}, real);
}

size_t total(const iovec* parts, int n) {
  size_t sum = 0;
  for (int i = 0; i < n; i++) sum += parts[i].iov_len;
  return sum;
}

// The first `count` bytes of these parts.
std::vector<iovec> first_of(const iovec* parts, int n, size_t count) {
  std::vector<iovec> some(parts, parts + n);
  for (iovec& part : some) {
    part.iov_len = std::min(part.iov_len, count);
    count -= part.iov_len;
  }
  return some;
}

}  // namespace

// --------------------------------------------------------------------------------------------------- what is
// replaced

#define MODE                                     \
  va_list arguments;                             \
  va_start(arguments, flags);                    \
  const mode_t mode = mode_of(flags, arguments); \
  va_end(arguments)

extern "C" {

int open(const char* path, int flags, ...) {
  MODE;
  return open_file(AT_FDCWD, path, flags, [&] { return REAL(open)(path, flags, mode); });
}
int open64(const char* path, int flags, ...) {
  MODE;
  return open_file(AT_FDCWD, path, flags, [&] { return REAL(open64)(path, flags, mode); });
}
int openat(int folder, const char* path, int flags, ...) {
  MODE;
  return open_file(folder, path, flags, [&] { return REAL(openat)(folder, path, flags, mode); });
}
int openat64(int folder, const char* path, int flags, ...) {
  MODE;
  return open_file(folder, path, flags, [&] { return REAL(openat64)(folder, path, flags, mode); });
}
int creat(const char* path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

ssize_t read(int fd, void* to, size_t count) {
  return bytes("read", fd, false, &count, position(fd), [&] { return REAL(read)(fd, to, count); });
}
ssize_t pread(int fd, void* to, size_t count, off_t at) {
  return bytes("pread", fd, false, &count, at, [&] { return REAL(pread)(fd, to, count, at); });
}
ssize_t pread64(int fd, void* to, size_t count, off64_t at) {
  return bytes("pread", fd, false, &count, at, [&] { return REAL(pread64)(fd, to, count, at); });
}

ssize_t write(int fd, const void* from, size_t count) {
  return bytes("write", fd, true, &count, position(fd), [&] { return REAL(write)(fd, from, count); });
}
ssize_t pwrite(int fd, const void* from, size_t count, off_t at) {
  return bytes("pwrite", fd, true, &count, at, [&] { return REAL(pwrite)(fd, from, count, at); });
}
ssize_t pwrite64(int fd, const void* from, size_t count, off64_t at) {
  return bytes("pwrite", fd, true, &count, at, [&] { return REAL(pwrite64)(fd, from, count, at); });
}
ssize_t writev(int fd, const iovec* parts, int n) {
  size_t count = total(parts, n);
  return bytes("write", fd, true, &count, position(fd),
               [&] { return REAL(writev)(fd, first_of(parts, n, count).data(), n); });
}
ssize_t pwritev(int fd, const iovec* parts, int n, off_t at) {
  size_t count = total(parts, n);
  return bytes("pwrite", fd, true, &count, at,
               [&] { return REAL(pwritev)(fd, first_of(parts, n, count).data(), n, at); });
}
ssize_t pwritev64(int fd, const iovec* parts, int n, off64_t at) {
  size_t count = total(parts, n);
  return bytes("pwrite", fd, true, &count, at,
               [&] { return REAL(pwritev64)(fd, first_of(parts, n, count).data(), n, at); });
}
ssize_t copy_file_range(int from, off64_t* from_at, int to, off64_t* to_at, size_t count, unsigned flags) {
  return bytes("copy_file_range", to, true, &count, to_at ? *to_at : position(to),
               [&] { return REAL(copy_file_range)(from, from_at, to, to_at, count, flags); });
}
ssize_t sendfile(int to, int from, off_t* at, size_t count) noexcept {
  return bytes("sendfile", to, true, &count, position(to),
               [&] { return REAL(sendfile)(to, from, at, count); });
}
ssize_t sendfile64(int to, int from, off64_t* at, size_t count) noexcept {
  return bytes("sendfile", to, true, &count, position(to),
               [&] { return REAL(sendfile64)(to, from, at, count); });
}

int ftruncate(int fd, off_t size) noexcept {
  return make(Call{.name = "ftruncate", .path = path_of(fd), .fd = fd, .offset = size}, -1,
              [&] { return REAL(ftruncate)(fd, size); });
}
int ftruncate64(int fd, off64_t size) noexcept {
  return make(Call{.name = "ftruncate", .path = path_of(fd), .fd = fd, .offset = size}, -1,
              [&] { return REAL(ftruncate64)(fd, size); });
}
int truncate(const char* path, off_t size) noexcept {
  return on_name("truncate", AT_FDCWD, path, false, [&] { return REAL(truncate)(path, size); });
}
int fallocate(int fd, int mode, off_t at, off_t size) {
  return on_file("fallocate", fd, true, [&] { return REAL(fallocate)(fd, mode, at, size); });
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
  return on_file("fallocate", fd, true, [&] { return REAL(fallocate64)(fd, mode, at, size); });
}
int posix_fallocate(int fd, off_t at, off_t size) {  // returns the error instead of setting errno
  const int result = on_file("fallocate", fd, true, [&] {
    const int error = REAL(posix_fallocate)(fd, at, size);
    return error == 0 ? 0 : (errno = error, -1);
  });
  return result == 0 ? 0 : errno;
}
int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  constexpr unsigned long kClone = 0x40049409,
                          kCloneRange = 0x4020940d;  // FICLONE, FICLONERANGE of linux/fs.h
  if (request != kClone && request != kCloneRange) return REAL(ioctl)(fd, request, argument);
  return on_file("clone", fd, true, [&] { return REAL(ioctl)(fd, request, argument); });
}

int fsync(int fd) {
  return on_sync("fsync", fd, [&] { return REAL(fsync)(fd); });
}
int fdatasync(int fd) {
  return on_sync("fdatasync", fd, [&] { return REAL(fdatasync)(fd); });
}
int syncfs(int fd) noexcept {
  return on_sync("syncfs", fd, [&] { return REAL(syncfs)(fd); });
}
int sync_file_range(int fd, off64_t at, off64_t count, unsigned flags) {
  return on_sync("sync_file_range", fd, [&] { return REAL(sync_file_range)(fd, at, count, flags); });
}

int rename(const char* from, const char* to) noexcept {
  return on_names("rename", AT_FDCWD, from, AT_FDCWD, to, [&] { return REAL(rename)(from, to); });
}
int renameat(int folder, const char* from, int to_folder, const char* to) noexcept {
  return on_names("rename", folder, from, to_folder, to,
                  [&] { return REAL(renameat)(folder, from, to_folder, to); });
}
int renameat2(int folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  const char* const name = flags & RENAME_EXCHANGE ? "exchange" : "rename";
  return on_names(name, folder, from, to_folder, to,
                  [&] { return REAL(renameat2)(folder, from, to_folder, to, flags); });
}
int link(const char* from, const char* to) noexcept {
  return on_names("link", AT_FDCWD, from, AT_FDCWD, to, [&] { return REAL(link)(from, to); });
}
int linkat(int folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return on_names("link", folder, from, to_folder, to,
                  [&] { return REAL(linkat)(folder, from, to_folder, to, flags); });
}
int symlink(const char* text, const char* path) noexcept {
  return on_name("symlink", AT_FDCWD, path, true, [&] { return REAL(symlink)(text, path); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  return on_name("mkdir", AT_FDCWD, path, true, [&] { return REAL(mkdir)(path, mode); });
}
int mkdirat(int folder, const char* path, mode_t mode) noexcept {
  return on_name("mkdir", folder, path, true, [&] { return REAL(mkdirat)(folder, path, mode); });
}
int unlink(const char* path) noexcept {
  return on_name("unlink", AT_FDCWD, path, false, [&] { return REAL(unlink)(path); });
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  return on_name("unlink", folder, path, false, [&] { return REAL(unlinkat)(folder, path, flags); });
}
int rmdir(const char* path) noexcept {
  return on_name("rmdir", AT_FDCWD, path, false, [&] { return REAL(rmdir)(path); });
}
int remove(const char* path) noexcept {
  return on_name("unlink", AT_FDCWD, path, false, [&] { return REAL(remove)(path); });
}

void* mmap(void* where, size_t size, int protection, int flags, int fd, off_t at) noexcept {
  if (fd < 0)
    return REAL(mmap)(where, size, protection, flags, fd, at);  // memory: needed before anything else works
  return make(Call{.name = "mmap", .path = path_of(fd), .fd = fd, .offset = at}, MAP_FAILED,
              [&] { return REAL(mmap)(where, size, protection, flags, fd, at); });
}
void* mmap64(void* where, size_t size, int protection, int flags, int fd, off64_t at) noexcept {
  if (fd < 0) return REAL(mmap64)(where, size, protection, flags, fd, at);
  return make(Call{.name = "mmap", .path = path_of(fd), .fd = fd, .offset = at}, MAP_FAILED,
              [&] { return REAL(mmap64)(where, size, protection, flags, fd, at); });
}

}  // extern "C"
