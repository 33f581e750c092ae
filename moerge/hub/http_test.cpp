#include "moerge/hub/http.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

TEST(HubHttp, Origin) {
  EXPECT_EQ(origin_of("https://huggingface.co/a/b?c"), "https://huggingface.co:443");
  EXPECT_EQ(origin_of("HTTPS://HuggingFace.CO:443/"), "https://huggingface.co:443");
  EXPECT_EQ(origin_of("http://127.0.0.1:8000"), "http://127.0.0.1:8000");
  // What only looks like the Hub is another origin.
  for (const char* url :
       {"https://huggingface.co.evil.org/", "https://huggingface.co@evil.org/", "http://huggingface.co/",
        "https://huggingface.co:444/", "https://evil.org/huggingface.co"})
    EXPECT_NE(origin_of(url), "https://huggingface.co:443") << url;
  for (const char* url : {"", "file:///etc/passwd", "ftp://huggingface.co/", "/a/b", "javascript:alert(1)"})
    EXPECT_EQ(origin_of(url), "") << url;
  EXPECT_EQ(origin_of(std::string("https://huggingface.co\0.evil.org/", 33)), "");
}

TEST(HubHttp, Redirects) {
  const std::string base = "https://huggingface.co/org/name/resolve/main/a%20b.bin?x=1";
  EXPECT_EQ(resolve_url(base, "/api/resolve-cache/c?etag=%22e%22"),
            "https://huggingface.co/api/resolve-cache/c?etag=%22e%22");
  EXPECT_EQ(resolve_url(base, "https://cdn.org/get?sig=a%2Fb"), "https://cdn.org/get?sig=a%2Fb");
  EXPECT_EQ(resolve_url(base, "//cdn.org/x"), "https://cdn.org/x");
  EXPECT_EQ(resolve_url(base, "other"), "https://huggingface.co/org/name/resolve/main/other");
  EXPECT_EQ(resolve_url(base, "../x"), "https://huggingface.co/org/name/resolve/x");
  EXPECT_EQ(resolve_url(base, ""), "");
  EXPECT_EQ(resolve_url("", "/a"), "");
  EXPECT_EQ(origin_of(resolve_url(base, "file:///etc/passwd")), "");
}

TEST(HubHttp, ShownWithoutSignature) {
  EXPECT_EQ(shown_url("https://cdn.org/get/a?sig=secret#x"), "https://cdn.org/get/a");
  EXPECT_EQ(shown_url("https://cdn.org/get/a"), "https://cdn.org/get/a");
}

TEST(HubHttp, SecondsToWait) {
  const auto seconds = [](std::map<std::string, std::string> headers) {
    return seconds_to_wait({.status = 429, .headers = std::move(headers)});
  };
  EXPECT_EQ(seconds({{"ratelimit", "\"api\";r=0;t=55"}}), 55);
  EXPECT_EQ(seconds({{"ratelimit", "\"api\"; r=0; t=55"}}), 55);
  EXPECT_EQ(seconds({{"ratelimit", "\"api\";r=0;t=55"}, {"retry-after", "3"}}), 55);
  EXPECT_EQ(seconds({{"ratelimit", "\"api\";r=4;t=55"}}), std::nullopt);
  EXPECT_EQ(seconds({{"ratelimit", "\"api\";r=4;t=55"}, {"retry-after", "3"}}), 3);
  EXPECT_EQ(seconds({{"retry-after", "120"}}), 120);
  EXPECT_EQ(seconds({{"retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"}}), std::nullopt);
  EXPECT_EQ(seconds({{"retry-after", "-5"}}), std::nullopt);
  EXPECT_EQ(seconds({{"retry-after", "99999999999999999999"}}), std::nullopt);
  EXPECT_EQ(seconds({}), std::nullopt);
}

TEST(HubHttp, OwnOrigin) {
  Reporter reporter(Verbosity::quiet);
  const HttpClient client({.endpoint = "http://127.0.0.1:8000"}, reporter);
  EXPECT_TRUE(client.is_own("http://127.0.0.1:8000/x"));
  EXPECT_FALSE(client.is_own("http://127.0.0.1:8001/x"));
  EXPECT_FALSE(client.is_own("http://localhost:8000/x"));
  EXPECT_FALSE(client.is_own(""));
  EXPECT_THROW(HttpClient({.endpoint = "nowhere"}, reporter), Error);
}

TEST(HubHttp, WhatIsNotRepeated) {
  Reporter reporter(Verbosity::quiet);
  HttpClient client({.endpoint = "http://127.0.0.1:9"}, reporter);
  for (const int status : {200, 400, 401, 403, 404, 409, 412, 416, 501})
    EXPECT_FALSE(client.wait_to_repeat({.status = status}, 0, "x")) << status;
  EXPECT_FALSE(client.wait_to_repeat({.status = 503}, 5, "x"));
  EXPECT_FALSE(client.wait_to_repeat({.status = 429, .headers = {{"retry-after", "4000"}}}, 0, "x"));
  EXPECT_FALSE(client.wait_to_repeat({.problem = "x", .hopeless = true}, 0, "x"));
}

TEST(HubHttp, AServerThatIsNotThereIsHopeless) {
  Reporter reporter(Verbosity::quiet);
  HttpClient client({.endpoint = "http://127.0.0.1:1"}, reporter);
  const HttpResponse answer = client.send({.url = "http://127.0.0.1:1/x"});
  EXPECT_EQ(answer.status, 0);
  EXPECT_TRUE(answer.hopeless);
  EXPECT_NE(answer.problem, "");
}

}  // namespace
}  // namespace moerge
