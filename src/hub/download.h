// One file over HTTP to disk: redirected, resumed, retried, checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "hub/web.h"

namespace polylora {

/// Follows redirects, from https only to https. `secret_headers` go to the origin of the first URL and to no
/// other: a token is for the hub, not for where the hub keeps its files.
WebAnswer fetch_following(WebRequest request, const std::vector<std::string>& secret_headers,
                          const WebSink& sink = {});

struct Download {
  std::string url;
  std::vector<std::string> secret_headers;
  std::string name;   // for messages: "config.json of org/name"
  uint64_t size = 0;  // what it must have
};

/// Appends to `file` what is missing of it, a few times if the connection breaks; returns with download.size
/// bytes in it. Throws kUnavailable (what there is stays, for the next time), kIo for the disk, kDataCorrupt
/// for an answer of another size.
void download_to(const Download& download, const std::filesystem::path& file, const ProgressFn& progress);

}  // namespace polylora
