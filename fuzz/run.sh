#!/usr/bin/env bash
# Fuzzes every target for so many seconds, or those that are named: `fuzz/run.sh SECONDS [TARGET …]`. It begins with the
# committed corpus and what earlier runs on this machine have found (`fuzz/found`); an input that breaks a promise is
# left in `fuzz/found/TARGET/broken-…`, and `fuzz/run.sh 0 TARGET FILE` runs it again. Targets run side by side, one on
# each processor.
#
# The modules have no memory of their own to overrun, so there is no sanitizer; and without one the stable compiler
# builds the instruments, and needs no more than libFuzzer itself. `cargo +nightly fuzz run TARGET` works all the same.
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:?how many seconds?}"
shift
mapfile -t all < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)
triple="$(rustc -vV | sed -n 's/^host: //p')"

# what `cargo fuzz build --sanitizer none` says; with `--target` the flags don't reach build scripts
RUSTFLAGS='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1' \
  cargo build --quiet --locked --release --target "$triple"
built="target/$triple/release"

if [ "$seconds" = 0 ]; then
  exec "$built/$1" "$2"
fi

# one target, from its corpus on
fuzz() {
  local target="$1" found="found/$1"
  mkdir -p "$found"
  if ! "$built/$target" -max_total_time="$seconds" -max_len=40000 -timeout=10 -rss_limit_mb=1024 -dict=words.txt -verbosity=1 \
    -artifact_prefix="$found/broken-" "$found" "corpus/$target" >"$found/log.txt" 2>&1; then
    echo "fuzz/$found/log.txt:" >&2
    tail -n 40 "$found/log.txt" >&2
    return 1
  fi
  echo "$target: $(grep -E '^(Done|#.*DONE)' "$found/log.txt" | tr '\n' ' ')"
}

export -f fuzz
export built seconds
printf '%s\n' "${@:-${all[@]}}" | xargs -P "$(nproc)" -I{} bash -c 'fuzz {}'
