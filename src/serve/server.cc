#include "serve/server.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "serve/auth.h"
#include "serve/cors.h"
#include "serve/http_server.h"
#include "serve/serve_context.h"

namespace polylora {

namespace {

/// How long answers may take to reach their clients once the engine has ended every request.
constexpr std::chrono::milliseconds kFlushTime{2'000};

HttpServerOptions http_options(const ServerOptions& options) {
  if (options.ssl_certfile.empty() != options.ssl_keyfile.empty())
    fail(ErrorCode::kInvalidArgument, "--ssl-certfile and --ssl-keyfile must be given together");
  HttpServerOptions http;
  http.host = options.host;
  http.port = options.port;
  http.uds = options.uds;
  http.ssl_certfile = options.ssl_certfile;
  http.ssl_keyfile = options.ssl_keyfile;
  http.root_path = options.root_path;
  http.access_log = options.access_log;
  http.threads = options.http_threads;
  http.max_body_bytes = options.max_body_bytes;
  http.max_header_bytes = options.max_header_bytes;
  http.max_connections = options.max_connections;
  http.header_timeout = options.header_timeout;
  http.body_timeout = options.body_timeout;
  http.write_timeout = options.write_timeout;
  http.keep_alive_timeout = options.keep_alive_timeout;
  return http;
}

std::vector<ServedBase> served_bases(std::vector<ServedModel> models, const ServerOptions& options) {
  std::vector<ServedBase> bases;
  for (ServedModel& model : models) {
    Engine& engine = *model.engine;
    RequestRules rules = request_rules(options, model, engine.options().priority_scheduling);
    auto grammars = std::make_unique<GrammarCache>(model.tokenizer);
    bases.push_back({std::move(model), engine, std::move(rules), std::move(grammars)});
  }
  return bases;
}

std::string new_request_id() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return fmt::format("{:016x}{:016x}", generator(), generator());
}

}  // namespace

class Server::Impl {
 public:
  Impl(std::vector<ServedModel> models, AdapterRegistry& registry, const ServerOptions& options)
      : options_(options),
        texts_(options_.load_adapter_text),
        auth_(options_.api_keys),
        cors_(options_),
        http_(
            http_options(options_), [this](const std::shared_ptr<Exchange>& exchange) { handle(exchange); },
            [this](const HttpRequest& request, HttpResponse& response) { decorate(request, response); }),
        context_{.bases = served_bases(std::move(models), options_),
                 .registry = registry,
                 .options = options_,
                 .texts = texts_,
                 .metrics = Metrics(context_.bases, registry),
                 .run_loading =
                     [this](std::function<void()> work) { boost::asio::post(loading_, std::move(work)); },
                 .run_computing =
                     [this](std::function<void()> work) { boost::asio::post(computing_, std::move(work)); }} {
    add_completions_routes(router_, context_);
    add_chat_routes(router_, context_);
    add_models_routes(router_, context_);
    add_tokenize_routes(router_, context_);
    add_lora_routes(router_, context_);
    add_service_routes(router_, context_);
  }

  ~Impl() {
    stop(std::chrono::milliseconds(0));
    join_all();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  uint16_t port() const { return http_.port(); }
  std::string url() const { return http_.url(); }

  void adapter_removed(const std::string& name) { context_.metrics.adapter_unloaded(name); }

  void run() {
    http_.run();
    join_all();
  }

  void stop(std::chrono::milliseconds drain) {
    const std::lock_guard lock(stop_mutex_);
    if (stopper_.joinable() || stopped_) return;
    stopped_ = true;
    stopper_ = std::thread([this, drain] {
      http_.close_listener();
      drain_engines(drain);
      http_.wait_idle(kFlushTime);
      http_.stop();
    });
  }

 private:
  /// All at once, so that none takes new requests while another is waited for.
  void drain_engines(std::chrono::milliseconds timeout) {
    std::vector<std::thread> drains;
    for (const ServedBase& base : context_.bases)
      drains.emplace_back([&engine = base.engine, timeout] { engine.drain(timeout); });
    for (std::thread& drain : drains) drain.join();
  }

  void handle(const std::shared_ptr<Exchange>& exchange) {
    const HttpRequest& request = exchange->request();
    if (std::optional<HttpResponse> preflight = cors_.preflight(request))
      return exchange->respond(std::move(*preflight));
    if (!auth_.allows(request)) return exchange->respond(Authenticator::refusal());
    router_.dispatch(exchange);
  }

  void decorate(const HttpRequest& request, HttpResponse& response) const {
    cors_.decorate(request, response);
    if (!options_.enable_request_id_headers) return;
    const std::string_view given = request.headers.get("x-request-id");
    response.headers.add("x-request-id", given.empty() ? new_request_id() : std::string(given));
  }

  void join_all() {
    {
      const std::lock_guard lock(stop_mutex_);
      if (stopper_.joinable()) stopper_.join();
    }
    loading_.join();
    computing_.join();
  }

  const ServerOptions options_;
  AdapterTexts texts_;
  const Authenticator auth_;
  const Cors cors_;
  Router router_;
  HttpServer http_;
  ServeContext context_;
  boost::asio::thread_pool loading_{1};
  boost::asio::thread_pool computing_{1};
  std::mutex stop_mutex_;
  bool stopped_ = false;
  std::thread stopper_;
};

Server::Server(std::vector<ServedModel> models, AdapterRegistry& registry, const ServerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(models), registry, options)) {}
Server::~Server() = default;
uint16_t Server::port() const {
  return impl_->port();
}
std::string Server::url() const {
  return impl_->url();
}
void Server::adapter_removed(const std::string& name) {
  impl_->adapter_removed(name);
}
void Server::run() {
  impl_->run();
}
void Server::stop(std::chrono::milliseconds drain) {
  impl_->stop(drain);
}

}  // namespace polylora
