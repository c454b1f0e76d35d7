#include "tune/data/record_converter.h"

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"

namespace polylora {
namespace {

using Json = nlohmann::json;

constexpr const char* kNoAnswer = "no answer";
constexpr const char* kNoMessages = "no messages";
constexpr const char* kRoleOrder = "roles do not alternate";
constexpr const char* kMessageCount = "the last message has the wrong role";

template <typename... Args>
[[noreturn]] void bad(const RawRecord& record, fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorCode::kDataCorrupt, "{}: row {}: {}", record.file, record.row,
       fmt::format(format, std::forward<Args>(args)...));
}

/// The member, or null when it is absent or null.
const Json* find(const Json& object, const std::string& key) {
  if (key.empty()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// A string member; absent and null are empty.
std::string optional_text(const RawRecord& record, const std::string& column) {
  const Json* value = find(record.value, column);
  if (value == nullptr) return {};
  if (!value->is_string()) bad(record, "column '{}' is not a string", column);
  return value->get<std::string>();
}

void require_column(const RawRecord& record, const std::string& column) {
  if (!record.value.contains(column)) bad(record, "column '{}' is missing", column);
}

bool is_empty(const Json& value) {
  return value.is_null() || value.empty() || value == "";
}

std::string member_text(const RawRecord& record, const Json& object, const std::string& key,
                        const std::string& where) {
  const Json* value = find(object, key);
  if (value == nullptr) bad(record, "{}: '{}' is missing", where, key);
  if (!value->is_string()) bad(record, "{}: '{}' is not a string", where, key);
  return value->get<std::string>();
}

void read_history(const RawRecord& record, const std::string& column, std::vector<Message>& prompt) {
  const Json* history = find(record.value, column);
  if (history == nullptr) return;
  if (!history->is_array()) bad(record, "column '{}' is not a list", column);
  int64_t number = 0;
  for (const Json& pair : *history) {
    ++number;
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      bad(record, "column '{}': entry {} is not a [question, answer] pair of strings", column, number);
    prompt.push_back({Role::kUser, pair[0].get<std::string>()});
    prompt.push_back({Role::kAssistant, pair[1].get<std::string>()});
  }
}

}  // namespace

RecordConverter::RecordConverter(const DatasetInfo& info, Stage stage) : info_(info), stage_(stage) {
  if (stage == Stage::kDpo && !info.ranking) {
    fail(ErrorCode::kInvalidArgument,
         "dataset '{}' has no \"ranking\": true in dataset_info.json, which stage dpo needs", info.name);
  }
  if (stage != Stage::kDpo && info.ranking) {
    fail(ErrorCode::kInvalidArgument, "dataset '{}' ranks answers, which only stage dpo can use", info.name);
  }
  if (stage == Stage::kSft && info.formatting == DatasetFormatting::kAlpaca &&
      info.columns.response.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "dataset '{}' has no columns.response in dataset_info.json, which stage sft needs", info.name);
  }
}

std::string RecordConverter::convert(const RawRecord& record, Conversation& conversation) const {
  if (!record.value.is_object()) bad(record, "not a JSON object");
  refuse_unsupported(record);
  conversation.file = record.file;
  conversation.row = record.row;
  std::string reason = info_.formatting == DatasetFormatting::kAlpaca
                           ? convert_alpaca(record, conversation)
                           : convert_sharegpt(record, conversation);
  if (reason.empty() && stage_ == Stage::kPt) {
    conversation.prompt.resize(1);  // a document; the peer looks no further either
    conversation.answers.clear();
  }
  return reason;
}

void RecordConverter::refuse_unsupported(const RawRecord& record) const {
  const DatasetColumns& c = info_.columns;
  for (const std::string* column : {&c.tools, &c.images, &c.videos, &c.audios}) {
    const Json* value = find(record.value, *column);
    if (value != nullptr && !is_empty(*value)) {
      fail(ErrorCode::kUnsupported,
           "{}: row {}: column '{}' is not empty, but tools and media are not implemented; remove the record "
           "or "
           "the column's name from dataset_info.json",
           record.file, record.row, *column);
    }
  }
  if (const Json* tag = find(record.value, c.kto_tag); tag != nullptr && tag->is_boolean()) {
    fail(ErrorCode::kUnsupported,
         "{}: row {}: column '{}' is for stage kto; remove its name from dataset_info.json", record.file,
         record.row, c.kto_tag);
  }
}

std::string RecordConverter::convert_alpaca(const RawRecord& record, Conversation& conversation) const {
  const DatasetColumns& c = info_.columns;
  read_history(record, c.history, conversation.prompt);
  if (!c.prompt.empty()) require_column(record, c.prompt);
  const std::string prompt = optional_text(record, c.prompt);
  const std::string query = optional_text(record, c.query);
  const std::string between = prompt.empty() || query.empty() ? "" : "\n";
  conversation.prompt.push_back({Role::kUser, prompt + between + query});
  conversation.system = optional_text(record, c.system);
  if (stage_ == Stage::kPt) return {};
  if (stage_ == Stage::kDpo) return take_ranked_answers(record, conversation);
  require_column(record, c.response);
  if (find(record.value, c.response) == nullptr) return kNoAnswer;
  conversation.answers = {optional_text(record, c.response)};
  return {};
}

std::string RecordConverter::convert_sharegpt(const RawRecord& record, Conversation& conversation) const {
  const std::string& column = info_.columns.messages;
  require_column(record, column);
  const Json& messages = record.value[column];
  if (messages.is_null()) return kNoMessages;
  if (!messages.is_array()) bad(record, "column '{}' is not a list", column);
  conversation.system = optional_text(record, info_.columns.system);
  const std::string reason = split_messages(messages, record, conversation);
  if (!reason.empty()) return reason;
  std::vector<Message>& prompt = conversation.prompt;
  if (prompt.empty()) return kNoMessages;
  const bool ends_with_answer = prompt.size() % 2 == 0;
  if (stage_ == Stage::kDpo) {
    return ends_with_answer ? kMessageCount : take_ranked_answers(record, conversation);
  }
  if (!ends_with_answer) return kMessageCount;
  conversation.answers = {std::move(prompt.back().content)};
  prompt.pop_back();
  return {};
}

/// All messages but a leading system message into conversation.prompt.
std::string RecordConverter::split_messages(const Json& messages, const RawRecord& record,
                                            Conversation& conversation) const {
  const DatasetTags& t = info_.tags;
  int64_t number = 0;
  for (const Json& message : messages) {
    const std::string where = fmt::format("column '{}': message {}", info_.columns.messages, ++number);
    if (!message.is_object()) bad(record, "{} is not an object", where);
    const std::string tag = member_text(record, message, t.role_tag, where);
    if (number == 1 && !t.system_tag.empty() && tag == t.system_tag) {
      conversation.system = member_text(record, message, t.content_tag, where);
      continue;
    }
    if (!t.function_tag.empty() && tag == t.function_tag) {
      fail(ErrorCode::kUnsupported,
           "{}: row {}: {} is a tool call ('{}'), which is not implemented; remove the record", record.file,
           record.row, where, tag);
    }
    const bool answers = conversation.prompt.size() % 2 == 1;
    Role role = Role::kAssistant;
    if (!answers && tag == t.user_tag) {
      role = Role::kUser;
    } else if (!answers && !t.observation_tag.empty() && tag == t.observation_tag) {
      role = Role::kObservation;
    } else if (!answers || tag != t.assistant_tag) {
      return kRoleOrder;
    }
    conversation.prompt.push_back({role, member_text(record, message, t.content_tag, where)});
  }
  return {};
}

std::string RecordConverter::take_ranked_answers(const RawRecord& record, Conversation& conversation) const {
  for (const std::string* column : {&info_.columns.chosen, &info_.columns.rejected}) {
    require_column(record, *column);
    const Json* value = find(record.value, *column);
    if (value == nullptr) return kNoAnswer;
    if (info_.formatting == DatasetFormatting::kAlpaca) {
      conversation.answers.push_back(optional_text(record, *column));
      continue;
    }
    const std::string where = fmt::format("column '{}'", *column);
    if (!value->is_object()) bad(record, "{} is not a message object", where);
    if (member_text(record, *value, info_.tags.role_tag, where) != info_.tags.assistant_tag)
      bad(record, "{}: '{}' is not '{}'", where, info_.tags.role_tag, info_.tags.assistant_tag);
    conversation.answers.push_back(member_text(record, *value, info_.tags.content_tag, where));
  }
  return {};
}

void check_columns_occur(const std::vector<RawRecord>& records, const DatasetInfo& info) {
  if (!info.columns_given || records.empty()) return;
  const DatasetColumns& c = info.columns;
  std::vector<const std::string*> columns = {&c.system, &c.chosen, &c.rejected};
  if (info.formatting == DatasetFormatting::kAlpaca)
    columns.insert(columns.end(), {&c.prompt, &c.query, &c.response, &c.history});
  else
    columns.push_back(&c.messages);
  for (const std::string* column : columns) {
    const bool occurs = column->empty() || std::any_of(records.begin(), records.end(), [&](const auto& r) {
                          return r.value.is_object() && r.value.contains(*column);
                        });
    if (occurs) continue;
    std::vector<std::string> present;
    if (records[0].value.is_object()) {
      for (const auto& [key, value] : records[0].value.items()) present.push_back(key);
    }
    fail(ErrorCode::kInvalidArgument,
         "dataset '{}': no record has the column '{}' that dataset_info.json names{}", info.name, *column,
         suggestion(*column, present));
  }
}

}  // namespace polylora
