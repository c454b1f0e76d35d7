// The HTTP server: OpenAI- and vLLM-compatible routes over the engines of one or more base models.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "serve/tool_calls.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace polylora {

/// A base model: what computes it, what it is called and how its text side works. Everything pointed to
/// outlives the server.
struct ServedModel {
  Engine* engine = nullptr;                     // never null
  std::vector<std::string> names;               // --served-model-name; the first one is echoed; never empty
  std::string root;                             // the model path as the user gave it
  const Tokenizer* tokenizer = nullptr;         // null with --skip-tokenizer-init: token ids only
  const ChatTemplate* chat_template = nullptr;  // null: /v1/chat/completions answers 400
  std::string bos_token, eos_token;             // for the template; empty: absent
  std::vector<int32_t> eos_token_ids;           // what ends an answer; empty: what the engine's model says
  bool add_special_tokens = true;               // to plain /v1/completions prompts
  /// From generation_config.json (--generation-config): used where a request is silent.
  std::optional<float> default_temperature, default_top_p, default_min_p, default_repetition_penalty;
  std::optional<int> default_top_k, default_max_tokens;
  int max_logprobs = 20;  // most that a request may ask for
};

/// A model's text side as an adapter changes it, and what it then points to.
struct OwnText {
  ServedModel model;
  std::shared_ptr<const Tokenizer> tokenizer;         // null: the base's
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the base's
};

/// Reads an adapter's folder; empty when it changes nothing of the base's text side. Any thread.
using AdapterTextLoader =
    std::function<std::optional<OwnText>(const std::filesystem::path& folder, const ServedModel& base)>;

struct ServerOptions {
  std::string host = "0.0.0.0";
  uint16_t port = 8000;               // 0: any free one, see Server::port()
  std::string uds;                    // serve on this Unix socket instead
  std::vector<std::string> api_keys;  // empty: no authentication; guards every route but /health
  std::string allowed_origins = "[\"*\"]", allowed_methods = "[\"*\"]",
              allowed_headers = "[\"*\"]";  // JSON lists
  bool allow_credentials = false;
  std::string ssl_certfile, ssl_keyfile;  // both or none
  std::string root_path;                  // prefix stripped from every path
  std::string response_role = "assistant";
  bool allow_runtime_lora_updating = false;  // the /v1/load_lora_adapter routes exist at all
  /// What the path of a load request stands for; empty: itself. Called on the loading thread; may download.
  std::function<std::filesystem::path(const std::string&)> find_adapter;
  AdapterTextLoader load_adapter_text;  // empty: adapters speak as their base does
  bool enable_lora = false;
  bool enable_prompt_tokens_details = false;
  bool enable_force_include_usage = false;
  bool enable_request_id_headers = false;
  /// Whether and how the model's own tool calls are looked for (tool_choice "auto").
  bool enable_auto_tool_choice = false;
  std::optional<ToolCallFormat> tool_call_format;
  bool exclude_tools_when_tool_choice_none = false;
  bool access_log = true;
  int http_threads = 1;
  // limits against hostile or broken clients
  size_t max_body_bytes = size_t{64} << 20;
  size_t max_header_bytes = size_t{64} << 10;
  int max_n = 128;
  int max_prompts = 1024;
  int max_stop_strings = 4;
  int max_connections = 4096;
  std::chrono::seconds header_timeout{10};     // half-open sockets, slow headers
  std::chrono::seconds body_timeout{60};       // slow bodies
  std::chrono::seconds write_timeout{30};      // a client that does not read
  std::chrono::seconds keep_alive_timeout{5};  // VLLM_HTTP_TIMEOUT_KEEP_ALIVE
};

class Server {
 public:
  /// `models` are the registry's bases, in its order; their names differ. Requests that name none get the
  /// first. Binds and listens; throws kIo naming the address when that fails. Serves nothing until run().
  Server(std::vector<ServedModel> models, AdapterRegistry& registry, const ServerOptions& options);
  ~Server();

  uint16_t port() const;    // the bound one
  std::string url() const;  // "http://127.0.0.1:8000"

  /// To be told when an adapter was removed from the registry other than through a route: its metrics go. Any
  /// thread.
  void adapter_removed(const std::string& name);

  /// Serves until stop(); then refuses new connections, lets running replies finish for at most the drain
  /// time given to stop(), and returns.
  void run();

  /// Safe from any thread and, through an atomic, from a signal handler's watcher.
  void stop(std::chrono::milliseconds drain);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polylora
