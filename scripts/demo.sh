#!/usr/bin/env bash
# The main job in one command on a fresh Debian 12 machine: build, fetch the default model, train two adapters on the data
# in examples/, merge one of them, serve the base with both adapters and the merged model beside it, ask all of them the
# same questions at once and print the answers side by side. Fails unless each adapter changes the base's answers and the
# merged model answers as its adapter does.
#   --keep   leave the server of the base and its adapters running and print its URL
. "$(dirname "$0")/common.sh"

keep=false
for argument in "$@"; do
  case $argument in
    --keep) keep=true ;;
    *) die "unknown argument $argument; the only one is --keep" ;;
  esac
done

scripts/build.sh
scripts/fetch-model.sh
need_packages python3

work=$(mktemp -d)
servers=()
finish() {
  for server in "${servers[@]}"; do
    if kill "$server" 2>/dev/null; then wait "$server" || true; fi
  done
  rm -rf "$work"
}
trap finish EXIT

# Sets `server` and `url`. A session of its own and closed streams let the server outlive the terminal with --keep.
serve() {  # LOG ARGUMENTS…
  local log=$1
  shift
  setsid build/polylora serve "$@" --host 127.0.0.1 --port 0 --dtype bfloat16 --disable-uvicorn-access-log \
    </dev/null >/dev/null 2>"$log" &
  server=$!
  servers+=("$server")
  for _ in $(seq 600); do
    url=$(sed -n 's/^polylora is listening on //p' "$log")
    [ -n "$url" ] && return
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; die "the server did not start"; }
    sleep 0.1
  done
  die "the server did not start within 60 s; its log: $(cat "$log")"
}

for scenario in support_triage shop_voice; do
  say "training the adapter $scenario"
  build/polylora train "examples/$scenario.yaml" model_name_or_path="$default_model" \
    output_dir="$work/adapters/$scenario"
done

say "merging support_triage into the base"
build/polylora export examples/support_triage_merge.yaml model_name_or_path="$default_model" \
  adapter_name_or_path="$work/adapters/support_triage" export_dir="$work/merged"
build/polylora verify "$default_model" "$work/adapters/support_triage" "$work/merged"

say "serving one base with both adapters, and the merged model"
serve "$work/merged.log" "$work/merged" --served-model-name merged_triage
merged_url=$url
serve "$work/log" "$default_model" --served-model-name base --enable-lora --max-lora-rank 16 \
  --lora-modules "$work/adapters"

say "asking all of them at once"
python3 tests/tools/ask.py "base@$url" "support_triage@$url" "merged_triage@$merged_url" "shop_voice@$url" \
  --question "My order is ten days late and I need it on Friday." \
  --question "Are you open on Sundays?" \
  --same support_triage merged_triage --different base support_triage --different base shop_voice \
  --different support_triage shop_voice || die "the answers are not as they should be"

if $keep; then
  trap - EXIT
  disown "$server"
  kill "${servers[0]}"
  cat <<TEXT

The server stays up: $url   (log, adapters and merged model in $work; stop it with: kill $server)
curl $url/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "shop_voice", "messages": [{"role": "user", "content": "Who are you?"}]}'
TEXT
fi
