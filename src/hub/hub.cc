#include "hub/hub.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "hub/digest.h"
#include "hub/download.h"
#include "hub/hub_cache.h"
#include "hub/hub_files.h"
#include "hub/web.h"

namespace polylora {

struct Hub::Snapshot {
  std::string commit;
  std::vector<std::string> files;
  bool is_cached = false;  // the hub was not asked: what is here must do
};

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxListingBytes = size_t{64} << 20;
constexpr int kMaxDepth = 64;

/// What the hub says of a file without sending it.
struct FileFacts {
  std::string etag;
  uint64_t size = 0;
};

[[noreturn]] void fail_answer(const HubSettings& settings, const HubId& id, const WebAnswer& answer) {
  const std::string_view why = answer.header("x-error-code");
  const char* token = settings.token.empty() ? "set HF_TOKEN to a token that may read it"
                                             : "the token in use may not read it";
  if (why == "GatedRepo" || answer.status == 403)
    fail(ErrorCode::kNotFound, "{} is gated: accept its conditions at {}/{}, and {}", id.repo,
         settings.endpoint, id.repo, token);
  if (why == "RevisionNotFound") fail(ErrorCode::kNotFound, "{} has no revision '{}'", id.repo, id.revision);
  if (answer.status == 401 || answer.status == 404)
    fail(ErrorCode::kNotFound,
         "there is no folder {} here and no repository {} at {}; if it is private or gated, {}", id.repo,
         id.repo, settings.endpoint, token);
  fail(ErrorCode::kUnavailable, "{} answers HTTP {} for {}", settings.endpoint, answer.status, id.repo);
}

json parse_listing(const std::string& text, const std::string& endpoint) {
  const auto limit_depth = [](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth) throw std::length_error("depth");
    return true;
  };
  try {
    return json::parse(text, limit_depth);
  } catch (const std::exception&) {
    fail(ErrorCode::kUnavailable, "{} does not answer as the Hugging Face hub does; is HF_ENDPOINT right?",
         endpoint);
  }
}

bool is_hex(const std::string& text, size_t size) {
  return text.size() == size && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isxdigit(c) != 0 && std::isupper(c) == 0;
         });
}

/// W/"abc" and "abc" are abc.
std::string plain_etag(std::string_view text) {
  if (text.starts_with("W/")) text.remove_prefix(2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return std::string(text);
}

FileFacts read_facts(const WebAnswer& answer, const std::string& name) {
  const auto either = [&](const char* linked, const char* own) {
    const std::string_view value = answer.header(linked);
    return value.empty() ? answer.header(own) : value;
  };
  FileFacts facts{.etag = plain_etag(either("x-linked-etag", "etag"))};
  const std::string_view size = either("x-linked-size", "content-length");
  const auto parsed = std::from_chars(size.data(), size.data() + size.size(), facts.size);
  if (parsed.ec != std::errc() || !(is_hex(facts.etag, 64) || is_hex(facts.etag, 40)))
    fail(ErrorCode::kUnavailable, "{}: the hub names no size and checksum to check a download with", name);
  return facts;
}

/// HEAD, redirected within the hub (a renamed repository) but not to where the content lies, which knows no
/// checksum.
WebAnswer ask_for_facts(std::string url, const std::vector<std::string>& headers) {
  constexpr int kMaxRedirects = 5;
  WebAnswer answer;
  for (int i = 0; i <= kMaxRedirects; ++i) {
    answer = fetch_once({.url = url, .head = true, .headers = headers});
    const std::string location(answer.header("location"));
    if (!answer.is_redirect() || location.empty() || !answer.header("x-linked-etag").empty()) break;
    const std::string next = resolve_location(url, location);
    if (origin_of(next) != origin_of(url)) break;
    url = next;
  }
  return answer;
}

/// The hub's names for contents: SHA-256 for large files, git's for the others.
void check_content(const fs::path& file, const FileFacts& facts, const std::string& name) {
  const std::string found = facts.etag.size() == 64 ? sha256_of_file(file) : git_blob_of_file(file);
  if (found == facts.etag) return;
  std::error_code ignored;
  fs::remove(file, ignored);
  fail(ErrorCode::kDataCorrupt, "{}: the download has the checksum {}, the hub says {}; it was thrown away",
       name, found, facts.etag);
}

}  // namespace

Hub::Hub(HubSettings settings, ProgressFn progress, std::function<void(std::string_view)> say)
    : settings_(std::move(settings)), progress_(std::move(progress)), say_(std::move(say)) {}

fs::path Hub::fetch_model(const HubId& id) const {
  const Fetched fetched = fetch(id, choose_model_files);
  return id.file.empty() ? fetched.folder : fetched.folder / fetched.files.front();
}

fs::path Hub::fetch_adapter(const HubId& id) const {
  return fetch(id, choose_adapter_files).folder;
}

std::vector<std::string> Hub::secret_headers() const {
  if (settings_.token.empty()) return {};
  return {"Authorization: Bearer " + settings_.token};
}

Hub::Snapshot Hub::find_snapshot(const HubId& id) const {
  if (settings_.offline) return look_in_cache(id, "HF_HUB_OFFLINE is set");
  try {
    return ask_hub(id);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnavailable) throw;
    Snapshot cached = look_in_cache(id, error.what());
    if (say_) say_(fmt::format("{}: using the cached files of {}", error.what(), id.repo));
    return cached;
  }
}

Hub::Snapshot Hub::ask_hub(const HubId& id) const {
  const std::string url =
      fmt::format("{}/api/models/{}/revision/{}", settings_.endpoint, id.repo, encode_segment(id.revision));
  std::string text;
  const WebAnswer answer =
      fetch_following({.url = url}, secret_headers(), [&](const WebAnswer&, std::string_view piece) {
        if (piece.size() > kMaxListingBytes - text.size())
          fail(ErrorCode::kUnavailable, "{} sends an endless list of files", settings_.endpoint);
        text += piece;
      });
  if (!answer.is_success()) fail_answer(settings_, id, answer);
  const json listing = parse_listing(text, settings_.endpoint);
  const json commit = listing.is_object() ? listing.value("sha", json()) : json();
  const json siblings = listing.is_object() ? listing.value("siblings", json()) : json();
  if (!commit.is_string() || !is_commit(commit.get<std::string>()) || !siblings.is_array())
    fail(ErrorCode::kUnavailable, "{} lists {} in a way that is not understood", settings_.endpoint, id.repo);
  Snapshot snapshot{.commit = commit, .files = {}};
  for (const json& sibling : siblings) {
    const json name = sibling.is_object() ? sibling.value("rfilename", json()) : json();
    if (name.is_string()) snapshot.files.push_back(name);
  }
  return snapshot;
}

Hub::Snapshot Hub::look_in_cache(const HubId& id, const std::string& why) const {
  const HubCache cache(settings_.cache, id.repo);
  const std::optional<std::string> commit = cache.find_commit(id.revision);
  std::error_code error;
  Snapshot snapshot{.commit = commit.value_or(""), .files = {}, .is_cached = true};
  if (commit) {
    for (const auto& entry : fs::directory_iterator(cache.snapshot(*commit), error)) {
      if (fs::is_regular_file(entry.path(), error)) snapshot.files.push_back(entry.path().filename());
    }
  }
  if (snapshot.files.empty())
    fail(ErrorCode::kUnavailable, "there is no folder {} here, and {}@{} is not in the cache {} ({})",
         id.repo, id.repo, id.revision, settings_.cache.string(), why);
  return snapshot;
}

void Hub::fetch_file(const HubId& id, const Snapshot& snapshot, const std::string& file) const {
  const HubCache cache(settings_.cache, id.repo);
  std::error_code ignored;
  if (fs::is_regular_file(cache.snapshot(snapshot.commit) / file, ignored)) return;
  const std::string name = fmt::format("{} of {}", file, id.repo);
  Download download{.url = fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, id.repo, snapshot.commit,
                                       encode_path(file)),
                    .secret_headers = secret_headers(),
                    .name = name};
  const WebAnswer head = ask_for_facts(download.url, secret_headers());
  if (!head.is_success() && !head.is_redirect()) fail_answer(settings_, id, head);
  const FileFacts facts = read_facts(head, name);
  download.size = facts.size;

  const HubCache::Lock lock(cache, facts.etag);
  if (!fs::is_regular_file(cache.blob(facts.etag), ignored)) {  // another process may have been faster
    const fs::path incomplete = cache.incomplete(facts.etag);
    download_to(download, incomplete, progress_);
    check_content(incomplete, facts, name);
    fs::rename(incomplete, cache.blob(facts.etag));
  }
  cache.link(snapshot.commit, file, facts.etag);
}

Hub::Fetched Hub::fetch(const HubId& id, const Choose& choose) const {
  const Snapshot snapshot = find_snapshot(id);
  const HubCache cache(settings_.cache, id.repo);
  std::vector<std::string> files = choose(id, snapshot.files);
  if (!snapshot.is_cached) {
    for (const std::string& file : files) fetch_file(id, snapshot, file);
    cache.remember_commit(id.revision, snapshot.commit);
  }
  return {cache.snapshot(snapshot.commit), std::move(files)};
}

}  // namespace polylora
