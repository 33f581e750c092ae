#include "moerge/hub/xet.h"

#include <exception>
#include <memory>
#include <string_view>
#include <system_error>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/hub/name.h"
#ifdef MOERGE_XET
#include "moerge_rust.h"
#endif

namespace moerge {

#ifdef MOERGE_XET
namespace {

/// What the progress callback needs, and the exception that may not pass through Rust.
struct Watch {
  const XetProgress& progress;
  std::exception_ptr thrown;
};

extern "C" int on_xet_progress(void* user, uint64_t done, uint64_t total) {
  auto& watch = *static_cast<Watch*>(user);
  try {
    check_interrupted();
    if (watch.progress) watch.progress(static_cast<int64_t>(done), static_cast<int64_t>(total));
    return 0;
  } catch (...) {
    watch.thrown = std::current_exception();
    return 1;
  }
}

/// Runs transfer(progress, user, error) of the Rust border and throws what went wrong: "WHAT: REASON".
template <typename Transfer>
void run(const std::string& what, const XetProgress& progress, const Transfer& transfer) {
  check_interrupted();
  Watch watch{progress, nullptr};
  char* text = nullptr;
  const bool done = transfer(&on_xet_progress, &watch, &text);
  const std::unique_ptr<char, void (*)(char*)> reason(text, moerge_free_text);
  if (watch.thrown) std::rethrow_exception(watch.thrown);
  if (!done) fail(ErrorKind::io, "{}: {}", what, reason ? reason.get() : "no reason was given");
}

}  // namespace

bool xet_available() { return true; }

void xet_upload(const std::string& refresh_url, const std::string& token, const std::vector<XetFile>& files,
                const XetProgress& progress) {
  std::vector<const char*> paths, sums;
  for (const XetFile& file : files) {
    if (!is_hex(file.sha256, 64)) {
      fail(ErrorKind::input, "{}: its sha256 should be 64 hexadecimal digits, not \"{}\"", file.path.string(),
           file.sha256);
    }
    std::error_code code;
    static_cast<void>(
        std::filesystem::file_size(file.path, code));  // hf-xet would not say which file it misses
    if (code) fail(ErrorKind::io, "cannot read {}: {}", file.path.string(), code.message());
    paths.push_back(file.path.c_str());
    sums.push_back(file.sha256.c_str());
  }
  if (files.empty()) return;
  const std::string others = files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : "";
  run(fmt::format("cannot upload {}{} by Xet", files[0].path.string(), others), progress,
      [&](MoergeXetProgress tell, void* user, char** error) {
        return moerge_xet_upload(refresh_url.c_str(), token.c_str(), paths.data(), sums.data(), files.size(),
                                 tell, user, error);
      });
}

void xet_download(const std::string& refresh_url, const std::string& token, const std::string& hash,
                  int64_t size, const std::filesystem::path& target, const XetProgress& progress) {
  const std::string what = fmt::format("cannot download {} by Xet", target.string());
  run(what, progress, [&](MoergeXetProgress tell, void* user, char** error) {
    return moerge_xet_download(refresh_url.c_str(), token.c_str(), hash.c_str(), static_cast<uint64_t>(size),
                               target.c_str(), tell, user, error);
  });
  std::error_code code;
  const auto written = std::filesystem::file_size(target, code);
  if (code || written != static_cast<uint64_t>(size)) {
    fail(ErrorKind::io, "{}: it should have {} bytes, and {} arrived", what, size, code ? 0 : written);
  }
}

#else

namespace {

[[noreturn]] void no_xet() {
  fail(ErrorKind::unsupported,
       "this moerge was built without Xet: \"cmake --preset release -DMOERGE_XET=ON\" and \"make\" build one "
       "with it");
}

}  // namespace

bool xet_available() { return false; }

void xet_upload(const std::string&, const std::string&, const std::vector<XetFile>&, const XetProgress&) {
  no_xet();
}

void xet_download(const std::string&, const std::string&, const std::string&, int64_t,
                  const std::filesystem::path&, const XetProgress&) {
  no_xet();
}

#endif

}  // namespace moerge
