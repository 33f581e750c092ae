#include "moerge/hub/xet.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// Nobody listens on this port of the machine's own, so hf-xet waits and tries again. Real transfers:
// tests/hub/xet.py.
const std::string kNobody = "http://127.0.0.1:1/api/models/a/b/xet-write-token/main";

void upload(const std::string& path, const std::string& sha256) {
  xet_upload(kNobody, "hf_secret", {{path, sha256}}, nullptr);
}

template <typename Work>
Error error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::usage, "nothing was thrown"};
}

TEST(Xet, AProgramWithoutItSaysHowToBuildOne) {
  if (xet_available()) GTEST_SKIP() << "built with it";
  for (const Error& error : {error_of([] { upload("/dev/null", std::string(64, '0')); }), error_of([] {
                               xet_download(kNobody, "", std::string(64, '0'), 1, "/dev/null", nullptr);
                             })}) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_NE(error.message().find("-DMOERGE_XET=ON"), std::string::npos) << error.message();
  }
}

TEST(Xet, RefusesFilesBeforeAskingAnybody) {
  if (!xet_available()) GTEST_SKIP() << "built without it";
  EXPECT_EQ(error_of([] { upload("/dev/null", "12ab"); }).message(),
            "/dev/null: its sha256 should be 64 hexadecimal digits, not \"12ab\"");
  EXPECT_EQ(error_of([] { upload("/no/such/file", std::string(64, '0')); }).message(),
            "cannot read /no/such/file: No such file or directory");
  xet_upload(kNobody, "", {}, nullptr);  // nothing to do
}

TEST(Xet, WhatProgressThrowsEndsTheTransfer) {
  if (!xet_available()) GTEST_SKIP() << "built without it";
  const XetProgress stop = [](int64_t, int64_t) { throw std::runtime_error("enough"); };
  EXPECT_THROW(xet_upload(kNobody, "", {{"/proc/self/exe", std::string(64, '0')}}, stop), std::runtime_error);
  EXPECT_THROW(xet_download(kNobody, "", std::string(64, '0'), 1, "/dev/null", stop), std::runtime_error);
}

}  // namespace
}  // namespace moerge
