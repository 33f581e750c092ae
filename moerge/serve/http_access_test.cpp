#include "moerge/serve/http_access.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TEST(HttpAccess, KeysHaveToFitAsAWhole) {
  const std::vector<std::string> keys = {"secret", "another"};
  for (const char* good : {"Bearer secret", "bearer another", "secret", "Bearer  secret"})
    EXPECT_TRUE(key_fits(good, keys)) << good;
  for (const char* bad :
       {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret", "SECRET"})
    EXPECT_FALSE(key_fits(bad, keys)) << bad;
  EXPECT_FALSE(key_fits("", {}));
}

TEST(HttpAccess, HostNamesLoseTheirPort) {
  EXPECT_EQ(host_name("LocalHost:8080"), "localhost");
  EXPECT_EQ(host_name("[::1]:8080"), "::1");
  EXPECT_EQ(host_name("[::1"), "::1");
  EXPECT_EQ(host_name("evil.example"), "evil.example");
}

TEST(HttpAccess, LoopbackIsThisComputerAlone) {
  for (const char* own : {"localhost", "127.0.0.1", "127.1.2.3", "::1"}) EXPECT_TRUE(is_loopback(own)) << own;
  for (const char* other : {"", "0.0.0.0", "::", "127.evil.example", "localhost.evil.example", "10.0.0.1"})
    EXPECT_FALSE(is_loopback(other)) << other;
}

TEST(HttpAccess, OriginsAreTheSameWithTheirPort) {
  EXPECT_TRUE(same_origin("http://localhost:8080", "localhost:8080"));
  EXPECT_TRUE(same_origin("https://Example.org", "example.org"));
  EXPECT_FALSE(same_origin("http://localhost:9", "localhost:8080"));
  EXPECT_FALSE(same_origin("null", "localhost:8080"));
}

}  // namespace
}  // namespace moerge
