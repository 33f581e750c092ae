#pragma once
// Who may ask the server: keys, and what browsers must not be talked into.

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

/// Whether the header ("Bearer KEY", or the key alone) holds one of the keys. Takes the same time wherever
/// they differ.
bool key_fits(std::string_view header, std::span<const std::string> keys);

/// "[::1]:8080" -> "::1", "localhost:8080" -> "localhost"; lower case.
std::string host_name(std::string_view authority);

/// The name or address means this computer and nothing else.
bool is_loopback(std::string_view host);

/// Whether a page of this origin comes from the server that `host` (the Host header) names.
bool same_origin(std::string_view origin, std::string_view host);

/// "127.0.0.1", "::1" -> "127.0.0.1", "[::1]": as a URL has it.
std::string url_host(const std::string& host);

}  // namespace moerge
