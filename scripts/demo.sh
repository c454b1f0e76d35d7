#!/usr/bin/env bash
# The main job in one command on a fresh Debian 12 machine: build, fetch the default model, serve it with two adapters,
# ask the base and both adapters the same question at once, print the answers side by side.
#   --keep   leave the server running and print its URL
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
server=
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null && wait "$server" || true; fi
  rm -rf "$work"
}
trap finish EXIT

say "writing two small synthetic adapters"
python3 tests/tools/make_adapter.py "$work/adapters/amber" --seed 3
python3 tests/tools/make_adapter.py "$work/adapters/cobalt" --seed 8

say "serving one base with both"
build/polylora serve "$default_model" --host 127.0.0.1 --port 0 --served-model-name base --enable-lora \
  --lora-modules "$work/adapters" --disable-uvicorn-access-log 2>"$work/log" &
server=$!
for _ in $(seq 300); do
  url=$(sed -n 's/^polylora is listening on //p' "$work/log")
  [ -n "$url" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; die "the server did not start"; }
  sleep 0.1
done
[ -n "$url" ] || die "the server did not start within 30 s"
cat "$work/log" >&2

say "asking all three at once"
python3 tests/tools/ask.py "$url" base amber cobalt --question "What is the capital of France, and what is it known for?"

if $keep; then
  kept=$work
  trap - EXIT
  disown "$server"
  cat <<TEXT

The server stays up: $url   (log and adapters in $kept; stop it with: kill $server)
curl $url/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "amber", "messages": [{"role": "user", "content": "Who are you?"}]}'
TEXT
fi
