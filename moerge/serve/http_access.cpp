#include "moerge/serve/http_access.h"

#include <algorithm>

#include "moerge/base/lower_case.h"

namespace moerge {
namespace {

bool same(std::string_view given, std::string_view key) {
  size_t differences = given.size() ^ key.size();
  for (size_t i = 0; i < key.size(); i++)
    differences |= static_cast<size_t>(static_cast<unsigned char>(key[i]) ^
                                       static_cast<unsigned char>(i < given.size() ? given[i] : 0));
  return differences == 0;
}

}  // namespace

bool key_fits(std::string_view header, std::span<const std::string> keys) {
  constexpr std::string_view kScheme = "bearer ";
  if (lower_case(header.substr(0, kScheme.size())) == kScheme) header.remove_prefix(kScheme.size());
  while (header.starts_with(' ')) header.remove_prefix(1);
  bool fits = false;
  for (const std::string& key : keys) fits |= same(header, key);
  return fits;
}

std::string host_name(std::string_view authority) {
  if (authority.starts_with('[')) return lower_case(authority.substr(1, authority.find(']') - 1));
  return lower_case(authority.substr(0, authority.find(':')));
}

bool is_loopback(std::string_view host) {
  const auto is_digit_or_dot = [](char c) { return (c >= '0' && c <= '9') || c == '.'; };
  return host == "localhost" || host == "::1" ||
         (host.starts_with("127.") && std::all_of(host.begin(), host.end(), is_digit_or_dot));
}

bool same_origin(std::string_view origin, std::string_view host) {
  const size_t scheme = origin.find("://");
  return scheme != std::string_view::npos && lower_case(origin.substr(scheme + 3)) == lower_case(host);
}

std::string url_host(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

}  // namespace moerge
