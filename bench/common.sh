# shellcheck shell=bash disable=SC2034,SC2154
# bench/common.sh: what the scripts share. Sourced by them, with these defined:
#
#   here                 this folder
#   name                 the script's, for messages
#   runs, peers, only    the defaults
#   quick                shrinks the measurement for --quick
#   known PEER           why a peer cannot be measured, beyond what `missing` sees: prints it; nothing if it can
#   serve PEER           becomes that peer's server, on $port
#   started PEER         what else is to be done when it has been started
set -u

build=$here/build
results=$build/results.tsv
log=$build/server.log
wire=
last_port=18200
port=           # of the server
server=         # the process that is started and stopped
measured=       # the process whose CPU time and memory count
publisher=      # the process that publishes in the server's stead, where it needs one
publisher_port=
beside=()       # NAME=PID of processes on the client's core whose load is told, too

cc=${CC:-cc} lua=${LUA:-lua5.4} go=${GO:-go} node=${NODE:-node} nginx=${NGINX:-nginx}
server_core=${SERVER_CORE:-0} client_core=${CLIENT_CORE:-1}

note() { echo "$*" >&2; }
die() { note "$name: $*"; exit 1; }
there() { command -v "$1" >/dev/null; }
among() { case " $2 " in *" $1 "*) ;; *) return 1 ;; esac; } # word list

options() { # arg...: the command line
  while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick ;;
    --runs) runs=${2:?"--runs takes a number"}; shift ;;
    --peers) peers=${2:?"--peers takes a list"}; shift ;;
    --only) only=${2:?"--only takes a list"}; shift ;;
    --wire) wire=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$here/${name#bench/}"; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
    esac
    shift
  done
}

# ---- what is there ----

compile() { # program source...: into $build
  local program=$1
  shift
  $cc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wpedantic -o "$build/$program" "${@/#/$here/}" ||
    die "$program does not build"
}

# Why a peer cannot be measured; nothing if it can.
missing() {
  case $1 in
  floor) ;;
  eventstream*)
    if ! there "$lua"; then echo "no $lua"
    elif ! "$lua" -e 'require "eventstream"' 2>>"$log"; then echo "not built: run make"
    else known "$1"; fi ;;
  go*)
    if ! there "$go"; then echo "no $go"; else known "$1"; fi ;;
  node) if there "$node"; then known "$1"; else echo "no $node"; fi ;;
  *) known "$1" ;;
  esac
}

build_go() { # program source: says why not
  GO111MODULE=off "$go" build -o "$build/$1" "$here/$2" 2>>"$log" || echo "does not build"
}

prepare() { # streams: builds the client, finds the peers, and looks at what the machine allows
  mkdir -p "$build" || exit 1
  exec 9>"$build/lock"
  if there flock; then flock -n 9 || die "another measurement is under way"; fi
  : >"$results"
  : >"$log"
  compile client client.c command.c streams.c ask.c ledger.c reader.c proc.c

  LUA_PATH="$here/../lua/?.lua;$here/../lua/?/init.lua;${LUA_PATH:-;}"
  LUA_CPATH="$here/../build/$(basename "$lua")/?.so;${LUA_CPATH:-;}"
  export LUA_PATH LUA_CPATH

  local peer reason hard
  present=
  for peer in $peers; do
    reason=$(missing "$peer")
    if [ -z "$reason" ]; then present="$present $peer"; else note "left out: $peer ($reason)"; fi
  done
  [ -n "$present" ] || die "nothing to measure"

  hard=$(ulimit -Hn)
  if [ "$hard" = unlimited ] || [ "$hard" -gt 20000 ]; then hard=20000; fi
  ulimit -n "$hard" || die "ulimit -n $hard is refused"
  [ "$hard" -ge $(($1 + 100)) ] || die "$1 streams do not fit into $hard descriptors"

  pinned=
  if there taskset && [ "$(nproc)" -ge 2 ]; then
    pinned=1
  else
    note "nothing is pinned (that takes taskset and two cores): do not quote this"
  fi
}

# ---- one server, one client ----

on() { # core command...: becomes the command, on that core
  local core=$1
  shift
  if [ -n "$pinned" ]; then exec taskset -c "$core" "$@"; else exec "$@"; fi
}

free_port() { # moves $last_port on to one that is free
  last_port=$((last_port + 1))
  while (exec 3<>"/dev/tcp/127.0.0.1/$last_port") 2>/dev/null; do last_port=$((last_port + 1)); done
}

start() { # peer
  free_port
  port=$last_port
  serve "$1" >>"$log" 2>&1 &
  server=$!
  measured=$server
  started "$1"
}

listens() { # port: waits until something does, for five seconds
  for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
    sleep 0.05
  done
  return 1
}

end() { # pid: with TERM, and after five seconds with KILL
  kill -TERM "$1" 2>/dev/null
  for _ in $(seq 50); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null
  wait "$1" 2>/dev/null
}

stop() {
  [ -z "$publisher" ] || end "$publisher"
  [ -z "$server" ] || end "$server"
  publisher='' publisher_port='' server='' measured='' beside=()
}
trap stop EXIT
trap 'exit 130' INT TERM

# ---- nginx ----

run_nginx() { # conf: becomes nginx; a conf of this folder, with @...@ filled in. Through Redis where $redis_port is set
  mkdir -p "$build/nginx"
  sed -e "s|@PORT@|$port|; s|@FOLDER@|$build/nginx|; s|@MODULE@|${module-}|; s|@MODULES@|${modules-}|; s|@HERE@|$here|g; s|@CHUNKED@|${chunked-on}|" \
    -e "${redis_port:+s|#redis ||; s|@REDIS@|$redis_port|}" \
    "$here/$1" >"$build/nginx/$1"
  on "$server_core" "$nginx" -e stderr -p "$build/nginx" -c "$build/nginx/$1"
}

await_worker() { # the worker is what is measured
  listens "$port" || die "nginx does not start: see $log"
  local workers=
  for _ in $(seq 100); do # nginx listens before its worker is there
    workers=$(cat "/proc/$server/task/$server/children")
    [ -z "$workers" ] || break
    sleep 0.05
  done
  measured=${workers%% *}
  [ -n "$measured" ] || die "nginx has no worker: see $log"
}

start_publisher() { # which publishes to nchan, from the client's core
  free_port
  publisher_port=$last_port
  on "$client_core" "$build/publisher" "$publisher_port" "$port" >>"$log" 2>&1 &
  publisher=$!
  listens "$publisher_port" || die "the publisher does not start: see $log"
}

# ---- one measurement ----

measure() { # part peer client-options...
  local part=$1 peer=$2 line
  shift 2
  start "$peer"
  line=$(on "$client_core" "$build/client" --port "$port" --pid "$measured" --limit 90 \
    ${publisher:+--start-port "$publisher_port"} "${beside[@]/#/--beside=}" "$@" 2>>"$log")
  stop
  if [ -z "$line" ]; then note "  no result: see $log"; return; fi
  printf '%s\t%s\t%s\n' "$part" "$peer" "$line" >>"$results"
}

report() { # what was measured: the tables
  echo
  echo "$1; ${pinned:+pinned; }medians of $runs"
  echo "$(nproc) cores, Linux $(uname -r), load at the end $(cut -d' ' -f1 /proc/loadavg)"
  case $present in *go*) "$go" version ;; esac
  case $present in *node*) echo "node $("$node" --version)" ;; esac
  case $present in *nchan*) "$nginx" -v 2>&1 ;; esac
  case $present in *redis*) redis-server --version ;; esac
  "$lua" "$here/table.lua" "$results"
}
