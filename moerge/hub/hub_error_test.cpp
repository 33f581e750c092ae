#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/hub/hub.h"

namespace moerge {
namespace {

const std::string kHub = "https://huggingface.co";

struct Row {
  HttpResponse answer;
  std::string path, token;
  ErrorKind kind;
  std::string sentence;
};

HttpResponse refusal(int status, std::map<std::string, std::string> headers, std::string body = "",
                     std::string url = kHub + "/x?sig=secret") {
  return {.status = status, .url = std::move(url), .headers = std::move(headers), .body = std::move(body)};
}

TEST(HubError, Sentences) {
  const ErrorKind config = ErrorKind::config, io = ErrorKind::io;
  const std::string invalid = "Invalid credentials in Authorization header";
  const Row rows[] = {
      {{.problem = "Could not resolve host: huggingface.co", .url = kHub + "/x"},
       "",
       "",
       io,
       "\"org/name\": https://huggingface.co/x did not answer: Could not resolve host: huggingface.co; is "
       "the "
       "network up, and HF_ENDPOINT right?"},
      {{.status = 200, .problem = "transfer closed", .url = kHub + "/x"},
       "a.bin",
       "",
       io,
       "\"a.bin\" of \"org/name\": the answer of https://huggingface.co/x cannot be used: transfer closed"},
      {refusal(401, {{"x-error-message", invalid}}), "", "hf_x", config,
       "\"org/name\": the Hub does not know the token in HF_TOKEN: it is mistyped, revoked or expired; make "
       "one at "
       "https://huggingface.co/settings/tokens"},
      {refusal(403, {{"x-error-message", "Access to this resource is disabled."}}), "", "", config,
       "\"org/name\": the Hub has disabled access to it"},
      {refusal(401, {{"x-error-code", "GatedRepo"}, {"x-error-message", "Restricted"}}), "", "", config,
       "\"org/name\": the model is gated: accept its licence at https://huggingface.co/org/name and give "
       "your token "
       "in HF_TOKEN (or log in with \"hf auth login\") (the Hub says: Restricted)"},
      {refusal(403, {{"x-error-code", "GatedRepo"}}), "a.bin", "hf_x", config,
       "\"a.bin\" of \"org/name\": the model is gated: accept its licence at https://huggingface.co/org/name "
       "with the "
       "account whose token is in HF_TOKEN"},
      {refusal(404, {{"x-error-code", "RevisionNotFound"}}), "", "", config,
       "\"org/name\": there is no branch, tag or commit \"v2\"; its revisions are listed at "
       "https://huggingface.co/org/name/tree/main"},
      {refusal(404, {{"x-error-code", "EntryNotFound"}}), "a.bin", "", config,
       "\"a.bin\" of \"org/name\": there is no such file at revision \"v2\""},
      {refusal(401, {{"x-error-code", "RepoNotFound"}}), "", "", config,
       "\"org/name\": there is no such model at https://huggingface.co, or it is private and no token was "
       "sent; set "
       "HF_TOKEN, or log in with \"hf auth login\""},
      {refusal(404, {{"x-error-code", "RepoNotFound"}}), "", "hf_x", config,
       "\"org/name\": there is no such model at https://huggingface.co, or it is private and the token in "
       "HF_TOKEN does "
       "not give access"},
      {refusal(401, {}), "", "", config,
       "\"org/name\": there is no such model at https://huggingface.co, or it is private and no token was "
       "sent; set "
       "HF_TOKEN, or log in with \"hf auth login\""},
      {refusal(401, {}, R"({"error": "Invalid username or password."})"), "", "", config,
       "\"org/name\": the Hub wants to know who asks: no token was sent; set HF_TOKEN, or log in with \"hf "
       "auth "
       "login\""},
      {refusal(403, {}, R"({"error": ["no", "never"]})"), "", "hf_x", config,
       "\"org/name\": the Hub refuses (the Hub says: no; never): the token in HF_TOKEN may lack the right "
       "(see "
       "https://huggingface.co/settings/tokens)"},
      {refusal(429, {{"retry-after", "5000"}}), "", "", io,
       "\"org/name\": too many requests to the Hub; try again in 5000 s (with a token more are allowed)"},
      {refusal(429, {}), "", "hf_x", io,
       "\"org/name\": too many requests to the Hub; try again in some minutes"},
      {refusal(503, {{"x-request-id", "Root=1"}}, R"({"errors": [{"message": "down"}]})"), "", "", io,
       "\"org/name\": the Hub has a fault of its own (HTTP 503) (the Hub says: down); try again later "
       "(request "
       "Root=1)"},
      {refusal(400, {}, "<html>"), "a.bin", "", io,
       "\"a.bin\" of \"org/name\": https://huggingface.co/x answered HTTP 400"},
      {refusal(403, {}, "<Error/>", "https://cdn.org/get/a?sig=secret"), "a.bin", "hf_x", io,
       "\"a.bin\" of \"org/name\": https://cdn.org/get/a, where the Hub sends us for it, answered HTTP 403; "
       "try again "
       "later"},
  };
  for (const Row& row : rows) {
    const HubSettings settings = {.token = row.token, .token_source = row.token.empty() ? "" : "HF_TOKEN"};
    try {
      fail_hub(row.answer, {.name = {"org/name", "v2"}, .path = row.path}, settings);
    } catch (const Error& error) {
      EXPECT_EQ(error.message(), row.sentence);
      EXPECT_EQ(error.kind(), row.kind) << row.sentence;
    }
  }
}

TEST(HubError, MessagesAreSafeToPrintAndShort) {
  EXPECT_EQ(hub_message(refusal(400, {{"x-error-message", "a\x1b[2J"}})), "a\\x1b[2J");
  EXPECT_EQ(hub_message(refusal(400, {}, R"({"warnings": [{"message": "w"}], "error": "e"})")), "e; w");
  EXPECT_EQ(hub_message(refusal(400, {}, "no JSON")), "");
  EXPECT_EQ(hub_message(refusal(400, {}, "[1]")), "");
  EXPECT_EQ(hub_message(refusal(400, {}, R"({"error": 5, "errors": {"message": "m"}})")), "m");
  EXPECT_LT(hub_message(refusal(400, {{"x-error-message", std::string(5000, 'x')}})).size(), 700u);
}

TEST(HubError, OfAnAccountTheHubIsNamed) {
  try {
    fail_hub(refusal(401, {}, R"({"error": "Invalid username or password."})"), {}, {});
  } catch (const Error& error) {
    EXPECT_EQ(error.message(),
              "https://huggingface.co: the Hub wants to know who asks: no token was sent; set HF_TOKEN, or "
              "log in with "
              "\"hf auth login\"");
  }
}

}  // namespace
}  // namespace moerge
